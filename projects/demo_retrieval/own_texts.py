"""``eval.own``: a user's texts with labels of one of the targets."""

from pathlib import Path

import numpy as np
import torch

from common.config import UserError
from common.data.text.labelled.own_texts import read_own_texts
from common.data.text.labelled.readers import LabelledSet, Texts
from common.encoders.modes import evaluated, untrained
from common.engine.own_classes import Probabilities, judge_classes
from common.engine.workspace import Workspace
from common.evaluation.matrices import blocks
from projects.demo_retrieval.batches import EvalRows
from projects.demo_retrieval.config import Config
from projects.demo_retrieval.module import DemoRetrieval
from projects.demo_retrieval.sources import Task, spoken
from projects.demo_retrieval.stages import build_module, demonstrations_of, make_bank, read_tasks


def judge_texts(
    cfg: Config, module: DemoRetrieval, workspace: Workspace, path: Path
) -> dict[str, float]:
    """The label of largest likelihood, with demonstrations of the model's bank, see `judge_classes`.

    Labels are compared as words: ``AddToPlaylist`` is "add to playlist". Of several targets that
    one counts which has most labels of the file.

    Raises:
        UserError: no target has labels, or none of the file's.
    """
    tasks = read_tasks(cfg)
    if module.bank is None:
        module.bank = make_bank(cfg, tasks)
    labelled = [task for task in tasks.targets if task.labels]
    if not labelled:
        raise UserError("eval.own takes labelled texts, and no target of data.targets has labels")
    named = {spoken(label) for _, label in read_own_texts(path)[0]}
    task = max(labelled, key=lambda task: len(named & {*task.labels}))
    raw = untrained(lambda: build_module(cfg, module.bank), cfg.seed, module)
    rows = {"": _probabilities(cfg, module, task), "untrained_": _probabilities(cfg, raw, task)}
    known = [example for example in task.train if example.answers[0] in task.labels]
    train = LabelledSet(
        [(example.context,) for example in known],
        np.array([task.labels.index(example.answers[0]) for example in known]),
        task.labels,
    )
    return judge_classes(rows, lambda: train, task.labels, workspace, path, spoken)


def _probabilities(cfg: Config, module: DemoRetrieval, task: Task) -> Probabilities:
    """Texts in the question of a task -> probabilities of its labels."""

    def predict(texts: list[Texts]) -> np.ndarray:
        assert module.encoder is not None
        pattern = task.train[0]._replace(answers=(), id="")
        examples = [pattern._replace(context=text) for (text,) in texts]
        rows = EvalRows(examples, module.encoder, demonstrations_of(cfg, module.bank), cfg.seed)
        parts = []
        with evaluated(module, cfg.trainer.accelerator):
            device = next(module.parameters()).device
            for part in blocks(len(rows), cfg.eval.batch_size):
                batch = rows.collate(list(range(len(rows)))[part])
                for name in ("input_ids", "attention_mask", "scores"):
                    batch[name] = batch[name].to(device)
                parts.append(module.ranked(batch, task.labels).softmax(1).cpu())
        shares: np.ndarray = torch.cat(parts).numpy()
        return shares

    return predict
