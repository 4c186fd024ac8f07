"""Source code: token types of six languages, functions of a folder, augmentations, search sets.

Never here: scoring and search (`evaluation/retrieval`), plain text (`data/text`).
"""
