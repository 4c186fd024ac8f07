"""Image-text projects: pairs with several texts, two towers, zero-shot and retrieval evaluation.

Never here: a project's loss or text augmentation.
"""
