"""Tiles in plain torch operations, recomputed in the backward: any device."""
