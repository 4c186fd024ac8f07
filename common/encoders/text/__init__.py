"""Transformer encoders of texts: pooling, prompts, heads, length groups."""
