"""Original and amateur, and how each is trained: likelihood of the tokens that are labelled."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from common.decoding.language_model import LanguageModel
from common.encoders.text.language_models.causal import block_classes
from common.engine.module import ContrastiveModule
from common.losses.auxiliary.tokens import labelled_token_loss
from projects.lol.config import Config
from projects.lol.decoder import Models
from projects.lol.lora import lora_switched


class LOL(ContrastiveModule):
    """An original language model and its amateur, theta' = FT(theta, hallucinated answers).

    Source: Chen et al. 2024, "Lower Layer Matters", arXiv 2408.08769; Zhang et al. 2023, "ICD",
    arXiv
    2312.15710.

    Args:
        cfg: the experiment's config.
        model: causal LM of transformers, the original.
        tokenizer: its tokenizer, and the amateur's.
        trains: the original itself, or its amateur.
        amateur: weights of the amateur, if it has its own.
        lora: whether the original carries adapters that are the amateur.

    Distributed: reduces statistics.
    """

    in_batch_negatives = False

    def __init__(
        self,
        cfg: Config,
        model: Any,
        tokenizer: Any,
        trains: Literal["original", "amateur"] = "amateur",
        *,
        amateur: Any = None,
        lora: bool = False,
    ) -> None:
        optim = cfg.optim
        if trains == "original":
            optim = replace(optim, lr=cfg.base.lr, warmup_steps=cfg.base.warmup_steps)
        super().__init__(optim)
        self.model, self.tokenizer, self.lora = model, tokenizer, lora
        self.amateur: nn.Module | None = amateur
        self.device_of_decoding = cfg.model.device

    def train(self, mode: bool = True) -> "LOL":
        """The mode; an original alongside which an amateur is trained stays in evaluation."""
        super().train(mode)
        if self.amateur is not None:
            self.model.eval()
        return self

    @contextmanager
    def _trained(self) -> Iterator[Any]:
        switch = lora_switched(self.model, True) if self.lora else nullcontext()
        with switch:
            yield self.model if self.amateur is None else self.amateur

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss of a batch of ``input_ids``, ``attention_mask`` and ``labels`` (B, L)."""
        with self._trained() as model:
            out = model(
                input_ids=batch["input_ids"][:, :-1],
                attention_mask=batch["attention_mask"][:, :-1],
                use_cache=False,
            )
        # answer tokens alone are labelled; the base learns all
        return {"loss": labelled_token_loss(out.logits, batch["labels"][:, 1:])}

    def fsdp_units(self) -> set[type[nn.Module]]:
        """The blocks of the language models."""
        return block_classes(self.model)

    def models(self, small: Any = None) -> Models:
        """Original and amateur for decoding, in evaluation mode, on the device of decoding."""
        lm = LanguageModel(self.model, self.tokenizer, self.device_of_decoding)
        others = [m if m is None else m.to(lm.device).eval() for m in (self.amateur, small)]
        return Models(lm, others[0], others[1], self.lora)
