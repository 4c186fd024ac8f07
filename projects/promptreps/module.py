"""Supervised training of the language model on questions with passages."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.encoders.text.language_models.causal import add_lora, block_classes
from common.engine.module import ContrastiveModule
from projects.promptreps.config import Config
from projects.promptreps.encoder import PromptRepsEncoder
from projects.promptreps.lexical.lexical_head import in_text_mask
from projects.promptreps.objective import Objective


class PromptReps(ContrastiveModule):
    """Supervised training with the hybrid loss; without it, the holder of a finished encoder.

    Source: Zhuang et al. 2024, "PromptReps: Prompting Large Language Models to Generate Dense and
    Sparse Representations for Zero-Shot Document Retrieval", arXiv 2404.18424.

    Args:
        cfg: the experiment's config.
        encoder: what is trained.
        lora: put adapters on it and freeze the rest, as the config says.

    Distributed: gathers passages of all ranks.
    """

    def __init__(self, cfg: Config, encoder: PromptRepsEncoder, *, lora: bool = False) -> None:
        super().__init__(cfg.optim)
        self.encoder, self.method, self.group_size = encoder, cfg.method, cfg.data.group_size
        self.batch_size = cfg.data.batch_size
        self.objective = Objective(cfg.method)
        if lora and cfg.method.lora_rank is not None:
            add_lora(
                encoder.lm.model,
                rank=cfg.method.lora_rank,
                alpha=cfg.method.lora_alpha,
                dropout=cfg.method.lora_dropout,
                targets=cfg.method.lora_targets.split(","),
            )
            for parameter in encoder.lm.parameters():
                # small steps are rounded away in adapters of 16 bits
                if parameter.requires_grad and parameter.dtype == torch.bfloat16:
                    parameter.data = parameter.data.float()
        if lora and cfg.method.grad_checkpointing:
            encoder.lm.model.gradient_checkpointing_enable({"use_reentrant": False})

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss, its two terms, share of queries whose positive scores best."""
        query, query_weights = self._masked(batch["query"])
        passage, passage_weights = self._masked(batch["passage"])
        terms = self.objective(query, passage, query_weights, passage_weights)
        logged = {"loss": terms.loss, "dense_loss": terms.dense, "accuracy": terms.accuracy}
        return logged if terms.sparse is None else {**logged, "sparse_loss": terms.sparse}

    def _masked(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        dense, weights = self.encoder(inputs["input_ids"], inputs["attention_mask"])
        return dense, weights * in_text_mask(inputs["in_text"], weights.shape[-1])

    def negatives_per_query(self, global_batch_size: int) -> int:
        """All passages of the global batch but the own positive.

        Of this device's where nothing is gathered.
        """
        batch = global_batch_size if self.method.gather else self.batch_size
        return batch * self.group_size - 1

    def fsdp_units(self) -> set[type[nn.Module]]:
        """The blocks of the language model."""
        return block_classes(self.encoder.lm.model)
