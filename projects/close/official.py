"""The public sets in their official layouts, as examples of the tasks.

Below data.root: ``coco/dataset_coco.json`` (Karpathy) with ``coco/{train2014,val2014}``;
``snli_ve`` with ``flickr30k-images``; ``vqa2``; ``vqa_e``; ``visual_news/origin``.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from common.config import UserError
from common.data.decode import decode_image
from common.data.lookup import data_root, require
from common.data.tables import read_jsonl
from common.engine.experiment import Requirement
from projects.close.batches import Example
from projects.close.config import CloseData, Config, TaskName
from projects.close.objective import vqa_training_targets

Part = Literal["train", "dev", "test"]
KARPATHY = "coco/dataset_coco.json"
NEWS = "visual_news/origin"  # as the set is packed; paths in its lists start here
# of questions; those of test2015 have no answers
COCO_YEAR = {"train": "train2014", "test": "val2014"}
NO_DEV: tuple[TaskName, ...] = ("vqa", "evqa")
COCO = "https://cs.stanford.edu/people/karpathy/deepimagesent and https://cocodataset.org"
SOURCES: dict[TaskName, str] = {
    "s_cap": COCO,
    "ve": "https://github.com/necla-ml/SNLI-VE",
    "vqa": "https://visualqa.org/download.html",
    "evqa": "https://github.com/liqing-ustc/VQA-E",
    "news": "https://github.com/FuxiaoLiu/VisualNews-Repository",
    "m_cap": COCO,
}


def examples(data: CloseData, part: Part) -> list[Example]:
    """Examples of a task.

    Raises:
        UserError: a missing file with its source, one of another form, or a part that the task has
            not.
    """
    check_part(data.task, part)
    readers = {
        "s_cap": captions,
        "m_cap": captions,
        "ve": entailment,
        "vqa": questions,
        "evqa": explained,
        "news": news,
    }
    try:
        return readers[data.task](data, part)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"data.task={data.task}: the files below {data_root(data.root)} have another form"
            f" ({error!r}); get them from {SOURCES[data.task]}"
        ) from error


def check_part(task: TaskName, part: Part) -> None:
    """Refuse a development part where there is none; the validation part is not a stand-in.

    Raises:
        UserError: the task has none.
    """
    if part == "dev" and task in NO_DEV:
        raise UserError(
            f"data.task={task} has no development part, which eval.split=dev and"
            " trainer.val_every_n_steps read: of its parts with public answers one is trained on,"
            " and results are reported on the other; tasks with one:"
            f" {', '.join(name for name in SOURCES if name not in NO_DEV)}"
        )


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Lists, and folders of pictures, that training, validation and evaluation of a config read."""
    data, judged = cfg.data, cfg.eval
    parts: dict[Part, bool] = {"train": data.inputs == "image"}  # whether its pictures are read
    if cfg.trainer.val_every_n_steps is not None:
        parts["dev"] = data.inputs == "image"
    parts[judged.split] = parts.get(judged.split, False) or judged.inputs == "image"
    names = [n for part in parts for n in lists(data.task, part)]
    names += [n for part, shown in parts.items() if shown for n in picture_folders(data, part)]
    paths = [Path(data.root or "data") / name for name in dict.fromkeys(names)]
    return tuple(
        Requirement(f"data: {p.name}", str(p), p.exists(), SOURCES[data.task]) for p in paths
    )


def lists(task: TaskName, part: Part) -> list[str]:
    """Files that name the examples of a part."""
    year, split = COCO_YEAR.get(part), {"dev": "val"}.get(part, part)
    files = {
        "ve": [f"snli_ve/snli_ve_{part}.jsonl"],
        "vqa": [
            KARPATHY,
            f"vqa2/v2_OpenEnded_mscoco_{year}_questions.json",
            f"vqa2/v2_mscoco_{year}_annotations.json",
        ],
        "evqa": [f"vqa_e/VQA-E_{'train' if part == 'train' else 'val'}_set.json"],
        "news": [f"{NEWS}/{split}_data.json"],
    }
    return files.get(task, [KARPATHY])


def picture_folders(data: CloseData, part: Part) -> list[str]:
    """Folders of a part's pictures; those of Visual News are named by its lists."""
    if data.task == "ve":
        return ["flickr30k-images"]
    if data.task == "news":
        return []
    if data.task in NO_DEV:
        return [f"coco/{COCO_YEAR[part]}"]
    splits = data.splits if part == "train" else ["val"]
    return [f"coco/{'train2014' if split == 'train' else 'val2014'}" for split in splits]


def multi_caption(texts: Sequence[str], image: str, label: str = "") -> list[Example]:
    """One example a caption; the other captions are its targets, and it is none of them.

    >>> [e.targets for e in multi_caption(["a", "b", "b"], "")]
    [('b', 'b'), ('a',), ('a',)]
    """
    examples = []
    for text in texts:
        targets = tuple(t.lower() for t in texts if t.lower() != text.lower())
        if targets:
            examples.append(Example((text,), image, targets, label=label))
    return examples


def captions(data: CloseData, part: Part) -> list[Example]:
    """COCO: in training on text each caption for itself or for the others.

    Else an image with all of them.
    """
    splits = {"train": set(data.splits), "dev": {"val"}, "test": {"test"}}[part]
    examples: list[Example] = []
    for row in _json(data, KARPATHY)["images"]:
        if row["split"] not in splits:
            continue
        texts = [sentence["raw"].strip() for sentence in row["sentences"]]
        image = _karpathy_image(row)
        if part != "train" or data.inputs == "image":
            examples.append(Example((texts[0],), image, tuple(t.lower() for t in texts)))
        elif data.task == "m_cap":
            examples += multi_caption(texts, image)
        else:
            examples += [Example((t,), image, (t.lower(),)) for t in texts]
    return examples


def entailment(data: CloseData, part: Part) -> list[Example]:
    """SNLI-VE: premise as the image's text, hypothesis as context, the label's word as target."""
    path = _path(data, *lists("ve", part))
    rows = read_jsonl(path, ["sentence1", "sentence2", "gold_label", "Flickr30K_ID"])
    return [
        Example(
            (row["sentence1"],),
            f"flickr30k-images/{row['Flickr30K_ID']}.jpg",
            (row["gold_label"],),
            row["sentence2"],
            label=row["gold_label"],
        )
        for row in rows
        if row["gold_label"] in ("entailment", "neutral", "contradiction")
    ]


def questions(data: CloseData, part: Part) -> list[Example]:
    """VQA 2.0: all captions of the image as its text, the question as context."""
    texts = {
        row["cocoid"]: tuple(s["raw"].strip() for s in row["sentences"])
        for row in _json(data, KARPATHY)["images"]
    }
    year = COCO_YEAR[part]
    _, questions_of, answers_of = lists("vqa", part)
    rows = _json(data, answers_of)["annotations"]
    annotations = {row["question_id"]: [a["answer"] for a in row["answers"]] for row in rows}
    examples = []
    for row in _json(data, questions_of)["questions"]:
        answers = annotations[row["question_id"]]
        image = f"coco/{year}/COCO_{year}_{row['image_id']:012d}.jpg"
        targets = answer_targets(answers)
        if row["image_id"] in texts:
            examples.append(
                Example(texts[row["image_id"]], image, targets, row["question"], tuple(answers))
            )
    return examples


def explained(data: CloseData, part: Part) -> list[Example]:
    """VQA-E: the explanation as the image's text, the question as context."""
    year = COCO_YEAR[part]
    examples = []
    for row in _json(data, *lists("evqa", part)):
        answers = tuple(row["answers"])
        image = f"coco/{year}/COCO_{year}_{row['img_id']:012d}.jpg"
        explanation = row["explanation"][0]
        targets = answer_targets(answers)
        examples.append(
            Example(
                (explanation,), image, targets, row["question"], answers, row.get("answer_type", "")
            )
        )
    return examples


def answer_targets(answers: Sequence[str]) -> tuple[str, ...]:
    """Targets of a question in lower case, as those of all tasks; votes are counted before.

    >>> answer_targets(["Red", "Red", "red", "blue"])
    ('red',)
    """
    return tuple(text.lower() for text in vqa_training_targets(answers))


def news(data: CloseData, part: Part) -> list[Example]:
    """Visual News: the caption as text and target, the article's first line as context.

    Rows without their article or picture are left out, and counted; training on text asks for no
    picture.
    """
    (name,) = lists("news", part)
    root, folder, examples = data_root(data.root), Path(NEWS), []
    shown = part != "train" or data.inputs == "image"
    rows = _json(data, name)
    for row in rows:
        article, image = root / folder / row["article_path"], folder / row["image_path"]
        if not article.is_file() or (shown and not (root / image).is_file()):
            continue
        lines = article.read_text(encoding="utf-8", errors="replace").split("\n")
        first = next((line for line in lines if line.strip()), "")
        examples.append(
            Example((row["caption"],), str(image), (row["caption"].lower(),), first.strip())
        )
    if len(examples) < len(rows):
        lost = (
            f"{len(rows) - len(examples)} of {len(rows)} rows lack their"
            f" article{' or picture' * shown}"
        )
        warnings.warn(f"{name}: {lost} and are left out", stacklevel=2)
    return examples


class Pictures:
    """Image files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str) -> Image.Image:
        """The picture.

        Raises:
            UserError: no such image.
        """
        return open_picture(self.root / name)


def open_picture(path: Path) -> Image.Image:
    """An RGB image.

    Raises:
        UserError: the file is not an image.
    """
    try:
        return decode_image(path).convert("RGB")
    except ValueError as error:
        raise UserError(f"cannot read {path} as an image: {error}") from error


def _karpathy_image(row: dict[str, Any]) -> str:
    return str(Path("coco") / row.get("filepath", "") / row["filename"])


def _path(data: CloseData, name: str) -> Path:
    return require(
        data_root(data.root) / name,
        what=f"task {data.task}",
        layout=name,
        source=SOURCES[data.task],
        size="1 to 20 GB with its images",
    )


def _json(data: CloseData, name: str) -> Any:
    path = _path(data, name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
