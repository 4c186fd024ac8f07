"""Contrastive losses as modules that hold options and gather over processes.

The equations are pure functions in `functional`, and `kernels` computes the sums over pairs.
`cached_encode` gives any loss a gradient cache.
"""
