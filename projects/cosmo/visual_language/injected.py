"""Gated cross-attention before the layers of any frozen causal language model of transformers.

# B batch, L tokens, W width of the language model, V vocabulary
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.text.language_models.causal import final_logits
from projects.cosmo.visual_language.gated_cross_attention import (
    GatedCrossAttention,
    media_times,
)

TrainedRows = Literal["none", "new", "all"]


class Output(NamedTuple):
    """Logits (B, L, V), and the states (B, L, W) below a layer where they were asked for."""

    logits: Tensor
    states: Tensor | None


class _Reached(Exception):
    """A layer below which all is known."""


def decoder_layers(model: Any) -> nn.ModuleList:
    """The layers of a causal language model of transformers.

    Raises:
        UserError: none are found.
    """
    count = int(model.config.get_text_config().num_hidden_layers)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise UserError(f"{type(model).__name__} has no list of {count} decoder layers")
    return lists[0]


def places(first: int, interval: int, num_layers: int) -> list[int]:
    """Layers that a cross-attention stands before: every `interval`-th from `first` on.

    >>> places(2, 2, 7)
    [2, 4, 6]
    """
    return list(range(first, num_layers, interval))


class InjectedLM(nn.Module):
    """A frozen causal language model with trained cross-attention before some of its layers.

    The language model is reached by hooks that stand during a call alone. It is moved with this
    module but is no part of its state dict, apart from the rows of its vocabulary from `first_row`
    on.

    Source: Alayrac et al. 2022, "Flamingo", arXiv 2204.14198; the split into unimodal and
    multimodal layers: Wang et al. 2024, "COSMO", arXiv 2401.00849.

    Args:
        model: causal language model of transformers, with rows for all tokens; its gradients are
            switched off.
        blocks: one for each of `layers`.
        layers: numbers of the layers that they stand before, see `places`.
        media_token: id of the token that stands for a medium.
        first_row: first token that the language model was not trained with.
        trained_rows: which rows of the vocabulary are trained (input, and output where it is tied).

    Attributes:
        rows: (R, W) of the vocabulary, from `first_row` on (all of it for ``trained_rows="all"``);
            at least float32 where they are trained, whatever the model's precision.
        width: W.
    """

    model: Any  # not a submodule

    def __init__(
        self,
        model: Any,
        blocks: list[GatedCrossAttention],
        layers: list[int],
        *,
        media_token: int,
        first_row: int,
        trained_rows: TrainedRows = "none",
    ) -> None:
        super().__init__()
        object.__setattr__(self, "model", model.requires_grad_(False).eval())
        self.blocks, self.layers = nn.ModuleList(blocks), list(layers)
        self.media_token, self.start = media_token, 0 if trained_rows == "all" else first_row
        words = model.get_input_embeddings().weight
        self.width = int(words.shape[1])
        trained = trained_rows != "none"
        # a gradient scaler refuses gradients of half precision, and steps of 2e-5 would be rounded
        # away
        kind = torch.promote_types(words.dtype, torch.float32) if trained else words.dtype
        self.rows = nn.Parameter(words[self.start :].detach().clone().to(kind), trained)
        head = model.get_output_embeddings().weight
        self.tied = head.data_ptr() == words.data_ptr()
        if not self.tied:
            self.register_buffer("head_rows", head[first_row:].detach().clone())
        self.first_row = first_row
        self.register_load_state_dict_post_hook(_rows_loaded)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InjectedLM":
        self.model._apply(fn, recurse)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def train(self, mode: bool = True) -> "InjectedLM":
        """Of the blocks; the language model has no dropout in any mode."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def write_rows(self) -> None:
        """Put `rows` into the language model, after they were trained.

        Loading a state does so itself.
        """
        self.model.get_input_embeddings().weight[self.start :] = self.rows
        if not self.tied:
            self.model.get_output_embeddings().weight[self.first_row :] = self.head_rows

    @torch.no_grad()
    def take_rows(self, rows: Tensor) -> None:
        """Begin with the rows (R, W) that end another module's vocabulary of this model.

        Raises:
            ValueError: rows of another width, or more of them than this module keeps.
        """
        words = self.model.get_input_embeddings().weight
        start = len(words) - len(rows)
        if rows.shape[1] != self.width or start < self.start:
            raise ValueError(f"{tuple(rows.shape)} rows for the last {tuple(self.rows.shape)}")
        self.rows[start - self.start :] = rows.to(self.rows)
        self.write_rows()

    # -- a call ----------------------------------------------------------------------------------

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        media: Tensor | None = None,
        states_below: int | None = None,
    ) -> Output:
        """Logits of all places.

        Args:
            ids: (B, L) int64, padded on the right.
            mask: (B, L), 0 at padding.
            media: (B, T, N, D_v) tokens of the media; None: the language model alone.
            states_below: also the input of this layer (0: the embedded text).

        Raises:
            ValueError: more media tokens in a text than media.
        """
        times = self.times(ids, media)
        states: list[Tensor] = []
        with self._hooked(media, times), self._caught(states_below, states), self._head() as head:
            logits = self.model(
                inputs_embeds=self.embed(ids), attention_mask=mask, use_cache=False
            ).logits
        if self.tied and self.rows.requires_grad:  # the trained rows, with their gradient
            new_logits = final_logits(self.model, head[0].to(self.rows.dtype) @ self.rows.T)
            logits = torch.cat([logits[..., : self.start], new_logits], dim=-1)
        return Output(logits, states[0] if states else None)

    def states(self, ids: Tensor, mask: Tensor, below: int) -> Tensor:
        """Input (B, L, W) of a layer without any media; what lies above is not computed."""
        states: list[Tensor] = []
        with self._caught(below, states, stop=True), suppress(_Reached):
            self.model(inputs_embeds=self.embed(ids), attention_mask=mask, use_cache=False)
        return states[0]

    @torch.no_grad()
    def generate(
        self, ids: Tensor, mask: Tensor, media: Tensor | None = None, **options: Any
    ) -> Tensor:
        """New tokens (B, <= max_new_tokens) after prompts that are padded on the left.

        Args:
            ids: (B, L).
            mask: (B, L).
            media: as in `forward`; new tokens see what the end of their prompt sees.
            **options: of transformers' `generate`.
        """
        self.write_rows()
        with self._hooked(media, self.times(ids, media)):
            written: Tensor = self.model.generate(input_ids=ids, attention_mask=mask, **options)
        return written[:, ids.shape[1] :]

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, W); rows of `rows` carry a gradient if they are trained."""
        table = self.model.get_input_embeddings()
        words: Tensor = table(ids)
        new_words = F.embedding((ids - self.start).clamp(min=0), self.rows)
        if (
            scale := getattr(table, "embed_scale", None)
        ) is not None:  # Gemma's table has one of its own
            new_words = new_words * scale
        return torch.where((ids >= self.start)[..., None], new_words.to(words.dtype), words)

    def times(self, ids: Tensor, media: Tensor | None) -> Tensor:
        """(B, L) media that have begun at each token.

        Raises:
            ValueError: more than there are.
        """
        times = media_times(ids == self.media_token)
        if media is not None and (times > media.shape[1]).any():
            raise ValueError(f"{int(times.max())} media tokens in a text of {media.shape[1]} media")
        return times

    # -- hooks -----------------------------------------------------------------------------------

    @contextmanager
    def _hooked(self, media: Tensor | None, times: Tensor) -> Iterator[None]:
        layers = decoder_layers(self.model)

        def read(x: Tensor, block: nn.Module) -> Tensor:
            assert media is not None
            # a frozen model may be of half precision, the blocks are not
            return block(x.to(media.dtype), *_fitted(x, media, times)).to(x.dtype)  # type: ignore[no-any-return]

        with ExitStack() as stack:
            for number, block in zip(self.layers, self.blocks, strict=True):
                if media is not None:
                    change = partial(read, block=block)
                    stack.callback(_before(layers[number], change).remove)
            yield

    @contextmanager
    def _caught(
        self, below: int | None, states: list[Tensor], *, stop: bool = False
    ) -> Iterator[None]:
        """Keep the input of a layer, before a cross-attention at the same place."""
        if below is None:
            yield
            return

        def keep(x: Tensor) -> Tensor:
            states.append(x)
            if stop:
                raise _Reached
            return x

        handle = _before(decoder_layers(self.model)[below], keep, first=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _head(self) -> Iterator[list[Tensor]]:
        """Keep what the output layer reads."""
        states: list[Tensor] = []
        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda _, args: states.append(args[0]))
        try:
            yield states
        finally:
            handle.remove()


def _rows_loaded(module: nn.Module, _: Any) -> None:
    assert isinstance(module, InjectedLM)
    module.write_rows()


def _before(layer: nn.Module, change: Callable[[Tensor], Tensor], *, first: bool = False) -> Any:
    """Hook that changes the hidden states (B, L, W) which a decoder layer reads."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return layer.register_forward_pre_hook(hook, with_kwargs=True, prepend=first)


def _fitted(x: Tensor, media: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Media and times for the states of a pass: repeated for beams.

    New tokens have the total count.
    """
    copies = len(x) // len(media)
    if copies > 1:
        media, times = (t.repeat_interleave(copies, dim=0) for t in (media, times))
    if times.shape[1] != x.shape[1]:
        times = times[:, -1:].expand(-1, x.shape[1])
    return media, times
