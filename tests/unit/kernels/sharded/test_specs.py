"""Specs of local rows in global columns."""

import pytest
import torch

from common.kernels.sharded.specs import Shards, globalise
from common.kernels.specs.weights import And, ExcludeSelf, Index, Partner, Spec

SHARDS = Shards(1, (8, 8), (8, 8))


def indices(spec: Spec) -> torch.Tensor:
    leaves = spec.parts if isinstance(spec, And) else (spec,)
    (actual,) = (leaf.pos for leaf in leaves if isinstance(leaf, Index))
    return actual


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("spec", [Partner(4), And((Partner(4), ExcludeSelf()))])
def test_partners_lie_where_the_queries_lie(spec: Spec, device: str) -> None:
    """On a GPU a kernel would be given a pointer into the memory of the host."""
    assert indices(globalise(spec, SHARDS, None, torch.device(device))).device.type == device


def test_partners_are_rows_of_the_own_rank() -> None:
    actual = indices(globalise(Partner(4), SHARDS, None, torch.device("cpu")))
    assert actual.tolist() == [12, 13, 14, 15, 8, 9, 10, 11]
