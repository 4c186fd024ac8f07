"""`eval.own`: a user's clips with questions, and what is wrong with their rows."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from common.config import UserError
from common.engine.workspace import Workspace
from projects.video_qa import own_clips
from projects.video_qa.module import VideoQA
from tests.projects.video_qa.conftest import config, network_of

ROW = {"clip": "a", "question": "Who?", "answers": ["me", "him"], "correct": 0}


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Judges rows; answerers choose the first answer, those of an untrained network the last."""
    for clip in ("a", "b"):
        (tmp_path / clip).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{clip}/{i}.png")
    cfg = config()
    module = VideoQA(cfg, network_of(cfg))
    asked = []

    class Chooser:
        def __init__(self, model):
            self.place = 0 if model.network is module.network else -1

        def frames(self, pictures):
            return [p.relative_to(tmp_path).as_posix() for p in pictures]

        def answer(self, clip, frames, question, answers):
            asked.append((frames, [s.text for s in clip.sentences]))
            place = range(len(answers))[self.place]
            probabilities = torch.eye(len(answers))[place].tolist()
            return SimpleNamespace(place=place, probabilities=probabilities)

    monkeypatch.setattr(own_clips, "Answerer", Chooser)

    def judge(rows):
        path = tmp_path / "own.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return own_clips.judge_clips(cfg, module, Workspace(tmp_path / "w"), path)

    judge.asked = asked
    return judge


def test_rows_are_judged_with_their_own_frames_and_subtitles(judged, tmp_path):
    (tmp_path / "said.json").write_text(json.dumps([{"start": 0, "end": 1, "text": "by file"}]))
    rows = [
        ROW | {"subtitles": "said.json"},
        ROW | {"clip": "b", "correct": 1, "subtitles": [[1, 2, "late"], [0, 1, "the him"]]},
        ROW | {"clip": "", "answers": ["a", "bbb", "cc", "d"], "correct": 3},
        ROW | {"correct": 2},
        ROW | {"answers": ["one"]},
    ]
    actual = judged(rows)
    seen = [(frames[:1], said) for frames, said in judged.asked[::2]]  # two answerers, in turn
    assert seen == [(["a/0.png"], ["by file"]), (["b/0.png"], ["the him", "late"]), ([], [])]
    assert actual.pop("accuracy_chance") == pytest.approx(1.25 / 3)
    assert actual == {
        "num_questions": 3,
        "num_clips": 3,
        "num_skipped": 2,
        "accuracy": pytest.approx(1 / 3),
        "untrained_accuracy": pytest.approx(2 / 3),
        "longest_accuracy": pytest.approx(1 / 3),
        "subtitle_words_accuracy": pytest.approx((0.5 + 1 + 0.25) / 3),  # equal ones share
    }
    assert json.loads((tmp_path / "w/items/accuracy.json").read_text()) == [1, 0, 0]


def test_right_answers_that_come_first_are_no_gain_for_a_baseline(judged):
    """Of equally long answers the first one was taken, which users often write as the right one."""
    actual = judged([ROW | {"answers": ["abc", "def"]}] * 3)
    assert (actual["accuracy"], actual["longest_accuracy"]) == (1.0, 0.5)
    assert actual["subtitle_words_accuracy"] == 0.5


@pytest.mark.parametrize(
    "subtitles", [[{"start": 0, "end": 1, "text": "x"}], [[0, 1]], [[2, 1, "x"]], [3], [[None] * 3]]
)
def test_subtitles_of_another_form_are_named_before_any_answer(judged, subtitles):
    """Once a traceback, after the questions before."""
    with pytest.raises(UserError, match=r"own\.jsonl, subtitles of the question 'Why\?'"):
        judged([ROW, ROW | {"question": "Why?", "subtitles": subtitles}])
    assert not judged.asked


def test_rows_whose_clip_cannot_be_read_are_left_out(judged, tmp_path):
    for i in range(20):
        (tmp_path / f"c{i}").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / f"c{i}/0.png")
    (tmp_path / "c7/1.png").write_text("no picture")
    actual = judged([ROW | {"clip": f"c{i}"} for i in range(20)])
    assert (actual["num_questions"], actual["num_skipped"]) == (19, 1)
    with pytest.raises(UserError, match="no row has two answers"):
        judged([ROW | {"correct": None}])
