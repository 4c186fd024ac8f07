"""Manifests, Speech Commands, transcribed batches, rows of frozen features."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from common.config import UserError
from common.data.speech.manifests import load_manifest, load_speech_commands
from common.data.speech.spoken import synthetic_commands
from projects.cwcl.frozen_vectors import FrozenFeatures
from projects.cwcl.speech.transcribed import TranscribedSpeech


def test_speech_commands_follow_the_official_lists(tmp_path):
    for word in ("yes", "no", "_background_noise_"):
        (tmp_path / word).mkdir()
        for take in "abc":
            wavfile.write(tmp_path / word / f"{take}.wav", 16000, np.zeros(160, np.int16))
    (tmp_path / "testing_list.txt").write_text("yes/a.wav\nno/a.wav\n")
    (tmp_path / "validation_list.txt").write_text("yes/b.wav\n")
    parts = {part: load_speech_commands(tmp_path, part) for part in ("train", "dev", "test")}
    assert {part: len(actual) for part, actual in parts.items()} == {
        "train": 3,
        "dev": 1,
        "test": 2,
    }
    assert parts["test"].class_names == ["no", "yes"]
    assert [t.transcript for t in parts["train"].targets] == ["no", "no", "yes"]
    assert parts["test"].waveforms[0].shape == (160,)
    with pytest.raises(UserError, match="no part 'unseen'"):
        load_speech_commands(tmp_path, "unseen")
    with pytest.raises(UserError, match="Speech Commands V2 not found"):
        load_speech_commands(tmp_path / "x", "test")


def test_manifest_rows_need_audio_and_text(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "text": "Hello, you!"}\n', encoding="utf-8")
    actual = load_manifest(path)
    assert actual.targets[0].transcript == actual.targets[0].intent == "hello you"
    path.write_text('{"audio": "a.wav"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="text"):
        load_manifest(path)


def test_common_voice_and_stop_are_read_as_published(tmp_path):
    """Clips next to Common Voice's table; STOP's recordings one folder up, in folders with and
    without the table's _0, under the outermost intent."""
    rows = 'client_id\tpath\tsentence\tup_votes\nx\ta.mp3\t"Hello, you!\t2\n'
    (tmp_path / "validated.tsv").write_text(rows, encoding="utf-8")
    spoken = load_manifest(tmp_path / "validated.tsv")
    assert spoken.keys == [str(tmp_path / "clips/a.mp3")]
    assert spoken.targets[0].transcript == "hello you"
    stop = tmp_path / "stop"
    names = ["test_0/alarm_test_0/1.wav", "test_0/music_test_0/2.wav"]
    for folder in ("manifests", "test_0/alarm_test", "test_0/music_test_0"):
        (stop / folder).mkdir(parents=True)
    for place in ("test_0/alarm_test/1.wav", names[1]):
        wavfile.write(stop / place, 16000, np.zeros(160, np.int16))
    header = ["file_id", "domain", "utterance", "seqlogical", "normalized_utterance"]
    table = [
        [names[0], "alarm", "Now?", "[IN:GET_ALARM [SL:T [IN:GET_TIME now ] ] ]", "now"],
        [names[1], "music", "Play", "[IN:PLAY_MUSIC play ]", "play"],
    ]
    path = stop / "manifests/test.tsv"
    path.write_text("\n".join("\t".join(row) for row in [header, *table]) + "\n", "utf-8")
    judged = load_manifest(path, intents=True)
    assert [t.intent for t in judged.targets] == ["get_alarm", "play_music"]
    assert [t.transcript for t in judged.targets] == ["now", "play"]
    assert [len(judged.waveforms[i]) for i in (0, 1)] == [160, 160]
    with pytest.raises(UserError, match=r"STOP\) are read; write JSON lines"):
        load_manifest(tmp_path / "validated.tsv", intents=True)


def test_equal_transcripts_share_their_features():
    spoken = synthetic_commands(2)
    with pytest.raises(UserError, match="either a tokenizer"):
        TranscribedSpeech(spoken)
    features = torch.arange(12.0)[:, None]
    data = TranscribedSpeech(spoken, features=features)
    batch = data[[(0, 0), (1, 0), (2, 0)]]
    assert batch["frozen"].flatten().tolist() == [0, 0, 1]
    assert batch["texts"].tolist() == [0, 0, 1]
    with pytest.raises(UserError, match="different transcripts"):
        TranscribedSpeech(spoken, features=features[:3])


def test_unreadable_images_have_no_features():
    source = FrozenFeatures(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 3]), 4)
    rows, kept = source.load([3, 0, 1])
    assert rows.flatten().tolist() == [3.0, 1.0]
    assert kept == [0, 2]
    assert len(source) == 4
    with pytest.raises(ValueError, match="do not fit"):
        FrozenFeatures(torch.ones(2, 1), torch.tensor([0, 4]), 4)
