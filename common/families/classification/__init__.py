"""Text classification with any encoder of transformers: full, LoRA or prefix tuning, small data; GLUE.

Never here: a project's loss, augmentation policy or choice of training strategies.
"""
