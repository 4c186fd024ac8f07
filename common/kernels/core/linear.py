"""Closed forms of the linear statistic sum_j omega_ij <q_i, k_j>, without an N x M tile.

Index-like weights (Diagonal, Index, Partner, Block) are exact pair terms; Labels go through the sum
of the keys of each class; Uniform and affine LowRank through an r x D matrix. What is left (relu
and softmax LowRank, masked weights) is evaluated inside the tiles: `split` separates the two.
"""

# Shape suffixes: N queries, M keys, D dim, P pairs, R rank of the side features, C classes.

from collections.abc import Iterator

import torch
from torch import Tensor

from ..specs.base import And
from ..specs.weights import (
    Block,
    Diagonal,
    Exclude,
    Index,
    Labels,
    LowRank,
    Partner,
    Spec,
    Tile,
    Uniform,
)
from .problem import Problem

_CHUNK, _CHUNK_CUDA = (
    2048,
    2**16,
)  # pairs gathered at a time; on CUDA a chunk costs the host launches


def split(spec: Spec) -> tuple[list[Spec], Spec | None]:
    """Atoms whose weights have a closed form, and a spec of those that need tiles (or None)."""
    closed: list[Spec] = []
    tiled: list[Spec] = []
    for atom in spec.atoms():
        if isinstance(atom, LowRank) and (atom.masked or atom.mode != "affine"):
            tiled.append(atom)
        elif isinstance(atom, Diagonal | Index | Partner | Block | Labels | Uniform | LowRank):
            closed.append(atom)
    if not tiled:
        return closed, None
    if any(getattr(a, "masked", False) for a in tiled):  # masks may depend on the positives
        return [], spec
    return closed, And(tuple(tiled))


def linear_forward(atoms: list[Spec], problem: Problem) -> Tensor:
    """(N,) sum_j omega_ij <q_i, k_j> over the closed-form atoms (scale not applied)."""
    q_ND, k_MD = problem.q, problem.k
    out_N = torch.zeros(problem.num_rows, dtype=problem.dtype, device=q_ND.device)
    for atom in atoms:
        if isinstance(atom, Labels):
            sums_CD, class_N, _ = _class_sums(atom, k_MD, out_N.dtype, not problem.deterministic)
            raw_N = _row_dot(q_ND, sums_CD, class_N)
            if atom.exclude_self:
                own_pairs, same = _overlap(problem.whole())
                own_N = (q_ND[own_pairs].to(out_N) * k_MD[same].to(out_N)).sum(1)
                raw_N[own_pairs] -= own_N * _self_pairs(atom, problem)[own_pairs]
            out_N += raw_N * _label_weight(atom, problem)
        elif isinstance(atom, Uniform):
            out_N += q_ND.to(out_N) @ k_MD.sum(0, dtype=out_N.dtype) * atom.weight
        elif isinstance(atom, LowRank):
            u_NR, v_MR = atom.u.to(out_N), atom.v.to(out_N)
            out_N += ((q_ND.to(out_N) @ (k_MD.to(out_N).T @ v_MR)) * u_NR).sum(1) * atom.factor
            out_N += q_ND.to(out_N) @ k_MD.sum(0, dtype=out_N.dtype) * atom.shift
        else:
            for rows, cols, weight in _pairs(atom, problem.whole(), out_N.dtype):
                dots = (q_ND[rows].to(out_N) * k_MD[cols].to(out_N)).sum(1) * weight
                _add(out_N, rows, dots, atomic=not problem.deterministic)
    return out_N


def linear_backward(
    atoms: list[Spec],
    problem: Problem,
    g_N: Tensor,
    dq_ND: Tensor | None,
    dk_MD: Tensor | None,
    row_factor: Tensor | float,
) -> None:
    """Add in place: dq_i += g_i sum_j omega_ij k_j and dk_j += sum_i f_i g_i omega_ij q_i.

    Args:
        atoms: closed-form atoms.
        problem: the sweep.
        g_N: (N,) upstream gradient of the linear statistic.
        dq_ND: accumulator in the statistics dtype, or None.
        dk_MD: likewise for the keys.
        row_factor: f, (N,) or a number, applied in dk only (dq is scaled by the caller).
    """
    q_ND, k_MD = problem.q, problem.k
    f_N = g_N * row_factor
    for atom in atoms:
        if isinstance(atom, Labels):
            _labels_backward(atom, problem, g_N, f_N, dq_ND, dk_MD)
        elif isinstance(atom, Uniform | LowRank):
            shift = atom.weight if isinstance(atom, Uniform) else atom.shift
            if dq_ND is not None and shift:
                dq_ND.addcmul_(k_MD.sum(0, dtype=g_N.dtype)[None, :], g_N[:, None], value=shift)
            if dk_MD is not None and shift:
                dk_MD.add_((f_N @ q_ND.to(f_N))[None, :], alpha=shift)
            if isinstance(atom, LowRank):
                u_NR, v_MR = atom.u.to(g_N), atom.v.to(g_N)
                if dq_ND is not None:
                    side_RD = v_MR.T @ k_MD.to(g_N)
                    dq_ND.addmm_(u_NR * g_N[:, None], side_RD, alpha=atom.factor)
                if dk_MD is not None:
                    side_RD = (u_NR * f_N[:, None]).T @ q_ND.to(g_N)
                    dk_MD.addmm_(v_MR, side_RD, alpha=atom.factor)
        else:
            for rows, cols, weight in _pairs(atom, problem.whole(), g_N.dtype):
                atomic = not problem.deterministic
                if dq_ND is not None:
                    weight_P1 = g_N[rows, None] * _column(weight)
                    _add(dq_ND, rows, k_MD[cols].to(g_N), weight_P1, atomic)
                if dk_MD is not None:
                    weight_P1 = f_N[rows, None] * _column(weight)
                    _add(dk_MD, cols, q_ND[rows].to(g_N), weight_P1, atomic)


def num_positives(spec: Spec, tile: Tile) -> Tensor | None:
    """(N,) number of positives of each row of the tile; None if the spec marks no positives."""
    total: Tensor | None = None
    for atom in spec.atoms():
        if isinstance(atom, Labels):
            count = atom.positives(tile.row_start - tile.col_start)[tile.r0 : tile.r1]
        elif isinstance(atom, Diagonal | Index | Partner | Block):
            count = torch.zeros(tile.shape[0], dtype=torch.long, device=tile.device)
            for rows, _, weight in _pairs(atom, tile, torch.long, counting=True):
                ones = count.new_ones(
                    ()
                )  # not from a Python number: that would synchronise on CUDA
                hits = weight.long() if isinstance(weight, Tensor) else ones
                _add(count, rows, hits.expand(_length(rows)))  # integers: exact
        else:
            continue
        total = count if total is None else total + count
    return total


def _pairs(
    atom: Spec, tile: Tile, dtype: torch.dtype, counting: bool = False
) -> Iterator[tuple[slice | Tensor, slice | Tensor, Tensor | float]]:
    """Positive pairs of an index-like atom: local rows, local columns, weight (0 = outside).

    Shapes are static (no host sync): every row (Block: every column) gives one pair, clamped into
    the tile and weighted 0 if its partner lies outside. ``counting`` replaces the weights by 1.
    """
    if isinstance(atom, Diagonal):
        rows, cols = _overlap(tile)
        step = _step(tile.device)
        for start in range(rows.start, rows.stop, step):
            stop = min(rows.stop, start + step)
            offset = cols.start - rows.start
            constant = 1.0 if counting else atom.weight
            yield slice(start, stop), slice(start + offset, stop + offset), constant
        return
    num_rows, num_cols = tile.shape
    if isinstance(atom, Block):
        col_ids = tile.col_ids()
        row = torch.div(col_ids, atom.size, rounding_mode="floor") - tile.row_start - tile.r0
        col, value = torch.arange(num_cols, device=tile.device), 1.0 / atom.size
        inside = (row >= 0) & (row < num_rows)
        row = row.clamp(0, num_rows - 1)
    else:
        row = torch.arange(num_rows, device=tile.device)
        if isinstance(atom, Index):
            target, value = atom.pos[tile.r0 : tile.r1], atom.weight
            inside = target >= 0
        else:
            assert isinstance(atom, Partner)
            target, value = (tile.row_ids() + atom.half) % (2 * atom.half), 1.0
            inside = torch.ones_like(target, dtype=torch.bool)
        col = target - tile.col_start - tile.c0
        inside = inside & (col >= 0) & (col < num_cols)
        col = col.clamp(0, num_cols - 1)
    weight = inside.to(dtype) * (1 if counting else value)
    for part in _parts(row):
        yield row[part], col[part], weight[part]


def _step(device: torch.device | str) -> int:
    return _CHUNK_CUDA if torch.device(device).type == "cuda" else _CHUNK


def _parts(x: Tensor) -> Iterator[slice]:
    """The rows of a tensor in chunks."""
    step = _step(x.device)
    return (slice(start, start + step) for start in range(0, len(x), step))


def _overlap(tile: Tile) -> tuple[slice, slice]:
    """Local rows and columns with equal global indices."""
    rows, cols = tile.shape
    first = max(0, -tile.diagonal)
    stop = max(first, min(rows, cols - tile.diagonal))
    return slice(first, stop), slice(first + tile.diagonal, stop + tile.diagonal)


def _add(
    out: Tensor,
    at: slice | Tensor,
    value: Tensor,
    weight: Tensor | float | None = None,
    atomic: bool = False,
) -> None:
    """out[at] += value * weight; repeated indices accumulate."""
    if isinstance(at, slice):
        if weight is None:
            out[at] += value
        else:
            factor = weight if isinstance(weight, Tensor) else out.new_full((), weight)
            out[at].addcmul_(value, factor.to(out.dtype))
        return
    value = value if weight is None else value * weight
    _scatter_add(out, at, value.to(out.dtype), atomic)


def _scatter_add(out: Tensor, index: Tensor, value: Tensor, atomic: bool) -> None:
    """out[index] += value, repeated indices accumulate, bit-reproducibly unless `atomic`."""
    if out.is_cuda and not atomic:  # index_add_ uses atomics there, index_put_ sorts
        out.index_put_((index,), value, accumulate=True)
    else:
        out.index_add_(0, index, value)


def _column(weight: Tensor | float) -> Tensor | float:
    return weight[:, None] if isinstance(weight, Tensor) else weight


def _length(at: slice | Tensor) -> int:
    return at.stop - at.start if isinstance(at, slice) else len(at)


def _label_weight(atom: Labels, problem: Problem) -> Tensor:
    count = atom.positives(problem.row_start - problem.col_start).to(problem.dtype)
    return 1.0 / count.clamp(min=1) if atom.average else torch.ones_like(count)


def _self_pairs(atom: Labels, problem: Problem) -> Tensor:
    return atom.self_pairs(problem.row_start - problem.col_start).to(problem.dtype)


def _class_sums(
    atom: Labels, x_MD: Tensor, dtype: torch.dtype, atomic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the keys of each class; class of every query (number of classes = none) and key."""
    order = atom.key.sort()
    new = torch.ones_like(order.values, dtype=torch.bool)
    new[1:] = order.values[1:] != order.values[:-1]
    class_sorted = new.cumsum(0) - 1
    class_M = torch.empty_like(class_sorted).scatter_(0, order.indices, class_sorted)
    at = torch.searchsorted(order.values, atom.query).clamp(max=len(order.values) - 1)
    none = len(order.values)
    class_N = torch.where(order.values[at] == atom.query, class_sorted[at], none)
    sums_CD = torch.zeros(none + 1, x_MD.shape[1], dtype=dtype, device=x_MD.device)
    _scatter_add(sums_CD, class_M, x_MD.to(dtype), atomic)
    return sums_CD, class_N, class_M


def _row_dot(q_ND: Tensor, table_CD: Tensor, index_N: Tensor) -> Tensor:
    out = torch.empty(len(q_ND), dtype=table_CD.dtype, device=q_ND.device)
    for part in _parts(q_ND):
        out[part] = (q_ND[part].to(table_CD) * table_CD[index_N[part]]).sum(1)
    return out


def _labels_backward(
    atom: Labels,
    problem: Problem,
    g_N: Tensor,
    f_N: Tensor,
    dq_ND: Tensor | None,
    dk_MD: Tensor | None,
) -> None:
    weight_N = _label_weight(atom, problem)
    rows, cols = _overlap(problem.whole())
    q_ND, k_MD = problem.q, problem.k
    atomic = not problem.deterministic
    sums_CD, class_N, class_M = _class_sums(atom, k_MD, g_N.dtype, atomic)
    if dq_ND is not None:
        gw_N = g_N * weight_N
        for part in _parts(q_ND):
            dq_ND[part].addcmul_(sums_CD[class_N[part]], gw_N[part, None])
        if atom.exclude_self:
            own_N = gw_N * _self_pairs(atom, problem)
            dq_ND[rows].addcmul_(k_MD[cols].to(g_N), own_N[rows, None], value=-1)
    if dk_MD is not None:
        fw_N = f_N * weight_N
        sums_CD.zero_()
        for part in _parts(q_ND):
            _scatter_add(sums_CD, class_N[part], q_ND[part].to(g_N) * fw_N[part, None], atomic)
        for part in _parts(k_MD):
            dk_MD[part] += sums_CD[class_M[part]]
        if atom.exclude_self:
            own_N = fw_N * _self_pairs(atom, problem)
            dk_MD[cols].addcmul_(q_ND[rows].to(g_N), own_N[rows, None], value=-1)


# --- symmetry of self-comparisons: half of the tiles suffice --------------------------------------

_ALWAYS = (
    "all",
    "diagonal",
    "uniform",
    "lowrank",
    "exclude_self",
    "exclude_positive",
    "only_positive",
)


def is_symmetric(problem: Problem) -> bool:
    """Whether masks and positives are symmetric, without scales per row, sums or shards.

    The caller has checked that keys and queries are the same tensor. Weights may be anything that
    has a closed form.
    """
    if problem.row_scale is not None or problem.moment or problem.row_start != problem.col_start:
        return False
    if split(problem.spec)[1] is not None:
        return False
    return all(_symmetric(atom, problem) for atom in problem.spec.atoms())


def _symmetric(atom: Spec, problem: Problem) -> bool:
    if isinstance(atom, Labels | Exclude):  # not by address, which torch.compile cannot read
        return atom.query is atom.key and getattr(atom, "second", None) is None
    if isinstance(atom, Partner):  # further rows may follow the two views
        return problem.num_rows == 2 * atom.half
    if isinstance(atom, Index):  # j may be the positive of i and i not that of j
        return not (problem.top1 or problem.spec.needs_positive)
    return atom.kind in _ALWAYS
