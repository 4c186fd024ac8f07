"""Ahead-of-time compilation of the Triton kernels and what the compiled code needs."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from common.kernels.gpu.tile_table import TileConfig

SHARED_LIMIT = {
    80: 99 * 1024,
    90: 227 * 1024,
}  # 80: of the cards of 8.6 and 8.9, the least of major 8
_compiled: dict[str, "Resources"] = {}  # several variants have a kernel in common


@dataclass(frozen=True)
class Resources:
    registers: int
    stack: int
    shared: int
    ptx: str


def find_tool(name: str) -> str | None:
    """Path of a CUDA tool bundled with Triton, or None."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return str(path) if path.exists() else None


def compile_kernel(
    kernel: Any,
    flags: dict[str, Any],
    operand: str,
    arch: int,
    tile: TileConfig,
    absent: tuple[str, ...] = (),
    sides: tuple[str, ...] = (),
    grad_dtype: str = "bf16",
    ragged: bool = False,
) -> Resources:
    """Compile `kernel` for sm_`arch` with aligned pointers and strides divisible by 16.

    Args:
        flags: constexpr arguments by name. operand: element type of q and k ("bf16", "fp16", ...).
        absent: pointer arguments passed as None. sides: types of the side tensors.
        ragged: N and M are any numbers (strides stay divisible).
    """
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attrs: dict[tuple[int, ...], list[list[Any]]] = {}
    divisible = [["tt.divisibility", 16]]
    sizes = {"BM": tile.rows, "BN": tile.cols, "BD": tile.depth}
    for index, name in enumerate(kernel.arg_names):
        if name in flags or name in sizes or name in absent:
            signature[name] = "constexpr"
            constants[(index,)] = flags.get(name, sizes.get(name))
        elif name == "sides":
            signature[name] = sides
            attrs.update({(index, i): divisible for i in range(len(sides))})
        elif name in ("q", "k") and flags.get("TMA"):
            rows = tile.rows if name == "q" else tile.cols
            signature[name] = f"tensordesc<{operand}[{rows}, {tile.depth}]>"
        elif name in ("D", "sq", "sk", "sg", "skept", "split_cols") or (
            name in ("N", "M") and not ragged
        ):
            signature[name] = "i32"
            attrs[(index,)] = divisible
        elif name in ("N", "M", "row_start", "col_start"):
            signature[name] = "i32"
        else:
            types = {"q": operand, "k": operand, "g": grad_dtype, "kept": grad_dtype}
            signature[name] = "*" + types.get(name, "fp32")
            attrs[(index,)] = divisible
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    key = repr((kernel.__name__, signature, constants, sorted(attrs), arch, options))
    if key not in _compiled:
        _compiled[key] = _compile(ASTSource(kernel, signature, constants, attrs), arch, options)
    return _compiled[key]


def _compile(source: ASTSource, arch: int, options: dict[str, Any]) -> Resources:
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    registers, stack = _resource_usage(compiled.asm["cubin"])
    return Resources(registers, stack, compiled.metadata.shared, compiled.asm["ptx"])


def _resource_usage(cubin: bytes) -> tuple[int, int]:
    """Registers per thread and stack bytes (local memory, spills) from the cubin."""
    tool = find_tool("cuobjdump")
    assert tool is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as handle:
        handle.write(cubin)
        handle.flush()
        command = [tool, "--dump-resource-usage", handle.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers = re.search(r"\bREG:(\d+)", text)
    stack = re.search(r"\bSTACK:(\d+)", text)
    local = re.search(r"\bLOCAL:(\d+)", text)
    assert registers, f"cannot parse {text!r}"
    assert stack, f"cannot parse {text!r}"
    return int(registers[1]), int(stack[1]) + (int(local[1]) if local else 0)
