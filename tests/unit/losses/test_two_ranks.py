"""Masks, hard negatives and banks on two ranks against one process: loss and gradients."""

import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.distributed import process
from common.distributed.process import default_group, world_size
from common.kernels.sharded import plan
from common.kernels.sharded.plan import Sharding
from common.losses.align_uniform import AlignUniformLoss
from common.losses.cacr import CACRLoss
from common.losses.functional.cacr import cacr_momentum
from common.losses.functional.info_nce import info_nce
from common.losses.functional.masks import guide_mask, id_mask
from common.losses.functional.multi_positive import disparate, sup_con
from common.losses.functional.siglip import siglip
from common.losses.functional.soft import cwcl
from common.losses.image_text import ClipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.multi_positive import SupConLoss
from common.losses.soft import DistillationLoss

SIZES = (5, 3)
N, K, D, M = sum(SIZES), 2, 4, 3

Batch = dict[str, Tensor]


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return {
        "x": normal(N, D), "y": normal(N, D), "hard": normal(N, K, D), "queue": normal(M, D),
        "guide_x": normal(N, 3), "guide_y": normal(N, 3), "guide_hard": normal(N, K, 3),
        "guide_queue": normal(M, 3), "labels": torch.arange(N) % 3,
        "ids": torch.tensor([0, 1, 2, 0, 3, 1, 4, 2]), "hard_ids": torch.arange(N * K).view(N, K) % 5,
        "queue_ids": torch.tensor([0, 3, 9]),
    }  # fmt: skip


def guided(b: Batch) -> Tensor:
    columns = [b["guide_y"], b["guide_hard"].flatten(0, 1), b["guide_queue"]]
    unit = [F.normalize(x, dim=1) for x in (b["guide_x"], *columns)]
    mask = guide_mask(unit[0], unit[1:], margin=0.2)
    loss = InfoNCELoss(hardness=0.0)
    return loss(b["x"], b["y"], 4.0, hard_negatives=b["hard"], queue=b["queue"], mask=mask).loss


def masked(b: Batch) -> Tensor:
    mask = id_mask(b["ids"], b["hard_ids"], b["queue_ids"])
    loss = InfoNCELoss(hardness=1.5)
    return loss(b["x"], b["y"], 4.0, hard_negatives=b["hard"], queue=b["queue"], mask=mask).loss


def ring(b: Batch) -> Tensor:
    group = Sharding(mode="ring") if world_size() > 1 else None
    x, y = (F.normalize(b[name], dim=1) for name in ("x", "y"))
    hard = F.normalize(b["hard"], dim=-1)
    return info_nce(x, y, 4.0, hard_negatives=hard, queue=b["queue"], group=group).loss


CASES: dict[str, Callable[[Batch], Tensor]] = {
    "guided": guided,
    "ids_and_hardness": masked,
    "ring": ring,
    "hard_logit": lambda b: (
        InfoNCELoss(hard_logit=0.7)(b["x"], b["y"], 4.0, hard_negatives=b["hard"]).loss
    ),
    "own_hard": lambda b: (
        InfoNCELoss(own_hard_only=True)(b["x"], b["y"], 4.0, hard_negatives=b["hard"]).loss
    ),
    "queue_only": lambda b: InfoNCELoss(in_batch=False)(b["x"], b["y"], 4.0, queue=b["queue"]).loss,
    "queries": lambda b: (
        InfoNCELoss(True, query_negatives=True)(b["x"], b["y"], 4.0, ids=b["ids"]).loss
    ),
    "views": lambda b: SupConLoss()(torch.stack([b["x"], b["y"]], 1), b["labels"], 4.0).loss,
    "shared_labels": lambda b: (
        SupConLoss()(b["x"], b["labels"], 4.0, keys=b["y"], key_labels=b["labels"]).loss
    ),
    "uniform_repulsion": lambda b: (
        CACRLoss(weighting="none", tau_plus=0.1)(torch.stack([b["x"], b["y"]])).loss
    ),
    "align_uniform": lambda b: AlignUniformLoss(2.0, 0.5)(b["x"], b["y"]).loss,
    "two_way_teacher": lambda b: (
        DistillationLoss(True, True)(b["x"], b["y"], b["guide_x"], b["guide_y"], 4.0, 3.0).loss
    ),
    "momentum": lambda b: (
        cacr_momentum(
            F.normalize(torch.stack([b["x"], b["y"]]), dim=-1),
            F.normalize(b["hard"][:, 0], dim=-1),
            0.3,
            cost="euclidean",
            group=default_group(),
        ).loss
    ),
}


def run(case: str) -> list[Tensor]:
    """Loss, then the gradients of x, y and hard: of one rank, or of the whole batch."""
    batch = own_rows(make_batch())
    leaves = [batch[name].requires_grad_() for name in ("x", "y", "hard")]
    loss = CASES[case](batch)
    loss.backward()
    return [loss.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)]


def own_rows(batch: Batch) -> Batch:
    """The part of this rank; queues are shared."""
    if world_size() == 1:
        return batch
    start = sum(SIZES[: process.rank()])
    rows = slice(start, start + SIZES[process.rank()])
    return {k: v if "queue" in k else v[rows] for k, v in batch.items()}


def siglip_hits(mode: str) -> Tensor:
    batch = make_batch()
    batch["y"] = batch["x"] + batch["y"]  # some of the pairs are nearest neighbours
    b = own_rows(batch)
    group = Sharding(mode=mode) if world_size() > 1 else None
    x, y = (F.normalize(b[name], dim=1) for name in ("x", "y"))
    return siglip(x, y, 4.0, -2.0, group=group).hits


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(two_ranks, case):
    first, second = two_ranks.run(run, case=case)
    wanted = run(case)
    torch.testing.assert_close(0.5 * (first[0] + second[0]), wanted[0])
    for one, other, whole in zip(first[1:], second[1:], wanted[1:], strict=True):
        # a row's gradient is twice that of the mean loss, which averaging over two ranks undoes
        torch.testing.assert_close(0.5 * torch.cat([one, other]), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["gather", "ring"])
def test_hits_of_the_sigmoid_loss_are_those_of_the_whole_batch(two_ranks, mode):
    wanted = siglip_hits(mode)
    assert 0 < wanted.sum() < N
    assert torch.equal(torch.cat(list(two_ranks.run(siglip_hits, mode=mode))), wanted)


SHARED = {  # keys that all ranks hold alike, such as prototypes
    "sup_con_in": lambda x, k, group: sup_con(
        x, k, torch.arange(len(x)) % 2, KINDS, 4.0, mode="in", group=group
    ),
    "sup_con_out": lambda x, k, group: sup_con(x, k, torch.arange(len(x)) % 2, KINDS, 4.0, group=group),
    "cwcl": lambda x, k, group: cwcl(x, k, x.detach(), k.detach(), 4.0, group=group),
    "disparate": lambda x, k, group: disparate(
        x, k, torch.ones_like(x), torch.arange(len(x)) % 2, 1 - torch.arange(len(x)) % 2, KINDS, 4.0, group=group
    ),
}  # fmt: skip
KINDS = torch.tensor([0, 1, 1, 0, 1])


def shared_keys(case: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    both = F.normalize(torch.randn(8, D, dtype=torch.float64, generator=generator), dim=1)
    keys = F.normalize(torch.randn(5, D, dtype=torch.float64, generator=generator), dim=1)
    if world_size() == 1:
        x, group = both, None
    else:  # equal ranks, whose labels begin anew
        x, group = both[process.rank() * 4 :][:4], Sharding(keys="replicated")
    loss = SHARED[case](x.requires_grad_(), keys.requires_grad_(), group).loss
    loss.backward()
    return [loss.detach(), x.grad, keys.grad]


@pytest.mark.parametrize("case", SHARED)
def test_keys_that_all_ranks_hold_count_once(two_ranks, case):
    """Their positives and weights were counted once per rank."""
    first, second = two_ranks.run(shared_keys, case=case)
    loss, x, keys = shared_keys(case)
    torch.testing.assert_close(0.5 * (first[0] + second[0]), loss)
    torch.testing.assert_close(0.5 * torch.cat([first[1], second[1]]), x, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(0.5 * (first[2] + second[2]), keys, rtol=1e-10, atol=1e-12)


def told(promised: bool) -> list[int]:
    """How often ranks told their numbers of rows, in each of two steps of a module."""
    batch, counts, tell = make_batch(), [], plan.all_gather_no_grad
    rows = slice(process.rank() * 3, process.rank() * 3 + 3)  # a number that no other test promises
    os.environ["CONTRASTIVE_EQUAL_SHARDS"] = str(int(promised))

    def counted(x: Tensor, *words: object) -> Tensor:
        counts[-1] += x.shape == (1, 2)
        return tell(x, *words)

    plan.all_gather_no_grad = counted
    try:
        for _ in range(2):
            counts.append(0)
            ClipLoss()(batch["x"][rows], batch["y"][rows], 4.0).loss.item()
    finally:
        plan.all_gather_no_grad = tell
        del os.environ["CONTRASTIVE_EQUAL_SHARDS"]
    return counts


def test_a_promise_of_equal_shards_reaches_the_modules(two_ranks):
    """The mean over rows asked for their number in every step all the same."""
    assert two_ranks.run(told, promised=False) == [[2, 2]] * 2
    for counts in two_ranks.run(told, promised=True):
        assert counts[1] == 0
