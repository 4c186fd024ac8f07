"""Transfer tasks of SentEval: logistic regression on frozen sentence embeddings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import UserError, nearest
from common.data.text.options import TRANSFER_NAMES
from common.data.text.sets import joined, senteval_folder, senteval_lines
from common.evaluation.features.linear_probe import fit_logistic_regression, l2_of
from common.evaluation.matrices import as_matrix
from common.evaluation.text.sts_protocol import Encode, encode_distinct

# SentEval with scikit-learn; a grid of their own have its tasks with a test part and no development
# part (TREC, MRPC)
C_GRID: tuple[float, ...] = tuple(2.0**e for e in range(-2, 4))
TEST_C_GRID: tuple[float, ...] = tuple(2.0**e for e in range(-1, 6))
SPLIT_SEED = 1111  # SentEval's
_POLARITY = {  # task -> files of class 1 and class 0
    "MR": ("rt-polarity.pos", "rt-polarity.neg"),
    "CR": ("custrev.pos", "custrev.neg"),
    "SUBJ": ("subj.objective", "subj.subjective"),
    "MPQA": ("mpqa.pos", "mpqa.neg"),
}
_TREC = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with classes; pair tasks have a second text for each."""

    texts: list[str]
    labels: list[int]
    second: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TransferTask:
    """A classification task: without `test` it is cross-validated, with `dev` that part selects."""

    name: str
    train: LabelledTexts
    test: LabelledTexts | None = None
    dev: LabelledTexts | None = None
    f1: bool = False  # also report the F1 of class 1


def load_transfer(root: str | None, name: str) -> TransferTask:
    """Read one task in SentEval's official layout.

    Args:
        root: ``cfg.data.root``; see `common.data.text.sets.senteval_folder`.
        name: one of `TRANSFER_NAMES`.

    Raises:
        UserError: unknown name, missing or damaged files.
    """
    if name not in TRANSFER_NAMES:
        raise UserError(f"unknown transfer task '{name}'{nearest(name, TRANSFER_NAMES)}")
    try:
        return _read_task(senteval_folder(root), name)
    except ValueError as error:
        raise UserError(f"the files of {name} are damaged: {error}") from error


def _read_task(folder: Path, name: str) -> TransferTask:
    if name in _POLARITY:
        sides = [_full_lines(folder / name / file, "latin-1") for file in _POLARITY[name]]
        labels = [1] * len(sides[0]) + [0] * len(sides[1])
        return TransferTask(name, LabelledTexts([joined(t) for t in sides[0] + sides[1]], labels))
    if name == "SST2":
        train, dev, test = (
            _sst2(folder / "SST" / "binary" / f"sentiment-{part}")
            for part in ("train", "dev", "test")
        )
        return TransferTask(name, train, test, dev)
    if name == "TREC":
        train, test = (_trec(folder / name / f) for f in ("train_5500.label", "TREC_10.label"))
        return TransferTask(name, train, test)
    train, test = (_mrpc(folder / name / f"msr_paraphrase_{p}.txt") for p in ("train", "test"))
    return TransferTask(name, train, test, f1=True)


def evaluate_transfer(
    encode: Encode,
    tasks: Mapping[str, TransferTask],
    *,
    folds: int = 10,
    c_grid: tuple[float, ...] | None = None,
    seed: int = SPLIT_SEED,
) -> dict[str, float]:
    """Accuracy of a logistic regression on frozen embeddings.

    Tasks without a test part: stratified k-fold cross-validation, where each fold's strength of
    regularisation is chosen by an inner k-fold on the other folds. Tasks with a test part: chosen
    on the development part or by k-fold on the training part, then fitted on the training part.
    Pairs are described by ``[|u - v|, u * v]``. Features are taken as they are.

    Source: Conneau & Kiela 2018, "SentEval", arXiv 1803.05449 (the variant with scikit-learn).
    Deviation: the reported numbers of SimCSE stop Adam early on the development fold; here the
    objective is minimised, so that the accuracy does not depend on an optimiser's seed.

    Args:
        encode: maps N texts to (N, D).
        tasks: by name.
        folds: k >= 2 of the outer and inner cross-validation; SentEval: 10, its fast mode: 5.
        c_grid: candidates of C, the inverse of the penalty on the sum of losses; None for
            SentEval's.
        seed: of the folds.

    Returns:
        ``<task>_accuracy`` and ``_chance`` (the most frequent class of the scored part), ``_f1``
        for MRPC, and ``transfer_average_accuracy``; names in lower case.

    Raises:
        ValueError: no tasks, or a class with fewer members than folds.
    """
    if not tasks or folds < 2 or c_grid == ():
        raise ValueError("transfer needs a task, at least two folds and a candidate for C")
    metrics: dict[str, float] = {}
    for name, task in tasks.items():
        features = _Features(encode, task)
        train, labels = features(task.train)
        alone = task.test is not None and task.dev is None
        grid = c_grid or (TEST_C_GRID if alone else C_GRID)
        if task.test is None:
            predicted, scored = _cross_validated(train, labels, folds, grid, seed), task.train
        else:
            test, _ = features(task.test)
            dev = None if task.dev is None else features(task.dev)
            c = _choose_c(train, labels, dev, folds, grid, seed)
            predicted, scored = _fit_predict(train, labels, test, c), task.test
        gold, prefix = torch.tensor(scored.labels), name.lower().replace("-", "_")
        metrics[f"{prefix}_accuracy"] = float((predicted == gold).double().mean())
        metrics[f"{prefix}_accuracy_chance"] = float(gold.bincount().max()) / len(gold)
        if task.f1:
            metrics[f"{prefix}_f1"] = _f1(predicted, gold)
    accuracies = [value for name, value in metrics.items() if name.endswith("_accuracy")]
    return metrics | {"transfer_average_accuracy": sum(accuracies) / len(accuracies)}


class _Features:
    """Embeddings of a task's distinct texts, looked up per part."""

    def __init__(self, encode: Encode, task: TransferTask) -> None:
        parts = [part for part in (task.train, task.dev, task.test) if part is not None]
        texts = [text for part in parts for text in (*part.texts, *(part.second or ()))]
        self.embeddings, self.row = encode_distinct(encode, texts)

    def __call__(self, part: LabelledTexts) -> tuple[Tensor, Tensor]:
        """(N, D) features, (N, 2D) for pairs, and (N,) labels."""
        u = self._rows(part.texts)
        if part.second is not None:
            v = self._rows(part.second)
            u = torch.cat([(u - v).abs(), u * v], dim=1)
        return u, torch.tensor(part.labels)

    def _rows(self, texts: list[str]) -> Tensor:
        return as_matrix(self.embeddings[[self.row[text] for text in texts]], "embeddings")


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of every sample; each class is spread evenly over the folds.

    Args:
        labels: (N,) int64.
        folds: k.
        seed: of the assignment.

    Returns:
        (N,) int64 in [0, k).

    Raises:
        ValueError: a class has fewer members than folds.
    """
    generator = np.random.default_rng(seed)
    assigned, offset = torch.zeros_like(labels), 0
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero()[:, 0]
        if len(members) < folds:
            raise ValueError(f"class {label} has {len(members)} samples for {folds} folds")
        order = members[torch.from_numpy(generator.permutation(len(members)))]
        assigned[order] = (torch.arange(len(members)) + offset) % folds
        offset += len(members)
    return assigned


def _cross_validated(
    x: Tensor, y: Tensor, folds: int, c_grid: tuple[float, ...], seed: int
) -> Tensor:
    """Prediction of every sample by a classifier that has not seen its fold, (N,)."""
    predicted, fold_of = torch.empty_like(y), stratified_folds(y, folds, seed)
    for fold in range(folds):
        held = fold_of == fold
        c = _choose_c(x[~held], y[~held], None, folds, c_grid, seed)
        predicted[held] = _fit_predict(x[~held], y[~held], x[held], c)
    return predicted


def _choose_c(
    x: Tensor,
    y: Tensor,
    dev: tuple[Tensor, Tensor] | None,
    folds: int,
    c_grid: tuple[float, ...],
    seed: int,
) -> float:
    """C with the most correct predictions on `dev`, else by k-fold; the smallest of equals."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    if dev is not None:
        parts.append((x, y, *dev))
    elif len(c_grid) > 1:
        fold_of = stratified_folds(y, folds, seed)
        for fold in range(folds):
            held = fold_of == fold
            parts.append((x[~held], y[~held], x[held], y[held]))
    grid = sorted(c_grid)
    correct = np.zeros(len(grid), dtype=np.int64)
    for fit_x, fit_y, held_x, held_y in parts:
        solution = None
        for i, c in enumerate(grid):
            solution = _fit(fit_x, fit_y, c, initial=solution)
            correct[i] += int((_predict(solution, held_x) == held_y).sum())
    return grid[int(correct.argmax())]


def _fit_predict(x: Tensor, y: Tensor, test: Tensor, c: float) -> Tensor:
    return _predict(_fit(x, y, c), test)


def _fit(
    x: Tensor, y: Tensor, c: float, initial: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    classes = max(2, int(y.max()) + 1)
    l2 = l2_of(c, len(x), classes)
    return fit_logistic_regression(x, y, l2, classes, initial=initial, tolerance=1e-4)


def _predict(solution: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, *solution).argmax(dim=1)


def _f1(predicted: Tensor, gold: Tensor) -> float:
    hits = int(((predicted == 1) & (gold == 1)).sum())
    total = int((predicted == 1).sum()) + int((gold == 1).sum())
    return 2 * hits / total if total else 0.0


def _sst2(path: Path) -> LabelledTexts:
    """Lines of a text, a tab and the label."""
    rows = _split(path, "utf-8", lambda line: line.strip().rsplit("\t", 1))
    return LabelledTexts([joined(row[0]) for row in rows], [int(row[1]) for row in rows])


def _trec(path: Path) -> LabelledTexts:
    """Lines ``COARSE:fine question``; the coarse class counts."""
    rows = _split(path, "latin-1", lambda line: line.strip().split(":", 1))
    unknown = sorted({row[0] for row in rows} - set(_TREC))
    if unknown:
        raise UserError(f"{path}: unknown question classes {', '.join(unknown)}")
    texts = [joined(row[1].partition(" ")[2]) for row in rows]
    return LabelledTexts(texts, [_TREC.index(row[0]) for row in rows])


def _mrpc(path: Path) -> LabelledTexts:
    """Header, then label, two ids and two texts, separated by tabs."""
    rows = _split(path, "utf-8", lambda line: line.strip().split("\t"), header=1, fields=5)
    return LabelledTexts(
        [joined(row[3]) for row in rows],
        [int(row[0]) for row in rows],
        [joined(row[4]) for row in rows],
    )


def _split(
    path: Path,
    encoding: str,
    cells: Callable[[str], list[str]],
    *,
    header: int = 0,
    fields: int = 2,
) -> list[list[str]]:
    rows = [cells(line) for line in _full_lines(path, encoding)[header:]]
    for number, row in enumerate(rows, start=header + 1):
        if len(row) < fields:
            raise UserError(f"{path}, line {number}: {len(row)} fields, expected {fields}")
    return rows


def _full_lines(path: Path, encoding: str) -> list[str]:
    return [line for line in senteval_lines(path, encoding) if line.strip()]
