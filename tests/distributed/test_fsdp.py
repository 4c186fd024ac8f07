"""What `shard` makes of a module, on four gloo processes; the copy that is sharded."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from common.distributed import process
from common.engine.sharding import copy_to_shard, shard

# bfloat16 gradients of the ranks; their mean is 45.6..., and 45.5 when every sum is rounded, in
# whatever order
GRADIENTS = (166.0, 8.0625, 4.3125, 4.1875)


class Part(nn.Module):
    """Its weight's gradient is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).sum()


class Whole(nn.Module):
    """A block, a weight of the root and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.weight = Part(), nn.Parameter(torch.ones(4, 2))
        self.scale = nn.Parameter(torch.ones(()))

    def training_step(self, x: Tensor, index: int) -> Tensor:
        return self.block(x) + (self.weight * x).sum() + self.scale * x


def gradients_worker(precision: str) -> dict[str, tuple[torch.dtype, list[float]]]:
    """Dtype and distinct values of every parameter's gradient."""
    module = Whole().bfloat16() if precision == "bf16-true" else Whole()
    shard(module, {Part}, init_device_mesh("cpu", (process.world_size(),)), precision)
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    module.training_step(torch.tensor(GRADIENTS[process.rank()], dtype=dtype), 0).backward()
    actual = {}
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        assert grad is not None
        whole = grad.full_tensor() if isinstance(grad, DTensor) else grad
        actual[name] = (whole.dtype, whole.unique().tolist())
    return actual


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_gradients_are_summed_in_float32(pool, precision):
    """Blocks, what lies outside of them, and scalars; then kept in the dtype of the weights."""
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    mean = torch.tensor(GRADIENTS, dtype=torch.float64).mean().to(dtype).item()
    expected = (dtype, [mean])
    for actual in pool(4).run(gradients_worker, precision=precision):
        assert actual == {"block.weight": expected, "weight": expected, "scale": expected}


def test_a_copy_takes_over_the_memory_and_leaves_the_module_as_it_was():
    module = Whole()
    module.tied = nn.Linear(2, 2)
    module.tied.weight = module.block.weight if hasattr(module, "block") else module.tied.weight
    parameters = list(module.parameters())
    parameters[0].requires_grad_(False)
    values = [p.detach().clone() for p in parameters]
    places = [p.data_ptr() for p in parameters]
    with copy_to_shard(module) as duplicate:
        copies = list(duplicate.parameters())
        assert [p.data_ptr() for p in copies] == places
        assert [p.requires_grad for p in copies] == [p.requires_grad for p in parameters]
        assert all(torch.equal(a, b) for a, b in zip(copies, values, strict=True))
        assert all(p.numel() == 0 for p in module.parameters())
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    assert [p.shape for p in module.parameters()] == [v.shape for v in values]
