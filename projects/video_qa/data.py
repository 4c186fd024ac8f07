"""Questions, clips and frames of a config's source, and the batches of both stages."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import UserError
from common.data.lookup import bundled, data_root
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.engine.experiment import Requirement, bundled_requirement
from projects.video_qa.clips.batches import Layout, Masking, VideoQARows, Words, choice_of
from projects.video_qa.clips.clips import Clip, Question, Sentence
from projects.video_qa.clips.frames import (
    FeatureFiles,
    FeatureTable,
    Frames,
    FramesInMemory,
    FrameSource,
)
from projects.video_qa.clips.tv_sets import (
    SETS,
    Part,
    QASet,
    load_tv_set,
    read_objects,
    subtitles_of,
    with_objects,
)
from projects.video_qa.config import Config
from projects.video_qa.pretraining import QuestionPrediction

log = logging.getLogger(__name__)
SUBSET_STREAM, SYNTHETIC_STREAM = 64, 65
JUDGED_SEED = 0  # clips that are judged are the same whatever the experiment's seed
COLOURS = ("red", "green", "blue", "white", "black", "yellow")


@dataclass(frozen=True)
class Loaded:
    """Questions of a part with their clips; frames, if they are looked at."""

    questions: tuple[Question, ...]
    clips: dict[str, Clip]
    frames: FrameSource | None


def load_part(cfg: Config, part: Part) -> Loaded:
    """A part of the config's source.

    The training part cut to ``data.train_questions``, drawn by the seed.

    Raises:
        UserError: files are missing or of another form.
    """
    options, root = cfg.data, data_root(cfg.data.root)
    frames: FrameSource | None = None
    if options.source == "simulated":
        from projects.video_qa.simulated import simulated_set

        count = {
            "train": options.train_questions or 1000,
            "dev": 500,
            "test": options.test_questions,
        }[part]
        qa_set, frames = simulated_set(
            options.root, part, count, cfg.seed if part == "train" else JUDGED_SEED
        )
    elif options.source == "synthetic":
        qa_set, frames = synthetic_set(part, options.feature_dim)
    elif options.source == "questions":
        qa_set = bundled_questions(options.root, part)
    else:
        qa_set = load_tv_set(root, options.source, part)
        frames = _features(cfg, root, qa_set.clips)
    if options.objects is not None:
        qa_set = with_objects(qa_set, read_objects(root / options.objects))
    questions = qa_set.questions
    if (
        part == "train"
        and options.train_questions is not None
        and options.train_questions < len(questions)
    ):
        order = sample_rng(cfg.seed, 0, 0, SUBSET_STREAM).permutation(len(questions))
        questions = tuple(questions[i] for i in sorted(order[: options.train_questions]))
    return Loaded(questions, qa_set.clips, frames if cfg.model.streams == "both" else None)


def _features(cfg: Config, root: Path, clips: Collection[str]) -> FrameSource | None:
    options = cfg.data
    if cfg.model.streams == "text":
        return None
    if options.features is None:
        raise UserError("set data.features (TASK=features writes them), or model.streams=text")
    path = root / options.features
    kind: type[FeatureTable] | type[FeatureFiles] = FeatureFiles
    if path.suffix in (".h5", ".hdf5"):
        kind = FeatureTable
    source = kind(path, options.fps, options.feature_dim, max_frames=options.max_frames)
    if clips and not any(name in source for name in clips):
        raise UserError(
            f"{path} has features of none of the clips, which are named as '{next(iter(clips))}'"
        )
    return source


def layout_of(cfg: Config, *, pretraining: bool = False) -> Layout:
    """Sizes; question prediction always sees the whole clip."""
    options = cfg.data
    return Layout(
        options.max_sentences,
        options.max_length,
        options.max_objects,
        options.localised and not pretraining,
        cfg.model.streams == "both",
        options.fps,
    )


def judging(cfg: Config, model_cfg: Config) -> Config:
    """Questions as one config chooses them, laid out as a network takes them.

    Args:
        cfg: of the command: source, data root, what is evaluated.
        model_cfg: that the network was trained with: layout, tokenizer, streams, and files of
            features and objects if its source is the same.
    """
    asked, files = (
        cfg.data,
        model_cfg.data if model_cfg.data.source == cfg.data.source else cfg.data,
    )
    data = replace(
        model_cfg.data,
        source=asked.source,
        root=asked.root,
        test_questions=asked.test_questions,
        features=files.features,
        objects=files.objects,
    )
    return replace(model_cfg, data=data, eval=cfg.eval, trainer=cfg.trainer)


def main_rows(cfg: Config, loaded: Loaded, words: Words, *, training: bool) -> VideoQARows:
    """Questions with their candidates; in training also the masked input, if it is contrasted.

    Raises:
        UserError: a training question without its answer.
    """
    questions, options = loaded.questions, cfg.method
    masking = (
        Masking(options.mask_prob, options.mask_scope)
        if training and options.contrast_weight
        else None
    )
    if training and any(q.answer is None for q in questions):
        raise UserError("some training questions have no answer: this part cannot be trained on")
    return VideoQARows(
        lambda index, epoch: choice_of(questions[index]),
        len(questions),
        loaded.clips,
        loaded.frames,
        words,
        layout_of(cfg),
        seed=cfg.seed,
        masking=masking,
    )


def pretraining_rows(cfg: Config, loaded: Loaded, words: Words) -> VideoQARows:
    """Answers with candidate questions, of the main stage's training questions alone."""
    options = cfg.pretrain
    choices = QuestionPrediction(
        loaded.questions,
        loaded.clips,
        options.candidates,
        options.distractors,
        options.answer,
        cfg.seed,
    )
    log.info(
        "question prediction: %d training questions on %d clips, no further file, label or"
        " data set",
        len(choices),
        len({q.clip for q in loaded.questions}),
    )
    return VideoQARows(
        choices,
        len(choices),
        loaded.clips,
        loaded.frames,
        words,
        layout_of(cfg, pretraining=True),
        seed=cfg.seed,
    )


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What must lie on disk."""
    options = cfg.data
    if options.source == "simulated":
        return (
            bundled_requirement("cifar10"),
            bundled_requirement("sentences-en"),
            bundled_requirement("models/cifar-resnet20"),
        )
    if options.source == "questions":
        return (bundled_requirement("videoqa-tvqaplus"),)
    if options.source == "synthetic":
        return ()
    spec, root = SETS[options.source], data_root(options.root)
    where = f"{spec.source} ({spec.size})"
    needed = dict.fromkeys(
        (spec.files["train"], spec.files["dev"], subtitles_of(root, spec)), where
    )
    needed |= {} if options.features is None else {options.features: "write it with TASK=features"}
    needed |= {} if options.objects is None else {options.objects: "write it with TASK=objects"}
    return tuple(
        Requirement(f"data: {n}", str(root / n), (root / n).exists(), hint)
        for n, hint in needed.items()
    )


# -- sources without files, and the bundled questions --------------------------------------------


def bundled_questions(root: str | None, part: Part) -> QASet:
    """TVQA+'s validation questions by hash of the clip: 60 % train, 10 % dev, 30 % test."""
    from projects.video_qa.clips.tv_sets import read_tvqa

    every = read_tvqa(bundled("videoqa-tvqaplus", root) / "val.jsonl.gz")
    bounds = {"train": (0.0, 0.6), "dev": (0.6, 0.7), "test": (0.7, 1.0)}[part]
    mine = tuple(q for q in every if bounds[0] <= stable_fraction(q.clip) < bounds[1])
    clips = {q.clip: Clip(q.clip, (), "bbt") for q in mine}
    return QASet(mine, clips)


def synthetic_set(part: Part, dim: int) -> tuple[QASet, FramesInMemory]:
    """Made-up clips: things are put on places while colours are shown.

    Two questions each, one of them visual.

    Some clips have a sentence without frames, and some questions no span, as real ones.
    """
    count = {"train": 24, "dev": 8, "test": 12}[part]
    clips, frames, questions = {}, {}, []
    for number in range(count):
        rng = sample_rng(0, 0, number, SYNTHETIC_STREAM + ("train", "dev", "test").index(part))
        name, n = f"{part}{number}", int(rng.integers(3, 6))
        colours = rng.integers(len(COLOURS), size=n)
        things = [f"{chr(97 + int(rng.integers(26)))}{k}" for k in range(n)]
        places = [f"{chr(97 + int(rng.integers(26)))}{k}{k}" for k in range(n)]
        said = tuple(
            Sentence(2.0 * k, 2.0 * k + 1.8, f"put {things[k]} on {places[k]}") for k in range(n)
        )
        times = np.arange(2 * n - (number % 2)) + 0.0
        shown = torch.zeros(len(times), dim)
        for i in range(len(times)):
            shown[i, int(colours[min(i // 2, n - 1)]) % dim] = 1.0
        shown += 0.1 * torch.from_numpy(rng.standard_normal(shown.shape).astype(np.float32))
        labels = tuple((COLOURS[int(colours[min(i // 2, n - 1)])],) for i in range(len(times)))
        clips[name] = Clip(name, said, f"show{number % 3}", labels)
        frames[name] = Frames(shown, times)
        k = int(rng.integers(n))
        span = None if number % 4 == 3 else said[k][:2]
        wrong = [f"x{j}" for j in range(4)]
        order = rng.permutation(5)
        for kind, text, right in (
            ("where", f"where is {things[k]}", places[k]),
            ("what", f"what colour is seen at {things[k]}", COLOURS[int(colours[k])]),
        ):
            others = [c for c in COLOURS if c != right][:4] if kind == "what" else wrong
            every: list[Any] = [right, *others]
            questions.append(
                Question(
                    f"{name}-{kind}",
                    name,
                    text,
                    tuple(every[i] for i in order),
                    int(np.flatnonzero(order == 0)[0]),
                    span,
                    level=1 + number % 4,
                    kind=kind,
                )
            )
    return QASet(tuple(questions), clips), FramesInMemory(frames, dim)
