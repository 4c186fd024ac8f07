"""Which library computes float32 matrix products on a CPU.

PyTorch sends them to its vendor library (MKL), which on processors of another vendor leaves up to
half of the arithmetic unused. oneDNN does not, and PyTorch reaches it through the setting that
*allows* reduced precision (``torch.set_float32_matmul_precision("medium")``). On a CPU only AMX
tiles make use of that permission; elsewhere oneDNN computes the products in float32 all the same,
which a self-test against float64 proves before the setting is kept. A GPU would make use of it as
well, so a process that sees one is left alone.
"""

import functools
import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from common.config import UserError

SWITCH = "CONTRASTIVE_CPU_GEMM"
Library = Literal["vendor", "onednn"]
# (M, K, N): square, thin, wide and a long sum; each above the size from which PyTorch asks oneDNN
_SHAPES = ((256, 256, 256), (64, 512, 40), (48, 96, 1024), (32, 4096, 32))
_TOLERANCE = 2e-6  # of the largest entry; float32 stays below 1e-6, bfloat16 has about 4e-3


def choose_cpu_gemm() -> Library:
    """Set the library of float32 products from the environment variable CONTRASTIVE_CPU_GEMM.

    ``auto`` (the default) takes oneDNN on x86 processors that are not Intel's, have AVX-512 without
    its bfloat16 products and no AMX tiles, where no GPU is seen and the self-test passes;
    ``vendor`` leaves PyTorch as it is; ``onednn`` insists.

    Returns:
        What is used from now on, in the whole process.

    Raises:
        UserError: another value, or ``onednn`` where products would not stay float32.
    """
    asked = os.environ.get(SWITCH, "auto")
    if asked not in ("auto", "vendor", "onednn"):
        raise UserError(f"{SWITCH}={asked}: use auto, vendor or onednn")
    if asked == "vendor" or (asked == "auto" and not _faster_here()):
        _allow_onednn(False)
        return "vendor"
    if _stays_float32():
        _allow_onednn(True)
        return "onednn"
    _allow_onednn(False)
    if asked == "onednn":
        raise UserError(
            f"{SWITCH}=onednn: oneDNN does not keep float32 products float32 on this processor; "
            "use auto or vendor"
        )
    return "vendor"


def _allow_onednn(allow: bool) -> None:
    if allow or torch.get_float32_matmul_precision() == "medium":
        torch.set_float32_matmul_precision("medium" if allow else "highest")


@functools.cache
def _faster_here() -> bool:
    found = torch.cpu.get_capabilities()
    amx = any(found.get(name) for name in ("amx_bf16", "amx_fp16", "amx_int8", "amx_tile"))
    # with AVX512-BF16 (Zen 4) the vendor library is as fast: LaCLIP made 50 steps in 10 s, 44 with
    # oneDNN
    plain = bool(found.get("avx512_f")) and not found.get("avx512_bf16") and not amx
    x86 = plain and not _is_intel()
    return x86 and not torch.cuda.is_available()


def _is_intel() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True  # unknown: leave PyTorch as it is
    return "GenuineIntel" in text


@functools.cache
def _stays_float32() -> bool:
    """Whether products through oneDNN agree with float64 to float32's precision."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or torch.cuda.is_available():
        return False
    _allow_onednn(True)
    try:
        return max(_product_error(*shape) for shape in _SHAPES) < _TOLERANCE
    finally:
        _allow_onednn(False)


def _product_error(rows: int, inner: int, columns: int) -> float:
    """Largest error of plain, transposed and batched products, relative to the largest entry."""
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(2, rows, inner, generator=rng)
    b = torch.randn(2, inner, columns, generator=rng)
    bias = torch.randn(columns, generator=rng)
    exact = a.double() @ b.double()

    def error(found: Tensor, expected: Tensor) -> float:
        return float((found.double() - expected).abs().max() / expected.abs().max())

    linear = torch.nn.functional.linear(a[0], b[0].T.contiguous(), bias)
    return max(
        error(a[0] @ b[0], exact[0]),
        error(torch.bmm(a, b), exact),
        error(linear, exact[0] + bias.double()),
    )
