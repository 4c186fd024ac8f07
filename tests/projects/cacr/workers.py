"""What the two processes of the tests run; importable by name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from common.distributed import process
from common.encoders.heads import MLPHead, ProjectedEncoder
from projects.cacr.module import CACR
from projects.cacr.objective import build_objective, logged_terms, multi_view_terms
from tests.projects.cacr.conftest import batch, config, method, random_views, wave


def multi_view(z: Tensor, **options: object) -> dict[str, Tensor]:
    """Loss and terms of embeddings (V, B, D) on host=batch."""
    cfg = method(**options)
    return multi_view_terms(build_objective(cfg), z, cfg)  # type: ignore[arg-type]


def with_queue(z: Tensor, keys: Tensor, queue: Tensor, **options: object) -> dict[str, Tensor]:
    """Loss and terms on host=queue."""
    loss = build_objective(method(host="queue", **options))
    return logged_terms(loss.terms(z, keys, queue), loss.kernel)  # type: ignore[union-attr]


def with_momentum(queries: Sequence[Tensor], keys: Sequence[Tensor], **options: object) -> Tensor:
    """Loss on host=momentum."""
    return build_objective(method(host="momentum", **options))(queries, keys).loss


def objective_value(host: str, z: Tensor, keys: Tensor, **options: object) -> Tensor:
    """Loss of embeddings under a host."""
    if host == "batch":
        return multi_view(z, **options)["loss"]
    if host == "queue":
        queue = F.normalize(wave(12, z.shape[-1], 0.5), dim=1)
        return with_queue(z, keys, queue, **options)["loss"]
    return with_momentum([*z], [*keys[:2]], **options)


def one_rank_loss(host: str, **options: object) -> float:
    """Loss of this rank's half of six samples, for the mean over ranks."""
    own = slice(3 * process.rank(), 3 * process.rank() + 3)
    z, keys = random_views(3, 6), random_views(3, 6, seed=1)
    return float(objective_value(host, z[:, own], keys[:, own], **options))


class Loss(nn.Module):
    """What DDP wraps."""

    def __init__(self, module: CACR) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict) -> Tensor:
        return self.module.losses(batch)["loss"]


def linear_network() -> ProjectedEncoder:
    """Without batch norm, whose statistics are those of the local batch."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 12))
    return ProjectedEncoder(encoder, MLPHead(12, [10], 8, norm="none"))  # type: ignore[arg-type]


def three_steps(host: str, distributed: bool, weighting: str = "full") -> dict[str, Tensor]:
    """State after three SGD steps of eight images; each of two ranks holds four."""
    torch.manual_seed(0)
    overrides = ["model.out_dim=8", "method.queue_size=20", "model.head_norm=none"]
    cfg = config(f"method.host={host}", f"method.weighting={weighting}", *overrides)
    module = CACR(cfg, linear_network()).double()
    step = Loss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    for number in range(3):
        views = batch(8, 4, seed=number, dtype=torch.float64)["views"]
        optimizer.zero_grad()
        wrapped({"views": views[:, own]}).backward()
        optimizer.step()
        module.after_optimizer_step()
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
