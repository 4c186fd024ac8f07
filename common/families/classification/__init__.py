"""Text classification with any encoder of transformers: full, LoRA or prefix tuning, small data.

Never here: a project's loss, augmentation policy or pseudo labels.
"""
