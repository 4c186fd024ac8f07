"""The module of the three recipes: two towers, and a classifier that the optimiser never sees."""

from typing import Any

import torch
from torch import Tensor

from common.families.image_text.module import Encoder, ImageTextModule
from projects.mofi.classifier import EntityClassifier
from projects.mofi.config import Config
from projects.mofi.data import EntityBatch
from projects.mofi.objective import contrastive_loss, multi_task

QUALITY = ("label_precision_before", "label_precision_after", "labels_kept", "images_kept")


class MOFI(ImageTextModule):
    """Image tower under a margin classifier over entities, image-text contrast, or both.

        L = lambda L_cls + (1 - lambda) L_con

    Source: Wu et al. 2024, section 3.2 (arXiv 2306.07952).

    Attributes:
        classifier: None for the contrastive recipe, and in an exported model.
        cls_weight: lambda: 1 supervised, 0 contrastive.
        quality: (4,) what the selection did to the labels of the bundled pool, see `QUALITY`.

    Args:
        cfg: the experiment's config.
        encoder: towers; None builds those of the config.
        num_classes: C of the set; None: the config's.
        counts: (C,) images of each class.

    Distributed: classes are shared out from `setup` to `teardown`; gathers images and negatives.
    """

    def __init__(
        self,
        cfg: Config,
        encoder: Encoder | None = None,
        num_classes: int | None = None,
        counts: Tensor | None = None,
    ) -> None:
        super().__init__(cfg, encoder)
        method = cfg.method
        self.method = method
        fixed = {"supervised": 1.0, "contrastive": 0.0}
        self.cls_weight = fixed.get(method.recipe, method.cls_weight)
        self.classifier: EntityClassifier | None = None
        if self.cls_weight > 0 and (size := num_classes or method.num_classes):
            dim = self.encoder.embed_dim
            self.classifier = EntityClassifier(size, dim, method, cfg.optim, cfg.seed, counts)
        self.quality: Tensor
        self.register_buffer("quality", torch.full((len(QUALITY),), -1.0))
        if self.cls_weight == 1:  # nothing reaches the text side
            for name, parameter in self.encoder.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and "visual" in name)
            self.logit_scale.requires_grad_(False)

    def losses(self, batch: EntityBatch) -> dict[str, Tensor]:
        """Loss, its terms and the multiplier of the contrast."""
        image = self.encoder.encode_image(batch["images"])
        labels, entities = batch["labels"], batch["entities"]
        terms: dict[str, Tensor] = {}
        if self.cls_weight > 0:
            assert self.classifier is not None, "a model without class vectors cannot classify"
            terms["cls"] = self.classifier(image, labels, entities)
        scale = self.logit_scale()
        if self.cls_weight < 1:
            text = self.encoder.encode_text(batch["tokens"])
            same = self.method.same_entity
            terms["con"] = contrastive_loss(image, text, scale, labels, entities, same)
        loss = multi_task(terms, self.cls_weight)
        return {"loss": loss, **terms, "logit_scale": scale.detach()}

    # -- class vectors next to the optimiser -------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Share the classes out, and keep DDP from averaging or broadcasting them."""
        if stage == "fit" and self.classifier is not None:
            self.classifier.matrix.shard_()
            names = [f"classifier.{name}" for name, _ in self.classifier.named_buffers()]
            self._ddp_params_and_buffers_to_ignore = names  # where DDP looks for exceptions

    def after_optimizer_step(self) -> None:
        """Clamp the logit scale; move this step's class vectors at the optimiser's rate."""
        super().after_optimizer_step()
        if self.classifier is not None:
            self.classifier.matrix.update_(self.method.class_lr_scale * self.current_lr())

    def current_lr(self) -> float:
        """Rate of the step that was just made; the schedule moves on after it."""
        optimizer: Any = self.optimizers()
        return float(optimizer.param_groups[0]["lr"])

    def teardown(self, stage: str) -> None:
        """Every rank has all classes again, for evaluation and export."""
        if self.classifier is not None:
            self.classifier.matrix.whole_()

    def adapt_to(self, state: dict[str, Tensor]) -> None:
        """As many classes as a checkpoint has: how many survive the filters is known to its run."""
        if self.classifier is not None and "classifier.matrix.weight" in state:
            self.classifier.matrix.resize_(len(state["classifier.matrix.weight"]))

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Sampled classes, or the texts of other images."""
        if self.classifier is not None:
            return min(self.method.sampled, self.classifier.matrix.num_classes) - 1
        return super().negatives_per_query(global_batch_size)
