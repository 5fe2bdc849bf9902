"""How blocks and batches travel."""
