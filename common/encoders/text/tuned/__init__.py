"""Text classifiers whose encoder is tuned in full, by LoRA or by prefixes."""
