"""Fixed-order merging of the partial sums of the Triton kernels, and their fp32 GEMMs."""

# Shape suffixes: P partials, C rows of a chunk, M keys, D dim.

import torch
from torch import Tensor

_LN2 = 0.6931471805599453


def merge_splits(partials: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reduce partials (P, L) to (L,): sums relative to the largest maximum (log2 units).

    Keys: "sum" (and "mom") relative to "max" where that exists, "lin", "pos", "best", "hit", "max".
    """
    merged: dict[str, Tensor] = {}
    fade = None
    if "max" in partials:
        top = partials["max"].amax(0)
        merged["max"] = top
        fade = (partials["max"] - torch.where(top.isneginf(), 0.0, top)).exp2()
    for name, value in partials.items():
        if name in ("sum", "mom"):
            merged[name] = (value if fade is None else value * fade).sum(0)
        elif name in ("lin", "pos"):
            merged[name] = value.sum(0)
        elif name in ("best", "hit"):
            merged[name] = value.amax(0)
    return merged


def merge_columns(total: dict[str, Tensor], partials: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the column partials (P, M) of a row chunk to the running totals (M,)."""
    merged = merge_splits(partials) if partials else {}
    if not total:
        return merged
    return merge_splits({name: torch.stack([total[name], merged[name]]) for name in merged})


def finish_lse(
    top: Tensor | None, total: Tensor, shift: Tensor | None, count: int, may_be_empty: bool
) -> Tensor:
    """Natural log-sum-exp from (maximum, sum) or from a sum with a fixed shift; -inf = empty.

    Sums with a fixed shift that are too small to be exact (below 1e-32 per term) or infinite become NaN:
    the scale is too large for it, or the rows are no unit vectors. A sum of 0 counts as empty only where a mask can
    empty a row.
    """
    if shift is None:
        assert top is not None
        return torch.where(top.isneginf(), -torch.inf, (top + total.log2()) * _LN2)
    tiny = total < 1e-32 * count
    if may_be_empty:
        tiny &= total > 0
    return torch.where(tiny | total.isinf(), torch.nan, total.log() + shift)


def finish_moment(moment: Tensor, total: Tensor) -> Tensor:
    """Softmax-weighted mean of the logits; 0 for empty rows."""
    return torch.where(total > 0, moment / total, 0.0)


def product(g_CM: Tensor, k_MD: Tensor, out_CD: Tensor) -> None:
    """Write g k into out, accumulated and stored in fp32."""
    if g_CM.dtype == torch.float32:
        torch.mm(g_CM, k_MD, out=out_CD)
    elif g_CM.is_cuda:
        torch.ops.aten.mm.dtype_out(g_CM, k_MD, torch.float32, out=out_CD)
    else:
        torch.mm(g_CM.float(), k_MD.float(), out=out_CD)


def accumulate(total_MD: Tensor, g_CM: Tensor, q_CD: Tensor) -> None:
    """Add g^T q to total in fp32."""
    if g_CM.dtype == torch.float32:
        total_MD.addmm_(g_CM.T, q_CD)
    elif g_CM.is_cuda:
        torch.ops.aten.addmm.dtype_out(total_MD, g_CM.T, q_CD, torch.float32, out=total_MD)
    else:
        total_MD.addmm_(g_CM.T.float(), q_CD.float())
