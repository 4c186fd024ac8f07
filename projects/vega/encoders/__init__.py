"""Encoders of VEGA: replaced-token detection, disentangled attention, perturbed embeddings."""
