"""Masks, hard negatives and banks on two ranks against one process: loss and gradients."""

import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.distributed import collectives, process
from common.distributed.process import default_group, world_size
from common.kernels.sharded.plan import Sharding
from common.losses.align_uniform import AlignUniformLoss
from common.losses.auxiliary.prototypes import sampled_prototype_softmax
from common.losses.cacr import CACRLoss, CACRMomentumLoss
from common.losses.functional.cacr import cacr_momentum
from common.losses.functional.gated_pairs import dense_pair_loss
from common.losses.functional.geometry import align_uniform, uniformity
from common.losses.functional.info_nce import clip, info_nce
from common.losses.functional.masks import guide_mask, id_mask
from common.losses.functional.multi_positive import disparate, sup_con
from common.losses.functional.non_contrastive import barlow_twins
from common.losses.functional.siglip import siglip
from common.losses.functional.soft import cwcl
from common.losses.image_text import ClipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.multi_positive import SupConLoss
from common.losses.soft import DistillationLoss
from common.losses.two_view import DCLLoss
from common.losses.weighted.focal import paired_focal
from common.losses.weighted.overlap import overlap_of_all_ranks, weighted_two_view
from projects.mofi import class_matrix
from projects.mofi.class_matrix import ClassMatrix

SIZES = (5, 3)
N, K, D, M = sum(SIZES), 2, 4, 3

Batch = dict[str, Tensor]


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return {
        "x": normal(N, D),
        "y": normal(N, D),
        "hard": normal(N, K, D),
        "queue": normal(M, D),
        "guide_x": normal(N, 3),
        "guide_y": normal(N, 3),
        "guide_hard": normal(N, K, 3),
        "guide_queue": normal(M, 3),
        "labels": torch.arange(N) % 3,
        "ids": torch.tensor([0, 1, 2, 0, 3, 1, 4, 2]),
        "hard_ids": torch.arange(N * K).view(N, K) % 5,
        "queue_ids": torch.tensor([0, 3, 9]),
    }


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
    "hard_logit_queue": lambda b: (
        InfoNCELoss(hard_logit=-9.0)(
            b["x"], b["y"], 4.0, hard_negatives=b["hard"], queue=b["queue"]
        ).loss
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
    expected = run(case)
    torch.testing.assert_close(0.5 * (first[0] + second[0]), expected[0])
    for one, other, whole in zip(first[1:], second[1:], expected[1:], strict=True):
        # a row's gradient is twice that of the mean loss, which averaging over two ranks undoes
        torch.testing.assert_close(0.5 * torch.cat([one, other]), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["gather", "ring"])
def test_hits_of_the_sigmoid_loss_are_those_of_the_whole_batch(two_ranks, mode):
    expected = siglip_hits(mode)
    assert 0 < expected.sum() < N
    assert torch.equal(torch.cat(list(two_ranks.run(siglip_hits, mode=mode))), expected)


SHARED = {  # keys that all ranks hold alike, such as prototypes
    "sup_con_in": lambda x, k, group: sup_con(
        x, k, torch.arange(len(x)) % 2, KINDS, 4.0, mode="in", group=group
    ),
    "sup_con_out": lambda x, k, group: sup_con(
        x, k, torch.arange(len(x)) % 2, KINDS, 4.0, group=group
    ),
    "cwcl": lambda x, k, group: cwcl(x, k, x.detach(), k.detach(), 4.0, group=group),
    "disparate": lambda x, k, group: disparate(
        x,
        k,
        torch.ones_like(x),
        torch.arange(len(x)) % 2,
        1 - torch.arange(len(x)) % 2,
        KINDS,
        4.0,
        group=group,
    ),
}
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


SUMMED = {
    "clip": lambda x, group: clip(x, x.flip(1), 2.0, group=group).loss,
    "uniformity": lambda x, group: uniformity(x, group=group),
    "align_uniform": lambda x, group: align_uniform(x, x.flip(1), group=group).loss,
    "barlow_twins": lambda x, group: barlow_twins(x, x.flip(1), group=group),
}


def gradient_of(case: str, reduction: str) -> tuple[Tensor, Tensor]:
    x = own_rows(make_batch())["x"].requires_grad_()
    group = Sharding(grad_reduction=reduction) if world_size() > 1 else None
    loss = SUMMED[case](x, group)
    loss.backward()
    return loss.detach(), x.grad


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 0.5), ("sum", 1.0)])
@pytest.mark.parametrize("case", SUMMED)
def test_gradients_may_be_summed_over_ranks(two_ranks, case, reduction, factor):
    """Losses that every rank forms whole took them for averaged ones."""
    first, second = two_ranks.run(gradient_of, case=case, reduction=reduction)
    loss, grad = gradient_of(case, reduction)
    torch.testing.assert_close(factor * (first[0] + second[0]), loss)
    torch.testing.assert_close(factor * torch.cat([first[1], second[1]]), grad)


def momentum_sum() -> Tensor:
    b = own_rows(make_batch())
    return CACRMomentumLoss(0.3, reduction="sum")([b["x"], b["y"]], [b["x"], b["y"]]).loss


def test_a_sum_over_samples_is_that_of_unequal_ranks(two_ranks):
    """The share of a mean over all rows was taken times the own rows."""
    first, second = two_ranks.run(momentum_sum)
    torch.testing.assert_close(first + second, momentum_sum())


def sampled(x: Tensor, y: Tensor) -> Tensor:
    ids = torch.arange(4)[process.rank() :: 2]
    others = torch.full((len(x), 1), -1)
    return sampled_prototype_softmax(
        x, y[: len(ids)], ids, torch.arange(len(x)), 4.0, others=others, group=default_group()
    ).loss


def alone() -> Tensor:
    """Without a group every rank is a process of its own."""
    x, ids = make_batch()["x"], torch.arange(N)
    return sampled_prototype_softmax(x, x.flip(1), ids, ids, 4.0).per_sample


def test_sampled_classes_without_a_group_are_those_of_one_process(two_ranks):
    assert len(alone()) == N
    for actual in two_ranks.run(alone):
        torch.testing.assert_close(actual, alone())


def overlapping(x: Tensor, y: Tensor) -> Tensor:
    group = default_group()
    counts = torch.ones(len(x), dtype=torch.long)
    weights = overlap_of_all_ranks(torch.arange(len(x)), counts, group=group)
    return weighted_two_view(x, y, 4.0, weights, group=group).loss


def paired(x: Tensor, y: Tensor) -> Tensor:
    kinds, gate = torch.arange(len(x)) % 2, torch.ones_like(x)
    return dense_pair_loss(x, y, gate, kinds, kinds, 4.0, exclude_self=True, row_mean=True)


# by module: the loss, and the exchanges of a step that are not of numbers of rows
ASKED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "clip": (lambda x, y: ClipLoss()(x, y, 4.0).loss, 0),
    "hard": (lambda x, y: InfoNCELoss()(x, y, 4.0, hard_negatives=x + y).loss, 0),
    "hard_logit": (
        lambda x, y: InfoNCELoss(hard_logit=0.5)(x, y, 4.0, hard_negatives=x + y).loss,
        0,
    ),
    "dclw": (lambda x, y: DCLLoss(weighted=True)(x, y, 4.0).loss, 0),
    "sup_con": (
        lambda x, y: (
            SupConLoss()(
                x, torch.arange(len(x)) % 2, 4.0, keys=y, key_labels=torch.arange(len(x)) % 2
            ).loss
        ),
        0,
    ),
    "sampled": (sampled, 0),
    "overlap": (overlapping, 1),  # elements of the sets
    "paired": (paired, 0),
    "focal": (lambda x, y: paired_focal(x, y, torch.tensor(4.0), 0.5, 1.0)[0], 0),
}


def told(case: str, promised: bool) -> list[int]:
    """How often ranks told their numbers of rows, in each of two steps of a module."""
    batch, counts, gather = make_batch(), [], collectives._gather_equal
    # 3 rows, 6 with hard negatives or two views: numbers that no other test promises, or breaks
    rows = slice(process.rank() * 3, process.rank() * 3 + 3)
    os.environ["CONTRASTIVE_EQUAL_SHARDS"] = str(int(promised))

    def counted(x: Tensor, group: object) -> Tensor:
        counts[-1] += x.numel() <= 2 and not x.is_floating_point()
        return gather(x, group)

    collectives._gather_equal = counted
    try:
        for _ in range(2):
            counts.append(0)
            ASKED[case][0](batch["x"][rows], batch["y"][rows]).item()
    finally:
        collectives._gather_equal = gather
        del os.environ["CONTRASTIVE_EQUAL_SHARDS"]
    return counts


@pytest.mark.parametrize("case", ASKED)
def test_a_promise_of_equal_shards_reaches_the_modules(two_ranks, case):
    """The mean over rows, and gathers beside the kernel's, asked for their number all the same."""
    elsewhere = ASKED[case][1]
    for counts in two_ranks.run(told, case=case, promised=False):
        assert counts[1] > elsewhere
    for counts in two_ranks.run(told, case=case, promised=True):
        assert counts[1] == elsewhere


def whole_state(rows: int) -> dict[str, Tensor]:
    """State of a matrix whose classes two ranks share out, put together a few rows at a time."""
    torch.manual_seed(0)
    matrix, kept = ClassMatrix(7, 3), class_matrix.ROWS_AT_ONCE
    matrix.second.normal_()
    matrix.shard_()
    moved, gather = [], class_matrix.all_gather_no_grad

    def watched(*words: object, **more: object) -> Tensor:
        moved.append(gather(*words, **more))
        return moved[-1]

    class_matrix.ROWS_AT_ONCE, class_matrix.all_gather_no_grad = rows, watched
    try:
        state = matrix.state_dict()
        matrix.whole_()
    finally:
        class_matrix.ROWS_AT_ONCE, class_matrix.all_gather_no_grad = kept, gather
    assert all(len(x) <= rows for x in moved)
    assert all(torch.equal(state[name], x) for name, x in matrix.named_buffers())
    return {name: x.clone() for name, x in state.items()}


@pytest.mark.parametrize("rows", [2, 4, 100])
def test_a_matrix_of_two_ranks_is_saved_in_parts(two_ranks, rows):
    """A device would not hold a matrix of millions of classes beside its share, three times
    over."""
    expected = whole_state(rows)
    for actual in two_ranks.run(whole_state, rows=rows):
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[name], x) for name, x in expected.items())
