"""Speech towers and an attention decoder with beam search.

Never here: reading audio (`data/speech`).
"""
