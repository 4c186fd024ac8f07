"""Subtitles of clips as people write them, frames of HDF5 files, texts that are remembered."""

import json
import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import UserError
from projects.video_qa.clips import batches
from projects.video_qa.clips.clips import Sentence, parse_srt, read_subtitles
from projects.video_qa.clips.frames import FeatureTable
from projects.video_qa.clips.tv_sets import read_all_subtitles

FIRST = "1\n00:00:01,000 --> 00:00:02,000\nHello\n"


def test_an_empty_file_of_subtitles_has_no_sentence(tmp_path):
    """A clip in which nobody speaks."""
    (tmp_path / "a.srt").write_text("\ufeff\n \n", encoding="utf-8")
    assert read_subtitles(tmp_path / "a.srt") == ()


def test_a_blank_line_inside_a_subtitle_does_not_end_it():
    text = f"{FIRST}\nthere.\n\n<i>You</i>\n\n2\n00:00:03,000 --> 00:00:04,000\n\nBye\n"
    assert parse_srt(text) == [Sentence(1, 2, "Hello there. You"), Sentence(3, 4, "Bye")]
    for damaged in (
        f"{FIRST}\n2\nBye\n",
        f"Hello\n\n{FIRST}",
    ):  # a number without times; nothing before
        with pytest.raises(ValueError, match="no line '00:00:01,500"):
            parse_srt(damaged)


def test_a_clip_without_subtitles_leaves_the_others_of_tvqa_plus_readable(tmp_path):
    path = tmp_path / "tvqa_plus_subtitles.json"
    rows = {
        "a": {"sub_text": "", "sub_time": []},
        "b": {"sub_text": "x <eos> y", "sub_time": [0.5, 2]},
    }
    path.write_text(json.dumps(rows))
    said = read_all_subtitles(path, ["a", "b", "c"])
    assert said == {"a": (), "b": (Sentence(0.5, 2, "x"), Sentence(2, 5, "y")), "c": ()}
    path.write_text(json.dumps({"a": {"sub_text": "x", "sub_time": []}}))
    with pytest.raises(UserError, match="damaged"):
        read_all_subtitles(path, ["a"])


def test_sentences_of_one_start_are_kept_in_a_shot_and_told_once_in_a_scene(tmp_path):
    """Two people at once; a sentence over two shots is told in both of them."""

    def sub(start, end, text):
        return {"st": str(start), "et": str(end), "utter": text}

    rows = {
        "e_001_0001": {
            "st": "10",
            "et": "12",
            "contained_subs": [sub(10, 11, "a"), sub(10, 12, "b")],
        },
        "e_001_0002": {
            "st": "12",
            "et": "14",
            "contained_subs": [sub(10, 12, "b"), sub(13, 14, "c")],
        },
    }
    (tmp_path / "script.json").write_text(json.dumps(rows))
    said = read_all_subtitles(tmp_path / "script.json", ["e_001_0000", "e_001_0001"])
    assert [s.text for s in said["e_001_0001"]] == ["a", "b"]
    assert said["e_001_0000"] == (Sentence(0, 1, "a"), Sentence(0, 2, "b"), Sentence(3, 4, "c"))


class Stored(dict):
    """An open HDF5 file."""

    opened: list[int] = []  # noqa: RUF012

    def __init__(self, path, mode):
        super().__init__(a=np.ones((2, 4)))
        self.opened.append(os.getpid())

    def __reduce__(self):
        raise TypeError("h5py objects cannot be pickled")

    def close(self):
        self.clear()


def test_a_table_of_features_is_opened_by_each_process_for_itself(monkeypatch):
    """It is pickled where processes are spawned, and not shared where they are forked."""
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=Stored))
    monkeypatch.setattr(Stored, "opened", [])
    table = FeatureTable("table.h5", 3.0, 4)
    assert [len(table(name).features) for name in ("a", "a", "z")] == [2, 2, 0]
    assert len(Stored.opened) == 2  # to see that it is one, and to read it
    again = pickle.loads(pickle.dumps(table))
    assert len(again("a").features) == 2
    assert len(Stored.opened) == 3
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as in a forked process
    assert len(table("a").features) == 2
    assert Stored.opened[3:] == [-1]


def test_remembered_texts_are_bounded(monkeypatch):
    monkeypatch.setattr(batches, "REMEMBERED", 3)

    class Tokenizer:
        cls_token_id, sep_token_id, mask_token_id, pad_token_id = range(4)

        def __call__(self, text, **options):
            return {"input_ids": [int(text)]}

    words = batches.Words(Tokenizer())
    for i in range(20):
        assert words(str(i)) == [i]
        assert len(words._known) <= 3
