"""Batches of multiple-choice questions: a text for every candidate and sentence, frames, spans.

# B questions, A candidates, N sentences, L tokens, F frames, D features of a frame
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.samplers import Key, Rng, sample_rng
from projects.video_qa.clips.clips import (
    Clip,
    Question,
    Sentence,
    Span,
    frame_times,
    frames_of_sentences,
    objects_of_sentence,
    sentences_in_span,
    sentences_shown,
    within,
)
from projects.video_qa.clips.frames import FrameSource

MASK_STREAM = 61
UNKNOWN = -1  # label of a question whose answer is kept back
NO_SPAN = -100  # span of a question that has none
REMEMBERED = 100_000  # texts whose ids a process keeps, some 50 MB
PADDING = 1.0  # seconds of frames before and after a span that is seen alone, as in TVQA's release
MaskScope = Literal["all", "answer", "subtitle"]


class Choice(NamedTuple):
    """What is chosen among: A pairs of a question and an answer about one clip.

    Attributes:
        clip: its name.
        pairs: (question, answer) of each candidate.
        label: index of the right one; None: unknown.
        span: part of the clip that holds the answer; None: unknown.
    """

    clip: str
    pairs: tuple[tuple[str, str], ...]
    label: int | None
    span: Span | None = None


def choice_of(question: Question) -> Choice:
    """A question with each of its candidates."""
    pairs = tuple((question.text, answer) for answer in question.candidates)
    return Choice(question.clip, pairs, question.answer, question.span)


class VideoQABatch(TypedDict):
    """B questions on clips; all that is padding is 0 or False."""

    input_ids: Tensor  # (B, A, N, L) int64: [CLS] objects ; sentence [SEP] question answer [SEP]
    attention_mask: Tensor  # (B, A, N, L) int64
    token_type_ids: Tensor  # (B, A, N, L) int64, 1 from the question on
    sentence_mask: Tensor  # (B, N) bool
    sentence_times: Tensor  # (B, N, 2) float32 seconds
    frames: Tensor  # (B, F, D) float32
    frame_mask: Tensor  # (B, F) bool
    frame_spans: Tensor  # (B, N, F) bool: frames that belong to a sentence
    # (B, F) int64: first sentence that a frame belongs to, else that of the frame before
    frame_sentence: Tensor
    labels: Tensor  # (B,) int64, -1 where unknown
    spans: Tensor  # (B, 2) int64: first and last sentence of the annotated span, -100 without one
    span_seconds: Tensor  # (B, 2) float32, NaN without one
    ids: Tensor  # (B,) int64
    masked_ids: NotRequired[Tensor]  # (B, 1, N, L): input of the right candidate, masked
    masked_attention: NotRequired[Tensor]
    masked_types: NotRequired[Tensor]


@dataclass(frozen=True)
class Masking:
    """Which tokens of the right candidate's input become [MASK]; special tokens never do.

    A question, an answer and a sentence are masked once, alike in all sequences that hold them.

    Attributes:
        probability: of each token, in [0, 1].
        scope: all, or the tokens of the answer or of the subtitles (with their objects) alone.
    """

    probability: float
    scope: MaskScope = "all"

    def __call__(self, ids: list[int], part: str, mask_id: int, rng: Rng) -> list[int]:
        """Ids of a part ("subtitle", "question" or "answer") with some of them masked."""
        chosen = rng.random(len(ids)) < self.probability
        if self.scope not in ("all", part):
            return ids
        return [mask_id if hit else i for i, hit in zip(ids, chosen, strict=True)]


@dataclass(frozen=True)
class Layout:
    """How a clip and a question become sequences.

    Attributes:
        max_sentences: N at most; later ones are left out.
        max_length: L at most, special tokens included.
        max_objects: labels of a sentence at most; 0: none.
        localised: only the sentences of the annotated span and the frames around it, where there is
            one.
        frames: whether frames are read at all.
        fps: labelled frames a second.
    """

    max_sentences: int = 60
    max_length: int = 70
    max_objects: int = 20
    localised: bool = False
    frames: bool = True
    fps: float = 3.0


class Context(NamedTuple):
    """What is said and what is seen meanwhile, as ids."""

    objects: list[int]
    sentence: list[int]


class Words:
    """Texts as ids without special tokens; the last ones, at most `REMEMBERED`, are kept.

    Args:
        tokenizer: with [CLS], [SEP], [MASK] and padding.

    Raises:
        UserError: the tokenizer lacks one of them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self._known = tokenizer, dict[str, list[int]]()
        names = ("cls", "sep", "mask", "pad")
        ids = [getattr(tokenizer, f"{name}_token_id", None) for name in names]
        if None in ids:
            raise UserError(
                "video questions need a tokenizer with [CLS], [SEP], [MASK] and padding, as BERT"
                " has one"
            )
        self.cls, self.sep, self.mask, self.pad = (int(i) for i in ids if i is not None)

    def __call__(self, text: str) -> list[int]:
        """Ids of one text."""
        if text not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            ids = self.tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"]
            self._known[text] = list(ids)
        return self._known[text]

    def join(
        self, context: Context, question: list[int], answer: list[int], most: int
    ) -> tuple[list[int], int]:
        """[CLS] objects ; sentence [SEP] question answer [SEP], and where the question begins.

        What is too long is cut: the last objects, then the end of the sentence, then that of the
        answer.
        """
        tail = [*question, *answer][: most - 3]
        room = most - 3 - len(tail)
        sentence = context.sentence[:room]
        mark = self(";") if context.objects else []
        objects = context.objects[: max(0, room - len(sentence) - len(mark))]
        head = [self.cls, *objects, *(mark if objects else []), *sentence, self.sep]
        return [*head, *tail, self.sep], len(head)


class VideoQARows(Dataset[Any]):
    """Batches of keys (index, epoch).

    Args:
        choices: (index, epoch) -> what is chosen among.
        count: number of examples.
        clips: by name.
        frames: features; None: clips are text alone.
        words: the tokenizer.
        layout: sizes.
        seed: the experiment's.
        masking: also the masked input of the right candidate; None: not.
    """

    def __init__(
        self,
        choices: Callable[[int, int], Choice],
        count: int,
        clips: dict[str, Clip],
        frames: FrameSource | None,
        words: Words,
        layout: Layout,
        *,
        seed: int = 0,
        masking: Masking | None = None,
    ) -> None:
        self.choices, self.count, self.clips, self.frames = choices, count, clips, frames
        self.words, self.layout, self.seed, self.masking = words, layout, seed, masking

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, keys: Any) -> Any:
        """A batch of keys; of a single index what `collate` takes."""
        return keys if isinstance(keys, int) else self._batch(keys)

    def collate(self, indices: Sequence[int]) -> VideoQABatch:
        """Batch of a validation loader."""
        return self._batch([(index, 0) for index in indices])

    def _batch(self, keys: Sequence[Key]) -> VideoQABatch:
        return stack([self._example(*key) for key in keys], self.words.pad)

    def _example(self, index: int, epoch: int) -> dict[str, Any]:
        choice = self.choices(index, epoch)
        seen = clip_view(self.clips[choice.clip], self.frames, self.layout, choice.span)
        words, most = self.words, self.layout.max_length
        context = [
            Context(words(" ".join(o)), words(s.text))
            for o, s in zip(seen.objects, seen.sentences, strict=True)
        ]
        pairs = [(words(q), words(a)) for q, a in choice.pairs]
        example: dict[str, Any] = {
            "sequences": [[words.join(c, q, a, most) for c in context] for q, a in pairs],
            "view": seen,
            "label": UNKNOWN if choice.label is None else choice.label,
            "span": choice.span,
            "id": index,
        }
        if self.masking is not None:
            if choice.label is None:
                raise UserError("a question without an answer cannot be trained on")
            rng = sample_rng(self.seed, epoch, index, MASK_STREAM)
            hide = partial(self.masking, mask_id=words.mask, rng=rng)
            q, a = pairs[choice.label]
            q, a = hide(q, "question"), hide(a, "answer")
            hidden = [Context(*(hide(part, "subtitle") for part in c)) for c in context]
            example["masked"] = [[words.join(c, q, a, most) for c in hidden]]
        return example


class ClipView(NamedTuple):
    """A clip as it is laid out: N sentences, the objects of each, frames and their spans."""

    sentences: tuple[Sentence, ...]
    objects: list[tuple[str, ...]]
    features: Tensor  # (F, D)
    spans: np.ndarray  # (N, F)


def clip_end(times: np.ndarray) -> float | None:
    """Second at which the last frame is gone; None without frames.

    >>> clip_end(np.array([0.0, 2.0])), clip_end(np.zeros(0))
    (4.0, None)
    """
    gap = float(np.diff(times).mean()) if len(times) > 1 else 1.0
    return float(times[-1]) + gap if len(times) else None


def clip_view(
    clip: Clip, source: FrameSource | None, layout: Layout, span: Span | None
) -> ClipView:
    """Lay out a clip; one without subtitles gets a single empty sentence, which spans all of it.

    Labels of objects have times of their own: a clip whose features are thinned out, absent or not
    looked at keeps them.
    """
    frames = source(clip.name) if source is not None and layout.frames else None
    times = np.zeros(0) if frames is None else frames.times
    features = (
        torch.zeros(0, 0 if source is None else source.dim) if frames is None else frames.features
    )
    end = clip_end(times)
    sentences, objects = clip.sentences, clip.objects
    shown = frame_times(len(objects), layout.fps)
    if layout.localised and span is not None:
        sentences = tuple(sentences_shown(sentences, span))
        begin, last = span[0] - PADDING, span[1] + PADDING
        inside = np.flatnonzero((times >= begin) & (times <= last))
        features, times = features[torch.from_numpy(inside)], times[inside]
        seen = np.flatnonzero((shown >= begin) & (shown <= last))
        objects, shown = tuple(objects[i] for i in seen), shown[seen]
    sentences = within(sentences, end, layout.max_sentences)
    if not sentences:
        every = [*times, *shown]
        sentences = (
            Sentence(float(min(every, default=0.0)), float(max([end or 0.0, *every])), ""),
        )
    spans = frames_of_sentences(sentences, times)
    clip = clip._replace(objects=objects)
    looked = frames_of_sentences(sentences, shown)
    labels = [objects_of_sentence(clip, row, layout.max_objects) for row in looked]
    return ClipView(sentences, labels, features, spans)


def stack(examples: Sequence[dict[str, Any]], pad: int) -> VideoQABatch:
    """Examples as one padded batch.

    Raises:
        UserError: examples with different numbers of candidates.
    """
    views: list[ClipView] = [e["view"] for e in examples]
    count, sizes = len(examples), {len(e["sequences"]) for e in examples}
    if len(sizes) > 1:
        raise UserError(
            f"questions of one set must have equally many candidates, not {sorted(sizes)}"
        )
    n, f = max(len(v.sentences) for v in views), max(len(v.features) for v in views)
    dim = views[0].features.shape[1]
    frames, spans = torch.zeros(count, f, dim), torch.zeros(count, n, f, dtype=torch.bool)
    frame_sentence = torch.zeros(count, f, dtype=torch.long)
    times = torch.zeros(count, n, 2)
    target = torch.full((count, 2), NO_SPAN)
    seconds = torch.full((count, 2), float("nan"))
    for b, (example, view) in enumerate(zip(examples, views, strict=True)):
        rows, columns = view.spans.shape
        frames[b, :columns], spans[b, :rows, :columns] = view.features, torch.from_numpy(view.spans)
        times[b, :rows] = torch.tensor([s[:2] for s in view.sentences])
        frame_sentence[b, :columns] = torch.from_numpy(_nearest_sentence(view.spans))
        if example["span"] is not None:
            seconds[b] = torch.tensor(example["span"])
            inside = sentences_in_span(view.sentences, example["span"])
            target[b] = target[b] if inside is None else torch.tensor(inside)
    ids, mask, types = _padded([e["sequences"] for e in examples], n, pad)
    batch: VideoQABatch = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "sentence_mask": torch.arange(n) < torch.tensor([len(v.sentences) for v in views])[:, None],
        "sentence_times": times,
        "frames": frames,
        "frame_mask": torch.arange(f) < torch.tensor([len(v.features) for v in views])[:, None],
        "frame_spans": spans,
        "frame_sentence": frame_sentence,
        "labels": torch.tensor([e["label"] for e in examples]),
        "spans": target,
        "span_seconds": seconds,
        "ids": torch.tensor([e["id"] for e in examples]),
    }
    if "masked" in examples[0]:
        masked = _padded([e["masked"] for e in examples], n, pad)
        batch["masked_ids"], batch["masked_attention"], batch["masked_types"] = masked
    return batch


def _padded(
    rows: Sequence[list[list[tuple[list[int], int]]]], n: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    a = len(rows[0])
    length = max(len(ids) for example in rows for one in example for ids, _ in one)
    ids = np.full((len(rows), a, n, length), pad, dtype=np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for b, example in enumerate(rows):
        for i, candidate in enumerate(example):
            for j, (row, begin) in enumerate(candidate):
                ids[b, i, j, : len(row)], mask[b, i, j, : len(row)] = row, 1
                types[b, i, j, begin : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types)


def _nearest_sentence(spans: np.ndarray) -> np.ndarray:
    """(F,) first sentence that covers a frame; between sentences, that of the frame before."""
    f = spans.shape[1]
    if not f:
        return np.zeros(0, dtype=np.int64)
    nearest = np.where(spans.any(0), spans.argmax(0), -1)
    for i in range(1, f):
        nearest[i] = nearest[i] if nearest[i] >= 0 else nearest[i - 1]
    return np.asarray(np.maximum(nearest, 0), dtype=np.int64)
