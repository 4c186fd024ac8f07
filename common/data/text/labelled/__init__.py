"""Texts or pairs of texts with a class: GLUE, SuperGLUE, requests, own files."""
