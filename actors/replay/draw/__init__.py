"""Which sequences a sample takes."""
