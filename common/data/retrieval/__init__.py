"""Queries with positives and negatives: unified records, public sets, batches."""
