"""Stages, evaluation, export and tasks put together."""

from dataclasses import replace
from functools import partial

from common.engine.experiment import Experiment, experiment_of
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from projects.space2 import folder, tasks
from projects.space2.config import Config
from projects.space2.evaluate import evaluate as evaluate_trees
from projects.space2.finetune import Finetune, evaluate_task
from projects.space2.module import Space2
from projects.space2.stages import plan, stages


def experiment(cfg: Config) -> Experiment[ContrastiveModule]:
    """Everything about the encoder or the fine-tuned model."""
    base = experiment_of(
        cfg,
        stages,
        evaluate,
        folder.export,
        folder.load,
        folder.embed,
        plan,
        {"convert": tasks.convert},
    )
    classify = partial(tasks.classify, cfg, experiment=base)
    predict = partial(tasks.predict, cfg, experiment=base)
    return replace(base, tasks={**base.tasks, "classify": classify, "predict": predict})


def evaluate(cfg: Config, module: ContrastiveModule, workspace: Workspace) -> dict[str, float]:
    """Tree scores of unseen services after pre-training, the task's metric after fine-tuning."""
    if isinstance(module, Finetune):
        return evaluate_task(cfg, module, workspace)
    assert isinstance(module, Space2)
    return evaluate_trees(cfg, module, workspace)
