"""Decoding side by side, with and without the ranker."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from common.config import UserError, to_dict
from common.data.offline import content_digest
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import Once, RowMap, map_rows
from common.decoding.language_model import LanguageModel
from common.decoding.options import STRATEGIES
from common.engine.workspace import Workspace
from common.evaluation.generation import measures
from projects.rankgen.config import Config
from projects.rankgen.data import TripleList
from projects.rankgen.decode import Beam, Ranker, beam_search, rank, stream, tidy
from projects.rankgen.generate import policy_of

REPEAT_SEED = 1_000_003  # between the seeds of two repeats, so that neighbouring seeds share none
CHUNK = 16  # prefixes in a file of finished continuations
RANKED = ("perplexity", "overlap", "rerank")  # choices among the same samples
METHODS = (*STRATEGIES, *RANKED, "beam")
SAMPLED = ("ancestral", "nucleus", "top_k", "typical")  # what `decode.repeats` repeats
NOTHING = "(nothing: the language model ended the text at once)"
MAUVE_TEXTS = 20  # fewer give no figure
# options of `decode` that continuations depend on
DECODING = ("num_samples", "num_beams", "beam_samples", "segment_tokens", "max_tokens")


def language_model(cfg: Config) -> LanguageModel:
    """The generator of the config.

    Raises:
        UserError: absent or unfitting weights, or an endpoint, which gives no probabilities.
    """
    section = cfg.generator
    if section.endpoint is not None:
        raise UserError(
            "only TASK=generate and TASK=bundle take generator.endpoint; decoding next to a ranker"
            " and likelihoods need a local generator.model"
        )
    return LanguageModel.from_pretrained(section.model, section.device, section.amateur)


def mauve_judge(cfg: Config, lm: LanguageModel) -> Callable[[], LanguageModel]:
    """The model of MAUVE's features, loaded at its first use: `decode.mauve_model` or `lm`."""
    place = cfg.decode.mauve_model
    if place is None:
        return lambda: lm
    return Once(lambda: LanguageModel.from_pretrained(place, cfg.generator.device))


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
    decode = build_decoder(cfg, ranker, lm, methods)
    texts: dict[str, list[str]] = {method: [] for method in methods}
    for index, prefix in enumerate(workspace.progress(prefixes, "decode", len(prefixes))):
        for method, text in decode([prefix], [RowSeed(cfg.seed, index)])[0].items():
            texts[method].append(text)
    return texts


def decode_kept(
    cfg: Config,
    ranker: Ranker,
    lm: LanguageModel,
    prefixes: Sequence[str],
    methods: Sequence[str],
    workspace: Workspace,
    ranker_name: str,
) -> dict[str, list[str]] | None:
    """As `decode_all`, as a stage that can be stopped, continued and shared out.

    Finished chunks lie in a folder whose name stands for ranker, settings and prefixes.

    Returns:
        Continuations of every method; None if other shares have to finish first.

    Raises:
        UserError: see `decode_all` and `map_rows`.
    """
    settings = {
        "ranker": ranker_name,
        "methods": list(methods),
        "generator": to_dict(cfg.generator),
        "decode": {k: v for k, v in to_dict(cfg.decode).items() if k in DECODING},
    }
    build = partial(build_decoder, cfg, ranker, lm, methods)
    step = RowMap("decode", build, settings, cfg.seed, CHUNK)
    key = content_digest([repr(settings), str(cfg.seed), *prefixes])[:12]
    place = workspace.folder(f"decoded/{key}")
    mapped = map_rows(step, list(prefixes), place, cfg.task, workspace.meter)
    if not mapped.complete:
        workspace.say(f"decode: {mapped.summary}")
        return None
    rows = list(mapped.rows())
    return {method: [row[method] for row in rows] for method in methods}


def build_decoder(
    cfg: Config, ranker: Ranker, lm: LanguageModel, methods: Sequence[str]
) -> RowFunction:
    """Prefixes -> method -> continuation, tidied; a prefix's streams belong to its index.

    Raises:
        UserError: unknown method.
    """
    for method in methods:
        if method not in METHODS:
            raise UserError(f"decode.methods: '{method}' is none of {', '.join(METHODS)}")

    def decode(prefixes: Sequence[Any], seeds: Sequence[RowSeed]) -> list[dict[str, str]]:
        return [
            {m: tidy(t) for m, t in _decode_one(cfg, ranker, lm, prefix, seed.key, methods).items()}
            for prefix, seed in zip(prefixes, seeds, strict=True)
        ]

    return decode


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
        }
        texts |= {name: choose() for name, choose in best.items() if name in methods}
    for name in methods:
        if name in STRATEGIES and name not in texts:
            rng = stream(cfg.seed, index, 0, 0)
            sampling = policy_of(cfg, name)
            texts[name] = lm.continuations([prefix], sampling, [rng], section.max_tokens)[0].text
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


def text_metrics(prefixes: Sequence[str], continuations: dict[str, list[str]]) -> dict[str, float]:
    """Repetition, overlap with the prefix and words of each method."""
    metrics: dict[str, float] = {}
    for name, texts in continuations.items():
        pairs = list(zip(prefixes, texts, strict=True))
        metrics |= {
            f"{name}_rep": float(np.mean([measures.repetition(p, t) for p, t in pairs])),
            f"{name}_overlap": float(np.mean([measures.word_overlap(t, p)[0] for p, t in pairs])),
            f"{name}_words": float(np.mean([len(t.split()) for t in texts])),
        }
    return metrics


def repeated_metrics(
    prefixes: Sequence[str],
    decoded: Sequence[dict[str, list[str]]],
    judge: Callable[[], LanguageModel],
    workspace: Workspace,
) -> dict[str, float]:
    """`text_metrics`, and MAUVE where it can be had; what was repeated is averaged.

    Source: Krishna et al. 2022, arXiv 2205.09726 (five runs of each baseline that samples).
    ``<method>_<metric>_std`` is the standard deviation over the runs.

    Args:
        prefixes: that were continued.
        decoded: the first run's continuations of every method, and those of "human" where there are
            any; then those of the repeats, of methods that sample.
        judge: language model that gives the features of MAUVE, asked for when there are texts for
            it.
        workspace: keeps the reason why there is no MAUVE.
    """
    human = {name: texts for name, texts in decoded[0].items() if name == "human"}
    metrics = text_metrics(prefixes, decoded[0])
    with_mauve = True
    try:
        metrics |= mauve_metrics(prefixes, decoded[0], judge)
    except UserError as reason:
        with_mauve = False
        workspace.say(f"without MAUVE: {reason}")
    runs = [dict(metrics)]
    for again in decoded[1:]:
        runs.append(text_metrics(prefixes, again))
        if with_mauve:
            runs[-1] |= mauve_metrics(prefixes, again | human, judge)
    for name in runs[-1] if len(runs) > 1 else ():
        values = [run[name] for run in runs]
        metrics[name] = float(np.mean(values))
        metrics[f"{name}_std"] = float(np.std(values, ddof=1))
    return metrics


def mauve_metrics(
    prefixes: Sequence[str], continuations: dict[str, list[str]], judge: Callable[[], LanguageModel]
) -> dict[str, float]:
    """MAUVE of each method against "human", on features of prefix and continuation.

    Raises:
        UserError: no human continuations, fewer than `MAUVE_TEXTS` prefixes, or no library.
    """
    if "human" not in continuations:
        raise UserError(
            "MAUVE needs human continuations: decode held-back chapters (decode.file=null)"
        )
    if len(prefixes) < MAUVE_TEXTS:
        raise UserError(f"MAUVE needs decode.num_prefixes >= {MAUVE_TEXTS}, here {len(prefixes)}")
    lm = judge()
    features = {
        name: lm.features([f"{p} {t}" for p, t in zip(prefixes, texts, strict=True)]).numpy()
        for name, texts in continuations.items()
    }
    human = features.pop("human")
    return {f"{name}_mauve": measures.mauve(human, x) for name, x in features.items()}


def decode_metrics(
    cfg: Config, ranker: Ranker, lm: LanguageModel, triples: TripleList, workspace: Workspace
) -> dict[str, float]:
    """A nucleus sample against the best of `decode.num_samples`, on evenly spaced prefixes."""
    count = min(cfg.eval.decode_prefixes, len(triples))
    rows = [triples[i * len(triples) // count] for i in range(count)]
    prefixes = [row.prefix for row in rows]
    methods = [policy_of(cfg).strategy, "rerank"]
    texts = decode_all(cfg, ranker, lm, prefixes, methods, workspace)
    texts["human"] = [tidy(row.gold) for row in rows]
    workspace.gallery("continuations", side_by_side(ranker, prefixes, texts))
    return text_metrics(prefixes, texts)


def side_by_side(
    ranker: Ranker, prefixes: Sequence[str], continuations: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Gallery of the continuations with their scores; the human one is marked."""
    rows = []
    for i, prefix in enumerate(prefixes):
        texts = {name: texts[i] for name, texts in continuations.items()}
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
