"""What is fine-tuned: a classifier, with adversarial changes of its embeddings if asked for."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.config import OptimConfig
from common.distributed.process import gather_objects
from common.encoders.length_groups import in_length_groups
from common.encoders.text.tuned.classifier import TextClassifier, Texts
from common.engine.module import ContrastiveModule
from projects.vega.config import Config
from projects.vega.encoders.perturbation import EmbeddingPerturbation
from projects.vega.glue.metrics import glue_metrics
from projects.vega.glue.ranking import best_of_premise, premises_of, ranked
from projects.vega.objective import row_changes, task_loss

# of self-calibration: share of the training examples that was flagged, and how many of these had
# been flipped; of the last transductive round: share of the inputs with a pseudo label, and the
# largest difference between the shares of a class among pseudo and training labels
RECORD = ("flagged_share", "flagged_precision", "pseudo_share", "pseudo_drift")


class FineTune(ContrastiveModule):
    """A classifier of one task, with adversarial fine-tuning if asked for.

    Validated by the task's score.

    Source: Zhong et al. 2023, abstract, arXiv 2302.09268; He et al. 2021, section 4, arXiv
    2006.03654.

    Args:
        cfg: the experiment's config.
        classifier: what is trained.
        optim: in place of the config's.

    Distributed: local.
    """

    in_batch_negatives = False
    record: Tensor

    def __init__(
        self, cfg: Config, classifier: TextClassifier, optim: OptimConfig | None = None
    ) -> None:
        super().__init__(optim or cfg.optim)
        self.classifier, self.task, self.sift = classifier, cfg.data.glue_task, cfg.sift
        self.length_groups = cfg.model.length_groups
        self.ranks_candidates = cfg.data.ranks_candidates
        self._seen: list[tuple[list[Texts], Tensor]] = []
        # what the tricks did, see RECORD; it travels with the weights
        self.register_buffer("record", torch.full((len(RECORD),), math.nan))

    def note(self, **values: float) -> None:
        """Keep some of the numbers that `RECORD` names."""
        for name, value in values.items():
            self.record[RECORD.index(name)] = value

    def noted(self) -> dict[str, float]:
        """The numbers that are known."""
        recorded = zip(RECORD, self.record.tolist(), strict=True)
        return {name: value for name, value in recorded if not math.isnan(value)}

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """L = L_task + alpha l(f(x + delta), f(x))."""
        inputs = batch["inputs"]
        if not self.sift.enabled:
            return self._terms(self._logits(inputs), batch)
        sift = self.sift
        changes = EmbeddingPerturbation(self.classifier.backbone, sift.layer)
        with changes.clean():
            logits = self._logits(inputs)
        fixed = logits.detach()
        # a sum: alongside a mean over R rows the 1e-6 of the step would weigh R times as much
        deltas = changes.ascend(
            lambda: self._logits(inputs), lambda x: row_changes(x, fixed).sum(), sift.init, sift.lr
        )
        with changes.changed(deltas):
            changed = self._logits(inputs)
        terms = self._terms(logits, batch)
        terms["sift"] = row_changes(changed, logits).mean()
        return {**terms, "loss": terms["loss"] + sift.alpha * terms["sift"]}  # Eq. 8

    def _logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.length_groups == 1:  # rows as they come, not by length
            logits: Tensor = self.classifier(**inputs)
            return logits.float()
        return in_length_groups(self.classifier, self.length_groups, **inputs).float()

    def score(self, texts: list[Texts], batch_size: int = 128) -> Tensor:
        """Logits (N, C) on the CPU; of WNLI the best candidate of a premise alone is of class 1."""
        logits = self.classifier.score(texts, batch_size)
        return best_of_premise(logits, premises_of(texts)) if self.ranks_candidates else logits

    def _terms(self, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        targets = batch["labels"]
        if self.ranks_candidates:
            logits = ranked(logits, batch["premises"])
        loss = task_loss(logits, targets)
        if self.task.is_regression:
            return {"loss": loss}
        hard = targets if targets.ndim == 1 else targets.argmax(1)
        return {"loss": loss, "accuracy": logits.argmax(1).eq(hard).float().mean()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Collect."""
        self._seen.append(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the task's score over the texts of all ranks, as ``val/score``."""
        texts = [row for part, _ in self._seen for row in part]
        labels = torch.cat([labels for _, labels in self._seen]).cpu()
        self._seen = []
        gathered = gather_objects((texts, self.classifier.score(texts), labels))
        every = [row for part, _, _ in gathered for row in part]
        logits = torch.cat([scores for _, scores, _ in gathered])
        gold = torch.cat([right for _, _, right in gathered])
        if self.ranks_candidates:  # of the texts of all ranks
            logits = best_of_premise(logits, premises_of(every))
        predicted = logits[:, 0] if self.task.is_regression else logits.argmax(1)
        self.log(
            "val/score", glue_metrics(self.task.name, predicted.numpy(), gold.numpy())["score"]
        )
