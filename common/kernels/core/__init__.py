"""The problem that all back ends solve, its float64 reference, symmetry, linear terms."""
