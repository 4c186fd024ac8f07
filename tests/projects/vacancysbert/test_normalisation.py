"""Title normalisation: ranks by hand, parts, merged candidates, files, scores of embeddings."""

import pytest
import torch

from common.config import UserError
from common.data.tables import write_jsonl
from projects.vacancysbert.normalisation import (
    TitleRow,
    cosines,
    gold_ranks,
    mixed,
    rank_metrics,
    read_candidates,
    read_title_rows,
    score_embeddings,
    title_benchmark,
    write_benchmark,
)

ROWS = [
    TitleRow("java coder", "Developer", ("java",)),
    TitleRow("senior nurse", "nurse"),
    TitleRow("chef", "cook", ("knives",)),
    TitleRow("lost", "unlisted"),
]
LISTED = ["developer", "Nurse", "cook", " NURSE ", "baker"]


def test_checklist_8_one_gold_candidate_monotone_in_k_and_1_at_all_candidates():
    """Recall counts exactly one candidate; duplicates are merged, absent gold titles counted."""
    data = title_benchmark(ROWS, LISTED)
    assert data.candidates == ["developer", "Nurse", "cook", "baker"]
    assert (data.gold.tolist(), data.excluded) == ([0, 1, 2], 1)
    assert data.parts == {"all": [0, 1, 2], "zero_overlap": [0, 2]}
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.4, 0.3, 0.2, 0.3], [0.8, 0.7, 0.1, 0.5]])
    ranks = gold_ranks(lambda rows: scores[rows], data.gold)
    assert ranks.tolist() == [1, 3, 4]  # the tie of the second row counts against it
    actual = rank_metrics(ranks, data, (1, 2, 3, 4))
    assert [actual[f"all_recall_at_{k}"] for k in (1, 2, 3, 4)] == pytest.approx(
        [1 / 3, 1 / 3, 2 / 3, 1]
    )
    assert actual["all_mrr"] == pytest.approx((1 + 1 / 3 + 1 / 4) / 3)
    assert actual["zero_overlap_recall_at_3"] == 0.5
    assert actual["recall_at_3"] == actual["all_recall_at_3"]  # the formula: every query once
    assert actual["recall_at_3_chance"] == 0.75


def test_rows_that_name_a_part_are_in_that_part_alone():
    data = title_benchmark([TitleRow("a b", "c", part="all"), TitleRow("d", "c", part="hard")])
    assert data.parts == {"all": [0], "hard": [1]}
    actual = rank_metrics(torch.tensor([1, 2]), data, (1,))
    assert actual["recall_at_1"] == 0.5  # the mean of both
    named = title_benchmark(
        [TitleRow("a", "c", part="zero_overlap"), TitleRow("c", "c", part="hard")]
    )
    assert named.averaged == ["zero_overlap", "hard"]
    with pytest.raises(UserError, match="among the candidates"):
        title_benchmark(ROWS, ["nothing"])


def test_equal_embeddings_solve_nothing_and_nan_is_refused():
    same = torch.ones(3, 4)
    assert gold_ranks(cosines(same[:2], same), torch.tensor([0, 2])).tolist() == [3, 3]
    with pytest.raises(ValueError, match="diverged"):
        gold_ranks(lambda rows: torch.tensor([[float("nan"), 1.0]]), torch.tensor([0]))


def test_mixed_scores_rank_as_the_normalised_mean_of_unit_vectors():
    generator = torch.Generator().manual_seed(0)
    u, v, c = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (5, 5, 9))
    gold, unit = torch.arange(5), torch.nn.functional.normalize
    mean = unit(0.3 * unit(u, dim=1) + 0.7 * unit(v, dim=1), dim=1)
    both = gold_ranks(mixed(cosines(u, c), cosines(v, c), 0.3), gold)
    assert torch.equal(both, gold_ranks(cosines(mean, c), gold))
    assert not torch.equal(both, gold_ranks(cosines(u, c), gold))


def test_embeddings_of_any_model_are_scored_with_and_without_skills():
    """By hand in the plane; rows without skills count as titles alone."""
    data = title_benchmark(ROWS[:3], LISTED)
    eye = torch.eye(4)
    titles, skills = eye[[3, 1, 3]], eye[[0, 0, 2]]
    actual = score_embeddings(data, titles, eye, skills, beta=0.4)
    assert actual["titles_all_recall_at_1"] == pytest.approx(1 / 3)
    assert actual["with_skills_all_recall_at_1"] == 1.0
    assert "with_skills_mrr" not in score_embeddings(data, titles, eye)
    assert (
        score_embeddings(data, titles, eye, skills, 1.0)["with_skills_mrr"] == actual["titles_mrr"]
    )
    with pytest.raises(ValueError, match="as many embeddings"):
        score_embeddings(data, titles[:2], eye)
    with pytest.raises(ValueError, match="beta"):
        score_embeddings(data, titles, eye, skills, 1.1)


def test_files_of_the_benchmark_read_back_and_descriptions_are_refused(tmp_path):
    rows = [TitleRow("t", "a", ("x",), "all", {"control": ("y",)}), TitleRow("u", "b")]
    data = title_benchmark(rows, ["a", "b", "c"])
    folder = write_benchmark(tmp_path / "bench", data)
    assert read_title_rows(folder / "test.jsonl") == rows
    assert read_candidates(folder / "candidates.txt") == ["a", "b", "c"]
    assert data.settings == ["with_skills", "control"]
    assert data.skills("control") == [("y",), ()]
    write_jsonl(
        tmp_path / "raw.jsonl", [{"title": "t", "normalized_title": "a", "description": "d"}]
    )
    with pytest.raises(UserError, match="TASK=extract"):
        read_title_rows(tmp_path / "raw.jsonl")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match="no title"):
        read_candidates(tmp_path / "empty.txt")
