"""A decoder with a pooler and instructions: texts -> unit embeddings.

Source: Lee et al. 2024, "NV-Embed", sections 3 and 4, arXiv 2405.17428, and the released code.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.length_groups import Progress, in_batches_by_length, in_length_groups
from common.encoders.modes import evaluation_mode
from common.encoders.text.language_models.causal import ALL_LINEAR, add_lora, merge_lora
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import Attention, load_tokenizer, load_transformer
from projects.nv_embed.encoder.causal import append_eos, set_causal
from projects.nv_embed.encoder.latent_attention import TokenPooler, TokenPooling

InstructionSpan = Literal["exact", "released", "pooled"]

_SLICE = 16384  # texts that `encode` tokenises at once: their offsets take 32 kB each
TEMPLATE = "Instruct: {instruction}\nQuery: "


def instruction_prefix(instruction: str) -> str:
    """What stands before a text (two lines); nothing without an instruction.

    Source: Lee et al. 2024, section 4.1.

    >>> instruction_prefix("Find the title").splitlines()
    ['Instruct: Find the title', 'Query: ']
    """
    return TEMPLATE.format(instruction=instruction) if instruction else ""


class InstructedEncoder(nn.Module):
    """A decoder-only transformer, a pooler and a tokenizer.

    Args:
        model: transformer without head, its attention already causal or bidirectional.
        pooler: (B, L, D) states and masks -> (B, D).
        tokenizer: a fast one that ends texts with EOS, see `append_eos`; padding on the right.
        max_length: tokens of a text, instruction and special tokens included.
        span: which tokens count as instruction and are not pooled (they are attended to in all
            cases): "exact", BOS and every token that ends within the prefix; "released", as many
            leading tokens as the prefix has without BOS (so one less); "pooled", none.

    Attributes:
        length_groups: passes over a training batch, each of texts of similar length and padded to
            its own longest; 1 (the default) is one pass.
    """

    def __init__(
        self,
        model: Any,
        pooler: TokenPooler,
        tokenizer: Any,
        *,
        max_length: int = 512,
        span: InstructionSpan = "exact",
    ) -> None:
        super().__init__()
        if span not in get_args(InstructionSpan):
            raise ValueError(f"span must be one of {get_args(InstructionSpan)}, got {span!r}")
        limit = int(getattr(model.config, "max_position_embeddings", 0) or max_length)
        if not 4 <= max_length <= limit:
            raise UserError(f"max_length={max_length}, but this model reads 4 to {limit} tokens")
        self.model, self.pooler, self.tokenizer = model, pooler, tokenizer
        self.max_length, self.span = max_length, span
        self.num_features = int(model.config.hidden_size)
        self.length_groups = 1

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def causal(self) -> bool:
        """Whether tokens see earlier ones only."""
        return bool(self.model.config.is_causal)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """Embeddings.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 at real tokens.
            pool_mask: (B, L), 1 at the tokens that are pooled.

        Returns:
            (B, D), not normalised.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "pool_mask": pool_mask}
        if self.training and self.length_groups > 1:
            return in_length_groups(self._embed, self.length_groups, **inputs)
        return self._embed(**inputs)

    def _embed(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        pooled: Tensor = self.pooler(output.last_hidden_state, attention_mask, pool_mask)
        return pooled

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass to save memory."""
        if enable:
            self.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        else:
            self.model.gradient_checkpointing_disable()

    def token_rows(
        self, texts: Sequence[str], instruction: str = "", max_length: int | None = None
    ) -> list[tuple[list[int], int]]:
        """Ids of each text and how many of them belong to the instruction.

        A text is cut so that its EOS stays. Instruction and text are tokenised as one string.

        Raises:
            UserError: the instruction leaves no room for a text.
        """
        return self.prefixed_rows(texts, instruction_prefix(instruction), max_length)

    def prefixed_rows(
        self, texts: Sequence[str], prefix: str, max_length: int | None = None
    ) -> list[tuple[list[int], int]]:
        """`token_rows` with the whole prefix in place of an instruction."""
        limit = max_length or self.max_length
        encoded = self.tokenizer(
            [prefix + text for text in texts],
            truncation=True,
            max_length=limit,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=bool(prefix),
        )
        if not prefix:
            return [(ids, 0) for ids in encoded["input_ids"]]
        spans = [_exact_span(offsets, prefix) for offsets in encoded["offset_mapping"]]
        if max(spans, default=0) >= limit - 1:
            raise UserError(f"{limit} tokens leave no room for a text after {prefix!r}")
        if self.span != "exact":
            released = self.span == "released"
            plain = self.tokenizer(prefix, add_special_tokens=False)["input_ids"]
            spans = [len(plain) if released else 0] * len(spans)
        return list(zip(encoded["input_ids"], spans, strict=True))

    def pad(self, rows: Sequence[tuple[Sequence[int], int]]) -> dict[str, Tensor]:
        """Rows of `token_rows` -> ids, ``attention_mask`` and ``pool_mask``, (B, L) int64."""
        length = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), length), int(self.tokenizer.pad_token_id))
        mask, pool = torch.zeros_like(ids), torch.zeros_like(ids)
        for i, (row, span) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            pool[i, span : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask, "pool_mask": pool}

    def tokenize(self, texts: Sequence[str], instruction: str = "") -> dict[str, Tensor]:
        """Inputs of `forward` for B texts, on the CPU.

        Raises:
            ValueError: no texts.
        """
        if not texts:
            raise ValueError("there are no texts")
        return self.pad(self.token_rows(texts, instruction))

    def encode(
        self,
        texts: str | Sequence[str],
        batch_size: int = 64,
        *,
        instruction: str = "",
        progress: Progress | None = None,
    ) -> Tensor:
        """Embed texts in evaluation mode, in batches of similar length.

        Args:
            texts: N texts; a single string counts as one.
            batch_size: texts per pass.
            instruction: what the texts are for; stored documents have none.
            progress: wraps the loop over the batches, called with (iterable, description, total).

        Returns:
            (N, D) unit vectors on the CPU in the given order, float32 (float64 of a float64 model).

        Raises:
            ValueError: no texts.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("there is nothing to encode")
        rows: list[tuple[list[int], int]] = []
        for start in range(0, len(texts), _SLICE):
            rows += self.token_rows(texts[start : start + _SLICE], instruction)

        def run(places: list[int]) -> Tensor:
            inputs = self.pad([rows[i] for i in places])
            embeddings: Tensor = self(**{name: x.to(self.device) for name, x in inputs.items()})
            return embeddings

        with evaluation_mode(self):
            embeddings = in_batches_by_length(
                run, [len(ids) for ids, _ in rows], batch_size, progress
            )
        return F.normalize(embeddings, dim=1, out=embeddings)

    def encode_prompted(self, texts: Sequence[str], prompt: str, batch_size: int = 64) -> Tensor:
        """`encode` for callers that pass the instruction, for instance the MTEB adapter."""
        return self.encode(texts, batch_size, instruction=prompt)

    def merge(self) -> "InstructedEncoder":
        """Fold the LoRA adapters into the model, in place."""
        merge_lora(self.model)
        return self


def _exact_span(offsets: Sequence[tuple[int, int]], prefix: str) -> int:
    """BOS and the tokens that end within the prefix."""
    last = len(offsets) - 1  # EOS, which is always pooled
    over = (i for i, (_, end) in enumerate(offsets[:last]) if end > len(prefix))
    return next(over, last)


def instructed_encoder(
    pretrained: str,
    *,
    config: Mapping[str, Any] | None = None,
    pooling: TokenPooling = "latent",
    num_latents: int = 512,
    heads: int = 8,
    dim_head: int | None = None,
    causal: bool = False,
    lora_rank: int | None = 16,
    lora_alpha: float = 32.0,
    lora_dropout: float = 0.0,
    lora_targets: str | Sequence[str] = ALL_LINEAR,
    max_length: int = 512,
    span: InstructionSpan = "exact",
    attention: Attention = "auto",
    dtype: torch.dtype = torch.float32,
    tokenizer: Any = None,
) -> InstructedEncoder:
    """Build an encoder from a ``pretrained:`` string.

    Args:
        pretrained: Hugging Face id, folder, ``bundled:<name>`` or ``random`` (which comes with
            `tiny_tokenizer`) of a decoder-only model.
        config: with "random": the architecture, ``model_type`` and its fields.
        pooling: see `TokenPooler`.
        num_latents: see `LatentAttention`.
        heads: see `LatentAttention`.
        dim_head: see `LatentAttention`.
        causal: keep the causal mask.
        lora_rank: rank of the adapters, see `add_lora`; None trains all weights.
        lora_alpha: see `add_lora`.
        lora_dropout: see `add_lora`.
        lora_targets: see `add_lora`.
        max_length: see `InstructedEncoder`.
        span: see `InstructedEncoder`.
        attention: see `load_transformer`.
        dtype: of the model's weights; adapters and pooler are float32.
        tokenizer: instead of the one alongside the weights.

    Raises:
        UserError: see `load_transformer`, `set_causal`, `append_eos`, `add_lora`.
        ValueError: see `TokenPooler` and `InstructedEncoder`.
    """
    model = load_transformer(pretrained, config=config, attention=attention, dtype=dtype)
    if tokenizer is None and pretrained == "random":
        tokenizer = tiny_tokenizer(int((config or {}).get("vocab_size", 256)))
    elif tokenizer is None:
        tokenizer = load_tokenizer(pretrained)
    append_eos(tokenizer)
    set_causal(model, causal)
    if lora_rank is not None:
        add_lora(
            model, rank=lora_rank, alpha=lora_alpha, dropout=lora_dropout, targets=lora_targets
        )
    pooler = TokenPooler(
        pooling,
        int(model.config.hidden_size),
        num_latents=num_latents,
        heads=heads,
        dim_head=dim_head,
    )
    return InstructedEncoder(model, pooler, tokenizer, max_length=max_length, span=span)
