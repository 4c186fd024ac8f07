"""Readers, both stages, evaluation, tasks and exports; each test of a checklist item names it."""

import json
import logging
import sys
from collections import Counter

import pytest
import torch
from PIL import Image

from common.config import UserError
from common.encoders.modes import evaluated
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.export.files import write_tensors
from projects.video_qa import baselines, build, tasks
from projects.video_qa.answers import question_type
from projects.video_qa.clips.batches import Layout, VideoQARows, Words, choice_of, clip_view
from projects.video_qa.clips.clips import (
    Clip,
    Question,
    Sentence,
    read_span,
    read_subtitles,
    sentences_in_span,
)
from projects.video_qa.clips.frames import FeatureFiles, FeatureTable
from projects.video_qa.clips.tv_sets import load_tv_set, show_of
from projects.video_qa.data import load_part, pretraining_rows
from projects.video_qa.descriptions import read_description
from projects.video_qa.evaluate import (
    Judged,
    evaluate,
    judge,
    judged_part,
    masked_ids,
    metrics_of,
)
from projects.video_qa.folder import export
from projects.video_qa.inference import Answerer, pictures_of
from projects.video_qa.module import VideoQA
from projects.video_qa.network import build_tokenizer
from projects.video_qa.pretraining import QuestionPrediction
from projects.video_qa.simulated import sentences, simulated_set
from projects.video_qa.spans import best_span, span_metrics, temporal_iou
from projects.video_qa.stages import stages
from tests.projects.video_qa.conftest import batch_of, config, network_of, rows_of

OPENED: list[str] = []
WATCHING = [False]


def _hook(event, args):
    if event == "open" and WATCHING[0]:
        OPENED.append(str(args[0]))


sys.addaudithook(_hook)


def tv(folder, name: str = "tvqa", labelled: bool = True):
    """Released layouts with three clips: TVQA, TVQA+ and DramaQA."""
    rows = []
    clips = ["friends_s01e01_seg01_clip_00", "friends_s01e01_seg01_clip_01", "s01e02_seg02_clip_12"]
    for i in range(6):
        row = {
            "qid": i,
            "q": f"What is number {i}?",
            **{f"a{k}": f"thing {k}" for k in range(5)},
            "vid_name": clips[i // 2],
            "show_name": "x",
            "ts": "0.5-2.4" if i else "NaN-NaN",
        }
        rows.append(row | ({"answer_idx": i % 5} if labelled else {}))
    said = [{"start": float(k), "end": k + 0.8, "text": f"line {k}"} for k in range(4)]
    if name == "tvqa":
        (folder / "tvqa/features").mkdir(parents=True)
        for part in ("train", "val", "test_public"):
            (folder / f"tvqa/tvqa_{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        subs = [{"vid_name": c, "sub": said} for c in clips]
        (folder / "tvqa/tvqa_preprocessed_subtitles.jsonl").write_text(
            "\n".join(map(json.dumps, subs))
        )
        objects = [{"clip": c, "labels": [["cup", "door"], ["cup"]] * 6} for c in clips]
        (folder / "tvqa/objects.jsonl").write_text("\n".join(map(json.dumps, objects)))
    if name == "tvqa_plus":
        (folder / "tvqa_plus/features").mkdir(parents=True)
        plus = [r | {"answer_idx": str(r["answer_idx"]), "ts": [0.5, 2.4]} for r in rows]
        for part in ("train", "val"):
            (folder / f"tvqa_plus/tvqa_plus_{part}.json").write_text(json.dumps(plus))
        subs = {
            c: {
                "sub_text": " <eos> ".join(s["text"] for s in said),
                "sub_time": [s["start"] for s in said],
            }
            for c in clips
        }
        (folder / "tvqa_plus/tvqa_plus_subtitles.json").write_text(json.dumps(subs))
    if name == "dramaqa":
        (folder / "AnotherMissOh/AnotherMissOh_QA").mkdir(parents=True)
        (folder / "AnotherMissOh/features").mkdir()
        clips = ["AnotherMissOh01_001_0000", "AnotherMissOh01_001_0002", "AnotherMissOh01_002_0000"]
        drama = [
            {
                "qid": r["qid"],
                "que": r["q"],
                "answers": [r[f"a{k}"] for k in range(5)],
                "vid": clips[i // 2],
                "correct_idx": r["answer_idx"],
                "q_level_logic": 1 + i % 4,
            }
            for i, r in enumerate(rows)
        ]
        for part in ("train", "val"):
            (folder / f"AnotherMissOh/AnotherMissOh_QA/AnotherMissOhQA_{part}_set.json").write_text(
                json.dumps(drama)
            )
        shots = {
            f"AnotherMissOh01_00{s}_000{k}": {
                "st": str(100 + 2 * k),
                "et": str(102 + 2 * k),
                "contained_subs": [
                    {
                        "st": str(100.5 + 2 * k),
                        "et": str(101.5 + 2 * k),
                        "utter": f"line {k}",
                        "speaker": "Anna",
                    }
                ],
            }
            for s in (1, 2)
            for k in (1, 2)
        }
        (folder / "AnotherMissOh/AnotherMissOh_script.json").write_text(json.dumps(shots))
    drawn = torch.Generator().manual_seed(0)
    for clip in clips:
        for place in folder.glob("*/features"):
            write_tensors(
                place / f"{clip}.safetensors", {"features": torch.randn(12, 64, generator=drawn)}
            )
    return config(
        f"data.root={folder}",
        f"data.source={name}",
        f"data.features={next(folder.glob('*/features')).relative_to(folder)}",
        "data.fps=3",
        "trainer.val_every_n_steps=null",
    )


@pytest.mark.parametrize("name", ["tvqa", "tvqa_plus", "dramaqa"])
def test_item_16_three_sets_feed_one_model_with_their_own_metrics(name, tmp_path):
    cfg = tv(tmp_path, name)
    cfg.eval.split, cfg.eval.mask_probs, cfg.data.max_objects = "dev", [], 0
    actual = list(stages(cfg))
    assert [s.name for s in actual] == ["pretrain", "train"]
    module = actual[1].module
    module.losses(actual[1].data.train_set[[(0, 0), (3, 0)]])["loss"].backward()
    metrics = evaluate(cfg, module, Workspace(tmp_path / "w"))
    assert ("miou" in metrics, "asa" in metrics) == ((name == "tvqa_plus"),) * 2
    levels = {k for k in metrics if "level" in k}
    assert levels == ({f"accuracy_level_{i}" for i in (1, 2, 3, 4)} if name == "dramaqa" else set())
    assert 0 <= metrics["accuracy_what"] <= 1
    loaded = load_part(cfg, "dev")
    said = loaded.clips[loaded.questions[0].clip].sentences
    if name == "dramaqa":  # the sentences of the scene's shots, seconds from its beginning
        assert [s.text for s in said] == ["Anna: line 1", "Anna: line 2"]
        assert said[0][:2] == (0.5, 1.5)
    elif name == "tvqa_plus":
        assert [s.end for s in said] == [1.0, 2.0, 3.0, 6.0]
        assert loaded.questions[1].answer == 1
    else:
        assert loaded.questions[0].span is None
        assert loaded.questions[1].span == (0.5, 2.4)


def test_item_18_text_of_a_sentence(tmp_path):
    """Checklist 18: objects, subtitle, question and answer; without objects by an option."""
    cfg = tv(tmp_path)
    cfg.data.objects = "tvqa/objects.jsonl"
    loaded, tokenizer = load_part(cfg, "train"), build_tokenizer(cfg)
    words = Words(tokenizer)
    for most, seen in ((2, "cup door ; line 1"), (1, "cup ; line 1"), (0, "line 1")):
        rows = VideoQARows(
            lambda i, e: choice_of(loaded.questions[i]),
            6,
            loaded.clips,
            loaded.frames,
            words,
            Layout(max_objects=most),
        )
        batch = rows[[(2, 0)]]
        ids, mask = batch["input_ids"][0, 4, 1], batch["attention_mask"][0, 4, 1].bool()
        assert tokenizer.decode(ids[mask]).split("[SEP]")[0].strip() == f"[CLS] {seen}"
        assert tokenizer.decode(ids[mask]).split("[SEP]")[1].strip() == "what is number 2? thing 4"
    short = words.join(_context(words, "cup door", "a b c"), words("q"), words("r"), 10)
    assert tokenizer.decode(short[0]).startswith(
        "[CLS] cu"
    )  # the last objects are cut, the sentence stays
    assert words("a b c") == short[0][short[1] - 4 : short[1] - 1]
    assert len(short[0]) == 10


def _context(words, objects, sentence):
    from projects.video_qa.clips.batches import Context

    return Context(words(objects), words(sentence))


def test_item_12_spans_in_time(tmp_path):
    """Checklist 12: targets from `ts`; and item 16's metrics as the official program computes
    them."""
    said = [Sentence(float(k), k + 0.8, "x") for k in range(4)]
    assert sentences_in_span(said, read_span("0.5-2.4")) == (0, 2)
    assert sentences_in_span(said, read_span("0.85-0.95")) is None
    assert read_span("NaN-NaN") is None
    assert read_span(None) is None
    assert temporal_iou((0, 1), (2, 4)) == 0
    assert temporal_iou((1, 3), (2, 4)) == pytest.approx(1 / 3)
    actual = span_metrics([0.3, 0.5, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0])
    assert (actual["miou"], actual["asa"]) == (0.45, 0.25)
    assert actual["span_recall_0.3"] == 0.5  # NumPy's third bound is a little more than 0.3
    assert actual["span_recall_0.5"] == 0.5
    start, end = torch.tensor([[0.0, 6.0, 0.0]]), torch.tensor([[5.0, 0.0, 4.0]])
    assert best_span(start, end, torch.ones(1, 3).bool()).tolist() == [[1, 2]]
    assert best_span(start, end, torch.tensor([[True, True, False]])).tolist() == [[1, 1]]
    judged = Judged([1, 0, 2], [0.6, None, 0.2])
    questions = tuple(
        Question(str(i), "c", t, ("a", "b", "c"), a, None, 1 + i % 2)
        for i, (t, a) in enumerate([("Who?", 1), ("Where?", 0), ("who?", 1)])
    )
    told = metrics_of(config(), questions, judged, Workspace(tmp_path))
    assert told["accuracy"] == pytest.approx(2 / 3)
    assert (told["accuracy_who"], told["accuracy_where"]) == (0.5, 1.0)
    assert (told["accuracy_level_1"], told["accuracy_level_2"]) == (0.5, 1.0)
    assert (told["miou"], told["asa"]) == (0.4, 0.5)
    assert [question_type(t) for t in ("Whose hat?", "Why?", "Is it?", "How many")] == [
        "who",
        "why",
        "other",
        "how",
    ]


def test_items_9_and_10_question_prediction():
    """9: one true question at a uniform place, distractors of other questions and near ones first;
    10: training alone.
    """
    clips = {f"c{i}": Clip(f"c{i}", (), f"show{i // 2}") for i in range(4)}
    questions = [
        Question(str(i), f"c{i // 4}", f"question {i}", ("a", "b", "c"), i % 3) for i in range(16)
    ]
    questions.append(Question("x", "c0", "question 0", ("a", "b"), 0))  # the same words as qid 0
    near = QuestionPrediction(questions, clips, 5, "clip", "correct", 0)
    places = Counter()
    for epoch in range(250):
        for index in (0, 5):
            choice = near(index, epoch)
            texts = [q for q, _ in choice.pairs]
            assert texts.count(questions[index].text) == 1
            assert texts[choice.label] == questions[index].text
            assert len(set(texts)) == 5
            assert {a for _, a in choice.pairs} == {
                questions[index].candidates[questions[index].answer]
            }
            own = {q.text for q in questions if q.clip == questions[index].clip}
            assert own <= set(texts)  # all of its clip's
            rest = [q for q in questions if q.text in set(texts) - own]
            assert {clips[q.clip].show for q in rest} == {"show0"}
            places[choice.label] += 1
    assert all(70 < places[i] < 130 for i in range(5)), places
    assert near(3, 7) == near(3, 7) != near(3, 8)
    far = QuestionPrediction(questions, clips, 5, "any", "none", 0)
    shows = {
        clips[q.clip].show
        for e in range(20)
        for text, _ in far(0, e).pairs
        for q in questions
        if q.text == text
    }
    assert shows == {"show0", "show1"}
    assert far(0, 0).pairs[0][1] == ""
    with pytest.raises(UserError, match="different questions"):
        QuestionPrediction(questions[:3], clips, 5)
    cfg = config()
    rows = pretraining_rows(cfg, load_part(cfg, "train"), Words(build_tokenizer(cfg)))
    held = {q.text + q.clip for part in ("dev", "test") for q in load_part(cfg, part).questions}
    mine = {q.text + q.clip for q in rows.choices.questions}
    assert mine == {q.text + q.clip for q in load_part(cfg, "train").questions}
    assert not mine & held


def test_items_11_and_15_the_main_stage_begins_with_all_weights_and_no_file_is_added(
    tmp_path, caplog
):
    """11: weights go over, the scores' included; 15: pre-training opens the files of the main stage
    and no other.
    """
    cfg = tv(tmp_path)
    opened = {}
    for steps in ("null", "1"):
        cfg.pretrain.steps = None if steps == "null" else 1
        OPENED.clear()
        WATCHING[0] = True
        with caplog.at_level(logging.INFO):
            stage = next(stages(cfg))
            stage.module.losses(stage.data.train_set[[(i, 0) for i in range(6)]])
        WATCHING[0] = False
        opened[steps] = {n.removeprefix(str(tmp_path)) for n in OPENED if str(tmp_path) in n}
    assert opened["1"] == opened["null"]
    assert any("tvqa_train" in name for name in opened["1"])
    assert not any("val" in name or "test" in name for name in opened["1"])
    assert "6 training questions on 3 clips" in caplog.text
    both = stages(cfg)
    first = next(both)
    with torch.no_grad():
        for p in first.module.network.parameters():
            p += 1
    before = {k: v.clone() for k, v in first.module.network.state_dict().items()}
    after = next(both).module.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_pre_training_sees_the_whole_clip_whatever_is_localised(tmp_path):
    cfg = tv(tmp_path)
    cfg.data.localised, cfg.method.localisation_weight = True, 0.0
    first, second = stages(cfg)
    assert first.data.train_set[[(1, 0)]]["sentence_mask"].shape[1] == 4
    batch = second.data.train_set[[(1, 0)]]  # 0.5 to 2.4 seconds
    assert batch["sentence_mask"].shape[1] == 3
    assert batch["frames"].shape[1] == 11  # to 3.4 seconds: frames 0 to 10 at three a second


def test_item_14_a_set_without_answers_writes_a_submission(tmp_path):
    cfg = tv(tmp_path, labelled=False)
    module = VideoQA(cfg, network_of(cfg))
    actual = evaluate(cfg, module, Workspace(tmp_path / "w"))
    told = json.loads((tmp_path / "w/submission.json").read_text())
    assert actual["questions"] == 6
    with evaluated(module, "cpu"):
        expected = chosen_by(cfg, module)
    assert told == {str(i): place for i, place in enumerate(expected)}
    assert len(set(expected)) > 1
    for steps in (1, None):
        cfg.pretrain.steps = steps
        with pytest.raises(UserError, match="no answer"):
            next(stages(cfg))
    unknown = [Question(str(i), "c", str(i), ("a", "b")) for i in range(5)]
    with pytest.raises(UserError, match="question prediction needs"):
        QuestionPrediction(unknown, {"c": Clip("c", ())})


@pytest.mark.slow
def test_simulated_clips():
    """Two wrong candidates are right for other sentences of the clip; parts share no sentence."""
    actual, frames = simulated_set(None, "dev", 30, 0)
    assert len(actual.questions) == 30
    assert Counter(q.kind for q in actual.questions) == {"seen": 12, "said": 9, "word": 9}
    for q in actual.questions:
        clip = actual.clips[q.clip]
        j, last = sentences_in_span(clip.sentences, q.span)
        assert j == last
        assert len(set(q.candidates)) == 5
        said = " ".join(s.text.lower() for s in clip.sentences)
        if q.kind == "said":
            assert q.candidates[q.answer] == clip.sentences[j].text
            assert sum(c.lower() in said for c in q.candidates) == 3
        if q.kind == "word":
            assert q.candidates[q.answer] in clip.sentences[j].text.lower()
            assert q.candidates[q.answer] not in q.text.lower()
            assert sum(c in said for c in q.candidates) == 3
        seen = frames(clip.name)
        assert len(seen.features) == len(seen.times)
    assert not set(sentences(None, "dev")) & set(sentences(None, "test"))
    assert simulated_set(None, "dev", 30, 0)[0] == actual
    assert simulated_set(None, "dev", 30, 1)[0] != actual
    cfg = config("eval.split=dev", "eval.limit=90", name="mini")
    ceiling, words, low = (
        f(cfg, _silent())
        for f in (baselines.segment_vote, baselines.subtitle_words, baselines.clip_majority)
    )
    assert ceiling["accuracy"] > 0.75
    assert ceiling["accuracy_word"] > 0.95
    assert words["accuracy_word"] > 0.8
    assert low["accuracy_seen"] < 0.5


class _silent(Workspace):
    def __init__(self):
        pass

    def items(self, metric, values):
        assert len(values) == 90


def chosen_by(cfg, module, *words):
    """Answers of a module in its own layout, asked directly."""
    return judge(cfg, module, judged_part(cfg), Words(build_tokenizer(cfg)), *words).chosen


@pytest.mark.slow
def test_items_20_analysis_of_two_checkpoints(run, tmp_path):
    """Checklist 20: accuracy by type, and a row of each question on which two unlike networks
    differ.

    Each is shown clips as it was trained: one reads objects, one sees no frames and no objects,
    with a layout, a tokenizer length and a command that fit neither.
    """
    plain = config(
        "data.max_objects=0", "model.streams=text", "data.max_length=24", "model.hidden=5"
    )
    other = VideoQA(plain, network_of(plain))
    export(plain, other, tmp_path / "text")
    wrong = ["model.hidden=11", "data.max_objects=1", "analyse.shown=1000"]
    cfg = config(
        f"runs_dir={run.parents[2]}",
        f"analyse.runs=[{run}, {tmp_path / 'text'}]",
        "model.streams=text",
        *wrong,
    )
    place = Workspace(tmp_path)
    place.project, place.config = "video_qa", "smoke"
    text = tasks.analyse(cfg, place, build(cfg))
    first, _ = trained_module(build(cfg), place, str(run), cfg.runs_dir)
    questions, told = judged_part(config()).questions, []
    for own, module in ((config(), first), (plain, other)):
        with evaluated(module, "cpu"):
            told.append(chosen_by(own, module))
    rows = [
        f"| {q.clip} | {q.text} | {q.candidates[q.answer]} | {q.candidates[a]} |"
        f" {q.candidates[b]} |"
        for q, a, b in zip(questions, *told, strict=True)
        if a != b
    ]
    assert rows
    assert text.strip().split("|---|---|---|---|---|\n")[1].splitlines() == rows
    for column, picked in enumerate(told):
        right = sum(i == q.answer for i, q in zip(picked, questions, strict=True)) / len(questions)
        assert text.split("| all | 24 | ")[1].split(" |")[column].strip(" |") == f"{right:.3f}"
    assert "| what |" in text
    assert (tmp_path / "analysis.md").read_text() == text
    cfg.analyse.runs = ["a", "b", "c"]
    with pytest.raises(UserError, match="one run, or two"):
        tasks.analyse(cfg, place, build(cfg))


def clip_files(folder):
    """A user's clip: nine pictures, SubRip subtitles, two questions."""
    (folder / "frames").mkdir()
    for i in range(9):
        Image.new("RGB", (40, 30), (28 * i, 0, 0)).save(folder / f"frames/frame{i}.png")
    srt = (
        "1\r\n00:00:00,000 --> 00:00:01,200\r\n<i>Look,</i>\r\na cup.\r\n\r\n2\r\n00:00:01,500 -->"
        " 00:00:02,900\r\nIt is red.\r\n"
    )
    (folder / "said.srt").write_text(srt)
    asked = [
        {"question": "What is red?", "candidates": ["a cup", "a dog", "a car"]},
        {"question": "Who?", "candidates": ["I", "you"]},
    ]
    told = {"frames": "frames", "fps": 3, "subtitles": "said.srt", "questions": asked}
    (folder / "clip.json").write_text(json.dumps(told))
    return folder / "clip.json"


def test_answers_say_which_subtitles_were_not_read(tmp_path, capsys):
    """Subtitles beyond N, and those after the last picture, were left out of an answer without a
    word.
    """
    description = clip_files(tmp_path)
    lines = [{"start": 0.1 * i, "end": 0.1 * i + 0.1, "text": f"line {i}"} for i in range(40)]
    told = json.loads(description.read_text()) | {"subtitles": lines}
    description.write_text(json.dumps(told))
    cfg = config(
        f"answer.run={tmp_path / 'export'}", f"answer.clip={description}", "data.max_sentences=5"
    )
    export(cfg, VideoQA(cfg, network_of(cfg)), tmp_path / "export")
    one, _ = tasks.answer(cfg, Workspace(tmp_path / "task"), build(cfg))
    left = (len(one.view.sentences), one.beyond, one.after_end)
    assert left == (5, 25, 10)  # 9 pictures, 3 a second
    said = capsys.readouterr().out
    assert said.count("10 of 40 subtitles start after the last picture, shown at 2.7 s") == 1
    assert "25 of 40 subtitles are not read" in said
    assert json.loads((tmp_path / "task/answers.json").read_text())[0]["subtitles_not_read"] == 35
    description.write_text(json.dumps(told | {"subtitles": lines[:5]}))
    tasks.answer(cfg, Workspace(tmp_path / "task"), build(cfg))
    assert "not read" not in capsys.readouterr().out


def test_features_of_another_encoder_or_rate_are_not_mixed(tmp_path):
    """Files that were there were kept, whatever made them."""
    for clip in ("a", "b"):
        (tmp_path / "clips" / clip).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "clips" / clip / "1.png")
    out = tmp_path / "features"
    words = [f"prepare.frames={tmp_path}/clips", f"prepare.output={out}"]
    tasks.features(config(*words, "data.fps=3"), Workspace(tmp_path / "w"))
    (out / "b.safetensors").unlink()
    with pytest.raises(UserError, match="made with .*3.0.*give another prepare.output"):
        tasks.features(config(*words, "data.fps=1"), Workspace(tmp_path / "w"))
    (out / "features.json").unlink()
    with pytest.raises(UserError, match="no features.json"):
        tasks.features(config(*words, "data.fps=3"), Workspace(tmp_path / "w"))
    assert not (out / "b.safetensors").exists()


def test_pictures_are_ordered_by_all_their_numbers(tmp_path):
    """By the last number alone 10_5fps stood before 2_5fps."""
    for name in ("10_5fps", "2_5fps", "1_5fps", "cover"):
        (tmp_path / f"{name}.jpg").touch()
    assert [p.stem for p in pictures_of(tmp_path)] == ["1_5fps", "2_5fps", "10_5fps", "cover"]


def test_answers_about_a_clip_of_one_s_own(run, tmp_path):
    """The task on files, and an export; SubRip and JSON say the same."""
    description = clip_files(tmp_path)
    said = read_subtitles(tmp_path / "said.srt")
    assert said == (Sentence(0.0, 1.2, "Look, a cup."), Sentence(1.5, 2.9, "It is red."))
    rows = [{"start": s.start, "end": s.end, "text": s.text} for s in said]
    (tmp_path / "said.json").write_text(json.dumps(rows))
    assert read_subtitles(tmp_path / "said.json") == said
    folder = tmp_path / "export"
    cfg = config(f"answer.run={folder}", f"answer.clip={description}")
    module = VideoQA(cfg, network_of(cfg))
    export(cfg, module, folder)
    place = Workspace(tmp_path / "task")
    actual = tasks.answer(cfg, place, build(cfg))
    assert [len(a.probabilities) for a in actual] == [3, 2]
    assert (tmp_path / "task/plots/looked-0.png").stat().st_size > 1000
    written = json.loads((tmp_path / "task/answers.json").read_text())
    assert written[0]["answer"] == actual[0].text
    assert sum(written[0]["probabilities"].values()) == pytest.approx(1)
    assert actual[0].looked.shape == (2, 9)
    assert actual[0].looked[0, 4:].eq(0).all()  # 1.2 seconds are four frames
    again = Answerer.open(folder)(
        pictures_of(tmp_path / "frames"),
        tmp_path / "said.json",
        "What is red?",
        ["a cup", "a dog", "a car"],
        fps=3,
    )
    assert again.probabilities == actual[0].probabilities
    cfg.answer.run = str(run)  # of a run instead of an export
    place.project, place.config = "video_qa", "smoke"
    assert len(tasks.answer(cfg, place, build(cfg))) == 2
    with pytest.raises(UserError, match="two candidates"):
        Answerer.open(folder)([], [], "Who?", ["I"])


def test_files_that_are_wrong_are_named(tmp_path):
    cfg = config()
    with pytest.raises(UserError, match=r"set answer\.clip"):
        read_description(None)
    (tmp_path / "clip.json").write_text("{}", "utf-8-sig")  # a byte order mark is not a damage
    with pytest.raises(UserError, match="no questions"):
        read_description(str(tmp_path / "clip.json"))
    (tmp_path / "bad.srt").write_text("1\nhello\n")
    with pytest.raises(UserError, match="subtitles"):
        read_subtitles(tmp_path / "bad.srt")
    with pytest.raises(UserError, match="github.com/jayleicn/TVQA"):
        load_tv_set(tmp_path, "tvqa", "train")
    with pytest.raises(UserError, match="TASK=features"):
        FeatureFiles(tmp_path / "nothing", 3, 64)
    with pytest.raises(UserError, match="h5py"):
        FeatureTable(tmp_path / "f.h5", 3, 64)
    with pytest.raises(UserError, match=r"data\.features"):
        load_part(tv_without_features(tmp_path), "train")
    with pytest.raises(UserError, match=r"prepare\.frames"):
        tasks.clip_folders(cfg.prepare)
    for word, said in (
        ("pretrain.epochs=1", "null one"),
        ("data.localised=true", "localisation_weight"),
        ("method.mask_prob=2", "must be in"),
    ):
        with pytest.raises(UserError, match=said):
            config(word)
    assert show_of("tvqa", "s01e02_seg02_clip_12") == "bbt"
    assert show_of("tvqa", "friends_s01e01_seg01_clip_00") == "friends"


def tv_without_features(folder):
    cfg = tv(folder)
    cfg.data.features = None
    return cfg


def test_features_and_unreadable_clips(tmp_path):
    """`TASK=features` writes what training reads; it leaves what is done; damaged pictures are
    counted.
    """
    frames = tmp_path / "clips"
    for clip in ("a", "b"):
        (frames / clip).mkdir(parents=True)
        for i in (10, 2, 1):
            Image.new("RGB", (40, 30), (20 * i, 0, 0)).save(frames / clip / f"{i}.png")
    assert [p.stem for p in pictures_of(frames / "a")] == ["1", "2", "10"]
    cfg = config(
        f"prepare.frames={frames}", f"prepare.output={tmp_path / 'features'}", "data.fps=3"
    )
    out = tasks.features(cfg, Workspace(tmp_path / "w"))
    source = FeatureFiles(out, 3.0, 64)
    assert source("a").features.shape == (3, 64)
    assert source("a").times.tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    before = (out / "a.safetensors").stat().st_mtime_ns
    tasks.features(cfg, Workspace(tmp_path / "w"))
    assert (out / "a.safetensors").stat().st_mtime_ns == before
    assert len(source("absent").features) == 0
    assert source.counter.skipped == 1
    (frames / "b" / "3.png").write_text("no picture")
    (out / "b.safetensors").unlink()
    with pytest.raises(UserError, match="corrupt"):
        tasks.features(cfg, Workspace(tmp_path / "w"))


def test_a_second_call_judges_the_clips_as_the_first(tmp_path):
    """One damaged clip in twenty was left out, and when asked again was one of one: corrupt."""
    for i in range(20):
        (tmp_path / f"clips/{i}").mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / f"clips/{i}/1.png")
    (tmp_path / "clips/7/1.png").write_text("no picture")
    cfg = config(f"prepare.frames={tmp_path}/clips", f"prepare.output={tmp_path}/out", "data.fps=3")
    for made in (19, 0):
        tasks.features(cfg, Workspace(tmp_path / f"w{made}"))
        notes = (tmp_path / f"w{made}/notes.txt").read_text()
        assert notes.startswith(f"{made} clips encoded")
        assert "; 1 without a readable picture are left out" in notes
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 19


def test_a_candidate_twice_is_told(tmp_path):
    """One of the two had no probability in answers.json."""
    told = {
        "questions": [{"question": "Why?", "candidates": ["a", "b", "a"]}],
        "subtitles": [{"start": 0, "end": 1, "text": "x"}],
    }
    (tmp_path / "clip.json").write_text(json.dumps(told))
    cfg = config(f"answer.clip={tmp_path}/clip.json")
    with pytest.raises(UserError, match="'Why\\?' has a candidate twice"):
        tasks.answer(cfg, Workspace(tmp_path / "w"), build(cfg))


def test_labels_of_any_detector(tmp_path):
    """`TASK=objects` with a small detector of transformers in a local folder; its file is what
    readers take.
    """
    from transformers import DetrImageProcessor, YolosConfig, YolosForObjectDetection

    from projects.video_qa.clips.tv_sets import read_objects

    torch.manual_seed(0)
    small = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[32, 32],
        patch_size=16,
        num_detection_tokens=4,
    )
    YolosForObjectDetection(small).save_pretrained(tmp_path / "detector")
    DetrImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "detector")
    (tmp_path / "clips/a").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (40, 30), (60 * i, 0, 0)).save(tmp_path / f"clips/a/{i}.png")
    cfg = config(
        f"prepare.frames={tmp_path / 'clips'}",
        f"prepare.output={tmp_path / 'objects.jsonl'}",
        f"prepare.detector={tmp_path / 'detector'}",
        "prepare.threshold=0.0",
        "prepare.most=2",
        "prepare.device=cpu",
    )
    actual = read_objects(tasks.objects(cfg, Workspace(tmp_path / "w")))
    assert len(actual["a"]) == 3
    assert all(0 < len(labels) <= 2 for labels in actual["a"])


def test_metrics_of_a_run(run):
    """Mechanism columns; item 17: terms are logged apart."""
    actual = json.loads((run / "metrics.json").read_text())
    assert {
        "accuracy",
        "accuracy_chance",
        "miou",
        "asa",
        "attention_on_own_span",
        "accuracy_masked_0.3",
    } <= actual.keys()
    assert actual["attention_on_own_span"] == pytest.approx(1.0)  # local
    assert actual["pretraining_questions"] == actual["train_questions"] == 48
    curves = (run / "metrics.csv").read_text()
    assert all(
        f",train/{term}," in curves for term in ("loss", "answer", "localisation", "contrast")
    )
    assert any("pretrain" in line for line in curves.splitlines())
    assert list((run / "plots").glob("looked-*.png"))


def test_masked_inputs_of_the_evaluation_spare_special_tokens():
    cfg = config()
    batch, words = batch_of(cfg), rows_of(cfg).words
    actual = masked_ids(batch["input_ids"], words, 1.0, torch.Generator().manual_seed(0))
    special = (actual == words.cls) | (actual == words.sep) | (actual == words.pad)
    assert actual[~special].eq(words.mask).all()
    assert special.any()


def test_a_clip_without_subtitles_is_one_sentence():
    view = clip_view(Clip("c", ()), None, Layout(), None)
    assert [s.text for s in view.sentences] == [""]
    assert view.spans.shape == (1, 0)
