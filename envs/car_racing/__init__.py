"""CarRacing-v3: task configuration, and the simulators of Gymnasium and EnvPool behind it."""
