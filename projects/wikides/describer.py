"""Phase I as a module: a generator under teacher forcing."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.differentiable import rank_mean_of_sums
from common.engine.module import ContrastiveModule
from common.losses.auxiliary.tokens import IGNORED
from projects.wikides.batches import DescribeBatch
from projects.wikides.config import Config


class Describer(ContrastiveModule):
    """Phase I: token cross-entropy of the description given the paragraph.

    Source: Ta et al. 2023, "WikiDes", section 4 (phase I), arXiv 2209.13101.

    Args:
        cfg: the experiment's config.
        model: encoder-decoder of transformers.
        tokenizer: its tokenizer.

    Distributed: reduces the number of tokens, so that every token of the global batch counts alike.
    """

    in_batch_negatives = False

    def __init__(self, cfg: Config, model: Any, tokenizer: Any) -> None:
        super().__init__(cfg.optim)
        self.model, self.tokenizer = model, tokenizer

    def token_losses(self, batch: DescribeBatch) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of a batch's labels, and how many there are.

        Padding has none.
        """
        logits = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=batch["decoder_input_ids"],
            use_cache=False,
        ).logits
        labels = batch["labels"]
        wide = torch.promote_types(logits.dtype, torch.float32)
        total = F.cross_entropy(
            logits.to(wide).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total, labels.ne(IGNORED).sum()

    def losses(self, batch: DescribeBatch) -> dict[str, Tensor]:
        """Mean cross-entropy of the tokens of all ranks."""
        return {"loss": rank_mean_of_sums(*self.token_losses(batch))}

    def validation_step(self, batch: DescribeBatch, batch_idx: int) -> None:
        """Log ``val/token_loss``."""
        total, count = self.token_losses(batch)
        self.log(
            "val/token_loss", total / count, on_epoch=True, sync_dist=True, batch_size=int(count)
        )
