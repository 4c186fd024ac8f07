"""What the three sets measure, how accuracy falls with masked inputs, and where the model looks."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace, write_json
from projects.video_qa.answers import accuracy_by, question_type
from projects.video_qa.clips.batches import VideoQABatch, Words
from projects.video_qa.clips.clips import Question
from projects.video_qa.clips.tv_sets import SETS
from projects.video_qa.config import Config
from projects.video_qa.data import Loaded, judging, load_part, main_rows
from projects.video_qa.module import VideoQA
from projects.video_qa.network import Output, build_tokenizer
from projects.video_qa.spans import best_span, span_metrics, temporal_iou

MASK_SEED = 7


@dataclass
class Judged:
    """Answers of a model: chosen place, overlap with the annotated span, attention."""

    chosen: list[int] = field(default_factory=list)
    ious: list[float | None] = field(default_factory=list)
    own_span: list[float] = field(
        default_factory=list
    )  # share of a sentence's attention on its own frames


def evaluate(cfg: Config, module: VideoQA, workspace: Workspace) -> dict[str, float]:
    """Accuracy, by type and by level where the set has them; mIoU and ASA.

    A submission where answers are kept back.

    Args:
        cfg: the experiment's config: which questions are judged.
        module: trained; its own config says how they are laid out.
        workspace: keeps item values, the submission and pictures.
    """
    cfg = judging(cfg, module.cfg)
    loaded = judged_part(cfg)
    words = Words(build_tokenizer(cfg))
    with evaluated(module, cfg.trainer.accelerator):
        judged = judge(cfg, module, loaded, words)
        by_rate = (
            {}
            if unlabelled(loaded)
            else {p: judge(cfg, module, loaded, words, p) for p in cfg.eval.mask_probs}
        )
    metrics = counts(cfg)
    if unlabelled(loaded):
        rows = submission(cfg.data.source, loaded.questions, judged.chosen)
        write_json(workspace.folder(".") / "submission.json", rows)
        workspace.say(f"{len(rows)} answers without labels: submission.json")
        return {"questions": float(len(rows)), **metrics}
    metrics |= metrics_of(cfg, loaded.questions, judged, workspace)
    for rate, masked in by_rate.items():
        metrics[f"accuracy_masked_{rate:g}"] = _mean(hits_of(loaded.questions, masked.chosen))
    _pictures(cfg, module, loaded, workspace)
    return metrics


def submission(
    source: str, questions: tuple[Question, ...], chosen: list[int]
) -> dict[str, int] | list[dict[str, int]]:
    """Answers in the set's format: DramaQA [{correct_idx, qid}] as integers, else {qid: place}."""
    pairs = list(zip(questions, chosen, strict=True))
    if source == "dramaqa":
        return [{"correct_idx": place, "qid": int(q.qid)} for q, place in pairs]
    return {q.qid: place for q, place in pairs}


def judged_part(cfg: Config) -> Loaded:
    """The questions that are judged.

    Raises:
        UserError: files are missing or of another form, or have no question.
    """
    loaded = load_part(cfg, cfg.eval.split)
    if not loaded.questions:
        raise UserError(
            f"eval.split={cfg.eval.split} of {cfg.data.source} has no question: check its file"
            " below data.root"
        )
    return Loaded(loaded.questions[: cfg.eval.limit], loaded.clips, loaded.frames)


def unlabelled(loaded: Loaded) -> bool:
    """Whether answers are kept back."""
    return any(q.answer is None for q in loaded.questions)


def counts(cfg: Config) -> dict[str, float]:
    """Training questions of the stages: question prediction has no others than the main stage."""
    if cfg.data.source in SETS:  # these have been counted in the log
        return {}
    count = len(load_part(cfg, "train").questions)
    return {
        "train_questions": float(count),
        "pretraining_questions": float(count * cfg.pretrain.asked),
    }


def metrics_of(
    cfg: Config, questions: tuple[Question, ...], judged: Judged, workspace: Workspace | None
) -> dict[str, float]:
    """Metrics of answers: those of the set's protocol, all of them where there is none.

    Item values go to the workspace.
    """
    spec = SETS.get(cfg.data.source)
    hits = hits_of(questions, judged.chosen)
    if workspace is not None:
        workspace.items("accuracy", hits)
    metrics = {
        "accuracy": _mean(hits),
        "accuracy_chance": _mean([1 / len(q.candidates) for q in questions]),
    }
    groups = [q.kind or question_type(q.text) for q in questions]
    metrics |= {f"accuracy_{k}": v for k, v in accuracy_by(hits, groups).items() if k}
    if (spec is None or spec.levels) and any(q.level is not None for q in questions):
        levels = accuracy_by(hits, [f"level_{q.level}" for q in questions])
        metrics |= {f"accuracy_{k}": v for k, v in levels.items() if k}
    spanned = [(x, h) for x, h in zip(judged.ious, hits, strict=True) if x is not None]
    if spanned and (spec is None or spec.spans):
        metrics |= span_metrics([x for x, _ in spanned], [h for _, h in spanned])
    if judged.own_span:
        metrics["attention_on_own_span"] = _mean(judged.own_span)
    return metrics


def hits_of(questions: tuple[Question, ...], chosen: list[int]) -> list[float]:
    """1.0 for each question that is answered right."""
    return [float(i == q.answer) for i, q in zip(chosen, questions, strict=True)]


def judge(
    cfg: Config, module: VideoQA, loaded: Loaded, words: Words, mask_prob: float = 0.0
) -> Judged:
    """Answers of a module to all questions, with a share of all text tokens masked."""
    rows, judged, size = (
        main_rows(cfg, loaded, words, training=False),
        Judged(),
        cfg.eval.batch_size,
    )
    generator = torch.Generator().manual_seed(MASK_SEED)
    for start in range(0, len(rows), size):
        batch = rows.collate(range(start, min(start + size, len(rows))))
        if mask_prob:
            batch["input_ids"] = masked_ids(batch["input_ids"], words, mask_prob, generator)
        batch = moved(batch, module.device)
        out = module.network(batch)
        best = out.scores.argmax(1)
        judged.chosen += best.tolist()
        judged.ious += _ious(module, batch, out, best)
        judged.own_span += _own_span(batch, out, best)
    return judged


def masked_ids(ids: Tensor, words: Words, probability: float, generator: torch.Generator) -> Tensor:
    """Ids (B, A, N, L) with a share of the tokens masked; special ones never.

    A token is drawn once for each question, as it could else be read alongside another sentence or
    candidate.
    """
    special = (ids == words.cls) | (ids == words.sep) | (ids == words.pad)
    rates = torch.rand(len(ids), len(words.tokenizer), generator=generator)
    drawn = rates.gather(1, ids.flatten(1)).view(ids.shape) < probability
    return ids.masked_fill(drawn & ~special, words.mask)


def moved(batch: VideoQABatch, device: torch.device) -> VideoQABatch:
    """The batch on another device."""
    return {k: v.to(device) for k, v in batch.items()}  # type: ignore[attr-defined,return-value]


def _ious(module: VideoQA, batch: VideoQABatch, out: Output, best: Tensor) -> list[float | None]:
    if module.network.span_head is None:
        return [None] * len(best)
    logits = module.network.span_logits(out, best)
    pairs = best_span(logits[..., 0], logits[..., 1], batch["sentence_mask"]).tolist()
    ious: list[float | None] = []
    for b, (first, last) in enumerate(pairs):
        times, gold = batch["sentence_times"][b], batch["span_seconds"][b]
        span = (float(times[first, 0]), float(times[last, 1]))
        ious.append(None if bool(gold.isnan().any()) else temporal_iou(span, gold.tolist()))
    return ious


def _own_span(batch: VideoQABatch, out: Output, best: Tensor) -> list[float]:
    if out.looked is None:
        return []
    looked = out.looked[torch.arange(len(best), device=best.device), best]
    inside = (looked * batch["frame_spans"]).sum(-1)
    there = batch["sentence_mask"] & batch["frame_spans"].any(-1)
    return [float(x[m].mean()) for x, m in zip(inside, there, strict=True) if bool(m.any())]


def _pictures(cfg: Config, module: VideoQA, loaded: Loaded, workspace: Workspace) -> None:
    from projects.video_qa.folder import exported_of
    from projects.video_qa.inference import Answerer, looked_figure

    if loaded.frames is None or cfg.model.streams == "text":
        return
    module.cpu()
    model = exported_of(module)
    shown: Callable[[Question], bool] = lambda q: loaded.clips[q.clip].sentences != ()  # noqa: E731
    for number, q in enumerate([q for q in loaded.questions if shown(q)][: cfg.eval.figures]):
        answered = Answerer(model).answer(
            loaded.clips[q.clip], loaded.frames(q.clip), q.text, q.candidates
        )
        right = "?" if q.answer is None else q.candidates[q.answer]
        workspace.figure(f"looked-{number}", looked_figure(answered, title=f"{q.text} ({right})"))


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
