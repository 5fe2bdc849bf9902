"""A headless server that speaks the protocol of CARLA 0.9.16. What runs on it is an integration result, never a CARLA result."""
