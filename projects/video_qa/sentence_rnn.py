"""Recurrent nets over the sentences of a clip, blind to padding."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class SentenceRNN(nn.Module):
    """A bidirectional LSTM or GRU over sentences, and the maximum of its states.

    It works in the precision of its weights, also under autocast: rounding adds up over the
    sentences.

    Args:
        dim: of the inputs.
        hidden: of the states in each direction.
        kind: "lstm" or "gru".
    """

    def __init__(self, dim: int, hidden: int, kind: Literal["lstm", "gru"] = "lstm") -> None:
        super().__init__()
        net = nn.LSTM if kind == "lstm" else nn.GRU
        self.rnn = net(dim, hidden, batch_first=True, bidirectional=True)
        self.num_features = 2 * hidden

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States and their maximum.

        Args:
            x: (R, N, D).
            mask: (R, N) bool, True at sentences, which come before the padding; at least one in
                each row.

        Returns:
            States (R, N, 2 hidden), 0 at padding; maximum over the sentences (R, 2 hidden).
        """
        length, x = x.shape[1], x.to(next(self.rnn.parameters()).dtype)
        with torch.autocast(x.device.type, enabled=False):
            packed = pack_padded_sequence(
                x, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
            )
            states, _ = pad_packed_sequence(self.rnn(packed)[0], True, 0.0, length)
        lowest = torch.finfo(states.dtype).min
        return states, states.masked_fill(~mask[..., None], lowest).amax(1)
