"""A causal language model trained with SimCTG's objective; nothing is added to it or frozen."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.decoding.language_model import LanguageModel
from common.distributed.collectives import all_gather_no_grad
from common.encoders.text.language_models.causal import block_classes
from common.engine.module import ContrastiveModule
from common.losses.auxiliary.tokens import IGNORED
from projects.contrastive_search.config import Config
from projects.contrastive_search.objective import SimCTGObjective


class SimCTG(ContrastiveModule):
    """Lines of text under likelihood and the token contrastive loss.

    Negatives are the other tokens of the same line, so batches may be accumulated.

    Source: Su & Collier 2023, section 6, arXiv 2210.14140; Su et al. 2022, arXiv 2202.06417.

    Args:
        cfg: the experiment's config.
        model: causal LM of transformers.
        tokenizer: its tokenizer.

    Distributed: reduces statistics.
    """

    in_batch_negatives = False

    def __init__(self, cfg: Config, model: Any, tokenizer: Any) -> None:
        super().__init__(cfg.optim)
        self.model, self.tokenizer = model, tokenizer
        self.device_of_decoding, self.passes = cfg.model.device, cfg.model.passes
        self.objective = SimCTGObjective(cfg.method.margin)
        self._seen = torch.zeros(2)  # sum of the development tokens' losses, and their number

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and terms of a batch of ``input_ids`` and ``attention_mask`` (B, L + 1)."""
        logits, states, targets = self._pass(batch)
        mask = batch["attention_mask"][:, :-1]
        terms: dict[str, Tensor] = self.objective(logits, states, targets, mask)
        return terms

    def _pass(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and states of the inputs (all tokens but the last), and what follows each."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        out = self.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            use_cache=False,
            output_hidden_states=True,
        )
        targets = ids[:, 1:].masked_fill(~mask[:, 1:].bool(), IGNORED)
        return out.logits, out.hidden_states[-1], targets

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Likelihood of the development lines.

        No exchange, since ranks may have other numbers of them.
        """
        logits, _, targets = self._pass(batch)
        nll = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        self._seen += torch.stack([nll, (targets != IGNORED).sum().float()]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the mean cross-entropy over the tokens of all ranks, as ``val/mle``."""
        total = all_gather_no_grad(self._seen[None].to(self.device)).sum(0)
        self._seen = torch.zeros(2)
        self.log("val/mle", total[0] / total[1])

    def fsdp_units(self) -> set[type[nn.Module]]:
        """The blocks of the language model."""
        return block_classes(self.model)

    def language_model(self) -> LanguageModel:
        """The model for decoding and scoring, in evaluation mode."""
        device = self.device_of_decoding
        lm = LanguageModel(self.model.float(), self.tokenizer, device)
        lm.passes = self.passes
        return lm


def language_model(cfg: Config, name: str) -> LanguageModel:
    """A language model that is not trained, by folder, ``bundled:<name>`` or hub id.

    Raises:
        UserError: absent or unfitting weights.
    """
    dtype = getattr(torch, cfg.model.dtype)
    return LanguageModel.from_pretrained(name, cfg.model.device, dtype=dtype)
