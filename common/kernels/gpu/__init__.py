"""Triton kernels, their launch, tile table and ahead-of-time checks; imported on demand."""
