"""Recordings and texts of an exported speech-text model, any number of them."""

import pytest
import torch
from torch import nn

from common.config import UserError
from projects.cwcl.speech.exported import SpokenTextModel


class Mean(nn.Module):
    """Waveforms to (B, 2); keeps the sizes of its batches."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, waveforms, lengths):
        self.seen.append(len(waveforms))
        mean = waveforms.sum(1) / lengths
        return torch.stack([mean, mean.square()], 1)


def test_recordings_are_encoded_in_batches(tmp_path):
    """All of them were padded to one tensor; none at all was an error of torch."""
    model = SpokenTextModel(Mean(), nn.Identity(), 16000, torch.zeros(2), 1.0)
    recordings = [torch.full((length,), float(length)) for length in (3, 5, 2, 4, 6)]
    want = model.encode_speech(recordings)
    torch.testing.assert_close(model.encode_speech(recordings, batch_size=2), want)
    assert model.speech.seen == [5, 2, 2, 1]
    assert model.encode_speech([]).shape == (0, 2)
    with pytest.raises(UserError, match=r"absent\.wav"):
        model.encode_speech([tmp_path / "absent.wav"])
