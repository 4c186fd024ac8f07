"""Contrastive losses: modules that hold options, gathering and temperature.

The equations are pure functions in `common.losses.functional`; the sums over pairs run in
`common.kernels`. `cached_encode` gives any of them a gradient cache.
"""
