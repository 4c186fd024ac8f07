"""Retrieval in every language: recall, its spread and the variance of ranks, in one table."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from common.data.image_text.multilingual import plain_caption
from common.data.image_text.retrieval_sets import LanguageSet, aligned
from common.data.lookup import bundled
from common.data.packed import PackedImages
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.image_text.cross_lingual import (
    Ranks,
    cross_lingual_metrics,
    rank_deviation,
)
from common.evaluation.image_text.two_stage import ScorePairs, best_ranks, rescored
from projects.one_to_k.config import Config
from projects.one_to_k.data import (
    EMOJI,
    MRV_LANGUAGES,
    EvalSet,
    Tokenizer,
    build_tokenizer,
    evaluation_sets,
)
from projects.one_to_k.module import OneToK
from projects.one_to_k.network import CrossLingualNetwork

KS = (1, 5, 10)


def evaluate(cfg: Config, module: OneToK, workspace: Workspace) -> dict[str, float]:
    """Metrics of every set: those of the source plain, those of a benchmark under its name.

    The untrained model's ``recall_mean`` and ``mrv_std`` stand beside them, and chance.
    """
    tokenizer, metrics = build_tokenizer(cfg.model), {"temperature": float(module.temperature())}
    for name, found in evaluation_sets(cfg, tokenizer).items():
        prefix = "" if name == cfg.data.source else f"{name}_"
        with evaluated(module, cfg.trainer.accelerator):
            ranks, scores = ranks_of(cfg, module.network, found, tokenizer)
        own = table(name, ranks, found)
        metrics |= {f"{prefix}{key}": value for key, value in own.items()}
        if prefix:
            continue
        metrics["recall_mean_chance"] = sum(min(1, k / len(scores[0])) for k in KS) / len(KS)
        raw = untrained(lambda: OneToK(cfg), cfg.seed, module)
        with evaluated(raw, cfg.trainer.accelerator):
            before, _ = ranks_of(cfg, raw.network, found, tokenizer)
        start = cross_lingual_metrics(before, aligned=True, ks=KS)
        metrics |= {f"untrained_{k}": start[k] for k in ("recall_mean", "mrv_std")}
        save_items(workspace, ranks)
        show(cfg, workspace, found, scores)
    return metrics


def table(name: str, ranks: dict[str, Ranks], found: EvalSet) -> dict[str, float]:
    """Recall over all languages of a set, and MRV over those that the paper has it for.

    A set without one of these languages has its MRV over all of its own.
    """
    own = cross_lingual_metrics(ranks, aligned=aligned(found.sets), ks=KS)
    few = {x: ranks[x] for x in MRV_LANGUAGES.get(name, []) if x in ranks}
    if len(few) < len(MRV_LANGUAGES.get(name, [""])):
        return own
    narrow = cross_lingual_metrics(few, aligned=aligned({x: found.sets[x] for x in few}), ks=KS)
    recalls = {key: value for key, value in own.items() if "mrv" not in key}
    return recalls | {key: value for key, value in narrow.items() if "mrv" in key}


def ranks_of(
    cfg: Config, network: CrossLingualNetwork, found: EvalSet, tokenizer: Tokenizer
) -> tuple[dict[str, Ranks], list[Tensor]]:
    """Ranks by language, among the images of a fold, and the cosines (I, T) of a language's images and texts."""
    names = list(dict.fromkeys(name for one in found.sets.values() for name in one.images))
    place = {name: i for i, name in enumerate(names)}
    size, device = cfg.eval.batch_size, next(network.parameters()).device
    clean = partial(plain_caption, max_words=cfg.data.max_words)
    pieces = [names[i : i + size] for i in range(0, len(names), size)]
    tokens = torch.cat([network.image_encoder(found.load(p).to(device)) for p in pieces])
    images = network.image_embeddings(tokens)
    ranks, cosines = {}, []
    for language, one in found.sets.items():
        rows = torch.tensor([place[name] for name in one.images], device=device)
        ids = tokenizer([clean(text) for text in one.texts]).to(device)
        parts = [network.text_encoder.text(part) for part in torch.split(ids, size)]
        states, mask = (torch.cat(list(x)) for x in zip(*parts, strict=True))
        scores = (images[rows] @ network.text_embeddings(states).T).cpu()
        cosines.append(scores)
        match = partial(_match, network, tokens[rows], states, mask)
        count = found.folds.get(language, 1)
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
    own = [[one.image_of_text[text] - fold.start] for text in texts]
    of_image: list[list[int]] = [[] for _ in fold]
    for text, (image,) in enumerate(own):
        of_image[image].append(text)
    return Ranks(best_ranks(i2t, of_image), best_ranks(t2i, own))


def _match(
    network: CrossLingualNetwork, tokens: Tensor, states: Tensor, mask: Tensor, pairs: Tensor
) -> Tensor:
    """Logit 1 of the matching head for (P, 2) pairs of image and text."""
    image, text = pairs.to(tokens.device).unbind(1)
    return network.match(states[text], mask[text], tokens[image])[:, 1]


def save_items(workspace: Workspace, ranks: dict[str, Ranks]) -> None:
    """Values of the two judged metrics for every query of both directions, for paired intervals."""
    stacked = [torch.stack([getattr(own, d) for own in ranks.values()]) for d in Ranks._fields]
    both = torch.cat(stacked, 1)  # (L, 2 Q)
    hits = torch.stack([(both <= k).double().mean(0) for k in KS]).mean(0)
    workspace.items("recall_mean", hits.tolist())
    workspace.items("mrv_std", rank_deviation(both).tolist())


def show(cfg: Config, workspace: Workspace, found: EvalSet, scores: Sequence[Tensor]) -> None:
    """A gallery for each language: a text and the pictures that it retrieves."""
    for (language, one), cosines in zip(found.sets.items(), scores, strict=True):
        items: Sequence[Any] = one.images
        if cfg.data.source == "emoji":
            packed = PackedImages(bundled(f"{EMOJI}/images.npz", cfg.data.root))
            items = [packed[int(name)] for name in one.images]
        rows = retrieval_gallery(
            cosines.T, one.texts, items, one.image_of_text, num_queries=5, num_results=5
        )
        workspace.gallery(f"{language} to images", rows)
