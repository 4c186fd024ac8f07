"""Graded triplets: parser, reversal, filter, CSV files, join by content."""

import pytest

from common.config import UserError
from projects.multicsr.graded_triplets import (
    PRESETS,
    GradedTriplet,
    TripletFilter,
    curate,
    parse_grade,
    preset,
    read_triplets,
    unreversed,
    with_scores,
    write_triplets,
)


def graded(a, b):
    return GradedTriplet("p", "q", "r", a, b)


@pytest.mark.parametrize("answer", ["0", "5", "0.0", "3.7", "5.9", " 4.2\n"])
def test_grades_that_are_read(answer):
    """Exactly d or d.d with a first digit of 0 to 5."""
    assert parse_grade(answer) == float(answer)


@pytest.mark.parametrize(
    "answer",
    ["", "6", "6.0", "-1", "3.", ".5", "3.75", "10", "3,5", "3 of 5", "score: 3", "3.5.", "٣"],
)
def test_answers_that_are_no_grade(answer):
    assert parse_grade(answer) is None


@pytest.mark.parametrize(
    ("a", "b", "kept"),
    [
        (3, 2, True),
        (3, 2.1, False),
        (2.9, 0, False),
        (4, 3, True),
        (5, 3.1, False),
        (3.3, 2.3, True),
        (4, 3.5, False),
        (4.4, 3.0, True),
    ],
)
def test_all_three_inequalities_and_equality_is_kept(a, b, kept):
    """a >= 3, b <= 3 and a >= b + 1."""
    assert TripletFilter().keeps(graded(a, b)) == kept
    assert (TripletFilter().slack(graded(a, b)) >= 0) == kept


def test_the_released_gap_asks_for_a_difference_alone():
    released = TripletFilter(gap_mode="official_neq")
    assert released.keeps(graded(3, 2.9))
    assert not released.keeps(graded(3, 3))
    assert TripletFilter(gamma=0).keeps(graded(3, 3))
    with pytest.raises(ValueError, match="without scores"):
        released.slack(graded(None, 1))


def test_presets_of_the_released_script():
    assert sorted(PRESETS) == list(range(2, 19))
    assert preset(15) == TripletFilter(3, 3, 1)
    assert preset(2) == TripletFilter(4, 3, 0)
    assert preset(18, 0.5) == TripletFilter(2, 2, 0.5)


def test_reversed_triplets_are_swapped_before_the_filter():
    assert unreversed(graded(1, 4)) == GradedTriplet("p", "r", "q", 4, 1)
    assert unreversed(graded(4, 4)) == graded(4, 4)
    rows = [graded(1, 4), graded(4, 1), graded(None, 4), graded(2, 2)]
    actual = curate(rows, TripletFilter().keeps)
    assert actual.kept == [GradedTriplet("p", "r", "q", 4, 1), graded(4, 1)]
    assert (actual.places, actual.swapped, actual.unscored) == ([0, 1], [0], 1)
    assert actual.metrics() == pytest.approx(
        {
            "kept_share": 0.5,
            "swap_rate": 1 / 3,
            "parse_failure_rate": 0.25,
            "mean_positive_score": 10 / 3,
            "mean_negative_score": 4 / 3,
        }
    )
    assert curate([graded(None, None)], TripletFilter().keeps).metrics()["parse_failure_rate"] == 1


def test_files_come_back_as_they_were(tmp_path):
    rows = [GradedTriplet('a "quoted", text', "b\twith tab", "c", 4.5, None), graded(1.0, 2.0)]
    write_triplets(tmp_path / "x/scored.csv", rows, scores=True)
    assert read_triplets(tmp_path / "x/scored.csv") == rows
    write_triplets(tmp_path / "plain.csv", rows, scores=False)
    assert read_triplets(tmp_path / "plain.csv") == [
        row._replace(positive_score=None, negative_score=None) for row in rows
    ]
    assert (tmp_path / "plain.csv").read_text().startswith("sent0,sent1,hard_neg\n")


def test_texts_with_carriage_returns_come_back_whole(tmp_path):
    """Rows were cut at them; those of other texts keep their bytes."""
    rows = [
        GradedTriplet("A man.\rHe eats", "pos, one", "neg", 4.0, None),
        GradedTriplet("a", "b", "c\rd"),
        GradedTriplet("e\r\nf", "g", "h"),
        graded(1.0, 2.0),
    ]
    for scores in (True, False):
        write_triplets(tmp_path / "x.csv", rows, scores=scores)
        actual = read_triplets(tmp_path / "x.csv")
        assert actual == rows if scores else [r.texts for r in actual] == [r.texts for r in rows]
    assert (tmp_path / "x.csv").read_bytes().endswith(b"\np,q,r\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sent0,sent1\na,b\n", "hard_neg"),
        ("sent0,sent1,hard_neg\n", "no rows"),
        ("sent0,sent1,hard_neg,positive_score\na,b,c,1\n", "both"),
        ("sent0,sent1,hard_neg,positive_score,negative_score\na,b,c,1,much\n", "line 2"),
        (
            "sent0,sent1,hard_neg,positive_score,negative_score\na,b,c,4,nan\n",
            "line 2: .* from 0 to 5.9",
        ),
        (
            "sent0,sent1,hard_neg,positive_score,negative_score\na,b,c,80,20\n",
            "line 2: .* from 0 to 5.9",
        ),
        ("sent0,sent1,hard_neg\na,b, \n", "no row with all"),
    ],
)
def test_files_of_another_shape_are_refused(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_triplets(path)


def test_rows_without_a_text_are_left_out_and_counted(tmp_path):
    """An empty hard negative is one text for all rows; short rows and unicode are read."""
    path = tmp_path / "x.csv"
    path.write_text("sent0,sent1,hard_neg\na,b,c\n\na,,c\na,b\n\u00e9,\u732b,d\n", "utf-8")
    with pytest.warns(UserWarning, match="2 of 4 rows lack a text"):
        actual = read_triplets(path)
    assert [row.texts for row in actual] == [("a", "b", "c"), ("\u00e9", "\u732b", "d")]


def test_scores_are_joined_by_content():
    plain = [GradedTriplet("a", "b", "c"), GradedTriplet("a", "c", "b")]
    scored = [
        plain[1]._replace(positive_score=1.0, negative_score=2.0),
        plain[0]._replace(positive_score=3.0),
    ]
    assert with_scores(plain, scored, "x") == scored[::-1]
    with pytest.raises(UserError, match=r"x has no score of 'a'"):
        with_scores(plain, scored[:1], "x")
