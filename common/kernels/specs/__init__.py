"""Which pairs count, and with what weight."""
