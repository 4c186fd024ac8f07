"""Texts with pictures between them: documents, clips of videos, windows of tokens, labels, tar shards.

Never here: one text for one picture (`data/image_text`), prompts that a model is judged by
(`evaluation/image_text`).
"""
