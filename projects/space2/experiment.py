"""Stages, evaluation, export and tasks put together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from common.data.layouts import Layout
from common.encoders.modes import evaluated, untrained
from common.engine.experiment import Experiment, experiment_of
from common.engine.module import ContrastiveModule
from common.engine.own_texts import Rows, judge_labelled, judge_pairs
from common.engine.workspace import Workspace
from common.evaluation.text.sts_protocol import Encode
from projects.space2 import folder, tasks
from projects.space2.config import Config
from projects.space2.evaluate import evaluate as evaluate_trees
from projects.space2.finetune import Finetune, evaluate_task
from projects.space2.inference import DialogModel
from projects.space2.module import Space2
from projects.space2.network import Space2Network, build_network
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
    return replace(
        base,
        tasks={**base.tasks, "classify": classify, "predict": predict},
        judges={
            Layout.LABELLED: lambda m, workspace, path: judge_labelled(
                _rows(cfg, m), workspace, path
            ),
            Layout.PAIRS: lambda m, workspace, path: judge_pairs(_rows(cfg, m), workspace, path),
        },
    )


def _rows(cfg: Config, module: ContrastiveModule) -> Rows:
    """Sentence vectors of requests, by the trained encoder and the one before training."""
    assert isinstance(module, Space2 | Finetune)
    raw = untrained(lambda: build_network(cfg), cfg.seed, module.network)

    @contextmanager
    def encoding(network: Space2Network) -> Iterator[Encode]:
        with evaluated(network, cfg.trainer.accelerator):
            yield lambda texts: DialogModel(network).encode(texts, cfg.eval.batch_size)

    return {"": encoding(module.network), "untrained_": encoding(raw)}


def evaluate(cfg: Config, module: ContrastiveModule, workspace: Workspace) -> dict[str, float]:
    """Tree scores of unseen services after pre-training, the task's metric after fine-tuning."""
    if isinstance(module, Finetune):
        return evaluate_task(cfg, module, workspace)
    assert isinstance(module, Space2)
    return evaluate_trees(cfg, module, workspace)
