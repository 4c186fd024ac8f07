"""Attention from sentences to the frames of a clip, local or global, and recurrent nets over sentences.

Never here: text towers (`encoders/text`), readers and batches (`data/video`).
"""
