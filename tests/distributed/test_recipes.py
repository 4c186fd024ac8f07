"""Training recipes through DDP (frozen tower, accumulation, gradient cache), and the known
mistakes.

The mistakes are the negative twins: each is shown to give another gradient than one process.
"""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import common.losses
from common.distributed import process
from common.distributed.collectives import all_gather_no_grad, row_offset
from common.distributed.differentiable import all_gather_with_grad
from common.distributed.process import world_size
from common.losses.grad_cache import cached_encode
from common.losses.image_text import ClipLoss
from common.losses.info_nce import InfoNCELoss
from tests.distributed.model import CASES, Batch, Towers, local_rows, make_batch
from tests.distributed.test_losses import (
    BOUND,
    SHARDS,
    Gradients,
    assert_equal,
    ddp_worker,
    difference,
    gradients,
    one_process,
)

# --- recipes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize("case", ["clip", "clip_ring", "siglip", "info_nce_hard", "info_nce_queue"])
def test_frozen_tower(pool, case, shard):
    results = pool(len(SHARDS[shard])).run(ddp_worker, case=case, shard=shard, frozen=True)
    truth = one_process(case, shard, frozen=True)
    assert not any(name.startswith("y.") for name in truth[1])
    assert_equal(results, truth)


class UnevenHard(torch.nn.Module):
    """Rank r mines r + 1 hard negatives per row; all of them are negatives of all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = Towers()

    def forward(self, batch: Batch, hard: Tensor) -> Tensor:
        m = self.towers
        hard = m.y(hard).view(len(batch["x"]), -1, m.y[-1].out_features)
        loss = InfoNCELoss()(m.x(batch["x"]), m.y(batch["y"]), m.scale(), hard_negatives=hard)
        return loss.loss


def hard_rows(sizes: tuple[int, ...]) -> list[Tensor]:
    """Inputs of the hard negatives of every rank."""
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn((rank + 1) * size, 7, dtype=torch.float64, generator=generator)
        for rank, size in enumerate(sizes)
    ]


def uneven_hard_worker(shard: str) -> tuple[float, Gradients]:
    sizes = SHARDS[shard]
    ddp = DistributedDataParallel(UnevenHard(), find_unused_parameters=True)
    batch = local_rows(make_batch(sizes), sizes, process.rank())
    loss = ddp(batch, hard_rows(sizes)[process.rank()])
    loss.backward()
    return loss.item(), gradients(ddp)


@pytest.mark.parametrize("shard", SHARDS)
def test_uneven_hard_negatives(pool, shard):
    model, batch = UnevenHard(), make_batch(SHARDS[shard])
    m = model.towers
    x, y = F.normalize(m.x(batch["x"]), dim=1), F.normalize(m.y(batch["y"]), dim=1)
    hard = F.normalize(m.y(torch.cat(hard_rows(SHARDS[shard]))), dim=1)
    logits = m.scale() * x @ torch.cat([y, hard]).T
    loss = F.cross_entropy(logits, torch.arange(len(x)))
    loss.backward()
    results = pool(len(SHARDS[shard])).run(uneven_hard_worker, shard=shard)
    assert_equal(results, (loss.item(), gradients(model)))


MICRO = ((2, 3), (4, 2))  # rows of the two ranks in two micro-batches


def accumulation_worker(case: str) -> Gradients:
    model = Towers()
    ddp = DistributedDataParallel(model, find_unused_parameters=True)
    for step, sizes in enumerate(MICRO):
        batch = local_rows(make_batch(sizes), sizes, process.rank())
        with ddp.no_sync() if step == 0 else nullcontext():
            (ddp(case, batch) / len(MICRO)).backward()
    return gradients(model)


@pytest.mark.parametrize("case", ["clip", "clip_ring", "siglip"])
def test_gradient_accumulation(pool, case):
    model = Towers()
    for sizes in MICRO:
        (model(case, make_batch(sizes)) / len(MICRO)).backward()
    for actual in pool(2).run(accumulation_worker, case=case):
        assert difference(actual, gradients(model)) <= BOUND


class Cached(torch.nn.Module):
    """CLIP whose towers run chunk by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = Towers()

    def forward(self, batch: Batch) -> Tensor:
        m = self.towers
        x, y = (cached_encode(getattr(m, name), batch[name], chunk_size=2) for name in "xy")
        return ClipLoss()(x, y, m.scale()).loss


def cached_worker(shard: str) -> tuple[float, Gradients]:
    ddp = DistributedDataParallel(Cached(), find_unused_parameters=True)
    loss = ddp(local_rows(make_batch(SHARDS[shard]), SHARDS[shard], process.rank()))
    loss.backward()
    return loss.item(), {k.removeprefix("towers."): v for k, v in gradients(ddp).items()}


@pytest.mark.parametrize("shard", SHARDS)
def test_gradient_cache_inside_the_wrapper(pool, shard):
    results = pool(len(SHARDS[shard])).run(cached_worker, shard=shard)
    assert_equal(results, one_process("clip", shard))


class Embeddings(torch.nn.Module):
    """Embeddings of a chunk and the scale, for a cache that lives outside of the wrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = Towers()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        m = self.towers
        return m.x(batch["x"]), m.y(batch["y"]), m.scale()


def two_pass_worker(sync_all: bool = False) -> tuple[float, Gradients, int]:
    """Embed without gradient, loss on the embeddings once, then every chunk; one reduction."""
    model = Embeddings()
    ddp = DistributedDataParallel(model, find_unused_parameters=True)
    reductions = []
    ddp.register_comm_hook(reductions, count_reductions)
    batch = local_rows(make_batch(SHARDS["even"]), SHARDS["even"], process.rank())
    with torch.no_grad():
        embedded = model(batch)
    leaves = [x.detach().requires_grad_() for x in embedded]
    loss = ClipLoss()(*leaves).loss
    loss.backward()
    chunks = [{name: x[i : i + 2] for name, x in batch.items()} for i in (0, 2)]
    for i, chunk in enumerate(chunks):
        last = i == len(chunks) - 1
        with nullcontext() if last or sync_all else ddp.no_sync():
            x, y, scale = ddp(chunk)
            rows = slice(2 * i, 2 * i + 2)
            surrogate = (x * leaves[0].grad[rows]).sum() + (y * leaves[1].grad[rows]).sum()
            (surrogate + (scale * leaves[2].grad if last else 0)).backward()
    actual = {name.removeprefix("towers."): grad for name, grad in gradients(ddp).items()}
    return loss.item(), actual, len(reductions)


def count_reductions(
    seen: list[int], bucket: torch.distributed.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    """The default averaging hook; notes every call."""
    seen.append(bucket.index())
    work = torch.distributed.all_reduce(bucket.buffer().div_(world_size()), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def test_two_pass_gradient_cache_with_no_sync(pool):
    results = pool(2).run(two_pass_worker)
    assert_equal([(loss, grads) for loss, grads, _ in results], one_process("clip", "even"))
    once, every = results[0][2], pool(2).run(two_pass_worker, sync_all=True)[0][2]
    assert every == 2 * once


# --- mistakes -----------------------------------------------------------------------------------


def own_slice_gather(x: Tensor) -> Tensor:
    """Gathered rows of which only the own ones carry gradient."""
    parts = list(all_gather_no_grad(x).chunk(world_size()))
    parts[process.rank()] = x
    return torch.cat(parts)


def dense_clip(x: Tensor, y: Tensor, all_x: Tensor, all_y: Tensor, scale: Tensor) -> Tensor:
    """Own rows in both directions against all columns."""
    target = torch.arange(len(x)) + row_offset(len(x))
    rows, columns = scale * x @ all_y.T, scale * y @ all_x.T
    return (F.cross_entropy(rows, target) + F.cross_entropy(columns, target)) / 2


def local_with_gradient(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return dense_clip(x, y, all_gather_with_grad(x), all_gather_with_grad(y), scale)


def local_without_gradient(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return dense_clip(x, y, own_slice_gather(x), own_slice_gather(y), scale)


def global_with_gradient(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    all_x, all_y = all_gather_with_grad(x), all_gather_with_grad(y)
    return global_loss(all_x, all_y, scale)


def global_without_gradient(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return global_loss(own_slice_gather(x), own_slice_gather(y), scale)


def global_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    target = torch.arange(len(x))
    logits = scale * x @ y.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def plain_mean(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The local mean of per-row losses, without weights for unequal row counts."""
    return ClipLoss()(x, y, scale).per_sample.mean()


class Recipe(torch.nn.Module):
    """Towers and one way to compute the loss."""

    def __init__(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.towers, self.loss = Towers(), loss

    def forward(self, batch: Batch) -> Tensor:
        m = self.towers
        x, y = F.normalize(m.x(batch["x"]), dim=1), F.normalize(m.y(batch["y"]), dim=1)
        return self.loss(x, y, m.scale())


def recipe_worker(loss: Callable[..., Tensor], shard: str) -> Gradients:
    ddp = DistributedDataParallel(Recipe(loss), find_unused_parameters=True)
    ddp(local_rows(make_batch(SHARDS[shard]), SHARDS[shard], process.rank())).backward()
    return {name.removeprefix("towers."): grad for name, grad in gradients(ddp).items()}


def flat(grads: Gradients, scale: bool = False) -> Tensor:
    """Encoder gradients in one vector, or those of the scale."""
    return torch.cat([g.flatten() for n, g in grads.items() if n.startswith("scale") == scale])


@pytest.mark.parametrize("loss", [local_with_gradient, global_with_gradient])
def test_both_dense_recipes_with_gradient_are_exact(pool, loss):
    actual = pool(2).run(recipe_worker, loss=loss, shard="even")[0]
    assert difference(actual, one_process("clip", "even")[1]) <= BOUND


def test_local_loss_without_gradient_points_elsewhere(pool):
    actual = pool(2).run(recipe_worker, loss=local_without_gradient, shard="even")[0]
    truth = one_process("clip", "even")[1]
    cosine = F.cosine_similarity(flat(actual), flat(truth), dim=0)
    assert 0.5 < cosine < 0.999


def test_global_loss_without_gradient_is_too_small_by_the_world_size(pool):
    actual = pool(2).run(recipe_worker, loss=global_without_gradient, shard="even")[0]
    truth = one_process("clip", "even")[1]
    torch.testing.assert_close(flat(actual), flat(truth) / 2)  # encoders
    torch.testing.assert_close(flat(actual, scale=True), flat(truth, scale=True))  # not the scale


def test_plain_means_of_unequal_batches_are_not_the_global_mean(pool):
    truth = one_process("clip", "uneven")[1]
    plain = pool(2).run(recipe_worker, loss=plain_mean, shard="uneven")[0]
    assert difference(plain, truth) > 1e-3


def roles_worker() -> tuple[Tensor, Tensor, Tensor]:
    """Losses with roles gathered one by one and as one concatenation [positives, negatives]."""
    model, sizes = Towers(), SHARDS["even"]
    batch = local_rows(make_batch(sizes), sizes, process.rank())
    with torch.no_grad():
        query, positive, negative = (
            F.normalize(x, dim=1)
            for x in (model.x(batch["x"]), model.y(batch["y"]), model.y(batch["hard"][:, 0]))
        )
        by_role = torch.cat([all_gather_no_grad(positive), all_gather_no_grad(negative)])
        as_one = all_gather_no_grad(torch.cat([positive, negative]))
        target = torch.arange(len(query)) + row_offset(len(query))
        losses = [F.cross_entropy(model.scale() * query @ k.T, target) for k in (by_role, as_one)]
    return (*losses, as_one)


def test_a_gathered_concatenation_of_roles_mislabels(pool):
    model, batch = Towers(), make_batch(SHARDS["even"])
    with torch.no_grad():
        x, y = F.normalize(model.x(batch["x"]), dim=1), F.normalize(model.y(batch["y"]), dim=1)
        hard = F.normalize(model.y(batch["hard"][:, 0]), dim=1)
        logits = model.scale() * x @ torch.cat([y, hard]).T
        truth = F.cross_entropy(logits, torch.arange(len(x)), reduction="none")
    results = pool(2).run(roles_worker)
    by_role = torch.stack([result[0] for result in results]).mean()
    as_one = torch.stack([result[1] for result in results])
    torch.testing.assert_close(by_role, truth.mean(), rtol=BOUND, atol=BOUND)
    # Rank 0 is right by luck; rank 1 takes the negatives of rank 0 for its positives.
    torch.testing.assert_close(as_one[0], truth[:4].mean(), rtol=BOUND, atol=BOUND)
    torch.testing.assert_close(results[1][2][4:8], hard[:4], rtol=BOUND, atol=BOUND)
    assert (as_one[1] - truth[4:].mean()).abs() > 0.1


def test_every_loss_module_is_covered():
    """A new module with a group needs its line in `model.CASES`."""
    folder = Path(common.losses.__file__).parent
    text = "\n".join(path.read_text() for path in folder.glob("*.py") if path.name != "base.py")
    modules = set(re.findall(r"^class (\w+Loss)\b", text, re.M))
    assert len(modules) > 12
    source = {name for case in CASES.values() for name in case.__code__.co_names}
    local = {"TripletLoss", "MarginRankingLoss"}
    elsewhere = {"CACRQueueLoss", "CACRMomentumLoss"}  # tests/projects/cacr, with their hosts
    assert modules - source == local | elsewhere
