"""Encoders that differ from a BERT: disentangled attention, replaced-token detection, dialogue embeddings.

Never here: their losses (`losses/auxiliary`), batches (`data/text`).
"""
