"""Spoken utterances with intents: Fluent Speech Commands, SLURP, spoken digits, made-up words.

A set gives waveforms, what they mean and say, and a class for the split into tasks.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.lookup import bundled, require
from common.data.packed import PackedAudio
from common.data.samplers import sample_rng
from common.data.speech.transcripts import SpokenTarget, normalize_transcript
from common.data.speech.waveforms import load_waveform, num_frames
from common.data.tables import Row, read_csv, read_jsonl

SpokenPart = Literal["train", "dev", "test", "unseen"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNSEEN_SPEAKER = "theo"  # of the spoken digits
SLURP_SCENARIOS = (
    "alarm",
    "audio",
    "calendar",
    "cooking",
    "datetime",
    "email",
    "general",
    "iot",
    "lists",
    "music",
    "news",
    "play",
    "qa",
    "recommendation",
    "social",
    "takeaway",
    "transport",
    "weather",
)
FSC_HINT = {
    "layout": "fluent_speech_commands_dataset/{wavs,data/{train,valid,test}_data.csv}",
    "source": (
        "https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research"
    ),
    "size": "1.5 GB, free for academic research",
}
SLURP_HINT = {
    "layout": (
        "slurp/{dataset/slurp/{train,train_synthetic,devel,test}.jsonl,"
        "audio/{slurp_real,slurp_synth}/*.flac}"
    ),
    "source": "https://github.com/pswietojanski/slurp",
    "size": "6 GB, text CC BY 4.0, audio CC BY-NC 4.0",
}


class Waveforms(Protocol):
    """Waveforms by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """(T,) float32; OSError if it cannot be read."""
        ...


@dataclass(frozen=True)
class SpokenSet:
    """Utterances of one part.

    Attributes:
        waveforms: N waveforms at `sample_rate`.
        targets: N meanings and transcripts, normalised.
        labels: (N,) int64 classes of the split into tasks.
        class_names: names of all classes, also of those that this part lacks.
        keys: N file names or the like.
        speakers: N names; empty texts where unknown.
        sample_rate: in Hz.
    """

    waveforms: Waveforms
    targets: list[SpokenTarget]
    labels: Tensor
    class_names: list[str]
    keys: list[str]
    speakers: list[str]
    sample_rate: int

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, rows: Sequence[int]) -> "SpokenSet":
        """Some utterances, in the order given."""
        chosen = [int(i) for i in rows]
        return replace(
            self,
            waveforms=Rows(self.waveforms, chosen),
            targets=[self.targets[i] for i in chosen],
            labels=self.labels[chosen],
            keys=[self.keys[i] for i in chosen],
            speakers=[self.speakers[i] for i in chosen],
        )


class Rows:
    """Some rows of other waveforms."""

    def __init__(self, waveforms: Waveforms, rows: Sequence[int]) -> None:
        self.waveforms, self.rows = waveforms, list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.waveforms[self.rows[index]]


class Joined:
    """Several waveforms one after the other.

    Args:
        waveforms: the pieces.
        groups: for every result, the pieces' indices.
    """

    def __init__(self, waveforms: Waveforms, groups: Sequence[Sequence[int]]) -> None:
        self.waveforms, self.groups = waveforms, [list(group) for group in groups]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Tensor:
        return torch.cat([self.waveforms[i] for i in self.groups[index]])


def join_commands(spoken: SpokenSet, words: int) -> SpokenSet:
    """Commands of several words: every utterance, followed by others of its speaker.

    Class and intent stay those of the first word; the transcript holds all. Which words follow
    depends on the position in the set alone, so that every seed and arm hears the same commands.

    Args:
        spoken: utterances of one word each.
        words: of each command, >= 1; with 1 the set itself comes back.

    Returns:
        As many commands as there were utterances, in their order.
    """
    if words == 1:
        return spoken
    by_speaker: dict[str, list[int]] = {}
    for row, speaker in enumerate(spoken.speakers):
        by_speaker.setdefault(speaker, []).append(row)
    groups = []
    for row, speaker in enumerate(spoken.speakers):
        following = sample_rng(0, 0, row, stream=words).choice(by_speaker[speaker], words - 1)
        groups.append([row, *(int(other) for other in following)])
    texts = [" ".join(spoken.targets[i].transcript for i in group) for group in groups]
    return replace(
        spoken,
        waveforms=Joined(spoken.waveforms, groups),
        targets=[
            target._replace(transcript=text)
            for target, text in zip(spoken.targets, texts, strict=True)
        ],
        keys=["+".join(spoken.keys[i] for i in group) for group in groups],
    )


class WaveformFiles:
    """Files that are read when asked for.

    Args:
        paths: WAV or FLAC.
        sample_rate: in Hz, other rates are resampled.
    """

    def __init__(self, paths: Sequence[Path], sample_rate: int) -> None:
        self.paths, self.sample_rate = list(paths), sample_rate

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return load_waveform(self.paths[index], self.sample_rate)


def load_spoken_digits(part: SpokenPart, root: str | None = None) -> SpokenSet:
    """Free Spoken Digit Dataset as bundled: "digit seven" is the intent, "seven" the transcript.

    Test: takes 0 to 4 of three speakers; dev: takes 5 to 9; train: their later takes; unseen: all
    takes of the fourth speaker.

    Args:
        part: which utterances.
        root: ``cfg.data.root``.
    """
    audio = PackedAudio(bundled("spoken-digits", root) / "audio.npz")
    speakers, takes = audio.array("speakers"), audio.array("take")
    if part == "unseen":
        chosen = speakers == UNSEEN_SPEAKER
    else:
        low, high = {"test": (0, 5), "dev": (5, 10), "train": (10, 10**6)}[part]
        chosen = (speakers != UNSEEN_SPEAKER) & (takes >= low) & (takes < high)
    digits = audio.array("labels").astype(np.int64)
    whole = SpokenSet(
        audio,
        [SpokenTarget(f"digit {DIGITS[d]}", (), DIGITS[d]) for d in digits],
        torch.from_numpy(digits),
        list(DIGITS),
        [f"{d}_{s}_{t}" for d, s, t in zip(digits, speakers, takes, strict=True)],
        [str(s) for s in speakers],
        audio.sample_rate,
    )
    return whole.subset(np.flatnonzero(chosen).tolist())


def load_fluent_commands(
    folder: Path,
    part: SpokenPart,
    *,
    max_samples: int | None = None,
    max_characters: int | None = None,
) -> SpokenSet:
    """Fluent Speech Commands; the class is the intent (action, object, location).

    Source: Lugosch et al. 2019, arXiv 1904.03670.

    Args:
        folder: ``fluent_speech_commands_dataset``.
        part: train, dev (the official valid) or test.
        max_samples: longer recordings (at 16 kHz) are left out.
        max_characters: longer transcripts are left out.

    Raises:
        UserError: missing files (layout and source are named), no such part, or nothing in it.
    """
    require(folder, what="Fluent Speech Commands", **FSC_HINT)
    _no_unseen(part, "Fluent Speech Commands")
    tables = {
        name: read_csv(
            folder / "data" / f"{file}_data.csv",
            ("path", "speakerId", "transcription", "action", "object", "location"),
        )
        for name, file in (("train", "train"), ("dev", "valid"), ("test", "test"))
        if name in ("train", part)
    }
    names = sorted({_fsc_intent(row) for row in tables["train"]})
    rows = tables[part]
    unknown = {_fsc_intent(row) for row in rows} - set(names)
    if unknown:
        raise UserError(f"{folder}: intents that train_data.csv lacks: {', '.join(unknown)}")
    whole = SpokenSet(
        WaveformFiles([folder / row["path"] for row in rows], 16000),
        [
            SpokenTarget(_fsc_intent(row), (), normalize_transcript(row["transcription"]))
            for row in rows
        ],
        torch.tensor([names.index(_fsc_intent(row)) for row in rows]),
        names,
        [row["path"] for row in rows],
        [row["speakerId"] for row in rows],
        16000,
    )
    return _usable(whole, f"{folder}, {part}", max_samples, max_characters)


def load_slurp(
    folder: Path,
    part: SpokenPart,
    *,
    synthetic: bool = True,
    max_samples: int | None = None,
    max_characters: int | None = None,
) -> SpokenSet:
    """SLURP; one row a recording, the class is the scenario, the intent ``scenario_action``.

    Source: Bastianelli et al. 2020, arXiv 2011.13205.

    Args:
        folder: ``slurp``, with the repository's ``dataset`` and the recordings in ``audio``.
        part: train, dev (the official devel) or test.
        synthetic: whether training takes the synthetic recordings too.
        max_samples: longer recordings (at 16 kHz) are left out.
        max_characters: longer sentences are left out.

    Raises:
        UserError: missing files (layout and source are named), no such part, or nothing in it.
    """
    require(folder, what="SLURP", **SLURP_HINT)
    _no_unseen(part, "SLURP")
    files = [{"dev": "devel"}.get(part, part)]
    files += ["train_synthetic"] if part == "train" and synthetic else []
    columns = ("sentence", "scenario", "action", "recordings")
    targets, paths, labels = [], [], []
    for name in files:
        kind = "slurp_synth" if name == "train_synthetic" else "slurp_real"
        for row in read_jsonl(folder / "dataset" / "slurp" / f"{name}.jsonl", columns):
            if row["scenario"] not in SLURP_SCENARIOS:
                raise UserError(f"{folder}, {name}.jsonl: unknown scenario '{row['scenario']}'")
            target = SpokenTarget(
                f"{row['scenario']}_{row['action']}",
                _slurp_slots(row),
                normalize_transcript(row["sentence"]),
            )
            for recording in row["recordings"]:
                targets.append(target)
                paths.append(_wav_or_flac(folder / "audio" / kind / recording["file"]))
                labels.append(SLURP_SCENARIOS.index(row["scenario"]))
    whole = SpokenSet(
        WaveformFiles(paths, 16000),
        targets,
        torch.tensor(labels),
        list(SLURP_SCENARIOS),
        [path.with_suffix(".flac").name for path in paths],
        [""] * len(paths),
        16000,
    )
    return _usable(whole, f"{folder}, {part}", max_samples, max_characters)


def synthetic_commands(
    num_per_class: int,
    *,
    num_actions: int = 3,
    num_objects: int = 4,
    sample_rate: int = 8000,
    seed: int = 0,
    part: int = 0,
) -> SpokenSet:
    """Commands of two made-up words, each a pattern of three tones; needs no files.

    A speaker is a pitch, a tempo and a level of noise. Equal arguments give equal data.

    Args:
        num_per_class: utterances of each (action, object), the classes.
        num_actions: first words, at most 5.
        num_objects: second words, at most 5.
        sample_rate: in Hz.
        seed: of the patterns.
        part: utterances of different parts differ.
    """
    actions, objects = (
        ("open", "shut", "raise", "lower", "find"),
        ("door", "lamp", "song", "shop", "car"),
    )
    if num_actions > len(actions) or num_objects > len(objects):
        raise ValueError("at most 5 actions and 5 objects")
    tones = sample_rng(seed, 0, 0).uniform(300, 2500, (num_actions + num_objects, 3))
    names = [f"{a} {o}" for a in actions[:num_actions] for o in objects[:num_objects]]
    waveforms, labels = [], []
    for c in range(len(names)):
        words = [c // num_objects, num_actions + c % num_objects]
        for i in range(num_per_class):
            rng = sample_rng(seed, 1 + part, c * num_per_class + i)
            waveforms.append(_tones(tones[words].reshape(-1), rng, sample_rate))
            labels.append(c)
    targets = [SpokenTarget(names[c], (), f"please {names[c]}") for c in labels]
    keys = [f"{part}-{i}" for i in range(len(labels))]
    return SpokenSet(
        waveforms, targets, torch.tensor(labels), names, keys, [""] * len(labels), sample_rate
    )


def _tones(frequencies: np.ndarray, rng: np.random.Generator, sample_rate: int) -> Tensor:
    pitch, seconds = rng.uniform(0.9, 1.1), rng.uniform(0.035, 0.055)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    sound = np.concatenate([np.sin(2 * np.pi * pitch * f * time) for f in frequencies])
    noisy = 0.3 * sound + rng.uniform(0.01, 0.05) * rng.standard_normal(len(sound))
    return torch.from_numpy(noisy.astype(np.float32))


def _fsc_intent(row: dict[str, str]) -> str:
    return normalize_transcript(f"{row['action']} {row['object']} {row['location']}")


def _slurp_slots(row: Row) -> tuple[tuple[str, str], ...]:
    tokens = [token["surface"] for token in row.get("tokens", [])]
    return tuple(
        (entity["type"], normalize_transcript(" ".join(tokens[i] for i in entity["span"])))
        for entity in row.get("entities", [])
        if tokens
    )


def _wav_or_flac(path: Path) -> Path:
    wav = path.with_suffix(".wav")
    return wav if wav.is_file() else path


def _no_unseen(part: SpokenPart, name: str) -> None:
    if part == "unseen":
        raise UserError(f"{name} has no part of unseen speakers")


def _usable(whole: SpokenSet, what: str, samples: int | None, characters: int | None) -> SpokenSet:
    """Without longer recordings and transcripts; these are counted, as are damaged files."""
    assert isinstance(whole.waveforms, WaveformFiles)
    counter, kept, longer = CorruptCounter(what), [], 0
    for i, path in enumerate(whole.waveforms.paths):
        if characters is not None and len(whole.targets[i].transcript) > characters:
            longer += 1
            continue
        if samples is not None:
            try:
                count, rate = num_frames(path)
            except OSError as error:
                counter.bad(str(path), error)
                continue
            if count * 16000 > samples * rate:
                longer += 1
                continue
        counter.good()
        kept.append(i)
    counter.finish()
    if not kept:
        raise UserError(f"{what}: the table, data.max_samples and max_characters leave nothing")
    if longer:
        total = len(whole.waveforms.paths)
        warnings.warn(
            f"{what}: {longer} of {total} utterances exceed data.max_samples or"
            " data.max_characters and are left out",
            stacklevel=4,
        )
    return whole.subset(kept)
