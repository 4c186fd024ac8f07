"""Dialogues: turns with roles, semantic trees of their annotations, readers and batches.

Never here: encoders (`encoders/text`), metrics of dialogue tasks (`evaluation/text`).
"""
