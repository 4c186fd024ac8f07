"""The two phases on texts of one's own: rank candidates, describe paragraphs."""

from collections.abc import Sequence

from common.decoding.sequence_to_sequence import SequenceToSequence
from projects.wikides.beam_sweep import beam_sweep, distinct
from projects.wikides.candidates import fitting
from projects.wikides.config import MethodConfig
from projects.wikides.data import Row
from projects.wikides.encoder import RankerEncoder, load_encoder
from projects.wikides.evaluate import score_rows, similarities

__all__ = ["describe", "load_encoder", "rank"]

Ranked = list[tuple[str, float]]


def rank(
    encoder: RankerEncoder,
    paragraph: str,
    candidates: Sequence[str],
    method: MethodConfig | None = None,
) -> Ranked:
    """Candidates with their scores, best first.

    Args:
        encoder: trained, or any text encoder around `RankerEncoder`.
        paragraph: what is described.
        candidates: at least one.
        method: how scores are made; None: as the exported folder says, and by similarity for an
            encoder of no folder. ``MethodConfig(use_rouge=True)`` fuses it with ROUGE-1.

    Raises:
        ValueError: no candidates.
    """
    return rank_all(encoder, [paragraph], [candidates], method)[0]


def rank_all(
    encoder: RankerEncoder,
    paragraphs: Sequence[str],
    candidates: Sequence[Sequence[str]],
    method: MethodConfig | None = None,
    batch_size: int = 64,
) -> list[Ranked]:
    """As `rank`, for many paragraphs at once."""
    if not all(candidates):
        raise ValueError("every paragraph needs a candidate")
    rows = [
        Row(p, "", tuple(row_scores)) for p, row_scores in zip(paragraphs, candidates, strict=True)
    ]
    method = method or encoder.method or MethodConfig()
    scores = score_rows(method, rows, similarities(encoder, rows, batch_size))
    rankings = []
    for row, row_scores in zip(rows, scores, strict=True):
        values = [float(score) for score in row_scores]
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)
        rankings.append([(row.candidates[i], values[i]) for i in order])
    return rankings


def describe(
    generator: SequenceToSequence,
    encoder: RankerEncoder,
    paragraph: str,
    widths: Sequence[int] = (1, 2, 5, 10),
    max_new_tokens: int = 64,
    method: MethodConfig | None = None,
) -> Ranked:
    """Descriptions of a paragraph, best first: one search a beam width, then the ranker.

    Args:
        generator: of phase I, or any encoder-decoder.
        encoder: of phase II.
        paragraph: what is described.
        widths: beams of each search.
        max_new_tokens: most tokens of a description; no more than the generator has positions.
        method: see `rank`.

    Returns:
        Nothing if the generator writes nothing.
    """
    (outputs,) = beam_sweep(generator, [paragraph], widths, fitting(generator, max_new_tokens))
    candidates = distinct(outputs)
    return rank(encoder, paragraph, candidates, method) if candidates else []
