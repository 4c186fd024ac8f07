"""Texts with images between them: documents, clips of videos, token windows, labels, tar shards."""
