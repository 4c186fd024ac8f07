"""Losses on pairs with weights: weights computed in tiles, focal sigmoid."""
