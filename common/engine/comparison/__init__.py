"""Comparisons: the language of claims, runs of arms and baselines, verdicts, planning.

Never here: how a run trains (`engine/run.py`).
"""
