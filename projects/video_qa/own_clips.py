"""``eval.own``: a user's clips with questions, JSON lines of clip, question, answers, correct."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError, first_line
from common.data.own_files import readable
from common.data.tables import read_jsonl
from common.data.text.lexical import words
from common.encoders.modes import untrained
from common.engine.workspace import Workspace
from projects.video_qa.clips.clips import Clip, Sentence, ordered, read_subtitles
from projects.video_qa.config import Config
from projects.video_qa.folder import exported_of
from projects.video_qa.inference import Answerer, opened, pictures_of
from projects.video_qa.module import VideoQA
from projects.video_qa.network import build_network, build_tokenizer

COLUMNS = ("clip", "question", "answers", "correct")
SHOWN = 12  # questions of the gallery


def judge_clips(cfg: Config, module: VideoQA, workspace: Workspace, path: Path) -> dict[str, float]:
    """Accuracy on a user's multiple-choice questions.

    A row has ``question``, ``answers`` (a list), ``correct`` (the place of the right one, from 0),
    ``clip`` (a folder of frames relative to the file; "" for a model that looks at none), and
    perhaps ``subtitles``: a file, or a list of [start, end, text]. Rows without a right answer are
    skipped.

    Returns:
        ``num_questions``, ``num_clips``, ``num_skipped``; ``accuracy`` with ``_chance``, and
        ``untrained_``, ``longest_`` (the longest answer) and ``subtitle_words_accuracy`` (the
        answer that shares most words with the subtitles); of equal ones one at random, in
        expectation.

    Raises:
        UserError: no usable row, subtitles of another form, too many clips whose frames can't be
            read, or frames that the model's features don't fit.
    """
    rows = read_jsonl(path, COLUMNS)
    usable = [row for row in rows if _is_usable(row)]
    if not usable:
        raise UserError(
            f"{path}: no row has two answers and the place of the right one in 'correct'"
        )
    usable = _with_frames(usable, path, workspace.say)
    trained_cfg = module.cfg

    def build() -> VideoQA:
        return VideoQA(trained_cfg, build_network(trained_cfg, build_tokenizer(trained_cfg)))

    raw = untrained(build, cfg.seed, module)
    answerers = {"": Answerer(exported_of(module)), "untrained_": Answerer(exported_of(raw))}
    right: dict[str, list[float]] = {
        name: [] for name in (*answerers, "longest_", "subtitle_words_")
    }
    shown = []
    clips = [_clip(row, path) for row in usable]
    for row, clip in workspace.progress(zip(usable, clips, strict=True), "questions", len(usable)):
        answers = [str(answer) for answer in row["answers"]]
        folder = path.parent / str(row["clip"])
        pictures = pictures_of(folder) if row["clip"] else []
        for prefix, answerer in answerers.items():
            frames = answerer.frames(pictures)
            answer = answerer.answer(clip, frames, str(row["question"]), answers)
            right[prefix].append(float(answer.place == row["correct"]))
            if not prefix:
                shown.append(_shown(row, answers, answer.probabilities))
        lengths = [len(answer) for answer in answers]
        said = {word for sentence in clip.sentences for word in words(sentence.text)}
        shared = [len(said & {*words(answer)}) for answer in answers]
        for prefix, values in (("longest_", lengths), ("subtitle_words_", shared)):
            right[prefix].append(_share(values, row["correct"]))
    workspace.items("accuracy", right[""])
    order = np.argsort(right[""], kind="stable")[:SHOWN].tolist()
    workspace.gallery("questions, wrong ones first", [shown[i] for i in order])
    metrics = {
        "num_questions": float(len(usable)),
        "num_clips": float(len({str(row["clip"]) for row in usable})),
        "num_skipped": float(len(rows) - len(usable)),
        "accuracy_chance": float(np.mean([1 / len(row["answers"]) for row in usable])),
    }
    return metrics | {f"{k}accuracy": sum(v) / len(v) for k, v in right.items()}


def _is_usable(row: dict[str, object]) -> bool:
    answers, correct = row["answers"], row["correct"]
    return (
        isinstance(answers, list)
        and len(answers) >= 2
        and isinstance(correct, int)
        and 0 <= correct < len(answers)
    )


def _share(values: list[int], correct: int) -> float:
    """Accuracy of choosing one of the highest values at random."""
    highest = max(values)
    return float(values[correct] == highest) / values.count(highest)


def _with_frames(
    rows: list[dict[str, Any]], path: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The rows whose clip, if they name one, has frames that can be read."""
    names = list(dict.fromkeys(str(row["clip"]) for row in rows if row["clip"]))

    def read(folder: Path) -> object:
        return [opened(picture).size for picture in pictures_of(folder)]

    folders = [path.parent / name for name in names]
    kept = {"", *(names[i] for i in readable(folders, say, what="clips", read=read))}
    return [row for row in rows if str(row["clip"] or "") in kept]


def _clip(row: dict[str, object], path: Path) -> Clip:
    """The clip of a row with its subtitles, which may be none."""
    said = row.get("subtitles")
    if isinstance(said, str) and said:
        sentences = read_subtitles(path.parent / said)
    else:
        entries = said if isinstance(said, list) else []
        try:
            sentences = ordered([Sentence(float(a), float(b), str(text)) for a, b, text in entries])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path}, subtitles of the question '{row['question']}': expected a file, or a list"
                f" of [start, end, text] with times in seconds ({first_line(error)})"
            ) from error
    return Clip("clip", sentences)


def _shown(
    row: dict[str, object], answers: list[str], probabilities: list[float]
) -> dict[str, object]:
    order = np.argsort(probabilities)[::-1].tolist()
    results = [
        {"item": answers[i], "score": probabilities[i], "correct": i == row["correct"]}
        for i in order
    ]
    return {"query": f"{row['clip']}: {row['question']}", "results": results}
