"""Fused pairwise contrastive losses: one operation, three back ends (dense, blocked, Triton).

See docs/kernels.md for the formulation and how to add a loss.
"""
