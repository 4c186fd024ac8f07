"""Documents and their domains -> embeddings: transformer with experts, domain tokens, pooler."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.modes import evaluation_mode
from common.encoders.pooling import mean_pool
from common.encoders.pretrained import stand_in
from common.encoders.text.language_models.causal import add_lora
from common.encoders.text.pooling import first_token
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer
from projects.moe_embeddings.config import ModelConfig
from projects.moe_embeddings.gated import gated_blocks
from projects.moe_embeddings.mixture_of_experts import (
    Routes,
    mixtures,
    to_mixture,
)

# what `make check` builds for weights that are not on this machine
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "answerdotai/ModernBERT-base": {"model_type": "modernbert"},
    "allenai/scibert_scivocab_uncased": {"model_type": "bert", "vocab_size": 31090},
}


@dataclass(frozen=True)
class Layout:
    """What has to be known to build an encoder around a transformer again.

    Attributes:
        domains: names, in the order of their experts.
        routing: "dense", or see `MixtureOfExperts`.
        num_experts: E.
        top_k: see `MixtureOfExperts`.
        layers: "all" or "middle".
        block: "copy" or "gated".
        pooler: "mean_mlp" or "cls".
        domain_tokens: whether position 0 says the domain.
        max_length: tokens of a document.
    """

    domains: tuple[str, ...]
    routing: str
    num_experts: int
    top_k: int
    layers: str
    block: str
    pooler: str
    domain_tokens: bool
    max_length: int


class MeanPooler(nn.Module):
    """Masked mean, LayerNorm, linear, tanh, linear; (B, L, D) -> (B, D).

    Source: released code of Hallee et al. 2024 (2025), arXiv 2401.15713.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, L, D) and mask (B, L) -> (B, D), not normalised."""
        pooled: Tensor = self.outer(self.inner(self.norm(mean_pool(states, mask))).tanh())
        return pooled


class ClsPooler(nn.Module):
    """State at position 0, linear, tanh: BERT's own pooler (``pooler_output``)."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, L, D) and mask (B, L) -> (B, D), not normalised."""
        pooled: Tensor = self.dense(first_token(states, mask)).tanh()
        return pooled


class DomainEncoder(nn.Module):
    """A transformer whose documents know their domain.

    Args:
        model: without head; its feed-forward layers become mixtures, its vocabulary grows by the
            domain tokens. What has been converted before stays.
        tokenizer: a fast one that begins texts with [CLS]; domain tokens are added.
        layout: see `Layout`.

    Attributes:
        routes: where the mixture layers are told what they get; None for "dense".
        num_features: D.

    Raises:
        UserError: a tokenizer that begins texts otherwise, or an unknown architecture.
    """

    def __init__(self, model: Any, tokenizer: Any, layout: Layout) -> None:
        super().__init__()
        if layout.pooler == "cls" and getattr(model, "pooler", None) is not None:
            pooler: nn.Module = ClsPooler(model.pooler.dense)
        elif layout.pooler == "cls":
            pooler = ClsPooler(nn.Linear(model.config.hidden_size, model.config.hidden_size))
        else:
            pooler = MeanPooler(model.config.hidden_size)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        self.routes: Routes | None = None
        if layout.routing != "dense":
            # of the other routings each row meets one expert
            mixed = layout.routing in ("sentence", "token")
            self.routes = to_mixture(
                model,
                layout.num_experts,
                routing=layout.routing,  # type: ignore[arg-type]
                top_k=layout.top_k if mixed else 1,
                layers=layout.layers,  # type: ignore[arg-type]
                install=gated_blocks(layout.num_experts) if layout.block == "gated" else None,
            )
        self.model, self.pooler, self.tokenizer, self.layout = model, pooler, tokenizer, layout
        self.num_features = int(model.config.hidden_size)
        tokenizer.padding_side = "right"
        begins = tokenizer("a")["input_ids"][0]
        if begins != tokenizer.cls_token_id:
            raise UserError("domain tokens take the place of [CLS], which this tokenizer lacks")
        self.token_ids = [begins] * len(layout.domains)
        if layout.domain_tokens:
            self.token_ids = add_domain_tokens(model, tokenizer, layout.domains)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def enforced(self) -> bool:
        """Whether every document must be given its expert."""
        return self.layout.routing == "enforced"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        expert: Sequence[int] | Tensor | None = None,
    ) -> Tensor:
        """Embeddings of B documents.

        The documents of an expert go through the model side by side, so that no layer moves a row.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 at real tokens; None: all are real.
            expert: number of every document's expert, for routing "enforced"; a list, or a tensor
                on the CPU, spares a device from being waited for. (B, L) routes tokens by their
                type instead.

        Returns:
            (B, D), not normalised, in the given order.

        Raises:
            ValueError: no expert for routing "enforced", or another number of them.
        """
        if not self.enforced or self.routes is None:
            if self.routes is not None:
                self.routes.begin(mask=attention_mask)
            return self._embed(input_ids, attention_mask)
        if isinstance(expert, Tensor) and expert.ndim == 2:
            self.routes.begin(expert)
            return self._embed(input_ids, attention_mask)
        experts = expert.tolist() if isinstance(expert, Tensor) else expert
        if experts is None or len(experts) != len(input_ids):
            raise ValueError(f"{len(input_ids)} documents need an expert each, got {expert}")
        if not all(0 <= e < self.layout.num_experts for e in experts):
            raise ValueError(f"experts are 0 to {self.layout.num_experts - 1}, got {experts}")
        order = sorted(range(len(experts)), key=experts.__getitem__)
        back = sorted(range(len(experts)), key=order.__getitem__)
        self.routes.begin(sizes=[experts.count(e) for e in range(self.layout.num_experts)])
        device = input_ids.device
        rows = torch.tensor(order, device=device)
        mask = None if attention_mask is None else attention_mask.index_select(0, rows)
        part = self._embed(input_ids.index_select(0, rows), mask)
        return part.index_select(0, torch.tensor(back, device=device))

    def _embed(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        features: Tensor = self.pooler(states, mask)
        return features

    def indices(self, domains: str | Sequence[str], count: int) -> list[int]:
        """Numbers of the domains of `count` documents; one name is that of all.

        Raises:
            UserError: an unknown name, or another number of names.
        """
        names = [domains] * count if isinstance(domains, str) else list(domains)
        unknown = [name for name in names if name not in self.layout.domains]
        if unknown or len(names) != count:
            raise UserError(
                f"{count} documents need a domain each out of {', '.join(self.layout.domains)}; "
                f"got {unknown[0] if unknown else len(names)}"
            )
        return [self.layout.domains.index(name) for name in names]

    def token_rows(self, texts: Sequence[str], domains: Sequence[int]) -> list[list[int]]:
        """Ids of each document, cut, its domain's token at position 0 in the place of [CLS]."""
        rows: list[list[int]] = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.layout.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        for row, domain in zip(rows, domains, strict=True):
            row[0] = self.token_ids[domain]
        return rows

    def pad(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Rows of ids -> ``input_ids`` and ``attention_mask``, (B, L) int64, on the CPU."""
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), int(self.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def encode(
        self,
        texts: Sequence[str],
        domains: str | Sequence[str] | None = None,
        batch_size: int = 64,
        *,
        experts: Sequence[int] | None = None,
        normalize: bool = True,
    ) -> Tensor:
        """Embed documents in evaluation mode, in batches of similar length.

        Args:
            texts: N documents.
            domains: name of each document's domain, or one name for all; None: no domain fits, and
                the vector is the mean over all domains, at the cost of a pass for each.
            batch_size: documents per pass.
            experts: other experts than those of the domains.
            normalize: unit vectors.

        Returns:
            (N, D) float32 on the CPU (float64 of a float64 model), in the given order.

        Raises:
            UserError: an unknown domain.
            ValueError: no documents.
        """
        if not texts:
            raise ValueError("there is nothing to encode")
        if domains is None:
            every = [
                self.encode(texts, name, batch_size, experts=experts, normalize=normalize)
                for name in self.layout.domains
            ]
            mean = torch.stack(every).mean(0)
            return F.normalize(mean, dim=1) if normalize else mean
        numbers = self.indices(domains, len(texts))
        rows = self.token_rows(texts, numbers)
        chosen = numbers if experts is None else list(experts)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        parts = []
        with evaluation_mode(self):
            for start in range(0, len(order), batch_size):
                some = order[start : start + batch_size]
                inputs = {
                    k: v.to(self.device) for k, v in self.pad([rows[i] for i in some]).items()
                }
                parts.append(self(**inputs, expert=[chosen[i] for i in some]).cpu())
        vectors = torch.cat(parts)
        vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
        vectors = F.normalize(vectors, dim=1) if normalize else vectors
        embeddings = torch.empty_like(vectors)
        embeddings[torch.tensor(order)] = vectors
        return embeddings


def domain_token(name: str) -> str:
    """How a domain stands in the vocabulary.

    >>> domain_token("copd")
    '[COPD]'
    """
    return f"[{name.upper()}]"


def add_domain_tokens(model: Any, tokenizer: Any, domains: Sequence[str]) -> list[int]:
    """Add a token for each domain, its embedding a copy of that of [CLS]; their ids.

    Tokens that the tokenizer has already keep their embeddings.

    Raises:
        UserError: a domain whose token has another meaning, such as "mask".
    """
    names = [domain_token(name) for name in domains]
    special = {getattr(tokenizer, f"{kind}_token") for kind in ("cls", "sep", "pad", "mask", "unk")}
    if taken := special.intersection(names):
        raise UserError(f"{min(taken)} means something else to this tokenizer: rename that domain")
    vocabulary = tokenizer.get_vocab()
    new = [name for name in names if name not in vocabulary]
    tokenizer.add_tokens(new, special_tokens=True)
    ids: list[int] = tokenizer.convert_tokens_to_ids(names)
    rows = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for name in new:
            table[tokenizer.convert_tokens_to_ids(name)] = table[tokenizer.cls_token_id]
    return ids


def layout_of(model: ModelConfig, domains: Sequence[str], max_length: int) -> Layout:
    """The layout that a config asks for."""
    return Layout(
        tuple(domains),
        model.routing,
        model.num_experts or len(domains),
        model.top_k,
        model.layers,
        model.block,
        model.pooler,
        model.domain_tokens,
        max_length,
    )


def build_encoder(
    model: ModelConfig, domains: Sequence[str], max_length: int, *, planned: bool = False
) -> DomainEncoder:
    """The encoder of a config before training.

    Args:
        model: section of the config.
        domains: in the order of their experts.
        max_length: tokens of a document.
        planned: of the same shape where the weights are not here, for `make check`.

    Raises:
        UserError: see `load_transformer`, `load_tokenizer`, `DomainEncoder` and `add_lora`.
    """
    pretrained, config, reader = model.pretrained, model.config, model.tokenizer
    shape = stand_in(pretrained, ARCHITECTURES) if planned else None
    if shape is not None:
        pretrained, config, tokenizer = "random", shape, tiny_tokenizer(400, max_length=max_length)
    elif pretrained != "random":
        tokenizer = load_tokenizer(pretrained)
    elif reader is not None:
        tokenizer = load_tokenizer(reader)
        config = {
            **(config or {}),
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
        }
    else:
        tokenizer = tiny_tokenizer(int((config or {}).get("vocab_size", 256)))
    transformer = load_transformer(pretrained, config=config, attention=model.attention)
    set_dropout(transformer, model.dropout, model.attention_dropout)
    limit = int(getattr(transformer.config, "max_position_embeddings", 0) or max_length)
    if max_length > limit:
        raise UserError(
            f"data.max_length={max_length}, but this model reads at most {limit} tokens"
        )
    encoder = DomainEncoder(transformer, tokenizer, layout_of(model, domains, max_length))
    if model.lora_rank is not None:
        add_lora(
            encoder.model,
            rank=model.lora_rank,
            alpha=model.lora_alpha,
            targets=expert_linears(encoder.model),
        )
        for layer in mixtures(encoder.model):
            if layer.gate is not None:  # a new router is random: frozen it would stay as drawn
                layer.gate.requires_grad_(True)
    return encoder


def expert_linears(model: nn.Module) -> list[str]:
    """Names of the linear layers of all experts."""
    names = {id(part): name for name, part in model.named_modules()}
    linears = [p for m in mixtures(model) for p in m.experts.modules() if isinstance(p, nn.Linear)]
    return [names[id(part)] for part in linears]


def set_dropout(model: nn.Module, hidden: float | None, attention: float | None) -> None:
    """Set the dropout of states (modules) and of attention (a module, or a number)."""
    for name, part in model.named_modules():
        inside = name.endswith(("attention.self.dropout", "attn.out_drop"))
        if isinstance(part, nn.Dropout):
            value = attention if inside else hidden
            part.p = part.p if value is None else value
        if attention is not None and isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = attention
