"""Sensors of the stand-in server."""
