"""Zero-shot classification and the image sets that it is measured on.

Never here: cross-modal recall (`evaluation/retrieval`).
"""
