"""Documents of texts and pictures, and of clips, as one text with a place for each picture.

Layouts: MMC4 (``text_list``, ``image_info[].image_base64``, ``similarity_matrix``); OBELICS as the
COSMO release stores it (``texts``, ``image_info`` and ``score``, see `obelics_document`); clips:
see `clips`.
"""

import ast
import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.data.samplers import Rng
from projects.cosmo.interleaved.options import CaptionUse

VISUAL, END_OF_CHUNK, BEGIN_OF_CHUNK, HUMAN, GPT = (
    "<visual>",
    "<|endofchunk|>",
    "<|beginofchunk|>",
    "<human>",
    "<gpt>",
)
SPECIAL_TOKENS = (END_OF_CHUNK, VISUAL, BEGIN_OF_CHUNK, HUMAN, GPT)
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
NOISE, NOISE_BOUND = 0.025, 0.08  # of similarities
WINDOW_SHIFT = 20  # tokens that a window may begin before its first picture


class Document(NamedTuple):
    """A text with special tokens, and the picture of each ``<visual>`` in it, in order."""

    text: str
    pictures: tuple[int, ...]


class Window(NamedTuple):
    """Tokens of a document, and which of its places for pictures are among them."""

    ids: list[int]
    first: int
    places: int


def plain(text: str) -> str:
    """A source's text without our special tokens, which would be read as places for pictures.

    >>> plain("a page about `<visual>` tags ")
    'a page about ` ` tags'
    """
    return _SPECIAL.sub(" ", text).strip()  # a blank, so that what is left makes no further one


# -- captions ------------------------------------------------------------------------------------


def choose_caption(stored: str, use: CaptionUse, rng: Rng) -> str:
    r"""One of the captions of a pair, ``caption<TAB>generated<EOC>generated...``.

    Args:
        stored: what the pair's text file holds; without a tab there is one caption.
        use: ``noisy_only`` the original; ``clean_only`` a generated one; ``mixed`` the original or
            a generated one, each in half of the cases; ``first``, ``last`` that generated one;
            ``random`` any.
        rng: of this access.

    >>> choose_caption("an original\tone<EOC>two", "last", np.random.default_rng(0))
    'two'
    """
    original, _, rest = stored.strip().partition("\t")
    clean = [text.strip() for text in rest.split("<EOC>") if text.strip()]
    if use == "noisy_only" or not clean:
        return original
    if use in ("first", "last"):
        return clean[0 if use == "first" else -1]
    drawn = clean[int(rng.integers(len(clean)))]
    if use == "clean_only":
        return drawn
    if use == "mixed":
        return original if rng.random() < 0.5 else drawn
    return [original, *clean][int(rng.integers(1 + len(clean)))]


def caption_document(caption: str, rng: Rng, blank_prob: float = 0.5) -> Document:
    """``<visual>`` with its caption, before which a blank stands in a share of the cases.

    >>> caption_document("a bus", np.random.default_rng(0), 0.0).text
    '<visual>a bus<|endofchunk|>'
    """
    blank = " " if rng.random() < blank_prob else ""
    return Document(f"{VISUAL}{blank}{plain(caption)}{END_OF_CHUNK}", (0,))


# -- pictures and sentences ----------------------------------------------------------------------


def match(similarity: ArrayLike, threshold: float, rng: Rng | None = None) -> list[tuple[int, int]]:
    """The assignment of pictures to sentences with the largest sum of similarities.

    Source: Zhu et al. 2023, "Multimodal C4", section 3, arXiv 2304.06939; noise and threshold: the
    COSMO release.

    Args:
        similarity: (I, S), pictures by sentences.
        threshold: pairs below it (before noise) are left out.
        rng: draws N(0, 0.025) within 0.08, added to what is assigned by; None: none.

    Returns:
        (picture, sentence), by sentence; at most one sentence a picture and one picture a sentence.

    >>> match([[0.9, 0.8], [0.8, 0.1]], 0.24)
    [(1, 0), (0, 1)]
    """
    from scipy.optimize import linear_sum_assignment

    values = np.atleast_2d(np.asarray(similarity, dtype=np.float64))
    noise: Any = 0.0
    if rng is not None:
        noise = np.clip(rng.normal(0, NOISE, values.shape), -NOISE_BOUND, NOISE_BOUND)
    rows, columns = linear_sum_assignment(values + noise, maximize=True)
    pairs = [
        (int(i), int(j)) for i, j in zip(rows, columns, strict=True) if values[i, j] > threshold
    ]
    return sorted(pairs, key=lambda pair: pair[1])


def mmc4_document(
    sentences: Sequence[str], pairs: Sequence[tuple[int, int]], most_tokens: int
) -> Document:
    """Sentences in order, those with a picture after ``<|endofchunk|><visual>``.

    Args:
        sentences: S texts, cut to `most_tokens` * 4 / 3 characters each.
        pairs: (picture, sentence), see `match`.
        most_tokens: of a training window.

    >>> mmc4_document(["one", "two", "three"], [(4, 1)], 128)
    Document(text='one<|endofchunk|><visual>two three<|endofchunk|>', pictures=(4,))
    """
    picture = {sentence: i for i, sentence in pairs}
    parts = []
    for number, sentence in enumerate(sentences):
        text = plain(sentence)[: most_tokens * 4 // 3]
        parts.append(f"{END_OF_CHUNK}{VISUAL}{text}" if number in picture else text)
    joined = " ".join(parts).replace(f" {END_OF_CHUNK}", END_OF_CHUNK)
    text = joined.removeprefix(END_OF_CHUNK) + END_OF_CHUNK
    return Document(text, tuple(i for i, _ in sorted(pairs, key=lambda pair: pair[1])))


_PAIR = re.compile(r"t(\d+)_i(\d+)")


def obelics_scores(score: str, places: int) -> NDArray[np.float64]:
    """Similarities of a document's places, (P, P), pictures by texts; 0 where the score names none.

    Args:
        score: a list, written as in Python, of ``["t<place>_i<place>", similarity]`` with the
            text's place first.
        places: P.

    Raises:
        ValueError: another form, or a place that is not there.

    >>> obelics_scores('[["t0_i1", 0.3]]', 2)
    array([[0. , 0. ],
           [0.3, 0. ]])
    """
    try:
        pairs = [(str(name), float(value)) for name, value in ast.literal_eval(score)]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"score is not a list of ['t0_i1', value]: {str(score)[:40]!r}") from error
    scores = np.zeros((places, places))
    for name, value in pairs:
        pair = _PAIR.fullmatch(name)
        text, picture = (int(pair[1]), int(pair[2])) if pair else (places, places)
        if max(text, picture) >= places:
            raise ValueError(f"score names {name!r}, no pair such as t0_i1 of {places} places")
        scores[picture, text] = value
    return scores


def obelics_document(
    texts: Sequence[str | None], pictures: Sequence[Any], score: str, rng: Rng, most_tokens: int
) -> Document:
    """Each picture before the text that fits it best; in half of the cases in reverse order.

    Texts and pictures stand at the P places of a document. A picture without a similarity above 0
    is left out, as in the COSMO release.

    Args:
        texts: P of them, None at the places of pictures.
        pictures: P of them, None at the places of texts.
        score: see `obelics_scores`.
        rng: of this access.
        most_tokens: see `mmc4_document`.

    Returns:
        The document; its pictures are places.

    Raises:
        ValueError: not as many texts as pictures, or a score that does not belong to them.

    >>> rng = np.random.default_rng(0)
    >>> obelics_document(["a dog", None], [None, "..."], '[["t0_i1", 0.3]]', rng, 128)
    Document(text='<visual>a dog<|endofchunk|>', pictures=(1,))
    """
    if len(texts) != len(pictures):
        raise ValueError(f"{len(texts)} places for texts and {len(pictures)} for pictures")
    spoken = {i: text for i, text in enumerate(texts) if text is not None}
    shown = [i for i, picture in enumerate(pictures) if picture is not None]
    scores = obelics_scores(score, len(texts))
    similarity = scores[np.ix_(shown, list(spoken))]
    if (similarity > 0).sum() < (scores > 0).sum():
        raise ValueError("score compares places other than a text and a picture")
    words = list(spoken.values())
    best = {
        i: words[int(row.argmax())]
        for i, row in zip(shown, similarity, strict=True)
        if (row > 0).any()
    }
    order = list(best)[:: -1 if rng.random() < 0.5 else 1]
    parts = [f"{VISUAL}{plain(best[i])[: most_tokens * 4 // 3]}{END_OF_CHUNK}" for i in order]
    return Document("".join(parts), tuple(order))


def clip_document(captions: Sequence[str]) -> Document:
    """Adjacent clips of a video, each before its caption.

    >>> clip_document(["he cuts", "he eats"]).text
    '<visual>he cuts<|endofchunk|><visual>he eats<|endofchunk|>'
    """
    parts = [f"{VISUAL}{plain(caption)}{END_OF_CHUNK}" for caption in captions]
    return Document("".join(parts), tuple(range(len(parts))))


def document_of(row: Mapping[str, Any], threshold: float, most_tokens: int, rng: Rng) -> Document:
    """A stored document of MMC4's or OBELICS' layout.

    Raises:
        KeyError, TypeError, ValueError: another layout, or no picture that fits a sentence.
    """
    if "text_list" in row:
        pairs = match(row["similarity_matrix"], threshold, rng)
        document = mmc4_document(row["text_list"], pairs, most_tokens)
    else:
        parts = row["texts"], row["image_info"], row["score"]
        document = obelics_document(*parts, rng, most_tokens)
    if not document.pictures:
        raise ValueError("no picture of the document fits a sentence")
    return document


def picture_content(entry: str | Mapping[str, Any]) -> bytes:
    """A picture of ``image_info``: base64 (OBELICS), or a mapping with ``image_base64``."""
    return base64.b64decode(entry if isinstance(entry, str) else entry["image_base64"])


# -- windows -------------------------------------------------------------------------------------


def token_window(
    ids: Sequence[int], visual: int, length: int, most_pictures: int, rng: Rng | None = None
) -> Window:
    """At most `length` tokens around a picture, with at most so many pictures.

    A longer document is read from a random place for a picture, 0 to 20 tokens before it, such that
    no other place comes first; it ends before a picture too many.

    Args:
        ids: tokens of the document.
        visual: id of the token for a picture.
        length: most tokens.
        most_pictures: most places among them.
        rng: of this access; None: from the start.

    >>> token_window([5, 9, 6, 9, 7, 9, 8], visual=9, length=10, most_pictures=2)
    Window(ids=[5, 9, 6, 9, 7], first=0, places=2)
    """
    spots = [i for i, token in enumerate(ids) if token == visual]
    start = 0
    if rng is not None and len(ids) > length and spots:
        number = int(rng.integers(len(spots)))
        earliest = spots[number - 1] + 1 if number else 0
        start = max(earliest, spots[number] - int(rng.integers(WINDOW_SHIFT + 1)))
    end = min(len(ids), start + length)
    within = [i for i in spots if start <= i < end]
    if len(within) > most_pictures:
        end = within[most_pictures]
        within = within[:most_pictures]
    return Window(list(ids[start:end]), sum(i < start for i in spots), len(within))
