"""Poolers, parts, errors and stages: what the config and the module give them."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from common.engine.workspace import Workspace
from projects.multicsr import data, evaluate, stages, tasks
from projects.multicsr import module as method
from projects.multicsr.config import SpoilConfig
from projects.multicsr.data import Prepared, grade, kept_folder, nli_rows, spoilt
from projects.multicsr.evaluate import data_metrics, held_back, kept_data_metrics, second_pooler
from projects.multicsr.graded_triplets import GradedTriplet, read_triplets
from projects.multicsr.judges import Spoilt
from tests.projects.multicsr.conftest import config, module

GUIDED = ("stage3.enabled=true",)


@contextmanager
def nothing(*_):
    """Stands in for an encoding."""
    yield


def test_items_are_the_trained_student_s(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "evaluate_sentences", lambda *_: {})
    monkeypatch.setattr(evaluate, "encoding", nothing)
    monkeypatch.setattr(evaluate, "untrained_encoder", lambda *_: None)
    monkeypatch.setattr(evaluate, "second_pooler", lambda *_: {})
    monkeypatch.setattr(evaluate, "kept_data_metrics", lambda cfg: {})
    monkeypatch.setattr(evaluate, "further_metrics", lambda cfg, e, kept: asked.append(kept) or {})
    student = SimpleNamespace(encoder=None, masked=torch.tensor([4.0, 2.0, 1.0]))
    metrics = evaluate.evaluate(config("eval.untrained=true"), student, "workspace")
    assert asked == ["workspace", None]
    assert metrics == {"masked_share": 0.5, "masked_own_negative_share": 0.25}


def test_the_second_pooler_is_the_trained_one_and_is_put_back(monkeypatch):
    tower = SimpleNamespace(cls_head="head", mlp_only_train=True)
    seen = []
    monkeypatch.setattr(evaluate, "sts_set", lambda *_: None)
    monkeypatch.setattr(evaluate, "encoding", nothing)
    monkeypatch.setattr(
        evaluate,
        "evaluate_sts",
        lambda _, sets: (seen.append((tower.mlp_only_train, *sets)) or {"x": 1.0}, {}),
    )
    student = SimpleNamespace(encoder=SimpleNamespace(tower=tower))
    assert second_pooler(config("eval.sets=[stsb-test,sts12]"), student) == {"mlp_x": 1.0}
    assert (seen, tower.mlp_only_train) == ([(False, "stsb-test", "sts12")], True)


def test_held_back_triplets_are_of_the_test_part_and_whole(monkeypatch):
    asked = []
    rows = [("p", "e", "c"), ("p", "", "c")]
    monkeypatch.setattr(
        evaluate, "load_nli_triplets", lambda root, part: asked.append((root, part)) or rows
    )
    assert held_back(config("data.root=elsewhere")) == [["p"], ["e"], ["c"]]
    assert asked == [("elsewhere", "test")]


def test_both_sides_of_a_triplet_are_compared_with_the_premise(monkeypatch):
    vectors = {"p": [1.0, 0.0], "e": [0.8, 0.6], "c": [0.6, 0.8]}
    monkeypatch.setattr(evaluate, "held_back", lambda cfg: [["p"], ["e"], ["c"]])
    encode = lambda texts: torch.tensor([vectors[t] for t in texts])  # noqa: E731
    assert evaluate.triplet_hits(config(), encode) == [1.0]


def test_the_evaluation_reads_kept_rows_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "prepare", lambda cfg, kept=False: asked.append(kept))
    monkeypatch.setattr(evaluate, "data_metrics", lambda prepared: {})
    kept_data_metrics(config())
    assert asked == [True]


def test_only_kept_reversed_triplets_are_mended_and_exchanged_right_ones_are_errors():
    """Of five triplets 0 is mended, 1 dropped though exchanged, 2 exchanged though right."""
    errors = ["reversed", "reversed", "", "drifted", ""]
    rows = [Spoilt(GradedTriplet("p", "e", "c"), error) for error in errors]
    curated = SimpleNamespace(places=[0, 2, 3, 4], swapped=[0, 1, 2], metrics=dict)
    metrics = data_metrics(Prepared([], rows, curated))
    assert metrics["filter_recall"] == pytest.approx(2 / 3)
    assert metrics["filter_precision"] == 1
    assert metrics["error_share"] == pytest.approx(3 / 5)
    assert metrics["error_share_after"] == pytest.approx(2 / 4)
    assert metrics["triplets"] == 0  # those that are trained on, not all rows


def test_the_seed_draws_errors_and_rows(monkeypatch):
    asked = []
    names = ("premise", "entailment", "contradiction", "neutral")
    rows = [dict(zip(names, (f"p{i}", "e", "c", "n"), strict=True)) for i in range(9)]
    monkeypatch.setattr(data, "read_jsonl", lambda *_: rows)
    monkeypatch.setattr(data, "spoilt", lambda rows, spoil, seed: asked.append((seed, rows)) or [])
    for seed in (1, 2):
        nli_rows(config("data.source=nli", "data.limit=4", f"seed={seed}"))
    assert [seed for seed, _ in asked] == [1, 2]
    assert asked[0][1] != asked[1][1]


def test_rows_of_a_file_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(data, "read_triplets", lambda path: [*range(9)])
    monkeypatch.setattr(data, "text_path", lambda section: None)
    words = ["data.source=file", "data.file=x.csv", "data.limit=4"]
    first, second = (data.given(config(*words, f"seed={seed}")) for seed in (1, 2))
    assert first != second
    assert len(first) == len(second) == 4


def test_premises_are_the_first_column_of_the_rows_that_the_seed_draws(monkeypatch):
    rows = [(f"p{i}", f"e{i}", f"c{i}") for i in range(9)]
    monkeypatch.setattr(data, "load_text_rows", lambda path: rows)
    monkeypatch.setattr(data, "text_path", lambda section: None)
    words = ["data.source=file", "data.file=x.csv", "data.limit=4"]
    first, second = (data.given_premises(config(*words, f"seed={seed}")) for seed in (1, 2))
    assert first != second
    assert len(set(first)) == 4
    assert set(first) < {row[0] for row in rows}


def test_shares_of_errors_are_rounded():
    """0.29 * 100 is 28.999999999999996."""
    rows = spoilt([("p", "e", "c", "n")] * 100, SpoilConfig(reversed=0.29), 0)
    assert sum(row.error == "reversed" for row in rows) == 29


def test_triplets_are_written_with_the_seed_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "premises", lambda cfg: ["p"])
    monkeypatch.setattr(
        data.generation,
        "write_records",
        lambda options, texts, folder, seed=0: asked.append(seed) or SimpleNamespace(rows=list),
    )
    monkeypatch.setattr(data.generation, "written", lambda texts, rows: [])
    data.generated(config("data.generate=true", "seed=7"))
    assert set(asked) == {7}


def test_a_file_may_lack_some_of_its_scores():
    """An answer without a grade leaves its triplet out, not the whole file."""
    graded = GradedTriplet("p", "e", "c", 4.0, 1.0)
    triplets = [graded._replace(positive_score=None), graded]
    assert grade(config("stage2.judge=file"), triplets) == triplets


def test_grades_of_other_texts_for_the_same_premises_are_kept_apart(monkeypatch):
    folders = []
    monkeypatch.setattr(
        data.judges,
        "lm_scored",
        lambda options, triplets, folder: folders.append(folder) or (None, triplets),
    )
    for positive in ("e", "f"):
        grade(config("stage2.judge=lm"), [GradedTriplet("p", positive, "c")])
    assert len(set(folders)) == 2


def test_foreign_positives_are_of_other_premises_and_drifted_ones_neutral():
    rows = [("same", f"e{i}", "c", "n") for i in range(7)] + [("other", "other's", "c", "n")]
    shares = SpoilConfig(unrelated=0.5, drifted=0.25)
    for row in spoilt(rows, shares, 0):
        premise, positive, negative = row.triplet.texts
        if row.error == "unrelated" and premise == "same":
            assert positive == "other's"
        if row.error == "drifted":
            assert (positive, negative) == ("n", "c")


@pytest.mark.parametrize(("stage", "same"), [("stage1", False), ("stage2", True)])
def test_what_is_written_belongs_to_a_seed_and_grades_do_not(stage, same):
    folders = {kept_folder(config(f"seed={seed}"), stage, {}, ["a"]) for seed in (1, 2)}
    assert (len(folders) == 1) == same


def test_grades_come_from_the_judge_of_the_config(monkeypatch, tmp_path):
    monkeypatch.setattr(data.judges, "grade_triplets", lambda triplets, grades: grades)
    monkeypatch.setattr(data.judges, "word_grades", lambda root: "words")
    assert grade(config("stage2.enabled=true", "stage2.judge=words"), []) == "words"
    monkeypatch.setattr(data, "read_triplets", lambda path: "file")
    monkeypatch.setattr(data, "with_scores", lambda triplets, scored, path: scored)
    words = ["stage2.enabled=true", "stage2.judge=file", f"stage2.scores={tmp_path / 'x.csv'}"]
    assert grade(config(*words), []) == "file"


def test_views_are_cut_as_the_config_says(monkeypatch):
    asked = {}
    monkeypatch.setattr(data, "TextViews", lambda *_, **options: asked.update(options))
    rows = [GradedTriplet("p", "e", "c")] * 64
    data.views(config("data.max_length=9", "seed=4"), Prepared(rows, [], None), None)
    assert asked == {"max_length": 9, "seed": 4}


def test_without_stage_3_the_loss_is_masked_info_nce_whatever_its_variant(monkeypatch):
    asked = []
    monkeypatch.setattr(
        method, "Objective", lambda tau, variant, *_: asked.append(variant) or torch.nn.Identity()
    )
    for on in ("true", "false"):
        cfg = config(f"stage3.enabled={on}", "stage3.variant=official_bce")
        method.MultiCSR(cfg, torch.nn.Identity())
    assert asked == ["official_bce", "masked_infonce"]


def test_a_loss_of_local_negatives_is_asked_for_by_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(
        method,
        "Objective",
        lambda tau, variant, phi, gather, backend: asked.append(gather) or torch.nn.Identity(),
    )
    for gather in ("true", "false"):
        method.MultiCSR(config(f"method.gather={gather}"), torch.nn.Identity())
    assert asked == [True, False]


def test_the_mask_model_pools_as_its_own_section_says():
    assert module(*GUIDED, "stage3.pooling=avg").guide.tower.pooling == "avg"


def test_the_language_model_is_required_wherever_triplets_are_generated():
    """Without stage 1 it writes too: under the instruction alone."""
    words = ["stage1.enabled=false", "stage1.model=bundled:causal-lm"]
    names = [
        {need.name for need in stages.requirements(config(*words, f"data.generate={generate}"))}
        for generate in ("true", "false")
    ]
    assert names[0] - names[1] == {"weights: bundled:causal-lm"}


def test_tasks_take_seed_and_thresholds_from_the_config(monkeypatch, tmp_path):
    asked = []
    done = SimpleNamespace(complete=False, summary="half")
    monkeypatch.setattr(
        tasks.generation,
        "write_records",
        lambda options, texts, folder, seed, *_: asked.append(seed) or done,
    )
    workspace = Workspace(tmp_path, "multicsr", "smoke")
    monkeypatch.setattr(tasks.data, "given_premises", lambda cfg: ["p"])
    tasks.generate(config("seed=7"), workspace)
    assert asked == [7]
    rows = [Spoilt(GradedTriplet("p", f"e{a}", "c", a, 0.5), "") for a in (2.0, 4.0)]
    monkeypatch.setattr(tasks.data, "triplet_rows", lambda cfg: rows)
    path = tasks.filter_triplets(config("stage2.alpha=1.5"), workspace)
    assert [row.sent1 for row in read_triplets(path)] == ["e2.0", "e4.0"]


def views_of(student, rows=4):
    """A batch of three views."""
    ids = torch.randint(10, 200, (3 * rows, 6))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "ids": torch.arange(rows)}


def test_the_mask_model_has_no_dropout_and_only_training_is_counted():
    student = module(*GUIDED).train()
    assert student.training
    assert not student.guide.training
    batch = views_of(student)
    student.losses(batch)
    assert student.masked[0] == 1
    student.eval().losses(batch)
    assert student.masked[0] == 1


def test_the_cosine_of_negatives_is_with_the_anchor(monkeypatch):
    student = module()
    views = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]])
    monkeypatch.setattr(student, "views", lambda batch, count: views)
    out = SimpleNamespace(loss=torch.zeros(()), hits=torch.zeros(1))
    monkeypatch.setattr(student.objective, "forward", lambda *_: out)
    monkeypatch.setattr(student, "guides", lambda batch: None)
    terms = student.losses({})
    assert (terms["positive_cosine"], terms["negative_cosine"]) == (0, 1)
