"""Stale results that count again: today's code gives the same numbers."""
