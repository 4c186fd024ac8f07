"""Weighted words as vectors: an inverted index, files of impact indexes, hybrid search.

Never here: how words get their weights (`encoders/text`).
"""
