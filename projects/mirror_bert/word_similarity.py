"""Word similarity: Spearman of cosine and human rating on pairs of words."""

from collections.abc import Mapping
from pathlib import Path

from common.config import UserError
from common.data.tables import read_csv
from common.data.text.sets import StsSet
from common.evaluation.text.sts_protocol import Encode, evaluate_sts


def load_word_pairs(
    path: str | Path,
    *,
    first: str = "word1",
    second: str = "word2",
    score: str = "SimLex999",
    subset: str | None = "POS",
    delimiter: str = "\t",
) -> StsSet:
    """Word pairs with a rating; the defaults fit ``SimLex-999.txt``.

    Source: Hill et al. 2015, "SimLex-999", arXiv 1408.3456.

    Args:
        path: table with a header.
        first: column of the first word.
        second: column of the second word.
        score: column of the rating.
        subset: column of the subset (word class); None: no subsets.
        delimiter: between columns.

    Raises:
        UserError: file or column missing, no rows, or a rating that is not a number.
    """
    path = Path(path).expanduser()
    columns = [first, second, score, *([subset] if subset else [])]
    rows = read_csv(path, columns, delimiter=delimiter)
    if not rows:
        raise UserError(f"{path} has no word pairs")
    try:
        scores = [float(row[score]) for row in rows]
    except ValueError as error:
        raise UserError(f"{path}, column '{score}': {error}") from error
    return StsSet(
        path.stem,
        [row[first].strip() for row in rows],
        [row[second].strip() for row in rows],
        scores,
        [row[subset] for row in rows] if subset else [],
    )


def evaluate_word_similarity(
    encode: Encode, sets: Mapping[str, StsSet]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Spearman of cosine and rating, each distinct word encoded once.

    Source: Liu et al. 2021, "Mirror-BERT", section 4 (lexical tasks), arXiv 2104.08027.

    Args:
        encode: maps N words to (N, D).
        sets: as `load_word_pairs` reads them, by name.

    Returns:
        Metrics and the cosine of every pair by the set's name: as `evaluate_sts`, the mean over the
        sets named ``word_similarity_average_spearman``.

    Raises:
        ValueError: as `evaluate_sts`.
    """
    metrics, cosines = evaluate_sts(encode, sets)
    average = metrics.pop("sts_average_spearman")
    return metrics | {"word_similarity_average_spearman": average}, cosines
