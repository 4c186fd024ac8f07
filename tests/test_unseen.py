"""The second sets of cards: each is judged by its project, and the card shows how."""

import pytest

from common.config import UserError
from common.data.layouts import layout_of
from common.data.lookup import BUNDLED
from common.registry import list_projects
from scripts.unseen import BEGIN, END, RESULTS, SETS, WITHOUT, block_of, write_card
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
