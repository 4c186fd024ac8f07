"""Loss modules through DistributedDataParallel against one process on the concatenated batch."""

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import process
from tests.distributed.model import CASES, Towers, local_rows, make_batch

SHARDS = {"even": (4, 4), "uneven": (5, 3), "four": (3, 2, 4, 3)}
BOUND = 1e-12

Gradients = dict[str, Tensor]


def gradients(model: torch.nn.Module) -> Gradients:
    """Parameter gradients without the wrapper's prefix."""
    return {
        name.removeprefix("module."): p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def difference(found: Gradients, truth: Gradients) -> float:
    """Largest error over parameters, relative to the largest entry of the true gradient."""
    assert found.keys() == truth.keys()
    scale = max(grad.abs().max() for grad in truth.values())
    return float(max((found[name] - truth[name]).abs().max() for name in truth) / scale)


def one_process(case: str, shard: str, frozen: bool = False) -> tuple[float, Gradients]:
    """Loss and gradients of the whole batch."""
    model = Towers()
    model.y.requires_grad_(not frozen)
    loss = model(case, make_batch(SHARDS[shard]))
    loss.backward()
    return loss.item(), gradients(model)


def ddp_worker(
    case: str, shard: str, gather: bool = True, frozen: bool = False
) -> tuple[float, Gradients]:
    """Loss of the own rows and gradients after the reduction."""
    model = Towers()
    model.y.requires_grad_(not frozen)
    ddp = DistributedDataParallel(model, find_unused_parameters=True)
    batch = local_rows(make_batch(SHARDS[shard]), SHARDS[shard], process.rank())
    loss = ddp(case, batch, gather)
    loss.backward()
    return loss.item(), gradients(model)


def assert_equal(results: list[tuple[float, Gradients]], truth: tuple[float, Gradients]) -> None:
    """Mean of the losses and every rank's gradients equal those of one process."""
    mean = sum(loss for loss, _ in results) / len(results)
    assert mean == pytest.approx(truth[0], rel=BOUND, abs=BOUND)
    for _, actual in results:
        assert difference(actual, truth[1]) <= BOUND


@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_one_process(pool, case, shard):
    results = pool(len(SHARDS[shard])).run(ddp_worker, case=case, shard=shard)
    assert_equal(results, one_process(case, shard))


@pytest.mark.parametrize("case", CASES)
def test_without_gathering_the_gradient_is_another_one(pool, case):
    """Negative twin: the equality above is not met by losses that see local rows only."""
    results = pool(2).run(ddp_worker, case=case, shard="even", gather=False)
    assert difference(results[0][1], one_process(case, "even")[1]) > 1e-3
