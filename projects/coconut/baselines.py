"""Baselines of COCONUT: the most frequent class, and class means of spectra."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.speech.spoken import SpokenSet
from common.encoders.speech.speech_towers import LogMel
from common.engine.workspace import Workspace
from projects.coconut.config import Config
from projects.coconut.continual import TaskResults, average_accuracy_items
from projects.coconut.data import build_scenario
from projects.coconut.incremental import ClassIncremental
from projects.coconut.stages import Task

SEGMENTS = 6  # parts of equal length into which an utterance is averaged
NUM_ORDERS = 20  # class orders that the nearest mean is averaged over


def majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """After every task its first class for all utterances (classes are balanced)."""
    shared = Task(cfg)
    first = torch.full(
        (shared.scenario.num_tasks, len(shared.test.spoken)), shared.scenario.order[0]
    )
    return _reported(_items(shared, shared.scenario, first), workspace)


def nearest_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The class whose mean log-mel spectrum in six segments is nearest, among those seen so far.

    Means are made of a class's utterances when its task comes and stay: nothing is trained or
    forgotten. Distances are in deviations of the training utterances seen so far. Where the seed
    draws the class order, all values are means over the orders of the twenty seeds ``cfg.seed``,
    ``cfg.seed`` + 1, ...
    """
    shared = Task(cfg)
    train, test = (spectra(part.spoken) for part in (shared.train, shared.test))
    labels = shared.train.spoken.labels
    means = torch.stack([train[labels == c].mean(0) for c in range(shared.scenario.num_classes)])
    seeds = range(cfg.seed, cfg.seed + NUM_ORDERS) if cfg.data.order_by_seed else [cfg.seed]
    by_order = []
    for seed in seeds:
        scenario, said = build_scenario(replace(cfg, seed=seed)), list[Tensor]()
        for task in range(scenario.num_tasks):
            seen = torch.tensor(scenario.seen(task))
            spread = train[torch.isin(labels, seen)].std(0).clamp(min=1e-6)
            said.append(seen[torch.cdist(test / spread, means[seen] / spread).argmin(1)])
        by_order.append(_items(shared, scenario, torch.stack(said)))
    return _reported(torch.stack(by_order).mean(0), workspace)


def nearest_intents(train: SpokenSet, judged: SpokenSet) -> list[str]:
    """The intent whose mean spectrum over the training utterances is nearest, per utterance."""
    names = sorted({target.intent for target in train.targets})
    labels = torch.tensor([names.index(target.intent) for target in train.targets])
    heard = spectra(train)
    spread = heard.std(0).clamp(min=1e-6)
    means = torch.stack([heard[labels == c].mean(0) for c in range(len(names))])
    nearest = torch.cdist(spectra(judged) / spread, means / spread).argmin(1)
    return [names[c] for c in nearest.tolist()]


def spectra(spoken: SpokenSet) -> Tensor:
    """(N, 6 * 40) log-mel spectra, averaged over six parts of each utterance."""
    mel = LogMel(spoken.sample_rate)
    rows = []
    with torch.inference_mode():
        for i in range(len(spoken)):
            wave = spoken.waveforms[i][None]
            frames, _ = mel(wave, torch.tensor([wave.shape[1]]))
            rows.append(F.adaptive_avg_pool1d(frames.transpose(1, 2), SEGMENTS).flatten())
    return torch.stack(rows)


def _items(shared: Task, scenario: ClassIncremental, said: Tensor) -> Tensor:
    """Average and last accuracy per test utterance (2, N), from classes (T, N) after each task."""
    labels = shared.test.spoken.labels
    tasks = scenario.tasks(labels)
    seen = torch.arange(len(said))[:, None] >= tasks
    scores = torch.where(seen, (said == labels).double(), torch.nan)
    return torch.stack([average_accuracy_items(TaskResults(scores, tasks)), scores[-1]])


def _reported(items: Tensor, workspace: Workspace) -> dict[str, float]:
    metrics = dict(zip(("avg_accuracy", "last_accuracy"), items, strict=True))
    for name, values in metrics.items():
        workspace.items(name, values.tolist())
    return {name: float(values.mean()) for name, values in metrics.items()}
