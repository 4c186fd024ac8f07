"""Metrics of generated text: repetition, overlap, MAUVE, votes of raters."""
