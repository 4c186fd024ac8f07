"""Stale results that count again: today's code gives the same numbers.

Never here: what a comparison runs and how it is judged (`engine/comparison`).
"""
