"""Tasks: bundled sets, and the official files of UnifiedQA, CrossFit and MRQA's few-shot splits.

| name | files below ``data.root`` |
|---|---|
| ``snips``, ``banking20``, ``clinc_<domain>``, ``restaurant``, ``qnli``, ``choices`` | bundled |
| ``unifiedqa/<set>`` | ``unifiedqa/<set>/{train,dev,test}.tsv`` |
| ``crossfit/<task>`` | ``crossfit/<task>/<task>_<shots>_<seed>_{train,dev,test}.tsv`` |
| ``crossfit/glue-mnli-mismatched`` | those of ``crossfit/glue-mnli``, but for the test: GLUE's ``MNLI/dev_mismatched.tsv`` |
| ``mrqa/<set>`` | ``mrqa/<set>/<set>-train-seed-<seed>-num-examples-<n>.jsonl`` and ``dev.jsonl``, which is the test; the archive's sets are ``squad``, ``naturalquestions``, ... |
| ``made_up_*`` | none |
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError, nearest
from common.data.lines import read_lines
from common.data.lookup import bundled, data_root, require
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.tables import read_jsonl, text_of
from common.data.text.labelled.glue import read_glue
from common.data.text.labelled.glue_tasks import GLUE
from common.data.text.labelled.subsets import low_resource
from projects.demo_retrieval.config import DemoData
from projects.demo_retrieval.questions import BUNDLED, MADE_UP, about, are_classes
from projects.demo_retrieval.template import Example, parse_unifiedqa, text_key

MRQA_DEV_SEED, MRQA_DEV_SIZE = 42, 1024  # development examples: the first of this split [FewshotQA]
MISMATCHED = "-mismatched"  # of glue-mnli: CrossFit's test part holds the matched genres alone
CONTRAST = "contrast_sets_"
_SHOT_STREAM, _MADE_STREAM, _DEV_STREAM = 81, 82, 83
_LAYOUT = {
    "unifiedqa": ("<set>/{train,dev,test}.tsv", "github.com/allenai/unifiedqa", "3 GB"),
    "crossfit": (
        "<task>/<task>_16_<seed>_{train,dev,test}.tsv",
        "github.com/INK-USC/CrossFit",
        "1 GB",
    ),
    "mrqa": (
        "<set>/<set>-train-seed-<seed>-num-examples-<n>.jsonl and dev.jsonl",
        "github.com/oriram/splinter",
        "1 GB",
    ),
}


@dataclass(frozen=True)
class Task:
    """A task and its parts.

    Attributes:
        name: see this module.
        family: of its metrics.
        labels: all its answers; () of question answering.
        train: few examples of a target, else all.
        dev: for selection; () of tasks that are no targets.
        test: () of tasks that are no targets.
    """

    name: str
    family: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()


def expand(names: Iterable[str], data: DemoData) -> list[str]:
    """Names of tasks, those with a star replaced by all that lie below the data root.

    UnifiedQA's contrast sets are perturbed test questions, whose training files repeat them: a star
    does not stand for them.

    Raises:
        UserError: a star that stands for nothing, or an unknown name.
    """
    expanded: list[str] = []
    for name in names:
        if name.endswith("/*"):
            base = _folder(name.removesuffix("/*"), data)
            matches = sorted(
                f"{base.name}/{p.name}"
                for p in base.iterdir()
                if p.is_dir() and not p.name.startswith(CONTRAST)
            )
            if not matches:
                raise UserError(f"{base} has no task: expected {_LAYOUT[base.name][0]}")
        else:
            matches = [n for n in (*BUNDLED, *MADE_UP) if fnmatch(n, name)] or [name]
        for task in matches:
            about(task)
        expanded += matches
    return list(dict.fromkeys(expanded))


def read_task(name: str, data: DemoData, seed: int, *, target: bool = False) -> Task:
    """A task; of a target few training examples, drawn by the seed.

    Args:
        name: see this module.
        data: sizes and places.
        seed: of the draw, or of the official files; `data.split_seed` goes before.
        target: with development and test examples.

    Raises:
        UserError: missing or damaged files, or too few examples.
    """
    seed = data.split_seed if data.split_seed is not None else seed
    kind, _, rest = name.partition("/")
    if rest:
        parts = _official(kind, rest, data, seed, target)
    elif name in MADE_UP:
        parts = {part: made_up(name, part) for part in ("train", "test")}
    else:
        parts = {part: _bundled(name, part, data.root) for part in ("train", "test")}
    family = str(about(name)["family"])
    if kind == "crossfit" and family == "qa" and are_classes(parts["train"]):
        family = "classification"
    labels: tuple[str, ...] = ()
    if family != "qa":
        labels = tuple(sorted({e.answers[0] for e in parts["train"]}))
        parts = {
            part: [e._replace(options=labels) for e in examples] for part, examples in parts.items()
        }
    if not target:
        return Task(name, family, labels, tuple(parts["train"]))
    if "dev" not in parts:  # no text twice, and none of the test part, whatever its letters' case
        tested = {text_key(e) for e in parts["test"]}
        pool = {text_key(e): e for e in parts["train"]}
        parts |= few([e for key, e in pool.items() if key not in tested], labels, data, seed)
    return Task(name, family, labels, *(tuple(parts[p]) for p in ("train", "dev", "test")))


def few(
    examples: Sequence[Example], labels: Sequence[str], data: DemoData, seed: int
) -> dict[str, list[Example]]:
    """Few training and development examples without a common one.

    Raises:
        UserError: not so many are there.
    """
    if labels:
        counts = Counter(e.answers[0] for e in examples)
        rarest = min(labels, key=lambda label: counts[label])
        if data.shots + data.dev_shots > counts[rarest]:
            raise UserError(
                f"the label '{rarest}' has {counts[rarest]} examples: lower data.shots or"
                " data.dev_shots"
            )
        classes = np.array([labels.index(e.answers[0]) for e in examples])
        train, dev = low_resource(
            classes, data.shots * len(labels), data.dev_shots * len(labels), seed, "equal"
        )
    else:
        order = sample_rng(seed, 0, 0, _SHOT_STREAM).permutation(len(examples))
        share = data.dev_shots * data.qa_shots // data.shots
        if data.qa_shots + share > len(order):
            raise UserError(
                f"{examples[0].task} has {len(order)} examples: lower data.qa_shots or"
                " data.dev_shots"
            )
        train, dev = order[: data.qa_shots], order[len(order) - share :]
    return {"train": [examples[i] for i in train], "dev": [examples[i] for i in dev]}


# -- official files ------------------------------------------------------------------------------


def _folder(kind: str, data: DemoData, name: str = "") -> Path:
    if kind not in _LAYOUT:
        raise UserError(f"unknown collection '{kind}'{nearest(kind, _LAYOUT)}")
    layout, source, size = _LAYOUT[kind]
    return require(
        data_root(data.root) / kind / name,
        what=f"{kind} {name}".strip(),
        layout=f"{kind}/{layout}",
        source=source,
        size=size,
    )


def _official(
    kind: str, name: str, data: DemoData, seed: int, target: bool
) -> dict[str, list[Example]]:
    task, mismatched = f"{kind}/{name}", (kind, name) == ("crossfit", f"glue-mnli{MISMATCHED}")
    name = name.removesuffix(MISMATCHED) if mismatched else name
    folder = _folder(kind, data, name)
    if kind == "mrqa":
        train = read_mrqa(
            folder / f"{name}-train-seed-{seed}-num-examples-{data.qa_shots}.jsonl", task
        )
        if not target:
            return {"train": train}
        # as large as the training part, of the largest split, without its examples [FewshotQA];
        # where it is that split itself, of the next seed's
        draw = MRQA_DEV_SEED + ((seed, data.qa_shots) == (MRQA_DEV_SEED, MRQA_DEV_SIZE))
        more = read_mrqa(
            folder / f"{name}-train-seed-{draw}-num-examples-{MRQA_DEV_SIZE}.jsonl", task
        )
        seen = {(e.question, e.context) for e in train}
        rest = [e for e in more if (e.question, e.context) not in seen]
        if not rest:
            raise UserError(
                f"{task} has no development example next to its {len(train)} training ones: lower"
                " data.qa_shots"
            )
        order = sample_rng(MRQA_DEV_SEED, 0, 0, _DEV_STREAM).permutation(len(rest))
        dev = [rest[i] for i in order[: data.qa_shots]]
        return {"train": train, "dev": dev, "test": read_mrqa(folder / "dev.jsonl", task)}
    parts = ("train", "dev", "test") if target else ("train",)
    if kind == "unifiedqa":
        # a target's few examples are drawn from the training file: the development file is not
        # needed
        return {part: _unifiedqa(folder / f"{part}.tsv", task) for part in parts if part != "dev"}
    stem = f"{name}_{data.shots}_{seed}" if target else _any_split(folder, name, data.shots, seed)
    splits = {
        part: read_crossfit(folder / f"{stem}_{part}.tsv", task)
        for part in parts
        if not (mismatched and part == "test")
    }
    return splits | ({"test": _mismatched(task, data)} if mismatched and target else {})


def _mismatched(task: str, data: DemoData) -> list[Example]:
    """GLUE's development part of the other genres, as CrossFit writes the matched one."""
    rows, words = read_glue(GLUE["mnli"], "dev_mm", data.root), about(task)["answers"]
    return [
        Example(
            task,
            str(about(task)["question"]),
            (str(words[rows.classes[int(label)]]),),
            " ".join(f"premise: {premise} [SEP] hypothesis: {hypothesis}".split()),
            (),
            f"dev_mm-{i}",
        )
        for i, ((premise, hypothesis), label) in enumerate(
            zip(rows.texts, rows.labels, strict=True)
        )
    ]


def _any_split(folder: Path, name: str, shots: int, seed: int) -> str:
    """The split of a seed, whatever its size: tasks without classes have 32 examples in all.

    CrossFit's seeds are not those of MRQA; without the seed it is the first of as many examples.
    """
    if (folder / f"{name}_{shots}_{seed}_train.tsv").is_file():
        return f"{name}_{shots}_{seed}"
    paths = [
        path
        for pattern in (
            f"{name}_*_{seed}_train.tsv",
            f"{name}_{shots}_*_train.tsv",
            f"{name}_*_train.tsv",
        )
        for path in sorted(folder.glob(pattern))
    ]
    if not paths:
        raise UserError(f"{folder} has no {name}_<shots>_<seed>_train.tsv")
    return paths[0].name.removesuffix("_train.tsv")


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: see data.split_seed, data.shots and data.qa_shots for the"
            " official splits"
        )
    return [line for line in read_lines(path) if line.strip()]


def _unifiedqa(path: Path, task: str) -> list[Example]:
    # a number alone would be that of another example in another part
    return [
        parse_unifiedqa(line, task, i)._replace(id=f"{path.stem}-{i}")
        for i, line in enumerate(_lines(path))
    ]


def read_crossfit(path: Path, task: str) -> list[Example]:
    """Lines ``input <tab> output`` with the task's question; the input is the context.

    Raises:
        UserError: no such file, a line without a tab, or a label that the task has no word for.
    """
    entry = about(task)
    words = entry.get("answers")
    examples = []
    for i, line in enumerate(_lines(path)):
        source, tab, *outputs = line.partition("\t")
        golds = tuple(x.strip() for x in outputs[0].split("\t") if x.strip())
        if not tab or not golds:
            raise UserError(f"{path}, line {i + 1}: expected input <tab> output")
        if words is not None:
            if golds[0] not in words:
                raise UserError(
                    f"{path}, line {i + 1}: label '{golds[0]}'{nearest(golds[0], words)}"
                )
            golds = (str(words[golds[0]]),)
        examples.append(
            Example(task, str(entry["question"]), golds, source.strip(), (), f"{path.stem}-{i}")
        )
    return examples


def read_mrqa(path: Path, task: str) -> list[Example]:
    """MRQA's JSON lines: a header, then ``{context, qas: [{qid, question, answers}]}``.

    Raises:
        UserError: no such file, or a damaged line.
    """
    examples = []
    for i, line in enumerate(_lines(path)):
        try:
            row = json.loads(line)
            if "header" in row:
                continue
            for qa in row["qas"]:
                key = str(qa.get("qid") or qa.get("id") or f"{path.stem}-{i}")
                context = " ".join(text_of(row["context"]).split())
                examples.append(
                    Example(
                        task,
                        text_of(qa["question"]),
                        tuple(map(text_of, qa["answers"])),
                        context,
                        (),
                        key,
                    )
                )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {i + 1} is not MRQA's format: {error!r}") from error
    return examples


# -- bundled and made up -------------------------------------------------------------------------


def spoken(label: str) -> str:
    """A label's name as words.

    >>> spoken("AddToPlaylist"), spoken("card_arrival"), spoken("Refund_not_showing_up")
    ('add to playlist', 'card arrival', 'refund not showing up')
    """
    spaced = "".join(f" {c}" if c.isupper() else c for c in label.replace("_", " "))
    return " ".join(spaced.lower().split()).rstrip("?")


@cache
def _rows(folder: str, name: str, columns: tuple[str, ...], root: str | None) -> list[Any]:
    return list(read_jsonl(bundled(folder, root) / f"{name}.jsonl.gz", columns))


@cache
def _bundled(name: str, part: str, root: str | None) -> list[Example]:
    question = str(about(name).get("question", ""))
    if name in ("snips", "banking20"):
        source = "snips" if name == "snips" else "banking77"
        rows = {
            p: _rows("intents", f"{source}-{p}", ("text", "intent"), root)
            for p in ("train", "test")
        }
        intents = sorted({str(r["intent"]) for r in rows["train"]})
        intents = intents if name == "snips" else intents[:20]
        return [
            Example(
                name,
                question,
                (spoken(str(r["intent"])),),
                " ".join(str(r["text"]).split()),
                (),
                f"{part}-{i}",
            )
            for i, r in enumerate(rows[part])
            if r["intent"] in intents
        ]
    if name.startswith("clinc_"):
        rows_ = _rows("demonstrations", "clinc150-train", ("text", "intent", "domain"), root)
        domain = name.removeprefix("clinc_")
        question = question.format(domain=domain.replace("_", " "))
        of_domain = [r for r in rows_ if r["domain"] == domain]
        examples = [
            Example(name, question, (spoken(str(r["intent"])),), str(r["text"]), (), str(i))
            for i, r in enumerate(of_domain)
        ]
    elif name == "restaurant":
        rows_ = _rows("demonstrations", f"restaurant8k-{part}", ("text", "slot", "value"), root)
        return [
            Example(
                name,
                f"what is the {spoken(r['slot'])}?",
                (str(r["value"]),),
                str(r["text"]),
                (),
                f"{part}-{i}",
            )
            for i, r in enumerate(rows_)
        ]
    elif name == "qnli":
        rows_ = _rows("demonstrations", "qnli", ("question", "sentence", "label"), root)
        words = about(name)["answers"]
        examples = [
            Example(
                name, question, (words[r["label"]],), f"{r['question']} {r['sentence']}", (), str(i)
            )
            for i, r in enumerate(rows_)
            if (stable_fraction(str(r["question"])) < 0.7) == (part == "train")
        ]
        return examples
    elif name == "choices":
        rows_ = _rows(
            "demonstrations", "multiple-choice", ("id", "question", "choices", "answer"), root
        )
        examples = [
            Example(
                name,
                str(r["question"]),
                (r["choices"][r["answer"]],),
                "",
                tuple(r["choices"]),
                str(r["id"]),
            )
            for r in rows_
        ]
    else:
        raise UserError(f"unknown task '{name}'{nearest(name, [*BUNDLED, *MADE_UP])}")
    # sets with a training file alone: a fifth, by hash, is held back
    return [
        e for e in examples if (stable_fraction(e.question + e.context) < 0.8) == (part == "train")
    ]


_THINGS = ("cat", "dog", "car", "bus", "sun", "rain", "coin", "bank")
_TOPICS = {
    "animals": _THINGS[:2],
    "traffic": _THINGS[2:4],
    "weather": _THINGS[4:6],
    "money": _THINGS[6:],
}


def made_up(name: str, part: str, count: int = 120) -> list[Example]:
    """Small tasks of the three families, without files."""
    rng = sample_rng(0, 0, MADE_UP.index(name), _MADE_STREAM + len(part))
    question = str(about(name).get("question", ""))
    by_text: dict[str, Example] = {}
    topics = list(_TOPICS)
    while len(by_text) < count:
        i = len(by_text)
        topic = topics[i % 4] if name != "made_up_nli" else topics[int(rng.integers(4))]
        words = [
            _TOPICS[topic][int(rng.integers(2))],
            *(str(int(x)) for x in rng.integers(100, size=3)),
        ]
        text = " ".join(words[int(k)] for k in rng.permutation(4))
        ask, answer = question, topic
        if name == "made_up_qa":
            ask, answer = "what is there?", words[0]
        elif name == "made_up_nli":
            right = i % 2 == 0
            other = topics[(topics.index(topic) + 1 + int(rng.integers(3))) % 4]
            text, answer = f"{text} this is {topic if right else other}", "yes" if right else "no"
        by_text[text] = Example(name, ask, (answer,), text, (), f"{part}-{i}")
    return list(by_text.values())
