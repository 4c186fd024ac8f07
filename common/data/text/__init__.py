"""Text sets, batches of several views, masking, augmentation, tokenizers, books."""
