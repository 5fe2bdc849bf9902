"""Worlds: 3D navigation and adapters, all speaking the records of envs.specs."""
