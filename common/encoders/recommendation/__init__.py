"""Encoders of item sequences that score all items.

Never here: augmentation of sequences (`data/recommendation`).
"""
