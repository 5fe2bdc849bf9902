"""A headless server of the protocol of CARLA 0.9.16: what runs on it is an integration result, never a CARLA result."""
