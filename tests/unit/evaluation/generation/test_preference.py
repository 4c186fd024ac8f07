"""Blind A/B forms, answers, majority and agreement."""

import csv
import math

import pytest

from common.config import UserError
from common.evaluation.generation.preference import (
    fleiss_kappa,
    majority,
    preference_metrics,
    read_answers,
    write_form,
)

PREFIXES = [f"prefix {i}" for i in range(40)]
SYSTEMS = {"a": [f"a{i}" for i in range(40)], "b": [f"b{i}" for i in range(39)] + ["a39"]}


def answers(path, form, raters=3):
    """Rater r of pair i prefers system a unless (i + r) is a multiple of four."""
    with form.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["InstanceNum", "Order", "Choice", "Explanation"])
        for row in rows:
            for r in range(raters):
                wanted = "b" if (int(row["InstanceNum"]) + r) % 4 == 0 else "a"
                place = row["Order"].split(",").index(wanted) + 1
                writer.writerow([row["InstanceNum"], row["Order"], place, "it fits"])
    return rows


def test_round_trip(tmp_path):
    """RankGen checklist 15: export, choice and explanation, majority vote and agreement."""
    form, path = tmp_path / "form.csv", tmp_path / "answers.csv"
    assert write_form(form, PREFIXES, SYSTEMS) == 39  # one pair is of equal texts
    rows = answers(path, form)
    assert {row["Order"] for row in rows} == {"a,b", "b,a"}
    for row in rows:
        texts = [row["First"], row["Second"]]
        assert [t[0] for t in texts] == row["Order"].split(",")
    found = read_answers(path)
    assert found[0].explanation == "it fits"
    assert set(majority(found).values()) == {"a"}
    metrics = preference_metrics(found, "a")
    assert metrics["majority_share"] == 1.0
    assert metrics["vote_share"] == pytest.approx(sum(x.chosen == "a" for x in found) / len(found))
    assert metrics["vote_share"] < 1.0
    assert preference_metrics(found, "b")["majority_share"] == 0.0


def test_release_format(tmp_path):
    """The crowd-sourcing export of the release: the free text begins with the choice."""
    path = tmp_path / "released.csv"
    rows = [["HITId", "Input.Order", "Answer.utterance"],
            ["h1", "beam,nucleus", "Text 2 - it goes on."], ["h1", "beam,nucleus", '"Text 2. Better"'],
            ["h1", "beam,nucleus", "1 - reads well"], ["h2", "nucleus,beam", "text 2; yes"]]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    found = read_answers(path)
    assert [a.chosen for a in found] == ["nucleus", "nucleus", "beam", "beam"]
    assert majority(found) == {"h1": "nucleus", "h2": "beam"}


def test_ties_count_half(tmp_path):
    form, path = tmp_path / "form.csv", tmp_path / "answers.csv"
    write_form(form, ["p"], {"a": ["x"], "b": ["y"]})
    with path.open("w", encoding="utf-8") as file:
        file.write('InstanceNum,Order,Choice\n0,"a,b",1\n0,"a,b",2\n')
    found = read_answers(path)
    assert majority(found) == {"0": None}
    assert preference_metrics(found, "a")["majority_share"] == 0.5


def test_fleiss_kappa_by_hand():
    """Two instances agree, one is split 2:1: P = 7/9, chance = (5/9)^2 + (4/9)^2."""
    chance = 25 / 81 + 16 / 81
    wanted = (7 / 9 - chance) / (1 - chance)
    assert fleiss_kappa([[3, 0], [0, 3], [2, 1]]) == pytest.approx(wanted)
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))
    assert math.isnan(fleiss_kappa([[1, 0]]))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="two systems"):
        write_form(tmp_path / "x.csv", ["p"], {"a": ["x"]})
    path = tmp_path / "answers.csv"
    path.write_text('InstanceNum,Order,Choice\n0,"a,b",perhaps\n')
    with pytest.raises(UserError, match="row 2: no choice"):
        read_answers(path)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="needs the columns InstanceNum"):
        read_answers(path)
    path.write_text('InstanceNum,Order,Choice\n0,"a,b",1\n')
    with pytest.raises(UserError, match="no answer is about 'c'"):
        preference_metrics(read_answers(path), "c")
