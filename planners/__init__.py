"""Choosing actions by a model: sampling planners, objectives and scoring."""
