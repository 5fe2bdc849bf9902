"""One file per way of combining model, losses and policy."""
