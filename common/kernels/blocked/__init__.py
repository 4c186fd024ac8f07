"""Tiles in plain torch operations, recomputed in the backward: CPU and any other device.

Never here: device-specific code.
"""
