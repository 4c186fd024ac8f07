"""Contrastive losses: modules that hold options, gathering and temperature.

The equations are pure functions in `functional`; the sums over pairs run in
`kernels`. `cached_encode` gives any of them a gradient cache.
"""
