"""Raw strings to mirror: sentences, a lexicon, or the lines of a file; views and batches."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from common.config import UserError
from common.data.lookup import bundled
from common.data.samplers import sample_rng
from common.data.tables import read_jsonl
from common.data.text.augment import SpanMask
from common.data.text.sets import load_sentences, load_sts
from common.data.text.synthetic import synthetic_sentences
from common.data.text.views import TextViews
from common.families.sentences.data import text_path
from projects.mirror_bert.config import Config, MirrorData
from projects.mirror_bert.lexicon import training_titles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rng = np.random.Generator
T = TypeVar("T")
_DRAW_STREAM = 41  # which strings of a bundled source are taken
_SEPARATOR = "||"  # of the two texts of a line, in pairwise files


class MirrorViews:
    """Text augmentation of one access: the first view stays raw, the second is span-masked.

    Source: Liu et al. 2021, section 2, arXiv 2104.08027.

    Args:
        span: the masking of the second view.
    """

    def __init__(self, span: SpanMask) -> None:
        self.span = span

    def __call__(self, text: str, rng: Rng, view: int) -> str:
        """Text of a view (0 or 1)."""
        return text if view == 0 else self.span(text, rng)


def training_rows(cfg: Config) -> list[tuple[str, ...]]:
    """Strings (one column) or pairs (two columns) of the config's source, without labels.

    - sentences: half from the STS-B training pairs, half from ``sentences-en``; texts of the STS-B
      development and test parts are left out.
    - lexicon: half job titles of the training part of ESCO, half WordNet lemmas.
    - file: the lines of ``data.file``, or ``text1||text2`` lines if ``data.pairwise``.
    - synthetic: made-up sentences.

    Raises:
        UserError: missing files, too few strings, or a file without usable lines.
    """
    data = cfg.data
    if data.source == "file":
        return _file_rows(cfg)
    if data.source == "synthetic":
        return [(text,) for text in synthetic_sentences(data.limit or 200, seed=cfg.seed)]
    if data.source == "lexicon":
        wordnet = read_jsonl(bundled("wordnet", data.root) / "synsets.jsonl.gz", ("lemmas",))
        lemmas = (lemma.replace("_", " ") for row in wordnet for lemma in row["lemmas"])
        pools = [training_titles(data.root), list(lemmas)]
    else:
        pools = _sentence_pools(data)
    first = _distinct(pools[0])
    pools = [first, _distinct(pools[1], first)]
    if data.limit is not None:
        share = [data.limit - data.limit // 2, data.limit // 2]
        pools = [_draw(*job, cfg.seed) for job in zip(pools, share, strict=True)]
    return [(text,) for pool in pools for text in pool]


def mirror_views(cfg: Config, tokenizer: "PreTrainedTokenizerBase") -> TextViews:
    """Training set of two views of every string, for the tokenizer of the encoder."""
    return TextViews(
        training_rows(cfg),
        tokenizer,
        max_length=cfg.data.max_length,
        seed=cfg.seed,
        views=2,
        augment_text=MirrorViews(span_mask(cfg, tokenizer)),
    )


def num_samples(cfg: Config) -> int:
    """Training strings; 0 if their file is missing."""
    try:
        return len(training_rows(cfg))
    except UserError:
        return 0


def span_mask(cfg: Config, tokenizer: "PreTrainedTokenizerBase") -> SpanMask:
    """Span masking of the config, with the literal string or the tokenizer's own mask token.

    Raises:
        UserError: the tokenizer has no mask token.
    """
    options, mask = cfg.augment, "[MASK]"
    if options.mask == "tokenizer":
        if tokenizer.mask_token is None:
            raise UserError("this tokenizer has no mask token: set augment.mask=literal")
        mask = str(tokenizer.mask_token)
    return SpanMask(options.span_chars, options.min_chars, mask)


def _file_rows(cfg: Config) -> list[tuple[str, ...]]:
    path = text_path(cfg.data)
    if not path.is_file():
        raise UserError(
            f"data.file: {path} does not exist; give a text file of one string per line"
        )
    lines = [line.rstrip("\r") for line in path.read_text(encoding="utf-8").split("\n")]
    rows: list[tuple[str, ...]] = [tuple(line.split(_SEPARATOR)) for line in lines if line]
    if cfg.data.pairwise:
        rows = [row for row in rows if len(row) == 2]
    else:
        rows = [(line,) for line in lines if line]
    if cfg.data.dedup:
        rows = list(dict.fromkeys(rows))
    if not rows:
        layout = f"'text1{_SEPARATOR}text2'" if cfg.data.pairwise else "text"
        raise UserError(f"{path} has no line of {layout}")
    return rows if cfg.data.limit is None else _draw(rows, cfg.data.limit, cfg.seed)


def _sentence_pools(data: MirrorData) -> list[list[str]]:
    held_out = {
        text
        for name in ("stsb-dev", "stsb-test")
        for pairs in [load_sts(data.root, name)]
        for text in (*pairs.first, *pairs.second)
    }
    stsb = load_sts(data.root, "stsb-train")
    pools = [[*stsb.first, *stsb.second], load_sentences(data.root, sources=data.parts or None)]
    return [[text for text in pool if text not in held_out] for pool in pools]


def _draw(pool: list[T], count: int, seed: int) -> list[T]:
    """Some of the strings, in their order."""
    if count > len(pool):
        raise UserError(f"{count} strings requested, {len(pool)} available: lower data.limit")
    chosen = sample_rng(seed, 0, 0, _DRAW_STREAM).permutation(len(pool))[:count]
    return [pool[i] for i in sorted(chosen)]


def _distinct(texts: Iterable[str], seen: Iterable[str] = ()) -> list[str]:
    """The texts once each, in order, without the known ones."""
    taken = set(seen)
    return [text for text in dict.fromkeys(texts) if text not in taken]
