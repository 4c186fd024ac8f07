"""Lexical tasks, pools of strings and padding: what the config says reaches them."""

from types import SimpleNamespace

import pytest
import torch

from common.config import UserError
from common.engine.workspace import Workspace
from projects.mirror_bert import data
from projects.mirror_bert import evaluate as evaluation
from projects.mirror_bert import module as method
from projects.mirror_bert.data import span_mask, training_rows
from projects.mirror_bert.evaluate import (
    lexical,
    random_pair_cosines,
    save_level_items,
    title_gallery,
    word_set,
)
from tests.projects.mirror_bert.conftest import batch, config, module_of


def test_unrelated_texts_are_half_the_set_apart(monkeypatch):
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 0.0], "d": [0.0, 1.0]}
    pairs = SimpleNamespace(first=["a", "b"], second=["c", "d"])
    monkeypatch.setattr(evaluation, "first_sts_set", lambda cfg: pairs)
    encode = lambda texts: torch.tensor([vectors[t] for t in texts])  # noqa: E731
    assert random_pair_cosines(config(), encode).tolist() == [0.0, 0.0]


def test_titles_are_as_many_as_the_config_says(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(evaluation, "title_search", lambda *args: asked.append(args[1:]))
    monkeypatch.setattr(evaluation, "evaluate_titles", lambda encode, task: ({}, []))
    lexical(config("eval.titles=dev", "eval.num_titles=7"), None)
    assert asked == [("dev", 7)]


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("txt", "\t")])
def test_columns_of_word_pairs_are_those_of_the_config(monkeypatch, suffix, mark):
    asked = {}
    monkeypatch.setattr(
        evaluation, "load_word_pairs", lambda path, **options: asked.update(options)
    )
    word_set(config("eval.word_columns=[w1,w2,s]"), f"pairs.{suffix}")
    assert (asked["first"], asked["second"], asked["score"]) == ("w1", "w2", "s")
    assert asked["delimiter"] == mark


def test_the_gallery_marks_the_own_title():
    task = SimpleNamespace(
        queries=[f"q{i}" for i in range(16)],
        gallery=[f"g{i}" for i in range(16)],
        relevant=[[i] for i in range(16)],
    )
    encode = lambda texts: torch.eye(16)[[int(t[1:]) for t in texts]]  # noqa: E731
    rows = title_gallery(encode, task)
    assert len(rows) > 1
    assert all(row["results"][0]["correct"] for row in rows)


def test_items_of_the_level_keep_their_sides(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.rank_items("x_spearman", [3.0, 1.0], [0.0, 5.0])
    save_level_items(workspace, "x_spearman")
    read = evaluation.read_json
    saved = [read(tmp_path / f"items/{n}.json") for n in ("x_spearman", "level_score")]
    assert saved[0] == saved[1]


def test_steps_of_the_curve_count_from_one(tmp_path, monkeypatch):
    monkeypatch.setattr(
        evaluation, "read_metrics", lambda path: {"train/val/sts_spearman": [(9, 0.5), (19, 0.6)]}
    )
    (tmp_path / "metrics.csv").write_text("x")
    (axes,) = evaluation.curve_figure(tmp_path / "metrics.csv").axes
    assert axes.lines[0].get_xdata().tolist() == [10, 20]


def test_strings_of_two_pools_are_halves_without_repetition(monkeypatch):
    synsets = [{"lemmas": ["ice_cream", "cook"]}, {"lemmas": ["town", "house"]}]
    monkeypatch.setattr(data, "read_jsonl", lambda *_: synsets)
    monkeypatch.setattr(data, "training_titles", lambda root: ["cook", "smith", "cook"])
    rows = training_rows(config("data.source=lexicon", "data.limit=null"))
    assert rows == [("cook",), ("smith",), ("ice cream",), ("town",), ("house",)]
    rows = training_rows(config("data.source=lexicon", "data.limit=3"))
    assert len({"cook", "smith"} & {text for (text,) in rows}) == 2  # the odd one is a title


def test_masks_have_the_options_of_the_config():
    mask = span_mask(config("augment.span_chars=4", "augment.min_chars=9"), None)
    assert (mask.span_chars, mask.min_chars) == (4, 9)


def test_lines_of_a_file_are_kept_drawn_and_once_only_where_asked(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(["same", "same", *(f"line {i}" for i in range(30))]))
    words = ["data.source=file", f"data.file={path}", "data.limit=null"]
    assert len(training_rows(config(*words, "data.dedup=false"))) == 32
    assert len(training_rows(config(*words, "data.dedup=true"))) == 31
    few = training_rows(config(*words[:2], "data.limit=5", "data.dedup=true"))
    assert len(few) == 5
    assert few != training_rows(config(*words, "data.dedup=true"))[:5]


def test_means_over_padding_are_taken_at_the_fixed_length():
    cfg = config("model.pooling=avg_all", "model.max_length=24")
    module = module_of(cfg)
    padded = module.padded(batch(cfg, module))
    assert padded["input_ids"].shape[1] == padded["attention_mask"].shape[1] == cfg.data.max_length
    plain = module_of(config())
    rows = batch(config(), plain)
    assert plain.padded(rows) is rows


def test_heads_are_dropped_as_often_as_the_config_says(monkeypatch):
    asked = []
    monkeypatch.setattr(method, "add_drop_head", lambda model, share: asked.append(share))
    module_of(config("model.drop_head=0.3"))
    module_of(config("model.drop_head=0"))
    assert asked == [0.3]


def test_validation_asks_development_titles_and_stops_the_clock(monkeypatch):
    asked, module = [], module_of(config("eval.level=lexical", "eval.titles=dev"))
    monkeypatch.setattr(method.SentenceModule, "on_validation_epoch_end", lambda self: None)
    monkeypatch.setattr(method, "title_search", lambda root, part, count: asked.append(part))
    monkeypatch.setattr(
        method, "evaluate_titles", lambda encode, task: ({"esco_recall_at_1": 0.5}, [])
    )
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    module.on_validation_epoch_end()
    assert asked == ["dev"]
    now = iter([10.0, 13.0, 100.0, 104.0])
    monkeypatch.setattr(method.time, "perf_counter", lambda: next(now))
    module.on_train_start()
    module.on_validation_start()
    module.on_validation_end()
    module.on_train_end()
    assert module.train_seconds == 7.0


def test_a_source_without_strings_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        training_rows(config("data.source=file", f"data.file={tmp_path / 'none.txt'}"))
