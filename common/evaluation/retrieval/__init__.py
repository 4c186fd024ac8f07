"""Ranking metrics, BM25, indexes, mining, cross-modal recall."""
