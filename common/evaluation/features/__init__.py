"""Metrics of frozen features: kNN, linear probe, geometry, whitening."""
