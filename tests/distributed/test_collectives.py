"""`common.distributed` on two and four gloo processes against the concatenated batch."""

import pytest
import torch
from torch import Tensor

from common.distributed import process
from common.distributed.collectives import (
    all_gather_no_grad,
    gather_sizes,
    reduce_scatter_rows,
    row_offset,
)
from common.distributed.differentiable import (
    all_gather_with_grad,
    all_reduce_mean,
    all_reduce_sum,
    rank_mean,
)
from common.distributed.process import (
    barrier,
    default_group,
    gather_objects,
    gradient_factor,
    is_rank_zero,
)
from common.distributed.ring import ring_exchange, ring_start

SIZES = {"equal": (3, 3, 3, 3), "unequal": (3, 1, 4, 2), "empty": (2, 0, 1, 3)}


def full(world_size: int, shard: str, width: int = 5) -> list[Tensor]:
    """Rows of every rank; the same on all ranks."""
    generator = torch.Generator().manual_seed(1)
    sizes = SIZES[shard][:world_size]
    return [torch.randn(n, width, dtype=torch.float64, generator=generator) for n in sizes]


def gather_worker(shard: str) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of sum_r <w_r, gathered>, w_r = (r + 1) * arange."""
    parts = full(process.world_size(), shard)
    x = parts[process.rank()].clone().requires_grad_()
    gathered = all_gather_with_grad(x)
    weight = torch.arange(gathered.numel(), dtype=torch.float64).view_as(gathered)
    ((process.rank() + 1) * weight * gathered.square()).sum().backward()
    return gathered.detach(), x.grad, all_gather_no_grad(x)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("shard", SIZES)
def test_gather_concatenates_and_its_backward_sums_over_ranks(pool, world_size, shard):
    parts = full(world_size, shard)
    batch = torch.cat(parts)
    weight = torch.arange(batch.numel(), dtype=torch.float64).view_as(batch)
    expected = 2 * sum(range(1, world_size + 1)) * weight * batch
    results = pool(world_size).run(gather_worker, shard=shard)
    for (gathered, grad, detached), truth in zip(
        results, expected.split([len(part) for part in parts]), strict=True
    ):
        assert torch.equal(gathered, batch)
        assert torch.equal(detached, batch)
        torch.testing.assert_close(grad, truth, rtol=1e-14, atol=0)


def wrong_rows_worker() -> str:
    with pytest.raises(ValueError, match="dimension 0 only") as error:
        all_gather_with_grad(torch.zeros(2, 3 + process.rank()))
    with pytest.raises(ValueError, match="scalar"):
        all_gather_no_grad(torch.tensor(1.0))
    return str(error.value)


def test_rows_of_different_width_are_refused_on_every_rank(pool):
    messages = pool(2).run(wrong_rows_worker)
    assert messages[0] == messages[1]
    assert "[3, 4]" in messages[0]


def dtype_worker(dtype: torch.dtype) -> Tensor:
    x = (torch.arange(6).view(2, 3) + 6 * process.rank()).T.to(dtype)  # not contiguous
    return all_gather_no_grad(x)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.bfloat16])
def test_gather_keeps_dtype_and_accepts_strides(pool, dtype):
    x = torch.arange(12).view(2, 2, 3).transpose(1, 2).reshape(6, 2).to(dtype)
    for gathered in pool(2).run(dtype_worker, dtype=dtype):
        assert gathered.dtype == dtype
        assert torch.equal(gathered, x)


def second_order_worker(kind: str) -> Tensor:
    """Gradient of sum_r |d L_r / d x|^2 for the cubic L_r = sum y^3, y gathered or reduced."""
    x = torch.full((2,), 1.0 + process.rank(), dtype=torch.float64, requires_grad=True)
    y = all_gather_with_grad(x) if kind == "gather" else all_reduce_sum(x)
    (grad,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    grad.square().sum().backward()
    return x.grad


@pytest.mark.parametrize("kind", ["gather", "reduce"])
def test_second_order_gradients(pool, kind):
    # gather: grad = W 3 x^2, |grad|^2 = 36 x^4 at W = 2 (each rank holds only its own grad's norm).
    # reduce: grad = W 3 s^2 with s = 3; sum over both ranks of 36 s^4, derivative 2 * 144 s^3.
    expected = [144.0, 1152.0] if kind == "gather" else [2 * 144.0 * 27] * 2
    for grad, value in zip(pool(2).run(second_order_worker, kind=kind), expected, strict=True):
        torch.testing.assert_close(grad, torch.full((2,), value, dtype=torch.float64))


def reduce_worker(mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.tensor([1.0, 2.0]) * (process.rank() + 1)
    x.requires_grad_()
    reduced = (all_reduce_mean if mean else all_reduce_sum)(x)
    (reduced * torch.tensor([1.0, 10.0])).sum().backward()
    return x.detach(), reduced.detach(), x.grad


@pytest.mark.parametrize(("mean", "factor"), [(True, 1.0), (False, 4.0)])
def test_all_reduce_is_out_of_place_and_sums_gradients(pool, mean, factor):
    for rank, (x, reduced, grad) in enumerate(pool(4).run(reduce_worker, mean=mean)):
        assert torch.equal(x, torch.tensor([1.0, 2.0]) * (rank + 1))
        assert torch.equal(reduced, torch.tensor([10.0, 20.0]) * factor / 4)
        assert torch.equal(grad, torch.tensor([1.0, 10.0]) * factor)


def bookkeeping_worker() -> dict[str, object]:
    here = process.rank()
    values = torch.arange(here + 1, dtype=torch.float64)
    barrier()
    return {
        "sizes": gather_sizes(here + 1),
        "offset": row_offset(here + 1),
        "objects": gather_objects({"rank": here}),
        "zero": is_rank_zero(),
        "mean": rank_mean(values).item(),
        "sum": rank_mean(values, grad_reduction="sum").item(),
        "group": default_group() is not None,
    }


def test_sizes_offsets_objects_and_rank_means(pool):
    results = pool(4).run(bookkeeping_worker)
    rows = torch.cat([torch.arange(n, dtype=torch.float64) for n in (1, 2, 3, 4)])
    assert [r["offset"] for r in results] == [0, 1, 3, 6]
    assert [r["zero"] for r in results] == [True, False, False, False]
    assert all(r["sizes"] == [1, 2, 3, 4] and r["group"] for r in results)
    assert all(r["objects"] == [{"rank": i} for i in range(4)] for r in results)
    assert sum(r["mean"] for r in results) / 4 == pytest.approx(rows.mean().item())
    assert sum(r["sum"] for r in results) == pytest.approx(rows.mean().item())


def test_without_a_process_group_everything_is_the_identity():
    x = torch.randn(3, 2, requires_grad=True)
    assert (process.rank(), process.world_size(), is_rank_zero()) == (0, 1, True)
    assert default_group() is None
    assert all_gather_with_grad(x) is x
    assert all_reduce_sum(x) is x
    assert torch.equal(all_reduce_mean(x), x)
    assert all_gather_no_grad(x).requires_grad is False
    assert reduce_scatter_rows(x, [3]) is x
    assert (gather_sizes(3), row_offset(3), gather_objects("a")) == ([3], 0, ["a"])
    assert rank_mean(x[:, 0]).item() == pytest.approx(x[:, 0].mean().item())
    assert ring_exchange([x], rows_in=3)[0] is x
    barrier()


def test_unknown_grad_reduction_is_refused():
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        gradient_factor("avg")  # type: ignore[arg-type]


def ring_worker(shard: str) -> list[list[float]]:
    """First column of the block seen at every hop; a second tensor travels along."""
    parts = full(process.world_size(), shard)
    block, tag = (
        parts[process.rank()],
        torch.full((len(parts[process.rank()]),), float(process.rank())),
    )
    seen = []
    for hop in range(process.world_size()):
        owner = (process.rank() - hop) % process.world_size()
        assert (tag == owner).all()
        seen.append(block[:, 0].tolist())
        previous = (owner - 1) % process.world_size()
        block, tag = ring_exchange([block, tag], rows_in=len(parts[previous]))
    assert torch.equal(block, parts[process.rank()])  # home again
    return seen


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("shard", SIZES)
def test_ring_brings_every_block_to_every_rank(pool, world_size, shard):
    columns = [part[:, 0].tolist() for part in full(world_size, shard)]
    for rank, seen in enumerate(pool(world_size).run(ring_worker, shard=shard)):
        assert seen == [columns[(rank - hop) % world_size] for hop in range(world_size)]


def large_ring_worker() -> bool:
    """Blocking sends of 16 MiB would fill every buffer and hang."""
    x = torch.full((4 * 2**20,), float(process.rank()))
    hop = ring_start([x], rows_in=len(x))
    return bool((hop.wait()[0] == (process.rank() - 1) % process.world_size()).all())


def test_large_ring_messages_do_not_dead_lock(pool):
    assert all(pool(2).run(large_ring_worker))


def sub_group_worker() -> list[float]:
    pairs = [torch.distributed.new_group(ranks) for ranks in ([0, 2], [1, 3])]
    group = pairs[process.rank() % 2]
    x = torch.tensor([float(process.rank())])
    (arrived,) = ring_exchange([x], rows_in=1, group=group)
    return [*all_gather_no_grad(x, group).tolist(), *arrived.tolist()]


def test_sub_groups(pool):
    assert pool(4).run(sub_group_worker) == [[0, 2, 2], [1, 3, 3], [0, 2, 0], [1, 3, 1]]


def compiled_worker() -> tuple[Tensor, Tensor]:
    x = torch.full((2, 2), 1.0 + process.rank(), requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        gathered = all_gather_with_grad(x * 2)
        return all_reduce_mean((x @ gathered.T).square().sum())

    eager = torch.autograd.grad(loss(x), x)[0]
    compiled = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(x), x)[0]
    return eager, compiled


@pytest.mark.slow
def test_inside_torch_compile(pool):
    for eager, compiled in pool(2).run(compiled_worker):
        torch.testing.assert_close(compiled, eager)


def failing_worker() -> None:
    if process.rank() == 1:
        raise RuntimeError("rank one says no")
    barrier()


def test_the_pool_reports_the_rank_that_raised_and_recovers(pool):
    with pytest.raises(AssertionError, match="rank 1 raised"):
        pool(2).run(failing_worker)
    assert pool(2).run(process.rank) == [0, 1]
