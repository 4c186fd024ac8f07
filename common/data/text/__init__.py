"""Text sets, k-view batches by length, masking, augmentation, tokenizers, books.

Never here: pooling, heads (`encoders/text`).
"""
