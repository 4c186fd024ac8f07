"""Training sets with instructions, and batches that come from one set each."""
