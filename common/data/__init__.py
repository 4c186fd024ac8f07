"""Data sets, samplers, transforms and tokenizers; every batch is a function of seeds and keys."""
