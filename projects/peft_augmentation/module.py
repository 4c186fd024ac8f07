"""The method: a tuned classifier on originals and their copies or mixtures."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.encoders.length_groups import in_length_groups
from common.encoders.text.tuned.classifier import TextClassifier, mixed_at
from projects.peft_augmentation.classification.module import ClassifierModule
from projects.peft_augmentation.config import Config
from projects.peft_augmentation.objective import Objective
from projects.peft_augmentation.soft_targets import mixer, mixture


class PeftAugmentation(ClassifierModule):
    """Full, LoRA or prefix tuning with augmented data and a contrastive term.

    Source: Obadinma et al. 2023, arXiv 2303.02577.

    Args:
        cfg: the experiment's config.
        classifier: what is trained.

    Distributed: see `Objective`.
    """

    def __init__(self, cfg: Config, classifier: TextClassifier) -> None:
        super().__init__(cfg.optim, classifier, cfg.data.labelled_task)
        self.augment, self.objective = cfg.augment, Objective(cfg.contrast)
        self.length_groups = cfg.model.length_groups
        self.in_batch_negatives = (
            cfg.contrast.weight > 0
        )  # of a loss whose value depends on the batch

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss and terms of originals, and of copies or mixtures alongside them."""
        inputs, labels = batch["inputs"], batch["labels"]
        vectors = in_length_groups(self.classifier.vectors, self.length_groups, **inputs)
        pooled = self.classifier.pooled(vectors)
        mixed = self._mixed(inputs, pooled) if self.augment.kind == "mixup" else None
        terms: dict[str, Tensor] = self.objective(
            self.classifier.classify(pooled).float(), labels, vectors, mixed
        )
        return terms

    def _mixed(self, inputs: Mapping[str, Tensor], pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of mixtures, with their shares and partners."""
        augment, model = self.augment, self.classifier.backbone
        share, partner = mixture(len(pooled), augment.concentration, augment.each, pooled.device)
        mix = mixer(share, partner)
        if augment.layer == "sentence":
            return self.classifier.classify(mix(pooled)).float(), share, partner
        mask = inputs["attention_mask"]
        # a mixture is as long as the longer of its two
        both = {**inputs, "attention_mask": torch.maximum(mask, mask[partner])}
        layer = 0 if augment.layer == "input" else int(model.config.num_hidden_layers) // 2
        with mixed_at(model, layer, mix):
            logits = self.classifier(**both)
        return logits.float(), share, partner
