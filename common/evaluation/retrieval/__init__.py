"""Ranking metrics, BM25, indexes, mining, cross-modal recall, identification.

Never here: reading the sets (`data/retrieval`).
"""
