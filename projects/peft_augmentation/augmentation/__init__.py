"""Easy data augmentation, and stored copies of texts."""
