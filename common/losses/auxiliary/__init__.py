"""Losses beside the contrast: tokens, detectors, teachers, class vectors, dependence of two codes.

Never here: losses on pairs of embeddings, which are `common.losses.functional`.
"""
