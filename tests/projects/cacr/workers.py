"""What the two processes of the tests run; importable by name."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed import process
from projects.cacr.module import CACR
from projects.cacr.objective import build_objective
from projects.cacr.terms import multi_view_terms, queue_terms
from tests.distributed.wrapped import linear_network, sgd_steps
from tests.projects.cacr.conftest import batch, config, method, random_views, wave


def multi_view(z: Tensor, **options: object) -> dict[str, Tensor]:
    """Loss and terms of embeddings (V, B, D) on host=batch."""
    cfg = method(**options)
    return multi_view_terms(build_objective(cfg), z, cfg)  # type: ignore[arg-type]


def with_queue(z: Tensor, keys: Tensor, queue: Tensor, **options: object) -> dict[str, Tensor]:
    """Loss and terms on host=queue."""
    cfg = method(host="queue", **options)
    return queue_terms(build_objective(cfg), z, keys, queue, cfg)  # type: ignore[arg-type]


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


def three_steps(
    host: str, distributed: bool, words: Sequence[str] = (), synced: bool = False
) -> dict[str, Tensor]:
    """State after three SGD steps of eight images; each of two ranks holds four."""
    torch.manual_seed(0)
    overrides = ["model.out_dim=8", "method.queue_size=20"]
    overrides.append("model.sync_batchnorm=true" if synced else "model.head_norm=none")
    cfg = config(f"method.host={host}", *words, *overrides)
    module = CACR(cfg, linear_network()).double()
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    views = (batch(8, 4, seed=number, dtype=torch.float64)["views"] for number in range(3))
    return sgd_steps(module, [{"views": v[:, own]} for v in views], distributed)
