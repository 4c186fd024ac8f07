"""Decoding from any local causal language model: policies, contrastive methods, seeded streams.

Never here: training, contrastive losses.
"""
