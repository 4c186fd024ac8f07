"""Queries with positives and negatives: unified records, public sets with their instructions, batches.

Never here: scoring and search (`evaluation/retrieval`).
"""
