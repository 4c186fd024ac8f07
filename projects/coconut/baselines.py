"""What COCONUT has to beat: the commonest class, and class means of spectra, which forget nothing."""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.speech.spoken import SpokenSet
from common.encoders.speech.speech_towers import LogMel
from common.engine.workspace import Workspace
from common.evaluation.speech.continual import TaskResults, average_accuracy_items
from projects.coconut.config import Config
from projects.coconut.stages import Task

SEGMENTS = 6  # parts of equal length into which an utterance is averaged


def majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """After every task its first class for all utterances (classes are balanced)."""
    shared = Task(cfg)
    said = [shared.scenario.seen(task)[:1] * len(shared.test.spoken) for task in _tasks(shared)]
    return _judged(shared, torch.tensor(said), workspace)


def nearest_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The class whose mean log-mel spectrum in six segments is nearest, among those seen so far.

    Means are made of a class's utterances when its task comes and stay: nothing is trained or forgotten.
    """
    shared = Task(cfg)
    train, test = (spectra(part.spoken) for part in (shared.train, shared.test))
    centre, spread = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - centre) / spread, (test - centre) / spread
    labels = shared.train.spoken.labels
    means = torch.stack([train[labels == c].mean(0) for c in range(shared.scenario.num_classes)])
    distances = torch.cdist(test, means)
    said = []
    for task in _tasks(shared):
        unseen = torch.ones(shared.scenario.num_classes, dtype=torch.bool)
        unseen[list(shared.scenario.seen(task))] = False
        said.append(distances.masked_fill(unseen, torch.inf).argmin(1))
    return _judged(shared, torch.stack(said), workspace)


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


def _tasks(shared: Task) -> range:
    return range(shared.scenario.num_tasks)


def _judged(shared: Task, said: Tensor, workspace: Workspace) -> dict[str, float]:
    """Metrics of classes (T, N) that are said after each task."""
    labels, tasks = shared.test.spoken.labels, shared.test_tasks
    seen = torch.arange(len(said))[:, None] >= tasks
    scores = torch.where(seen, (said == labels).double(), torch.nan)
    items = average_accuracy_items(TaskResults(scores, tasks))
    workspace.items("avg_accuracy", items.tolist())
    workspace.items("last_accuracy", scores[-1].tolist())
    return {"avg_accuracy": float(items.mean()), "last_accuracy": float(scores[-1].mean())}
