"""Generator and discriminator of replaced-token detection, with shared word embeddings.

# N texts, L tokens, M masked places, D hidden size, V vocabulary
"""

import copy
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

Sharing = Literal["gdes", "es", "none"]
IGNORED = -100  # label of a place that is not masked, as in transformers


@torch.no_grad()
def sample_tokens(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """Sample from softmax(logits / temperature) at every place, by inverse transform.

    The random numbers come from outside, so that a token depends neither on the other places of a
    batch nor on the number of processes.

    Source: Clark et al. 2020, "ELECTRA", section 2 (sampling from the generator), arXiv 2003.10555.

    Args:
        logits: (M, V).
        uniform: (M,) in [0, 1).
        temperature: > 0.

    Returns:
        (M,) int64.

    >>> sample_tokens(torch.zeros(3, 4), torch.tensor([0.1, 0.3, 0.99]))
    tensor([0, 1, 3])
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    below = (logits.to(wide) / temperature).softmax(1).cumsum(1)
    tokens = torch.searchsorted(below, uniform.to(wide)[:, None], right=True)[:, 0]
    return tokens.clamp(max=logits.shape[1] - 1)  # sums end a little below 1


def put_in(ids: Tensor, labels: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Texts with sampled tokens at the masked places, and which of their tokens were replaced.

    A sampled token that equals the original one counts as original.

    Source: Clark et al. 2020, section 2, arXiv 2003.10555.

    Args:
        ids: (N, L) original tokens.
        labels: (N, L) the original token at the M masked places, -100 elsewhere.
        sampled: (M,) tokens in the order of these places, row by row.

    Returns:
        (N, L) int64 corrupted ids, (N, L) bool.

    >>> ids, labels = torch.tensor([[5, 6, 7]]), torch.tensor([[-100, 6, 7]])
    >>> put_in(ids, labels, torch.tensor([6, 9]))
    (tensor([[5, 6, 9]]), tensor([[False, False,  True]]))
    """
    corrupted = ids.clone()
    corrupted[labels != IGNORED] = sampled
    return corrupted, corrupted != ids


class DisentangledEmbedding(nn.Module):
    """Word embeddings: another table without gradient, plus an own one that begins at zero.

    Source: He et al. 2023, "DeBERTaV3", section 3.3 (gradient-disentangled embedding sharing),
    arXiv
    2111.09543.

    Args:
        shared: table whose owner alone trains it; it is no part of this module.
    """

    def __init__(self, shared: nn.Embedding) -> None:
        super().__init__()
        self._shared = (shared,)  # in a tuple, so that its parameters are not counted twice
        self.delta = nn.Parameter(torch.zeros_like(shared.weight))
        self.padding_idx = shared.padding_idx

    @property
    def weight(self) -> Tensor:
        """The table as it is read, (V, D)."""
        return self._shared[0].weight.detach() + self.delta

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape -> (..., D)."""
        table = self._shared[0].weight.detach()
        return F.embedding(ids, table) + F.embedding(ids, self.delta)


class ReplacedTokenHead(nn.Module):
    """States -> one logit a token: Linear, GELU, LayerNorm, Linear.

    The [CLS] state may be added before.

    Source: Clark et al. 2020, section 2, arXiv 2003.10555; He et al. 2023, released code (the [CLS]
    state), arXiv 2111.09543.

    Args:
        dim: D.
        add_cls: add the state of the first token to those of all.
        eps: of the norm.
        std: deviation of the weights at the beginning.
    """

    def __init__(
        self, dim: int, add_cls: bool = True, eps: float = 1e-7, std: float = 0.02
    ) -> None:
        super().__init__()
        self.add_cls = add_cls
        self.dense, self.norm, self.out = (
            nn.Linear(dim, dim),
            nn.LayerNorm(dim, eps),
            nn.Linear(dim, 1),
        )
        for layer in (self.dense, self.out):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor) -> Tensor:
        """(N, L, D) -> (N, L)."""
        if self.add_cls:
            states = states + states[:, :1]
        logits: Tensor = self.out(self.norm(F.gelu(self.dense(states))))
        return logits[..., 0]


class Generated(NamedTuple):
    """What the generator says of a batch.

    Attributes:
        logits: (M, V) at the masked places, with gradient.
        ids: (N, L) texts with its tokens in.
        replaced: (N, L) bool.
    """

    logits: Tensor
    ids: Tensor
    replaced: Tensor


class ReplacedTokenModel(nn.Module):
    """A small masked language model that replaces tokens, and the encoder that detects them.

    Source: Clark et al. 2020, section 2, arXiv 2003.10555; He et al. 2023, section 3, arXiv
    2111.09543.

    Args:
        generator: masked language model of transformers.
        discriminator: encoder of transformers, the part that is kept; of the same vocabulary, and
            with shared embeddings of the same width.
        sharing: "gdes", see `DisentangledEmbedding`; "es": one table that both train; "none".
        add_cls: see `ReplacedTokenHead`.
        temperature: of the samples.

    Raises:
        ValueError: tables of different shapes.
    """

    def __init__(
        self,
        generator: PreTrainedModel,
        discriminator: PreTrainedModel,
        sharing: Sharing = "gdes",
        *,
        add_cls: bool = True,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.sharing, self.temperature = sharing, temperature
        table: Any = generator.get_input_embeddings()
        other: Any = discriminator.get_input_embeddings()
        if table.weight.shape != other.weight.shape:
            raise ValueError(
                f"tables of {tuple(table.weight.shape)} and {tuple(other.weight.shape)} cannot be"
                " shared"
            )
        if sharing == "gdes":
            discriminator.set_input_embeddings(DisentangledEmbedding(table))
        elif sharing == "es":
            discriminator.set_input_embeddings(table)
        config = discriminator.config
        self.head = ReplacedTokenHead(
            config.hidden_size, add_cls, config.layer_norm_eps, config.initializer_range
        )

    def generate(
        self, masked: Tensor, attention_mask: Tensor, labels: Tensor, ids: Tensor, uniform: Tensor
    ) -> Generated:
        """Predictions at the masked places, and texts with samples of them put in.

        Args:
            masked: (N, L) ids with mask tokens.
            attention_mask: (N, L), 1 at real tokens.
            labels: (N, L) the original token at masked places, -100 elsewhere.
            ids: (N, L) original ids.
            uniform: (N, L) in [0, 1), draws the sample of every place.
        """
        chosen = labels != IGNORED
        states = self._encoder(input_ids=masked, attention_mask=attention_mask).last_hidden_state
        logits = self._head(states[chosen])  # a seventh of the places: the head is the costly part
        sampled = sample_tokens(logits, uniform[chosen], self.temperature)
        corrupted, replaced = put_in(ids, labels, sampled)
        return Generated(logits, corrupted, replaced)

    def detect(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (N, L), positive at tokens taken for replaced ones."""
        logits: Tensor = self.head(self.states(ids, attention_mask))
        return logits

    def states(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """States (N, L, D) of the discriminator."""
        hidden: Tensor = self.discriminator(
            input_ids=ids, attention_mask=attention_mask
        ).last_hidden_state
        return hidden

    def encoder(self) -> PreTrainedModel:
        """The discriminator as a plain encoder with a word table of its own: a copy, to keep."""
        table: Any = self.discriminator.get_input_embeddings()
        count, width = table.weight.shape
        plain = nn.Embedding(count, width, padding_idx=table.padding_idx)
        plain.to(table.weight.device, table.weight.dtype)
        with torch.no_grad():
            plain.weight.copy_(table.weight)
        self.discriminator.set_input_embeddings(plain)
        try:
            encoder: PreTrainedModel = copy.deepcopy(self.discriminator)
        finally:
            self.discriminator.set_input_embeddings(table)
        return encoder

    @property
    def _encoder(self) -> Any:
        return self.generator.base_model

    @property
    def _head(self) -> Any:
        """States -> logits of the generator."""
        return getattr(self.generator, "cls", None) or self.generator.lm_head
