"""Documents: their sentences and neighbours, statistics of their words.

Never here: single sentences or pairs without a document.
"""
