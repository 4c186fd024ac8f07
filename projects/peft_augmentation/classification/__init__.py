"""Text classification with any encoder of transformers: full, LoRA or prefix tuning, small data."""
