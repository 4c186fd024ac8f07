"""Text sets, k-view batches by length, masking, augmentation, tokenizers, rewriting, books.

Never here: pooling, heads (`encoders/text`).
"""
