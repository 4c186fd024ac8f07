"""RTD itself: the text tower learns composed queries from text triplets; all else is frozen."""

import time
from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from common.config import OptimConfig
from common.engine.module import ContrastiveModule
from projects.rtd.composer import Composer
from projects.rtd.config import Config
from projects.rtd.objective import Objective


class TripletBatch(TypedDict):
    """Token ids of B triplets, and what is drawn for each."""

    target: Tensor  # (B, L) T_t
    reference: Tensor  # (B, L) T_r
    composed: Tensor  # (B, L) "a photo of $ that T_c", or "T_r that T_c"
    special: Tensor  # (B, L) "a photo of $", or T_r
    noise: Tensor  # (B, P) u n: uniform scalar times Gaussian vector
    ids: NotRequired[Tensor]  # (B,) places in the training set


class ComposedModule(ContrastiveModule):
    """A composer that is trained in part, and judged during training if there is a judge.

    Args:
        composer: CLIP, phi and text tower.
        optim: of what learns.
        learns: "phi" (a host) or "student" (RTD).

    Attributes:
        judge: composer -> (Q,) whether each development query is answered; None: no validation.
        seconds: wall time of the fit, by stage; of SEARLE's phi with that of the inversion.
    """

    def __init__(self, composer: Composer, optim: OptimConfig, learns: str) -> None:
        super().__init__(optim)
        self.composer, self.learns = composer, learns
        self.judge: Callable[[Composer], Tensor] | None = None
        self.seconds: dict[str, float] = {}
        self._hits = torch.empty(0)
        self.train()

    def train(self, mode: bool = True) -> "ComposedModule":
        """Training mode of what learns alone: phi has its dropout off during RTD."""
        super().train(mode)
        self.composer.freeze(phi=self.learns == "phi", student=self.learns == "student")
        if not mode:
            self.composer.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group: the release decays every parameter."""
        learning = [p for p in self.parameters() if p.requires_grad]
        return [{"params": learning, "weight_decay": self.optim.weight_decay}]

    # -- cost and validation
    # -------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_end(self) -> None:
        """Stop it; what the data took before is there already."""
        before = self.seconds.get(self.learns, 0.0)
        self.seconds[self.learns] = before + time.perf_counter() - self._began

    def on_validation_epoch_start(self) -> None:
        """Answer the development queries."""
        assert self.judge is not None
        self._hits = self.judge(self.composer)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Recall at 1 of the queries with these places."""
        hits = self._hits[batch.cpu()].float().mean().to(self.device)
        self.log("val/recall_at_1", hits, batch_size=len(batch), sync_dist=True)


class RTD(ComposedModule):
    """Reducing task discrepancy: text triplets in place of composed images.

    Source: Byun et al. 2025, arXiv 2406.09188, and its official code.

    Args:
        cfg: the experiment's config.
        composer: with a trained phi.

    Distributed: gathers negatives with ``rtd.gather_negatives``, else local.
    """

    def __init__(self, cfg: Config, composer: Composer) -> None:
        super().__init__(composer, cfg.optim, "student")
        self.options = rtd = cfg.rtd
        self.batch_size = cfg.data.batch_size
        self.objective = Objective(
            rtd.tau,
            frozen_target=rtd.frozen_target,
            refined=rtd.refined_batch,
            gather=rtd.gather_negatives,
        )

    def losses(self, batch: TripletBatch) -> dict[str, Tensor]:
        """Terms of a batch of triplets."""
        composer, rtd = self.composer, self.options
        with torch.no_grad():
            reference = composer.anchor(batch["reference"])  # r
            pseudo = None
            if rtd.refined_concat:
                noisy = reference + rtd.noise_scale * batch["noise"]  # r + epsilon
                pseudo = composer.pseudo_words(noisy)  # p = phi(r + epsilon)
            target = composer.anchor(batch["target"])  # t
        if not rtd.frozen_target:  # ablation (a): both sides learn
            target = composer.query(batch["target"])
            reference = composer.query(batch["reference"]) if rtd.refined_batch else reference
        composed = composer.query(batch["composed"], pseudo)  # q
        special = (
            composer.query(batch["special"], pseudo) if rtd.refined_batch else None
        )  # e, same p
        out = self.objective(target, reference, composed, special)
        terms = {"loss": out.loss}
        if out.hits is not None:
            terms["batch_top1"] = out.hits.float().mean()
        return terms

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Vectors of both sides but itself and its positive; of this device unless gathered."""
        batch = global_batch_size if self.options.gather_negatives else self.batch_size
        pairs = batch * (2 if self.options.refined_batch else 1)
        return max(0, 2 * pairs - 2)
