"""Labels that a model makes: pseudo labels of unlabelled inputs, calibrated targets, folds.

# N examples, C classes
"""

from collections.abc import Iterator, Sequence

import numpy as np

from common.config import UserError
from common.data.samplers import sample_rng
from common.data.text.labelled.readers import LabelledSet, Texts

_FOLD_STREAM = 2**31 + 74


def folds(count: int, k: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places outside and inside of each of k folds, drawn by the seed; the folds part all places.

    Args:
        count: N.
        k: 2 to N.
        seed: of the draw.

    Raises:
        UserError: fewer examples than folds.

    >>> [inside.tolist() for _, inside in folds(3, 3, 0)].__len__()
    3
    """
    if not 2 <= k <= count:
        raise UserError(f"{count} examples cannot be cut into {k} folds: set self_calibration.k")
    order = sample_rng(seed, 0, 0, _FOLD_STREAM).permutation(count)
    for part in np.array_split(order, k):
        inside = np.sort(part)
        yield np.setdiff1d(np.arange(count), inside), inside


def calibrated(
    data: LabelledSet, probabilities: np.ndarray, threshold: float, mu: float
) -> tuple[LabelledSet, np.ndarray]:
    """Soft targets where a confident prediction contradicts the label; all else stays.

        q = (1 - mu) onehot(y) + mu p   if max_{c != y} p_c >= threshold

    Source: our reading of "self-calibrated fine-tuning" (Zhong et al. 2023, abstract, arXiv
    2302.09268); the form is that of bootstrapping, Reed et al. 2015, equation 6, arXiv 1412.6596.

    Args:
        data: N examples with classes.
        probabilities: (N, C) of models, best of ones that have not seen the example.
        threshold: in (0, 1].
        mu: in [0, 1]; 0 changes nothing.

    Returns:
        The set, its labels (N, C) float32 targets if any changed; and (N,) whether an example was
        flagged.

    Raises:
        ValueError: scores in place of classes, or other shapes.
    """
    labels, places = data.labels, np.arange(len(data))
    if (
        labels.ndim != 1
        or labels.dtype.kind != "i"
        or probabilities.shape != (len(data), len(data.classes))
    ):
        raise ValueError(
            f"labels {labels.shape} {labels.dtype} and probabilities {probabilities.shape} do"
            " not fit"
        )
    others = probabilities.copy()
    others[places, labels] = -1
    flagged = others.max(1) >= threshold
    if not mu or not flagged.any():
        return data, flagged
    hard = one_hot(labels, len(data.classes))
    mixed = (1 - mu) * hard + mu * probabilities.astype(np.float32)
    targets = np.where(flagged[:, None], mixed, hard).astype(np.float32)
    return LabelledSet(data.texts, targets, data.classes), flagged


def pseudo_labelled(
    texts: Sequence[Texts],
    predicted: np.ndarray,
    classes: Sequence[str],
    threshold: float,
    soft: bool,
) -> LabelledSet | None:
    """Inputs with the labels that a model gives them with confidence; None: there are none.

    Source: Lee 2013, "Pseudo-Label", section 2.1 (ICML workshop on challenges in representation
    learning).

    Args:
        texts: N.
        predicted: (N, C) probabilities; (N, 1) scores of a regression, all of which are taken.
        classes: C names.
        threshold: least probability of the most likely class.
        soft: probabilities as targets.
    """
    if len(classes) == 1:
        return LabelledSet(list(texts), predicted[:, 0].astype(np.float32), tuple(classes))
    kept = np.flatnonzero(predicted.max(1) >= threshold)
    if not len(kept):
        return None
    confident = predicted[kept]
    labels = confident.astype(np.float32) if soft else confident.argmax(1)
    return LabelledSet([texts[i] for i in kept], labels, tuple(classes))


def united(first: LabelledSet, second: LabelledSet | None) -> LabelledSet:
    """Examples of both; classes become one-hot rows where the other set has soft targets."""
    if second is None:
        return first
    labels_1, labels_2 = first.labels, second.labels
    if labels_1.ndim != labels_2.ndim:
        labels_1, labels_2 = (
            x if x.ndim == 2 else one_hot(x, len(first.classes)) for x in (labels_1, labels_2)
        )
    return LabelledSet(
        [*first.texts, *second.texts], np.concatenate([labels_1, labels_2]), first.classes
    )


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N,) classes -> (N, C) float32."""
    encoded: np.ndarray = np.eye(num_classes, dtype=np.float32)[labels]
    return encoded


def class_shares(data: LabelledSet | None, num_classes: int) -> list[float]:
    """Share of each class among (soft) labels; zeros of no data.

    A drift of pseudo labels shows here.
    """
    if data is None:
        return [0.0] * num_classes
    rows = data.labels if data.labels.ndim == 2 else one_hot(data.labels, num_classes)
    return [float(x) for x in rows.mean(0)]
