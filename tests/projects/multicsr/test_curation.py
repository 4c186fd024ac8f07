"""Stage 2: judges, reversal, filter, files; the controls of the mini."""

import json

import pytest
import torch

from common.config import UserError
from common.data.row_map.options import RowMapConfig
from common.data.text.sets import load_nli_pairs, load_nli_triplets
from common.engine.comparison.spec import read_comparison
from common.engine.sweeps.schema import read_sweep
from common.engine.workspace import Workspace
from projects.multicsr import build, judges
from projects.multicsr.config import SpoilConfig, Stage2Config
from projects.multicsr.data import ERRORS, nli_rows, prepare, spoilt, triplet_rows
from projects.multicsr.evaluate import data_metrics
from projects.multicsr.graded_triplets import GradedTriplet, read_triplets, write_triplets
from projects.multicsr.judges import Spoilt, curated, expected_grades, lm_scored, rule_of
from projects.multicsr.stages import stages
from tests.projects.multicsr.conftest import TEXTS, answering, config

ROWS = [(f"premise {i}", f"entailed {i}", f"denied {i}", f"added {i}") for i in range(40)]
TRIPLETS = [GradedTriplet(f"a{i}", f"b{i}", f"c{i}") for i in range(5)]


def oracle(rows):
    """Triplets graded by the errors that were made in them."""
    grades = {
        "": (4.5, 1.0),
        "unrelated": (0.5, 1.0),
        "reversed": (1.0, 4.5),
        "drifted": (2.5, 1.0),
    }
    return [
        Spoilt(
            row.triplet._replace(
                positive_score=grades[row.error][0], negative_score=grades[row.error][1]
            ),
            row.error,
        )
        for row in rows
    ]


def test_the_default_rule_and_the_presets():
    """Checklist 6: alpha = beta = 3, gamma = 1; preset 15 is the same; type 1 takes own values."""
    assert rule_of(Stage2Config()) == rule_of(Stage2Config(preset=15))
    assert rule_of(Stage2Config(preset=9)).gamma == 0
    assert rule_of(Stage2Config(alpha=2.0, gap_mode="official_neq")).gap_mode == "official_neq"


def test_errors_are_made_in_exact_shares_and_are_what_they_say():
    rows = spoilt(ROWS, SpoilConfig(unrelated=0.2, reversed=0.25, drifted=0.1), 3)
    counts = {name: sum(row.error == name for row in rows) for name in ("", *ERRORS)}
    assert counts == {"": 18, "unrelated": 8, "reversed": 10, "drifted": 4}
    for (premise, positive, negative, neutral), (triplet, error) in zip(ROWS, rows, strict=True):
        assert triplet.sent0 == premise
        if error == "unrelated":
            assert triplet.sent1 != positive
            assert triplet.sent1.startswith("entailed")
        else:
            expected = {
                "": (positive, negative),
                "reversed": (negative, positive),
                "drifted": (neutral, negative),
            }
            assert triplet[1:3] == expected[error]
    assert rows != spoilt(ROWS, SpoilConfig(unrelated=0.2, reversed=0.25, drifted=0.1), 4)
    with pytest.raises(UserError, match="sum to more than 1"):
        config("data.spoil.unrelated=0.6", "data.spoil.reversed=0.6", name="mini")


def test_stage_2_mends_what_is_reversed_and_drops_the_rest():
    """Checklist 5: reversed triplets are put right before the filter; metrics by kind of error."""
    rows = oracle(spoilt(ROWS, SpoilConfig(unrelated=0.2, reversed=0.25, drifted=0.1), 0))
    actual = curated(config("stage2.enabled=true"), rows)
    assert len(actual.kept) == 28
    assert all(t.sent1.startswith("entailed") for t in actual.kept)
    metrics = data_metrics(prepared(actual, rows))
    assert metrics["kept_share"] == 0.7
    assert metrics["swap_rate"] == 18 / 40  # unrelated ones are exchanged too, and dropped
    assert metrics["filter_precision"] == metrics["filter_recall"] == 1
    assert {metrics[f"filter_recall_{name}"] for name in ERRORS} == {1}
    assert metrics["error_share_after"] == 0


def prepared(found, rows):
    from projects.multicsr.data import Prepared

    return Prepared(found.kept, rows, found)


@pytest.mark.parametrize("keep", ["random", "overlap", "oracle"])
def test_controls_keep_as_many_as_the_rule(keep):
    rows = oracle(spoilt(ROWS, SpoilConfig(unrelated=0.2, reversed=0.25), 0))
    actual = curated(config(f"stage2.keep={keep}"), rows)
    expected = 22 if keep == "oracle" else 32  # so many are without error
    assert len(actual.kept) == expected
    errors = [rows[i].error for i in actual.places]
    assert any(errors) == (keep != "oracle")
    assert actual.places == sorted(actual.places)
    if keep == "random":
        assert not actual.swapped
        assert curated(config("stage2.keep=random", "seed=7"), rows).places != actual.places


def test_reversed_triplets_count_whether_kept_or_not():
    """As with the rule: the second one is reversed by its words, and dropped."""
    rows = [
        GradedTriplet("a b c d", "a b c d", "x y", 4.5, 1.0),
        GradedTriplet("e f g h", "p q", "e f r s", 1.0, 0.5),
    ]
    actual = curated(config("stage2.keep=overlap"), [Spoilt(row, "") for row in rows])
    assert (actual.places, actual.swapped) == ([0], [1])


def test_scores_have_to_come_from_somewhere(tmp_path):
    """No model is asked that was not named, and stage 1 does not run before this is said."""
    write_triplets(tmp_path / "in.csv", TRIPLETS, scores=False)
    task = build(config(f"files.input={tmp_path / 'in.csv'}")).tasks["score"]
    with pytest.raises(UserError, match="asks a judge"):
        task(Workspace(tmp_path / "run", "multicsr", "smoke"))
    with pytest.raises(UserError, match="have no scores"):
        next(stages(config("data.generate=true")))


def test_a_cell_in_quotation_marks_may_hold_a_tab(tmp_path, capsys):
    """The names of a .tsv's columns were read without quotation marks: a row of too many cells, and
    no scores.
    """
    path, new = tmp_path / "in.tsv", tmp_path / "new.csv"
    path.write_text('sent0\tsent1\thard_neg\tid\n"a\tb c"\td\te\t7\n')
    words = [f"files.input={path}", f"files.output={new}", "stage2.judge=overlap"]
    build(config(*words)).tasks["score"](Workspace(tmp_path / "run", "multicsr", "smoke"))
    assert read_triplets(new)[0].texts == ("a\tb c", "d", "e")
    assert "columns that are not written again: id" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["filter", "score"])
def test_grades_are_not_written_over(task, tmp_path, capsys):
    """TASK=filter with its input as output left the kept rows, and no grade of an LLM."""
    path, judge = tmp_path / "in.csv", ["stage2.judge=overlap"] if task == "score" else []
    text = (
        "sent0,sent1,hard_neg,positive_score,negative_score,id\na,b,c,4.0,1.0,7\nd,e,f,1.0,1.0,8\n"
    )
    for name in ("in.csv", "other.csv"):
        (tmp_path / name).write_text(text)
    for name, message in (
        ("in.csv", "over what is read"),
        ("x/../in.csv", "over what is read"),
        ("other.csv", "is there already"),
    ):
        words = [f"files.input={path}", f"files.output={tmp_path / name}", *judge]
        with pytest.raises(UserError, match=message):
            build(config(*words)).tasks[task](Workspace(tmp_path / "run", "multicsr", "smoke"))
    assert {(tmp_path / name).read_text() for name in ("in.csv", "other.csv")} == {text}
    words = [f"files.input={path}", f"files.output={tmp_path / 'new.csv'}", *judge]
    build(config(*words)).tasks[task](Workspace(tmp_path / "run", "multicsr", "smoke"))
    assert (tmp_path / "new.csv").is_file()
    assert "columns that are not written again: id" in capsys.readouterr().out


def test_nothing_left_is_said():
    with pytest.raises(UserError, match="lower stage2.alpha"):
        curated(config(), [Spoilt(t, "") for t in TRIPLETS])


def test_answers_without_a_score_are_counted(monkeypatch, tmp_path):
    """Checklist 4 and 13: rejected triplets are dropped and counted; the files have the headers."""
    answers = {
        "b0": "4.5",
        "c0": "1.0",
        "b1": "5",
        "c1": "0",
        "b2": "4.55",
        "c2": "1",
        "b3": "similar",
        "c3": "2",
        "b4": "4.0",
        "c4": "9",
    }

    def build_judge(cfg):
        return lambda pairs, seeds: [
            {"answer": answers[b], "grade": judges.parse_grade(answers[b])} for _, b in pairs
        ]

    monkeypatch.setattr(judges, "build_lm_judge", build_judge)
    write_triplets(tmp_path / "in.csv", TRIPLETS, scores=False)
    files = [f"files.input={tmp_path / 'in.csv'}", f"files.output={tmp_path / 'scored.csv'}"]
    task = build(config(*files, "stage2.judge=lm")).tasks["score"]
    task(Workspace(tmp_path / "run", "multicsr", "smoke"))
    lines = (tmp_path / "scored.csv").read_text().splitlines()
    assert lines[:2] == ["sent0,sent1,hard_neg,positive_score,negative_score", "a0,b0,c0,4.5,1.0"]
    assert lines[3] == "a2,b2,c2,,1.0"
    files = [f"files.input={tmp_path / 'scored.csv'}", f"files.output={tmp_path / 'kept.csv'}"]
    build(config(*files)).tasks["filter"](Workspace(tmp_path / "run", "multicsr", "smoke"))
    assert (tmp_path / "kept.csv").read_text() == "sent0,sent1,hard_neg\na0,b0,c0\na1,b1,c1\n"
    report = json.loads((tmp_path / "run" / "filter.json").read_text())
    assert report["parse_failure_rate"] == 3 / 5
    assert report["kept_share"] == 2 / 5


@pytest.mark.parametrize("kind", ["causal", "encoder-decoder"])
def test_scoring_by_a_local_model_goes_on_after_a_stop(model_folders, kind, tmp_path):
    """Checklist 13 and 15: any local model; index ranges are shared out and joined."""
    options = Stage2Config(judge="lm", score_model=model_folders[kind], batch_size=2)
    triplets = [GradedTriplet(text, text, TEXTS[0]) for text in TEXTS]
    part, none = lm_scored(options, triplets, tmp_path / "a", RowMapConfig("1/2", chunk_size=2))
    assert not part.complete
    assert none == []
    whole, scored = lm_scored(options, triplets, tmp_path / "a", RowMapConfig(chunk_size=2))
    assert whole.computed == 8 - part.computed
    assert [t.texts for t in scored] == [t.texts for t in triplets]
    with pytest.raises(UserError, match="another rows"):
        lm_scored(options, triplets[::-1], tmp_path / "a", RowMapConfig(chunk_size=2))


def test_the_expected_grade_is_the_mean_of_the_digits(model_folders, models, tmp_path):
    """Documented option for causal models; an encoder-decoder is refused."""
    grades = expected_grades(models["causal"], ["how near?", "and this?"], 4)
    assert all(0 <= grade <= 5 for grade in grades)
    assert grades[0] != grades[1]
    options = Stage2Config(score_model=model_folders["causal"], read="expectation", batch_size=4)
    _, (scored,) = lm_scored(options, [GradedTriplet(*TEXTS[:3])], tmp_path / "a")
    assert None not in scored
    options = Stage2Config(score_model=model_folders["encoder-decoder"], read="expectation")
    with pytest.raises(UserError, match="for causal models"):
        lm_scored(options, [GradedTriplet(*TEXTS[:3])], tmp_path / "b")


def test_a_digit_of_two_tokens_has_the_probability_of_both():
    """A mean over its tokens would flatten the six probabilities."""
    model = judges.load_model("bundled:stories260k")
    prompt = "Similarity:"
    ids = [model.token_ids(f"{prompt} {digit}", special=True) for digit in judges.DIGITS]
    start = len(model.token_ids(prompt, special=True))
    assert {len(row) - start for row in ids} == {2}
    p = []
    for row in ids:
        with torch.no_grad():
            log_p = model.model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
        p.append(sum(float(log_p[i - 1, row[i]]) for i in range(start, len(row))))
    expected = float(torch.tensor(p).softmax(0) @ torch.arange(6.0))
    assert expected_grades(model, [prompt], 3) == pytest.approx([expected], abs=1e-3)


def test_the_digit_follows_the_head_of_a_chat_turn_without_a_space(models, monkeypatch):
    asked = []
    model = models["causal"]
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    monkeypatch.setattr(
        model,
        "log_likelihood",
        lambda a, b, size, joint: asked.append(joint) or torch.zeros(len(a)),
    )
    expected_grades(model, ["how near?"], 4)
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ messages }}")
    expected_grades(model, ["how near?"], 4)
    assert asked == [" ", ""]


def test_a_grade_is_read_from_the_first_line_that_is_not_empty(models, monkeypatch):
    """Checklist 4: chat models open with line breaks, and explain themselves on the next line."""
    model = models["causal"]
    monkeypatch.setattr(judges, "load_model", lambda name: model)
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ messages[0].content }}")
    judge = judges.build_lm_judge(Stage2Config(judge="lm"))
    for answer, grade in (("\n\n4.5\nBoth rain.", 4.5), ("4.5 of 5", None), ("\n", None)):
        monkeypatch.setattr(model, "continuations", answering(answer))
        (row,) = judge([("it rains", "it is wet")], [])
        assert row["grade"] == grade


def test_thresholds_beside_a_preset_are_refused():
    assert rule_of(Stage2Config(preset=2, alpha=4.0, beta=3.0)).alpha == 4
    with pytest.raises(UserError, match=r"preset=9 has thresholds of its own \(5, 0\)"):
        rule_of(Stage2Config(preset=9, alpha=2.0))
    assert rule_of(Stage2Config(preset=13, gamma=0.5)).gamma == 0.5
    assert rule_of(Stage2Config(preset=9, gamma=0.0)).gamma == 0
    with pytest.raises(UserError, match="preset=9 asks for no gap"):
        rule_of(Stage2Config(preset=9, gamma=0.5))


def test_controls_that_would_not_act_are_refused(tmp_path):
    """An oracle without errors would be the random filter; TASK=filter knows the rule alone."""
    with pytest.raises(UserError, match="drops the errors that data.spoil makes"):
        prepare(config("stage2.keep=oracle"))
    with pytest.raises(UserError, match="asks for no gap"):  # before any grade is read
        prepare(config("stage2.preset=9", "stage2.gamma=0.5"))
    write_triplets(
        tmp_path / "in.csv",
        [t._replace(positive_score=4.0, negative_score=1.0) for t in TRIPLETS],
        scores=True,
    )
    task = build(config(f"files.input={tmp_path / 'in.csv'}", "stage2.keep=random")).tasks["filter"]
    with pytest.raises(UserError, match="stage2.keep=random is a control"):
        task(Workspace(tmp_path / "run", "multicsr", "smoke"))


def test_a_seed_of_the_comparison_draws_triplets_that_all_its_arms_share():
    """Seeds differ in what they train on, arms of a seed in errors and filter alone."""
    spec = read_comparison("multicsr")

    def premises(arm, seed):
        words = [f"{key}={json.dumps(value)}" for key, value in spec.arms[arm].items()]
        return [row.triplet.sent0 for row in nli_rows(config(*words, f"seed={seed}", name="mini"))]

    first = premises("no_filter", 3)
    assert len(first) == 3453
    assert all(premises(arm, 3) == first for arm in spec.default_arms)
    assert premises("no_filter", 4) != first
    sweep = read_sweep("multicsr")
    assert not any(key.startswith("data") for key in sweep.shared)  # as many in the search


def test_corpora_made_elsewhere_enter_at_stage_2(tmp_path):
    """Checklist 16: a CSV of another origin, scores joined by content in any order."""
    write_triplets(tmp_path / "own.csv", TRIPLETS, scores=False)
    words = [
        "data.source=file",
        f"data.file={tmp_path / 'own.csv'}",
        "data.batch_size=2",
        "data.limit=null",
    ]
    assert len(prepare(config(*words, "stage2.enabled=false")).triplets) == 5
    with pytest.raises(UserError, match="stage 2 needs scores"):
        prepare(config(*words))
    graded = [
        t._replace(positive_score=4.0, negative_score=float(i)) for i, t in enumerate(TRIPLETS)
    ]
    write_triplets(tmp_path / "scored.csv", graded[::-1], scores=True)
    actual = prepare(config(*words, f"stage2.scores={tmp_path / 'scored.csv'}"))
    assert [t.sent0 for t in actual.triplets] == ["a0", "a1", "a2", "a3"]
    write_triplets(tmp_path / "scored.csv", graded[1:], scores=True)
    with pytest.raises(UserError, match="no score of 'a0'"):
        prepare(config(*words, f"stage2.scores={tmp_path / 'scored.csv'}"))
    with pytest.raises(UserError, match="no triplets"):
        triplet_rows(config("data.source=sentences"))


def test_the_word_judge_has_seen_no_label_of_the_premises_it_grades():
    """The mini's judge: two classifiers, each for the premises of the other."""
    labelled = [row for row in load_nli_pairs(None) if all(row)][:2500]
    judge = judges.WordJudge(labelled)
    rows = [row for row in load_nli_triplets(None, "test") if all(row)]
    graded = judges.grade_triplets([GradedTriplet(*row) for row in rows], judge)
    right = [t.positive_score > t.negative_score for t in graded]
    assert sum(right) / len(right) > 0.65
    assert all(0 <= t.positive_score <= 5 for t in graded)
    lengths = []

    class Seen:
        def __init__(self, own):
            lengths.append({judges._side(row[0]) for row in own})

        def __call__(self, pairs):
            lengths.append({judges._side(pair[0]) for pair in pairs})
            return [0.0] * len(pairs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges, "WordJudge", Seen)
        judges.word_grades(None)([("one", "x"), ("two", "x"), ("three", "x"), ("four", "x")])
    trained, asked = lengths[:2], lengths[2:]
    assert all(a != b for a, b in zip(trained, asked, strict=True))


def test_controls_report_no_means_of_grades_that_they_do_not_have():
    rows = oracle(spoilt(ROWS, SpoilConfig(unrelated=0.2, reversed=0.25), 0))
    actual = curated(config("stage2.keep=random"), rows).metrics()
    assert set(actual) == {"kept_share", "swap_rate", "parse_failure_rate"}
