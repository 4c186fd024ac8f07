"""Training batches of recordings with their transcripts, or with the transcripts' embeddings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.samplers import Key
from common.data.speech.spoken import SpokenSet
from common.data.speech.waveforms import pad_waveforms

Tokenize = Callable[[Sequence[str]], Mapping[str, Tensor]]


class TranscribedSpeech(Dataset[Any]):
    """Item = batch of a list of keys ``(index, epoch)``.

    A batch holds ``waveforms`` (B, T) float32 zero-padded, ``lengths`` (B,), ``texts`` (B,) int64
    numbers of the transcripts (equal ones share a number), ``ids`` (B,), ``skipped``, and either
    ``frozen`` (B, F) or the tokens of the transcripts.

    Args:
        spoken: recordings and what is said in them.
        tokenize: B texts -> tensors (B, L) by name; used without `features`.
        features: (U, F) embeddings of `texts`, in that order.
        max_corrupt: largest tolerated share of unreadable recordings.

    Attributes:
        texts: the U different transcripts.

    Raises:
        UserError: neither tokens nor features, or features of other texts.
    """

    def __init__(
        self,
        spoken: SpokenSet,
        tokenize: Tokenize | None = None,
        features: Tensor | None = None,
        max_corrupt: float = 0.05,
    ) -> None:
        self.spoken, self.tokenize, self.features = spoken, tokenize, features
        self.transcripts = [t.transcript for t in spoken.targets]  # never what is meant: a label
        self.texts = list(dict.fromkeys(self.transcripts))
        place = {text: i for i, text in enumerate(self.texts)}
        self.numbers = torch.tensor([place[text] for text in self.transcripts])
        self.counter = CorruptCounter("recordings", max_fraction=max_corrupt)
        if (tokenize is None) == (features is None):
            raise UserError("give either a tokenizer of the transcripts or their features")
        if features is not None and len(features) != len(self.texts):
            raise UserError(f"{len(features)} features for {len(self.texts)} different transcripts")

    def __len__(self) -> int:
        return len(self.spoken)

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """Batch of the given keys, without recordings that cannot be read."""
        rows, waveforms = [], []
        for index, _ in keys:
            try:
                waveforms.append(self.spoken.waveforms[index])
            except OSError as error:
                self.counter.bad(self.spoken.keys[index], error)
                continue
            self.counter.good()
            rows.append(index)
        if not rows:
            raise UserError(f"none of the {len(keys)} recordings of a batch can be read")
        padded, lengths = pad_waveforms(waveforms)
        ids = torch.tensor(rows)
        numbers = self.numbers[ids]
        batch = {"waveforms": padded, "lengths": lengths, "texts": numbers, "ids": ids}
        if self.features is not None:
            batch["frozen"] = self.features[numbers]
        else:
            assert self.tokenize is not None
            batch |= self.tokenize([self.transcripts[i] for i in rows])
        return {**batch, "skipped": len(keys) - len(rows)}
