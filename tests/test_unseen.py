"""The second sets of cards: each is judged by its project, and the card shows how."""

import json

import pytest

from common.config import UserError
from common.data.layouts import layout_of
from common.data.lookup import BUNDLED
from common.registry import list_projects
from scripts.unseen import (
    BEGIN,
    END,
    HEAD,
    RESULTS,
    SETS,
    WITHOUT,
    block_of,
    figures,
    overview,
    row_of,
    write_card,
)
from tests.contract.test_own_data import section


@pytest.mark.slow
@pytest.mark.parametrize("project", [name for name in SETS if not SETS[name].shared])
def test_a_set_is_one_that_the_project_judges(project, tmp_path):
    assert layout_of(SETS[project].write(BUNDLED, tmp_path)) in section(project).judges


def test_a_project_has_a_second_set_or_a_reason_without_one():
    assert sorted([*SETS, *WITHOUT]) == list(list_projects())


def test_only_what_is_between_the_marks_changes(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_card(card, "| new |")
    assert card.read_text(encoding="utf-8") == f"before\n{BEGIN}\n| new |\n{END}\nafter\n"
    assert block_of(card) == "| new |"


def test_marks_come_behind_the_results(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"{RESULTS}\n\nafter\n", encoding="utf-8")
    assert block_of(card) == ""
    write_card(card, "new")
    assert card.read_text(encoding="utf-8") == f"{RESULTS}\n\n{BEGIN}\nnew\n{END}\n\nafter\n"
    card.write_text("no results\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no <!-- unseen:begin -->"):
        write_card(card, "new")


def test_the_page_counts_where_training_is_ahead():
    lower = f"text\n\n{HEAD}\n|---|--:|--:|---|\n| a (l1) | 0.2 | 0.3 | 0.1 copy |\n| b (l1) | 0.2 | | |"
    higher = (
        f"{HEAD}\n|---|--:|--:|---|\n| c (top1) | 0.2 | 0.3 | 0.1 x |\n| d (top1) | 0.2 | 0.3 | |"
    )
    assert figures("no table") == []
    page = overview({"p": figures(lower), "q": figures(higher)})
    assert "training-free baseline in 1 of 2 projects on their own test sets, and in 0 of 0" in page
    assert "training in 1 of 2 and 0 of 1." in page
    assert "| [p](../projects/p/README.md) | a (l1) | 0.2 | 0.3 | 0.1 copy |" in page.splitlines()
    assert "| | *second set:* d (top1) | 0.2 | 0.3 |  |" in page.splitlines()


def test_a_row_has_the_set_s_own_metric_with_its_baseline(tmp_path):
    metrics = {"mine_num_queries": 2.0, "mine_ndcg_at_10": 0.2, "untrained_mine_ndcg_at_10": 0.1}
    metrics |= {"bm25_mine_ndcg_at_10": 0.9, "hybrid_mine_ndcg_at_10": 0.8}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    row = row_of("contriever", "mine", "ndcg_at_10", tmp_path, SETS["contriever"])
    assert row == "| mine (ndcg_at_10) | 0.2000 | 0.1000 | 0.9000 bm25 |"
    with pytest.raises(UserError, match="has no accuracy"):
        row_of("contriever", "mine", "accuracy", tmp_path, SETS["contriever"])
