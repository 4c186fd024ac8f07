"""Transformer towers, pooling, prompts, drophead, latent attention, masked-LM head.

Never here: text augmentation (`data/text`).
"""
