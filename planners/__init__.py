"""Choosing actions by a model: sampling planners, risk and scoring."""
