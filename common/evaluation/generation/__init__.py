"""Generated text: repetition, overlap, MAUVE, votes of raters.

Never here: decoding itself (`decoding`).
"""
