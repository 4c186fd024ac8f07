"""Fine-tuning: vanilla, adversarial, self-calibrated, transductive; exports."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.config import UserError
from common.data.text.labelled.glue import read_glue
from common.data.text.labelled.glue_tasks import GLUE
from common.data.text.labelled.readers import LabelledSet
from projects.vega import stages as vega_stages
from projects.vega.exported import load_finetuned, save_finetuned
from projects.vega.glue.pseudo_labels import calibrated, folds, pseudo_labelled, united
from projects.vega.glue.reading import flipped
from projects.vega.module import FineTune
from projects.vega.network import build_pretraining, first_classifier
from projects.vega.objective import task_loss
from projects.vega.stages import stages, target_texts, training_data, training_part
from tests.projects.vega.conftest import (
    FAST,
    PLAIN,
    config,
    finetune_of,
    run_of,
    weights_of,
)

TEXTS = [("the cat sees a new dog",), ("rain and wind again",), ("fish",)]


def test_without_tricks_it_is_vanilla_fine_tuning_bit_for_bit(plain_run):
    """Checklist 11: one stage; loss and gradient of a batch are those of cross-entropy, bit for
    bit.
    """
    cfg = config("trainer.max_steps=2", *PLAIN, *FAST)
    assert [p.name for p in (plain_run / "checkpoints").iterdir()] == ["finetune"]
    module = FineTune(cfg, first_classifier(cfg))
    plain = copy.deepcopy(module)
    data = training_data(cfg, module, training_part(cfg)).train_set
    batch = data[[(i, 0) for i in range(8)]]
    torch.manual_seed(3)
    terms = module.losses(batch)
    torch.manual_seed(3)
    loss = F.cross_entropy(plain.classifier(**batch["inputs"]), batch["labels"])
    assert torch.equal(terms["loss"], loss)
    terms["loss"].backward()
    loss.backward()
    for a, b in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert set(terms) == {"loss", "accuracy"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["transductive.enabled=true", "transductive.rounds=0"],
        [
            "self_calibration.enabled=true",
            "self_calibration.mu=0",
            "self_calibration.threshold=0.5",
        ],
    ],
    ids=["no rounds", "mu 0"],
)
def test_tricks_that_do_nothing_leave_the_weights_of_plain_fine_tuning(tmp_path, plain_run, words):
    """Checklist 9, 10: no rounds, or mu = 0: bit for bit the same last weights."""
    own = [word for word in PLAIN if word.split("=")[0] not in {w.split("=")[0] for w in words}]
    run = run_of(tmp_path, "run_id=x", "trainer.max_steps=2", *own, *FAST, *words)
    actual, expected = weights_of(run, "finetune"), weights_of(plain_run, "finetune")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["finetune"]
    assert all(torch.equal(actual[n], expected[n]) for n in expected if not n.endswith("record"))


def test_calibration_changes_contradicted_examples_alone():
    """Checklist 10: q = (1 - mu) onehot + mu p where another class has at least the threshold."""
    data = LabelledSet([(str(i),) for i in range(4)], np.array([0, 0, 1, 1]), ("a", "b"))
    seen = np.array([[0.95, 0.05], [0.1, 0.9], [0.85, 0.15], [0.02, 0.98]], dtype=np.float32)
    actual, flagged = calibrated(data, seen, 0.9, 0.5)
    assert flagged.tolist() == [False, True, False, False]
    np.testing.assert_allclose(actual.labels, [[1, 0], [0.55, 0.45], [0, 1], [0, 1]], atol=1e-6)
    assert calibrated(data, seen, 0.8, 0.5)[1].tolist() == [False, True, True, False]
    same, flagged = calibrated(data, seen, 0.9, 0.0)
    assert same is data
    assert flagged.sum() == 1
    assert calibrated(data, seen, 0.99, 0.5)[0] is data
    with pytest.raises(ValueError, match="do not fit"):
        calibrated(replace(data, labels=np.ones(4, dtype=np.float32)), seen, 0.9, 0.5)


def test_folds_part_all_examples_and_their_predictions_are_of_models_that_have_not_seen_them(
    monkeypatch,
):
    """Self-calibration: cross-fit; with k = 1 the model re-reads its own training set."""
    parts = list(folds(10, 3, 0))
    assert sorted(i for _, inside in parts for i in inside) == list(range(10))
    assert all(not set(outside) & set(inside) for outside, inside in parts)
    cfg = config("self_calibration.k=3", "transductive.enabled=false", "sift.enabled=false")
    trained: dict[int, set] = {}

    def look(cfg, module, texts):
        assert not trained[id(module)] & set(texts)
        return np.tile(np.array([[0.01, 0.99]], dtype=np.float32), (len(texts), 1))

    monkeypatch.setattr(vega_stages, "predicted", look)
    names = []
    whole = training_part(cfg)
    for stage in stages(cfg):
        names.append(stage.name)
        rows = stage.data.train_set
        count = len(rows)
        if stage.name.startswith("fold"):
            outside = list(folds(len(whole), 3, cfg.seed))[len(names) - 1][0]
            assert count == len(outside)
            trained[id(stage.module)] = {whole.texts[i] for i in outside}
        else:
            targets = rows.labels
            assert targets.shape == (len(whole), 2)
            zero = torch.as_tensor(whole.labels == 0)
            torch.testing.assert_close(
                targets[zero], torch.tensor([[0.505, 0.495]]).expand(int(zero.sum()), 2)
            )
            assert (targets[~zero][:, 1] == 1).all()
            assert stage.module.noted()["flagged_share"] == pytest.approx(
                float(zero.float().mean())
            )
    assert names == ["fold_0", "fold_1", "fold_2", "calibrated"]
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr(
        vega_stages,
        "predicted",
        lambda c, m, t: seen.append(t) or np.full((len(t), 2), 0.5, dtype=np.float32),
    )
    names = [s.name for s in stages(config("self_calibration.k=1", "transductive.enabled=false"))]
    assert names == ["finetune", "calibrated"]
    assert seen == [whole.texts]


def test_pseudo_labels():
    """Checklist 9: threshold, soft and hard, all of them at 0, scores of a regression."""
    told = np.array([[0.95, 0.05], [0.6, 0.4], [0.08, 0.92]], dtype=np.float32)
    hard = pseudo_labelled(TEXTS, told, ("a", "b"), 0.9, False)
    assert hard.texts == [TEXTS[0], TEXTS[2]]
    assert hard.labels.tolist() == [0, 1]
    soft = pseudo_labelled(TEXTS, told, ("a", "b"), 0.0, True)
    np.testing.assert_allclose(soft.labels, told)
    assert pseudo_labelled(TEXTS, told, ("a", "b"), 0.99, False) is None
    scores = pseudo_labelled(TEXTS, np.array([[1.0], [2.5], [4.0]]), ("score",), 0.9, False)
    assert scores.labels.tolist() == [1.0, 2.5, 4.0]
    train = LabelledSet([("x",)], np.array([1]), ("a", "b"))
    assert united(train, hard).labels.tolist() == [1, 0, 1]
    assert united(train, soft).labels[0].tolist() == [0.0, 1.0]
    assert united(train, None) is train


def test_rounds_go_on_from_the_weights_with_a_lower_rate():
    """Checklist 9: r rounds, lr x scale, the union of training examples and pseudo labels."""
    cfg = config("transductive.rounds=2", "transductive.threshold=0", *PLAIN[:2])
    actual = list(stages(cfg))
    assert [s.name for s in actual] == ["finetune", "transductive_1", "transductive_2"]
    assert actual[2].module.classifier is actual[0].module.classifier
    assert actual[1].module.optim.lr == pytest.approx(0.3 * cfg.optim.lr)
    assert len(actual[1].data.train_set) == len(training_part(cfg)) + len(target_texts(cfg))
    assert actual[1].trainer["max_epochs"] == cfg.transductive.epochs
    assert actual[1].module.noted()["pseudo_share"] == 1.0


def test_rounds_label_anew_and_keep_the_calibrated_targets(monkeypatch):
    """Checklist 9, 10: each round reads the model as it is then, at one rate, beside soft
    targets."""
    cfg = config(
        "self_calibration.k=1",
        "transductive.rounds=2",
        "transductive.threshold=0",
        "sift.enabled=false",
    )
    answers = iter([(0.01, 0.99), (0.9, 0.1), (0.2, 0.8)])  # to calibrate; of rounds 1 and 2
    monkeypatch.setattr(
        vega_stages,
        "predicted",
        lambda c, m, texts: np.tile(np.array([next(answers)], dtype=np.float32), (len(texts), 1)),
    )
    targets, whole = None, training_part(cfg)
    for number, stage in enumerate(stages(cfg)):
        labels = stage.data.train_set.labels
        if stage.name == "calibrated":
            targets = labels
            assert targets[0].tolist() == pytest.approx([0.505, 0.495])
        if stage.name.startswith("transductive"):
            assert torch.equal(labels[: len(whole)], targets), stage.name
            assert (labels[len(whole) :].argmax(1) == number - 2).all(), stage.name
            assert stage.module.optim.lr == pytest.approx(0.3 * cfg.optim.lr)
    assert stage.name == "transductive_2"


def test_a_round_adapts_to_the_inputs_that_it_is_told(tmp_path):
    """Inference: test inputs beside a score of the development part, or any file of inputs; files
    that
    nobody reads or names are told before anything is trained."""
    told = config("transductive.part=test")
    assert told.eval.part == "dev"
    assert target_texts(told) == read_glue(GLUE["sst2"], "test", source="synthetic").texts
    file = tmp_path / "inputs.jsonl"
    file.write_text('{"sentence": "a cat"}\n{"sentence": "rain"}\n')
    own = config("transductive.part=target", f"data.target_file={file}")
    assert target_texts(own) == [("a cat",), ("rain",)]
    absent = config("transductive.part=target", "data.target_file=nowhere.jsonl", *PLAIN[:2])
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        next(stages(absent))
    for words, message in (
        ([f"data.target_file={file}"], r"transductive\.part=target"),
        (["transductive.part=target"], r"set data\.target_file"),
        (["data.source=file", "data.train_file=x.tsv"], r"set data\.dev_file"),
        (["data.dev_file=x.tsv"], r"data\.source=file"),
    ):
        with pytest.raises(UserError, match=message):
            config(*words)


def test_a_start_on_a_tuned_classifier_keeps_its_dense_layer(tmp_path):
    """Recipe: RTE, MRPC and STS-B start from a run on MNLI; its classes go, its dense layer stays.

    An
    architecture beside weights is refused, when fine-tuning and when pre-training."""
    tuned, _ = finetune_of("data.task=mnli")
    folder = save_finetuned(tuned.classifier.eval(), tmp_path / "mnli")
    words = [
        "data.source=synthetic",
        "data.task=rte",
        "model.pooling=context",
        f"model.pretrained={folder}",
    ]
    started = first_classifier(config(*words, name="mini"))
    expected = tuned.classifier.backbone.state_dict()
    actual = started.backbone.state_dict()
    assert {"pooler.dense.weight", "pooler.dense.bias"} <= actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert started.head.weight.shape[0] == 2
    assert started.training
    with pytest.raises(UserError, match=r"model\.config"):
        first_classifier(config(*words, "model.config.hidden_size=999", name="mini"))
    with pytest.raises(UserError, match=r"model\.config: position_buckets"):
        build_pretraining(config(f"model.pretrained={folder}", name="mini_pretrain"))


def test_a_round_never_reads_labels_of_the_target(monkeypatch, tmp_path):
    """Checklist 8: with poisoned labels of the target part the training sets are the same; the
    target
    is the part that is evaluated on."""

    def stream(labels):
        own = tmp_path / f"target_{len(labels)}.tsv"
        rows = "\n".join(f"the cat number {i}\t{labels[i % len(labels)]}" for i in range(12))
        own.write_text(f"sentence\tlabel\n{rows}\n")
        train = tmp_path / "train.tsv"
        train.write_text("sentence\tlabel\n" + "\n".join(f"dog {i}\t{i % 2}" for i in range(20)))
        cfg = config(
            *PLAIN[:2],
            "transductive.enabled=true",
            "transductive.threshold=0",
            "data.source=file",
            f"data.train_file={train}",
            f"data.target_file={own}",
            "eval.part=test",
            *FAST,
        )
        return [stage.data.train_set.labels.tolist() for stage in stages(cfg)]

    assert stream(["0"]) == stream(["poison", "1"])
    dev = config("eval.part=dev")
    assert target_texts(dev) == read_glue(GLUE["sst2"], "dev", source="synthetic").texts
    assert target_texts(dev) != target_texts(config("eval.part=test"))


def test_flipped_labels_are_the_same_for_all_strategies():
    """mini: that share of the training labels, by the seed alone; another class each."""
    data = read_glue(GLUE["mnli"], "train", source="synthetic")
    noisy = flipped(data, 0.25, 3)
    assert (noisy.labels != data.labels).sum() == round(0.25 * len(data))
    assert np.array_equal(noisy.labels, flipped(data, 0.25, 3).labels)
    assert not np.array_equal(noisy.labels, flipped(data, 0.25, 4).labels)
    assert flipped(data, 0.0, 3) is data
    with_tricks, without = config("data.noise=0.3"), config("data.noise=0.3", *PLAIN)
    assert np.array_equal(training_part(with_tricks).labels, training_part(without).labels)


def test_task_losses():
    """Objective: classes, soft targets, scores; shapes that would be broadcast are refused."""
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    hard = task_loss(logits, torch.tensor([1, 0]))
    assert float(hard) == pytest.approx(
        float(task_loss(logits, torch.tensor([[0.0, 1.0], [1.0, 0.0]])))
    )
    assert float(task_loss(torch.tensor([[2.0], [1.0]]), torch.tensor([1.0, 1.0]))) == 0.5
    for bad in (torch.tensor([1.0, 2.0]), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="logits"):
            task_loss(logits, bad)


@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_exports_open_in_transformers(tmp_path, task):
    """Inference: the dense layer of disentangled encoders in transformers' own classifier, equal
    logits;
    the bare vectors as an encoder with a head."""
    more = ["self_calibration.enabled=false"] if task == "stsb" else []
    module, _ = finetune_of(f"data.task={task}", *more)
    texts = TEXTS if task == "sst2" else [(*t, "rain") for t in TEXTS]
    folder = save_finetuned(module.classifier.eval(), tmp_path / "a")
    opened = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(
        *map(list, zip(*texts, strict=True)), padding=True, return_tensors="pt"
    )
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        actual = opened(**inputs).logits
    torch.testing.assert_close(actual, module.classifier.score(texts), atol=1e-5, rtol=1e-4)
    assert list(opened.config.id2label.values()) == list(GLUE[task].classes)
    again = load_finetuned(folder)
    torch.testing.assert_close(
        again.score(texts), module.classifier.score(texts), atol=1e-6, rtol=1e-5
    )
    mean, _ = finetune_of(f"data.task={task}", "model.pooling=mean", *more)
    other = load_finetuned(save_finetuned(mean.classifier.eval(), tmp_path / "b"))
    torch.testing.assert_close(
        other.score(texts), mean.classifier.score(texts), atol=1e-6, rtol=1e-5
    )
    (folder / "sequence_classifier.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        load_finetuned(folder)
