"""Lengths of the stages, what they start from, own files, runs that are opened again."""

import json

import pytest
import torch

from common.config import UserError
from common.data.text.labelled.glue_tasks import GLUE
from common.data.text.labelled.readers import made_up
from common.engine.workspace import Workspace
from projects.vega import build, network
from projects.vega import stages as vega_stages
from projects.vega.evaluate import scored_parts
from projects.vega.glue.reading import is_labelled, read_inputs, read_part
from projects.vega.module import FineTune
from projects.vega.network import first_classifier
from projects.vega.stages import stages, training_part
from tests.projects.vega.conftest import PLAIN, config, run_of

EPOCHS = [
    "trainer.max_steps=null",
    "trainer.max_epochs=6",
    "trainer.val_every_n_steps=null",
    "eval.every_epoch=true",
]


@pytest.mark.parametrize(
    ("count", "words", "wanted"),
    [
        (2490, ["data.batch_size=32"], (462, 77, 77)),  # RTE
        (3668, ["data.batch_size=32"], (684, 114, 114)),  # MRPC
        (70, ["data.batch_size=10", "trainer.accumulate_grad_batches=2"], (24, 4, 3)),
    ],  # 3.5 steps
)
def test_an_epoch_is_validated_once_and_so_is_the_last_step(count, words, wanted):
    """Recipe: the best epoch of each task is kept, whatever its size."""
    cfg = config(*EPOCHS, *PLAIN, *words)
    train, module = (
        made_up(count, GLUE["sst2"].labels, "train"),
        FineTune(cfg, first_classifier(cfg)),
    )
    stage = vega_stages._stage(cfg, "finetune", module, train)
    last, every = stage.trainer["max_steps"], stage.trainer["val_every_n_steps"]
    one = vega_stages._stage(cfg, "transductive_1", module, train, 1.0).trainer
    assert (last, every, one["max_steps"]) == wanted
    assert one["val_every_n_steps"] == one["max_steps"]
    assert stage.monitor == "val/score"
    assert set(stage.data.val_sets) == {"dev"}


@pytest.mark.slow
def test_epochs_are_validated_where_that_is_asked_for(tmp_path):
    """Recipe: the last step is a candidate; steps of the user's go before, and without both none
    is.
    """
    run = run_of(tmp_path, "run_id=x", *EPOCHS, "trainer.max_epochs=2", "eval.noise=0", *PLAIN)
    actual = json.loads((run / "checkpoints/finetune/validations.json").read_text())
    assert set(actual) == {"4", "8"}  # 96 examples, 24 a step
    for more, monitor in (
        ("trainer.val_every_n_steps=3", "val/score"),
        ("eval.every_epoch=false", None),
    ):
        stage = next(stages(config(*EPOCHS, more, *PLAIN)))
        assert (dict(stage.trainer), stage.monitor) == ({}, monitor)


def test_the_warm_up_of_a_round_is_shorter_as_its_epochs_are_fewer():
    """Recipe: 50 steps of six epochs of RTE would be most of a round's 77."""
    words = [
        "optim.warmup_steps=50",
        "optim.warmup_epochs=0.6",
        "transductive.threshold=0",
        *PLAIN[:2],
    ]
    _, following = stages(config(*EPOCHS, *words))
    optim = following.module.optim
    assert (optim.warmup_steps, optim.warmup_epochs) == (8, pytest.approx(0.1))
    by_steps = vega_stages.round_optim(config(*words))
    assert (by_steps.warmup_steps, by_steps.lr) == (50, pytest.approx(0.003))


def test_random_weights_are_fine_tuned_where_that_is_asked_for():
    """Recipe: `paper_1b` without the folder of an encoder is a dry run."""
    for name in ("smoke", "paper_1b"):
        with pytest.raises(UserError, match=r"set model\.pretrained=FOLDER"):
            next(stages(config("model.random_start=false", name=name)))
    assert not config(name="paper_1b").model.random_start
    assert next(stages(config("model.random_start=true")))


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["model.tokenizer=nobody/nothing"], "smoke"),
        (["model.tokenizer=nobody/nothing"], "smoke_pretrain"),
        (["model.pretrained=nobody/nothing", "model.pooling=context"], "mini"),
    ],
)
def test_a_run_is_not_opened_with_another_tokenizer(monkeypatch, words, name):
    """Inference: without the weights that it started from a stand-in fits its checkpoint, and is
    refused;
    a dry run has one."""
    monkeypatch.setitem(network.SIZES, "nobody/nothing", network.disentangled_config("tiny"))
    plan = build(config(*words, name=name)).plan()
    with torch.device("meta"):
        assert next(plan.module().parameters()).is_meta
    with pytest.raises(UserError, match=r"nobody/nothing.*Run once with a network connection"):
        plan.module()


@pytest.mark.parametrize("hidden", [-1, -1.0, None, "-"])
def test_hidden_labels_of_own_files_are_none(tmp_path, hidden):
    """Data: as the datasets library writes them; single texts may stand in sentence1."""

    def own(name, *labels):
        rows = [
            {"sentence1": f"text {i}", "sentence2": "b", "label": x, "idx": 4 + i}
            for i, x in enumerate(labels)
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    mixed, none = own("mixed.jsonl", 1, hidden, 0), own("none.jsonl", hidden, hidden)
    words = [
        "data.source=file",
        f"data.train_file={mixed}",
        f"data.target_file={none}",
        "eval.part=test",
    ]
    cfg, workspace = config(*words, *PLAIN), Workspace(tmp_path)
    assert training_part(cfg).texts == [("text 0",), ("text 2",)]
    assert training_part(cfg).labels.tolist() == [1, 0]
    assert list(scored_parts(cfg, workspace)) == []
    assert read_inputs(GLUE["sst2"], "test", source="file", file=none).index == ["4", "5"]
    assert is_labelled(GLUE["sst2"], "test", source="file", file=mixed)
    with pytest.raises(UserError, match="no labels that are not hidden"):
        read_part(GLUE["sst2"], "test", source="file", file=none)
    scores = read_part(GLUE["stsb"], "dev", source="file", file=own("s.jsonl", 2.5, hidden))
    assert (scores.texts, scores.labels.tolist()) == ([("text 0", "b")], [2.5])
    (tmp_path / "bare.tsv").write_text("sentence\na cat\n")
    with pytest.raises(UserError, match="no column 'label'"):
        read_part(GLUE["sst2"], "dev", source="file", file=str(tmp_path / "bare.tsv"))
