"""Mining, conversion of labelled and graded sets, mixtures, batches."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.mixture import TaskMixture
from common.data.retrieval.records import EmbeddingRecord, sts_records
from common.data.text.sets import load_sts
from common.evaluation.retrieval.mining import select_negatives
from common.evaluation.search import SearchResult
from common.families.retrieval.config import TrainingSet
from projects.nv_embed.data.records import EmbeddingTask, class_records, read_task
from projects.nv_embed.data.registry import known_set
from projects.nv_embed.data.training_sets import (
    bundled_records,
    described,
    intent_rows,
    mined,
    read_set,
    stage_data,
    training_tasks,
)
from projects.nv_embed.eval_sets import build_set
from projects.nv_embed.stages import of_stage, stages, trained_on
from tests.projects.nv_embed.conftest import config, encoder
from tests.projects.nv_embed.conftest import tasks as smoke_tasks
from tests.projects.nv_embed.workers import batches
from tests.unit.losses.golden import load

GOLDEN = load("nv_embed")
TINY = (
    "model.pretrained=random",
    (
        "model.config={model_type: llama, vocab_size: 400, hidden_size: 32, num_hidden_layers: 1, "
        "num_attention_heads: 2, intermediate_size: 32, max_position_embeddings: 64}"
    ),
)
CANDIDATES = [0.95, 0.91, 0.88, 0.83, 0.8, 0.79, 0.6, 0.41, 0.4, 0.1]


@pytest.mark.parametrize("case", GOLDEN["outputs"]["topk_percpos"])
def test_golden_selection_of_negatives(case):
    """Checklist 7: nothing above margin x positive score survives; the first k of the rest."""
    scores = torch.tensor([CANDIDATES], dtype=torch.float64)
    actual = SearchResult(scores, torch.arange(len(CANDIDATES))[None])
    limit = torch.tensor([case["pos_score"]], dtype=torch.float64)
    chosen = select_negatives(actual, case["k"], limit, ratio=case["margin"])
    assert [i for i in chosen[0].tolist() if i >= 0] == case["selected_candidate_indices"]
    assert all(CANDIDATES[i] <= case["threshold"] for i in case["selected_candidate_indices"])
    assert select_negatives(actual, case["k"])[0].tolist() == list(range(case["k"]))  # naive


def test_mined_set_never_has_positives_as_negatives():
    """Checklist 7: nor other positives of the query, its class, or the query itself."""
    rows = [
        ("red fox runs", "a fox", "fox"),
        ("red fox sleeps", "the red fox", "fox"),
        ("blue fox whale", "a whale", "whale"),
        ("red whale", "the grey whale swims", "whale"),
    ]
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
    actual = class_records(texts, labels, 4, seed=1)
    assert len(actual) == 30
    for record in actual:
        assert record.positives[0] != record.query
        assert of[record.positives[0]] == of[record.query] == record.label
        assert len(record.negatives) == 4
        assert all(of[text] != record.label for text in record.negatives)
    assert actual == class_records(texts, labels, 4, seed=1)
    assert actual != class_records(texts, labels, 4, seed=2)


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
    actual = sts_records(["a", "c", "e"], ["b", "d", "f"], [4.0, 3.9, 5.0])
    assert {(r.query, r.positives[0]) for r in actual} == {
        ("a", "b"),
        ("b", "a"),
        ("e", "f"),
        ("f", "e"),
    }


def test_documents_of_symmetric_sets_carry_the_instruction():
    """Checklist 9: those of retrieval sets do not."""
    cfg, model = config("data.mining.teacher=none"), encoder()
    tasks = smoke_tasks("data.mining.teacher=none")
    data = stage_data(cfg, model, list(tasks)).train_set
    told = {"retrieval": False, "sts": True, "classification": True}
    seen = set()
    for place in range(12):
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
    cfg = config(
        "data.source=sets",
        "eval.tasks=[]",
        "eval.primary=[]",
        "data.mining.teacher=none",
        f"data.sets={{{', '.join(sets)}}}",
    )
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
    data = stage_data(cfg, encoder(), list(smoke_tasks()))
    assert all(len(set(b["task"].tolist())) == 1 for b in batches(data, 0, 1, 8, 6))


def test_batches_do_not_depend_on_ranks():
    cfg, model = config(), encoder()
    data = stage_data(cfg, model, list(smoke_tasks()))
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
        expected = zip(one["query"]["input_ids"], one["query"]["attention_mask"], strict=True)
        assert rows == [row[mask.bool()].tolist() for row, mask in expected]
        assert one["document"]["input_ids"].shape[0] == 8 * 3


def test_a_record_with_few_negatives_is_filled_up():
    """Fillers are never right for the query: not its positives, not of its class."""
    cfg = config("data.mining.teacher=none")
    data = stage_data(cfg, encoder(), list(smoke_tasks("data.mining.teacher=none"))).train_set
    for place in range(len(data) // 2):
        _, record, positive, wrong = data.example(place, 0)
        assert positive in record.positives
        assert len(wrong) == 2
        assert not set(wrong) & {record.query, *record.positives}
        assert data.example(place, 0)[2:] == (positive, wrong)
    # of another record of the same query neither, whether drawn or in the file
    twice = [
        EmbeddingRecord("q", ("one",), ("two",)),
        EmbeddingRecord("q", ("two",)),
        EmbeddingRecord("r", ("three",)),
    ]
    data = stage_data(
        cfg, encoder(), [EmbeddingTask("twice", "retrieval", "find", twice)]
    ).train_set
    seen = [data.example(place, epoch)[1:] for place in range(3) for epoch in range(8)]
    assert {text for record, _, wrong in seen for text in wrong if record.query == "q"} == {"three"}
    few = EmbeddingTask("few", "retrieval", "find", [EmbeddingRecord("q", ("p",))])
    with pytest.raises(UserError, match=r"no further document"):
        stage_data(cfg, encoder(), [few]).train_set.example(0, 0)


def labelled(folder, classes, *overrides):
    """The training set of a file of so many classes, and its batches with seven negatives."""
    rows = [{"text": f"text {i}", "label": f"class_{i % classes}"} for i in range(24)]
    (folder / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    cfg = config(
        "data.source=sets",
        "eval.tasks=[]",
        "eval.primary=[]",
        "data.num_negatives=7",
        "data.mining.teacher=none",
        f"data.sets={{tweet_sentiment: {{path: {folder}/own.jsonl, instruction: find, samples:"
        " 24}}",
        *overrides,
    )
    (task,) = training_tasks(cfg)
    return task, stage_data(cfg, encoder(), [task]).train_set


@pytest.mark.parametrize(("classes", "overrides"), [(2, ()), (3, ("data.class_positives=label",))])
def test_names_of_few_classes_train_with_more_negatives_than_classes(tmp_path, classes, overrides):
    """Checklist 8: names of the other classes, again where there are too few; they carry no
    instruction.
    """
    task, data = labelled(tmp_path, classes, *overrides)
    assert (task.symmetric, task.document_instruction) == (False, "")
    for place in range(24):
        _, record, positive, wrong = data.example(place, 0)
        assert positive == record.label.replace("_", " ")
        assert len(wrong) == 7
        assert set(wrong) == {f"class {i}" for i in range(classes)} - {positive}
    batch = data[[(0, 0), (1, 0)]]
    assert torch.equal(batch["document"]["pool_mask"], batch["document"]["attention_mask"])
    assert batch["document"]["input_ids"].shape[0] == 2 * 8


def test_texts_of_a_labelled_set_carry_the_instruction(tmp_path):
    """The negative twin: three classes by example. The batch knows the class of every document."""
    task, data = labelled(tmp_path, 3)
    assert task.symmetric
    assert not set(data.example(0, 0)[3]) & {"class 0", "class 1", "class 2"}
    batch = data[[(i, 0) for i in range(6)]]
    of = {f"text {i}": i % 3 for i in range(24)}
    for i in range(6):
        _, record, positive, wrong = data.example(i, 0)
        assert batch["document_label"][i].tolist() == [of[text] for text in (positive, *wrong)]
        assert int(batch["label"][i]) == of[record.query]


def test_records_say_themselves_whether_documents_are_instructed(tmp_path):
    """Checklist 9: what TASK=mine wrote of a symmetric set is read as one, unless the config says
    otherwise.
    """
    row = {"task": "own", "kind": "sts", "instruction": "x", "pos": ["p"], "neg": ["n"]}
    for symmetric in (True, False):
        path = tmp_path / f"{symmetric}.jsonl"
        path.write_text(json.dumps({**row, "query": "q", "symmetric": symmetric}) + "\n")
        options = TrainingSet(path=str(path), kind="sts", layout="records", instruction="find")
        assert read_set(config(), "own", options).symmetric == symmetric
        options.symmetric = not symmetric
        assert read_set(config(), "own", options).symmetric != symmetric


def test_sets_that_are_left_out():
    """`method.without`: neither read nor trained on."""
    cfg = trained_on(config("method.without=[wikides,nli]", name="mini"))
    assert list(cfg.data.sets) == ["snips", "banking77", "stsb"]
    words = [
        "method.without=[wikides,nli,banking77,stsb]",
        "method.schedule=single",
        "data.sets.snips.limit=40",
    ]
    (stage,) = stages(config(*words, *TINY, name="mini"))
    assert [task.name for task in stage.data.train_set.tasks] == ["snips"]
    with pytest.raises(UserError, match="no imdb"):
        config("method.without=[imdb]", name="mini")


def test_no_evaluation_text_is_trained_on():
    """Nor a text of the development parts; BANKING77's is held back from its training rows."""
    plain = lambda texts: {" ".join(text.lower().split()) for text in texts}  # noqa: E731
    for name, sizes in (("snips", (13000, 690)), ("banking77", (8900, 950))):
        train, dev, test = (
            plain(r["text"] for r in intent_rows(name, p)) for p in ("train", "dev", "test")
        )
        assert not train & (dev | test)
        assert not dev & test
        assert sizes[0] - 700 < len(train) <= sizes[0] + 100
        assert abs(len(dev) - sizes[1]) < 110
    sts = [load_sts(None, f"stsb-{part}") for part in ("dev", "test")]
    tested = plain(text for part in sts for text in (*part.first, *part.second))
    records = bundled_records(config(name="mini"), "stsb")
    assert len(records) > 1000
    assert not plain(text for r in records for text in (r.query, *r.positives)) & tested


def test_development_sets_are_apart_from_the_test_sets():
    """eval.split=dev: other queries and requests, of the same form."""
    for name in ("wikides", "snips", "stsb"):
        dev, test = (
            build_set(config(f"eval.split={split}", name="mini"), name) for split in ("dev", "test")
        )
        texts = [
            set(s.queries if name == "wikides" else s.first if name == "stsb" else s.test)
            for s in (dev, test)
        ]
        assert len(texts[0]) > 400
        if name != "stsb":  # the two parts of STS-B have sentences in common
            assert not texts[0] & texts[1]
        else:
            assert not set(zip(dev.first, dev.second, strict=True)) & set(
                zip(test.first, test.second, strict=True)
            )
        if name == "snips":
            assert (dev.shots, len(test.test), set(dev.test_labels)) == (4, 700, set(range(7)))
            assert not set(dev.train) & (texts[0] | texts[1])
        if name == "wikides":
            assert len(test.queries) == 1000
            assert max(len(q.split()) for q in dev.queries) <= 60
    assert len(build_set(config(name="mini"), "banking77_clusters").test) == 3080
    with pytest.raises(UserError, match="no development part"):
        build_set(config("eval.split=dev", name="mini"), "nli_pairs")


def test_sets_of_a_config(tmp_path):
    """Registry entries, own sets, files of the unified form, and what is said when one is
    missing."""
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


@pytest.mark.slow
def test_bundled_sets():
    """Every set of the mini config is there, with negatives where its kind has them."""
    sets = (
        "{wikides: {limit: 12}, nli: {limit: 12}, snips: {limit: 12}, banking77: {limit: 12}, stsb:"
        " {limit: 12}}"
    )
    cfg = config(
        f"data.sets={sets}", "data.mining.teacher=bm25", "data.num_negatives=3", name="mini"
    )
    tasks = {task.name: task for task in training_tasks(cfg)}
    assert [t.kind for t in tasks.values()] == [
        "retrieval",
        "retrieval",
        *["classification"] * 2,
        "sts",
    ]
    assert all(len(task.records) == 12 for task in tasks.values())
    assert all(r.negatives for name in ("nli", "snips", "banking77") for r in tasks[name].records)
    assert sum(bool(r.negatives) for r in tasks["wikides"].records) > 7
    assert tasks["snips"].symmetric
    labels = config("data.class_positives=label", name="mini")
    named = read_set(labels, "snips", TrainingSet(limit=30))
    assert not named.symmetric
    assert named.records[0].positives[0] == named.records[0].label.replace("_", " ")


def test_the_mini_has_as_many_own_class_negatives_as_the_paper_s_batches():
    """The harm that stage 2 avoids: in-batch positives of the query's own class, for each query.

    Expected number with classes of equal size; the counts of classes of the paper's sets are
    theirs.
    """
    classes = {
        "amazon_reviews": 5,
        "amazon_counterfactual": 2,
        "amazon_polarity": 2,
        "banking77": 77,
        "emotion": 6,
        "imdb": 2,
        "mtop_domain": 11,
        "mtop_intent": 113,
        "toxic_conversations": 2,
        "tweet_sentiment": 3,
        "massive_scenario": 18,
        "massive_intent": 60,
        "arxiv": 180,
        "biorxiv": 26,
        "medrxiv": 51,
        "twentynewsgroups": 20,
        "reddit": 50,
        "stackexchange_titles": 121,
    }

    def expected(cfg, classes):
        counts = {name: options.samples for name, options in cfg.data.sets.items()}
        assert classes.keys() <= counts.keys()
        total, batch = sum(counts.values()), cfg.data.batch_size * int(cfg.trainer.devices)
        return (batch - 1) * sum((counts[k] / total) ** 2 / n for k, n in classes.items())

    paper = expected(config(name="paper"), classes)
    mini = expected(config(name="mini"), {"snips": 7, "banking77": 77})
    assert paper == pytest.approx(0.44, abs=0.005)
    assert mini == pytest.approx(paper, rel=0.1)
