"""Text triplets and phrases from a language model: prompts, parsing, what is refused."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from common.data.text.lexical import words
from common.data.text.tokenizers import ClipTokenizer
from common.decoding.options import Policy, ServerConfig
from projects.rtd.config import MakePhrases, MakeTriplets
from projects.rtd.triplets import Triplet, clean, same_text

if TYPE_CHECKING:
    from common.data.row_map.chunks import RowFunction, RowSeed

TOKEN_STREAM = 91
END = "###"
MAX_TOKENS = 77  # of CLIP's vocabulary, start and end included
DEMONSTRATIONS = (
    ("a brown dog sleeps on a sofa", "turn the dog into a cat", "a brown cat sleeps on a sofa"),
    ("two red apples in a bowl", "make the apples green", "two green apples in a bowl"),
    ("a man rides a bicycle in the rain", "let the sun shine", "a man rides a bicycle in the sun"),
    (
        "a photo of a quiet street",
        "add a yellow taxi",
        "a photo of a quiet street with a yellow taxi",
    ),
    ("three birds on a wire", "leave only one bird", "one bird on a wire"),
)
REQUEST = (
    "Change one thing in each picture: an object, an attribute, the style, the background or a"
    " number. Write a short instruction and the caption of the changed picture; keep all other"
    " words."
)


def build_prompt(caption: str) -> str:
    """Request, demonstrations, and the caption whose instruction and edit are asked for."""
    shown = [
        f"Caption: {old}\nInstruction: {change}\nEdited: {new}\n{END}"
        for old, change, new in DEMONSTRATIONS
    ]
    return "\n".join([REQUEST, *shown, f"Caption: {caption}\nInstruction:"])


def parse(answer: str, caption: str, min_overlap: float) -> Triplet | None:
    r"""The triplet in what a model wrote, or None if it is refused.

    Refused: no instruction or edit, an edit that says the same, one of more than 77 tokens, and one
    that keeps less than `min_overlap` of the caption's words.

    >>> parse(" make it blue\nEdited: a blue car\n###", "a red car", 0.3).condition
    'make it blue'
    """
    text = answer.split(END, 1)[0]
    match = re.match(r"\s*(?:Instruction:)?\s*(?P<c>[^\n]*?)\s*\n\s*Edited:\s*(?P<t>[^\n]*)", text)
    if match is None:
        return None
    condition, edited = match["c"].strip(), match["t"].strip()
    if not condition or not edited or same_text(edited, caption):
        return None
    if too_long(edited) or too_long(condition):
        return None
    old, new = set(words(caption)), set(words(edited))
    if len(old & new) < min_overlap * len(old):
        return None
    return Triplet(*map(clean, (caption, condition, edited)))


def too_long(text: str) -> bool:
    """Whether CLIP's text tower would cut a text."""
    return bool(_tokenizer()(text)[0, MAX_TOKENS])  # a shorter row is padded with zeros


@lru_cache(1)
def _tokenizer() -> ClipTokenizer:
    return ClipTokenizer(MAX_TOKENS + 1)


def build_editor(cfg: MakeTriplets, server: ServerConfig) -> "RowFunction":
    """Captions of a chunk -> triplets as lists, or None where every attempt was refused."""
    from common.decoding.generators import text_generator
    from common.decoding.prompts import Prompt

    generate = text_generator(
        cfg.model, editor_policy(cfg), server, batch_size=cfg.batch_size, stop="#"
    )

    def edit(captions: Sequence[str], seeds: "Sequence[RowSeed]") -> list[list[str] | None]:
        triplets: list[list[str] | None] = [None] * len(captions)
        left = list(range(len(captions)))
        for attempt in range(1 + cfg.retries):
            if not left:
                break
            prompts = [Prompt(build_prompt(captions[i])) for i in left]
            rngs = [seeds[i].rng(TOKEN_STREAM, attempt) for i in left]
            for i, text in zip(left, generate(prompts, rngs, cfg.max_new_tokens), strict=True):
                triplet = parse(text, captions[i], cfg.min_overlap)
                triplets[i] = None if triplet is None else list(triplet)
            left = [i for i in left if triplets[i] is None]
        return triplets

    return edit


def editor_policy(cfg: MakeTriplets) -> Policy:
    """Sampling of the editor; InstructPix2Pix's temperature."""
    return Policy("ancestral", temperature=cfg.temperature)


def build_writer(cfg: MakePhrases, server: ServerConfig) -> "RowFunction":
    """Rows ``[concept, number]`` -> a phrase each that begins with "a photo of <concept>"."""
    from common.decoding.generators import text_generator
    from common.decoding.prompts import Prompt

    generate = text_generator(
        cfg.model, writer_policy(cfg), server, batch_size=cfg.batch_size, stop="\n"
    )

    def write(rows: Sequence[tuple[str, int]], seeds: "Sequence[RowSeed]") -> list[tuple[str, str]]:
        begun = [f"a photo of {concept}" for concept, _ in rows]
        prompts = [Prompt("", begun=text) for text in begun]
        rngs = [seed.rng(TOKEN_STREAM) for seed in seeds]
        texts = generate(prompts, rngs, cfg.max_new_tokens)
        return [(row[0], clean(text)) for row, text in zip(rows, texts, strict=True)]

    return write


def holding(concept: str, phrase: str) -> str | None:
    """A cleaned phrase with the concept in its own case, as `oti.Phrases` looks for it.

    None without it.

    >>> holding("Golden Retriever", "a photo of golden retriever on a lawn")
    'a photo of Golden Retriever on a lawn'
    """
    lowered = concept.lower()
    start = phrase.find(lowered)
    return None if start < 0 else phrase[:start] + concept + phrase[start + len(lowered) :]


def writer_policy(cfg: MakePhrases) -> Policy:
    """Sampling of the phrases; SEARLE's values by default."""
    return Policy("ancestral", temperature=cfg.temperature, no_repeat_ngram=cfg.no_repeat_ngram)
