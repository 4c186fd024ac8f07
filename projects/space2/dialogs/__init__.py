"""Dialogues: turns with roles, semantic trees of their annotations, readers and batches."""
