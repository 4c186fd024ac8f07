"""Which pairs count and with what weight: masks, weights, their algebra.

Never here: temperatures, reductions.
"""
