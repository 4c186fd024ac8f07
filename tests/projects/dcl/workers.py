"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor, nn

from common.distributed import process
from common.families.images.linear import LinearClassification, LinearNetwork
from projects.dcl.evaluate import batch_npc
from projects.dcl.module import DCL
from projects.dcl.objective import OneWayObjective, TwoViewObjective
from tests.distributed.wrapped import linear_network, sgd_steps
from tests.projects.dcl.conftest import batch, config, method, random_views


def one_rank_loss(loss: str, host: str) -> float:
    """Loss of this rank's half of six pairs, for the mean over ranks."""
    z_1, z_2 = random_views(6)
    own = slice(3 * process.rank(), 3 * process.rank() + 3)
    if host == "simclr":
        return float(TwoViewObjective(method(loss))(z_1[own], z_2[own]).loss)
    return float(OneWayObjective(method(loss), in_batch=True)(z_1[own], z_2[own]).loss)


def one_rank_npc() -> Tensor:
    """q_B of this rank's own eight pairs in batches of four."""
    return batch_npc(config(), *random_views(8, seed=process.rank()), batch_size=4)


def three_steps(host: str, distributed: bool, synced: bool = False) -> dict[str, Tensor]:
    """State after three SGD steps of eight images; each of two ranks holds four."""
    torch.manual_seed(0)
    overrides = ["model.out_dim=8", "method.queue_size=20", "method.support_size=20"]
    norm = ["model.sync_batchnorm=true"] if synced else ["model.head_norm=none"]
    cfg = config(f"method.host={host}", *norm, *overrides)
    module = DCL(cfg, linear_network()).double()
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    whole = [batch(8, 4, seed=number, dtype=torch.float64) for number in range(3)]
    parts = [{k: v[own] for k, v in part.items() if k != "skipped"} for part in whole]
    return sgd_steps(module, parts, distributed)


def linear_steps(distributed: bool) -> dict[str, Tensor]:
    """Classifier after three SGD steps of eight images; each of two ranks holds four."""
    torch.manual_seed(0)
    encoder = nn.Flatten()
    encoder.num_features = 3 * 8 * 8  # type: ignore[assignment]
    module = LinearClassification(config("linear.train=true"), LinearNetwork(encoder, 4, 0.1))
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    parts = [
        {"images": torch.randn(8, 3, 8, 8)[own], "labels": torch.randint(0, 4, (8,))[own]}
        for _ in range(3)
    ]
    return sgd_steps(module, parts, distributed)
