"""Simulated clips: photographs shown while sentences are said.

Questions that need both, their time, or words alone.

A clip has five sentences of everyday language. While each is said, one to four photographs of one
class are shown, another class for each sentence. Its three questions are of one kind:

- seen: what is seen when somebody says S?      candidates: classes
- said: what is said when a CLASS is seen?      candidates: sentences
- word: which word is missing in S?             candidates: words

Two wrong candidates are right for other sentences of the clip, two for none of them.
"""

import re
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from common.data.image.labelled import load_cifar10
from common.data.image.sources import EvalTransform
from common.data.samplers import Rng, sample_rng
from common.data.splits import stable_fraction
from common.data.text.sets import load_sentences
from common.encoders.image.cifar_resnet import cifar_resnet
from common.encoders.modes import evaluation_mode
from projects.video_qa.clips.clips import Clip, Question, Sentence
from projects.video_qa.clips.frames import Frames, FramesInMemory
from projects.video_qa.clips.tv_sets import Part, QASet

KINDS = ("seen", "said", "word")
CLASSES = ("airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SEGMENTS, QUESTIONS = 5, 3  # sentences of a clip, and questions
NEAR, FAR = 2, 2  # wrong candidates that are right for other sentences of the clip, and for none
BLANK = "something"
CLIP_STREAM = 62
_PARTS = {"train": (0.0, 0.5), "dev": (0.5, 0.6), "test": (0.6, 1.0)}
_SHAPE = re.compile(r"[A-Za-z ']+[.?!]")


def simulated_set(
    root: str | None, part: Part, count: int, seed: int
) -> tuple[QASet, FramesInMemory]:
    """Clips with `count` questions, kinds in equal shares, and the frames' features.

    Sentences and photographs of the three parts are different ones, by hash. The photographs are
    those of the test part of CIFAR-10, which the encoder of the frames has not seen.

    Args:
        root: ``cfg.data.root``.
        part: train, dev or test.
        count: questions.
        seed: of the draw of the clips.
    """
    texts, (features, by_class) = sentences(root, part), photographs(root, part)
    clips, frames, questions = {}, {}, []
    for number in range(-(-count // QUESTIONS)):
        rng = sample_rng(seed, 0, number, CLIP_STREAM + list(_PARTS).index(part))
        name = f"{part}{number:05d}"
        kind = KINDS[number % 3]
        said, words = _distinct(texts, SEGMENTS + FAR, rng)
        classes = [CLASSES[k] for k in rng.permutation(len(CLASSES))[: SEGMENTS + FAR]]
        lengths, start = rng.integers(1, 5, SEGMENTS), 0
        segments, rows = [], []
        for text, label, length in zip(said, classes, lengths, strict=False):
            segments.append(Sentence(float(start), float(start + length) - 0.01, text))
            rows += rng.choice(by_class[CLASSES.index(label)], int(length)).tolist()
            start += int(length)
        clips[name] = Clip(name, tuple(segments), f"series {kind}")
        frames[name] = Frames(features[torch.tensor(rows)], np.arange(start) + 0.5)
        right = {"seen": classes, "said": said, "word": words}[kind]
        questions += _questions(name, kind, segments, right, classes, words, rng)
    return QASet(tuple(questions[:count]), clips), FramesInMemory(frames, features.shape[1])


def _questions(
    clip: str,
    kind: str,
    segments: list[Sentence],
    right: list[str],
    classes: list[str],
    words: list[str],
    rng: Rng,
) -> list[Question]:
    questions = []
    for i in rng.permutation(SEGMENTS)[:QUESTIONS].tolist():
        gap = re.sub(rf"\b{words[i]}\b", BLANK, segments[i].text, count=1, flags=re.I)
        text = {
            "seen": f"what is seen at: {segments[i].text}",
            "said": f"what is said at: {classes[i]}",
            "word": f"what is {BLANK} in: {gap}",
        }[kind]
        near = [right[k] for k in rng.permutation(SEGMENTS).tolist() if k != i][:NEAR]
        every = [right[i], *near, *right[SEGMENTS:]]
        order = rng.permutation(len(every))
        candidates, answer = tuple(every[k] for k in order), int(np.flatnonzero(order == 0)[0])
        span = (segments[i].start, segments[i].end)
        questions.append(Question(f"{clip}-{i}", clip, text, candidates, answer, span, kind=kind))
    return questions


def _distinct(texts: tuple[str, ...], count: int, rng: Rng) -> tuple[list[str], list[str]]:
    """Sentences and a word of each, its longest, that none of the others has."""
    said, words = list[str](), list[str]()
    while len(said) < count:
        text = texts[int(rng.integers(len(texts)))]
        longest = max(re.findall(r"[a-z]+", text.lower()), key=len)
        if all(longest not in other.lower() for other in said) and all(
            w not in text.lower() for w in words
        ):
            said.append(text)
            words.append(longest)
    return said, words


@lru_cache(3)
def sentences(root: str | None, part: Part) -> tuple[str, ...]:
    """Sentences of four to six words of a part, by hash."""
    low, high = _PARTS[part]
    every = [
        *load_sentences(root, sources=["tatoeba"]),
        *load_sentences(root, split="test", sources=["tatoeba"]),
    ]
    return tuple(
        t
        for t in every
        if 4 <= len(t.split()) <= 6
        and _SHAPE.fullmatch(t)
        and low <= stable_fraction(t.lower()) < high
    )


@lru_cache(3)
def photographs(root: str | None, part: Part) -> tuple[Tensor, list[np.ndarray]]:
    """Features (K, 64) of a part's photographs by the frozen encoder, rows of each class."""
    low, high = _PARTS[part]
    data = load_cifar10(root, "test")
    mine = [i for i in range(len(data.labels)) if low <= stable_fraction(f"photograph {i}") < high]
    chosen = data.rows(torch.tensor(mine))
    with torch.random.fork_rng():
        network = cifar_resnet(20, "bundled:cifar-resnet20")
    transform = EvalTransform(32)
    with evaluation_mode(network):
        features = torch.cat([network(transform.batch(x)) for x in torch.split(chosen.images, 200)])
    labels = chosen.labels.numpy()
    return features, [np.flatnonzero(labels == c) for c in range(len(CLASSES))]
