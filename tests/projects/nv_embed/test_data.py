"""Mining, conversion of labelled and graded sets, mixtures, batches."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.mixture import TaskMixture
from common.data.retrieval.records import (
    EmbeddingRecord,
    EmbeddingTask,
    class_records,
    read_task,
    sts_records,
)
from common.data.retrieval.registry import known_set
from common.evaluation.retrieval.mining import select_negatives
from common.evaluation.search import SearchResult
from common.families.retrieval.config import TrainingSet
from common.families.retrieval.training_sets import (
    described,
    mined,
    read_set,
    stage_data,
    training_tasks,
)
from projects.nv_embed.stages import of_stage
from tests.projects.nv_embed.conftest import config, encoder
from tests.projects.nv_embed.workers import batches
from tests.unit.losses.golden import load

GOLDEN = load("nv_embed")
CANDIDATES = [0.95, 0.91, 0.88, 0.83, 0.8, 0.79, 0.6, 0.41, 0.4, 0.1]


@pytest.mark.parametrize("case", GOLDEN["outputs"]["topk_percpos"])
def test_golden_selection_of_negatives(case):
    """Checklist 7: nothing above margin x positive score survives; the first k of the rest."""
    scores = torch.tensor([CANDIDATES], dtype=torch.float64)
    found = SearchResult(scores, torch.arange(len(CANDIDATES))[None])
    limit = torch.tensor([case["pos_score"]], dtype=torch.float64)
    chosen = select_negatives(found, case["k"], limit, ratio=case["margin"])
    assert [i for i in chosen[0].tolist() if i >= 0] == case["selected_candidate_indices"]
    assert all(CANDIDATES[i] <= case["threshold"] for i in case["selected_candidate_indices"])
    assert select_negatives(found, case["k"])[0].tolist() == list(range(case["k"]))  # naive


def test_mined_set_never_has_positives_as_negatives():
    """Checklist 7: nor other positives of the query, its class, or the query itself."""
    rows = [("red fox runs", "a fox", "fox"), ("red fox sleeps", "the red fox", "fox"),
            ("blue fox whale", "a whale", "whale"), ("red whale", "the grey whale swims", "whale")]  # fmt: skip
    records = [EmbeddingRecord(q, (p,), (), label) for q, p, label in rows]
    task = EmbeddingTask("t", "retrieval", "find", records)
    options = ("data.mining.num_negatives=3", "data.mining.ratio=null")
    for record in mined(config(*options), task).records:
        right = {r.positives[0] for r in records if r.label == record.label}
        assert record.negatives
        assert not set(record.negatives) & right
    strict = mined(config("data.mining.num_negatives=3", "data.mining.ratio=0.01"), task)
    assert sum(len(r.negatives) for r in strict.records) < sum(
        len(r.negatives) for r in mined(config(*options), task).records
    )


def test_class_examples():
    """Checklist 8: the positive is another text of the class, negatives are of other classes."""
    texts = [f"text {i}" for i in range(30)]
    labels = [str(i % 3) for i in range(30)]
    of = dict(zip(texts, labels, strict=True))
    found = class_records(texts, labels, 4, seed=1)
    assert len(found) == 30
    for record in found:
        assert record.positives[0] != record.query
        assert of[record.positives[0]] == of[record.query] == record.label
        assert len(record.negatives) == 4
        assert all(of[text] != record.label for text in record.negatives)
    assert found == class_records(texts, labels, 4, seed=1)
    assert found != class_records(texts, labels, 4, seed=2)


def test_a_text_of_two_classes_is_not_its_own_negative():
    """Checklist 8: label noise; neither the query nor the positive is among the negatives."""
    texts, labels = ["both", "a", "both", "b", "c"], ["x", "x", "y", "y", "z"]
    for seed in range(20):
        for record in class_records(texts, labels, 6, seed=seed):
            assert not set(record.negatives) & {record.query, *record.positives}


def test_class_names_as_documents():
    """Checklist 8: two classes use the names of the classes; more do on request."""
    binary = class_records(
        ["good", "bad", "fine"], ["is_positive", "is_negative", "is_positive"], 2
    )
    assert binary[0].positives == ("is positive",)
    assert binary[0].negatives == ("is negative",)
    texts, labels = ["a", "b", "c"], ["x", "y", "z"]
    named = class_records(texts, labels, 2, positives="label", label_texts={"x": "the letter x"})
    assert named[0].positives == ("the letter x",)
    assert set(named[0].negatives) == {"y", "z"}
    assert not class_records(texts, labels, 2)  # a class of one text has no example
    with pytest.raises(UserError, match="two classes"):
        class_records(["a"], ["x"], 1)


def test_graded_pairs():
    """Checklist 9: pairs below 4 are dropped, both directions are there."""
    found = sts_records(["a", "c", "e"], ["b", "d", "f"], [4.0, 3.9, 5.0])
    assert {(r.query, r.positives[0]) for r in found} == {
        ("a", "b"),
        ("b", "a"),
        ("e", "f"),
        ("f", "e"),
    }


def test_documents_of_symmetric_sets_carry_the_instruction():
    """Checklist 9: those of retrieval sets do not."""
    cfg, model = config("data.mining.teacher=none"), encoder()
    tasks = training_tasks(cfg)
    data = stage_data(cfg, model, tasks).train_set
    told = {"retrieval": False, "sts": True, "classification": True}
    seen = set()
    for place in range(40):
        name = tasks[int(data.mixture.order(0)[place][0])].name
        batch = data[[(place, 0)]]
        assert int((batch["query"]["pool_mask"] < batch["query"]["attention_mask"]).sum()) > 3
        masked = batch["document"]["pool_mask"] < batch["document"]["attention_mask"]
        assert bool(masked.any(1).all()) == bool(masked.any()) == told[name]
        seen.add(name)
    assert seen == set(told)


def test_mixture_is_blended_and_follows_the_config():
    """Checklist 12: exact proportions, several sets in a batch; sets are gone through evenly."""
    mixture = TaskMixture([10, 50, 7], [20, 40, 4], 0, 8)
    order = mixture.order(0)
    assert Counter(order[:, 0].tolist()) == {0: 20, 1: 40, 2: 4}
    sets = [len(set(order[i : i + 8, 0].tolist())) for i in range(0, 64, 8)]
    assert np.mean(sets) > 1.5
    assert set(Counter(order[order[:, 0] == 0, 1].tolist()).values()) == {2}
    both = np.concatenate([mixture.order(e) for e in range(2)])
    small = both[both[:, 0] == 2, 1].tolist()
    assert len(set(small[:7])) <= 7
    assert max(Counter(small).values()) - min(Counter(small).values()) <= 1
    assert not np.array_equal(order, mixture.order(1))
    assert np.array_equal(order, TaskMixture([10, 50, 7], [20, 40, 4], 0, 8).order(0))


def test_proportions_are_those_of_the_config(tmp_path):
    """Checklist 12: `data.sets.<name>.samples` is the set's share of an epoch."""
    row = {"instruction": "x", "pos": ["p"], "neg": ["n", "m"], "symmetric": False}
    sets = []
    for name, samples in (("one", 3), ("two", 9)):
        rows = [{**row, "task": name, "query": f"{name} {i}"} for i in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        sets.append(
            f"{name}: {{path: {tmp_path}/{name}.jsonl, kind: retrieval, layout: records, "
            f"instruction: find, samples: {samples}}}"
        )
    cfg = config("data.source=sets", "eval.tasks=[]", "eval.primary=[]",
                 "data.mining.teacher=none", f"data.sets={{{', '.join(sets)}}}")  # fmt: skip
    data = stage_data(cfg, encoder(), training_tasks(cfg)).train_set
    for epoch in range(2):
        assert Counter(data.mixture.order(epoch)[:, 0].tolist()) == {0: 3, 1: 9}


def test_homogeneous_batches_hold_one_set():
    """Checklist 12, the other choice; its share is cut to whole batches."""
    mixture = TaskMixture([10, 50], [20, 42], 0, 8, homogeneous=True)
    order = mixture.order(3)
    assert len(mixture) == 16 + 40
    assert all(len(set(order[i : i + 8, 0].tolist())) == 1 for i in range(0, len(order), 8))
    assert len({int(order[i, 0]) for i in range(0, len(order), 8)}) == 2
    with pytest.raises(UserError, match="homogeneous"):
        TaskMixture([10], [5], 0, 8, homogeneous=True)
    cfg = config("data.batches=homogeneous")
    data = stage_data(cfg, encoder(), training_tasks(cfg))
    assert all(len(set(b["task"].tolist())) == 1 for b in batches(data, 0, 1, 8, 6))


def test_batches_do_not_depend_on_ranks():
    cfg, model = config(), encoder()
    data = stage_data(cfg, model, training_tasks(cfg))
    whole = batches(data, 0, 1, 8, 4)
    halves = [batches(data, rank, 2, 8, 4) for rank in range(2)]
    for one, *parts in zip(whole, *halves, strict=True):
        assert one["ids"].tolist() == [i for part in parts for i in part["ids"].tolist()]
        rows = [
            row[mask.bool()].tolist()
            for part in parts
            for row, mask in zip(
                part["query"]["input_ids"], part["query"]["attention_mask"], strict=True
            )
        ]
        wanted = zip(one["query"]["input_ids"], one["query"]["attention_mask"], strict=True)
        assert rows == [row[mask.bool()].tolist() for row, mask in wanted]
        assert one["document"]["input_ids"].shape[0] == 8 * 3


def test_a_record_with_few_negatives_is_filled_up():
    """Fillers are never right for the query: not its positives, not of its class."""
    cfg = config("data.mining.teacher=none")
    tasks = training_tasks(cfg)
    data = stage_data(cfg, encoder(), tasks).train_set
    for place in range(len(data) // 2):
        _, record, positive, wrong = data.example(place, 0)
        assert positive in record.positives
        assert len(wrong) == 2
        assert not set(wrong) & {record.query, *record.positives}
        assert data.example(place, 0)[2:] == (positive, wrong)
    few = EmbeddingTask("few", "retrieval", "find", [EmbeddingRecord("q", ("p",))])
    with pytest.raises(UserError, match=r"no further document"):
        stage_data(cfg, encoder(), [few]).train_set.example(0, 0)


def test_sets_of_a_config(tmp_path):
    """Registry entries, own sets, files of the unified form, and what is said when one is missing."""
    path = tmp_path / "own.jsonl"
    row = {
        "task": "own",
        "instruction": "x",
        "query": "q",
        "pos": ["p"],
        "neg": [],
        "symmetric": False,
    }
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "query": "r"}) + "\n")
    own = f"{{path: {path}, kind: retrieval, layout: records, instruction: find, samples: 2}}"
    base = ("data.source=sets", "eval.tasks=[]", "eval.primary=[]", "data.mining.teacher=none")
    (task,) = training_tasks(config(*base, f"data.sets={{own: {own}}}"))
    assert (task.name, task.instruction, len(task.records)) == ("own", "find", 2)
    assert read_task(path).records[0].positives == ("p",)
    assert described("msmarco", TrainingSet()) == known_set("msmarco")
    assert described("msmarco", TrainingSet(instruction="y", symmetric=True)).symmetric
    for sets, message in [
        ("{msmarko: {}}", "did you mean 'msmarco'"),
        ("{msmarco: {}}", "is not bundled"),
        ("{msmarco: {path: nowhere}}", "does not exist. Expected layout 'beir'"),
        ("{stsb: {}}", "no retrieval set"),
    ]:
        cfg = config(*base, f"data.sets={sets}")
        with pytest.raises(UserError, match=message):
            of_stage(training_tasks(cfg), retrieval_only=True)


def test_bundled_sets():
    """Every set of the mini config is there, with negatives where its kind has them."""
    sets = "{wikides: {limit: 30}, nli: {limit: 30}, snips: {limit: 30}, banking77: {limit: 30}, stsb: {limit: 30}}"
    cfg = config(f"data.sets={sets}", "data.mining.teacher=bm25", name="mini")
    tasks = {task.name: task for task in training_tasks(cfg)}
    assert [t.kind for t in tasks.values()] == [
        "retrieval",
        "retrieval",
        *["classification"] * 2,
        "sts",
    ]
    assert all(len(task.records) == 30 for task in tasks.values())
    assert all(r.negatives for name in ("nli", "snips", "banking77") for r in tasks[name].records)
    assert sum(bool(r.negatives) for r in tasks["wikides"].records) > 20
    assert tasks["snips"].symmetric
    labels = config("data.class_positives=label", name="mini")
    named = read_set(labels, "snips", TrainingSet(limit=30))
    assert not named.symmetric
    assert named.records[0].positives[0] == named.records[0].label.replace("_", " ")


def test_the_mini_has_as_many_own_class_negatives_as_the_paper_s_batches():
    """The harm that stage 2 avoids: in-batch positives of the query's own class, for each query.

    Expected number with classes of equal size; the counts of classes of the paper's sets are theirs.
    """
    classes = {"amazon_reviews": 5, "amazon_counterfactual": 2, "amazon_polarity": 2,
               "banking77": 77, "emotion": 6, "imdb": 2, "mtop_domain": 11, "mtop_intent": 113,
               "toxic_conversations": 2, "tweet_sentiment": 3, "massive_scenario": 18,
               "massive_intent": 60, "arxiv": 180, "biorxiv": 26, "medrxiv": 51,
               "twentynewsgroups": 20, "reddit": 50, "stackexchange_titles": 121}  # fmt: skip

    def expected(cfg, classes):
        counts = {name: options.samples for name, options in cfg.data.sets.items()}
        assert classes.keys() <= counts.keys()
        total, batch = sum(counts.values()), cfg.data.batch_size * int(cfg.trainer.devices)
        return (batch - 1) * sum((counts[k] / total) ** 2 / n for k, n in classes.items())

    paper = expected(config(name="paper"), classes)
    mini = expected(config(name="mini"), {"snips": 7, "banking77": 77})
    assert paper == pytest.approx(0.44, abs=0.005)
    assert mini == pytest.approx(paper, rel=0.1)
