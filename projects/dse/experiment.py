"""The two experiments: the student, and its teacher on its own."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.config import UserError
from common.data.layouts import Layout
from common.data.lookup import data_root
from common.data.text.pairs.readers import SYNTHETIC
from common.encoders.pretrained import stand_in
from common.encoders.text.cross_encoder import cross_encoder
from common.engine.experiment import (
    Experiment,
    Plan,
    Requirement,
    bundled_requirement,
    experiment_of,
    weights_requirement,
)
from common.export.cross_encoder import load_cross_encoder, save_cross_encoder
from projects.dse import tasks
from projects.dse.config import Config
from projects.dse.evaluate import evaluate, evaluate_pairs, judge_cosines
from projects.dse.module import DSE, SIZES, build_scorer, probe
from projects.dse.pair_classifier import PairClassifier, build_classifier, task_pairs
from projects.dse.scorer import load_scorer, save_scorer
from projects.dse.stages import stages

PROBES = [("A man plays a guitar.", "Someone makes music."), ("Two dogs run.", "A cat sleeps.")]


def student_experiment(cfg: Config) -> Experiment[DSE]:
    """Everything about the student."""

    def export(cfg: Config, module: DSE, folder: Path) -> None:
        save_scorer(module.scorer, folder)

    experiment = experiment_of(
        cfg,
        stages,
        evaluate,
        export,
        lambda cfg, folder: DSE(cfg, load_scorer(folder)),
        lambda cfg, module: probe(module, PROBES),
        student_plan,
        {"score": tasks.score, "table": tasks.table},
    )
    ranking = {"rank": partial(tasks.rank, cfg, experiment=experiment)}
    return replace(
        experiment,
        tasks={**experiment.tasks, **ranking},
        judges={Layout.PAIRS: partial(judge_cosines, cfg)},
    )


def teacher_experiment(cfg: Config) -> Experiment[PairClassifier]:
    """Everything about the cross-encoder; exported for ``AutoModelForSequenceClassification``."""

    def export(cfg: Config, module: PairClassifier, folder: Path) -> None:
        save_cross_encoder(module.classifier, folder)

    def load(cfg: Config, folder: Path) -> PairClassifier:
        return PairClassifier(
            cfg.optim, load_cross_encoder(folder), cfg.data.pair_task, cfg.eval.thresholds
        )

    return experiment_of(
        cfg,
        stages,
        evaluate_pairs,
        export,
        load,
        lambda cfg, module: {"scores": module.pair_logits(PROBES)},
        teacher_plan,
        {"score": tasks.score, "table": tasks.table},
    )


def student_plan(cfg: Config) -> Plan[DSE]:
    """What `make check` reports on."""

    def forward(module: DSE, batch_size: int) -> Tensor:
        ids = torch.ones(2 * batch_size, cfg.data.max_length, dtype=torch.long)
        # without a mask: transformers looks at its values, and meta tensors have none
        output = module.scorer.encoder.tower.model(input_ids=ids)
        total: Tensor = output.last_hidden_state.sum()
        return total

    needed = requirements(cfg)
    if cfg.distill.alpha > 0 and cfg.distill.scores is None:
        needed += weights_requirement(cfg.teacher.pretrained)
    needed += weights_requirement(cfg.student.encoder)
    return Plan(
        lambda: DSE(cfg, build_scorer(cfg, True)),
        _count(cfg, needed),
        forward,
        tuple(dict.fromkeys(needed)),
    )


def teacher_plan(cfg: Config) -> Plan[PairClassifier]:
    """The same of the teacher alone."""
    settings, task = cfg.teacher, cfg.data.pair_task

    def module() -> PairClassifier:
        absent = stand_in(settings.pretrained, SIZES)
        if absent is None:
            built = build_classifier(settings, task)
        else:
            sizes = {"vocab_size": 30522, **absent}
            built = cross_encoder(
                "random",
                config=sizes,
                num_labels=task.num_teacher_logits,
                max_length=settings.max_length,
            )
        return PairClassifier(cfg.optim, built, task)

    def forward(module: PairClassifier, batch_size: int) -> Tensor:
        ids = torch.ones(batch_size, settings.max_length, dtype=torch.long)
        total: Tensor = module.classifier.model(input_ids=ids).logits.sum()
        return total

    needed = requirements(cfg) + weights_requirement(settings.pretrained)
    return Plan(module, _count(cfg, needed), forward, needed)


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Data that the config needs."""
    task = cfg.data.pair_task
    folders = {"nli": "nli", "nli_binary": "nli", "stsb": "stsb", "same_intent": "intents"}
    if task.name in folders:
        return (bundled_requirement(folders[task.name]),)
    if task.name == "synthetic":
        return ()
    root = data_root(cfg.data.root)
    parts = [
        "train",
        *cfg.eval.parts,
        *([] if cfg.trainer.val_every_n_steps is None else [cfg.eval.dev]),
    ]
    parts = list(dict.fromkeys(parts))
    if task.name == "file":
        names = [name for part in parts for name in cfg.data.files(part)]
        places = [[Path(name), root / name] for name in names]
    else:
        names = [name for part in parts for name in task.files.get(part, ())]
        places = [[root / name, root / "glue_data" / name] for name in names]
    hint = "columns first, second, label" if task.name == "file" else "GLUE, see the card, Data"
    needs = []
    for name, paths in zip(names, places, strict=True):
        here = [path for path in paths if path.is_file()]
        needs.append(Requirement(f"data: {name}", str((here or paths[-1:])[0]), bool(here), hint))
    if cfg.distill.scores is not None and cfg.distill.alpha > 0:
        place = Path(cfg.distill.scores)
        needs.append(
            Requirement("data: teacher logits", str(place), place.exists(), "make run TASK=score")
        )
    return tuple(needs)


def _count(cfg: Config, needed: tuple[Requirement, ...]) -> int:
    """Training pairs; 0 where they are not here."""
    if cfg.data.task == "synthetic":
        return SYNTHETIC["train"]
    if not all(r.present for r in needed if r.name.startswith("data")):
        return 0
    try:
        return len(task_pairs(cfg.data, "train", cfg.seed))
    except UserError:
        return 0
