"""3-D navigation in a MuJoCo arena: task, model, environments and renderers."""
