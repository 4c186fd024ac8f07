"""What comes with the paragraphs, what selects by hand, and tasks that score as the run was
trained.
"""

import csv
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.engine.workspace import Workspace
from common.evaluation.generation.reference import rouge_f
from projects.wikides import build, evaluate, selectors, tasks
from projects.wikides.choice import write_choice_form
from projects.wikides.config import MethodConfig
from projects.wikides.data import Row, load_rows
from projects.wikides.evaluate import agreement, full_metrics, gains, gallery, given_rows
from projects.wikides.inference import rank
from tests.forked import forked
from tests.killed_tasks import until_file
from tests.projects.wikides.conftest import PARAGRAPH, ROWS, config, describer, ranker


def test_no_form_is_without_its_key(tmp_path):
    """A task that was killed between the two left a form whose choices nobody could attribute."""
    form, key = tmp_path / "form.csv", tmp_path / "key.jsonl"
    systems = {"a": ["one"], "b": ["two"]}
    write = partial(write_choice_form, form, key, ["source"], systems, 0)
    forked(until_file, write, 1).join()
    assert key.exists()
    assert not form.exists()
    write()
    assert form.exists()


def test_phase_1_s_text_and_the_baseline_are_rows_where_the_paragraphs_bring_them(tmp_path):
    """Sheet, data: the first instance name; the gain is over phase I's own text, which a pool
    doesn't tell.
    """
    cfg = config(
        "data.eval_limit=3",
        "eval.untrained=false",
        "generator.max_new_tokens=3",
        name="smoke_describe",
    )
    rows = load_rows(cfg, "test")
    assert set(given_rows(config("eval.full=false"), ROWS)) == {
        *(f"reference_source_rouge_{n}" for n in "12l"),
        "reference_words",
    }
    some = [rows[0], rows[1]._replace(phase1=None)]  # as long as one is not known there is no row
    actual = given_rows(cfg, some)
    assert "baseline_gold_rouge_1" in actual
    assert not any(name.startswith("phase1") for name in actual)
    assert gains({**actual, "source_rouge_1": 0.5}) == {}
    metrics = {f"{f}_rouge_{n}": 0.75 for f in ("gold", "source") for n in "12l"}
    metrics |= {"phase1_source_rouge_1": 0.5}
    assert gains(metrics) == {"gain_source_rouge_1": 0.25}
    # phase I reports both too
    actual = build(cfg).evaluate(
        describer("generator.max_new_tokens=3").eval(), Workspace(tmp_path)
    )
    own = [rouge_f(str(row.baseline), row.target) for row in rows]
    assert actual["baseline_gold_rouge_1"] == pytest.approx(sum(own) / len(own))
    assert {"baseline_gold_meteor", "reference_source_bleu_unsmoothed"} <= actual.keys()


def test_the_best_checkpoint_is_that_of_the_lowest_or_highest_value():
    """Finding: what is watched, and whether less or more of it is better."""
    expected = {
        ("smoke", "eval.monitor=source"): ("val/selection_loss", "min"),
        ("smoke", "eval.monitor=gold"): ("val/gold_rouge", "max"),
        ("smoke_describe", "seed=1"): ("val/token_loss", "min"),
    }
    for (name, word), own in expected.items():
        stage = next(build(config(word, name=name)).stages())
        assert (stage.monitor, stage.monitor_mode) == own


def test_bert_score_is_a_mean_over_rows_and_a_gallery_has_at_most_twelve(monkeypatch):
    """Precision, recall and F in this order, of each family's references."""
    asked = []

    def score(texts, references):
        asked.append(list(references))
        return [(0.1, 0.3, 0.2), (0.3, 0.7, 0.4)]

    monkeypatch.setattr(evaluate, "_bert_score", lambda pretrained, layer: score)
    rows = [Row("north lake", "lake", ("lake", "north")), Row("a river", "river", ("river", "a"))]
    found = full_metrics(config("eval.bert_score=any"), rows, ["lake", "a"])
    assert asked == [[r.target for r in rows], [r.source for r in rows]]
    for family in ("gold", "source"):
        names = ("bert_score_precision", "bert_score_recall", "bert_score")
        assert [found[f"{family}_{n}"] for n in names] == pytest.approx([0.2, 0.5, 0.3])
    scores = [torch.tensor([0.1, 0.9])] * 30
    many = [Row(f"text {i}", "river", ("river", "a")) for i in range(30)]
    for count, expected in ((30, range(0, 30, 3)), (13, range(0, 13, 2)), (5, range(5))):
        shown = gallery(many[:count], scores)
        assert [entry["query"] for entry in shown] == [f"text {i} [river]" for i in expected]
        assert [result["correct"] for result in shown[0]["results"]] == [False, True]


def test_agreement_and_selectors_by_hand():
    """Finding: the best candidate chosen, rank correlation, TF-IDF, the medoid, the first words."""
    rows = [
        Row("north town lake", "b c", ("b c", "b", "x")),
        Row("a river in south valley", "p", ("p q", "r", "x valley")),
    ]
    scores = [torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.3, 0.1, 0.2])]
    assert agreement(rows[:1], scores[:1]) == pytest.approx(
        {"best_chosen": 1, "rank_correlation": 1}
    )
    turned = agreement(rows[:1], [-scores[0]])
    assert turned == pytest.approx({"best_chosen": 0, "rank_correlation": -1})
    assert agreement(rows, [scores[0], -scores[1]])["best_chosen"] == 0.5
    assert agreement(rows[:1], [torch.zeros(3)]) == {"best_chosen": 1}
    given = Row("the castle of the lake lies north", "t", ("fort", "castle lake", "north fort"))
    assert selectors.tfidf([given, *rows])[0] == ["castle lake"]
    assert selectors.medoid([Row("s", "t", ("x y", "a b c", "a b", "a b d"))]) == [["a b"]]
    assert selectors.lead([rows[1], given]) == [
        ["a river in south valley"],
        ["the castle of the lake"],
    ]


def test_tasks_score_as_the_run_was_trained(tmp_path, monkeypatch):
    """Finding: a fused run ranks by fusion in every task; phase II of the form is the best
    candidate.
    """
    module = ranker("method.use_rouge=true").eval()
    monkeypatch.setattr(tasks, "trained_module", lambda *_: (module, None))
    given = tmp_path / "given.jsonl"
    write_jsonl(given, [{"source": r.source, "candidate": list(r.candidates)} for r in ROWS])
    out = tasks.rank(config(f"rank.input={given}"), Workspace(tmp_path / "r"), None)
    fusion = [
        rank(module.encoder, r.source, r.candidates, MethodConfig(use_rouge=True)) for r in ROWS
    ]
    plain = [rank(module.encoder, r.source, r.candidates) for r in ROWS]
    scores = [[round(score, 5) for _, score in own] for own in fusion]
    assert [row["scores"] for row in read_jsonl(out)] == scores
    assert [[round(score, 5) for _, score in own] for own in plain] != scores  # the twin
    assert "method.use_rouge=True" in (tmp_path / "r/notes.txt").read_text(encoding="utf-8")

    class Generator:
        context, model = 512, SimpleNamespace(config=SimpleNamespace())

        def beam_search(self, texts, *_, **__):
            assert self.context == 9  # as TASK=candidates cuts its paragraphs
            return ["old town" for _ in texts]

    monkeypatch.setattr(tasks.SequenceToSequence, "from_pretrained", lambda _: Generator())
    lines = tmp_path / "lines.txt"
    lines.write_text(f"{PARAGRAPH}\n", encoding="utf-8")
    words = [f"describe.input={lines}", "describe.generator=x", "describe.max_source=9"]
    out = tasks.describe(config(*words), Workspace(tmp_path / "d"), None)
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 du nord\n".encode("latin-1"))
    words[0] = f"describe.input={tmp_path}/latin.txt"
    with pytest.raises(UserError, match="not a text file in UTF-8"):  # once a traceback
        tasks.describe(config(*words), Workspace(tmp_path / "d"), None)
    expected = rank(module.encoder, PARAGRAPH, ["old town"], MethodConfig(use_rouge=True))
    assert read_jsonl(out)[0]["scores"] == [round(expected[0][1], 5)]
    # the form, with rows that tell phase I's text
    folder = tasks.form(config("form.items=6"), Workspace(tmp_path / "f"), None)
    lines = list(csv.DictReader((folder / "form.csv").open(encoding="utf-8", newline="")))
    key = {str(row["item"]): row["systems"] for row in read_jsonl(folder / "key.jsonl")}
    rows = load_rows(config(), "test")[:6]
    assert len(lines) == 6
    for line in lines:
        row, texts = rows[int(line["item"])], {}
        for letter, names in key[line["item"]].items():
            texts |= dict.fromkeys(names, line[letter])
        best = rank(module.encoder, row.source, row.candidates, MethodConfig(use_rouge=True))[0][0]
        assert texts == {"gold": row.target, "phase1": row.phase1, "phase2": best}
    # and without: the first candidate of a pool is not phase I's text
    rows = [r._replace(phase1=None) for r in ROWS[:2]]
    monkeypatch.setattr(tasks, "load_rows", lambda *_: rows)
    with pytest.raises(UserError, match=r"form\.input.*TASK=candidates"):
        tasks.form(config(), Workspace(tmp_path / "f"), None)
    asked = []
    monkeypatch.setattr(tasks, "classifier", lambda _: lambda own: asked.append(own) or ["+"] * 2)
    actual = tasks.sentiment(config(), Workspace(tmp_path / "s"), None)
    assert len(asked) == 3
    assert not any("phase1" in name for name in actual)


def test_a_text_that_some_rows_alone_have_is_refused(tmp_path, monkeypatch):
    """Checklist 14 and 15: a system is never left out of a form, nor of the table, without a
    word."""
    monkeypatch.setattr(tasks, "classifier", lambda _: lambda own: ["+"] * len(own))
    given, place = tmp_path / "texts.jsonl", Workspace(tmp_path / "w")
    whole = {"source": "s", "gold": "g", "phase1": "one", "phase2": "two"}
    less = {name: text for name, text in whole.items() if name != "phase1"}
    words = [f"form.input={given}", f"sentiment.input={given}"]
    write_jsonl(given, [whole, less])
    with pytest.raises(UserError, match=r"line 2.*phase1"):
        tasks.form(config(*words), place, None)
    with pytest.raises(UserError, match="line 2: phase1 is a text, and in all rows or in none"):
        tasks.sentiment(config(*words), place, None)
    write_jsonl(given, [less, less])
    with pytest.raises(UserError, match="phase1"):
        tasks.form(config(*words), place, None)
    assert tasks.sentiment(config(*words), place, None)["gold_agrees_phase2"] == 1
    # rows of the test part alike
    monkeypatch.setattr(tasks, "load_rows", lambda *_: [ROWS[0]._replace(phase1="x"), ROWS[1]])
    monkeypatch.setattr(tasks, "_ranked", lambda *_: [[("y", 1.0)]] * 2)
    with pytest.raises(UserError, match="line 2: phase1"):
        tasks.sentiment(config(), place, None)


def test_a_form_and_what_is_read_are_not_written_over(tmp_path, monkeypatch):
    """A second form took the first one's key: its answers were of other systems; rank wrote over
    its input.
    """
    given, place = tmp_path / "texts.jsonl", Workspace(tmp_path / "w")
    write_jsonl(given, [{"source": "s", "gold": "g", "phase1": "one", "phase2": "two"}])
    folder = tasks.form(config(f"form.input={given}"), place, None)
    before = (folder / "key.jsonl").read_bytes()
    write_jsonl(given, [{"source": "s", "gold": "two", "phase1": "g", "phase2": "one"}])
    with pytest.raises(UserError, match=r"form\.csv is there already"):
        tasks.form(config(f"form.input={given}"), place, None)
    assert (folder / "key.jsonl").read_bytes() == before
    text = given.read_text(encoding="utf-8")
    for task in ("rank", "describe"):
        for output, told in ((given, "written over"), (tmp_path, "is a folder")):
            words = [f"{task}.input={given}", f"{task}.output={output}", "describe.generator=x"]
            with pytest.raises(UserError, match=told):
                getattr(tasks, task)(config(*words), place, None)
    assert given.read_text(encoding="utf-8") == text
