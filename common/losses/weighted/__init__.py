"""Losses on pairs that have weights: positives weighted in tiles that are made and forgotten, focal sigmoid.

Never here: weights that a matrix holds (`losses/functional/soft.py`), data.
"""
