"""How well names tell pictures apart: by their likelihood, the same route for all arms.

By the latent heads, alongside it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.padding import padded
from common.data.samplers import sample_rng
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.evaluation.generation.captions import caption_metrics
from common.evaluation.generation.measures import word_overlap
from common.families.image_text.photographs import CLASSES
from projects.cosmo.batches import Words
from projects.cosmo.config import Config
from projects.cosmo.inference import PictureModel, text_batch
from projects.cosmo.interleaved.documents import END_OF_CHUNK, VISUAL
from projects.cosmo.module import COSMO, row_losses
from projects.cosmo.network import CosmoNetwork, parameter_counts
from projects.cosmo.sources import COLOURS, SHAPES, Pictures, draw
from projects.cosmo.stages import encode
from projects.cosmo.table import evaluate_sets

CANDIDATE_STREAM = 81
SHOWN = 24  # pictures of the gallery


class Judged(NamedTuple):
    """Held-out pictures with their names.

    Of each name the pictures that it is ranked among, its own first.
    """

    pictures: list[Any]
    names: list[str]
    candidates: Tensor  # (N, C)


def judged(cfg: Config) -> Judged:
    """Pictures of ``eval.split`` with names and candidates that no seed and no arm changes.

    Drawings have distinct names and random candidates; a photograph is ranked among one of each
    class.
    """
    if cfg.data.source != "bundled":
        rows = [(draw(c, s), f"a {c} {s}") for c in COLOURS for s in SHAPES]
        candidates = _among(len(rows), cfg.eval.candidates)
        return Judged([picture for picture, _ in rows], [name for _, name in rows], candidates)
    held_out = Pictures(cfg, "dev" if cfg.eval.split == "dev" else "test")
    order = sample_rng(0, 0, 0, CANDIDATE_STREAM).permutation(len(held_out)).tolist()
    if cfg.data.pictures == "photographs":
        return _photographs(held_out, order, cfg.eval.items)
    first = {held_out.texts[i][0]: i for i in reversed(order)}  # of equal names one
    chosen = [i for i in order if first[held_out.texts[i][0]] == i][: cfg.eval.items]
    names = [held_out.texts[i][0] for i in chosen]
    return Judged([held_out[i] for i in chosen], names, _among(len(chosen), cfg.eval.candidates))


def _among(count: int, size: int) -> Tensor:
    """(count, C) rows: the own one, then others."""
    size = min(size, count)
    table = torch.empty(count, size, dtype=torch.long)
    for i in range(count):
        others = sample_rng(0, 1, i, CANDIDATE_STREAM).permutation(count - 1)[: size - 1]
        table[i] = torch.tensor([i, *(int(j) + int(j >= i) for j in others)])
    return table


def _photographs(held_out: Pictures, order: list[int], items: int) -> Judged:
    """Equally many of each class.

    List i is made of the i-th place of the own and random places of the other classes.
    """
    each = max(1, items // len(CLASSES))
    by_class = [[i for i in order if held_out.labels[i] == c][:each] for c in range(len(CLASSES))]
    chosen = [i for members in by_class for i in members]
    place = {row: k for k, row in enumerate(chosen)}
    candidates = []
    for k, row in enumerate(chosen):
        rng = sample_rng(0, 1, k, CANDIDATE_STREAM)
        others = [members for c, members in enumerate(by_class) if c != held_out.labels[row]]
        candidates.append(
            [k, *(place[members[int(rng.integers(len(members)))]] for members in others)]
        )
    names = [held_out.texts[i][0] for i in chosen]
    return Judged([held_out[i] for i in chosen], names, torch.tensor(candidates))


def evaluate(cfg: Config, module: COSMO, workspace: Workspace) -> dict[str, float]:
    """Metrics on held-out bundled pictures (shapes in a smoke run), and of ``eval.sets``.

    ``mrr``, ``recall_at_1``: rank of a name's own picture among ``eval.candidates`` by the
    likelihood of the name; ``token_loss``; ``shuffled_loss``: with another picture; ``head_mrr``:
    the same lists by the latent heads; ``name_f1``, ``last_word``, ``cider``: captions that were
    written; ``gate_attention``, ``gate_ff``; ``learnable_share``.
    """
    metrics: dict[str, float] = {}
    if cfg.data.source != "shards":
        held_out = judged(cfg)
        patches = encode(module.tower, cfg, held_out.pictures)[:, None, None]  # (N, 1, 1, n, D_v)
        with evaluated(module, cfg.trainer.accelerator):
            metrics |= likelihood_metrics(cfg, module, held_out, patches, workspace)
            if module.network.contrastive:
                metrics |= head_metrics(cfg, module, held_out, patches)
        metrics |= written_metrics(cfg, module, held_out, workspace)
    metrics |= gates(module.network)
    vision = sum(p.numel() for p in module.tower.encoder.model.visual.parameters())
    learnable, total = parameter_counts(module.network, vision)
    metrics |= {"learnable": float(learnable), "learnable_share": learnable / total}
    if cfg.eval.sets:
        with evaluated(module, cfg.trainer.accelerator):
            metrics |= evaluate_sets(cfg, PictureModel(module), workspace)
    return metrics


# -- likelihood ----------------------------------------------------------------------------------


def reciprocal_ranks(scores: Tensor) -> list[float]:
    """1 / rank of the first column of each row, the mean over all orders of equal scores.

    Args:
        scores: (N, C), larger is better.

    >>> reciprocal_ranks(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    [1.0, 0.75]
    """
    correct = scores[:, :1]
    before, ties = (scores > correct).sum(1), (scores == correct).sum(1)
    rows = zip(before.tolist(), ties.tolist(), strict=True)
    return [sum(1 / (b + k) for k in range(1, t + 1)) / t for b, t in rows]


def likelihood_metrics(
    cfg: Config, module: COSMO, held_out: Judged, patches: Tensor, workspace: Workspace | None
) -> dict[str, float]:
    """Names ranked by log p(name | picture), in which no likelihood of the name alone enters.

    Of equal likelihoods ``mrr`` is the mean over their orders; ``recall_at_1`` counts the own
    picture only where it is alone at the top, so that of shut gates, where all are equal, is 0 and
    not chance.
    """
    losses, tokens = name_losses(cfg, module, held_out, patches)
    ranks = reciprocal_ranks(-losses)
    hits = [float(r == 1.0) for r in ranks]
    correct, count = losses[:, 0], float(tokens.sum())
    per_item = (correct / tokens).tolist()
    if workspace is not None:
        workspace.items("mrr", ranks)
        workspace.items("recall_at_1", hits)
        workspace.items("name_loss", per_item)
    size = losses.shape[1]
    return {
        "mrr": sum(ranks) / len(ranks),
        "mrr_chance": sum(1 / k for k in range(1, size + 1)) / size,
        "recall_at_1": sum(hits) / len(hits),
        "recall_at_1_chance": 1 / size,
        "token_loss": float(correct.sum()) / count,
        "name_loss": sum(per_item) / len(per_item),
        "shuffled_loss": float(losses[:, 1].sum()) / count,
    }


def name_losses(
    cfg: Config, module: COSMO, held_out: Judged, patches: Tensor
) -> tuple[Tensor, Tensor]:
    """-log p(name | picture) (N, C) of all candidates, and the names' numbers of tokens (N,)."""
    words, device = Words(module.tokenizer, cfg.data), module.device
    media = torch.cat([module.network.media(p.to(device))[0] for p in torch.split(patches, 128)])
    count = held_out.candidates.shape[1]
    group = max(1, cfg.eval.batch_size // count)
    losses, tokens = [], []
    # names of equal length together, so that little is padded
    rows = [
        words(f"{VISUAL}{name}{END_OF_CHUNK}")[: cfg.data.max_caption] for name in held_out.names
    ]
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    for start in range(0, len(rows), group):
        part = order[start : start + group]
        text = padded([rows[i] for i in part], words.pad)
        ids, mask = (
            text[k].repeat_interleave(count, 0).to(device) for k in ("input_ids", "attention_mask")
        )
        labels = words.labels("image_text", ids).masked_fill(mask == 0, -100)
        shown = media[held_out.candidates[part].flatten().to(device)]
        total, number = row_losses(module.network.language(ids, mask, shown).logits, labels)
        losses.append(total.view(-1, count).cpu())
        tokens.append(number.view(-1, count)[:, 0].cpu())
    back = torch.tensor(order).argsort()
    return torch.cat(losses)[back], torch.cat(tokens)[back]


# -- heads, captions, mechanism ------------------------------------------------------------------


def head_metrics(cfg: Config, module: COSMO, held_out: Judged, patches: Tensor) -> dict[str, float]:
    """The same lists by the cosine of the latent heads."""
    device, words = module.device, Words(module.tokenizer, cfg.data)
    visual = torch.cat(
        [module.network.embed_images(p.to(device)) for p in torch.split(patches, 128)]
    )
    ids, mask = text_batch(words, held_out.names)
    text = torch.cat(
        [
            module.network.embed_texts(i.to(device), m.to(device))
            for i, m in zip(torch.split(ids, 128), torch.split(mask, 128), strict=True)
        ]
    )
    cosines = F.normalize(text, dim=1) @ F.normalize(visual, dim=1).T
    ranks = reciprocal_ranks(cosines.cpu().gather(1, held_out.candidates))
    return {
        "head_mrr": sum(ranks) / len(ranks),
        "logit_scale": float(module.network.log_scale.exp()),
    }


def gates(network: CosmoNetwork) -> dict[str, float]:
    """Mean of |tanh(gate)| over the blocks: how far cross-attention is open."""
    blocks: Any = network.language.blocks
    pairs = [(block.attn_gate, block.ff_gate) for block in blocks]
    means = [
        sum(float(g.detach().tanh().abs()) for g in part) / len(pairs)
        for part in zip(*pairs, strict=True)
    ]
    return {"gate_attention": means[0], "gate_ff": means[1]}


def written_metrics(
    cfg: Config, module: COSMO, held_out: Judged, workspace: Workspace
) -> dict[str, float]:
    """Captions that are written for the first pictures, against their names; a gallery of them."""
    count = min(cfg.eval.written, len(held_out.names))
    if not count:
        return {}
    step = len(held_out.names) // count  # photographs are sorted by class
    pictures, names = held_out.pictures[::step][:count], held_out.names[::step][:count]
    with evaluated(module, cfg.trainer.accelerator):
        texts = PictureModel(module)(pictures)
    rows = list(zip(pictures, texts, names, strict=True))[:SHOWN]
    workspace.gallery(
        "captions",
        [
            {
                "query": picture,
                "results": [
                    {"item": text or "-", "score": word_overlap(text, name)[2], "name": f"({name})"}
                ],
            }
            for picture, text, name in rows
        ],
    )
    return caption_scores(names, texts)


def caption_scores(names: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """``name_f1``, ``last_word`` (a photograph's class), ``cider``: texts against one name."""
    overlap = [word_overlap(text, name)[2] for text, name in zip(texts, names, strict=True)]
    cider = caption_metrics(list(texts), [[name] for name in names])[0]["cider"]
    last = [
        float(name.split()[-1] in text.lower().split())
        for text, name in zip(texts, names, strict=True)
    ]
    count = max(1, len(names))
    return {"name_f1": sum(overlap) / count, "last_word": sum(last) / count, "cider": cider}
