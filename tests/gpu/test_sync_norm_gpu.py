"""Batch norm over two processes of one CUDA device equals that of the whole batch on one."""

import pytest
import torch
from torch import nn

from common.encoders.sync_norm import synchronise_batch_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def _train(rank: int, rendezvous: str, results) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    layer = synchronise_batch_norm(nn.BatchNorm2d(3)).cuda()
    x = _rows()[3 * rank : 3 * rank + 3].cuda().requires_grad_()
    output = layer(x)
    output.pow(3).sum().backward()
    assert x.grad is not None
    results[rank] = (output.detach().cpu(), x.grad.cpu(), layer.running_var.cpu())
    torch.distributed.destroy_process_group()


def _rows() -> torch.Tensor:
    return torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_two_processes_normalise_as_one(tmp_path):
    results = torch.multiprocessing.get_context("spawn").Manager().dict()
    torch.multiprocessing.spawn(_train, (str(tmp_path / "rendezvous"), results), nprocs=2)
    layer, x = nn.BatchNorm2d(3), _rows().requires_grad_()
    output = layer(x)
    output.pow(3).sum().backward()
    assert x.grad is not None
    for index, whole in enumerate((output.detach(), x.grad)):
        shared = torch.cat([results[0][index], results[1][index]])
        torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[0][2], layer.running_var)
    assert not torch.allclose(results[0][0], nn.BatchNorm2d(3)(_rows()[:3]), atol=1e-3)
