"""Rows of token ids: bins of equal length, streams without borders of texts, noise.

Never here: lexical features and changes of strings.
"""
