"""An encoder-decoder language model with its tokenizer: answers to texts, as paraphrasers give."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from common.config import UserError
from common.decoding.language_model import Continuation
from common.decoding.options import Policy
from common.decoding.policies import processors
from common.decoding.stopping import stopping, until_end
from common.encoders.text.tower import load_tokenizer, load_transformer


class SequenceToSequence:
    """Any encoder-decoder of transformers (T5, BART, Pegasus, ...); never trained.

    Args:
        model: put into evaluation mode and moved to `device`.
        tokenizer: its tokenizer.
        device: "auto" is a GPU if there is one.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer, self.device = model.to(device).eval(), tokenizer, device
        config = model.config
        places = getattr(config, "max_position_embeddings", None) or getattr(
            config, "n_positions", None
        )
        self.context = min(int(places or 10**9), int(min(tokenizer.model_max_length, 10**9)))

    @classmethod
    def from_pretrained(cls, pretrained: str, device: str = "auto") -> "SequenceToSequence":
        """Load from a folder, ``bundled:<name>`` or hub id.

        Raises:
            UserError: absent or unfitting weights.
        """
        model = load_transformer(pretrained, auto_class=AutoModelForSeq2SeqLM)
        return cls(model, load_tokenizer(pretrained), device)

    @torch.no_grad()
    def continuations(
        self,
        prompts: Sequence[str],
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        max_new_tokens: int | Sequence[int],
        *,
        batch_size: int = 64,
        stop: str | None = None,
    ) -> list[Continuation]:
        """What the decoder writes for each text; a text that does not fit is cut on its right.

        Args:
            prompts: N texts.
            policy: greedy or a sampling strategy.
            rngs: one random stream per text.
            max_new_tokens: most tokens, one number or one per text.
            batch_size: texts per pass.
            stop: a character that ends an answer and is left out.

        Raises:
            UserError: a contrastive strategy.
        """
        if policy.strategy.startswith("contrastive"):
            raise UserError(
                f"strategy {policy.strategy} needs a causal model, not {type(self.model).__name__}"
            )
        count = len(prompts)
        limits = (
            [max_new_tokens] * count if isinstance(max_new_tokens, int) else list(max_new_tokens)
        )
        found: list[Continuation] = []
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            found += self._batch(prompts[part], policy, rngs[part], limits[part], stop)
        return found

    def _batch(
        self,
        prompts: Sequence[str],
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        limits: Sequence[int],
        stop: str | None,
    ) -> list[Continuation]:
        config, eos = self.model.generation_config, self.tokenizer.eos_token_id
        batch = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.context,
            return_tensors="pt",
        ).to(self.device)  # fmt: skip
        criteria = stopping(self.model, self.tokenizer, stop)
        options: Any = GenerationConfig.from_dict(
            {
                "do_sample": False,  # the draw is in `SeededSampling`
                "max_new_tokens": max(limits),
                "min_new_tokens": min(policy.min_new_tokens, max(limits)),
                "pad_token_id": self.tokenizer.pad_token_id,
                "eos_token_id": eos,
                "decoder_start_token_id": config.decoder_start_token_id,
                "forced_bos_token_id": config.forced_bos_token_id,
            }
        )
        out = self.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            generation_config=options,
            logits_processor=processors(policy, rngs),
            stopping_criteria=criteria,
            **({"num_beams": policy.num_beams} if policy.strategy == "beam_search" else {}),
        )
        found = []
        for row, limit in zip(out[:, 1:].tolist(), limits, strict=True):
            new = until_end(row[:limit], eos, criteria)
            text = self.tokenizer.decode(new, skip_special_tokens=True)
            text = text if stop is None else text.partition(stop)[0]
            found.append(Continuation(text, bool(new) and new[-1] == eos, len(new)))
        return found
