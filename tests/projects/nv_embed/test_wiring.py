"""Options of the config reach sets, miner, encoder and baselines; by hand, what is drawn and scored."""

import json

import pytest
import torch

from common.config import UserError
from common.data.retrieval.records import EmbeddingRecord
from common.engine.workspace import Workspace
from projects.nv_embed import baselines, eval_sets
from projects.nv_embed import tasks as own_tasks
from projects.nv_embed.data import training_sets
from projects.nv_embed.data.records import EmbeddingTask, limited
from projects.nv_embed.data.training_sets import right_places, stage_data
from projects.nv_embed.embedding_benchmark.sets import Pairs, Reranking, score_set
from projects.nv_embed.embedding_benchmark.tasks import clustering_v_measure, summarisation_spearman
from projects.nv_embed.overlap import evaluation_texts, overlap
from projects.nv_embed.stages import build_encoder
from tests.projects.nv_embed.conftest import config, encoder, tasks


def test_draws_keep_the_order_of_their_rows():
    rows = list(range(100))
    for drawn in (eval_sets._some(rows, 20), limited(rows, 20, 0)):
        assert drawn == sorted(drawn)
        assert len(drawn) == 20
        assert max(drawn) > 50


def test_a_planted_positive_is_not_the_right_text_itself(monkeypatch):
    rows = [{"source": "q", "target": "Town", "candidate": ["town", "Old town"]}]
    monkeypatch.setattr(eval_sets, "wikides_rows", lambda root, split: rows)
    task, planted = eval_sets.planted_task(None, None)
    assert (task.documents, task.relevant, planted) == (["town", "old town"], [{0}], [{1}])


def test_candidates_to_be_reranked_are_ten_and_have_no_instruction():
    data = eval_sets.build_set(config(), "reranking")
    assert isinstance(data, Reranking)
    assert {len(texts) for texts in data.candidates} == {10}
    assert all(flags == [True, *[False] * 9] for flags in data.relevant)
    asked = []
    score_set(lambda texts, words: asked.append(words) or torch.ones(len(texts), 2), data, "x")
    assert sorted(set(asked)) == ["", data.instruction]
    assert asked.count(data.instruction) == 1


def test_the_miner_has_the_options_of_the_config(monkeypatch, tmp_path):
    """A folder of negatives of another ratio is not taken for those of this one."""
    given = {}
    mine = training_sets.mine_text_negatives

    def watched(*args, **options):
        given.update(options, count=args[3])
        return mine(*args, **options)

    monkeypatch.setattr(training_sets, "mine_text_negatives", watched)
    words = ["data.mining.ratio=0.7", "data.mining.candidates=6", "data.mining.num_negatives=3"]
    task = EmbeddingTask("x", "retrieval", "", tasks()[0].records[:20])
    training_sets.mined(config(*words), task)
    assert {k: given[k] for k in ("ratio", "candidates", "count")} == {
        "ratio": 0.7,
        "candidates": 6,
        "count": 3,
    }
    for ratio in ("0.7", "0.9"):
        own_tasks.mine(config(f"data.mining.ratio={ratio}"), Workspace(tmp_path), None)
    made = {p.name.rsplit("-", 1)[0] for p in (tmp_path / "mined").iterdir()}
    assert len(list((tmp_path / "mined").iterdir())) == 2 * len(made)


def test_a_text_is_no_negative_of_itself():
    records = [EmbeddingRecord("a", ("b",)), EmbeddingRecord("c", ("a",))]
    task = EmbeddingTask("x", "sts", "", records, True)
    documents = training_sets.DistinctTexts(task.documents())
    assert [[documents[i] for i in row] for row in right_places(task, documents)] == [
        ["b", "a"],
        ["a"],
    ]


def test_training_texts_are_cut_to_the_length_of_the_data_and_drawn_anew_each_epoch():
    records = [EmbeddingRecord("a b c d e f g h i j k l", tuple("pqrstuvw"), tuple("mnoxyz"))]
    task = EmbeddingTask("x", "retrieval", "", records * 8)
    rows = stage_data(config("data.max_length=8"), encoder(), [task]).train_set
    assert rows[[(0, 0)]]["query"]["input_ids"].shape[1] == 8
    drawn = [rows.example(0, epoch)[2:] for epoch in range(6)]
    assert len({positive for positive, _ in drawn}) > 1
    assert rows.example(0, 3)[2:] == drawn[3]


def test_the_encoder_has_the_options_of_the_config():
    words = ["model.lora_alpha=5", "model.dim_head=3", "model.heads=2"]
    made = build_encoder(config(*words).model)
    scalings = [getattr(module, "scaling", None) for module in made.modules()]
    scales = {scaling["default"] for scaling in scalings if isinstance(scaling, dict)}
    assert scales == {5 / 4}  # alpha over the rank
    assert made.pooler.layer.cross_attend_blocks[0].fn.to_q.out_features == 6


def test_baselines_are_of_the_mask_and_instruction_that_they_name(monkeypatch, tmp_path):
    causal, fitted = [], []
    monkeypatch.setattr(
        baselines, "_encoded", lambda cfg, place, made: causal.append(made.causal) or {}
    )
    place = Workspace(tmp_path)
    for baseline in (baselines.raw_mean, baselines.raw_mean_bidirectional, baselines.untrained):
        baseline(config(), place)
    assert causal == [True, False, False]
    monkeypatch.setattr(
        baselines, "Encoded", lambda *_: lambda texts, words: fitted.append(words) or texts
    )
    monkeypatch.setattr(baselines, "fit_whitening", lambda rows, ridge: None)
    data = Pairs("tell", ["a"], ["b"], [1.0])
    monkeypatch.setattr(baselines, "_scored", lambda cfg, place, of: of(data))
    baselines.whitened_mean(config(), place)
    assert fitted == ["tell"]


def test_lengths_of_vectors_are_no_clusters_and_the_nearest_summary_counts():
    angles = torch.tensor([0.0, 0.02, 0.04, 1.5, 1.52, 1.54])
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    rows *= torch.tensor([1.0, 90.0, 1.0, 90.0, 1.0, 90.0])[:, None]
    assert clustering_v_measure(rows, [0, 0, 0, 1, 1, 1]) == pytest.approx(1.0)
    human, machine = [torch.eye(3)[:2]], [torch.tensor([[1.0, 0, 0], [0.7, 0.7, 0.7], [1, 1, 2]])]
    assert summarisation_spearman(human, machine, [[3, 2, 1]]) == pytest.approx(1.0)


def test_evaluation_texts_are_of_all_columns_and_lie_where_sets_lie(tmp_path, monkeypatch):
    row = {"text": "red fox", "query": "car", "first": "tree", "second": "sea", "other": "e"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    assert evaluation_texts(tmp_path / "test.jsonl") == ["red fox", "car", "tree", "sea"]
    (tmp_path / "empty.jsonl").write_text(json.dumps({"other": "e"}))
    with pytest.raises(UserError, match="has no texts"):
        evaluation_texts(tmp_path / "empty.jsonl")
    rows = [{"text": text, "label": text} for text in ("red fox", "blue house")]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    words = ["data.source=sets", "eval.tasks=[snips]", "eval.primary=[]", "data.root=elsewhere"]
    words += ["data.sets={emotion: {path: own.jsonl, samples: 2}}"]
    folder = overlap(config(*words, "overlap.texts={emotion: test.jsonl}"), Workspace(tmp_path))
    assert (folder / "emotion.jsonl").read_text() == json.dumps(rows[1]) + "\n"
