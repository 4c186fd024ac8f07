"""Attention decoder of sequence-to-sequence models, and beam search.

# B batch, K beams, L tokens, S states, D dim, V vocabulary
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.encoders.sinusoidal import sinusoidal_positions


class AttentionDecoder(nn.Module):
    """Pre-norm Transformer decoder with its own token embeddings and output layer.

    Embeddings are scaled by sqrt(D), positions are sinusoidal, matrices start from Xavier's uniform
    distribution.

    Source: Vaswani et al. 2017, section 3.1, arXiv 1706.03762; Dong et al. 2018
    (Speech-Transformer).

    Args:
        vocab_size: V.
        dim: D.
        num_layers: decoder layers.
        num_heads: attention heads.
        hidden_dim: of the feed-forward part; None: 4 D.
        dropout: in the layers and on their input.
        pad_id: padding token.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        layer = nn.TransformerDecoderLayer(
            dim, num_heads, hidden_dim or 4 * dim, dropout, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, num_layers, nn.LayerNorm(dim))
        self.output = nn.Linear(dim, vocab_size)
        self.dropout = nn.Dropout(dropout)
        self.dim, self.pad_id = dim, pad_id
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor, states: Tensor, state_mask: Tensor) -> Tensor:
        """Logits of the next token after each prefix.

        Args:
            tokens: (B, L) int64, starting with the start token; padding after the end is ignored.
            states: (B, S, D) of the encoder.
            state_mask: (B, S) bool, True at real states.

        Returns:
            (B, L, V).
        """
        length = tokens.shape[1]
        x = math.sqrt(self.dim) * self.embedding(tokens)
        x = self.dropout(x + sinusoidal_positions(length, self.dim, x))
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        x = self.layers(
            x,
            states,
            tgt_mask=causal,
            tgt_is_causal=True,
            tgt_key_padding_mask=tokens.eq(self.pad_id),
            memory_key_padding_mask=~state_mask,
        )
        logits: Tensor = self.output(x)
        return logits


def length_penalty(length: Tensor, power: float) -> Tensor:
    """((5 + length) / 6)^power (Wu et al. 2016, Eq. 14, arXiv 1609.08144).

    >>> length_penalty(torch.tensor([1, 7]), 1.0)
    tensor([1., 2.])
    """
    return ((5 + length) / 6) ** power


def beam_search(
    log_probs: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
    *,
    sos: int,
    eos: int,
    pad: int,
    beam_size: int,
    max_length: int,
    power: float = 0.6,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """The most probable token sequences of every row of a batch, rows searched together.

    Hypotheses are ranked by log-probability over `length_penalty`. One beam is greedy decoding.

    Args:
        log_probs: (prefixes (R, L), their rows in the batch (R,)) -> log-probabilities (R, V) of
            the next token.
        batch_size: B.
        sos: start token.
        eos: end token.
        pad: padding token, never generated.
        beam_size: K >= 1.
        max_length: tokens generated at most, the end token included.
        power: of the length penalty; 0 ranks by the sum.
        device: where the tokens live.

    Returns:
        Best sequences (B, L) int64, start token included, padded after the end token, and their
        scores (B,).
    """
    rows = torch.arange(batch_size, device=device).repeat_interleave(beam_size)
    tokens = torch.full((batch_size * beam_size, 1), sos, device=device)
    total = torch.full((batch_size, beam_size), -torch.inf, device=device)
    total[:, 0] = 0.0  # all beams are equal at first: let only one of them branch
    done = torch.zeros(batch_size * beam_size, dtype=torch.bool, device=device)
    lengths = torch.zeros(batch_size, beam_size, device=device)
    for _ in range(max_length):
        step = log_probs(tokens, rows).float()
        step[:, pad] = -torch.inf
        vocab_size = step.shape[1]
        step[done] = -torch.inf
        step[done, pad] = 0.0  # a finished hypothesis goes on unchanged
        grown = lengths + (~done).view(batch_size, beam_size)
        sums = total.unsqueeze(2) + step.view(batch_size, beam_size, vocab_size)
        ranked = sums / length_penalty(grown, power).unsqueeze(2)
        best = ranked.flatten(1).topk(beam_size, dim=1).indices
        source = torch.div(best, vocab_size, rounding_mode="floor")
        total = sums.flatten(1).gather(1, best)
        lengths = grown.gather(1, source)
        parent = (source + beam_size * torch.arange(batch_size, device=device)[:, None]).flatten()
        chosen = (best % vocab_size).flatten()
        tokens = torch.cat([tokens[parent], chosen[:, None]], 1)
        done = done[parent] | (chosen == eos)
        if bool(done.all()):
            break
    scores, winner = (total / length_penalty(lengths, power)).max(1)
    first = beam_size * torch.arange(batch_size, device=device) + winner
    return tokens[first], scores
