"""Recommendation: ranks among all items, hit rate and NDCG, baselines that count.

Never here: reading and splitting logs (`data/recommendation`).
"""
