"""Blind A/B forms, answers, majority and agreement."""

import csv
import math

import pytest

from common.config import UserError
from common.evaluation.generation.preference import KEY, fleiss_kappa, write_form
from projects.rankgen.preference import majority, preference_metrics, read_answers

PREFIXES = [f"prefix {i}" for i in range(40)]
SYSTEMS = {"a": [f"a{i}" for i in range(40)], "b": [f"b{i}" for i in range(39)] + ["a39"]}


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def answers(path, form, raters=3):
    """Rater r of pair i prefers system a unless (i + r) is a multiple of four."""
    rows = read(form)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["InstanceNum", "Choice", "Explanation"])
        for i, row in enumerate(rows):
            for r in range(raters):
                expected = "b" if (i + r) % 4 == 0 else "a"
                place = 1 if row["First"][0] == expected else 2
                writer.writerow([row["InstanceNum"], place, "it fits"])
    return rows


def test_round_trip(tmp_path):
    """RankGen checklist 15: export, choice and explanation, majority vote and agreement."""
    form, path = tmp_path / "form.csv", tmp_path / "answers.csv"
    assert write_form(form, PREFIXES, SYSTEMS) == 39  # one pair is of equal texts
    rows = answers(path, form)
    orders = {row["InstanceNum"]: row["Order"] for row in read(tmp_path / KEY)}
    assert set(orders.values()) == {"a,b", "b,a"}
    for row in rows:
        texts = [row["First"], row["Second"]]
        assert [t[0] for t in texts] == orders[row["InstanceNum"]].split(",")
    actual = read_answers(path)
    assert actual[0].explanation == "it fits"
    assert set(majority(actual).values()) == {"a"}
    metrics = preference_metrics(actual, "a")
    assert metrics["majority_share"] == 1.0
    assert metrics["vote_share"] == pytest.approx(
        sum(x.chosen == "a" for x in actual) / len(actual)
    )
    assert metrics["vote_share"] < 1.0
    assert preference_metrics(actual, "b")["majority_share"] == 0.0


def test_the_form_is_blind_and_asks_for_what_is_read(tmp_path):
    """Guards against a form that names the systems, or lacks the columns of the answers."""
    systems = {"nucleus": ["one", "two"], "rerank": ["three", "four"]}
    write_form(tmp_path / "form.csv", ["p", "q"], systems)
    text = (tmp_path / "form.csv").read_text()
    assert "nucleus" not in text
    assert "rerank" not in text
    rows = read(tmp_path / "form.csv")
    assert all((row["Choice"], row["Explanation"]) == ("", "") for row in rows)
    shown = {(row["First"], row["Second"]) for row in rows}
    assert {frozenset(pair) for pair in shown} == {
        frozenset(p) for p in zip(*systems.values(), strict=True)
    }


def test_answers_are_never_read_with_another_form_s_key(tmp_path):
    """Guards against a second form that takes the place of a filled one, or of its key."""
    form = tmp_path / "form.csv"
    write_form(form, ["p"], {"a": ["a1"], "b": ["b1"]})
    filled = form.read_text().replace(",,", ",1,")
    form.write_text(filled)
    write_form(form, ["p"], {"a": ["a1"], "b": ["b1"]})
    assert form.read_text() == filled  # the same form
    (mine,) = read_answers(form)
    write_form(form, ["p"], {"c": ["a1"], "d": ["b1"]})
    (aside,) = tmp_path.glob("form-*.csv")
    assert aside.read_text() == filled
    assert read_answers(aside) == [mine]
    other = tmp_path / "other/ab.csv"
    write_form(other, ["p"], {"a": ["x"], "b": ["y"]})
    with pytest.raises(UserError, match="has no instance"):
        read_answers(aside, other.with_name(KEY))
    aside.rename(tmp_path / "other/moved.csv")
    (tmp_path / "other" / KEY).unlink()
    with pytest.raises(UserError, match=r"ab_key\.csv is missing"):
        read_answers(tmp_path / "other/moved.csv")


def test_release_format(tmp_path):
    """The crowd-sourcing export of the release: the free text begins with the choice."""
    path = tmp_path / "released.csv"
    rows = [
        ["HITId", "Input.Order", "Answer.utterance"],
        ["h1", "beam,nucleus", "Text 2 - it goes on."],
        ["h1", "beam,nucleus", '"Text 2. Better"'],
        ["h1", "beam,nucleus", "1 - reads well"],
        ["h2", "nucleus,beam", "text 2; yes"],
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    actual = read_answers(path)
    assert [a.chosen for a in actual] == ["nucleus", "nucleus", "beam", "beam"]
    assert majority(actual) == {"h1": "nucleus", "h2": "beam"}


def test_ties_count_half(tmp_path):
    form, path = tmp_path / "form.csv", tmp_path / "answers.csv"
    write_form(form, ["p"], {"a": ["x"], "b": ["y"]})
    with path.open("w", encoding="utf-8") as file:
        file.write('InstanceNum,Order,Choice\n0,"a,b",1\n0,"a,b",2\n')
    actual = read_answers(path)
    assert majority(actual) == {"0": None}
    assert preference_metrics(actual, "a")["majority_share"] == 0.5


def test_fleiss_kappa_by_hand():
    """Two instances agree, one is split 2:1: P = 7/9, chance = (5/9)^2 + (4/9)^2."""
    chance = 25 / 81 + 16 / 81
    expected = (7 / 9 - chance) / (1 - chance)
    assert fleiss_kappa([[3, 0], [0, 3], [2, 1]]) == pytest.approx(expected)
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
    with pytest.raises(UserError, match="needs the columns InstanceNum and Choice"):
        read_answers(path)
    path.write_text('InstanceNum,Order,Choice\n0,"a,b",1\n')
    with pytest.raises(UserError, match="no answer is about 'c'"):
        preference_metrics(read_answers(path), "c")
