"""``eval.own`` for classifiers of texts: a user's texts with labels that the model knows."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError
from common.data.text.labelled.own_texts import read_own_texts
from common.data.text.labelled.readers import LabelledSet, Texts
from common.engine.workspace import Workspace
from common.evaluation.text.class_baselines import letters_fit, majority_fit, words_fit
from common.evaluation.text.classes import score_classes

Probabilities = Callable[[list[Texts]], np.ndarray]  # N texts -> (N, C)

SHOWN = 6  # texts of a gallery
NAMED = 5  # labels that a message lists


def judge_classes(
    rows: Mapping[str, Probabilities],
    train: Callable[[], LabelledSet],
    classes: Sequence[str],
    workspace: Workspace,
    path: Path,
    class_of: Callable[[str], str] = str,
) -> dict[str, float]:
    """Accuracy and macro F1 of a trained classifier on a user's labelled texts.

    Texts with labels that the model does not know are left out, counted and named.

    Args:
        rows: of the table, prefix -> probabilities of the classes: "" for the trained classifier,
            whose items and galleries are kept, and "untrained_".
        train: what the model was trained on, for the baselines.
        classes: C names, in the order of the probabilities.
        workspace: of the run.
        path: see `read_own_texts`.
        class_of: label of the file -> how the model calls the class.

    Returns:
        ``num_texts``, ``num_classes`` (of the model), ``num_skipped``; ``accuracy`` with
        ``_chance`` (the most frequent class of the texts) and ``macro_f1``, the same with the
        prefixes of the rows, ``majority_`` (the most frequent class in training), ``tfidf_words_``
        and ``tfidf_chars_``.

    Raises:
        UserError: no text has a known label; see `read_own_texts`.
    """
    rows_of_file, num_skipped = read_own_texts(path)
    pairs = [(text, class_of(label)) for text, label in rows_of_file]
    unknown = Counter(label for _, label in pairs if label not in classes)
    used = [(text, classes.index(label)) for text, label in pairs if label in classes]
    if not used:
        raise UserError(
            f"{path}: none of its labels ({_listed(unknown)}) is one of the {len(classes)} that"
            f" this model was trained on: {_listed(classes)}"
        )
    if num_skipped or unknown:
        left_out = f"; labels that training did not have are left out: {_listed(unknown)}"
        workspace.say(
            f"{path.name}: {num_skipped} rows have no text or no label{left_out if unknown else ''}"
        )
    texts: list[Texts] = [(text,) for text, _ in used]
    labels = np.array([label for _, label in used])
    metrics = {
        "num_texts": float(len(texts)),
        "num_classes": float(len(classes)),
        "num_skipped": float(num_skipped + sum(unknown.values())),
    }
    for prefix, predict in rows.items():
        probabilities = predict(texts)
        predicted = probabilities.argmax(1)
        metrics |= _scores(prefix, predicted, labels, len(classes))
        if not prefix:
            metrics["accuracy_chance"] = float(np.bincount(labels).max() / len(labels))
            workspace.items("accuracy", (predicted == labels).astype(float).tolist())
            _show(texts, labels, probabilities, classes, workspace)
    fitted = train()
    for name, fit in (
        ("majority_", majority_fit),
        ("tfidf_words_", words_fit()),
        ("tfidf_chars_", letters_fit()),
    ):
        metrics |= _scores(name, np.asarray(fit(fitted)(texts)), labels, len(classes))
    return metrics


def _scores(
    prefix: str, predicted: np.ndarray, labels: np.ndarray, num_classes: int
) -> dict[str, float]:
    values = score_classes(predicted, labels, num_classes)
    return {f"{prefix}{name}": values[name] for name in ("accuracy", "macro_f1")}


def _listed(names: Sequence[str] | Mapping[str, int]) -> str:
    first = list(names)[:NAMED]
    return ", ".join(first) + (", ..." if len(names) > NAMED else "")


def _show(
    texts: Sequence[Texts],
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    workspace: Workspace,
) -> None:
    """Galleries of the texts whose own class is most and least likely."""
    order = np.argsort(probabilities[np.arange(len(labels)), labels], kind="stable").tolist()
    for title, chosen in (("best texts", order[::-1][:SHOWN]), ("worst texts", order[:SHOWN])):
        rows: list[dict[str, Any]] = []
        for i in chosen:
            best = np.argsort(-probabilities[i], kind="stable")[:3].tolist()
            results = [
                {
                    "item": classes[c],
                    "score": float(probabilities[i, c]),
                    "correct": bool(c == labels[i]),
                }
                for c in best
            ]
            query = f"{' | '.join(texts[i])} ({classes[labels[i]]})"
            rows.append({"query": query, "results": results})
        workspace.gallery(title, rows)
