"""The Triton kernels compile for sm_80 and sm_90 without a GPU, within the limits of the cards.

D is a run-time argument: what depends on it is the tile and whether its depth divides D. Each
kernel is compiled once per card, dtype, tile and answer, and every D is checked against the code it
runs. Where the tile is the same, the smaller card answers for float32 on the larger one, and there
bfloat16 for float16, which differs in the name of a type. `make faults` compiles the whole matrix;
the daily suite, for the larger card, every kernel and the heaviest masks in bfloat16, and the
statistics in float32.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton")

from common.kernels.gpu import lowering as triton_program  # noqa: E402
from common.kernels.gpu.launch import variant_of  # noqa: E402
from common.kernels.gpu.tile_table import TileConfig, tile_config  # noqa: E402
from common.kernels.specs.weights import (  # noqa: E402
    Diagonal,
    ExcludeSelf,
    Index,
    Labels,
    LowRank,
    Partner,
    Spec,
    Threshold,
)
from tests.unit.kernels.triton_aot import (  # noqa: E402
    SHARED_LIMIT,
    Resources,
    compile_kernel,
    find_tool,
)

pytestmark = [
    pytest.mark.skipif(
        find_tool("ptxas") is None or find_tool("cuobjdump") is None,
        reason="Triton has no bundled ptxas and cuobjdump here",
    ),
    pytest.mark.slow,
    pytest.mark.timeout(900),  # a compiler at work, maybe on a loaded machine
]

STACK_LIMIT = 64
SHARED_SHARE = 0.99
OPERANDS = {
    "bf16": "half",
    "fp16": "half",
    "fp32": "float",
    "tf32": "tf32",
}  # rows of the tile table

_ids = torch.zeros(4, dtype=torch.int64)
_features = torch.zeros(4, 64)
SPECS: dict[str, Spec] = {
    "clip": Diagonal(),
    "index": Index(_ids),
    "nt_xent": Partner(2) & ExcludeSelf(),
    "labels": Labels(_ids, _ids, exclude_self=True),
    "features": (
        Diagonal() & LowRank(_features, _features) & Threshold(_features, _features, torch.zeros(4))
    ),
}


class Variant(NamedTuple):
    spec: str = "clip"
    fixed: bool = True
    columns: bool = True
    moment: bool = False
    top1: bool = False
    half: bool = False
    row_scale: bool = False
    dim: int = 512


VARIANTS = {
    "clip": Variant(),
    "clip_uneven": Variant(dim=100),
    "index": Variant("index", columns=False),
    "online_top1": Variant(fixed=False, top1=True),
    "top1": Variant(top1=True),
    "nt_xent": Variant("nt_xent", half=True, columns=False, top1=True),
    "labels": Variant("labels", fixed=False, top1=True),
    "moment": Variant("labels", moment=True, row_scale=True, fixed=False),
    "features": Variant("features", fixed=False),
}


def _flags(variant: Variant, operand: str, family: str, capability: tuple[int, int]) -> Any:
    program = triton_program.lower(SPECS[variant.spec])
    name = variant_of(program, variant.top1, variant.half, variant.moment)
    tile = tile_config(family, OPERANDS[operand], variant.dim, capability, name)
    flags = {
        "PROG": program.code,
        "MASKED": name != "plain" or variant.dim % 64 > 0,
        "BIAS": program.biased,
        "ROW_SCALE": variant.row_scale,
        "EVEN_D": variant.dim % tile.depth == 0,
        "PRECISION": "tf32" if operand == "tf32" else "ieee",
        "UPCAST": False,
    }
    pointers = {torch.int64: "*i64", torch.int32: "*i32"}
    sides = tuple(
        pointers.get(x.dtype, "*fp32")
        if isinstance(x, torch.Tensor)
        else {int: "i32", float: "fp32"}[type(x)]
        for x in program.sides
    )
    return program, tile, flags, sides


def element(operand: str) -> str:
    """Type of q and k."""
    return "fp32" if operand == "tf32" else operand


def gradient(operand: str) -> str:
    """Type of the gradient of the logits."""
    return "fp32" if element(operand) == "fp32" else "bf16"


def compile_lse(
    variant: Variant,
    operand: str,
    arch: int,
    keep: bool = False,
    ragged: bool = False,
    tma: bool | None = None,
) -> Resources:
    """The lse kernel; by default with the loads that a card of this kind takes."""
    from common.kernels.gpu.kernel_pairs import lse_kernel

    family = "rows" if keep else "lse"
    program, tile, flags, sides = _flags(variant, operand, family, (arch // 10, 0))
    columns = variant.columns or variant.half
    flags |= {
        "FIXED": variant.fixed,
        "COLUMNS": columns,
        "HALF": variant.half,
        "LIN": program.weighted and not program.single_weights,
        "TWO_MASKS": columns and program.two_masks,
        "MOMENT": variant.moment,
        "TOP": variant.top1,
        "KEEP": keep,
        "POS": keep,
        "FLAT": not program.features,
        "TMA": arch >= 90 and operand != "fp32" if tma is None else tma,
    }
    mirrored = variant.half and variant.top1
    present = {
        "shift": variant.fixed,
        "row_scale": variant.row_scale,
        "row_max": not variant.fixed,
        "row_mom": variant.moment,
        "row_best": variant.top1,
        "row_hit": variant.top1,
        "col_max": columns and not variant.fixed,
        "col_sum": columns,
        "row_lin": flags["LIN"],
        "col_lin": variant.half and flags["LIN"],
        "col_best": mirrored,
        "col_hit": mirrored,
        "row_pos": keep,
        "kept": keep,
    }
    absent = tuple(name for name, there in present.items() if not there)
    return compile_kernel(
        lse_kernel, flags, element(operand), arch, tile, absent, sides, gradient(operand), ragged
    )


def compile_grad(variant: Variant, operand: str, arch: int, ragged: bool = False) -> Resources:
    from common.kernels.gpu.kernel_pairs import grad_kernel

    program, tile, flags, sides = _flags(variant, operand, "grad", (arch // 10, 0))
    columns = variant.columns or variant.half
    flags |= {
        "FIXED": variant.fixed,
        "ROWS": True,
        "COLUMNS": columns,
        "HALF": variant.half,
        "LIN": True,
        "TWO_MASKS": columns and program.two_masks,
        "MOMENT": variant.moment,
    }
    present = {
        "shift": variant.fixed,
        "row_scale": variant.row_scale,
        "row_lse": not variant.fixed,
        "row_e": variant.moment,
        "col_lse": columns and not variant.fixed,
        "col_b": columns,
        "col_c": variant.half,
    }
    absent = tuple(name for name, there in present.items() if not there)
    return compile_kernel(
        grad_kernel, flags, element(operand), arch, tile, absent, sides, gradient(operand), ragged
    )


def compile_kept(variant: Variant, operand: str, arch: int) -> Resources:
    from common.kernels.gpu.kernel_pairs import kept_grad_kernel

    program, tile, flags, sides = _flags(variant, operand, "kept", (arch // 10, 0))
    flags = {"PROG": program.code, "ROWS": True, "COLUMNS": True, "POS": True, "LIN": True}
    dtype = gradient(operand)
    return compile_kernel(kept_grad_kernel, flags, element(operand), arch, tile, (), sides, dtype)


def compile_softplus(family: str, operand: str, arch: int, dim: int = 512) -> Resources:
    from common.kernels.gpu import kernel_softplus as triton_softplus

    _, tile, flags, sides = _flags(Variant(dim=dim), operand, family, (arch // 10, 0))
    flags |= {"ROW_OFFSET": True, "TOP": True}
    if family == "softplus_grad":
        flags |= {"VALUE": True}
    kernel = getattr(triton_softplus, f"{family}_kernel")
    return compile_kernel(
        kernel, flags, element(operand), arch, tile, ("row_scale",), sides, gradient(operand)
    )


def check(used: Resources, operand: str, arch: int) -> None:
    assert used.stack <= STACK_LIMIT
    assert used.shared <= SHARED_SHARE * SHARED_LIMIT[arch]
    assert 0 < used.registers <= 255
    if arch == 90 and operand != "fp32":
        assert "wgmma.mma_async" in used.ptx


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Any) -> Iterator[None]:
    """Compile for real: the user's cache is neither read nor written."""
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        yield


KERNELS = ("lse", "rows", "grad", "kept", "softplus", "softplus_grad")
_compiled: dict[tuple[object, ...], Resources] = {}


def compile_clip(family: str, dim: int, operand: str, arch: int) -> Resources:
    """A kernel of the CLIP loss (softplus: SigLIP) for embeddings of size D, or one that stands for
    it.
    """
    variant = Variant(dim=dim)
    _, tile, flags, _ = _flags(variant, operand, family, (arch // 10, 0))
    stand_in = {("fp32", 90): ("fp32", 80), ("fp16", 80): ("bf16", 80)}
    if (operand, arch) in stand_in:
        other, card = stand_in[operand, arch]
        if _flags(variant, other, family, (card // 10, 0))[1] == tile:
            operand, arch = other, card
    key = family, operand, arch, tile, flags["EVEN_D"]
    if key not in _compiled:
        match family:
            case "lse" | "rows":
                used = compile_lse(variant, operand, arch, keep=family == "rows")
            case "grad":
                used = compile_grad(variant, operand, arch)
            case "kept":
                used = compile_kept(variant, operand, arch)
            case _:
                used = compile_softplus(family, operand, arch, dim)
        _compiled[key] = used
    return _compiled[key]


def cases(matrix: Iterable[tuple[Any, ...]], daily: Callable[..., bool]) -> list[Any]:
    """The matrix of a test, of which some rows run every day and all at night."""
    return [pytest.param(*row, marks=() if daily(*row) else pytest.mark.nightly) for row in matrix]


def _daily(dim: int, operand: str, arch: int, family: str) -> bool:
    of_lse = family == "lse" and (operand, arch) == ("fp32", 80)
    return dim == 512 and (of_lse or (operand, arch) == ("bf16", 90))


MATRIX = product([256, 512, 768, 1024], ["bf16", "fp16", "fp32"], [80, 90], KERNELS)


@pytest.mark.parametrize(("dim", "operand", "arch", "family"), cases(MATRIX, _daily))
def test_every_kernel_fits_the_card(dim: int, operand: str, arch: int, family: str) -> None:
    used = compile_clip(family, dim, operand, arch)
    check(used, "fp32" if family == "kept" else operand, arch)  # "kept" has no product


HEAVY = ("nt_xent", "labels", "features", "moment")
COMBINATIONS = [(name, "bf16", arch) for name in HEAVY for arch in (80, 90)]
# what these need besides the CLIP loss is among what the heavy ones need: one card each
COMBINATIONS += [
    ("clip_uneven", "bf16", 80),
    ("index", "bf16", 90),
    ("online_top1", "bf16", 80),
    ("top1", "bf16", 90),
]
# one fp32 tile serves both cards, and 80 is the smaller one
COMBINATIONS += [(name, "fp32", 80) for name in HEAVY]


def test_every_variant_is_compiled() -> None:
    assert {name for name, _, _ in COMBINATIONS} == VARIANTS.keys() - {"clip"}


@pytest.mark.parametrize(
    ("name", "operand", "arch"),
    cases(COMBINATIONS, lambda name, operand, arch: arch == 90 and name in HEAVY[:-1]),
)
def test_masks_moments_and_halves_fit_the_card(name: str, operand: str, arch: int) -> None:
    check(compile_lse(VARIANTS[name], operand, arch), operand, arch)
    check(compile_grad(VARIANTS[name], operand, arch), operand, arch)


@pytest.mark.parametrize(
    ("name", "arch"), cases(product(["index", "top1"], [80, 90]), lambda *row: row == ("top1", 90))
)
def test_one_sided_kernels_fit_the_card(name: str, arch: int) -> None:
    variant = VARIANTS[name]._replace(columns=False)
    check(compile_lse(variant, "bf16", arch, keep=True), "bf16", arch)


@pytest.mark.parametrize(
    "family", cases([(k,) for k in KERNELS if k != "kept"], lambda family: family == "lse")
)
def test_tf32_reaches_the_tensor_cores_with_a_large_tile(family: str) -> None:
    """Float32 embeddings, whose products without TF32 are scalar FMAs."""
    used = compile_clip(family, 512, "tf32", 90)
    check(used, "tf32", 90)
    assert "tf32" in used.ptx
    assert "wgmma.mma_async" not in compile_clip(family, 512, "fp32", 90).ptx


@pytest.mark.parametrize("operand", ["bf16", pytest.param("fp32", marks=pytest.mark.nightly)])
def test_a_last_batch_of_any_size_needs_no_other_registers(operand: str) -> None:
    """M that 16 does not divide; rows in storage are padded, so accesses stay aligned."""
    even = compile_grad(VARIANTS["clip"], operand, 90)
    ragged = compile_grad(VARIANTS["clip"], operand, 90, ragged=True)
    check(ragged, operand, 90)
    assert ragged.registers <= even.registers + 32
    top1 = VARIANTS["top1"]._replace(columns=False)
    check(compile_lse(top1, operand, 90, keep=True, ragged=True), operand, 90)


@pytest.mark.parametrize("name", ["clip", pytest.param("online_top1", marks=pytest.mark.nightly)])
def test_loads_run_ahead_across_tiles_by_blocks_and_by_addresses(name: str) -> None:
    """The product of a step may still run when the loop goes on, whichever way its operands
    come."""
    by_blocks = compile_lse(VARIANTS[name], "bf16", 90)
    by_addresses = compile_lse(VARIANTS[name], "bf16", 90, tma=False)
    assert "cp.async.bulk.tensor" in by_blocks.ptx
    assert "cp.async.bulk.tensor" not in by_addresses.ptx
    for used in (by_blocks, by_addresses):
        check(used, "bf16", 90)
        first = re.findall(r"wgmma\.wait_group\.sync\.aligned (\d+)", used.ptx)[0]
        assert first == "1"  # a loop of its own for each tile drains first
    assert by_blocks.registers <= by_addresses.registers


def test_the_diagonal_is_not_weighed_in_the_tiles_of_the_statistics() -> None:
    """One tile in a hundred meets the diagonal; its products are summed in closed form."""
    assert triton_program.lower(Diagonal()).single_weights
    assert not triton_program.lower(SPECS["labels"]).single_weights
    assert not triton_program.lower(SPECS["features"]).single_weights


def test_a_tile_that_spills_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.kernels import test_triton_aot as module

    huge = TileConfig(256, 256, 64, 8, 2)
    monkeypatch.setattr(module, "tile_config", lambda *_: huge)
    with pytest.raises(AssertionError):
        check(module.compile_lse(Variant(), "bf16", 80), "bf16", 80)
