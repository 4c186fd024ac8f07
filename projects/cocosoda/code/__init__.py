"""Source code: token types of six languages, functions of a folder, augmentations, search sets."""
