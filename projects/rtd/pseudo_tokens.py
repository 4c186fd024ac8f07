"""CLIP text towers with a pseudo word: a vector replaces the embedding of one token.

Both libraries' towers are run step by step, so that nothing depends on how they pass arguments;
without a pseudo word the output is that of the stock forward pass.

# B batch, L tokens, F width, D joint space
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.image_text.clip_text import check_argmax_pool, cut_at_end

PLACEHOLDER = "$"  # word whose token is replaced
_PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")


def placeholder_id(tokenizer: Callable[[Sequence[str]], Tensor]) -> int:
    """Id of the token that stands for `PLACEHOLDER`: 259 in CLIP's vocabulary.

    >>> from common.data.text.tokenizers import ClipTokenizer
    >>> placeholder_id(ClipTokenizer())
    259
    """
    with torch.device("cpu"):  # also where a model without weights is built on the meta device
        ids = tokenizer([PLACEHOLDER])[0]
    return int(ids[int(ids.argmax()) - 1])


def without_placeholder(text: str) -> str:
    """A caption that cannot be taken for a pseudo word.

    >>> without_placeholder("a $5 bill")
    'a 5 bill'
    """
    return " ".join(text.replace(PLACEHOLDER, " ").split())


def inject(states: Tensor, ids: Tensor, pseudo: Tensor | None, placeholder: int) -> Tensor:
    """Token embeddings with the pseudo word in place of the placeholder.

    Args:
        states: (B, L, F) embeddings of tokens, before positions are added.
        ids: (B, L) int64.
        pseudo: (B, F) one vector a text; None: nothing is replaced.
        placeholder: id of the replaced token.

    Returns:
        (B, L, F).
    """
    if pseudo is None:
        return states
    return torch.where((ids == placeholder).unsqueeze(-1), pseudo.to(states).unsqueeze(1), states)


def check_text_side(clip: Any) -> None:
    """Refuse a model whose text side is not open_clip's own, or pools otherwise than CLIP.

    Raises:
        UserError: see above.
    """
    if not all(hasattr(clip, name) for name in _PARTS) or clip.text_projection is None:
        raise UserError(
            "pseudo words need open_clip's own text tower: take a model without hf_model_name"
        )
    check_argmax_pool(clip)


def encode_text(
    tower: Any, ids: Tensor, pseudo: Tensor | None = None, placeholder: int = -1
) -> Tensor:
    """Embeddings of texts by an `open_clip.model.CLIP` or a `ClipText`.

    Source: Radford et al. 2021, arXiv 2103.00020; injection as in Saito et al. 2023, arXiv
    2302.03084.

    Args:
        tower: has open_clip's text parts, see `check_text_side`.
        ids: (B, L) int64; the end of text has the highest id of its row.
        pseudo: (B, F) pseudo words, or None.
        placeholder: see `placeholder_id`.

    Returns:
        (B, D), not normalised.
    """
    ids, ends = cut_at_end(ids)
    length = ids.shape[1]
    states = inject(tower.token_embedding(ids), ids, pseudo, placeholder)
    states = states + tower.positional_embedding[:length]
    states = tower.transformer(states, attn_mask=tower.attn_mask[:length, :length])
    rows = torch.arange(len(states), device=states.device)
    features, weights = tower.ln_final(states[rows, ends]), tower.text_projection
    embeddings: Tensor = weights(features) if isinstance(weights, nn.Module) else features @ weights
    return embeddings


class ClipText(nn.Module):
    """A copy of the text side of an open_clip model; parameters carry open_clip's names.

    Args:
        clip: an `open_clip.model.CLIP` (without a foreign text tower); not changed.

    Raises:
        UserError: a model whose text side is another one.
    """

    attn_mask: Tensor

    def __init__(self, clip: Any) -> None:
        super().__init__()
        check_text_side(clip)
        for name in _PARTS:
            setattr(self, name, copy.deepcopy(getattr(clip, name)))
        self.requires_grad_(True)
        self.register_buffer("attn_mask", clip.attn_mask.clone(), persistent=False)
        self.width = int(self.ln_final.weight.shape[0])  # type: ignore[union-attr, index]

    def forward(self, ids: Tensor, pseudo: Tensor | None = None, placeholder: int = -1) -> Tensor:
        """Embeddings of texts, (B, L) -> (B, D); see `encode_text`."""
        return encode_text(self, ids, pseudo, placeholder)

    def write_to(self, clip: Any) -> None:
        """Put these weights into the text side of an open_clip model of the same sizes."""
        missing, unexpected = clip.load_state_dict(self.state_dict(), strict=False)
        if unexpected or any(name.startswith(_PARTS) for name in missing):
            raise UserError("the open_clip model has another text tower than these weights")


class TransformersClipText(nn.Module):
    """The text tower of transformers (`CLIPTextModelWithProjection`) as a `ClipText`.

    Args:
        model: held, not copied.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.width = int(model.config.hidden_size)

    def forward(self, ids: Tensor, pseudo: Tensor | None = None, placeholder: int = -1) -> Tensor:
        """Embeddings of texts, (B, L) -> (B, D); arguments as in `ClipText.forward`.

        The end of text is the first position of the highest id: the padding of OpenAI's tokenizer,
        which repeats that id, changes nothing.
        """
        from transformers.masking_utils import create_causal_mask

        text = self.model.text_model
        ids, ends = cut_at_end(ids)
        states = inject(text.embeddings.token_embedding(ids), ids, pseudo, placeholder)
        states = text.embeddings(inputs_embeds=states)
        mask = create_causal_mask(
            config=text.config, inputs_embeds=states, attention_mask=None, past_key_values=None
        )
        states = text.encoder(inputs_embeds=states, attention_mask=mask, is_causal=True)[0]
        states = text.final_layer_norm(states)
        rows = torch.arange(len(states), device=states.device)
        embeddings: Tensor = self.model.text_projection(states[rows, ends])
        return embeddings
