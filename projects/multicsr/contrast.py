"""Decoding with the logits under the opposite instruction subtracted, for causal and encoder-decoder models.

# B rows, V vocabulary
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from common.decoding.language_model import Continuation, LanguageModel
from common.decoding.policies import SeededSampling
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.decoding.stopping import stopping, until_end

Model = LanguageModel | SequenceToSequence


def opposite_logits(wanted: Tensor, opposite: Tensor, omega: float, plausibility: float = 0.0) -> Tensor:  # fmt: skip
    """Logits of the next token.

        l~ = l - omega * l^,   -inf where p < plausibility * max p   (p of the wanted instruction)

    Source: Wang et al. 2024, stage 1, arXiv 2310.10962; plausibility: Li et al. 2023,
    equation 2, arXiv 2210.15097.

    Args:
        wanted: l, (B, V).
        opposite: l^, (B, V), of the same prefix under the opposite instruction.
        omega: >= 0; 0 leaves `wanted`.
        plausibility: in [0, 1]; 0: off.

    >>> opposite_logits(torch.tensor([[2.0, 1.5]]), torch.tensor([[3.0, 0.0]]), 0.5)
    tensor([[0.5000, 1.5000]])
    """
    found = wanted.float() - omega * opposite.float()
    if plausibility > 0:
        floor = wanted.float().amax(-1, keepdim=True) + math.log(plausibility)
        found = found.masked_fill(wanted.float() < floor, -torch.inf)
    return found


class OppositeInstruction(LogitsProcessor):
    """Feeds the tokens that generation has chosen to the opposite branch as well, with a cache.

    Args:
        model: of the wanted branch.
        inputs: ids and mask of the opposite prompts, padded on the left for a causal model.
        prompt_length: columns of ``input_ids`` that are the wanted prompt; 0 of an encoder-decoder.
        omega: see `opposite_logits`.
        plausibility: see `opposite_logits`.
    """

    def __init__(
        self, model: Any, inputs: dict[str, Tensor], prompt_length: int, omega: float,
        plausibility: float,
    ) -> None:  # fmt: skip
        self.model, self.prompt_length = model, prompt_length
        self.omega, self.plausibility = omega, plausibility
        self.ids, self.mask = inputs["input_ids"], inputs["attention_mask"]
        self.cache: Any = None
        self.read = 0  # tokens of the shared prefix that the branch has seen
        self.encoded: BaseModelOutput | None = None
        if model.config.is_encoder_decoder:
            states = model.get_encoder()(input_ids=self.ids, attention_mask=self.mask)
            self.encoded = BaseModelOutput(last_hidden_state=states.last_hidden_state)
        names = inspect.signature(model.forward).parameters
        self.has_positions = "position_ids" in names
        self.cache_name = "cache" if "cache" in names else "past_key_values"

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Combined logits (B, V)."""
        prefix = input_ids[:, self.prompt_length :]  # the tokens that both branches have
        new = prefix[:, self.read :]
        self.read = prefix.shape[1]
        opposite = self._decoder(new) if self.encoded is not None else self._causal(new)
        return opposite_logits(scores, opposite.to(scores), self.omega, self.plausibility)

    def _decoder(self, new: Tensor) -> Tensor:
        out = self.model(
            encoder_outputs=self.encoded, attention_mask=self.mask, decoder_input_ids=new,
            use_cache=True, **{self.cache_name: self.cache},
        )  # fmt: skip
        return self._newest(out)

    def _causal(self, new: Tensor) -> Tensor:
        ids = self.ids if self.cache is None else new
        if self.cache is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(new)], dim=1)
        places = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        more: dict[str, Any] = {self.cache_name: self.cache}
        if self.has_positions:
            more["position_ids"] = places
        return self._newest(
            self.model(input_ids=ids, attention_mask=self.mask, use_cache=True, **more)
        )

    def _newest(self, out: Any) -> Tensor:
        """Keep the cache; logits of the last token."""
        self.cache = out.get(self.cache_name)
        found: Tensor = out.logits[:, -1]
        return found


@torch.no_grad()
def contrastive_answers(
    model: Model,
    wanted: Sequence[str],
    opposite: Sequence[str],
    *,
    omega: float,
    plausibility: float = 0.0,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    rngs: Sequence[np.random.Generator] | None = None,
    stop: str | None = None,
) -> list[Continuation]:
    """What a model writes under one instruction and against another.

    Every chosen token is appended to both branches; the end of the text is chosen from the combined
    logits too.

    Args:
        model: causal or encoder-decoder.
        wanted: N prompts.
        opposite: N prompts of the same premises under the opposite instruction.
        omega: 0 decodes the wanted prompts alone.
        plausibility: see `opposite_logits`.
        max_new_tokens: most tokens of an answer.
        batch_size: prompts per pass.
        rngs: one stream a prompt: draws at temperature 1; None: the best token.
        stop: a character that ends an answer, such as a line break.

    Raises:
        UserError: no room for a prompt beside the new tokens.
    """
    found: list[Continuation] = []
    for start in range(0, len(wanted), batch_size):
        part = slice(start, start + batch_size)
        own = _inputs(model, wanted[part], max_new_tokens)
        causal = isinstance(model, LanguageModel)
        chosen: list[Any] = []
        if omega > 0 or plausibility > 0:
            against = _inputs(model, opposite[part], max_new_tokens)
            length = own["input_ids"].shape[1] if causal else 0
            chosen.append(OppositeInstruction(model.model, against, length, omega, plausibility))
        if rngs is not None:
            chosen.append(SeededSampling(rngs[part]))
        found += _generated(model, own, chosen, max_new_tokens, stop)
    return found


def _generated(
    model: Model, inputs: dict[str, Tensor], chosen: list[Any], max_new_tokens: int, stop: str | None
) -> list[Continuation]:  # fmt: skip
    tokenizer, network = model.tokenizer, model.model
    causal, eos = isinstance(model, LanguageModel), tokenizer.eos_token_id
    criteria = stopping(network, tokenizer, stop)
    settings: dict[str, Any] = {
        "do_sample": False,  # the draw, if any, is in `SeededSampling`
        "max_new_tokens": max_new_tokens, "eos_token_id": eos, "pad_token_id": _pad(model),
    }  # fmt: skip
    if not causal:
        settings["decoder_start_token_id"] = network.generation_config.decoder_start_token_id
    config: Any = GenerationConfig.from_dict(settings)
    out = network.generate(
        **inputs, generation_config=config, logits_processor=LogitsProcessorList(chosen),
        stopping_criteria=criteria,
    )  # fmt: skip
    before = inputs["input_ids"].shape[1] if causal else 1
    found = []
    for prompt, mask, row in zip(*inputs.values(), out[:, before:].tolist(), strict=True):
        new = until_end(row, eos, criteria)
        if isinstance(model, LanguageModel):
            found.append(model.finished(prompt[mask.bool()].tolist(), new, stop))
            continue
        text = tokenizer.decode(new, skip_special_tokens=True)
        text = text if stop is None else text.partition(stop)[0]
        found.append(Continuation(text, bool(new) and new[-1] == eos, len(new)))
    return found


def _pad(model: Model) -> int:
    return model.pad if isinstance(model, LanguageModel) else int(model.tokenizer.pad_token_id)


def _inputs(model: Model, prompts: Sequence[str], max_new_tokens: int) -> dict[str, Tensor]:
    """Ids and mask on the model's device; a causal model's are padded on the left."""
    if isinstance(model, SequenceToSequence):
        return model.inputs(prompts)
    rows = [
        torch.tensor(model.fitting(model.token_ids(text, special=True), max_new_tokens))
        for text in prompts
    ]
    ids = pad_sequence(rows, batch_first=True, padding_value=model.pad, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")  # fmt: skip
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
