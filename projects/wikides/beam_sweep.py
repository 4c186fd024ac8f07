"""Candidates for re-ranking: the outputs of beam searches of several widths."""

from collections.abc import Iterable, Sequence

from common.decoding.sequence_to_sequence import SequenceToSequence


def distinct(texts: Iterable[str]) -> list[str]:
    """Texts without repetitions and empty ones, in the order of their first occurrence.

    >>> distinct(["b", "a", " b ", ""])
    ['b', 'a']
    """
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def beam_sweep(
    model: SequenceToSequence,
    texts: Sequence[str],
    widths: Sequence[int],
    max_new_tokens: int,
    *,
    batch_size: int = 16,
) -> list[list[str]]:
    """What beam search of each width writes for each text: one output a width, empty ones too.

    Candidates are the `distinct` ones of them.

    Source: Ta et al. 2023, "WikiDes", section 4 (candidates of phase II), arXiv 2209.13101.

    Args:
        model: an encoder-decoder.
        texts: N texts.
        widths: beams of each search; 1 is greedy search.
        max_new_tokens: most tokens of an output.
        batch_size: texts of a pass with one beam; wider searches get fewer, so that a pass has
            about as many rows.

    Returns:
        N lists of len(widths) texts without white space around them.

    Raises:
        ValueError: no width, or one below 1.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"beam widths must be at least 1, got {list(widths)}")
    runs = [
        model.beam_search(texts, width, max_new_tokens, batch_size=max(1, batch_size // width))
        for width in widths
    ]
    return [[text.strip() for text in outputs] for outputs in zip(*runs, strict=True)]
