"""Texts or pairs of texts with a class: GLUE, SuperGLUE, requests, own files.

Small subsets, EDA, copies.

Never here: pairs for two towers (`data/text/pairs`), losses and metrics of classes.
"""
