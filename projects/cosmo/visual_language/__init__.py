"""Language models that see images: Perceiver resampler, gated cross-attention and its injection."""
