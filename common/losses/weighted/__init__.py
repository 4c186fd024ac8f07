"""Losses with a weight for each pair: weights computed in tiles, focal sigmoid."""
