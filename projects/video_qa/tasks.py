"""Tasks: answers about a user's clip, analysis of checkpoints, features and labels of frames."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.row_map.chunks import RowFunction
from common.data.row_map.mapper import RowMap, map_rows
from common.data.tables import write_jsonl
from common.encoders.modes import evaluated
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace, read_json
from common.export.files import write_json, write_tensors
from common.files import write_text
from projects.video_qa.answers import accuracy_by, question_type
from projects.video_qa.clips.batches import Words
from projects.video_qa.clips.clips import Clip, frame_times
from projects.video_qa.clips.frames import Frames
from projects.video_qa.config import Config, PrepareConfig
from projects.video_qa.data import judging
from projects.video_qa.descriptions import read_description
from projects.video_qa.evaluate import hits_of, judge, judged_part, unlabelled
from projects.video_qa.folder import exported_of
from projects.video_qa.inference import (
    Answer,
    Answerer,
    FrameEncoder,
    in_order,
    looked_figure,
    opened,
    pictures_of,
)
from projects.video_qa.module import VideoQA
from projects.video_qa.network import build_tokenizer


def answer(cfg: Config, workspace: Workspace, experiment: Experiment[VideoQA]) -> list[Answer]:
    """Answers to the questions of a clip description.

    Answers.json, and a picture a question of where the model looked.

    Raises:
        UserError: no trained model, or a description that cannot be read.
    """
    description = read_description(cfg.answer.clip)
    for question, candidates in description.questions:
        if len(set(candidates)) < len(candidates):
            raise UserError(
                f"answer.clip={cfg.answer.clip}: '{question}' has a candidate twice, which would"
                " share its probability: leave one out"
            )
    module, _ = trained_module(experiment, workspace, cfg.answer.run, cfg.runs_dir)
    answerer = Answerer(exported_of(module))
    pictures = pictures_of(description.frames) if description.frames is not None else []
    frames = answerer.frames(pictures, description.fps)
    answers, rows = [], []
    for number, (question, candidates) in enumerate(description.questions):
        one = answerer.answer(description.clip, frames, question, candidates, description.fps)
        answers.append(one)
        if not number:
            for note in unread(one, description.clip, frames, answerer.model.layout.max_sentences):
                workspace.say(note)
        where = "" if one.span is None else f" ({one.span[0]:.1f} to {one.span[1]:.1f} s)"
        workspace.say(f"{question} {one.text}, p = {max(one.probabilities):.2f}{where}")
        rows.append(
            {
                "question": question,
                "answer": one.text,
                "span": one.span,
                "subtitles_not_read": one.beyond + one.after_end,
                "probabilities": dict(zip(candidates, one.probabilities, strict=True)),
            }
        )
        if one.looked.shape[1]:
            workspace.figure(f"looked-{number}", looked_figure(one, pictures, question))
    write_json(workspace.folder(".") / "answers.json", rows)
    return answers


def unread(one: Answer, clip: Clip, frames: Frames | None, most: int) -> list[str]:
    """What an answer does not rest on: subtitles that were not read, in words."""
    notes, count = [], len(clip.sentences)
    if one.after_end and frames is not None:
        notes.append(
            f"{one.after_end} of {count} subtitles start after the last picture, shown at"
            f" {frames.times[-1]:.1f} s, and are not read: give the pictures a second as fps in"
            " answer.clip"
        )
    if one.beyond:
        notes.append(
            f"{one.beyond} of {count} subtitles are not read, the model takes the first {most}"
            " (data.max_sentences)"
        )
    return notes


def analyse(cfg: Config, workspace: Workspace, experiment: Experiment[VideoQA]) -> str:
    """Accuracy by question type of one or two checkpoints, and where they differ: analysis.md.

    Raises:
        UserError: other than one or two runs, or questions without answers.
    """
    names = cfg.analyse.runs
    if len(names) > 2:
        raise UserError("analyse.runs: give one run, or two to set side by side")
    columns: dict[str, dict[str, float]] = {}
    chosen: list[list[int]] = []
    for number, name in enumerate(names, start=1):
        module, _ = trained_module(experiment, workspace, name, cfg.runs_dir)
        judged_cfg = judging(
            cfg, module.cfg
        )  # objects, frames and sizes of the one may not fit the other
        loaded = judged_part(judged_cfg)
        if unlabelled(loaded):
            raise UserError("these questions have no answers: set eval.split=dev")
        types = [q.kind or question_type(q.text) for q in loaded.questions]
        with evaluated(module, cfg.trainer.accelerator):
            chosen.append(
                judge(judged_cfg, module, loaded, Words(build_tokenizer(judged_cfg))).chosen
            )
        columns[f"{number} {Path(name).name}"] = accuracy_by(
            hits_of(loaded.questions, chosen[-1]), types
        )
    lines = [
        "| questions | number | " + " | ".join(columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for group in next(iter(columns.values())):
        count = types.count(group) if group else len(types)
        lines.append(
            f"| {group or 'all'} | {count} | "
            + " | ".join(f"{c[group]:.3f}" for c in columns.values())
            + " |"
        )
    if len(chosen) == 2:
        lines += [
            "",
            f"| clip | question | right | {' | '.join(columns)} |",
            "|---|---|---|---|---|",
        ]
        differ = [i for i, (a, b) in enumerate(zip(*chosen, strict=True)) if a != b]
        for i in differ[: cfg.analyse.shown]:
            q = loaded.questions[i]
            candidates = [q.candidates[k] for k in (q.answer or 0, chosen[0][i], chosen[1][i])]
            lines.append(f"| {q.clip} | {q.text} | " + " | ".join(candidates) + " |")
    text = "\n".join(lines) + "\n"
    write_text(workspace.folder(".") / "analysis.md", text)
    workspace.say(text)
    return text


# -- preparation ---------------------------------------------------------------------------------


def features(cfg: Config, workspace: Workspace) -> Path:
    """Frames of clips (see `clip_folders`) to <clip>.safetensors.

    Clips that are done are left as they are.

    ``features.json`` says by which encoder, and at how many pictures a second.

    Raises:
        UserError: no such folder, too many clips without a readable picture, or files of another
            encoder or fps.
    """
    clips, output = clip_folders(cfg.prepare), _output(cfg, workspace, "features")
    encoder = FrameEncoder(cfg.model.image_encoder)
    _same_settings(output, {"encoder": cfg.model.image_encoder, "fps": cfg.data.fps})
    device, counter = _device(cfg.prepare), CorruptCounter("clips", max_fraction=0.05)
    todo = [n for n in clips if not (output / f"{n}.safetensors").is_file()]
    for _ in range(
        len(clips) - len(todo)
    ):  # of all clips, so that a second call judges as the first
        counter.good()
    for name in workspace.progress(todo, "clips", len(todo)):
        try:
            encoded = encoder(some(clips[name]), cfg.prepare.batch_size, device)
        except UserError as error:
            counter.bad(name, error)
            continue
        counter.good()
        times = torch.from_numpy(frame_times(len(encoded), cfg.data.fps))
        write_tensors(output / f"{name}.safetensors", {"features": encoded, "times": times})
    counter.finish()
    made, left = len(todo) - counter.skipped, counter.skipped
    note = f"; {left} without a readable picture are left out" * bool(left)
    workspace.say(
        f"{made} clips encoded by {cfg.model.image_encoder}{note}; data.features={output.resolve()}"
    )
    return output


def _same_settings(output: Path, settings: dict[str, Any]) -> None:
    """Refuse to continue in a folder of features that were made another way."""
    file = output / "features.json"
    if not any(output.glob("*.safetensors")):
        output.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
    elif not file.is_file():
        raise UserError(
            f"{output} has features, but no features.json with their settings: give another"
            f" prepare.output, or write {json.dumps(settings)} into {file} if that is so"
        )
    elif (stored := read_json(file)) != settings:
        raise UserError(
            f"{output} contains features made with {stored}, not with {settings}: give another"
            " prepare.output, or delete the folder"
        )


def objects(cfg: Config, workspace: Workspace) -> Path:
    """Labels that a detector finds in each frame: JSON lines {clip, labels}.

    Can be stopped, continued, shared out.

    A clip with an unreadable picture, or without any, is left out and counted.

    Raises:
        UserError: no such folder, absent weights, or too many clips that are left out.
    """
    options = cfg.prepare
    rows = [
        {"clip": n, "frames": [str(x) for x in frames]}
        for n, frames in clip_folders(options).items()
    ]
    output = _output(cfg, workspace, "objects.jsonl")
    settings = {"detector": options.detector, "threshold": options.threshold, "most": options.most}
    step = RowMap("objects", partial(detector, options), settings, cfg.seed, chunk_size=8)
    done = map_rows(step, rows, output.with_name(output.name + ".parts"), cfg.task, workspace.meter)
    workspace.say(done.summary)
    if done.complete:
        write_jsonl(output, _without_errors(done.rows(), done.parts.folder))
        workspace.say(f"data.objects={output.resolve()}")
    return output


def detector(options: PrepareConfig) -> RowFunction:
    """{clip, frames} -> {clip, labels} by an object detector of transformers.

    {clip, error} of unreadable pictures.

    Raises:
        UserError: absent weights.
    """
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    from common.encoders.pretrained import is_offline, loading, resolve_pretrained

    ref = resolve_pretrained(options.detector)
    place = str(ref.path or ref.name)
    with loading(ref):
        local = ref.path is not None or is_offline()
        processor: Any = AutoImageProcessor.from_pretrained(place, local_files_only=local)
        model: Any = AutoModelForObjectDetection.from_pretrained(place, local_files_only=local)
    model = model.eval().to(_device(options))
    names = model.config.id2label

    def labels(paths: Sequence[str]) -> list[list[str]]:
        labels_of_frames: list[list[str]] = []
        for i in range(0, len(some(paths)), options.batch_size):
            pictures = [opened(p) for p in paths[i : i + options.batch_size]]
            with torch.no_grad():
                out = model(**processor(images=pictures, return_tensors="pt").to(model.device))
            for one in processor.post_process_object_detection(out, threshold=options.threshold):
                order = one["scores"].argsort(descending=True)
                names_of_frame = dict.fromkeys(names[int(k)] for k in one["labels"][order])
                labels_of_frames.append(list(names_of_frame)[: options.most])
        return labels_of_frames

    def labels_of(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"clip": row["clip"], "labels": labels(row["frames"])}
        except UserError as error:
            return {"clip": row["clip"], "error": str(error)}

    return lambda rows, seeds: [labels_of(row) for row in rows]


def clip_folders(options: PrepareConfig) -> dict[str, list[Path]]:
    """Pictures of each clip in their order, by its name; folders may lie at any depth.

    A clip has its folder's name, as TVQA's <show>_frames/<clip>. DramaQA's shots
    <episode>/<scene>/<shot>, scene and shot in digits, are <episode>_<scene>_<shot>, and
    <episode>_<scene>_0000 has all pictures of a scene's shots.

    Raises:
        UserError: no such folder, none with pictures in it, or two clips of one name.
    """
    nothing = UserError(
        "set prepare.frames, a folder with one folder of pictures for each clip, not"
        f" {options.frames}"
    )
    if options.frames is None:
        raise nothing
    place = Path(options.frames).expanduser()
    pictures_of_clips, scenes = dict[str, list[Path]](), defaultdict[str, list[Path]](list)
    for folder, below, files in os.walk(place, followlinks=True):
        below.sort()  # the order in which they are walked
        at, pictures = Path(folder), in_order(Path(folder, file) for file in files)
        if at == place or (below and not pictures):
            continue
        inside, name = at.relative_to(place).parts, at.name
        if len(inside) > 1 and all(part.isdigit() for part in inside[-2:]):
            scene = "_".join((place.resolve() / at.relative_to(place)).parts[-3:-1])
            name = f"{scene}_{name}"
            scenes[f"{scene}_0000"] += pictures
        if name in pictures_of_clips:
            raise UserError(
                f"prepare.frames: two folders, one of them {at}, are of the clip {name}"
            )
        pictures_of_clips[name] = pictures
    pictures_of_clips = {**scenes, **pictures_of_clips}
    if not any(pictures_of_clips.values()):
        raise nothing
    return pictures_of_clips


def some(pictures: Sequence[Any]) -> Sequence[Any]:
    """The pictures of a clip.

    Raises:
        UserError: there are none.
    """
    if not pictures:
        raise UserError("its folder has no pictures")
    return pictures


def _without_errors(rows: Iterable[dict[str, Any]], parts: Path) -> list[dict[str, Any]]:
    counter = CorruptCounter(f"clips (delete {parts} once they are repaired)", max_fraction=0.05)
    kept = []
    for row in rows:
        if "error" in row:
            counter.bad(row["clip"], row["error"])
        else:
            counter.good()
            kept.append(row)
    counter.finish()
    return kept


def _output(cfg: Config, workspace: Workspace, name: str) -> Path:
    output = (
        Path(cfg.prepare.output).expanduser()
        if cfg.prepare.output
        else workspace.folder(".") / name
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    return output


def _device(options: PrepareConfig) -> str:
    if options.device != "auto":
        return options.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def tasks(cfg: Config, experiment: Experiment[VideoQA]) -> dict[str, Callable[[Workspace], object]]:
    """Verbs of `make run`."""
    return {
        "answer": partial(answer, cfg, experiment=experiment),
        "analyse": partial(analyse, cfg, experiment=experiment),
        "features": partial(features, cfg),
        "objects": partial(objects, cfg),
    }
