"""When the pair matrix of a self-comparison is symmetric, so that half of its tiles suffice."""

from common.kernels.core.linear import split
from common.kernels.core.problem import Problem
from common.kernels.specs.weights import Exclude, Labels, Spec

_ALWAYS = ("all", "diagonal", "index", "partner", "uniform", "lowrank", "exclude_self")


def is_symmetric(problem: Problem) -> bool:
    """Whether masks are symmetric, nothing is scaled or summed per row, and no shard is involved.

    The caller has checked that keys and queries are the same tensor. Weights may be anything that
    has a closed form.
    """
    if problem.row_scale is not None or problem.moment or problem.row_start != problem.col_start:
        return False
    if split(problem.spec)[1] is not None:
        return False
    return all(_symmetric(atom, problem.spec) for atom in problem.spec.atoms())


def _symmetric(atom: Spec, spec: Spec) -> bool:
    if isinstance(atom, Labels):
        return True  # its mask is at most "not self"
    if isinstance(atom, Exclude):
        same = atom.query.data_ptr() == atom.key.data_ptr() and atom.second is None
        return same and not (atom.keep_positive and spec.has("index", "block"))
    return atom.kind in _ALWAYS
