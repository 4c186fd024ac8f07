"""An encoder-decoder language model with its tokenizer: paraphrases, summaries, answers."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, LogitsProcessor

from common.config import UserError
from common.decoding.language_model import Continuation
from common.decoding.options import Policy
from common.decoding.policies import Further, generation_config, processors
from common.decoding.stopping import end_ids, held_back, stopping, until_end
from common.encoders.text.tower import load_tokenizer, load_transformer


class SequenceToSequence:
    """Any encoder-decoder of transformers (T5, BART, Pegasus, ...); never trained.

    Args:
        model: put into evaluation mode and moved to `device`.
        tokenizer: its tokenizer.
        device: "auto" is a GPU if there is one.
        max_length: tokens of a text that are read; None: what model and tokenizer allow.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: str = "auto", max_length: int | None = None
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer, self.device = model.to(device).eval(), tokenizer, device
        config = model.config
        places = getattr(config, "max_position_embeddings", None) or getattr(
            config, "n_positions", None
        )
        self.context = min(int(places or 10**9), int(min(tokenizer.model_max_length, 10**9)))
        self.context = min(self.context, max_length or 10**9)
        self._stopping: dict[str | None, Any] = {None: None}  # by character, made once

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
        further: Further | None = None,
    ) -> list[Continuation]:
        """What the decoder writes for each text; a text that does not fit is cut on its right.

        Args:
            prompts: N texts.
            policy: greedy or a sampling strategy.
            rngs: one random stream per text.
            max_new_tokens: most tokens, one number or one per text.
            batch_size: texts per pass.
            stop: a character that ends an answer and is left out.
            further: processors of logits before the policy's own, see `Further`; the decoder's
                prompt is one column.

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
        answers: list[Continuation] = []
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            more = () if further is None else further(list(range(count))[part], 1)
            answers += self._batch(prompts[part], policy, rngs[part], limits[part], stop, more)
        return answers

    @torch.no_grad()
    def beam_search(
        self, prompts: Sequence[str], num_beams: int, max_new_tokens: int, *, batch_size: int = 16
    ) -> list[str]:
        """The best hypothesis of beam search for each text; one beam is greedy search.

        Length penalty, banned repetitions and the like are those of the model's own settings.

        Args:
            prompts: N texts; one that does not fit is cut on its right.
            num_beams: width, >= 1.
            max_new_tokens: most tokens of a hypothesis.
            batch_size: texts per pass.
        """
        options: Any = copy.deepcopy(self.model.generation_config)
        options.update(
            do_sample=False,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            max_length=None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        if num_beams == 1:
            options.update(early_stopping=False, length_penalty=1.0)  # which greedy search warns of
        texts: list[str] = []
        for start in range(0, len(prompts), batch_size):
            part = list(prompts[start : start + batch_size])
            inputs = self.inputs(part)
            out = self.model.generate(**inputs, generation_config=options)
            texts += self.tokenizer.batch_decode(out, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def inputs(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Ids and mask of texts, on the model's device."""
        batch = self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self.context,
            return_tensors="pt",
        ).to(self.device)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def _batch(
        self,
        prompts: Sequence[str],
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        limits: Sequence[int],
        stop: str | None,
        further: Sequence[LogitsProcessor],
    ) -> list[Continuation]:
        config, ends = (
            self.model.generation_config,
            end_ids(self.model, self.tokenizer.eos_token_id),
        )
        if stop not in self._stopping:
            self._stopping[stop] = stopping(self.model, self.tokenizer, stop)
        criteria, most = self._stopping[stop], max(limits)
        options = generation_config(
            policy,
            most,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=list(ends) or None,
            decoder_start_token_id=config.decoder_start_token_id,
            forced_bos_token_id=config.forced_bos_token_id,
        )
        # the decoder's prompt is one column
        held = held_back(criteria, 1, min(policy.min_new_tokens, most))
        out = self.model.generate(
            **self.inputs(prompts),
            generation_config=options,
            logits_processor=processors(policy, rngs, further=[*held, *further]),
            stopping_criteria=criteria,
        )
        answers = []
        for row, limit in zip(out[:, 1:].tolist(), limits, strict=True):
            new = until_end(row[:limit], ends, criteria)
            text = self.tokenizer.decode(new, skip_special_tokens=True)
            text = text if stop is None else text.partition(stop)[0]
            answers.append(Continuation(text, bool(new) and new[-1] in ends, len(new)))
        return answers
