"""Language models as encoders: causal models, LoRA, weights of next tokens."""
