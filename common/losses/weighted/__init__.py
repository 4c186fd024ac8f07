"""Contrast whose positives have weights that are made in tiles and forgotten.

Never here: weights that a matrix holds (`losses/functional/soft.py`), data.
"""
