"""The problem that all back ends solve, its float64 reference, symmetry and linear terms.

Never here: tiling.
"""
