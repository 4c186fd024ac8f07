"""Triton kernels, their launch, tile table and ahead-of-time checks; imported on demand.

Never here: anything that the CPU path imports.
"""
