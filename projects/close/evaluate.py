"""Texts for images, and what they are worth: captions, answers, entailment; the gap behind them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.encoders.image_text.frozen_clip import FrozenClip
from common.encoders.modes import evaluated, evaluation_mode
from common.engine.workspace import Workspace
from common.evaluation.generation.captions import caption_metrics, caption_words
from common.evaluation.generation.measures import word_overlap
from common.families.image_text.photographs import CLASSES
from projects.close.batches import Example, Words
from projects.close.bundled import is_photo
from projects.close.config import Config
from projects.close.data import Part, image_opener, load_examples
from projects.close.gap_metrics import gap_report
from projects.close.module import CLOSE
from projects.close.objective import unit_input, vqa_score
from projects.close.stages import make_inputs

SHOWN = 24  # pictures of the gallery
GAP_ITEMS = 2000


def evaluate(cfg: Config, module: CLOSE, workspace: Workspace) -> dict[str, float]:
    """Metrics of the task on the part ``eval.split``; a gallery of pictures with their texts.

    Args:
        cfg: the experiment's config.
        module: trained.
        workspace: keeps item values and gallery.
    """
    clip = clip_of(cfg, module)
    examples = judged(cfg)
    inputs = make_inputs(cfg, clip, examples, cfg.eval.inputs)
    vectors = unit_vectors(inputs, examples)
    if inputs.is_text:
        vectors = adapted(module, vectors)
    texts = written(cfg, module, vectors, examples)
    metrics = score(cfg, examples, texts, workspace)
    if cfg.data.source in ("bundled", "text") and cfg.eval.inputs == "image":
        metrics |= gap_metrics(clip, vectors, examples)
        if cfg.eval.own_text is not None:
            metrics |= own_text(cfg, module, clip, examples)
    if not inputs.is_text:
        gallery(cfg, examples, texts, workspace)
    return metrics


def clip_of(cfg: Config, module: CLOSE) -> FrozenClip:
    """The dual encoder of a module, or of the config."""
    return module.clip or FrozenClip(cfg.model.clip, half=cfg.model.half)


def judged(cfg: Config) -> list[Example]:
    """The examples that are evaluated."""
    part: Part = "dev" if cfg.eval.split == "dev" else "test"
    return load_examples(cfg, part)[: cfg.eval.limit]


def unit_vectors(inputs: Any, examples: Sequence[Example], batch_size: int = 512) -> Tensor:
    """Unit vectors (N, D) of examples, those of texts before the adapter; on the CPU."""
    parts = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        given_inputs = inputs(part)
        if "pixels" in given_inputs:
            given_inputs["features"] = inputs.clip.encode_pixels(given_inputs["pixels"])
        if "tokens" in given_inputs:
            given_inputs["features"] = inputs.clip.encode_tokens(given_inputs["tokens"])
        parts.append(unit_input(given_inputs["features"], given_inputs["segments"], len(part)))
    return torch.cat(parts)


def adapted(module: CLOSE, vectors: Tensor) -> Tensor:
    """Unit vectors (N, D) of texts as the module reads them in evaluation, without noise.

    On the CPU.
    """
    with evaluation_mode(module.adapter):
        vectors_out: Tensor = module.adapter(vectors.to(module.device)).cpu()
    return vectors_out


def written(cfg: Config, module: CLOSE, vectors: Tensor, examples: Sequence[Example]) -> list[str]:
    """What the module writes for unit vectors (N, D) with the contexts of their examples."""
    words = Words(module.tokenizer, cfg.data.max_context)
    texts: list[str] = []
    with evaluated(module, cfg.trainer.accelerator):
        for start in range(0, len(examples), cfg.eval.batch_size):
            part = slice(start, start + cfg.eval.batch_size)
            ids, mask = (
                x.to(module.device) for x in words.batch([e.context for e in examples[part]])
            )
            texts += module.write(vectors[part].to(module.device), ids, mask)
    return texts


# -- measures ------------------------------------------------------------------------------------


def score(
    cfg: Config,
    examples: Sequence[Example],
    texts: Sequence[str],
    workspace: Workspace | None = None,
) -> dict[str, float]:
    """Metrics of texts; item values go to the workspace."""
    if cfg.data.source in ("bundled", "text"):
        items = bundled_items(examples, texts)
    elif cfg.data.task == "ve":  # the generated word
        items = {
            "accuracy": [float(t == e.targets[0]) for t, e in zip(texts, examples, strict=True)]
        }
    elif cfg.data.task in ("vqa", "evqa"):
        items = {"vqa_score": [answer_score(t, e) for t, e in zip(texts, examples, strict=True)]}
    else:
        metrics, items = caption_metrics(texts, [e.targets for e in examples])
        _save(items, workspace)
        return metrics
    _save(items, workspace)
    return {name: sum(v) / max(1, len(v)) for name, v in items.items()}


def _save(items: dict[str, list[float]], workspace: Workspace | None) -> None:
    if workspace is not None:
        for name, values in items.items():
            workspace.items(name, values)


def answer_score(text: str, example: Example) -> float:
    """Official score of an answer among those of ten annotators."""
    counts = {answer: example.answers.count(answer) for answer in set(example.answers)}
    return vqa_score(text, counts)


def named_class(text: str) -> str:
    """The first class word of a text; "" without one.

    >>> named_class("behind the fence a tired frog, not a cat")
    'frog'
    """
    return next((word for word in caption_words(text) if word in CLASSES), "")


def bundled_items(examples: Sequence[Example], texts: Sequence[str]) -> dict[str, list[float]]:
    """``class_word`` of photographs: the first class word is the picture's.

    ``name_f1`` of drawings: words.
    """
    photos = [(t, e) for t, e in zip(texts, examples, strict=True) if is_photo(e)]
    drawings = [(t, e) for t, e in zip(texts, examples, strict=True) if not is_photo(e)]
    items = {"class_word": [float(named_class(t) == e.label) for t, e in photos]}
    items |= {"name_f1": [word_overlap(t, e.label)[2] for t, e in drawings]}
    return {name: values for name, values in items.items() if values}


def gap_metrics(clip: FrozenClip, vectors: Tensor, examples: Sequence[Example]) -> dict[str, float]:
    """The gap between photographs and their captions, as ``gap_<figure>``."""
    rows = [i for i, e in enumerate(examples) if is_photo(e)][:GAP_ITEMS]
    if len(rows) < 2:
        return {}
    text = F.normalize(clip.encode_texts([examples[i].texts[0] for i in rows]), dim=1)
    return {f"gap_{k}": v for k, v in gap_report(text, vectors[torch.tensor(rows)]).items()}


def own_text(
    cfg: Config, module: CLOSE, clip: FrozenClip, examples: Sequence[Example]
) -> dict[str, float]:
    """Measures of captions that are written for the vectors of unread captions, evenly drawn."""
    assert cfg.eval.own_text is not None
    chosen = list(examples[:: max(1, math.ceil(len(examples) / cfg.eval.own_text))])
    vectors = F.normalize(clip.encode_texts([e.texts[0] for e in chosen]), dim=1)
    vectors = adapted(module, vectors)
    scores = bundled_items(chosen, written(cfg, module, vectors, chosen))
    return {f"own_text_{k}": sum(v) / max(1, len(v)) for k, v in scores.items()}


def gallery(
    cfg: Config, examples: Sequence[Example], texts: Sequence[str], workspace: Workspace
) -> None:
    """Pictures with the text written for them."""
    open_image, rows = image_opener(cfg), []
    for i in range(0, len(examples), max(1, len(examples) // SHOWN)):
        example, text = examples[i], texts[i]
        target = example.label or example.targets[0]
        name = f"{example.context} " * bool(example.context) + f"({target})"
        result: dict[str, Any] = {"item": text or "-", "score": 0.0, "name": name}
        result["score"] = item_score(cfg, example, text)
        rows.append({"query": open_image(example.image), "results": [result]})
    workspace.gallery("texts", rows)


def item_score(cfg: Config, example: Example, text: str) -> float:
    """One text's worth, for the gallery."""
    if example.answers:
        return answer_score(text, example)
    if cfg.data.source in ("bundled", "text"):
        return next(iter(bundled_items([example], [text]).values()))[0]
    if cfg.data.task == "ve":
        return float(text == example.targets[0])
    return max(word_overlap(text, target)[2] for target in example.targets)
