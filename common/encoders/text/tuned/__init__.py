"""Classifiers of texts whose encoder is tuned in full, by LoRA or by a prefix in every layer.

Never here: losses and augmentation (`losses/auxiliary`, `data/text/labelled`), cross-encoders that
rank.
"""
