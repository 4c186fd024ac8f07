"""Stages, evaluation, export and tasks put together."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from common.encoders.text.tuned.classifier import Texts
from common.engine.experiment import Experiment, experiment_of
from common.engine.workspace import Workspace
from common.export.tuned_classifier import load_classifier, save_classifier
from projects.peft_augmentation import tasks
from projects.peft_augmentation.classification.evaluation import evaluate_classifier
from projects.peft_augmentation.classification.module import scored_part
from projects.peft_augmentation.config import Config
from projects.peft_augmentation.copies import write_copies
from projects.peft_augmentation.module import PeftAugmentation
from projects.peft_augmentation.stages import plan, stages
from projects.peft_augmentation.table import table

PROBES = ("a small cat sleeps", "two men are repairing the roof of an old house")


def experiment(cfg: Config) -> Experiment[PeftAugmentation]:
    """Everything about the classifier."""
    base = experiment_of(
        cfg, stages, evaluate, export, load, embed, plan, {"copies": write_copies, "table": table}
    )
    further = {
        name: partial(task, cfg, experiment=base)
        for name, task in (("analyse", tasks.analyse), ("predict", tasks.predict))
    }
    return replace(base, tasks={**base.tasks, **further})


def evaluate(cfg: Config, module: PeftAugmentation, workspace: Workspace) -> dict[str, float]:
    """Scores on the test part and its altered copies; parameters that were trained."""
    metrics = evaluate_classifier(
        module.classifier,
        scored_part(cfg),
        module.task,
        cfg.eval,
        workspace,
        cfg.trainer.accelerator,
    )
    return {**metrics, "trained_parameters": float(module.classifier.num_trained())}


def export(cfg: Config, module: PeftAugmentation, folder: Path) -> None:
    """See `save_classifier`."""
    save_classifier(module.classifier, folder, merge=cfg.export.merge)


def load(cfg: Config, folder: Path) -> PeftAugmentation:
    """See `load_classifier`."""
    return PeftAugmentation(cfg, load_classifier(folder))


def embed(cfg: Config, module: PeftAugmentation) -> dict[str, Tensor]:
    """Vectors and logits of two texts, compared after export and reload."""
    pair = module.task.num_texts == 2
    texts: list[Texts] = [(text, PROBES[0]) if pair else (text,) for text in PROBES]
    vectors = module.classifier.encode(texts)
    return {"vectors": vectors, "logits": module.classifier.score(texts)}
