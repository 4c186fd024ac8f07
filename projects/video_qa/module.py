"""Module of both stages: question prediction, then answers, contrast and localisation."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from common.distributed.collectives import all_gather_no_grad
from common.engine.module import ContrastiveModule
from common.engine.optim import decay_groups
from projects.video_qa.clips.batches import VideoQABatch
from projects.video_qa.config import Config
from projects.video_qa.network import Output, VideoQANet
from projects.video_qa.objective import answer_loss, localisation_loss, masked_contrast

Phase = Literal["pretrain", "main"]


class VideoQA(ContrastiveModule):
    """Both stages train the same network; they differ in what the candidates are and in the terms.

        pre-training:  L = L_QA over A questions
        main stage:    L = L_QA + lambda_loc L_loc + lambda_con L_con

    Source: Kim et al. 2021, arXiv 2009.08043.

    Args:
        cfg: the experiment's config.
        network: new, or as pre-training left it.
        phase: "pretrain" or "main".

    Distributed: reduces statistics (the number of annotated spans).
    """

    in_batch_negatives = False  # negatives are candidates of the same question

    def __init__(self, cfg: Config, network: VideoQANet, phase: Phase = "main") -> None:
        super().__init__(cfg.optim)
        self.cfg, self.method, self.network, self.phase = cfg, cfg.method, network, phase
        if network.span_head is not None:  # pre-training has no spans
            network.span_head.requires_grad_(phase == "main")
        self._seen = torch.zeros(2)

    def losses(self, batch: VideoQABatch) -> dict[str, Tensor]:
        """Total and terms of one batch."""
        options, output = self.method, self.network(batch)
        loss = terms_qa = answer_loss(output.scores, batch["labels"])
        hits = output.scores.argmax(1).eq(batch["labels"]).float().mean()
        terms = {"answer": terms_qa, "accuracy": hits}
        if self.phase == "main" and options.localisation_weight:
            logits = self.network.span_logits(output, batch["labels"])
            terms["localisation"] = localisation_loss(
                logits, batch["sentence_mask"], batch["spans"]
            )
            loss = loss + options.localisation_weight * terms["localisation"]
        if self.phase == "main" and options.contrast_weight:
            terms["contrast"] = self.contrast(batch, output)
            loss = loss + options.contrast_weight * terms["contrast"]
        return {"loss": loss, **terms}

    def contrast(self, batch: VideoQABatch, output: Output) -> Tensor:
        """The contrastive branch: encoder and recurrent net of the answers, on the masked input."""
        options, both = self.method, self.method.contrast_features == "both"
        sequences = batch["masked_ids"], batch["masked_attention"], batch["masked_types"]
        masked = vectors(self.network.run(batch, *sequences, visual=both), both)[:, 0]
        return masked_contrast(
            masked,
            vectors(output, both),
            batch["labels"],
            similarity=options.similarity,
            temperature=options.temperature,
            stop_gradient=options.stop_gradient,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Text encoder at optim.lr, the rest at method.head_lr."""
        decay = self.optim.weight_decay
        if self.method.head_lr is None:
            return super().parameter_groups()
        named = list(self.named_parameters())
        encoder = [(n, p) for n, p in named if n.startswith("network.encoder.")]
        rest = [(n, p) for n, p in named if not n.startswith("network.encoder.")]
        scale = self.method.head_lr / self.optim.lr
        heads = [group | {"lr_scale": scale} for group in decay_groups(rest, decay)]
        return [*decay_groups(encoder, decay), *heads]

    def configure_optimizers(self) -> Any:
        """Warm up over the same share of either stage: they are not equally long."""
        steps = round(self.method.warmup_share * self.trainer.max_steps)
        self.optim = replace(self.cfg.optim, warmup_steps=self.cfg.optim.warmup_steps + steps)
        return super().configure_optimizers()

    def validation_step(self, batch: VideoQABatch, batch_idx: int) -> None:
        """Count right answers."""
        hits = self.network(batch).scores.argmax(1).eq(batch["labels"]).float()
        self._seen += torch.tensor([float(hits.sum()), len(hits)])

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy over the questions of all ranks, as ``val/accuracy``."""
        total = all_gather_no_grad(self._seen[None].to(self.device)).sum(0)
        self._seen = torch.zeros(2)
        self.log("val/accuracy", total[0] / total[1].clamp(min=1))


def vectors(output: Output, both: bool) -> Tensor:
    """z_i (B, A, D): the text stream, or both streams side by side."""
    return (
        torch.cat([output.text, output.visual], -1)
        if both and output.visual is not None
        else output.text
    )
