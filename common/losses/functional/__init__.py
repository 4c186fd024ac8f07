"""Contrastive losses as pure functions: local tensors in, `LossOutput` or a scalar out."""
