"""TVQA, TVQA+ and DramaQA in their released layouts; files of the same form for one's own clips.

Sources: Lei et al. 2018, arXiv 1809.01696 and jayleicn/TVQA (MIT); Lei et al. 2020, arXiv
1904.11574 and jayleicn/TVQAplus (MIT); Choi et al. 2021, arXiv 2005.03356 and liveseongho/DramaQA
(MIT).
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from common.config import UserError
from common.damage import reading
from common.data.corrupt import CorruptCounter
from common.data.lookup import require
from common.data.plain_pickle import read_plain_pickle
from common.data.tables import read_jsonl, text_of
from projects.video_qa.clips.clips import Clip, Question, Sentence, ordered, read_span, sentences_of

Part = Literal["train", "dev", "test"]
LAST_SECONDS = 3.0  # of the last subtitle where a set tells starts alone


class QASet(NamedTuple):
    """Questions of a part, and the clips by name that they are about."""

    questions: tuple[Question, ...]
    clips: dict[str, Clip]


class SetSpec(NamedTuple):
    """Where the files of a set lie below the data root."""

    files: dict[str, str]  # part -> questions
    subtitles: tuple[str, ...]  # the first that exists is read
    source: str
    size: str
    read: Callable[[Path], list[Question]]
    levels: bool = False  # accuracy by level of difficulty is part of its protocol
    spans: bool = False  # so are metrics of spans


def read_tvqa(path: Path) -> list[Question]:
    """Questions of TVQA (JSON lines) or TVQA+ (JSON list): q, a0 ... a4, answer_idx, ts, vid_name.

    Raises:
        UserError: file missing or of another form.
    """
    rows = read_jsonl(path) if ".jsonl" in path.name else _read_json(path)
    with reading(path, "file of questions in TVQA's form"):
        questions = []
        for row in rows:
            answer = row.get("answer_idx")
            candidates = tuple(text_of(row[f"a{i}"]) for i in range(5))
            questions.append(
                Question(
                    text_of(row["qid"]),
                    text_of(row["vid_name"]),
                    text_of(row["q"]),
                    candidates,
                    None if answer is None else int(answer),
                    read_span(row.get("ts")),
                )
            )
        return _checked(questions)


def read_dramaqa(path: Path) -> list[Question]:
    """Questions of DramaQA: que, answers, correct_idx, q_level_logic (1 to 4), vid.

    Raises:
        UserError: file missing or of another form.
    """
    rows = _read_json(path)
    with reading(path, "file of questions in DramaQA's form"):
        return _checked(
            [
                Question(
                    text_of(row["qid"]),
                    text_of(row["vid"]),
                    text_of(row["que"]),
                    tuple(map(text_of, row["answers"])),
                    None if row.get("correct_idx") is None else int(row["correct_idx"]),
                    None,
                    None if row.get("q_level_logic") is None else int(row["q_level_logic"]),
                )
                for row in rows
            ]
        )


SETS: dict[str, SetSpec] = {
    "tvqa": SetSpec(
        {
            "train": "tvqa/tvqa_train.jsonl",
            "dev": "tvqa/tvqa_val.jsonl",
            "test": "tvqa/tvqa_test_public.jsonl",
        },
        ("tvqa/tvqa_preprocessed_subtitles.jsonl",),
        "https://github.com/jayleicn/TVQA",
        "60 MB of text",
        read_tvqa,
    ),
    "tvqa_plus": SetSpec(
        {
            "train": "tvqa_plus/tvqa_plus_train.json",
            "dev": "tvqa_plus/tvqa_plus_val.json",
            "test": "tvqa_plus/tvqa_plus_test_public.json",
        },
        ("tvqa_plus/tvqa_preprocessed_subtitles.jsonl", "tvqa_plus/tvqa_plus_subtitles.json"),
        "https://github.com/jayleicn/TVQAplus",
        "40 MB of text",
        read_tvqa,
        spans=True,
    ),
    "dramaqa": SetSpec(
        {
            part: f"AnotherMissOh/AnotherMissOh_QA/AnotherMissOhQA_{name}_set.json"
            for part, name in (("train", "train"), ("dev", "val"), ("test", "test"))
        },
        ("AnotherMissOh/AnotherMissOh_script.json",),
        "https://dramaqa.snu.ac.kr",
        "30 MB of text",
        read_dramaqa,
        levels=True,
    ),
}


def load_tv_set(root: Path, name: str, part: Part) -> QASet:
    """A part of a set with the subtitles of its clips.

    Args:
        root: the data root.
        name: tvqa, tvqa_plus or dramaqa.
        part: train, dev, or test (TVQA's answers of which are not public).

    Raises:
        UserError: a file is missing (the message says where to get it) or of another form.
    """
    spec = SETS[name]
    layout = ", ".join([*spec.files.values(), " or ".join(spec.subtitles)])
    path = require(
        root / spec.files[part],
        what=f"{name} ({part})",
        layout=layout,
        source=spec.source,
        size=spec.size,
    )
    questions = spec.read(path)
    subtitles = require(
        root / subtitles_of(root, spec),
        what=f"subtitles of {name}",
        layout=layout,
        source=spec.source,
        size=spec.size,
    )
    said = read_all_subtitles(subtitles, dict.fromkeys(q.clip for q in questions))
    clips = {n: Clip(n, s, show_of(name, n)) for n, s in said.items()}
    return QASet(tuple(questions), clips)


def subtitles_of(root: Path, spec: SetSpec) -> str:
    """The file of subtitles that is read: the first that exists, else the first."""
    return next((name for name in spec.subtitles if (root / name).is_file()), spec.subtitles[0])


def show_of(set_name: str, clip: str) -> str:
    """Series of a clip: TVQA's names begin with it, apart from those of The Big Bang Theory."""
    if set_name == "dramaqa":
        return "another miss oh"
    head = clip.split("_")[0]
    return "bbt" if head[:1] == "s" and head[1:3].isdigit() else head


def read_all_subtitles(path: Path, clips: Iterable[str]) -> dict[str, tuple[Sentence, ...]]:
    """Subtitles by clip in any of the released forms; a clip that has none has no sentence.

    Forms: JSON lines {vid_name, sub: [{start, end, text}]} (TVQA); {vid: {sub_text, sub_time}} with
    sentences joined by " <eos> " and their starts (TVQA+), each of which ends where the next
    begins; {vid: {contained_subs: [{st, et, utter, speaker}]}} (DramaQA), where a scene (..._0000)
    has the sentences of its shots.

    Raises:
        UserError: file missing or of another form.
    """
    names = list(clips)
    if ".jsonl" in path.name:
        rows = {
            text_of(row["vid_name"]): row["sub"] for row in read_jsonl(path, ("vid_name", "sub"))
        }
        read: Callable[[Any], list[Sentence]] = sentences_of
    else:
        rows = _read_json(path)
        read = _starts_alone
    with reading(path, "file of subtitles"):
        if isinstance(rows, dict) and any("contained_subs" in row for row in rows.values()):
            return _drama_subtitles(rows, names)
        return {name: ordered(read(rows[name])) if name in rows else () for name in names}


def read_objects(path: Path) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Labels in each frame, by clip: JSON lines {clip, labels}, as TASK=objects writes them.

    Or TVQA's released pickle {clip: [labels of a frame, separated by commas]}, of which plain values
    alone are read.

    Raises:
        UserError: file missing or of another form.
    """
    if path.suffix in (".pickle", ".pkl"):
        clips = read_plain_pickle(path)
        if not isinstance(clips, dict) or not all(isinstance(f, list) for f in clips.values()):
            raise UserError(f"{path} must hold {{clip: [labels of a frame, ...]}}")
        return {
            str(clip): tuple(
                tuple(label for part in str(frame).lower().split(",") if (label := part.strip()))
                for frame in frames
            )
            for clip, frames in clips.items()
        }
    rows = read_jsonl(path, ("clip", "labels"))
    with reading(path, "file of labels of frames"):
        return {
            text_of(row["clip"]): tuple(tuple(map(text_of, frame)) for frame in row["labels"])
            for row in rows
        }


def with_objects(qa_set: QASet, objects: Mapping[str, tuple[tuple[str, ...], ...]]) -> QASet:
    """The set whose clips have these labels; clips without any are counted.

    Raises:
        UserError: no clip has labels, or too many have none.
    """
    if qa_set.clips and not qa_set.clips.keys() & objects.keys():
        raise UserError(
            f"the file of labels (data.objects) has none of the {len(qa_set.clips)} clips: it names"
            f" '{next(iter(objects), '')}' and the like, and they are named as"
            f" '{next(iter(qa_set.clips))}'"
        )
    counter = CorruptCounter("labels (data.objects)", max_fraction=0.05)
    for name in qa_set.clips:
        if name in objects:
            counter.good()
        else:
            counter.bad(name, "no labels")
    counter.finish()
    clips = {n: c._replace(objects=objects.get(n, ())) for n, c in qa_set.clips.items()}
    return QASet(qa_set.questions, clips)


def _starts_alone(row: Mapping[str, Any]) -> list[Sentence]:
    texts, starts = str(row["sub_text"]).split(" <eos> "), [float(t) for t in row["sub_time"]]
    if not starts and texts == [""]:  # a clip in which nobody speaks
        return []
    ends = [*starts[1:], starts[-1] + LAST_SECONDS] if starts else []
    return [Sentence(*one) for one in zip(starts, ends, texts, strict=True)]


def _drama_subtitles(
    rows: Mapping[str, Any], names: Iterable[str]
) -> dict[str, tuple[Sentence, ...]]:
    shots = defaultdict[str, list[str]](list)
    for vid in rows:
        shots[vid.rsplit("_", 1)[0]].append(vid)
    sentences_of = {}
    for name in names:
        shot_names = shots[name.removesuffix("_0000")] if name.endswith("_0000") else [name]
        by_time = dict[float, list[Sentence]]()
        begins = [float(rows[vid]["st"]) for vid in shot_names if vid in rows and "st" in rows[vid]]
        first = min(begins, default=0.0)
        for vid in shot_names:
            shot = defaultdict[float, list[Sentence]](list)
            for sub in rows.get(vid, {}).get("contained_subs", ()):
                start, end = float(sub["st"]), float(sub["et"])
                text = f"{sub['speaker']}: {sub['utter']}" if sub.get("speaker") else sub["utter"]
                shot[start].append(Sentence(start - first, end - first, str(text)))
            by_time = {**shot, **by_time}  # a sentence over two shots is told in both
        sentences_of[name] = ordered([sentence for said in by_time.values() for sentence in said])
    return sentences_of


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with reading(path, "JSON file"):
        return json.loads(path.read_text(encoding="utf-8"))


def _checked(questions: list[Question]) -> list[Question]:
    for q in questions:
        if q.answer is not None and not 0 <= q.answer < len(q.candidates):
            raise ValueError(f"question {q.qid}: answer {q.answer} of {len(q.candidates)}")
    if len({q.qid for q in questions}) < len(questions):
        raise ValueError("two questions have the same qid")
    return questions
