"""Labelled pairs of sentences: GLUE's pair tasks, SNLI, bundled and own sets, and their batches.

Never here: losses and metrics of pair tasks (`losses/auxiliary`, `evaluation/text`).
"""
