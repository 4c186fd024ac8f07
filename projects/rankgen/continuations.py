"""The generation stage, decoding side by side, and the tasks around them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import UserError
from common.data.lookup import data_root
from common.data.offline import OfflineCache
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.tables import write_jsonl
from common.data.text.books import (
    Chapter,
    Window,
    chapter_windows,
    halves,
    load_books,
    read_book_folder,
)
from common.decoding.language_model import LanguageModel
from common.decoding.policies import STRATEGIES, Policy
from common.engine.workspace import Workspace
from common.evaluation.generation import measures
from projects.rankgen.config import Config, Half, Part
from projects.rankgen.data import FILE, TripleList
from projects.rankgen.decode import Beam, Ranker, beam_search, rank, stream, tidy

GENERATION_STREAM = 67
REPEAT_SEED = 1_000_003  # between the seeds of two repeats, so that neighbouring seeds share none
BLOCK = 512  # windows per block of the offline cache
# part -> half and number of windows of the bundled set
BUNDLED_PARTS: dict[Part, tuple[Half, int]] = {
    "train": ("ranker", 2304),
    "dev": ("all", 192),
    "test": ("all", 448),
}
RANKED = ("perplexity", "overlap", "rerank")  # choices among the same samples
METHODS = (*STRATEGIES, *RANKED, "beam")
SAMPLED = ("ancestral", "nucleus", "top_k", "typical")  # what `decode.repeats` repeats
NOTHING = "(nothing: the language model ended the text at once)"
MAUVE_TEXTS = 20  # fewer give no figure


def language_model(cfg: Config) -> LanguageModel:
    """The generator of the config.

    Raises:
        UserError: absent or unfitting weights.
    """
    section = cfg.generator
    return LanguageModel.from_pretrained(section.model, section.device, section.amateur)


def policy_of(cfg: Config, strategy: str | None = None) -> Policy:
    """Decoding policy of the generator section, or another strategy with its options."""
    names = {f.name for f in fields(Policy)} & vars(cfg.generator).keys()
    chosen = {name: getattr(cfg.generator, name) for name in names}
    if cfg.generator.amateur is not None:
        chosen["amateur_context"] = None  # a smaller model sees what the expert sees
    return Policy(**chosen | ({"strategy": strategy} if strategy else {}))


# -- windows and generations ---------------------------------------------------------------------


def book_windows(cfg: Config) -> list[Window]:
    """Windows of the config's books and half, evenly thinned to `window.limit`.

    Raises:
        UserError: missing books, or no windows.
    """
    section = cfg.window
    chapters: list[Chapter] = (
        load_books(cfg.data.root, section.part)
        if section.books is None
        else list(read_book_folder(data_root(cfg.data.root) / section.books))
    )
    if section.half != "all":
        chapters = halves(chapters)[section.half == "ranker"]
    found = [
        window
        for chapter in chapters
        for window in chapter_windows(
            chapter,
            prefix_words=section.prefix_words,
            min_words=section.min_words,
            max_words=section.max_words,
            overlap=section.overlap,
            seed=cfg.seed,
        )
    ]
    if not found:
        raise UserError("the books have no window of these lengths; lower window.prefix_words")
    count = min(section.limit or len(found), len(found))
    return [found[i * len(found) // count] for i in range(count)]


def write_windows(cfg: Config, workspace: Workspace) -> Path:
    """Write prefix and continuation of every window (``TASK=windows``).

    ``window.half=generator`` gives the pairs to tune a language model on; they share no chapter
    with those of ``window.half=ranker``.
    """
    path = _output(cfg, workspace, "windows.jsonl")
    rows = [
        {"doc_id": w.book, "prefix": w.prefix, "gold": w.continuation} for w in book_windows(cfg)
    ]
    write_jsonl(path, rows)
    workspace.note(f"{len(rows)} windows: {path}")
    return path


def write_generations(cfg: Config, workspace: Workspace) -> Path:
    """Let the language model continue every prefix (``TASK=generate``); can be stopped and continued.

    A continuation has a token budget of `generator.tokens_per_word` times the words of the gold, is
    cut at its last sentence end, and is dropped with its window if fewer than
    `window.min_words` words are left.
    """
    path = _output(cfg, workspace, "triples.jsonl")
    rows = generated_rows(cfg, workspace)
    write_jsonl(path, rows)
    workspace.note(f"{len(rows)} windows have a continuation: {path}")
    return path


def write_bundled(cfg: Config, workspace: Workspace) -> Path:
    """Make the bundled triples again (``TASK=bundle``): parts and counts of `BUNDLED_PARTS`."""
    rows: list[dict[str, Any]] = []
    for part, (half, limit) in BUNDLED_PARTS.items():
        window = replace(cfg.window, books=None, part=part, half=half, limit=limit)
        own = generated_rows(replace(cfg, window=window), workspace)
        rows += [{"part": part, **row} for row in own]
    path = _output(cfg, workspace, FILE)
    write_jsonl(path, rows)
    workspace.note(f"{len(rows)} triples by {cfg.generator.model}: {path}")
    return path


def generated_rows(cfg: Config, workspace: Workspace) -> list[dict[str, Any]]:
    """``doc_id``, ``prefix``, ``gold`` and ``generated`` of the windows whose continuation is long enough."""
    windows, lm = book_windows(cfg), language_model(cfg)
    settings = {
        "model": cfg.generator.model, "policy": repr(policy_of(cfg)), "seed": cfg.seed,
        "tokens_per_word": cfg.generator.tokens_per_word, "min_words": cfg.window.min_words,
    }  # fmt: skip
    cache = OfflineCache(workspace.folder("cache"), settings)
    items = [(w.prefix, w.continuation) for w in windows]

    def compute(places: list[int]) -> list[dict[str, Any]]:
        return [{"generated": text} for text in generate(cfg, lm, [windows[i] for i in places])]

    cache.fill(
        items,
        compute,
        block_size=BLOCK,
        progress=lambda starts: workspace.progress(starts, "generate", len(starts)),
    )
    return [
        {
            "doc_id": w.book,
            "prefix": w.prefix,
            "gold": w.continuation,
            "generated": row["generated"],
        }
        for w, row in zip(windows, cache.rows(items), strict=True)
        if row["generated"] is not None
    ]


def generate(cfg: Config, lm: LanguageModel, windows: Sequence[Window]) -> list[str | None]:
    """One continuation per window, None where too little is left of it."""
    order = sorted(range(len(windows)), key=lambda i: len(windows[i].continuation))
    words = [len(windows[i].continuation.split()) for i in order]
    budgets = [math.ceil(cfg.generator.tokens_per_word * n) for n in words]
    # the stream belongs to the text, so that a window's continuation is the same in any selection
    keys = [int(stable_fraction(windows[i].prefix) * 2**31) for i in order]
    rngs = [sample_rng(cfg.seed, 0, key, GENERATION_STREAM) for key in keys]
    found = lm.continuations(
        [windows[i].prefix for i in order],
        policy_of(cfg),
        rngs,
        budgets,
        batch_size=cfg.generator.batch_size,
    )
    texts: list[str | None] = [None] * len(windows)
    for i, continuation in zip(order, found, strict=True):
        text = tidy(continuation.text)
        texts[i] = text if len(text.split()) >= cfg.window.min_words else None
    return texts


# -- decoding ------------------------------------------------------------------------------------


def decode_all(
    cfg: Config,
    ranker: Ranker,
    lm: LanguageModel,
    prefixes: Sequence[str],
    methods: Sequence[str],
    workspace: Workspace,
) -> dict[str, list[str]]:
    """Continuations of every prefix by every method, tidied.

    ``perplexity``, ``overlap`` and ``rerank`` choose from the same samples, of which ``nucleus`` is
    the first.

    Raises:
        UserError: unknown method.
    """
    for method in methods:
        if method not in METHODS:
            raise UserError(f"decode.methods: '{method}' is none of {', '.join(METHODS)}")
    found: dict[str, list[str]] = {method: [] for method in methods}
    for index, prefix in enumerate(workspace.progress(prefixes, "decode", len(prefixes))):
        for method, text in _decode_one(cfg, ranker, lm, prefix, index, methods).items():
            found[method].append(tidy(text))
    return found


def _decode_one(
    cfg: Config, ranker: Ranker, lm: LanguageModel, prefix: str, index: int, methods: Sequence[str]
) -> dict[str, str]:
    section, policy = cfg.decode, policy_of(cfg)
    texts: dict[str, str] = {}
    if any(name in methods for name in RANKED):
        rngs = [stream(cfg.seed, index, 0, j) for j in range(section.num_samples)]
        prompts = [prefix] * section.num_samples
        samples = lm.continuations(prompts, policy, rngs, section.max_tokens)
        plain = [sample.text for sample in samples]
        texts[policy.strategy] = plain[0]
        best: dict[str, Callable[[], str]] = {
            "rerank": lambda: rank(ranker, ranker.encode(prefix, "prefix")[0], samples)[0].text,
            "perplexity": lambda: plain[_most_likely(lm, prompts, plain)],
            "overlap": lambda: max(plain, key=lambda t: measures.word_overlap(t, prefix)[0]),
        }  # fmt: skip
        texts |= {name: choose() for name, choose in best.items() if name in methods}
    for name in methods:
        if name in STRATEGIES and name not in texts:
            rng = stream(cfg.seed, index, 0, 0)
            own = policy_of(cfg, name)
            texts[name] = lm.continuations([prefix], own, [rng], section.max_tokens)[0].text
    if "beam" in methods:
        texts["beam"] = search(cfg, ranker, lm, prefix, index)[0].text
    return {name: texts[name] for name in methods}


def _most_likely(lm: LanguageModel, prompts: Sequence[str], texts: Sequence[str]) -> int:
    """Place of the likeliest text per token; an empty one is never chosen before another."""
    value = lm.log_likelihood(prompts, [_filled(text) for text in texts])
    empty = torch.tensor([not text.strip() for text in texts])
    return int(value.masked_fill(empty, -torch.inf).argmax())


def search(cfg: Config, ranker: Ranker, lm: LanguageModel, prefix: str, index: int) -> list[Beam]:
    """Beam search with the settings of the config."""
    section = cfg.decode
    return beam_search(
        ranker,
        lm,
        prefix,
        policy_of(cfg),
        num_beams=section.num_beams,
        num_samples=section.beam_samples,
        segment_tokens=section.segment_tokens,
        max_tokens=section.max_tokens,
        seed=cfg.seed,
        index=index,
    )


def text_metrics(prefixes: Sequence[str], found: dict[str, list[str]]) -> dict[str, float]:
    """Repetition, overlap with the prefix and words of each method."""
    metrics: dict[str, float] = {}
    for name, texts in found.items():
        pairs = list(zip(prefixes, texts, strict=True))
        metrics |= {
            f"{name}_rep": float(np.mean([measures.repetition(p, t) for p, t in pairs])),
            f"{name}_overlap": float(np.mean([measures.word_overlap(t, p)[0] for p, t in pairs])),
            f"{name}_words": float(np.mean([len(t.split()) for t in texts])),
        }
    return metrics


def repeated_metrics(
    cfg: Config, lm: LanguageModel, ranker: Ranker, prefixes: Sequence[str],
    found: dict[str, list[str]], workspace: Workspace,
) -> dict[str, float]:  # fmt: skip
    """`text_metrics`, and MAUVE where it can be had; sampling strategies averaged over `decode.repeats`.

    Source: Krishna et al. 2022, arXiv 2205.09726 (five runs of each baseline that samples).
    ``<method>_<metric>_std`` is the standard deviation over the runs.

    ``found`` holds the first run's continuations, and those of "human" where there are any.
    """
    sampled = [name for name in found if name in SAMPLED]
    human = {name: texts for name, texts in found.items() if name == "human"}
    metrics = text_metrics(prefixes, found)
    with_mauve = True
    try:
        metrics |= mauve_metrics(prefixes, found, lm)
    except UserError as reason:
        with_mauve = False
        workspace.note(f"without MAUVE: {reason}")
        print(f"without MAUVE: {reason}")  # noqa: T201
    runs = [dict(metrics)]
    for repeat in range(1, cfg.decode.repeats if sampled else 1):
        own = replace(cfg, seed=cfg.seed + REPEAT_SEED * repeat)
        again = decode_all(own, ranker, lm, prefixes, sampled, workspace)
        runs.append(text_metrics(prefixes, again))
        if with_mauve:
            runs[-1] |= mauve_metrics(prefixes, again | human, lm)
    for name in runs[-1] if len(runs) > 1 else ():
        values = [run[name] for run in runs]
        metrics[name] = float(np.mean(values))
        metrics[f"{name}_std"] = float(np.std(values, ddof=1))
    return metrics


def mauve_metrics(
    prefixes: Sequence[str], found: dict[str, list[str]], lm: LanguageModel
) -> dict[str, float]:
    """MAUVE of each method against "human", on the generator's features of prefix and continuation.

    Raises:
        UserError: no human continuations, fewer than `MAUVE_TEXTS` prefixes, or no library.
    """
    if "human" not in found:
        raise UserError(
            "MAUVE needs human continuations: decode held-back chapters (decode.file=null)"
        )
    if len(prefixes) < MAUVE_TEXTS:
        raise UserError(f"MAUVE needs decode.num_prefixes >= {MAUVE_TEXTS}, here {len(prefixes)}")
    features = {
        name: lm.features([f"{p} {t}" for p, t in zip(prefixes, texts, strict=True)]).numpy()
        for name, texts in found.items()
    }
    human = features.pop("human")
    return {f"{name}_mauve": measures.mauve(human, x) for name, x in features.items()}


def decode_metrics(
    cfg: Config, ranker: Ranker, lm: LanguageModel, triples: TripleList, workspace: Workspace
) -> dict[str, float]:
    """A nucleus sample against the best-ranked of `decode.num_samples`, on evenly spaced prefixes."""
    count = min(cfg.eval.decode_prefixes, len(triples))
    rows = [triples[i * len(triples) // count] for i in range(count)]
    prefixes = [row.prefix for row in rows]
    methods = [policy_of(cfg).strategy, "rerank"]
    found = decode_all(cfg, ranker, lm, prefixes, methods, workspace)
    found["human"] = [row.gold for row in rows]
    workspace.gallery("continuations", side_by_side(ranker, prefixes, found))
    return text_metrics(prefixes, found)


def side_by_side(
    ranker: Ranker, prefixes: Sequence[str], found: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Gallery of the continuations with their scores; the human one is marked."""
    rows = []
    for i, prefix in enumerate(prefixes):
        texts = {name: texts[i] for name, texts in found.items()}
        vector = ranker.encode(prefix, "prefix")[0]
        value = ranker.encode([_filled(t) for t in texts.values()], "suffix") @ vector
        results = [
            {"name": name, "item": text or NOTHING, "score": float(score)}
            | ({"correct": True} if name == "human" else {})
            for (name, text), score in zip(texts.items(), value, strict=True)
        ]
        rows.append({"query": prefix, "results": results})
    return rows


def _filled(text: str) -> str:
    return text if text.strip() else "."


def _output(cfg: Config, workspace: Workspace, name: str) -> Path:
    path = workspace.folder(".") / name if cfg.window.output is None else Path(cfg.window.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
