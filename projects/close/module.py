"""CLOSE's module: a language model that learns to read a frozen dual encoder's vectors."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from common.distributed.collectives import all_gather_no_grad
from common.encoders.image_text.frozen_clip import FrozenClip
from common.encoders.modes import evaluation_mode
from common.engine.module import ContrastiveModule
from projects.close.batches import CloseBatch
from projects.close.config import Config
from projects.close.modality_gap import TextAdapter
from projects.close.objective import learning_rate, target_loss, unit_input
from projects.close.vector_to_text import IGNORED, VectorToText


class CLOSE(ContrastiveModule):
    """One module for all tasks: they differ in their examples alone.

    Source: Gu, Clark & Kembhavi 2023, arXiv 2211.09778.

    Args:
        cfg: the experiment's config.
        language: the trained part.
        tokenizer: of its language model.
        clip: encodes what the data set did not; None where it did all.
        adapter: what is done to text vectors.

    Distributed: reduces statistics.
    """

    in_batch_negatives = False

    def __init__(
        self,
        cfg: Config,
        language: VectorToText,
        tokenizer: Any,
        clip: FrozenClip | None = None,
        adapter: TextAdapter | None = None,
    ) -> None:
        super().__init__(cfg.optim)
        self.cfg, self.language, self.tokenizer = cfg, language, tokenizer
        self.adapter = adapter or TextAdapter("noise", cfg.method.noise)
        self.clip = clip  # not a module: neither trained nor saved
        self._seen = torch.zeros(2)

    # -- objective -------------------------------------------------------------------------------

    def vectors(self, batch: CloseBatch) -> Tensor:
        """Unit vectors (B, D) that the language model reads."""
        features = self.features(batch)
        unit = unit_input(features, batch["segments"], len(batch["ids"]))
        if not batch["is_text"]:
            return unit  # images as they are, in training too
        adapted: Tensor = self.adapter(unit, batch["noise"])  # t + w e, normalised again
        return adapted

    def features(self, batch: CloseBatch) -> Tensor:
        """Vectors of the dual encoder (C, D), from the batch or computed now.

        Never with a gradient.
        """
        if "features" in batch:
            return batch["features"]
        assert self.clip is not None, "a batch without features needs the dual encoder"
        if "tokens" in batch:
            return self.clip.encode_tokens(batch["tokens"])
        return self.clip.encode_pixels(batch["pixels"])

    def logits(self, batch: CloseBatch) -> Tensor:
        """(R, T, V) under teacher forcing."""
        context = batch["context_ids"], batch["context_mask"]
        logits: Tensor = self.language(
            self.vectors(batch), batch["labels"], batch["rows"], *context
        )
        return logits

    def losses(self, batch: CloseBatch) -> dict[str, Tensor]:
        """The loss of a batch."""
        return {"loss": target_loss(self.logits(batch), batch["labels"])}

    # -- schedule --------------------------------------------------------------------------------

    def decay_total(self) -> int:
        """Calls of the scheduler after which the rate would be 0, in the config's unit."""
        steps = int(self.trainer.max_steps)
        per_step = max(1, self.global_batch_size) if self.cfg.optim.decay_unit == "samples" else 1
        return steps * per_step

    def configure_optimizers(self) -> Any:
        """As everywhere; a linear schedule counts in `optim.decay_unit`."""
        optimizers = super().configure_optimizers()
        if self.optim.schedule != "linear":
            return optimizers
        total, optim = self.decay_total(), self.optim
        warmup = optim.warmup_steps + round(optim.warmup_epochs * self.warmup_epoch_steps)
        schedule = LambdaLR(
            optimizers["optimizer"], lambda step: learning_rate(step, 1.0, total, warmup)
        )
        return optimizers | {"lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- validation and decoding -----------------------------------------------------------------

    def validation_step(self, batch: CloseBatch, batch_idx: int) -> None:
        """Tokens' losses, summed; ranks may have other numbers of them."""
        labels = batch["labels"]
        count = labels.ne(IGNORED).sum().float()
        logits = self.logits(batch).float().flatten(0, 1)
        nll = nn.functional.cross_entropy(
            logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        self._seen += torch.stack([nll, count]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the mean over the tokens of all ranks, as ``val/token_loss``."""
        total = all_gather_no_grad(self._seen[None].to(self.device)).sum(0)
        self._seen = torch.zeros(2)
        self.log("val/token_loss", total[0] / total[1].clamp(min=1))

    def write(
        self, vectors: Tensor, ids: Tensor | None = None, mask: Tensor | None = None
    ) -> list[str]:
        """Texts for unit vectors by beam search.

        Args:
            vectors: (B, D), of images as they are.
            ids: (B, S) tokens of a context.
            mask: (B, S).
        """
        options, eos = self.cfg.eval, self.tokenizer.eos_token_id
        with evaluation_mode(self):
            out = self.language.generate(
                vectors,
                ids,
                mask,
                num_beams=options.num_beams,
                max_new_tokens=options.max_new_tokens,
                eos_token_id=eos,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        rows = [row[: row.index(eos)] if eos in row else row for row in out.tolist()]
        return [
            text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        ]
