"""Recordings of the speech-text pair: what is trained on, what is judged, what must lie on disk."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.lookup import data_root, own_file
from common.data.speech.manifests import COMMANDS_HINT, load_manifest, load_speech_commands
from common.data.speech.options import SpokenData
from common.data.speech.sources import FOLDERS, SAMPLE_RATES, num_train, spoken_part
from common.data.speech.spoken import FSC_HINT, SLURP_HINT, SpokenPart, SpokenSet
from common.data.speech.transcripts import normalize_transcript
from common.data.speech.waveforms import decoder
from common.engine.experiment import Requirement, bundled_requirement
from projects.cwcl.config import Config

log = logging.getLogger(__name__)

HINTS = {"fsc": FSC_HINT, "slurp": SLURP_HINT}
NUM_MANIFEST = 1_000_000  # recordings of a manifest that is not on disk, for `make check`
Held = tuple[str, SpokenSet]


def sample_rate(cfg: Config) -> int:
    """Of all recordings, in Hz."""
    by_source: dict[str, int] = dict(SAMPLE_RATES)
    return cfg.speech.sample_rate if cfg.speech.manifest else by_source[cfg.speech.source]


def source_of(cfg: Config, **asked: Any) -> SpokenData:
    """The set that is named, below the root of `data`, with some settings replaced."""
    return replace(cfg.speech, root=cfg.data.root, **asked)


def training_set(cfg: Config) -> SpokenSet:
    """Recordings with transcripts; one without a word in it teaches nothing and is left out.

    Raises:
        UserError: missing files, or no transcript at all.
    """
    data = cfg.speech
    if data.manifest is None:
        whole = spoken_part(source_of(cfg), "train", cfg.seed)
    else:
        whole = load_manifest(
            data_root(cfg.data.root) / data.manifest,
            data.sample_rate,
            max_samples=data.max_samples,
            max_characters=data.max_characters,
        )
    transcribed = [row for row, target in enumerate(whole.targets) if target.transcript]
    if not transcribed:
        raise UserError("no training recording has a transcript")
    if len(transcribed) < len(whole):
        log.warning("left out %d recordings without a transcript", len(whole) - len(transcribed))
    return whole if len(transcribed) == len(whole) else whole.subset(transcribed)


def held_out_sets(cfg: Config) -> Iterator[Held]:
    """Metric prefix and utterances: the training source's held-out part, then ``eval.intents``."""
    if cfg.speech.manifest is None:
        yield "", _whole(cfg, cfg.speech.source, cfg.eval.split)
    for name in cfg.eval.intents:
        if name not in HINTS:
            path = data_root(cfg.data.root) / name
            yield f"{_slug(name)}_", load_manifest(path, sample_rate(cfg), intents=True)
            continue
        if sample_rate(cfg) != SAMPLE_RATES[name]:
            raise UserError(
                f"eval.intents: {name} has {SAMPLE_RATES[name]} Hz, this model reads "
                f"{sample_rate(cfg)} Hz: give a manifest, whose recordings are resampled"
            )
        yield f"{name}_", _whole(cfg, name, cfg.eval.split)


def command_set(cfg: Config) -> SpokenSet:
    """Speech Commands V2 at the rate that the model reads."""
    folder = data_root(cfg.data.root) / str(cfg.eval.keywords)
    return load_speech_commands(folder, cfg.eval.split, sample_rate(cfg))


def intent_texts(cfg: Config) -> dict[str, list[str]]:
    """Example utterances by intent, as transcripts are written; empty without a file.

    Raises:
        UserError: not a JSON object of lists of texts.
    """
    if cfg.eval.intent_texts is None:
        return {}
    path = own_file(cfg.eval.intent_texts, cfg.data.root, "example utterances")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    rows = stored.values() if isinstance(stored, dict) else [None]
    if not all(isinstance(r, list) and r and all(isinstance(t, str) for t in r) for r in rows):
        raise UserError(f'{path} must contain {{"intent": ["an utterance", ...], ...}}')
    return {name: [normalize_transcript(text) for text in texts] for name, texts in stored.items()}


def num_recordings(cfg: Config) -> int:
    """Training recordings; of a manifest that is not on disk, a guess."""
    if cfg.speech.manifest is None:
        return num_train(source_of(cfg))
    path = data_root(cfg.data.root) / cfg.speech.manifest
    return len(training_set(cfg)) if path.exists() else NUM_MANIFEST


def requirements(cfg: Config) -> list[Requirement]:
    """Recordings to train on and to judge with."""
    needed = [] if cfg.speech.manifest else _source_requirement(cfg, "data", cfg.speech.source)
    if cfg.speech.manifest is not None:
        hint = "Common Voice's .tsv or JSON lines {audio, text}: https://commonvoice.mozilla.org"
        needed.append(_file(cfg, "data: speech manifest", cfg.speech.manifest, hint))
    for name in cfg.eval.intents:
        if name in HINTS:
            needed += _source_requirement(cfg, "eval", name)
        else:
            needed.append(
                _file(cfg, f"eval: {name}", name, "STOP's .tsv or JSON lines {audio, text, intent}")
            )
    if cfg.eval.intent_texts is not None:
        needed.append(
            _file(cfg, "eval: utterances", cfg.eval.intent_texts, "JSON {intent: [text]}")
        )
    if cfg.eval.keywords is not None:
        hint = f"{COMMANDS_HINT['source']}, layout {COMMANDS_HINT['layout']}"
        needed.append(_file(cfg, "eval: Speech Commands", cfg.eval.keywords, hint))
    if cfg.speech.manifest is not None or cfg.eval.intents:  # Common Voice has MP3, SLURP FLAC
        package = decoder()
        hint = "of FLAC and MP3: pip install soundfile, or -e '.[audio]'; WAV needs none"
        needed.append(Requirement("decoder", package or "soundfile", package is not None, hint))
    return needed


def require_sets(cfg: Config) -> None:
    """Say before training which set is missing for the evaluation after it.

    Raises:
        UserError: the first one that is not there.
    """
    for needed in requirements(cfg):
        if needed.name.startswith("eval: ") and not needed.present:
            raise UserError(f"{needed.name} not found: {needed.location}. {needed.hint}")


def _whole(cfg: Config, source: str, part: SpokenPart) -> SpokenSet:
    """A held-out part with all its items: lengths are limited in training alone."""
    command_words = cfg.speech.command_words if source == cfg.speech.source else 1
    asked = source_of(
        cfg, source=source, max_samples=None, max_characters=None, command_words=command_words
    )
    return spoken_part(asked, part, cfg.seed)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", str(Path(name).with_suffix(""))).strip("_")


def _file(cfg: Config, name: str, place: str, hint: str) -> Requirement:
    path = data_root(cfg.data.root) / place
    return Requirement(name, str(path), path.exists(), hint)


def _source_requirement(cfg: Config, kind: str, source: str) -> list[Requirement]:
    if source == "digits":
        return [bundled_requirement("spoken-digits")]
    if source not in HINTS:
        return []
    about = HINTS[source]
    hint = f"{about['source']} ({about['size']}), layout {about['layout']}"
    return [_file(cfg, f"{kind}: {source}", FOLDERS[source], hint)]
