"""Texts that learn the space of an image tower; for speech see `spoken_module`."""

import torch
from torch import Tensor

from common.data.image_text.captions import ImageTextBatch
from common.losses.output import LossOutput
from projects.cwcl.config import Config, MethodConfig
from projects.cwcl.locked import LockedModule
from projects.cwcl.locked_towers import LockedEncoder
from projects.cwcl.objective import Objective


def objective_of(method: MethodConfig) -> Objective:
    """The objective of a config."""
    return Objective(
        method.weight_mode, method.reduction_factor, method.smoothing, backend=method.loss_backend
    )


def terms(out: LossOutput, scale: Tensor) -> dict[str, Tensor]:
    """What a step logs; CWCL's loss has the entropy of its targets as lower bound."""
    assert out.hits is not None
    top1 = out.hits.float().mean()
    return {"loss": out.loss, "logit_scale": scale.detach(), "batch_top1": top1}


class ImageTextCWCL(LockedModule):
    """A frozen image tower p and a text tower q under CWCL (or LiT, or with both trained CLIP).

    Source: Srinivasa et al. 2023, arXiv 2309.14580.

    Args:
        cfg: the experiment's config.
        encoder: towers; None builds those of the config.

    Attributes:
        classes: (N,) class of every training image, for `weight_mode=classes`; else empty.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: LockedEncoder | None = None) -> None:
        super().__init__(cfg, encoder)
        self.objective = objective_of(cfg.method)
        self.raw_weights = cfg.method.weight_features == "raw"
        self.classes = torch.empty(0, dtype=torch.long)

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """Terms of a batch; images are (B, 3, H, W), or cached features (B, F)."""
        raw, features, frozen = self.image_side(batch["images"])
        trained = self.encoder.encode_text(batch["tokens"])
        guide = (raw if self.raw_weights else features).detach()
        labels = None
        if self.objective.weight_mode == "classes":
            labels = self.classes[batch["ids"].cpu()].to(trained.device)
        scale = self.logit_scale()
        return terms(self.objective(frozen, trained, scale, guide, labels), scale)
