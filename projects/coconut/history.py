"""What was right after which task: kept in the module, so that checkpoints carry it."""

from typing import Any

import torch
from torch import Tensor, nn

from projects.coconut.continual import TaskResults
from projects.coconut.evaluation_options import SpeechEval

UNKNOWN = -1


class History(nn.Module):
    """Results of T evaluations on N test utterances.

    Attributes:
        correct: (T, N) int32, 1 where the generated intent was right, -1 where not evaluated.
        edits_full: (T, N) int32 word edits of the whole output.
        edits_transcript: (T, N) int32 word edits of the transcript.
        features: (N, D) float32 pooled audio features after the last finished task.
        cosine: (T,) mean cosine of those features of old classes before and after a task.
        settings: (T, 4) split and search of every evaluation, NaN where they are unknown.
    """

    correct: Tensor
    edits_full: Tensor
    edits_transcript: Tensor
    features: Tensor
    cosine: Tensor
    settings: Tensor

    def __init__(self, num_tasks: int, num_items: int, dim: int) -> None:
        super().__init__()
        for name in ("correct", "edits_full", "edits_transcript"):
            empty = torch.full((num_tasks, num_items), UNKNOWN, dtype=torch.int32)
            self.register_buffer(name, empty)
        self.register_buffer("features", torch.zeros(num_items, dim))
        self.register_buffer("cosine", torch.full((num_tasks,), torch.nan))
        self.register_buffer("settings", torch.full((num_tasks, 4), torch.nan))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        unknown = torch.full_like(self.settings, torch.nan)
        state_dict.setdefault(f"{prefix}settings", unknown)  # older checkpoints have none
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def record(self, task: int, rows: Tensor, correct: Tensor, full: Tensor, said: Tensor) -> None:
        """Note the results of one task for some items.

        Args:
            task: index of the finished task.
            rows: (K,) test items.
            correct: (K,) whether the intent was right.
            full: (K,) word edits of the whole output.
            said: (K,) word edits of the transcript.
        """
        for buffer, values in (
            (self.correct, correct),
            (self.edits_full, full),
            (self.edits_transcript, said),
        ):
            buffer[task, rows.to(buffer.device)] = values.to(buffer.device, torch.int32)

    def record_features(self, task: int, rows: Tensor, features: Tensor, old: Tensor) -> None:
        """Keep the features of some items, and how far those of old classes have moved.

        Args:
            task: index of the finished task.
            rows: (K,) test items.
            features: (K, D).
            old: (K,) bool, items of classes of earlier tasks.
        """
        rows, features = rows.to(self.features.device), features.to(self.features.device)
        if bool(old.any()):
            before, after = self.features[rows][old], features[old]
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
            self.cosine[task] = cosine.mean()
        self.features[rows] = features

    def record_settings(self, task: int, how: SpeechEval) -> None:
        """Note how the outputs after a task were generated."""
        values = [how.split == "dev", how.beam_size, how.length_power, how.max_length]
        self.settings[task] = self.settings.new_tensor([float(value) for value in values])

    def comparable(self) -> bool:
        """Whether all evaluations whose settings are known had the same ones."""
        recorded = self.settings[~self.settings.isnan().any(1)]
        return bool((recorded == recorded[:1]).all())

    def copy_from(self, other: "History") -> None:
        """Take over what another module knows."""
        self.load_state_dict(other.state_dict())

    def complete(self) -> bool:
        """Whether every task has been evaluated."""
        return bool((self.correct != UNKNOWN).any(1).all())

    def results(self, tasks: Tensor) -> TaskResults:
        """Accuracies as `TaskResults`; tasks (N,) of the items."""
        scores = self.correct.float().cpu()
        return TaskResults(scores.masked_fill(scores == UNKNOWN, torch.nan), tasks)

    def word_error_rates(self, edits: Tensor, words: Tensor) -> list[float]:
        """Corpus word error rate after each task over the items evaluated then.

        Args:
            edits: (T, N), one of the buffers.
            words: (N,) words of the references.
        """
        recorded = edits.cpu() != UNKNOWN
        total = (edits.cpu().double() * recorded).sum(1)
        rates: list[float] = (total / (words * recorded).sum(1)).tolist()
        return rates
