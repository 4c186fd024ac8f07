"""Diversity, coherence, MAUVE and isotropy: several decoders on the same held-out prefixes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import UserError
from common.data.row_map.chunks import RowSeed
from common.data.samplers import sample_rng
from common.data.text.books import load_books
from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from common.encoders.modes import untrained
from common.engine.workspace import Workspace
from common.evaluation.generation import measures
from projects.contrastive_search.config import Config
from projects.contrastive_search.data import Passage, check_judges, passages, training_lines
from projects.contrastive_search.diversity import ORDERS, diversity, repeated_ngrams
from projects.contrastive_search.harness import decode_side_by_side
from projects.contrastive_search.module import SimCTG, language_model
from projects.contrastive_search.ngram_model import NgramModel
from projects.contrastive_search.token_cosines import TokenCosines

Ids = list[int]
Scorer = Callable[[Sequence[Passage], Sequence[Ids], Sequence[str]], NDArray[np.float64]]
HUMAN, SHUFFLED = "human", "shuffled_human"
SHOWN = 6  # prefixes in the gallery
NOTHING = "(nothing: the language model ended the text at once)"
_SHUFFLE_STREAM = 73


class Measured(NamedTuple):
    """Metrics of one decoder, and what they are the means of."""

    metrics: dict[str, float]
    items: dict[str, list[float]]  # by chapter


def evaluate(cfg: Config, module: SimCTG, workspace: Workspace) -> dict[str, float]:
    """Metrics of every decoder, ``<method>_<metric>``; without a prefix those of the first one.

    Isotropy and perplexity of the language model, before training too, stand alongside them.
    """
    lm = module.language_model()
    texts = passages(cfg, lm)
    metrics = evaluate_lm(cfg, lm, texts, workspace)
    if cfg.method.train and cfg.eval.untrained:
        from projects.contrastive_search.stages import build_module

        before = untrained(lambda: build_module(cfg), cfg.seed)
        metrics |= {
            f"untrained_{k}": v for k, v in model_metrics(before.language_model(), texts).items()
        }
    return metrics


def evaluate_lm(
    cfg: Config, lm: LanguageModel, texts: Sequence[Passage], workspace: Workspace
) -> dict[str, float]:
    """Decode and measure; saves items by chapter, the front of both measures, and texts."""
    methods = policies(cfg)
    check_judges(cfg)
    scorers = build_scorers(cfg, lm)
    decoded = decode(cfg, lm, [p.prefix for p in texts], methods, workspace)
    table = {name: measure(cfg, lm, texts, draws, scorers) for name, draws in decoded.items()}
    table |= human_rows(cfg, lm, texts, scorers)
    first = table[next(iter(methods))]
    for name, values in first.items.items():
        workspace.items(name, values)
    metrics = dict(first.metrics)
    metrics |= {f"{n}_{k}": v for n, row in table.items() for k, v in row.metrics.items()}
    workspace.figure("front", front({name: row.metrics for name, row in table.items()}))
    workspace.gallery(
        "continuations", side_by_side(lm, texts, {n: d[0] for n, d in decoded.items()})
    )
    return metrics | model_metrics(lm, texts)


def policies(cfg: Config) -> dict[str, Policy]:
    """Decoders of the config by name, in the order of `eval.methods`.

    Raises:
        UserError: there is none.
    """
    section = cfg.eval
    names = section.methods or list(section.decoders)
    if not names:
        raise UserError(
            "eval.decoders is empty: give decoders as in configs/contrastive_search/mini.yaml"
        )
    return {name: section.decoders[name].policy() for name in names}


def decode(
    cfg: Config,
    lm: LanguageModel,
    prefixes: Sequence[Ids],
    methods: Mapping[str, Policy],
    workspace: Workspace,
) -> dict[str, list[list[Ids]]]:
    """New tokens by method, draw and prefix, of no text fewer than `eval.min_new_tokens`."""
    methods = {n: replace(p, min_new_tokens=cfg.eval.min_new_tokens) for n, p in methods.items()}
    return decode_side_by_side(
        lm,
        prefixes,
        methods,
        cfg.eval.new_tokens,
        seeds=[RowSeed(cfg.seed, i) for i in range(len(prefixes))],
        draws=cfg.eval.draws,
        batch_size=cfg.eval.batch_size,
        progress=workspace.progress,
    )


def build_scorers(cfg: Config, lm: LanguageModel) -> dict[str, Scorer]:
    """Judges of coherence by name: the trigram model of the training chapters, language models."""
    scorers: dict[str, Scorer] = {}
    for name in cfg.eval.scorers:
        if name == "trigram":
            if cfg.eval.source == "synthetic":
                read = training_lines(cfg)
            else:
                read = ["\n".join(c.paragraphs) for c in load_books(cfg.data.root, "train")]
            ids = lm.tokenizer(read, add_special_tokens=False, verbose=False)["input_ids"]
            scorers[name] = trigram_scorer(NgramModel(ids, len(lm.tokenizer)), lm.eos)
        else:
            judge = language_model(cfg, name)
            scorers[name.rsplit("/", 1)[-1].rsplit(":", 1)[-1]] = lm_scorer(lm, judge)
    return scorers


def trigram_scorer(model: NgramModel, eos: int | None) -> Scorer:
    """Mean log-probability of the new tokens but the end of text."""

    def score(
        texts: Sequence[Passage], new: Sequence[Ids], plain: Sequence[str]
    ) -> NDArray[np.float64]:
        return np.array(
            [
                model.mean_log_probability(p.prefix, [t for t in ids if t != eos])
                for p, ids in zip(texts, new, strict=True)
            ]
        )

    return score


def lm_scorer(lm: LanguageModel, judge: LanguageModel) -> Scorer:
    """Coherence by a language model, which reads the texts with its own tokenizer.

        coherence = 1 / |x_hat| sum_i log p_M(x_hat_i | [x ; x_hat_<i])

    Source: Su & Collier 2023, section 5.1.2, arXiv 2210.14140.
    """

    def score(
        texts: Sequence[Passage], new: Sequence[Ids], plain: Sequence[str]
    ) -> NDArray[np.float64]:
        prefixes = [lm.tokenizer.decode(p.prefix, skip_special_tokens=True) for p in texts]
        value = judge.log_likelihood(prefixes, list(plain), joint="").double().numpy()
        return np.where([bool(text.strip()) for text in plain], value, np.nan)

    return score


def measure(
    cfg: Config,
    lm: LanguageModel,
    texts: Sequence[Passage],
    draws: Sequence[Sequence[Ids]],
    scorers: Mapping[str, Scorer],
) -> Measured:
    """Metrics of one decoder's continuations, means over its draws.

    ``diversity`` (x 100) and ``rep_<n>`` are of the whole corpus, as published;
    ``chapter_diversity`` is the mean over chapters of that of their continuations, which claims are
    drawn from. ``coherence`` is that of the first scorer; a continuation without text has none.
    """
    runs = [_one_draw(cfg, lm, texts, new, scorers) for new in draws]
    metrics = {k: float(np.mean([run.metrics[k] for run in runs])) for k in runs[0].metrics}
    if len(runs) > 1:
        metrics |= {
            f"{k}_std": float(np.std([run.metrics[k] for run in runs], ddof=1))
            for k in ("diversity", "coherence")
        }
    items = {k: np.mean([run.items[k] for run in runs], axis=0).tolist() for k in runs[0].items}
    return Measured(metrics, items)


def _one_draw(
    cfg: Config,
    lm: LanguageModel,
    texts: Sequence[Passage],
    new: Sequence[Ids],
    scorers: Mapping[str, Scorer],
) -> Measured:
    plain = [lm.finished(p.prefix, ids).text for p, ids in zip(texts, new, strict=True)]
    official = cfg.eval.official_ngram_count
    groups = group_places([p.group for p in texts])
    metrics = {
        "diversity": 100 * diversity(plain, official_ngram_count=official),
        **{f"rep_{n}": repeated_ngrams(plain, n, official_ngram_count=official) for n in ORDERS},
        "words": float(np.mean([len(text.split()) for text in plain])),
        "nearest_cosine": nearest_cosine(lm, texts, new),
    }
    chapter_diversity = [
        100 * diversity([plain[i] for i in g], official_ngram_count=official) for g in groups
    ]
    items = {"chapter_diversity": chapter_diversity}
    for name, scorer in scorers.items():
        value = scorer(texts, new, plain)
        metrics[f"coherence_{name}"] = float(np.nanmean(value))
        if "coherence" not in metrics:
            filled = np.where(np.isnan(value), metrics[f"coherence_{name}"], value)
            items["coherence"] = [float(filled[g].mean()) for g in groups]
            metrics["coherence"] = metrics[f"coherence_{name}"]
    metrics["chapter_diversity"] = float(np.mean(chapter_diversity))
    if cfg.eval.mauve:
        metrics["mauve"] = 100 * mauve(cfg, lm, texts, new)
    return Measured(metrics, items)


def group_places(groups: Sequence[str]) -> list[list[int]]:
    """Places of the passages of each group."""
    places: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(group, []).append(i)
    return list(places.values())


def human_rows(
    cfg: Config, lm: LanguageModel, texts: Sequence[Passage], scorers: Mapping[str, Scorer]
) -> dict[str, Measured]:
    """The references themselves, and their words in random order: what a bag of good words has."""
    if not all(p.reference for p in texts):
        return {}
    mixed = []
    for i, passage in enumerate(texts):
        words = lm.tokenizer.decode(passage.reference, skip_special_tokens=True).split()
        order = sample_rng(0, 0, i, _SHUFFLE_STREAM).permutation(len(words))
        mixed.append(lm.token_ids(" " + " ".join(words[j] for j in order))[: cfg.eval.new_tokens])
    return {
        HUMAN: measure(cfg, lm, texts, [[p.reference for p in texts]], scorers),
        SHUFFLED: measure(cfg, lm, texts, [mixed], scorers),
    }


def mauve(cfg: Config, lm: LanguageModel, texts: Sequence[Passage], new: Sequence[Ids]) -> float:
    """MAUVE of continuations against references, pair by pair cut to the shorter.

    Empty ones dropped.

    The end of text is not a token of a continuation.

    Source: Su & Collier 2023, section 5.1.2, arXiv 2210.14140; Pillutla et al. 2021, arXiv
    2102.01454.

    Raises:
        UserError: no references, or the library is missing.
    """
    new = [ids[:-1] if ids and ids[-1] in lm.ends else ids for ids in new]
    pairs = [
        (p.reference[: len(ids)], ids[: len(p.reference)])
        for p, ids in zip(texts, new, strict=True)
    ]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
        raise UserError("eval.mauve needs references: use a set with whole texts")
    name = cfg.eval.mauve_features
    judge = lm if name is None else language_model(cfg, name)
    human, machine = (
        judge.features([lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in side]).numpy()
        for side in zip(*pairs, strict=True)
    )
    return measures.mauve(human, machine)


@torch.inference_mode()
def nearest_cosine(lm: LanguageModel, texts: Sequence[Passage], new: Sequence[Ids]) -> float:
    """Mean over new tokens of the largest cosine with a token before: what the penalty looks at."""
    total = count = 0.0
    rows = [p.prefix + ids for p, ids in zip(texts, new, strict=True)]
    starts = torch.tensor([len(p.prefix) for p in texts], device=lm.device)
    at = 0
    for states, mask in lm.states(rows):
        unit = torch.nn.functional.normalize(states.float(), dim=-1)
        place = torch.arange(unit.shape[1], device=unit.device)
        before = place[None] < place[:, None]
        near = (unit @ unit.transpose(1, 2)).masked_fill(~before, -torch.inf).amax(-1)
        earlier = (place >= starts[at : at + len(unit), None]) & mask.bool()
        total, count, at = (
            total + float(near[earlier].sum()),
            count + int(earlier.sum()),
            at + len(unit),
        )
    return total / count if count else float("nan")


def model_metrics(lm: LanguageModel, texts: Sequence[Passage]) -> dict[str, float]:
    """Isotropy of the language model on the passages, and its perplexity on the references."""
    metrics = {"isotropy": isotropy(lm, [p.prefix + p.reference for p in texts])}
    with_reference = [p for p in texts if p.reference]
    if with_reference:
        value = lm.log_likelihood(
            [lm.tokenizer.decode(p.prefix, skip_special_tokens=True) for p in with_reference],
            [lm.finished(p.prefix, p.reference).text for p in with_reference],
            joint="",
        )
        metrics["perplexity"] = float((-value.double().mean()).exp())
    return metrics


@torch.inference_mode()
def isotropy(lm: LanguageModel, rows: Sequence[Ids], batch_size: int = 32) -> float:
    """1 minus the mean cosine of the last hidden states of a text's tokens, a ratio of corpus sums.

    Source: Su & Collier 2023, section 4.1, arXiv 2210.14140.
    """
    cosines = TokenCosines()
    for states, mask in lm.states(rows, batch_size):
        cosines.add(states, mask)
    return cosines.isotropy


def side_by_side(
    lm: LanguageModel, texts: Sequence[Passage], decoded: Mapping[str, Sequence[Ids]]
) -> list[dict[str, Any]]:
    """Gallery of the continuations of evenly spaced passages, each with its own diversity."""
    count = min(SHOWN, len(texts))
    rows = []
    for i in (j * len(texts) // count for j in range(count)):
        passage = texts[i]
        continuations = {name: new[i] for name, new in decoded.items()}
        continuations |= {HUMAN: passage.reference} if passage.reference else {}
        plain = {name: lm.finished(passage.prefix, new).text for name, new in continuations.items()}
        rows.append(
            gallery_row(lm.tokenizer.decode(passage.prefix, skip_special_tokens=True), plain)
        )
    return rows


def gallery_row(prompt: str, plain: Mapping[str, str]) -> dict[str, Any]:
    """A prompt with its continuations; the score is the diversity of each text, x 100."""
    results = [
        {"name": name, "item": text.strip() or NOTHING, "score": 100 * diversity([text])}
        | ({"correct": True} if name == HUMAN else {})
        for name, text in plain.items()
    ]
    return {"query": prompt, "results": results}


def front(table: Mapping[str, Mapping[str, float]]) -> Any:
    """Coherence over diversity of every decoder: up and right is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, metrics in table.items():
        x, y = metrics["diversity"], metrics["coherence"]
        axes.scatter(x, y, marker="*" if name == HUMAN else "o")
        axes.annotate(name, (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set_xlabel("diversity")
    axes.set_ylabel("coherence (mean log p under the first scorer)")
    return figure
