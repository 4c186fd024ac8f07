"""Frozen features: kNN, linear probe, few-shot, geometry, whitening afterwards.

Never here: how features are trained.
"""
