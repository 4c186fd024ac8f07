"""Text from a vector: a language model that reads a few tokens made from it, before any text.

# B inputs, R targets, D dim of the vector, W width of the language model, K vector tokens, S and T
lengths
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

IGNORED = -100  # label of a position where nothing is predicted, as in transformers


def concat_masked_sequences(
    first: Tensor,
    second: Tensor,
    first_mask: Tensor | None = None,
    second_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Two padded sequences behind each other, the padding of both at the end.

    Args:
        first: (B, S, W).
        second: (B, T, W).
        first_mask: (B, S), nonzero at what is there; None: everywhere.
        second_mask: (B, T), likewise.

    Returns:
        (B, S + T, W) and its mask, int64.

    >>> one, two = torch.tensor([[[1], [0]]]), torch.tensor([[[2], [0]]])
    >>> mask = torch.tensor([[1, 0]])
    >>> concat_masked_sequences(one, two, mask, mask)[0].flatten().tolist()
    [1, 2, 0, 0]
    """
    masks = [
        (
            torch.ones(part.shape[:2], dtype=torch.long, device=part.device)
            if mask is None
            else mask.long()
        )
        for part, mask in ((first, first_mask), (second, second_mask))
    ]
    mask, joined = torch.cat(masks, dim=1), torch.cat([first, second], dim=1)
    order = (mask == 0).long().argsort(dim=1, stable=True)
    return joined.take_along_dim(order[..., None], dim=1), mask.take_along_dim(order, dim=1)


class VectorToText(nn.Module):
    """A linear map from a vector to K tokens, and a language model that reads them.

    Source: Gu, Clark & Kembhavi 2023, section 3, arXiv 2211.09778 (K = 4, T5); the idea of a prefix
    from one
    vector: Mokady et al. 2021, "ClipCap", arXiv 2111.09734.

    Args:
        model: encoder-decoder or causal language model of transformers.
        vector_dim: D.
        num_tokens: K.
        num_constants: learned tokens that stand before them and depend on nothing.
    """

    def __init__(
        self, model: Any, vector_dim: int, num_tokens: int = 4, num_constants: int = 0
    ) -> None:
        super().__init__()
        self.model, self.num_tokens = model, num_tokens
        self.width = int(model.get_input_embeddings().weight.shape[1])
        self.to_tokens = nn.Linear(vector_dim, num_tokens * self.width)
        self.constants: nn.Parameter | None = None
        if num_constants:
            self.constants = nn.Parameter(torch.randn(num_constants, self.width) * 0.02)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder."""
        return bool(self.model.config.is_encoder_decoder)

    def prefix(
        self, vectors: Tensor, ids: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Input of the language model: constants, vector tokens, embedded text.

        Args:
            vectors: (B, D).
            ids: (B, S) of further text, such as a question; None: none.
            mask: (B, S).

        Returns:
            (B, C + K + S, W) and its mask.
        """
        vectors = vectors.to(self.to_tokens.weight.dtype)  # a dual encoder's are float32
        tokens = self.to_tokens(vectors).view(len(vectors), self.num_tokens, self.width)
        if self.constants is not None:
            tokens = torch.cat([self.constants.expand(len(vectors), -1, -1), tokens], dim=1)
        if ids is None or not ids.shape[1]:
            return tokens, torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        return concat_masked_sequences(tokens, self.model.get_input_embeddings()(ids), None, mask)

    def forward(
        self,
        vectors: Tensor,
        labels: Tensor,
        rows: Tensor | None = None,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of the targets under teacher forcing.

        Args:
            vectors: (B, D).
            labels: (R, T) target ids with their end, -100 behind it.
            rows: (R,) input of every target, whose encoding is repeated; None: R = B, in order.
            ids: see `prefix`.
            mask: see `prefix`.

        Returns:
            (R, T, V): entry t predicts label t.
        """
        embeds, seen = self.prefix(vectors, ids, mask)
        rows = torch.arange(len(vectors), device=vectors.device) if rows is None else rows
        if self.is_encoder_decoder:
            states = self._encoded(embeds, seen)[rows]
            start = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
            logits: Tensor = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=seen[rows],
                decoder_input_ids=start,
                use_cache=False,
            ).logits
            return logits
        embeds, seen = padded_left(embeds, seen)
        there = labels.ne(IGNORED)
        words = self.model.get_input_embeddings()(labels.masked_fill(~there, 0))
        whole = torch.cat([embeds[rows], words], dim=1)
        whole_mask = torch.cat([seen[rows], there.long()], dim=1)
        places = (whole_mask.cumsum(1) - 1).clamp(min=0)
        logits = self.model(
            inputs_embeds=whole, attention_mask=whole_mask, position_ids=places, use_cache=False
        ).logits
        return logits[:, embeds.shape[1] - 1 : -1]

    @torch.no_grad()
    def generate(
        self,
        vectors: Tensor,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        num_beams: int = 1,
        max_new_tokens: int = 32,
        eos_token_id: int | None = None,
        pad_token_id: int = 0,
    ) -> Tensor:
        """Token ids (B, <= max_new_tokens) of the best hypothesis of beam search.

        One beam is greedy search.

        Args:
            vectors: (B, D).
            ids: see `prefix`.
            mask: see `prefix`.
            num_beams: width.
            max_new_tokens: most tokens, the end included.
            eos_token_id: ends a text.
            pad_token_id: stands behind the end.
        """
        embeds, seen = self.prefix(vectors, ids, mask)
        options: dict[str, Any] = {
            "num_beams": num_beams,
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
        }
        if self.is_encoder_decoder:
            states = BaseModelOutput(last_hidden_state=self._encoded(embeds, seen))
            out: Tensor = self.model.generate(
                encoder_outputs=states, attention_mask=seen, **options
            )
            return out[:, 1:]  # without the start token
        embeds, seen = padded_left(embeds, seen)
        generated: Tensor = self.model.generate(
            inputs_embeds=embeds, attention_mask=seen, **options
        )
        return generated

    def _encoded(self, embeds: Tensor, seen: Tensor) -> Tensor:
        encoded: Tensor = self.model.get_encoder()(
            inputs_embeds=embeds, attention_mask=seen
        ).last_hidden_state
        return encoded


def padded_left(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows with their padding before the rest, as causal models continue them.

    >>> rows, mask = torch.tensor([[[5], [6], [0]]]), torch.tensor([[1, 1, 0]])
    >>> padded_left(rows, mask)[0].flatten().tolist()
    [0, 5, 6]
    """
    order = mask.ne(0).long().argsort(dim=1, stable=True)
    return embeds.take_along_dim(order[..., None], dim=1), mask.take_along_dim(order, dim=1)
