"""Baselines: chance, length, words, the frames' classes, rules that know the questions."""

import numpy as np
import torch

from common.config import UserError
from common.data.samplers import sample_rng
from common.data.text.lexical import words as words_of
from common.encoders.image.cifar_resnet import cifar_resnet
from common.encoders.modes import evaluated
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.video_qa.clips.batches import Words
from projects.video_qa.clips.clips import Question, frames_of_sentences
from projects.video_qa.config import Config
from projects.video_qa.data import Loaded
from projects.video_qa.evaluate import Judged, judge, judged_part, metrics_of
from projects.video_qa.module import VideoQA
from projects.video_qa.network import build_network, build_tokenizer
from projects.video_qa.simulated import BLANK, CLASSES

CHANCE_STREAM = 66


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A candidate at random."""
    loaded = judged_part(cfg)
    rng = sample_rng(cfg.seed, 0, 0, CHANCE_STREAM)
    return _told(
        cfg, workspace, loaded, [int(rng.integers(len(q.candidates))) for q in loaded.questions]
    )


def longest(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The longest candidate."""
    loaded = judged_part(cfg)
    return _told(
        cfg,
        workspace,
        loaded,
        [int(np.argmax([len(c) for c in q.candidates])) for q in loaded.questions],
    )


def question_words(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The candidate whose words are most like the question's, by TF-IDF; clip unseen."""
    return _by_words(cfg, workspace, lambda loaded, q, c: [(q.text, c)])


def subtitle_words(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The candidate that, with the question, is most like a sentence of the clip (TF-IDF)."""

    def pairs(loaded: Loaded, q: Question, c: str) -> list[tuple[str, str]]:
        statement = f"{q.text} {c}"
        return [(statement, s.text) for s in loaded.clips[q.clip].sentences]

    return _by_words(cfg, workspace, pairs)


def clip_majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The class that the frames of the whole clip show most.

    Of sentences and words the first longest one.
    """
    loaded = _simulated(cfg)

    def choose(q: Question) -> int:
        if q.kind != "seen":
            return int(np.argmax([len(c) for c in q.candidates]))
        votes = _class_scores(loaded, q.clip).sum(0)
        return int(np.argmax([votes[CLASSES.index(c)] for c in q.candidates]))

    return _told(cfg, workspace, loaded, [choose(q) for q in loaded.questions])


def segment_vote(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A ceiling: rules that know how the questions were made, and the frozen encoder's own classes.

    The sentence of a question is found by its words, its frames vote; or the frames vote for the
    sentence.
    """
    loaded = _simulated(cfg)

    def choose(q: Question) -> int:
        said = loaded.clips[q.clip].sentences
        assert loaded.frames is not None
        scores = _class_scores(loaded, q.clip)
        inside = frames_of_sentences(said, loaded.frames(q.clip).times)
        votes = np.stack([scores[row].sum(0) for row in inside])  # (N, classes)
        if q.kind == "said":
            share = votes[:, CLASSES.index(q.text.split(": ", 1)[1])] / inside.sum(1)
            at = {s.text: float(x) for s, x in zip(said, share, strict=True)}
            return int(np.argmax([at.get(c, 0.0) for c in q.candidates]))
        asked = words_of(q.text.split(": ", 1)[1])
        j = int(
            np.argmax(
                [
                    sum(w in words_of(s.text) for w in asked if w != BLANK) / len(words_of(s.text))
                    for s in said
                ]
            )
        )
        if q.kind == "word":
            return int(np.argmax([c in words_of(said[j].text) for c in q.candidates]))
        return int(np.argmax([votes[j, CLASSES.index(c)] for c in q.candidates]))

    return _told(cfg, workspace, loaded, [choose(q) for q in loaded.questions])


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The network before training."""
    tokenizer = build_tokenizer(cfg)
    module = as_training_begins(lambda: VideoQA(cfg, build_network(cfg, tokenizer)), cfg.seed)
    loaded = judged_part(cfg)
    with evaluated(module, cfg.trainer.accelerator):
        judged = judge(cfg, module, loaded, Words(tokenizer))
    return metrics_of(cfg, loaded.questions, judged, workspace)


def _told(cfg: Config, workspace: Workspace, loaded: Loaded, chosen: list[int]) -> dict[str, float]:
    return metrics_of(cfg, loaded.questions, Judged(chosen, [None] * len(chosen)), workspace)


def _by_words(cfg: Config, workspace: Workspace, pairs) -> dict[str, float]:  # type: ignore[no-untyped-def]
    from sklearn.feature_extraction.text import TfidfVectorizer

    loaded = judged_part(cfg)
    every = [pairs(loaded, q, c) or [(q.text, c)] for q in loaded.questions for c in q.candidates]
    texts = list(dict.fromkeys(t for row in every for pair in row for t in pair))
    vectors, place = TfidfVectorizer().fit_transform(texts), {t: i for i, t in enumerate(texts)}
    flat = [(place[a], place[b]) for row in every for a, b in row]
    cosines = np.asarray(
        vectors[[a for a, _ in flat]].multiply(vectors[[b for _, b in flat]]).sum(1)
    )[:, 0]
    best, start = [], 0
    for row in every:
        best.append(cosines[start : start + len(row)].max())
        start += len(row)
    chosen, start = list[int](), 0
    for q in loaded.questions:
        chosen.append(int(np.argmax(best[start : start + len(q.candidates)])))
        start += len(q.candidates)
    return _told(cfg, workspace, loaded, chosen)


def _simulated(cfg: Config) -> Loaded:
    loaded = judged_part(cfg)
    if cfg.data.source != "simulated" or loaded.frames is None:
        raise UserError("this baseline is of data.source=simulated with model.streams=both")
    return loaded


def _class_scores(loaded: Loaded, clip: str) -> np.ndarray:
    """Probabilities (F, classes) of the frozen encoder's own classifier."""
    assert loaded.frames is not None
    with torch.no_grad():
        logits: torch.Tensor = _classifier()(loaded.frames(clip).features)
    return logits.softmax(-1).numpy()


def _classifier() -> torch.nn.Module:
    if not _KEPT:
        with torch.random.fork_rng():
            _KEPT.append(cifar_resnet(20, "bundled:cifar-resnet20").linear)
    return _KEPT[0]


_KEPT: list[torch.nn.Module] = []
