"""Mentions of entities in alt-texts: by dictionary, by an NER model, or by a language model."""

import re
from collections.abc import Callable, Iterable, Sequence

from common.data.samplers import Rng
from common.data.text.stop_words import FUNCTION_WORDS
from common.decoding.prompts import Prompt, TextGenerator
from common.encoders.text.tagger import span_tagger
from projects.mofi.knowledge import LONGEST, Knowledge, name_spans

Extractor = Callable[[Sequence[str], Sequence[Rng]], list[list[str]]]
NONE = "NONE"
PROMPT = (
    "List every named or fine-grained object, person, place or species that this caption mentions, "
    f"one per line, exactly as written. Answer {NONE} if there is none.\n\nCaption: {{text}}"
)


def checked_mentions(mentions: Iterable[str], text: str, limit: int = 8) -> list[str]:
    """Mentions that stand in the text (whatever their case), without repetition or stop words.

    Args:
        mentions: proposed mentions.
        text: the alt-text.
        limit: mentions that are kept, the first ones.

    Returns:
        The mentions as the text writes them.

    >>> checked_mentions(["LARK", "the", "eagle", "lark"], "A lark over the field")
    ['lark']
    """
    kept: dict[str, str] = {}
    for mention in mentions:
        mention = mention.strip()
        if not mention or all(w in FUNCTION_WORDS for w in mention.lower().split()):
            continue
        place = re.search(re.escape(mention), text, re.IGNORECASE)
        if place is not None:
            kept.setdefault(mention.lower(), place.group())
    return list(kept.values())[:limit]


def dictionary_mentions(text: str, knowledge: Knowledge) -> list[str]:
    """Longest aliases from left to right; none overlaps another."""
    spans = [match.span() for match in re.finditer(r"[A-Za-z]+", text)]
    mentions, i = [], 0
    while i < len(spans):
        for count in range(min(LONGEST, len(spans) - i), 0, -1):
            piece = text[spans[i][0] : spans[i + count - 1][1]]
            if (
                len(piece) > 2
                and piece.lower() not in FUNCTION_WORDS
                and knowledge.candidates(piece)
            ):
                mentions.append(piece)
                i += count
                break
        else:
            i += 1
    return mentions


def named_mentions(text: str, knowledge: Knowledge) -> list[str]:
    """As `dictionary_mentions`, but letters of every script and digits count.

    See `NamedKnowledge`.
    """
    spans = name_spans(text)
    mentions, i = [], 0
    while i < len(spans):
        for count in range(min(LONGEST, len(spans) - i), 0, -1):
            piece = text[spans[i][0] : spans[i + count - 1][1]]
            function = piece.lower() in FUNCTION_WORDS or too_short(piece)
            if not function and knowledge.candidates(piece):
                mentions.append(piece)
                i += count
                break
        else:
            i += 1
    return mentions


def too_short(piece: str) -> bool:
    """One sign, or two that are both Latin letters without accent or both digits.

    >>> [too_short(piece) for piece in ("3M", "in", "42", "747")]
    [False, True, True, False]
    """
    plain = piece.isdigit() or (piece.isascii() and piece.isalpha())
    return len(piece) < 2 or (len(piece) == 2 and plain)


def named_extractor(knowledge: Knowledge, limit: int) -> Extractor:
    """Alias lookup of ``TASK=build``."""

    def extract(texts: Sequence[str], rngs: Sequence[Rng]) -> list[list[str]]:
        return [checked_mentions(named_mentions(t, knowledge), t, limit) for t in texts]

    return extract


def dictionary_extractor(knowledge: Knowledge, limit: int) -> Extractor:
    """Alias lookup."""

    def extract(texts: Sequence[str], rngs: Sequence[Rng]) -> list[list[str]]:
        return [checked_mentions(dictionary_mentions(t, knowledge), t, limit) for t in texts]

    return extract


def parse_mentions(answer: str) -> list[str]:
    r"""Lines of an answer without list marks; nothing for NONE.

    >>> parse_mentions("- a red kite\n2. Loch Ness")
    ['a red kite', 'Loch Ness']
    """
    lines = [re.sub(r"^\s*(?:[-*]|\d+[.)])\s*", "", line).strip() for line in answer.splitlines()]
    return [line for line in lines if line and line.upper() != NONE]


def lm_extractor(generate: TextGenerator, limit: int, max_new_tokens: int) -> Extractor:
    """A language model's list; what the caption does not say is dropped."""

    def extract(texts: Sequence[str], rngs: Sequence[Rng]) -> list[list[str]]:
        prompts = [Prompt(PROMPT.format(text=" ".join(t.split())), turn=True) for t in texts]
        answers = generate(prompts, rngs, max_new_tokens)
        pairs = zip(answers, texts, strict=True)
        return [checked_mentions(parse_mentions(a), text, limit) for a, text in pairs]

    return extract


def ner_extractor(model: str, limit: int, batch_size: int, device: str = "auto") -> Extractor:
    """Spans of a token-classification model.

    Raises:
        UserError: see `span_tagger`.
    """
    spans = span_tagger(model, batch_size, device)

    def extract(texts: Sequence[str], rngs: Sequence[Rng]) -> list[list[str]]:
        pairs = zip(spans(texts), texts, strict=True)
        return [checked_mentions(row, text, limit) for row, text in pairs]

    return extract
