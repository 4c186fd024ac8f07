"""The Triton back end: the functions that `problem` lists, and the shapes of what it keeps."""

from common.kernels.gpu.launch import unsupported
from common.kernels.gpu.run_pairs import backward, forward, kept_shapes
from common.kernels.gpu.run_rows import fuses_rows, info_nce_rows
from common.kernels.gpu.run_softplus import softplus_backward, softplus_forward, softplus_fused

__all__ = [
    "backward", "forward", "fuses_rows", "info_nce_rows", "kept_shapes", "softplus_backward",
    "softplus_forward", "softplus_fused", "unsupported",
]  # fmt: skip
