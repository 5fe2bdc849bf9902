"""Driving in CARLA: the Gymnasium environment on the public client, and a headless server for machines without Unreal."""
