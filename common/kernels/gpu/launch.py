"""What every launch of the Triton kernels shares: operands, tiles, grids, compile-time flags."""

# Shape suffixes: N queries, M keys, D dim, S column splits, B row blocks.

import math
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..core.linear import linear_forward, split
from ..core.problem import Problem
from ..specs.base import And, Spec
from ..specs.weights import Diagonal, Index, LowRank, Partner
from .lowering import Program, is_bounded, lower, many_positives
from .tile_table import TileConfig, tile_config

WORKSPACE_BYTES = 256 * 2**20
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FIXED_SIZE = 512  # fewer rows or columns: running maxima, a small set may hold no large logit
_KEEP_ROWS = 128  # kept rows come in multiples of this
_BOX = 256  # rows that one copy of the engine takes
MOST_COLUMNS = (
    65_535 * 64
)  # CUDA's bound on the second axis of a grid, at the narrowest tile of the table
_WAVES = 4  # programs per multiprocessor that a forward launch should have at least


@lru_cache(maxsize=1)
def modules() -> tuple[ModuleType, ModuleType]:
    """The kernels with and without a partition function, imported at the first use."""
    from . import kernel_pairs, kernel_softplus

    return kernel_pairs, kernel_softplus


@lru_cache(maxsize=1)
def interpreted() -> bool:
    """Whether Triton runs in its interpreter (TRITON_INTERPRET=1), i.e. on CPU tensors."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def unsupported(problem: Problem) -> str | None:
    """Why the Triton kernels cannot run a problem; None if they can."""
    try:
        modules()
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    except AttributeError as error:  # Triton 3.2, which torch 2.6 has
        return f"this Triton is too old ({error})"
    device, dtype = problem.q.device, problem.q.dtype
    if device.type != "cuda" and not interpreted():
        return f"the kernels need a CUDA device, the inputs are on {device.type}"
    if device.type == "cuda" and torch.version.cuda is None:
        return "the tile table knows NVIDIA cards only"
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        return "the card is older than compute capability 8.0"
    if dtype not in _DTYPES:
        return f"dtype {dtype} (float32, float16 and bfloat16 are supported)"
    if problem.k.dtype != dtype:
        return f"queries are {dtype} but keys are {problem.k.dtype}"
    if 0 in problem.q.shape or 0 in problem.k.shape:
        return "there are no queries or no keys"
    if problem.num_cols > MOST_COLUMNS:
        return f"{problem.num_cols:,} keys; a launch has room for {MOST_COLUMNS:,}: split them"
    return None


def fixed_shift(problem: Problem) -> bool:
    """Whether the exponentials of a problem take one shift instead of running maxima."""
    large = min(problem.num_rows, problem.num_cols) >= FIXED_SIZE
    return problem.unit_norm and large and problem.row_scale is None and is_bounded(problem.spec)


def operand_dtype(problem: Problem) -> torch.dtype:
    """Dtype of the operands of q k^T: that of the inputs, or 16 bit where float32 may be rounded.

    Entries of unit rows fit float16, whose mantissa has three bits more than that of bfloat16.
    """
    if problem.precision != "half" or problem.q.dtype != torch.float32:
        return problem.q.dtype
    return torch.float16 if problem.unit_norm else torch.bfloat16


def grad_dtype(problem: Problem) -> torch.dtype:
    """Dtype of the logits' gradient: fp32 for fp32 operands, else bf16 for its range."""
    return torch.float32 if operand_dtype(problem) == torch.float32 else torch.bfloat16


def kept_dtype(problem: Problem) -> torch.dtype:
    """Dtype of kept exponentials: 16 bit only where the positives can be stored apart in fp32."""
    return torch.float32 if many_positives(problem.spec) else grad_dtype(problem)


def kept_rows(problem: Problem) -> int:
    """Rows whose exponentials fit into ``problem.keep`` bytes and can be used by the backward.

    None with running maxima (nothing common to keep), moments (the logits are wanted as well) or
    half tiles.
    """
    if problem.keep <= 0 or problem.half or problem.moment or not fixed_shift(problem):
        return 0
    rows = problem.keep // (problem.num_cols * kept_dtype(problem).itemsize)
    return problem.num_rows if rows >= problem.num_rows else rows // _KEEP_ROWS * _KEEP_ROWS


@dataclass(frozen=True)
class Plan:
    """A problem made ready for launches.

    Attributes:
        q: (N, D), k: (M, D), last dimension contiguous. program: the lowered spec.
        closed: affine low-rank weights, evaluated in closed form and not in the program.
        marks: weights of single pairs where the program has no others; `row_lin` takes them in
            closed form, the gradient in the tiles (all terms of a logit are added up before they
            are rounded).
        half: only pairs above the diagonal are visited. fixed: shift instead of running maxima.
    """

    problem: Problem
    q: Tensor
    k: Tensor
    program: Program
    closed: list[Spec]
    marks: list[Spec]
    half: bool
    fixed: bool

    @classmethod
    def make(cls, problem: Problem) -> "Plan":
        """Check a problem, lower its spec and choose the variant.

        Raises:
            ValueError: if `unsupported` gives a reason.
        """
        reason = unsupported(problem)
        if reason is not None:
            raise ValueError(f"the Triton back end cannot run this: {reason}")
        closed: list[Spec] = [atom for atom in split(problem.spec)[0] if isinstance(atom, LowRank)]
        program = lower(And(tuple(a for a in problem.spec.atoms() if a not in closed)))
        single = problem.spec.atoms() if program.single_weights else ()
        marks: list[Spec] = [a for a in single if isinstance(a, Diagonal | Index | Partner)]
        simple = problem.row_scale is None and not problem.moment
        half = problem.half and program.halvable and simple
        q, k = (_rows(x).to(operand_dtype(problem)) for x in (problem.q, problem.k))
        return cls(problem, q, k, program, closed, marks, half, fixed_shift(problem))

    @property
    def tiled_weights(self) -> bool:
        """Whether the sweep of the statistics has to weigh pairs inside its tiles."""
        return self.program.weighted and not self.marks

    def linear(self) -> Tensor | None:
        """(N,) sum_j omega_ij <q_i, k_j> of the closed forms, in the operands' dtype, or None."""
        atoms = [*self.closed, *self.marks]
        if not atoms:
            return None
        return linear_forward(atoms, replace(self.problem, q=self.q, k=self.k))

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability; (0, 0) for the interpreter."""
        return (0, 0) if interpreted() else torch.cuda.get_device_capability(self.q.device)

    @cached_property
    def shift(self) -> Tensor:
        """Fixed shift max(0, |scale| + ln(max(N, M)) - 80), on the device (no host sync)."""
        largest = self.problem.scale.detach().to(torch.float32).abs()
        count = max(self.problem.num_rows, self.problem.num_cols)
        return (largest + (math.log(count) - 80.0)).clamp(min=0.0)

    @cached_property
    def scale(self) -> Tensor:
        """The multiplier, 0-dim fp32 on the device."""
        return self.problem.scale.detach().to(torch.float32)

    @cached_property
    def row_scale(self) -> Tensor | None:
        """(N,) fp32 per-query multipliers, or None."""
        rho = self.problem.row_scale
        return None if rho is None else rho.detach().to(torch.float32).contiguous()

    @property
    def product(self) -> str:
        """How fp32 operands are multiplied: "ieee", or "tf32" where that is allowed."""
        if self.q.dtype != torch.float32:
            return "ieee"  # means nothing for 16-bit operands
        allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
        return "tf32" if allowed or self.problem.precision == "tf32" else "ieee"

    @property
    def operand(self) -> str:
        """Column of the tile table: "half", "tf32" or "float"."""
        if self.q.dtype != torch.float32:
            return "half"
        return "tf32" if self.product == "tf32" else "float"

    def copied(self, x: Tensor, rows: int, depth: int) -> Any:
        """A tensor descriptor of x (R, D) with blocks (rows, depth); None: read by addresses.

        The copy engine (TMA) of compute capability 9 takes rows that begin at multiples of 16 bytes
        and do not overlap, as those of an expanded tensor do. Products without tensor cores gain
        nothing by it. CONTRASTIVE_TMA=0 turns it off.
        """
        able = self.capability[0] == 9 and self.operand != "float"
        apart = x.stride(1) == 1 and (len(x) == 1 or x.stride(0) >= x.shape[1])  # no row in another
        aligned = x.data_ptr() % 16 == 0 and x.stride(0) * x.itemsize % 16 == 0
        fits = apart and aligned and rows <= _BOX
        if not (able and fits) or os.environ.get("CONTRASTIVE_TMA") == "0":
            return None
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, depth])

    def tile(self, family: str) -> TileConfig:
        """Tile of a kernel family for this problem."""
        problem = self.problem
        variant = variant_of(self.program, problem.top1, self.half, problem.moment)
        return tile_config(family, self.operand, self.q.shape[1], self.capability, variant)

    def chunks(
        self, tile: TileConfig, bytes_per_row: float, limit: int, cut: int = 0
    ) -> list[tuple[int, int]]:
        """Row chunks whose workspace stays within ``limit`` bytes (at least one tile high).

        No chunk lies on both sides of row ``cut``.
        """
        rows = max(1, int(limit / max(bytes_per_row, 1e-9)) // tile.rows) * tile.rows
        total = self.problem.num_rows
        ranges = [r for r in ((0, cut), (cut, total)) if r[0] < r[1]]
        return [
            (s, min(s + rows, stop)) for start, stop in ranges for s in range(start, stop, rows)
        ]

    def workspace(self, chunks: list[tuple[int, int]], dtype: torch.dtype) -> Tensor:
        """One flat buffer that serves every row chunk in turn."""
        rows = max(stop - start for start, stop in chunks)
        size = rows * padded(self.problem.num_cols)
        return torch.empty(size, dtype=dtype, device=self.q.device)

    def splits(self, tile: TileConfig, num_rows: int) -> tuple[int, int]:
        """Number of column splits and columns per split, so that a launch fills the card."""
        blocks, tiles = _ceil(num_rows, tile.rows), _ceil(self.problem.num_cols, tile.cols)
        programs = 1 if interpreted() else _WAVES * _multiprocessors(self.q.device)
        per_split = _ceil(tiles, max(1, min(tiles, _ceil(programs, blocks))))
        return _ceil(tiles, per_split), per_split * tile.cols

    def scaled(
        self, dq: Tensor | None, dk: Tensor | None, unit: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Finish the accumulators G k and G^T (rho q), both relative to ``unit``.

        Returns:
            dq, dk and row_dot = sum_j G_ij <q_i, k_j> (taken before scaling); empty where absent.
        """
        row_dot, rho = self.scale.new_empty(0), self.row_scale
        if dq is not None:
            row_dot = torch.linalg.vecdot(dq, self.q.float()) * unit
            dq *= unit * self.scale if rho is None else (unit * self.scale * rho)[:, None]
        if dk is not None:
            dk *= unit * self.scale
        dq, dk = (self.scale.new_empty(0) if x is None else x for x in (dq, dk))
        return dq, dk, row_dot

    def flags(self, tile: TileConfig, num_rows: int, num_cols: int) -> dict[str, Any]:
        """Compile-time arguments that all kernels have in common."""
        even = num_rows % tile.rows == 0 and num_cols % tile.cols == 0
        return {
            "PROG": self.program.code,
            "MASKED": self.program.masked or self.half or not even,
            "BIAS": self.program.biased,
            "ROW_SCALE": self.row_scale is not None,
            "EVEN_D": self.q.shape[1] % tile.depth == 0,
            "PRECISION": self.product,
            "UPCAST": interpreted(),
            "BM": tile.rows,
            "BN": tile.cols,
            "BD": tile.depth,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }


def variant_of(program: Program, top1: bool, half: bool, moment: bool) -> str:
    """Row of the tile table: how much a tile holds besides its scores."""
    if program.features:
        return "features"
    if (
        moment or (program.masked and program.has_tensors) or (top1 and half)
    ):  # top-1 of rows and columns
        return "masked"
    return "light" if top1 or half or program.masked or program.has_tensors else "plain"


def padded(cols: int) -> int:
    """Length of a row in storage: whole vectors of 16, which aligned loads and stores need."""
    return -(-cols // 16) * 16


def matrix(buffer: Tensor, rows: int, cols: int) -> Tensor:
    """(rows, cols) view of the start of a flat buffer, its rows `padded`."""
    stride = padded(cols)
    return buffer[: rows * stride].view(rows, stride)[:, :cols]


def part(x: Tensor | None, start: int, stop: int | None) -> Tensor | None:
    """x[start:stop], or None."""
    return None if x is None else x[start:stop]


@contextmanager
def dense_products(problem: Problem) -> Iterator[None]:
    """Let the library's fp32 products use TF32 where the problem permits it.

    The setting is the process's, and each GPU has a backward thread: the last user puts it back.
    """
    setting = torch.backends.cuda.matmul
    if problem.precision != "tf32" or not problem.q.is_cuda:
        yield
        return
    with _TF32.lock:
        if not _TF32.users:
            _TF32.before = setting.fp32_precision
        _TF32.users += 1
        setting.fp32_precision = "tf32"
    try:
        yield
    finally:
        with _TF32.lock:
            _TF32.users -= 1
            if not _TF32.users:
                setting.fp32_precision = _TF32.before


class _Permitted:
    """Who has TF32 products permitted now, and the setting before the first of them."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, ""


_TF32 = _Permitted()


def on_device(x: Tensor) -> AbstractContextManager[None]:
    """Make the device of x current: Triton launches there (nothing to do for CPU tensors)."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _rows(x: Tensor) -> Tensor:
    x = x.detach()
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
