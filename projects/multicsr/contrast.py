"""Decoding with the logits under the opposite instruction subtracted.

# B rows, V vocabulary
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from common.decoding.contrast import plausible
from common.decoding.language_model import Continuation, LanguageModel
from common.decoding.options import Policy
from common.decoding.sequence_to_sequence import SequenceToSequence

Model = LanguageModel | SequenceToSequence


def opposite_logits(
    instructed: Tensor, opposite: Tensor, omega: float, plausibility: float = 0.0
) -> Tensor:
    """Logits of the next token.

        l~ = l - omega * l^,   -inf where p < plausibility * max p   (p of the instruction)

    Source: Wang et al. 2024, stage 1, arXiv 2310.10962; plausibility: Li et al. 2023,
    equation 2, arXiv 2210.15097.

    Args:
        instructed: l, (B, V).
        opposite: l^, (B, V), of the same prefix under the opposite instruction.
        omega: >= 0; 0 leaves `instructed`.
        plausibility: in [0, 1]; 0: off.

    >>> opposite_logits(torch.tensor([[2.0, 1.5]]), torch.tensor([[3.0, 0.0]]), 0.5)
    tensor([[0.5000, 1.5000]])
    """
    contrasted = instructed.float() - omega * opposite.float()
    return contrasted.masked_fill(~plausible(instructed.float(), plausibility), -torch.inf)


class OppositeInstruction(LogitsProcessor):
    """Feeds the tokens that generation has chosen to the opposite branch as well, with a cache.

    Args:
        model: of the branch with the instruction.
        inputs: ids and mask of the opposite prompts, padded on the left for a causal model.
        prompt_length: columns of ``input_ids`` that are the prompt; 0 of an encoder-decoder.
        omega: see `opposite_logits`.
        plausibility: see `opposite_logits`.
    """

    def __init__(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        prompt_length: int,
        omega: float,
        plausibility: float,
    ) -> None:
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
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=new,
            use_cache=True,
            **{self.cache_name: self.cache},
        )
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
        logits: Tensor = out.logits[:, -1]
        return logits


@torch.no_grad()
def contrastive_answers(
    model: Model,
    prompts: Sequence[str],
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
        prompts: N texts.
        opposite: N prompts of the same premises under the opposite instruction.
        omega: 0 decodes `prompts` alone.
        plausibility: see `opposite_logits`.
        max_new_tokens: most tokens of an answer.
        batch_size: prompts per pass.
        rngs: one stream a prompt: draws at temperature 1; None: the best token.
        stop: a character that ends an answer, such as a line break.

    Raises:
        UserError: no room for a prompt alongside the new tokens.
    """
    causal = isinstance(model, LanguageModel)

    def further(rows: list[int], columns: int) -> list[LogitsProcessor]:
        if not (omega > 0 or plausibility > 0):
            return []
        against = _inputs(model, [opposite[row] for row in rows], max_new_tokens)
        length = columns if causal else 0
        return [OppositeInstruction(model.model, against, length, omega, plausibility)]

    policy = Policy("greedy") if rngs is None else Policy("nucleus", top_p=1.0)
    streams = (
        [np.random.default_rng(0)] * len(prompts) if rngs is None else rngs
    )  # greedy draws none
    return model.continuations(
        prompts, policy, streams, max_new_tokens, batch_size=batch_size, stop=stop, further=further
    )


def _inputs(model: Model, prompts: Sequence[str], max_new_tokens: int) -> dict[str, Tensor]:
    """Ids and mask on the model's device; a causal model's are padded on the left."""
    if isinstance(model, SequenceToSequence):
        return model.inputs(prompts)
    rows = [model.fitting(model.token_ids(text, special=True), max_new_tokens) for text in prompts]
    ids, mask = model.batch(rows, left=True)
    return {"input_ids": ids, "attention_mask": mask}
