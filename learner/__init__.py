"""Learning: models, losses, algorithms, optimisation, data-parallel ranks and checkpoints."""
