"""The run: typed configuration, presets, command line, wiring, supervision and metrics."""
