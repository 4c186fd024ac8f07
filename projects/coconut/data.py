"""Tokenizer, tasks, and the training stream of one task with its memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.lookup import BUNDLED, data_root
from common.data.module import ContrastiveData
from common.data.samplers import Key
from common.data.speech.sources import FOLDERS, NUM_CLASSES, spoken_part
from common.data.speech.spoken import FSC_HINT, SLURP_HINT, SpokenSet
from common.data.speech.waveforms import pad_waveforms
from common.encoders.pretrained import resolve_pretrained
from common.engine.experiment import Requirement
from projects.coconut.config import CoconutData, Config
from projects.coconut.incremental import ClassIncremental, class_order, quota_per_class
from projects.coconut.speech.special_tokens import PAD
from projects.coconut.speech.tokenizer import TranscriptTokenizer


class SpeechBatch(TypedDict):
    """A training batch of B utterances."""

    waveforms: Tensor  # (B, T) float32, zero-padded
    lengths: Tensor  # (B,) int64 samples
    tokens: Tensor  # (B, L) int64, <SOS> intent _SEP transcript <EOS>, padded
    text_tokens: Tensor  # (B, L') int64, what the text embedding reads, padded
    labels: Tensor  # (B,) int64 classes
    is_memory: Tensor  # (B,) bool, rehearsal samples
    slots: Tensor  # (B,) int64 place in the memory, -1 for new samples
    ids: Tensor  # (B,) int64 rows of the training set
    skipped: int  # unreadable samples that were left out


# -- tasks ---------------------------------------------------------------------------------------


def build_tokenizer(cfg: Config) -> TranscriptTokenizer:
    """Vocabulary of the intents, slot types and transcripts of the whole training part."""
    texts: list[str] = []
    for target in spoken_part(cfg.data, "train", cfg.seed).targets:
        texts += [target.intent, target.transcript]
        texts += [kind for kind, _ in target.slots] if cfg.data.slots else []
    return TranscriptTokenizer.train(texts, cfg.data.tokens, cfg.data.vocab_size)


def build_scenario(cfg: Config) -> ClassIncremental:
    """Which classes come in which task (also offline, where the tasks only structure the test)."""
    seed = cfg.seed if cfg.data.order_by_seed else None
    order = class_order(NUM_CLASSES[cfg.data.source], cfg.data.order, seed)
    return ClassIncremental(order, cfg.data.num_tasks)


def quota(cfg: Config) -> int:
    """Places in the memory for every class.

    Raises:
        UserError: a memory that gives no class a place.
    """
    if not cfg.method.rehearses:
        return 0
    classes = NUM_CLASSES[cfg.data.source]
    places = quota_per_class(cfg.method.memory_size, classes)
    if places == 0:
        raise UserError(
            f"method.memory_size={cfg.method.memory_size} gives none of {classes} classes a place; "
            f"use at least {classes}, or 0 for fine-tuning"
        )
    return places


def memory_slots(cfg: Config, task: int) -> int:
    """Places that are filled when a task begins."""
    return quota(cfg) * len(build_scenario(cfg).seen(task - 1)) if task else 0


# -- samples -------------------------------------------------------------------------------------


class Samples:
    """Utterances as rows of tensors.

    Args:
        spoken: the utterances.
        tokenizer: of targets and transcripts.
        data: the config's data section.
        text: what the text embedding reads, "transcript" or "target".
    """

    def __init__(
        self, spoken: SpokenSet, tokenizer: TranscriptTokenizer, data: CoconutData, text: str
    ) -> None:
        self.spoken = spoken
        self.tokens = [
            torch.tensor(tokenizer.encode_target(t, slots=data.slots)) for t in spoken.targets
        ]
        self.text = [
            torch.tensor(tokenizer.encode(t.transcript) or tokenizer.encode(t.intent))
            for t in spoken.targets
        ]
        if text == "target":
            self.text = self.tokens

    def batch(self, rows: Sequence[int], slots: Sequence[int], counter: CorruptCounter) -> Any:
        """`SpeechBatch` of some rows; unreadable ones are left out and counted.

        Args:
            rows: of the set.
            slots: place of each in the memory, -1 for new ones.
            counter: judges the share of unreadable recordings.
        """
        waveforms, kept = [], []
        for position, row in enumerate(rows):
            try:
                waveforms.append(self.spoken.waveforms[row])
            except OSError as error:
                counter.bad(self.spoken.keys[row], error)
                continue
            counter.good()
            kept.append(position)
        if not kept:
            raise UserError("none of the recordings of a batch can be read; check the audio files")
        ids = torch.tensor([rows[i] for i in kept])
        places = torch.tensor([slots[i] for i in kept])
        padded, lengths = pad_waveforms(waveforms)
        return {
            "waveforms": padded,
            "lengths": lengths,
            "tokens": _padded([self.tokens[i] for i in ids.tolist()]),
            "text_tokens": _padded([self.text[i] for i in ids.tolist()]),
            "labels": self.spoken.labels[ids],
            "is_memory": places >= 0,
            "slots": places,
            "ids": ids,
            "skipped": len(rows) - len(kept),
        }


class TaskSpeech(Dataset[Any]):
    """Training set of one task: its own utterances, then those in memory.

    Args:
        samples: the whole training part.
        rows: utterances of the task.
        memory: (slots,) rows of the memory, -1 for empty places.
    """

    def __init__(self, samples: Samples, rows: Tensor, memory: Tensor) -> None:
        self.samples, self.rows = samples, rows.tolist()
        self.counter = CorruptCounter("training recordings")
        self.set_memory(memory)

    def set_memory(self, memory: Tensor) -> None:
        """Replace the memory (a checkpoint brings its own)."""
        self.memory = [(slot, row) for slot, row in enumerate(memory.tolist()) if row >= 0]

    def __len__(self) -> int:
        return len(self.rows) + len(self.memory)

    def __getitem__(self, keys: list[Key]) -> Any:
        rows, slots = [], []
        for index, _ in keys:
            if index < len(self.rows):
                slot, row = -1, self.rows[index]
            else:
                slot, row = self.memory[index - len(self.rows)]
            rows.append(row)
            slots.append(slot)
        return self.samples.batch(rows, slots, self.counter)


class EvalSpeech(Dataset[Any]):
    """Utterances of some rows one by one; `collate` makes a batch of them."""

    def __init__(self, samples: Samples, rows: Sequence[int]) -> None:
        self.samples, self.rows = samples, list(rows)
        self.counter = CorruptCounter("evaluated recordings", max_fraction=0.0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return self.rows[index]

    def collate(self, rows: list[int]) -> Any:
        """A `SpeechBatch` without memory."""
        return self.samples.batch(rows, [-1] * len(rows), self.counter)


class TaskData(ContrastiveData):
    """Stream of one task; the memory is that of the module, as a checkpoint restored it.

    Args:
        train: the task's set.
        memory: gives the (slots,) memory when training begins.
        options: of `ContrastiveData`.
    """

    def __init__(self, train: TaskSpeech, memory: Any, **options: Any) -> None:
        super().__init__(train, **options)
        self.memory = memory

    def train_dataloader(self) -> Any:
        """Loader over the stream, from `start_at` on."""
        assert isinstance(self.train_set, TaskSpeech)
        self.train_set.set_memory(self.memory().cpu())
        return super().train_dataloader()


def _padded(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=PAD)


# -- for `make check` ----------------------------------------------------------------------------


def data_present(cfg: Config) -> bool:
    """Whether the utterances are on disk."""
    return all(need.present for need in requirements(cfg) if need.name.startswith("data"))


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    source, needs = cfg.data.source, []
    if cfg.model.encoder == "wav2vec2" and cfg.model.pretrained != "random":
        ref = resolve_pretrained(cfg.model.pretrained, require=False)
        hint = "downloaded at the first run with a network connection"
        needs.append(
            Requirement(f"weights: {ref.spec}", str(ref.path or ref.name), ref.present, hint)
        )
    if source == "digits":
        place = BUNDLED / "spoken-digits"
        needs.append(
            Requirement("data: spoken digits (bundled)", "data/spoken-digits", place.exists())
        )
    elif source in FOLDERS:
        hints = FSC_HINT if source == "fsc" else SLURP_HINT
        folder: Path = data_root(cfg.data.root) / FOLDERS[source]
        text = f"{hints['source']} ({hints['size']}), layout {hints['layout']}"
        needs.append(Requirement(f"data: {source}", str(folder), folder.exists(), text))
    return tuple(needs)
