"""Recordings with texts: Common Voice, STOP, manifests, and the keywords of Speech Commands."""

import re
from collections.abc import Callable
from pathlib import Path

import torch

from common.config import UserError
from common.data.lookup import require
from common.data.own_files import readable
from common.data.speech.spoken import SpokenPart, SpokenSet, WaveformFiles
from common.data.speech.transcripts import SpokenTarget, normalize_transcript
from common.data.speech.waveforms import load_waveform, num_frames
from common.data.tables import Row, read_csv, read_jsonl

COMMANDS_HINT = {
    "layout": "speech_commands_v0.02/{<word>/*.wav,validation_list.txt,testing_list.txt}",
    "source": "https://arxiv.org/abs/1804.03209 (Speech Commands V2)",
    "size": "2.3 GB, CC BY 4.0",
}
NO_WORD = "_background_noise_"


def load_manifest(
    path: str | Path,
    sample_rate: int = 16000,
    *,
    intents: bool = False,
    max_samples: int | None = None,
    max_characters: int | None = None,
) -> SpokenSet:
    """Common Voice's or STOP's table (``.tsv``), or JSON lines ``{"audio": path, "text": text}``.

    Args:
        path: Common Voice's ``validated.tsv`` with ``clips/`` next to it; STOP's
            ``manifests/test.tsv`` with the recordings one folder up; or the manifest, whose audio
            paths are relative to its folder. Its further key "intent" is what the utterance means;
            without it, meaning and class are the transcript.
        sample_rate: recordings of another rate are resampled.
        intents: every row needs its "intent".
        max_samples: longer recordings (at 16 kHz) are left out; their length is "duration" (in
            seconds) where a row tells it, else that of the file.
        max_characters: longer transcripts are left out.

    Raises:
        UserError: no such file, a row without audio, text or (if it must be there) intent, one of
            them that is not a text, or no rows.
    """
    path = require(
        path,
        what="speech manifest",
        layout='one {"audio": path, "text": transcript} a line, or a .tsv as published',
        source="Common Voice, STOP, or made from your recordings",
        size="one line each",
    )
    needed = ["audio", "text", *(["intent"] if intents else [])]
    rows = published_rows(path, intents) if path.suffix == ".tsv" else read_jsonl(path, needed)
    for row in rows:
        wrong = [name for name in needed if not isinstance(row[name], str)]
        if wrong:
            raise UserError(f"{path}: '{wrong[0]}' must be a text, got {row[wrong[0]]!r} in {row}")
    rows = [row for row in rows if not _too_long(path.parent, row, max_samples, max_characters)]
    if not rows:
        raise UserError(f"{path} has no rows (of the lengths asked for)")
    transcripts = [normalize_transcript(row["text"]) for row in rows]
    stated = [row.get("intent") for row in rows]
    meant = [t if m is None else str(m) for m, t in zip(stated, transcripts, strict=True)]
    return _spoken([path.parent / row["audio"] for row in rows], transcripts, meant, sample_rate)


def readable_recordings(spoken: SpokenSet, say: Callable[[str], None]) -> SpokenSet:
    """The recordings of a manifest that can be read, see `readable`.

    Args:
        spoken: of `load_manifest`.
        say: takes a line about the others.

    Raises:
        UserError: too many can't be read.
    """
    assert isinstance(spoken.waveforms, WaveformFiles)
    rate = spoken.waveforms.sample_rate

    def read(path: Path) -> object:
        return load_waveform(path, rate)

    return spoken.subset(readable(spoken.waveforms.paths, say, what="recordings", read=read))


def published_rows(path: Path, intents: bool) -> list[Row]:
    """Rows ``audio``, ``text`` and perhaps ``intent`` of a table as its authors publish it.

    Source: Ardila et al. 2020, "Common Voice", arXiv 1912.06670; Tomasello et al. 2023, "STOP",
    arXiv 2207.10643, whose intent is the outermost one of the parse.

    Raises:
        UserError: neither table, or Common Voice where intents are needed.
    """
    rows = read_csv(path)
    columns = set(rows[0]) if rows else set()
    if {"file_id", "normalized_utterance", "seqlogical"} <= columns:
        return [
            {
                "audio": str(stop_audio(path, row["file_id"]).resolve()),
                "text": row["normalized_utterance"],
                "intent": outer_intent(row["seqlogical"]),
            }
            for row in rows
        ]
    if {"path", "sentence"} <= columns and not intents:
        return [{"audio": f"clips/{row['path']}", "text": row["sentence"]} for row in rows]
    wanted = "file_id, normalized_utterance, seqlogical (STOP)"
    raise UserError(
        f"{path} has the columns {', '.join(sorted(columns))}, but {wanted}"
        + ("" if intents else " or path, sentence (Common Voice)")
        + " are read; write JSON lines {audio, text, intent} of other sets"
    )


def stop_audio(manifest: Path, file_id: str) -> Path:
    """A recording of STOP; some folders are named without the ``_0`` that the table has."""
    path = manifest.parent.parent / file_id
    plain = path.parent.with_name(path.parent.name.removesuffix("_0")) / path.name
    return plain if plain.exists() and not path.exists() else path


def outer_intent(parse: str) -> str:
    """``get_alarm`` of ``[IN:GET_ALARM show [SL:DATE today ] ]``; "" without an intent.

    >>> outer_intent("[IN:SET_ALARM wake me [SL:TIME [IN:GET_TIME now ] ] ]")
    'set_alarm'
    """
    match = re.match(r"\s*\[IN:(\w+)", parse)
    return match[1].lower() if match else ""


def load_speech_commands(
    folder: str | Path, part: SpokenPart, sample_rate: int = 16000
) -> SpokenSet:
    """Speech Commands V2: one of 35 words a recording.

    Source: Warden 2018, arXiv 1804.03209.

    Args:
        folder: ``speech_commands_v0.02``.
        part: train, dev or test, by the official lists.
        sample_rate: the recordings' own 16 kHz, or what they are resampled to.

    Raises:
        UserError: missing files (layout and source are named), or no such part.
    """
    folder = require(folder, what="Speech Commands V2", **COMMANDS_HINT)
    if part not in ("train", "dev", "test"):
        raise UserError(f"Speech Commands has no part '{part}': use train, dev or test")
    lists = {"dev": "validation_list.txt", "test": "testing_list.txt"}
    held = {
        name: set(require(folder / file, what=file, **COMMANDS_HINT).read_text("utf-8").split())
        for name, file in lists.items()
    }
    if part in held:
        names = sorted(held[part])
    else:
        files = (p for p in folder.glob("*/*.wav") if p.parent.name != NO_WORD)
        names = sorted(
            {p.relative_to(folder).as_posix() for p in files} - held["dev"] - held["test"]
        )
    words = [name.split("/")[0] for name in names]
    return _spoken([folder / name for name in names], words, words, sample_rate)


def _too_long(folder: Path, row: Row, max_samples: int | None, max_characters: int | None) -> bool:
    if max_characters is not None and len(normalize_transcript(row["text"])) > max_characters:
        return True
    if max_samples is None:
        return False
    seconds = row.get("duration")
    if isinstance(seconds, int | float):
        return bool(seconds * 16000 > max_samples)
    try:
        count, rate = num_frames(folder / row["audio"])
    except OSError:  # counted where it is read
        return False
    return count * 16000 > max_samples * rate


def _spoken(
    paths: list[Path], transcripts: list[str], intents: list[str], sample_rate: int
) -> SpokenSet:
    names = sorted(set(intents))
    place = {name: i for i, name in enumerate(names)}
    return SpokenSet(
        WaveformFiles(paths, sample_rate),
        [SpokenTarget(i, (), t) for i, t in zip(intents, transcripts, strict=True)],
        torch.tensor([place[intent] for intent in intents]),
        names,
        [str(path) for path in paths],
        [""] * len(paths),
        sample_rate,
    )
