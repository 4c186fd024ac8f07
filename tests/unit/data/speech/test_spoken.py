"""Readers of spoken sets in their official layouts."""

import json
import warnings

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from common.config import UserError
from common.data.lookup import BUNDLED
from common.data.packed import PackedAudio
from common.data.speech.options import SpokenData
from common.data.speech.sources import num_train
from common.data.speech.spoken import (
    DIGITS,
    join_commands,
    load_fluent_commands,
    load_slurp,
    load_spoken_digits,
    synthetic_commands,
)


def write_wav(path, seconds=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, 16000, np.full(int(16000 * seconds), 1000, np.int16))


@pytest.fixture
def fsc(tmp_path):
    """Fluent Speech Commands: index column, quoted transcripts."""
    folder = tmp_path / "fluent_speech_commands_dataset"
    rows = [
        ("a", "Turn on, the lights", "activate", "lights", "none", 0.1),
        ("b", "Heat up the kitchen", "increase", "heat", "kitchen", 0.1),
        ("c", "Lights please", "activate", "lights", "none", 3.0),
    ]
    (folder / "data").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        lines = [",path,speakerId,transcription,action,object,location"]
        for i, (name, text, action, thing, place, seconds) in enumerate(rows):
            path = f"wavs/speakers/s{i}/{split}-{name}.wav"
            write_wav(folder / path, seconds)
            lines.append(f'{i},{path},s{i},"{text}",{action},{thing},{place}')
        (folder / f"data/{split}_data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def slurp(tmp_path):
    """SLURP: one row with two recordings, entities by token span."""
    folder = tmp_path / "slurp"
    (folder / "dataset/slurp").mkdir(parents=True)
    words = ["wake", "me", "up", "at", "five", "am", "!"]
    row = {
        "slurp_id": 1,
        "sentence": "wake me up at five am!",
        "scenario": "alarm",
        "action": "set",
        "tokens": [{"surface": w, "id": i} for i, w in enumerate(words)],
        "entities": [{"span": [4, 5], "type": "time"}],
        "recordings": [{"file": "audio-1.flac"}, {"file": "audio-2.flac"}],
    }
    synthetic = {
        **row,
        "scenario": "weather",
        "action": "query",
        "recordings": [{"file": "s.flac"}],
    }
    for name, content in (
        ("train", row),
        ("devel", row),
        ("test", row),
        ("train_synthetic", synthetic),
    ):
        path = folder / f"dataset/slurp/{name}.jsonl"
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    for name in ("audio-1", "audio-2"):
        write_wav(folder / f"audio/slurp_real/{name}.wav", 0.1 if name == "audio-1" else 2.0)
    write_wav(folder / "audio/slurp_synth/s.wav")
    return folder


def test_fluent_commands(fsc):
    train = load_fluent_commands(fsc, "train")
    assert train.class_names == ["activate lights none", "increase heat kitchen"]
    assert train.labels.tolist() == [0, 1, 0]
    assert train.targets[0].transcript == "turn on the lights"
    assert train.speakers == ["s0", "s1", "s2"]
    assert train.waveforms[1].shape == (1600,)
    with pytest.warns(UserWarning, match="1 of 3 utterances exceed data.max_samples"):
        assert len(load_fluent_commands(fsc, "dev", max_samples=16000)) == 2
    with pytest.warns(UserWarning, match="2 of 3 utterances exceed"):
        assert len(load_fluent_commands(fsc, "test", max_characters=14)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_fluent_commands(fsc, "dev", max_samples=160_000)


def test_slurp(slurp):
    train = load_slurp(slurp, "train")
    assert len(train) == 3
    assert train.labels.tolist() == [0, 0, 17]
    assert train.targets[0].intent == "alarm_set"
    assert train.targets[0].slots == (("time", "five am"),)
    assert train.targets[0].transcript == "wake me up at five am"
    assert train.keys == ["audio-1.flac", "audio-2.flac", "s.flac"]
    assert len(train.class_names) == 18
    assert len(load_slurp(slurp, "train", synthetic=False)) == 2
    assert len(load_slurp(slurp, "test", max_samples=16000)) == 1


def test_errors_name_what_is_wrong(fsc, slurp, tmp_path):
    with pytest.raises(UserError, match=r"Fluent Speech Commands not found.*valid"):
        load_fluent_commands(tmp_path / "none", "train")
    with pytest.raises(UserError, match=r"SLURP not found.*devel"):
        load_slurp(tmp_path / "none", "train")
    with pytest.raises(UserError, match="no part of unseen speakers"):
        load_slurp(slurp, "unseen")
    text = (fsc / "data/test_data.csv").read_text()
    (fsc / "data/test_data.csv").write_text(text.replace("increase", "paint"))
    with pytest.raises(UserError, match=r"train_data.csv lacks: paint heat kitchen"):
        load_fluent_commands(fsc, "test")
    path = slurp / "dataset/slurp/test.jsonl"
    path.write_text(path.read_text().replace('"alarm"', '"alarms"'))
    with pytest.raises(UserError, match="unknown scenario 'alarms'"):
        load_slurp(slurp, "test")


def test_too_many_missing_recordings_stop_the_reader(slurp):
    (slurp / "audio/slurp_real/audio-1.wav").unlink()
    with pytest.raises(UserError, match="corrupt"):
        load_slurp(slurp, "test", max_samples=112000)


def test_bundled_digits_have_apart_takes_and_speakers():
    parts = {name: load_spoken_digits(name) for name in ("train", "dev", "test", "unseen")}
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 600,
        "dev": 150,
        "test": 150,
        "unseen": 300,
    }
    keys = [set(part.keys) for part in parts.values()]
    assert len(set.union(*keys)) == 1200
    assert set(parts["unseen"].speakers) == {"theo"}
    assert "theo" not in parts["train"].speakers
    test = parts["test"]
    assert {key.rsplit("_", 1)[1] for key in test.keys} == set("01234")
    assert test.targets[test.labels.tolist().index(7)].intent == "digit seven"
    wave = test.waveforms[3]
    assert wave.dtype == torch.float32
    assert 0.01 < float(wave.abs().max()) <= 1
    assert len(PackedAudio(BUNDLED / "spoken-digits/audio.npz")) == 1200


def test_joined_commands_keep_the_first_word_s_class_and_the_speaker():
    single = load_spoken_digits("test")
    pairs, again = join_commands(single, 3), join_commands(single, 3)
    assert join_commands(single, 1) is single
    assert pairs.keys == again.keys
    assert torch.equal(pairs.labels, single.labels)
    for row in (0, 77, 149):
        first, *others = pairs.keys[row].split("+")
        assert first == single.keys[row]
        assert len(others) == 2
        assert {name.split("_")[1] for name in others} == {single.speakers[row]}
        words = [DIGITS[int(key.split("_")[0])] for key in (first, *others)]
        assert pairs.targets[row].transcript == " ".join(words)
        assert pairs.targets[row].intent == single.targets[row].intent
        pieces = [single.waveforms[single.keys.index(key)] for key in (first, *others)]
        assert torch.equal(pairs.waveforms[row], torch.cat(pieces))
    seconds = {key.split("+")[1].split("_")[0] for key in pairs.keys}
    assert len(seconds) == 10  # any digit can follow


def test_synthetic_commands_are_functions_of_their_arguments():
    first, again, other = (synthetic_commands(2, part=p) for p in (0, 0, 1))
    assert len(first) == 24
    assert torch.equal(first.waveforms[5], again.waveforms[5])
    assert len(first.waveforms[5]) != len(other.waveforms[5]) or not torch.equal(
        first.waveforms[5], other.waveforms[5]
    )
    assert first.subset([3, 1]).keys == [first.keys[3], first.keys[1]]
    with pytest.raises(ValueError, match="at most 5"):
        synthetic_commands(1, num_actions=6)


@pytest.mark.parametrize("source", ["digits", "synthetic"])
@pytest.mark.parametrize("limit", ["max_samples", "max_characters"])
def test_limits_that_nothing_obeys_are_refused(source, limit):
    with pytest.raises(ValueError, match=f"data.source={source} drops nothing"):
        SpokenData(source=source, **{limit: 100})
    assert getattr(SpokenData(source="fsc", **{limit: 100}), limit) == 100


def test_parts_without_a_recording_are_refused(fsc, slurp):
    with pytest.raises(UserError, match="train: the table, data.max_samples .* leave nothing"):
        load_fluent_commands(fsc, "train", max_samples=10)
    for path in (fsc / "data").glob("*.csv"):
        path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="train: the table.* leave nothing"):
        load_fluent_commands(fsc, "train")
    (slurp / "dataset/slurp/test.jsonl").write_text("")
    with pytest.raises(UserError, match="test: the table.* leave nothing"):
        load_slurp(slurp, "test")


def test_number_of_slurp_s_training_recordings_with_and_without_synthetic_ones():
    assert num_train(SpokenData(source="slurp")) == 119880
    assert num_train(SpokenData(source="slurp", synthetic_recordings=False)) == 50628
