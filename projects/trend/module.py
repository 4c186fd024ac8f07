"""Pre-training by forecasting."""

from typing import Any

import torch
from torch import Tensor

from common.engine.module import ContrastiveModule
from common.engine.optim import decay_groups
from projects.trend.config import Config
from projects.trend.data import ForecastBatch
from projects.trend.networks import Rays, Scan, TrendNetwork, network_options
from projects.trend.objective import frame_terms, weighted
from projects.trend.recurrent import conditioned


class Trend(ContrastiveModule):
    """Renders the current and one future scan from the masked current scan and the ego actions.

    L = L_{t0} + L_{tm}; nothing is contrasted and no label is read. With a horizon of 0 the current
    scan alone is reconstructed.

    Source: Chen et al. 2025, "TREND: unsupervised 3D representation learning via temporal
    forecasting for LiDAR perception", section 3, arXiv 2412.03054.

    Args:
        cfg: the experiment's config.
        network: None builds that of the config.
        horizon: future frames of this stage; None: those of the last one.

    Distributed: local; the loss is a mean over rays, gradients are averaged over ranks.
    """

    in_batch_negatives = False

    def __init__(
        self, cfg: Config, network: TrendNetwork | None = None, horizon: int | None = None
    ) -> None:
        super().__init__(cfg.optim)
        self.method = cfg.method
        self.network = network or TrendNetwork(**network_options(cfg))
        last = cfg.method.horizons[-1] if horizon is None else horizon
        self.network.recurrent.requires_grad_(last > 0)

    def losses(self, batch: ForecastBatch) -> dict[str, Tensor]:
        """Sum over both frames, and each of their terms."""
        scans = self.render(batch)
        method = self.method
        unit = self.network.field.scale if method.range_unit == "scaled" else 1.0
        weights = method.range_weight, method.intensity_weight, method.surface_weight
        total: Tensor | None = None
        logged: dict[str, Tensor] = {}
        for frame, (name, scan) in enumerate(zip(("current", "future"), scans, strict=False)):
            terms = frame_terms(scan, batch["ranges"][:, frame], batch["intensity"][:, frame], unit)
            loss = weighted(terms, weights)
            total = loss if total is None else total + loss  # L = L_t0 + L_tm
            logged |= {f"{name}_{term}": value for term, value in terms._asdict().items()}
            logged[f"{name}_opacity"] = scan.opacity.detach().mean()
        assert total is not None
        return {"loss": total, **logged, "sharpness": self.network.field.sharpness.detach()}

    def render(self, batch: ForecastBatch) -> list[Scan]:
        """Rendered scans of the frames of a batch, the current one first."""
        network, (count, frames) = self.network, batch["times"].shape
        volumes = [network.encode(batch["points"], batch["owner"], count)]
        if frames > 1:
            actions = conditioned(batch["actions"], self.method.actions)
            volumes.append(network.recurrent(volumes[0], actions, batch["steps"][:, 1]))
        # both frames in one pass, the current one of all samples first; each has its own origin
        origins, directions, times, ranges = (
            batch[name].transpose(0, 1).flatten(0, 1)
            for name in ("origins", "directions", "times", "ranges")
        )
        scan = network.render(
            torch.cat(volumes),
            Rays(origins, directions, times, ranges),
            jitter=self.training and self.method.jitter,
            chunk=self.method.ray_chunk,
        )
        return [Scan(*(x[i * count : (i + 1) * count] for x in scan)) for i in range(frames)]

    def compile_encoders(self) -> None:
        """The parts that are called as modules.

        The whole network has no forward pass to compile.
        """
        self.network.encoder.compile()
        self.network.recurrent.compile()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The sharpness z learns more slowly and without decay."""
        slow = self.network.field.log_sharpness
        named = [(n, p) for n, p in self.named_parameters() if p is not slow]
        sharpness = {
            "params": [slow],
            "weight_decay": 0.0,
            "lr_scale": self.method.sharpness_lr_scale,
        }
        return [*decay_groups(named, self.optim.weight_decay), sharpness]
