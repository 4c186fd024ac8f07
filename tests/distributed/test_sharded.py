"""Sharded pair statistics: gathered and in a ring, against the dense reference on one process."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from common.distributed import process
from common.kernels.blocked import sweep as blocked
from common.kernels.core import reference
from common.kernels.core.problem import Problem, merge_rows
from common.kernels.pair import info_nce, pair_softplus, pair_stats
from common.kernels.sharded import plan
from common.kernels.sharded.plan import Sharding
from common.kernels.sharded.statistics import sharded_stats
from common.kernels.specs import weights as S

DIM = 6
SIZES = {2: (5, 3), 4: (2, 5, 3, 4)}
SpecMaker = Callable[[dict[str, Tensor]], S.Spec]


class Rows:
    """Fixed random data of the whole batch, and the part of one rank."""

    def __init__(self, world_size: int, keys_per_query: int = 1) -> None:
        generator = torch.Generator().manual_seed(3)
        sizes = SIZES[world_size]
        n, m = sum(sizes), sum(sizes) * keys_per_query

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        def integers(count: int) -> Tensor:
            return torch.randint(0, 4, (count,), generator=generator)

        self.sizes, self.per_query = sizes, keys_per_query
        unit = torch.nn.functional.normalize
        self.query = {
            "q": unit(normal(n, DIM), dim=1),
            "row_scale": normal(n).exp(),
            "id_q": integers(n),
            "u": normal(n, 3),
            "thr": normal(n),
            "pos": torch.randint(-1, m, (n,)),
            "w1": normal(n),
            "w2": normal(n),
            "w3": normal(n),
        }
        self.query["pos"] = torch.arange(n) * 7 % m
        self.key = {
            "k": unit(normal(m, DIM), dim=1),
            "id_k": integers(m),
            "v": normal(m, 3),
            "thr_k": normal(m),
            "valid": integers(m) > 0,
            "w4": normal(m),
        }
        self.scale = torch.tensor(7.0, dtype=torch.float64)

    def whole(self) -> dict[str, Tensor]:
        return {**self.query, **self.key}

    def local(self, rank: int) -> dict[str, Tensor]:
        start = sum(self.sizes[:rank])
        stop, per = start + self.sizes[rank], self.per_query
        rows = {name: x[start:stop] for name, x in self.query.items()}
        return rows | {name: x[per * start : per * stop] for name, x in self.key.items()}


def shifted(d: dict[str, Tensor]) -> S.Spec:
    """Soft labels over all keys: the shift of each row comes with the data."""
    return S.LowRank(d["u"], d["v"], "softmax", 0.5, row_shift=d["thr"] + 3)


MAKERS: dict[str, SpecMaker] = {
    "diagonal": lambda d: S.Diagonal(),
    "index": lambda d: S.Index(d["pos"]),
    "labels": lambda d: S.Labels(d["id_q"], d["id_k"]),
    "sup_con": lambda d: S.Labels(d["id_q"], d["id_q"], exclude_self=True),
    "decoupled": lambda d: S.Diagonal() & S.ExcludePositive() & S.ExcludeSelf(),
    "ids": lambda d: S.Diagonal() & S.Exclude(d["id_q"], d["id_k"]),
    "valid_bias": lambda d: S.Valid(key=d["valid"]) & S.Bias(column=d["thr_k"], row=d["thr"]),
    "threshold": lambda d: S.Diagonal() & S.Threshold(d["u"], d["v"], d["thr"], d["thr_k"]),
    "low_rank": lambda d: S.LowRank(d["u"], d["v"], factor=0.5, shift=0.5) & S.ExcludeSelf(),
    "soft": shifted,
    "union": lambda d: (S.ExcludeSelf() | S.Valid(key=d["valid"])) & S.Uniform(0.25),
    "block": lambda d: S.Block(2),
}


def problem(d: dict[str, Tensor], spec: S.Spec, scale: Tensor) -> Problem:
    """Leaves with gradients for q, k, scale, row_scale; every statistic asked for."""
    leaves = [d[name].clone().requires_grad_() for name in ("q", "k", "row_scale")]
    return Problem(
        leaves[0],
        leaves[1],
        scale.clone().requires_grad_(),
        spec,
        row_scale=leaves[2],
        columns=True,
        moment=True,
        top1=True,
        unit_norm=False,
    )


def objective(stats: object, d: dict[str, Tensor]) -> Tensor:
    """A non-linear function of all statistics which is a sum over rows and columns."""
    row, column = stats.row_lse.masked_fill(stats.row_lse.isneginf(), 0), stats.col_lse
    column = column.masked_fill(column.isneginf(), 0)
    moment = stats.row_mom.masked_fill(stats.row_lse.isneginf(), 0)
    total = (d["w1"] * row.square() + d["w2"] * stats.row_lin + d["w3"] * moment.square()).sum()
    return total + (d["w4"] * column.square()).sum()


def gradients(loss: Tensor, p: Problem) -> list[Tensor]:
    return list(torch.autograd.grad(loss, (p.q, p.k, p.scale, p.row_scale)))


def stats_worker(name: str, mode: str) -> dict[str, object]:
    data = Rows(process.world_size(), 2 if name == "block" else 1)
    d = data.local(process.rank())
    p = problem(d, MAKERS[name](d), data.scale)
    stats = sharded_stats(p, blocked, Sharding(mode=mode))
    loss = objective(stats, d)
    return {
        "loss": loss.item(),
        "grads": gradients(loss, p),
        "best": stats.row_best,
        "hit": stats.row_hit,
        "row": stats.row_lse.detach(),
        "column": stats.col_lse.detach(),
    }


@pytest.mark.parametrize("mode", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_sharded_statistics_equal_the_whole_matrix(pool, name, world_size, mode):
    data = Rows(world_size, 2 if name == "block" else 1)
    d = data.whole()
    p = problem(d, MAKERS[name](d), data.scale)
    stats = reference.forward(replace(p, spec=p.spec.prepare()))
    loss = objective(stats, d)
    results = pool(world_size).run(stats_worker, name=name, mode=mode)

    def joined(key: str) -> Tensor:
        return torch.cat([result[key] for result in results])

    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(joined("row"), stats.row_lse.detach(), **close)
    torch.testing.assert_close(joined("column"), stats.col_lse.detach(), **close)
    torch.testing.assert_close(joined("best"), stats.row_best, **close)
    assert torch.equal(joined("hit"), stats.row_hit)
    assert sum(result["loss"] for result in results) == pytest.approx(loss.item(), rel=1e-12)
    dq, dk, dscale, drow = (
        list(grads) for grads in zip(*(r["grads"] for r in results), strict=True)
    )
    truth = gradients(loss, p)
    shares = [torch.cat(dq), torch.cat(dk), torch.stack(dscale).sum(), torch.cat(drow)]
    for share, whole in zip(shares, truth, strict=True):
        torch.testing.assert_close(share, whole, rtol=1e-11, atol=1e-11)


def softplus_worker(name: str, mode: str) -> dict[str, object]:
    data = Rows(process.world_size())
    d = data.local(process.rank())
    loss, leaves = softplus_loss(d, MAKERS[name](d), data.scale, Sharding(mode=mode))
    return {"loss": loss.item(), "grads": torch.autograd.grad(loss, leaves)}


def softplus_loss(
    d: dict[str, Tensor], spec: S.Spec, scale: Tensor, group: Sharding | None
) -> tuple[Tensor, list[Tensor]]:
    names = ("q", "k", "row_scale", "w3")
    q, k, row_scale, offset = (d[name].clone().requires_grad_() for name in names)
    scale, bias = scale.clone().requires_grad_(), torch.full_like(scale, -2.0).requires_grad_()
    sums = pair_softplus(
        q,
        k,
        scale,
        spec,
        bias=bias,
        row_offset=offset,
        row_scale=row_scale,
        group=group,
        unit_norm=False,
    )
    return (d["w1"] * sums.square()).sum(), [q, k, row_scale, offset, scale, bias]


def overlap_worker(overlap: bool, symmetric: bool, frozen: bool) -> list[Tensor]:
    data = Rows(process.world_size())
    d = data.local(process.rank())
    q, k = d["q"].clone().requires_grad_(), d["k"].clone().requires_grad_(not frozen)
    group = Sharding(overlap=overlap)
    loss = info_nce(q, k, 7.0, symmetric=symmetric, group=group)
    loss = loss + pair_softplus(q, k, 7.0, S.Diagonal(), reduction="mean", group=group)
    return [loss.detach(), *torch.autograd.grad(loss, [q] if frozen else [q, k])]


def twice_worker(mode: str, softplus: bool) -> str:
    d = Rows(process.world_size()).local(process.rank())
    x = (
        d["k"].clone().requires_grad_()
    )  # the keys of an encoder, whose own second derivative is not an excuse
    k, q, group = x.sin(), d["q"], Sharding(mode=mode)
    if softplus:
        loss = pair_softplus(q, k, 7.0, S.Diagonal(), group=group).sum()
    else:
        loss = info_nce(q, k, 7.0, symmetric=False, group=group)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    try:
        torch.autograd.grad(grad.square().sum(), x)
    except RuntimeError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize("mode", ["gather", "ring"])
@pytest.mark.parametrize("softplus", [False, True])
def test_second_derivatives_are_refused(pool, mode, softplus):
    """Part of them was left out, without a word."""
    for message in pool(2).run(twice_worker, mode=mode, softplus=softplus):
        assert "gather=False" in message


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(("symmetric", "frozen"), [(True, False), (False, False), (True, True)])
def test_overlapping_changes_no_result(pool, world_size, symmetric, frozen):
    """Checked against the whole matrix above (overlap is the default); here against one sweep."""
    options = {"symmetric": symmetric, "frozen": frozen}
    whole = pool(world_size).run(overlap_worker, overlap=False, **options)
    cut = pool(world_size).run(overlap_worker, overlap=True, **options)
    for left, right in zip(whole, cut, strict=True):
        for a, b in zip(left, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_tie_between_blocks_counts_as_a_hit():
    z, q = torch.eye(2).double(), torch.ones(1, 2).double() / 2**0.5
    p = Problem(q, z, torch.tensor(1.0).double(), S.Index(torch.tensor([1])), top1=True)
    halves = [blocked.forward(replace(p, k=z[c : c + 1], col_start=c)) for c in (0, 1)]
    assert merge_rows(*halves).row_hit.item() == blocked.forward(p).row_hit.item() == 1.0


@pytest.mark.parametrize("mode", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("name", ["diagonal", "labels", "ids", "valid_bias"])
def test_sharded_softplus_equals_the_whole_matrix(pool, name, world_size, mode):
    data = Rows(world_size)
    d = data.whole()
    loss, leaves = softplus_loss(d, MAKERS[name](d), data.scale, None)
    truth = torch.autograd.grad(loss, leaves)
    results = pool(world_size).run(softplus_worker, name=name, mode=mode)
    assert sum(result["loss"] for result in results) == pytest.approx(loss.item(), rel=1e-12)
    parts = list(zip(*(result["grads"] for result in results), strict=True))
    shares = [torch.cat(part) for part in parts[:4]] + [sum(part) for part in parts[4:]]
    for share, whole in zip(shares, truth, strict=True):
        torch.testing.assert_close(share, whole, rtol=1e-11, atol=1e-11)


INFO_NCE: dict[str, tuple[SpecMaker, bool]] = {
    "symmetric": (lambda d: S.Diagonal(), True),
    "one_sided": (lambda d: S.Diagonal(), False),
    "any_column": (lambda d: S.Index(d["pos"]), False),
    "sup_con": (lambda d: S.Labels(d["rare"], d["rare"], exclude_self=True), False),
    "rare": (lambda d: S.Labels(d["rare"], d["id_k"]), False),  # rows without positives
    "valid": (lambda d: S.Diagonal() & S.Valid(key=d["valid"]), True),  # columns without pairs
}


def info_nce_loss(
    d: dict[str, Tensor], name: str, scale: Tensor, reduction: str, group: Sharding | None
) -> tuple[Tensor, list[Tensor]]:
    d = d | {"rare": d["id_q"] * 3}
    maker, symmetric = INFO_NCE[name]
    leaves = [d["q"].clone().requires_grad_(), d["k"].clone().requires_grad_()]
    leaves.append(scale.clone().requires_grad_())
    loss = info_nce(*leaves, maker(d), symmetric=symmetric, reduction=reduction, group=group)
    return loss, leaves


def info_nce_worker(name: str, reduction: str, sharding: Sharding) -> dict[str, object]:
    data = Rows(process.world_size())
    loss, leaves = info_nce_loss(data.local(process.rank()), name, data.scale, reduction, sharding)
    return {"loss": loss.detach(), "grads": torch.autograd.grad(loss, leaves)}


@pytest.mark.parametrize("mode", ["gather", "ring"])
@pytest.mark.parametrize("grad_reduction", ["mean", "sum"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", INFO_NCE)
def test_info_nce_is_the_global_mean_with_gradients_for_ddp(
    pool, name, reduction, grad_reduction, mode
):
    data = Rows(4)
    loss, leaves = info_nce_loss(data.whole(), name, data.scale, reduction, None)
    truth = torch.autograd.grad(loss, leaves)
    sharding = Sharding(mode=mode, grad_reduction=grad_reduction)
    results = pool(4).run(info_nce_worker, name=name, reduction=reduction, sharding=sharding)
    values = [result["loss"] for result in results]
    assert all(torch.equal(value, values[0]) for value in values)
    assert values[0].item() == pytest.approx(loss.item(), rel=1e-12)
    dq, dk, dscale = zip(*(result["grads"] for result in results), strict=True)
    factor = 4 if grad_reduction == "mean" else 1
    shares = [torch.cat(dq), torch.cat(dk), torch.stack(dscale).sum()]
    for share, whole in zip(shares, truth, strict=True):
        torch.testing.assert_close(share / factor, whole, rtol=1e-11, atol=1e-12)


def partner_worker(mode: str) -> tuple[Tensor, Tensor]:
    data = Rows(process.world_size())
    d = data.local(process.rank())
    z = torch.cat([d["q"], d["k"]]).requires_grad_()
    spec = S.nt_xent_spec(len(d["q"]))
    loss = info_nce(z, z, data.scale, spec, symmetric=False, group=Sharding(mode=mode))
    return loss.detach(), torch.autograd.grad(loss, z)[0]


@pytest.mark.parametrize("mode", ["gather", "ring"])
def test_partner_of_local_stacks_equals_the_global_stack(pool, mode):
    data = Rows(4)
    d = data.whole()
    z = torch.cat([d["q"], d["k"]]).requires_grad_()
    loss = info_nce(z, z, data.scale, S.nt_xent_spec(len(d["q"])), symmetric=False)
    view_1, view_2 = torch.autograd.grad(loss, z)[0].chunk(2)
    first, second = (view.split(list(SIZES[4])) for view in (view_1, view_2))
    for rank, (value, grad) in enumerate(pool(4).run(partner_worker, mode=mode)):
        assert value.item() == pytest.approx(loss.item(), rel=1e-12)
        torch.testing.assert_close(grad / 4, torch.cat([first[rank], second[rank]]))


def traffic_worker(mode: str, frozen: bool, overlap: bool = True) -> list[str]:
    """Names of the collectives that the backward calls."""
    data = Rows(process.world_size())
    d = data.local(process.rank())
    q, k = d["q"].clone().requires_grad_(), d["k"].clone().requires_grad_(not frozen)
    loss = info_nce(q, k, data.scale, symmetric=False, group=Sharding(mode=mode, overlap=overlap))
    calls: list[str] = []
    originals = {}
    for name in (
        "all_gather_into_tensor",
        "reduce_scatter_tensor",
        "reduce",
        "all_reduce",
        "batch_isend_irecv",
    ):
        originals[name] = getattr(torch.distributed, name)

        def counted(*args: object, name: str = name, **kwargs: object) -> object:
            calls.extend([name] * (len(args[0]) if name.startswith("batch") else 1))
            return originals[name](*args, **kwargs)

        setattr(torch.distributed, name, counted)
    try:
        loss.backward()
    finally:
        for name, original in originals.items():
            setattr(torch.distributed, name, original)
    return calls


def test_frozen_keys_cause_no_gradient_traffic(pool):
    assert pool(2).run(traffic_worker, mode="gather", frozen=True) == [[], []]
    assert pool(2).run(traffic_worker, mode="gather", frozen=False)[0] == 2 * [
        "reduce"
    ]  # one a rank
    whole = pool(2).run(traffic_worker, mode="gather", frozen=False, overlap=False)
    assert whole[0] == ["reduce_scatter_tensor"]
    keys_and_dk = pool(4).run(traffic_worker, mode="ring", frozen=False)[0]
    only_keys = pool(4).run(traffic_worker, mode="ring", frozen=True)[0]
    assert (len(keys_and_dk), len(only_keys)) == (2 * (3 + 4), 2 * 3)


def equal_worker(promised: bool, mode: str) -> dict[str, object]:
    """Four rows on every rank, twice, then five; how often sizes were told at each of the steps."""
    told, results, tell = [], [], plan.all_gather_no_grad
    os.environ["CONTRASTIVE_EQUAL_SHARDS"] = str(int(promised))

    def counted(x: Tensor, *args: object) -> Tensor:
        told[-1] += x.shape == (1, 2)
        return tell(x, *args)

    plan.all_gather_no_grad = counted
    try:
        for rows in (4, 4, 5, 4):
            generator = torch.Generator().manual_seed(rows + 10 * process.rank())
            q, k = torch.randn(2, rows, DIM, dtype=torch.float64, generator=generator)
            q.requires_grad_()
            told.append(0)
            loss = info_nce(q, k, 3.0, unit_norm=False, group=Sharding(mode=mode))
            results += [loss.detach(), *torch.autograd.grad(loss, q)]
    finally:
        plan.all_gather_no_grad = tell
        del os.environ["CONTRASTIVE_EQUAL_SHARDS"]
    return {"told": told, "results": results}


@pytest.mark.parametrize("mode", ["gather", "ring"])
def test_sizes_of_equal_shards_are_told_once(pool, mode):
    """As long as the ranks' pool lives; nothing else changes."""
    always = pool(2).run(equal_worker, promised=False, mode=mode)
    once = pool(2).run(equal_worker, promised=True, mode=mode)
    assert [x["told"] for x in always] == [[1, 1, 1, 1]] * 2
    first = [1, 0, 1, 0] if mode == "gather" else [0, 0, 0, 0]  # of a group, by the case before
    assert [x["told"] for x in once] == [first] * 2
    for x, y in zip(always, once, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(x["results"], y["results"], strict=True))


def broken_promise_worker() -> str:
    os.environ["CONTRASTIVE_EQUAL_SHARDS"] = "1"
    q = torch.randn(8 + process.rank(), DIM)
    try:
        with pytest.raises(ValueError, match="drop the last batch") as error:
            info_nce(q, q, 7.0, unit_norm=False, group=Sharding())
    finally:
        del os.environ["CONTRASTIVE_EQUAL_SHARDS"]
    return str(error.value)


def test_unequal_shards_are_refused_where_equal_ones_are_promised(pool):
    for message in pool(2).run(broken_promise_worker):
        assert "ranks have [8, 9] rows and [8, 9] keys" in message


def replicated_worker() -> dict[str, object]:
    """Class prototypes that every rank holds; labels index them."""
    data = Rows(process.world_size())
    d = data.local(process.rank())
    q, prototypes = d["q"].clone().requires_grad_(), data.key["k"][:5].clone().requires_grad_()
    stats = pair_stats(
        q,
        prototypes,
        data.scale,
        S.Index(d["id_q"]),
        columns=True,
        group=Sharding(keys="replicated"),
    )
    loss = (stats.row_lse - stats.row_lin).sum() + stats.col_lse.sum() / process.world_size()
    return {"loss": loss.item(), "grads": torch.autograd.grad(loss, (q, prototypes))}


def test_replicated_keys(pool):
    data = Rows(4)
    d = data.whole()
    q, prototypes = d["q"].clone().requires_grad_(), d["k"][:5].clone().requires_grad_()
    stats = pair_stats(q, prototypes, data.scale, S.Index(d["id_q"]), columns=True)
    loss = (stats.row_lse - stats.row_lin).sum() + stats.col_lse.sum()
    truth = torch.autograd.grad(loss, (q, prototypes))
    results = pool(4).run(replicated_worker)
    assert sum(result["loss"] for result in results) == pytest.approx(loss.item(), rel=1e-12)
    dq, dk = zip(*(result["grads"] for result in results), strict=True)
    torch.testing.assert_close(torch.cat(dq), truth[0], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(sum(dk), truth[1], rtol=1e-11, atol=1e-12)


def misaligned_worker() -> str:
    """Positives and one hard negative per query in one key tensor."""
    d = Rows(process.world_size()).local(process.rank())
    with pytest.raises(ValueError, match="one role per key tensor") as error:
        info_nce(d["q"], torch.cat([d["k"], d["q"]]), 7.0, symmetric=False, group=Sharding())
    with pytest.raises(ValueError, match="give half ="):
        pair_stats(d["q"], d["q"], 7.0, S.nt_xent_spec(8), group=Sharding())
    return str(error.value)


def test_roles_in_one_key_tensor_are_refused(pool):
    assert "[5, 3]" in pool(2).run(misaligned_worker)[1]


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="'gather' or 'ring'"):
        Sharding(mode="star")
    with pytest.raises(ValueError, match="'sharded' or 'replicated'"):
        Sharding(keys="copied")


def half_precision_worker(mode: str) -> Tensor:
    d = Rows(process.world_size()).local(process.rank())
    q, k = d["q"].bfloat16().requires_grad_(), d["k"].bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(q, k, 7.0, group=Sharding(mode=mode))
        loss.backward()
    assert loss.dtype == torch.float32
    return k.grad.float() / process.world_size()


@pytest.mark.parametrize("mode", ["gather", "ring"])
def test_half_precision_keys_sum_their_gradient_in_float32(pool, mode):
    d = Rows(4).whole()
    q, k = d["q"].bfloat16().double(), d["k"].bfloat16().double().requires_grad_()
    (truth,) = torch.autograd.grad(info_nce(q, k, 7.0), k)
    grad = torch.cat(pool(4).run(half_precision_worker, mode=mode))
    torch.testing.assert_close(grad, truth.float(), rtol=2**-8, atol=1e-6)


def bit_equal_worker(mode: str) -> bool:
    runs = []
    for _ in range(2):
        data = Rows(process.world_size())
        d = data.local(process.rank())
        p = problem(d, MAKERS["diagonal"](d), data.scale)
        stats = sharded_stats(p, blocked, Sharding(mode=mode))
        runs.append([stats.row_lse.detach(), *gradients(objective(stats, d), p)])
    return all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


@pytest.mark.parametrize("mode", ["gather", "ring"])
def test_two_runs_are_bit_equal(pool, mode):
    assert all(pool(4).run(bit_equal_worker, mode=mode))


def compiled_worker() -> tuple[Tensor, Tensor]:
    d = Rows(process.world_size()).local(process.rank())
    q = d["q"].clone().requires_grad_()

    def loss(q: Tensor) -> Tensor:
        return info_nce(2 * q, d["k"], 3.0, unit_norm=False, group=Sharding()) ** 2

    eager = torch.autograd.grad(loss(q), q)[0]
    return eager, torch.autograd.grad(torch.compile(loss, backend="aot_eager")(q), q)[0]


@pytest.mark.slow
def test_inside_torch_compile(pool):
    for eager, compiled in pool(2).run(compiled_worker):
        torch.testing.assert_close(compiled, eager)
