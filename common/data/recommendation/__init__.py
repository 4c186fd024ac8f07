"""Sequences of items: readers of interaction logs, k-core, leave-one-out, all prefixes, augmentations.

Never here: ranking and its baselines (`evaluation/recommendation`).
"""
