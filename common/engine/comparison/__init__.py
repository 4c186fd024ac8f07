"""Comparisons: the language of claims, runs of arms and baselines, verdicts, planning."""
