"""Driving in CARLA: the Gymnasium environment on its client, and a headless server for machines without Unreal."""
