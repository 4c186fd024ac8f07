"""Image sources, seeded transforms, two and more views, class pairs, imbalanced subsets.

Never here: captions, evaluation protocols.
"""
