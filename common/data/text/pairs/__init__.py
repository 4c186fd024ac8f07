"""Labelled pairs of sentences: GLUE's pair tasks, SNLI, bundled and own sets."""
