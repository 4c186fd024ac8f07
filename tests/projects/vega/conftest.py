"""Configs, golden values and small models for the tests of Vega."""

import json
import os
from pathlib import Path

import pytest
import torch

from common.config import to_yaml
from common.engine import checkpoint as ckpt
from common.engine.run import train
from common.engine.trained import run_task
from projects.vega.config import Config
from projects.vega.module import FineTune
from projects.vega.network import first_classifier, first_pretraining, tokenizer_of
from projects.vega.phases import Pretrain
from projects.vega.pretraining import training_data as pretraining_data
from projects.vega.stages import training_data, training_part
from tests.configs import configs_of
from tests.figures import unrendered

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/vega.json").read_text("utf-8"))
PLAIN = ["sift.enabled=false", "self_calibration.enabled=false", "transductive.enabled=false"]
STILL = ["model.dropout=0.0", "model.head_dropout=0.0"]
FAST = ["trainer.val_every_n_steps=null", "eval.noise=0.0"]

config = configs_of(Config, "vega")


def finetune_of(*overrides: str) -> tuple[FineTune, dict[str, object]]:
    """The module of the smoke config in training mode, and a batch of eight."""
    cfg = config(*overrides)
    module = FineTune(cfg, first_classifier(cfg))
    data = training_data(cfg, module, training_part(cfg)).train_set
    return module, data[[(i, 0) for i in range(8)]]


def pretrain_of(*overrides: str, phase: int = 2) -> tuple[Pretrain, dict[str, object]]:
    """Generator and discriminator of the smoke config in training mode, and a batch of eight."""
    cfg = config(*overrides, name="smoke_pretrain")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Pretrain(cfg, first_pretraining(cfg), tokenizer_of(cfg.model), phase)
    return module, pretraining_data(cfg, module).train_set[[(i, 0) for i in range(8)]]


def run_of(folder: Path, *overrides: str, name: str = "smoke") -> Path:
    """A trained smoke run."""
    with unrendered():
        return train("vega", name, [f"runs_dir={folder}", *overrides])


def task(folder: Path, name: str, *words: str) -> None:
    """`make run` of a task with the smoke config."""
    with unrendered():
        run_task("vega", "smoke", [f"runs_dir={folder}", *words], name)


def finished_run(folder: Path, run_id: str, *words: str, age: int = 0, **metrics: float) -> Path:
    """What a finished run leaves behind, without its training."""
    path = folder / "vega/smoke" / run_id
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config(*words)))
    (path / "metrics.json").write_text(json.dumps(metrics))
    os.utime(path / "metrics.json", (10**9 - age, 10**9 - age))
    return path


def official(root: Path) -> str:
    """GLUE's folders with two rows a part, in the layout of each file."""
    pair = "index\tsentence1\tsentence2\tlabel"
    layout = {
        "CoLA": (
            None,
            "gj04\t1\t\tIt is so.\ngj04\t0\t*\tIt so is.",
            "index\tsentence",
            "0\tIt.\n1\tSo.",
        ),
        "SST-2": (
            "sentence\tlabel",
            'a "fine" film \t1\ndull\t0',
            "index\tsentence",
            "0\tgood\n1\tbad",
        ),
        "MRPC": (
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            "1\t5\t6\ta b\tb a\n0\t7\t8\tc\td",
            "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
            "0\t1\t2\ta\tb\n1\t3\t4\tc\td",
        ),
        "STS-B": (
            "index\tgenre\tsentence1\tsentence2\tscore",
            "0\tx\ta\tb\t2.5\n1\tx\tc\td\t5.000",
            "index\tgenre\tsentence1\tsentence2",
            "0\tx\ta\tb\n1\tx\tc\td",
        ),
        "QQP": (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            "7\t1\t2\ta\tb\t1\n8\t3\t4\tc\td\t0",
            "id\tquestion1\tquestion2",
            "0\ta\tb\n1\tc\td",
        ),
        "QNLI": (
            "index\tquestion\tsentence\tlabel",
            "0\ta\tb\tentailment\n1\tc\td\tnot_entailment",
            "index\tquestion\tsentence",
            "0\ta\tb\n1\tc\td",
        ),
        "RTE": (
            pair,
            "0\ta\tb\tentailment\n1\tc\td\tnot_entailment",
            "index\tsentence1\tsentence2",
            "0\ta\tb\n1\tc\td",
        ),
        "WNLI": (pair, "0\ta\tb\t1\n1\tc\td\t0", "index\tsentence1\tsentence2", "0\ta\tb\n1\tc\td"),
    }
    for name, (header, rows, test_header, test) in layout.items():
        folder = root / "glue_data" / name
        folder.mkdir(parents=True)
        for part in ("train", "dev"):
            (folder / f"{part}.tsv").write_text(f"{header}\n{rows}\n" if header else f"{rows}\n")
        (folder / "test.tsv").write_text(f"{test_header}\n{test}\n")
    folder = root / "glue_data/MNLI"
    folder.mkdir()
    labelled = "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n1\tc\td\tcontradiction\n2\tx\ty\t-\n"
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"{name}.tsv").write_text(labelled)
    for name in ("test_matched", "test_mismatched"):
        (folder / f"{name}.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n1\tc\td\n")
    return str(root)


def weights_of(run: Path, stage: str) -> dict[str, torch.Tensor]:
    """What a stage of a run trained last."""
    actual: dict[str, torch.Tensor] = ckpt.load(ckpt.newest_intact(run / "checkpoints" / stage)[0])[
        "state_dict"
    ]
    return actual


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all tricks off, two steps."""
    folder = tmp_path_factory.mktemp("vega")
    return run_of(folder, "run_id=plain", "trainer.max_steps=2", *PLAIN, *FAST)


@pytest.fixture(scope="session")
def pretrained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both phases."""
    return run_of(tmp_path_factory.mktemp("vega-pre"), "run_id=pre", name="smoke_pretrain")
