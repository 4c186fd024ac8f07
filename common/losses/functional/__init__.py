"""Contrastive losses as pure functions: local tensors in, `LossOutput` or a scalar out.

Never here: state, gathering modules, options of a config.
"""
