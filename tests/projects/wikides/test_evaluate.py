"""The table of phase II by hand: what is chosen by which score, and compared with what."""

import json
from types import SimpleNamespace

import pytest
import torch

from common.engine.workspace import Workspace
from common.evaluation.generation.reference import rouge
from projects.wikides import evaluate
from projects.wikides.batches import RankRows
from projects.wikides.data import Row
from projects.wikides.evaluate import (
    evaluate_encoder,
    gallery,
    selection_scores,
    similarities,
    table,
)
from tests.projects.wikides.conftest import ROWS, config, ranker

TOWN, CAT = ROWS[:2]
SIMS = [torch.tensor([0.9, 0.5, 0.4]), torch.tensor([0.2, 0.6])]


def evaluated(folder, monkeypatch, sims, *words):
    asked = {}

    def similarities(encoder, rows, batch_size, *, whiten):
        asked["whiten"] = whiten
        return sims

    monkeypatch.setattr(evaluate, "similarities", similarities)
    cfg = config(*words)
    return evaluate_encoder(cfg, None, [TOWN, CAT], Workspace(folder)), asked["whiten"]


def test_scores_are_of_the_chosen_text_with_its_own_reference():
    """F1, not precision or recall; words are counted, not letters."""
    row, text = TOWN, "town in the north of the country"
    actual = selection_scores([row], [[text]])
    for family, reference in (("gold", row.target), ("source", row.source)):
        for kind, (precision, recall, f1) in rouge(text, reference).items():
            if f"{family}_{kind}" in actual:
                assert actual[f"{family}_{kind}"] == [f1]
                assert len({precision, recall, f1}) == 3
    assert actual["words"] == [7]
    pair = selection_scores([row], [[text, "church"]])["words"]
    assert pair == [4]


def test_the_table_has_the_method_similarity_and_fusion(tmp_path, monkeypatch):
    """Similarity takes "church", fusion the text that is in the paragraph; values by row."""
    for words, own in (([], "sim"), (["method.use_rouge=true"], "fusion")):
        actual, whiten = evaluated(tmp_path / own, monkeypatch, SIMS, *words)
        assert not whiten
        assert actual["source_rouge_1"] == actual[f"{own}_source_rouge_1"]
        saved = json.loads((tmp_path / own / "items/words.json").read_text(encoding="utf-8"))
        assert saved == ([1, 2] if own == "sim" else [7, 2])
        texts = ["church" if own == "sim" else TOWN.candidates[2], "a cat"]
        means = selection_scores([TOWN, CAT], [[text] for text in texts])["gold_rouge_l"]
        assert actual["gold_rouge_l"] == pytest.approx(sum(means) / 2)
        assert actual["gold_rouge_l_recall"] == pytest.approx(
            sum(
                rouge(text, row.target)["rouge_l"][1]
                for text, row in zip(texts, (TOWN, CAT), strict=True)
            )
            / 2
        )
    assert actual["sim_words"] == 1.5
    assert actual["fusion_words"] == 4.5
    _, whiten = evaluated(tmp_path / "w", monkeypatch, SIMS, "eval.whiten=true")
    assert whiten


def test_fusion_next_to_the_method_has_the_method_s_range(tmp_path, monkeypatch):
    """Negative cosines: raw, fusion is 0 everywhere; mapped to 0..1, ROUGE tells candidates
    apart."""
    sims = [torch.tensor([-0.9, -0.9, -0.9]), torch.tensor([-0.9, -0.9])]
    unit, _ = evaluated(tmp_path / "u", monkeypatch, sims, "method.sim_range=unit")
    raw, _ = evaluated(tmp_path / "r", monkeypatch, sims, "method.sim_range=raw")
    assert (unit["fusion_words"], raw["fusion_words"]) == (4.5, 1)


def test_the_printed_table_has_the_values_of_each_row():
    """The run's own row has no prefix; rows without values are left out."""
    metrics = {"words": 3.0, "oracle_words": 8.0}
    lines = table(metrics, ["", "oracle", "absent"]).split("\n")
    assert [line.split()[0] for line in lines[1:]] == ["chosen", "oracle"]
    assert [float(line.split()[-1]) for line in lines[1:]] == [3, 8]


def test_the_gallery_begins_with_the_best_score():
    (entry,) = gallery([TOWN], SIMS[:1])
    assert [r["item"] for r in entry["results"]] == list(TOWN.candidates)
    (turned,) = gallery([TOWN], [-SIMS[0]])
    assert [r["item"] for r in turned["results"]] == list(TOWN.candidates[::-1])


def test_validation_sees_all_candidates_in_the_order_of_the_file():
    """Training cuts and sorts by quality; validation does neither."""
    rows = [Row("the long river", "long river", ("lake", "the long river", "river", "long"))]
    cfg = config("data.num_candidates=2", "data.order=gold_rouge")
    tokenize = ranker().encoder.encoder.tokenize
    assert RankRows(cfg, rows, tokenize, training=False).texts == [list(rows[0].candidates)]
    assert RankRows(cfg, rows, tokenize, training=True).texts == [["the long river", "lake"]]


def test_whitened_cosines_do_not_see_a_linear_map():
    """Whitening undoes any mixing of the dimensions; taking the mean away alone does not."""
    vectors = torch.randn(11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = vectors @ torch.tensor([[4.0, 1, 0], [0, 0.5, 2], [1, 0, 1]], dtype=torch.float64)

    def cosines(table, whiten):
        encoder = SimpleNamespace(encode=lambda texts, batch_size: table[: len(texts)])
        return torch.cat(similarities(encoder, ROWS[:3], 4, whiten=whiten))

    torch.testing.assert_close(cosines(mixed, True), cosines(vectors, True), atol=1e-4, rtol=0)
    assert (cosines(mixed, False) - cosines(vectors, False)).abs().max() > 0.1
