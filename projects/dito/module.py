"""DITO as a module: one stage at a time on the same network."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from common.data.samplers import sample_rng
from common.engine.module import ContrastiveModule
from common.losses.image_text import ClipLoss
from common.losses.output import unit
from projects.dito import objective as eq
from projects.dito.config import Config, StageName
from projects.dito.data import DitoBatch
from projects.dito.detection.boxes import random_boxes
from projects.dito.detection.roi_align import with_image
from projects.dito.fine_tuning import detection_losses, step_factor
from projects.dito.network import DitoNetwork

BOX_STREAM = 81
# what each stage trains, by the beginning of the parameter's name; the rest stands still
TRAINED: dict[str, tuple[str, ...]] = {
    "image": ("backbone.", "image_proj.", "text_tower.", "text_proj.", "image_scale."),
    "region": ("pyramid.", "head.trunk.", "head.to_text.", "region_scale."),
    "detect": ("backbone.", "pyramid.", "head.", "mask_head.", "rpn.", "log_temperature"),
}


class DITO(ContrastiveModule):
    """Image-level contrast, detection-oriented contrast, or fine-tuning with boxes.

    Source: Kim, Angelova & Kuo 2023, arXiv 2310.00161; detector as released.

    Args:
        cfg: the experiment's config.
        network: shared by all stages.
        stage: which loss.
        first: whether it is the first stage, which has its own rate.
        classes: (C + 1, D) unit text vectors of the detect stage, row 0 the background.

    Distributed: gathers negatives (image, region); local (detect).
    """

    def __init__(
        self,
        cfg: Config,
        network: DitoNetwork,
        stage: StageName,
        *,
        first: bool = True,
        classes: Tensor | None = None,
    ) -> None:
        rates = {"image": cfg.method.image_lr if first else None, "detect": cfg.method.detect_lr}
        optim = replace(cfg.optim, lr=rates.get(stage) or cfg.optim.lr)
        if stage == "detect" and cfg.detect.l2 > 0:
            optim.weight_decay = 0.0  # the loss has an L2 term, which spares the backbone
        super().__init__(optim)
        self.cfg, self.network, self.stage = cfg, network, stage
        self.in_batch_negatives = stage != "detect"
        self.info_nce = ClipLoss()
        self.register_buffer("classes", classes, persistent=False)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(self._trained_parts()))

    def _trained_parts(self) -> tuple[str, ...]:
        options, parts = self.cfg.method, TRAINED[self.stage]
        if self.stage == "region":
            parts += () if options.freeze_backbone else ("backbone.",)
            parts += () if options.freeze_text else ("text_tower.", "text_proj.")
        if self.stage == "detect" and options.detect_freeze_backbone:
            parts = tuple(p for p in parts if p != "backbone.")
        return parts

    def losses(self, batch: DitoBatch) -> dict[str, Tensor]:
        """Scalars of one batch."""
        if self.stage == "detect":
            assert isinstance(self.classes, Tensor), "the detect stage needs texts of its classes"
            generators = [self._generator(i) for i in batch["ids"].tolist()]
            return detection_losses(self.cfg, self.network, batch, self.classes, generators)
        with torch.set_grad_enabled(self.stage == "image" or not self.cfg.method.freeze_text):
            text = self.network.text_vectors(batch["tokens"])
        if self.stage == "image":
            return self.contrast(self.network.image_vectors(batch["images"]), text, "image")
        return self.region_losses(batch, text)

    def contrast(self, image: Tensor, text: Tensor, kind: str) -> dict[str, Tensor]:
        """Symmetric InfoNCE (or the focal sigmoid loss) over the global batch."""
        options = self.cfg.method
        scale = self.network.image_scale() if kind == "image" else self.network.region_scale()
        if options.loss == "focal":
            loss, hits = eq.paired_focal(
                image, text, scale, options.focal_alpha, options.focal_gamma
            )
        else:
            out = self.info_nce(image, text, scale)
            loss, hits = out.loss, out.hits
        return {"loss": loss, f"{kind}_text_r1": hits.float().mean(), "logit_scale": scale}

    # -- stage 2 ---------------------------------------------------------------------------------

    def boxes_of(self, ids: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """R random boxes in pixels for every image, drawn in every step; no annotation is read."""
        options, boxes_of_images = self.cfg.method, []
        for i in ids.tolist():
            rng = sample_rng(self.cfg.seed, self.global_step, i, BOX_STREAM)
            boxes = torch.from_numpy(random_boxes(rng, options.boxes, options.area, options.aspect))
            boxes_of_images.append((boxes * torch.tensor([size[1], size[0]] * 2)).to(ids.device))
        return boxes_of_images

    def region_losses(self, batch: DitoBatch, text: Tensor) -> dict[str, Tensor]:
        """Pooled regions of random boxes against the image's caption."""
        images, options, net = batch["images"], self.cfg.method, self.network
        boxes = self.boxes_of(batch["ids"], (images.shape[-2], images.shape[-1]))
        with torch.set_grad_enabled(not options.freeze_backbone and torch.is_grad_enabled()):
            grid = net.detector_map(images)
        maps = net.pyramid(grid)
        vectors = net.head.embed(net.crops(maps, with_image(boxes)))
        regions = unit(vectors).view(len(images), options.boxes, -1)  # r_ik
        pooled = eq.pool_regions(regions, options.pool)  # v_i
        terms = self.contrast(pooled, text, "region")
        # levels without a box in this batch get a zero gradient rather than none (DDP counts them)
        terms["loss"] = terms["loss"] + 0.0 * torch.stack([m.mean() for m in maps]).sum()
        terms |= argmax_by_size(regions.detach(), torch.stack(boxes), images.shape[-1])
        return terms

    def _generator(self, sample: int) -> torch.Generator:
        """What is drawn for an image in this step, whatever the other images are."""
        rng = sample_rng(self.cfg.seed, self.global_step, sample, BOX_STREAM)
        return torch.Generator().manual_seed(int(rng.integers(2**62)))

    # -- hooks -----------------------------------------------------------------------------------

    def after_optimizer_step(self) -> None:
        """Keep the multipliers within their bounds."""
        self.network.image_scale.clamp_()
        self.network.region_scale.clamp_()

    def configure_optimizers(self) -> Any:
        """As everywhere; the detector's rate may fall by ten at `detect.milestones`."""
        optimizers = super().configure_optimizers()
        marks = self.cfg.detect.milestones
        if self.stage != "detect" or not marks:
            return optimizers
        factor = step_factor(self.optim, int(self.trainer.max_steps), marks)
        schedule = LambdaLR(optimizers["optimizer"], factor)
        return optimizers | {"lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def argmax_by_size(regions: Tensor, boxes: Tensor, size: int) -> dict[str, Tensor]:
    """Share of coordinates with their maximum in small, middle or large boxes, over box share.

    Args:
        regions: (B, R, D) unit rows.
        boxes: (B, R, 4) in pixels.
        size: side of the image in pixels.
    """
    best = regions.argmax(1)  # (B, D)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / size**2
    bins = torch.bucketize(area, torch.tensor([1 / 3, 2 / 3], device=area.device))
    chosen = bins.gather(1, best)
    names = ("small", "middle", "large")
    return {
        f"argmax_{name}": (chosen == k).float().mean() / (bins == k).float().mean().clamp(min=1e-6)
        for k, name in enumerate(names)
    }
