"""Producers and keepers of experience: rollout, planning, evaluation and replay."""
