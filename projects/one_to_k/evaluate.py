"""Retrieval in every language: recall, its spread and the variance of ranks, in one table."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from common.data.lookup import bundled
from common.data.packed import PackedImages
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from projects.one_to_k.config import Config
from projects.one_to_k.cross_lingual import (
    Ranks,
    cross_lingual_metrics,
    rank_deviation,
)
from projects.one_to_k.data import (
    BENCHMARK_SETS,
    EMOJI,
    MRV_LANGUAGES,
    EvalSet,
    Tokenizer,
    build_tokenizer,
    evaluation_sets,
)
from projects.one_to_k.module import OneToK
from projects.one_to_k.multilingual import plain_caption
from projects.one_to_k.network import CrossLingualNetwork
from projects.one_to_k.retrieval_sets import LanguageSet, aligned
from projects.one_to_k.start import starting_module
from projects.one_to_k.two_stage import ScorePairs, best_ranks, rescored

KS = (1, 5, 10)


def evaluate(cfg: Config, module: OneToK, workspace: Workspace) -> dict[str, float]:
    """Metrics of every set: those of the source plain, those of a benchmark under its name.

    Alongside those of the source stand chance and the ``recall_mean`` and, where it has one,
    ``mrv_std`` of the model before its training.
    """
    tokenizer, metrics = build_tokenizer(cfg.model), {"temperature": float(module.temperature())}
    for name, eval_set in evaluation_sets(cfg, tokenizer).items():
        if name in BENCHMARK_SETS:
            workspace.note(f"{name}: {counts(eval_set)}")
        prefix = "" if name == cfg.data.source else f"{name}_"
        with evaluated(module, cfg.trainer.accelerator):
            ranks, scores = ranks_of(cfg, module.network, eval_set, tokenizer)
        figures = table(name, ranks, eval_set)
        metrics |= {f"{prefix}{key}": value for key, value in figures.items()}
        if prefix:
            continue
        metrics["recall_mean_chance"] = chance(len(scores[0]))
        raw = untrained(lambda: starting_module(cfg, OneToK), cfg.seed, module)
        with evaluated(raw, cfg.trainer.accelerator):
            before, _ = ranks_of(cfg, raw.network, eval_set, tokenizer)
        start = table(name, before, eval_set)
        metrics |= {f"untrained_{k}": start[k] for k in ("recall_mean", "mrv_std") if k in start}
        save_items(workspace, name, ranks, eval_set)
        show(cfg, workspace, eval_set, scores)
    return metrics


def chance(items: int) -> float:
    """Mean over `KS` of the recall among that many items in random order."""
    return sum(min(1, k / items) for k in KS) / len(KS)


def counts(eval_set: EvalSet) -> str:
    """Images and texts of each language, which tell the files that were read.

    >>> counts(EvalSet({"en": LanguageSet(("1.jpg",), ("one", "two"), (0, 0))}, torch.zeros))
    'en 1 images, 2 texts'
    """
    return "; ".join(
        f"{language} {len(one.images)} images, {len(one.texts)} texts"
        for language, one in eval_set.sets.items()
    )


def table(name: str, ranks: dict[str, Ranks], eval_set: EvalSet) -> dict[str, float]:
    """Recall over all languages of a set, and MRV where `mrv_ranks` has what it is over."""
    figures = cross_lingual_metrics(ranks, aligned=False, ks=KS)
    if (few := mrv_ranks(name, ranks, eval_set)) is not None:
        narrow = cross_lingual_metrics(few, aligned=True, ks=KS)
        figures |= {key: value for key, value in narrow.items() if "mrv" in key}
    return figures


def mrv_ranks(name: str, ranks: dict[str, Ranks], eval_set: EvalSet) -> dict[str, Ranks] | None:
    """Ranks of `mrv_languages` with query q the same in each; None where there is no such order.

    A set of `MRV_LANGUAGES` has translations of one caption an image, and may lack a few: there the
    images that all of them have are compared (xFlickr&CO: one German caption is empty).
    """
    few = mrv_languages(name, ranks)
    if _aligned(eval_set, few):
        return {language: ranks[language] for language in few}
    sets = {language: eval_set.sets[language] for language in few}
    paired = all(one.image_of_text == tuple(range(len(one.images))) for one in sets.values())
    shared = set.intersection(*(set(one.images) for one in sets.values()))
    if name not in MRV_LANGUAGES or not paired or not shared:
        return None
    order = [image for image in sets[few[0]].images if image in shared]
    kept = {}
    for language, one in sets.items():
        rows = [one.images.index(image) for image in order]
        kept[language] = Ranks(*(values[rows] for values in ranks[language]))
    return kept


def mrv_languages(name: str, languages: Iterable[str]) -> list[str]:
    """Languages of a set that MRV is over: those that the paper has it for.

    A set without one of these has its MRV over all of its own.
    """
    available, few = list(languages), MRV_LANGUAGES.get(name, [])
    return few if few and set(few) <= set(available) else available


def _aligned(eval_set: EvalSet, languages: Iterable[str]) -> bool:
    return aligned({x: eval_set.sets[x] for x in languages})


def ranks_of(
    cfg: Config, network: CrossLingualNetwork, eval_set: EvalSet, tokenizer: Tokenizer
) -> tuple[dict[str, Ranks], list[Tensor]]:
    """Ranks by language among a fold's images, and cosines (I, T) of images and texts."""
    names = list(dict.fromkeys(name for one in eval_set.sets.values() for name in one.images))
    place = {name: i for i, name in enumerate(names)}
    size, device = cfg.eval.batch_size, next(network.parameters()).device
    clean = partial(plain_caption, max_words=cfg.data.max_words)
    pieces = [names[i : i + size] for i in range(0, len(names), size)]
    tokens = torch.cat([network.image_encoder(eval_set.load(p).to(device)) for p in pieces])
    images = network.image_embeddings(tokens)
    ranks, cosines = {}, []
    for language, one in eval_set.sets.items():
        rows = torch.tensor([place[name] for name in one.images], device=device)
        ids = tokenizer([clean(text) for text in one.texts]).to(device)
        parts = [network.text_encoder.text(part) for part in torch.split(ids, size)]
        states, mask = (torch.cat(list(x)) for x in zip(*parts, strict=True))
        scores = (images[rows] @ network.text_embeddings(states).T).cpu()
        cosines.append(scores)
        match = partial(_match, network, tokens[rows], states, mask)
        count = eval_set.folds.get(language, 1)
        starts = [len(one.images) // count * i for i in range(count)]
        folds = [range(a, b) for a, b in pairwise([*starts, len(one.images)])]
        parts = [_fold_ranks(cfg, scores, match, one, fold) for fold in folds]
        ranks[language] = Ranks(*(torch.cat(values) for values in zip(*parts, strict=True)))
    return ranks, cosines


def _fold_ranks(
    cfg: Config, scores: Tensor, match: ScorePairs, one: LanguageSet, fold: range
) -> Ranks:
    """Ranks of the images of a fold and their texts, among one another."""
    texts = [text for text, image in enumerate(one.image_of_text) if image in fold]
    i2t = scores[fold.start : fold.stop, texts]
    t2i = i2t.T.contiguous()
    place = torch.tensor(texts)
    if cfg.eval.k_test:
        rescore = partial(rescored, k=cfg.eval.k_test, batch_size=cfg.eval.batch_size)

        def pairs(local: Tensor) -> Tensor:  # of image and text
            return match(torch.stack([local[:, 0] + fold.start, place[local[:, 1]]], 1))

        i2t, t2i = rescore(i2t, pairs), rescore(t2i, lambda local: pairs(local.flip(1)))
    image_places = [[one.image_of_text[text] - fold.start] for text in texts]
    of_image: list[list[int]] = [[] for _ in fold]
    for text, (image,) in enumerate(image_places):
        of_image[image].append(text)
    return Ranks(best_ranks(i2t, of_image), best_ranks(t2i, image_places))


def _match(
    network: CrossLingualNetwork, tokens: Tensor, states: Tensor, mask: Tensor, pairs: Tensor
) -> Tensor:
    """Logit 1 of the matching head for (P, 2) pairs of image and text."""
    image, text = pairs.to(tokens.device).unbind(1)
    return network.match(states[text], mask[text], tokens[image])[:, 1]


def save_items(workspace: Workspace, name: str, ranks: dict[str, Ranks], eval_set: EvalSet) -> None:
    """Values of the two judged metrics for every query of both directions, for paired intervals.

    Their means are those of `table`. A metric has none where its languages are not aligned, and a
    set none at all where an image has several texts: there the two directions count alike, not the
    queries.
    """
    if any(
        len(language_ranks.image_to_text) != len(language_ranks.text_to_image)
        for language_ranks in ranks.values()
    ):
        return
    if _aligned(eval_set, ranks):
        both = _stacked(ranks)
        hits = torch.stack([(both <= k).double().mean(0) for k in KS]).mean(0)
        workspace.items("recall_mean", hits.tolist())
    if (few := mrv_ranks(name, ranks, eval_set)) is not None:
        workspace.items("mrv_std", rank_deviation(_stacked(few)).tolist())


def _stacked(ranks: dict[str, Ranks]) -> Tensor:
    """(L, 2 Q) of both directions."""
    return torch.cat(
        [torch.stack([getattr(x, d) for x in ranks.values()]) for d in Ranks._fields], 1
    )


def show(cfg: Config, workspace: Workspace, eval_set: EvalSet, scores: Sequence[Tensor]) -> None:
    """A gallery for each language: a text and the pictures that it retrieves."""
    for (language, one), cosines in zip(eval_set.sets.items(), scores, strict=True):
        items: Sequence[Any] = one.images
        if cfg.data.source == "emoji":
            packed = PackedImages(bundled(f"{EMOJI}/images.npz", cfg.data.root))
            items = [packed[int(name)] for name in one.images]
        rows = retrieval_gallery(
            cosines.T, one.texts, items, one.image_of_text, num_queries=5, num_results=5
        )
        workspace.gallery(f"{language} to images", rows)
