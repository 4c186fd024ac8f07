"""Answers to multiple-choice questions on clips, and spans in time: accuracy by type and level, IoU, ASA.

Never here: readers of the sets (`data/video`), generated text (`evaluation/generation`).
"""
