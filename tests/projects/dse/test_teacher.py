"""The teacher: its logits, how they are stored and joined, and that any classifier will do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from common.config import UserError
from common.data.offline import content_key
from common.data.text.pairs.readers import synthetic_pairs
from common.data.text.pairs.tasks import TASKS
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.engine import checkpoint as ckpt
from common.engine.trainer import stage_config
from common.engine.workspace import Workspace
from projects.dse import build, experiment, pair_classifier, stages
from projects.dse.pair_batches import SequencePairs
from projects.dse.pair_classifier import label_order
from projects.dse.pair_scores import ScorePairs, joined, read_scores, score_pairs
from projects.dse.stages import teacher_logits, teacher_module
from projects.dse.tasks import score
from tests.projects.dse.conftest import TINY, TINY_WORDS, classifier, config, run_of

PAIRS = synthetic_pairs(12, 3).pairs
assert experiment  # loaded before any test replaces a function that it imports


def stored(folder: Path, pairs=PAIRS, teacher=None, **options):
    own = teacher or classifier()
    row = ScorePairs(own, [0, 1, 2], 4)
    score_pairs(lambda: row, pairs, folder, {"teacher": "t"}, chunk_size=5, **options)
    return folder


def test_logits_are_those_of_evaluation_mode_in_the_order_of_the_pairs(tmp_path):
    """Checklist 7: dropout off although the module is in training mode; order of the set."""
    teacher = classifier().train()
    teacher.model.config.hidden_dropout_prob = 0.9
    for part in teacher.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.9
    actual = joined(PAIRS, read_scores(stored(tmp_path, teacher=teacher)), "x")
    assert teacher.training
    with torch.no_grad():
        alone = torch.cat([teacher.eval()(**teacher.tokenize([pair])) for pair in PAIRS])
    torch.testing.assert_close(actual, alone, atol=1e-5, rtol=1e-5)


def test_logits_of_other_pairs_are_refused(tmp_path):
    """Checklist 7: length and content hash; filtered, reordered and changed pairs are noticed."""
    rows = read_scores(stored(tmp_path))
    joined(PAIRS, rows, "x")
    with pytest.raises(UserError, match="12 pairs, but there are 11"):
        joined(PAIRS[1:], rows, "x")
    for other in (PAIRS[::-1], [*PAIRS[:-1], ("a", "b")], [(b, a) for a, b in PAIRS]):
        with pytest.raises(UserError, match="belongs to another pair"):
            joined(other, rows, "x")
    with pytest.raises(UserError, match="was made for another rows"):
        stored(tmp_path, PAIRS[::-1])
    broken = [{**row, "logits": row["logits"][: 2 + (i > 0)]} for i, row in enumerate(rows)]
    with pytest.raises(UserError, match="unequal length"):
        joined(PAIRS, broken, "x")


def test_a_stage_that_was_killed_goes_on(tmp_path):
    whole = stored(tmp_path / "a")
    part = stored(tmp_path / "b")
    (part / "part-000001.jsonl").unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        read_scores(part)
    stored(part)
    assert read_scores(part) == read_scores(whole)
    with pytest.raises(UserError, match="no finished rows"):
        read_scores(tmp_path)


def test_a_file_of_another_teacher(tmp_path):
    """Any teacher: JSON lines with the texts and the logits."""
    path = tmp_path / "scores.jsonl"
    rows = [
        {"first": a, "second": b, "logits": [0.0, float(i), 1.0]} for i, (a, b) in enumerate(PAIRS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    actual = joined(PAIRS, read_scores(path), path)
    assert actual[:, 1].tolist() == list(range(12))
    assert read_scores(path)[3]["key"] == content_key(PAIRS[3])
    path.write_text('{"logits": [1]}\n', encoding="utf-8")
    with pytest.raises(UserError, match="needs first and second"):
        read_scores(path)


def test_without_distillation_no_teacher_is_built_or_read(monkeypatch):
    """Checklist 6: alpha 0 needs no logits and has one stage."""
    monkeypatch.setattr(stages, "teacher_module", None)
    monkeypatch.setattr(stages, "teacher_logits", None)
    (stage,) = build(config("distill.alpha=0.0")).stages()
    assert stage.name == "student"
    assert "teacher" not in stage.data.train_set[[(0, 0)]]


def test_the_student_is_trained_from_stored_logits_alone(tmp_path, monkeypatch):
    """Checklist 8: nothing of a teacher is loaded, nothing of it is in the module."""
    cfg = config(f"score.output={tmp_path}", f"runs_dir={tmp_path}/runs")
    monkeypatch.setattr(stages, "load_teacher", teacher_module)
    monkeypatch.setattr("projects.dse.tasks.load_teacher", teacher_module)

    score(cfg, Workspace(tmp_path / "task", "dse", "smoke"))
    monkeypatch.setattr(pair_classifier, "cross_encoder", None)
    (stage,) = build(config(f"distill.scores={tmp_path}")).stages()
    batch = stage.data.train_set[[(i, 0) for i in range(8)]]
    terms = stage.module.losses(batch)
    terms["loss"].backward()
    assert set(terms) == {"loss", "task_loss", "distillation_loss", "accuracy"}
    assert all(p.grad is not None for p in stage.module.parameters())
    assert not any("classifier" in name for name, _ in stage.module.named_parameters())


def test_the_student_starts_from_the_language_model_and_not_from_the_teacher(tmp_path, trained):
    """Checklist 9: after the teacher was trained the student's encoder has the pretrained weights;
    its first weights are those of a student without teacher."""
    cfg = config(
        f"runs_dir={trained.parents[2]}", "eval.speed.queries=0", "trainer.val_every_n_steps=null"
    )
    actual = build(cfg).stages()
    teacher = next(actual)
    assert teacher.weights is not None  # of the run before: trained once
    ckpt.load_weights(teacher.module, teacher.weights)  # as the engine does
    student = next(actual)
    (alone,) = build(config("distill.alpha=0.0")).stages()
    first = student.module.scorer.state_dict()
    for name, value in alone.module.scorer.state_dict().items():
        assert torch.equal(first[name], value), name
    content = torch.load(teacher.weights, weights_only=True)["state_dict"]
    word = "bert.embeddings.word_embeddings.weight"
    own = student.module.scorer.encoder.tower.model.get_input_embeddings().weight
    assert not torch.equal(content[f"classifier.model.{word}"], own)


def test_the_teacher_learns_and_knows_its_labels(trained):
    rows = [r.split(",") for r in (trained / "metrics.csv").read_text().splitlines()]
    assert {row[0] for row in rows if len(row) > 2 and row[2] == "train/loss"} == {
        "teacher",
        "student",
    }
    own = teacher_module(config()).classifier
    assert own.model.config.id2label == {0: "contradiction", 1: "entailment", 2: "neutral"}
    own.model.config.label2id = {"ENTAILMENT": 0, "neutral": 1, "Contradiction": 2}
    assert label_order(own, config().data.pair_task) == [2, 0, 1]
    own.model.config.label2id = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert label_order(own, config().data.pair_task) == [0, 1, 2]


def last_cls_tokenizer():
    """A word-level tokenizer that pads on the left and ends in its [CLS], as XLNet's."""
    words = tiny_tokenizer(200).get_vocab()
    own = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    ids = {name: own.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    own.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2",
        pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2",
        special_tokens=list(ids.items()),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        padding_side="left",
    )


KINDS = {
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 200},
    "roberta": {**TINY, "model_type": "roberta"},
    "xlnet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "vocab_size": 200},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_any_pair_classifier_is_a_teacher(tmp_path, kind):
    """Checklist 19: teachers of other architectures, kept as they are; the student is the same."""
    torch.manual_seed(0)
    settings = {k: v for k, v in KINDS[kind].items() if k != "model_type"}
    made = AutoConfig.for_model(kind, num_labels=3, **settings)
    AutoModelForSequenceClassification.from_config(made).save_pretrained(tmp_path / "t")
    tokenizer = last_cls_tokenizer() if kind == "xlnet" else tiny_tokenizer(200)
    tokenizer.save_pretrained(tmp_path / "t")
    cfg = config(
        f"teacher.pretrained={tmp_path}/t",
        "teacher.config=null",
        "teacher.head=keep",
        f"runs_dir={tmp_path}/runs",
    )
    (stage,) = build(cfg).stages()
    data = stages.task_pairs(cfg.data, "train", cfg.seed)
    logits = teacher_logits(cfg, "train", data)
    assert logits.shape == (192, 3)
    module = teacher_module(cfg)
    inputs = module.classifier.tokenize(data.pairs[:3])
    if kind == "xlnet":
        expected = tokenizer(
            *map(list, zip(*data.pairs[:3], strict=True)),
            padding=True,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        assert torch.equal(inputs["attention_mask"], expected["attention_mask"])
        segments = inputs["token_type_ids"][inputs["attention_mask"] == 1]
        assert torch.equal(segments, expected["token_type_ids"][expected["attention_mask"] == 1])
    with torch.no_grad():
        torch.testing.assert_close(
            module.eval().classifier(**inputs), logits[:3], atol=1e-5, rtol=1e-4
        )
    (plain,) = build(config("distill.alpha=0.0")).stages()
    shapes = [{k: v.shape for k, v in s.module.state_dict().items()} for s in (stage, plain)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_the_teacher_alone_is_an_experiment(tmp_path):
    """It is evaluated as a student is, exported for transformers and continued from there."""
    run = run_of(tmp_path, "train=teacher", "run_id=t", "teacher.steps=1")
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["test_accuracy"] <= 1
    items = json.loads((run / "items/test_accuracy.json").read_text())
    assert np.mean(items) == pytest.approx(metrics["test_accuracy"])
    with pytest.raises(UserError, match="nothing to train"):
        config("train=teacher", "teacher.head=keep")


def test_a_classifier_of_two_classes_and_a_regression_are_trained_as_usual():
    """Checklist 5 and 13 at the teacher: two logits with cross-entropy; raw scores with MSE."""
    own = classifier(2)
    data = synthetic_pairs(4)
    data.labels[:] = [0, 1, 1, 0]
    cfg = config()
    module = pair_classifier.PairClassifier(cfg.optim, own, TASKS["nli_binary"]).eval()
    batch = SequencePairs(data, "binary", own)[[(i, 0) for i in range(4)]]
    assert batch["labels"].shape == (4, 1)
    logits = own(**batch["pairs"])
    want = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(module.losses(batch)["loss"], want)
    assert module.pair_logits(data.pairs).shape == (4, 1)


def test_the_teacher_of_the_paper_has_a_recipe_of_its_own(tmp_path):
    """The released fine-tuning in place of the student's optimiser: rate, decay, linear warm-up and
    decay, length.
    """
    student = [
        "optim.lr=0.5",
        "optim.weight_decay=0.25",
        "optim.schedule=cosine",
        "optim.warmup_epochs=4",
        "optim.final_lr=0.125",
        "optim.lr_scaling=linear",
    ]
    small = [
        "data.task=synthetic",
        "teacher.pretrained=random",
        f"teacher.config={TINY_WORDS}",
        "teacher.max_length=40",
    ]
    cfg = config(*student, *small, f"runs_dir={tmp_path}", name="paper_mrpc")
    stage = next(iter(build(cfg).stages()))
    own, trainer = stage.module.optim, stage_config(cfg.trainer, stage)
    assert (stage.name, stage.data.batch_size, stage.monitor) == ("teacher", 16, "val/pair_score")
    assert (own.lr, own.weight_decay, own.schedule, own.final_lr) == (2e-5, 0.01, "linear", 0.0)
    assert (own.warmup_steps, own.warmup_epochs, own.lr_scaling) == (
        0,
        pytest.approx(0.1 * 3),
        "none",
    )
    assert (trainer.max_epochs, trainer.max_steps, trainer.accumulate_grad_batches) == (3, None, 2)
    cfg.teacher.steps = 50
    stage = next(iter(build(cfg).stages()))
    own, trainer = stage.module.optim, stage_config(cfg.trainer, stage)
    assert (own.warmup_steps, own.warmup_epochs) == (5, 0.0)
    assert (trainer.max_epochs, trainer.max_steps) == (None, 50)


def test_a_corrected_file_has_a_teacher_of_its_own(tmp_path):
    """A kept teacher of the same name and settings was trained on other labels."""
    files = [f"data.{part}_file={tmp_path}/{part}.tsv" for part in ("train", "dev", "test")]
    cfg = config("data.task=file", *files, "data.labels=[other,same]", f"runs_dir={tmp_path}")
    actual = []
    for train, test in (("same", "same"), ("same", "other"), ("other", "other")):
        for part, label in (("train", train), ("dev", "same"), ("test", test)):
            (tmp_path / f"{part}.tsv").write_text(f"first\tsecond\tlabel\na\tb\t{label}\n", "utf-8")
        actual.append(stages.teacher_path(cfg))
    assert actual[0] == actual[1]  # the test part plays no part in training
    assert actual[1] != actual[2]
    (tmp_path / "test.tsv").unlink()
    needed = {r.location: r.present for r in experiment.requirements(cfg)}
    assert needed == {f"{tmp_path}/{part}.tsv": part != "test" for part in ("train", "dev", "test")}


def test_files_that_cannot_be_read_are_named(tmp_path):
    """A TSV of another encoding, and a score that would make every weight nan."""
    path = tmp_path / "train.tsv"
    words = ["data.task=file", "eval.parts=[train]", "eval.dev=train", f"data.train_file={path}"]
    path.write_bytes("first\tsecond\tlabel\ncaf\u00e9\tb\t1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.tsv is not a table in UTF-8"):
        stages.task_pairs(config(*words).data, "train", 0)
    path.write_text("first\tsecond\tlabel\na\tb\tnan\n", "utf-8")
    with pytest.raises(UserError, match=r"train\.tsv, line 2: 'nan' is not a score"):
        stages.task_pairs(config(*words).data, "train", 0)


def test_logits_are_computed_in_the_precision_that_training_used(monkeypatch):
    """bf16-mixed runs in float32 where the processor only emulates bfloat16; so do the logits."""
    cfg = config("trainer.precision=bf16-mixed")
    module = teacher_module(cfg)
    for able in (True, False):
        monkeypatch.setattr("common.engine.trainer.computes_bfloat16", lambda able=able: able)
        assert stages.scoring(cfg, module)[1]["bf16"] == able
