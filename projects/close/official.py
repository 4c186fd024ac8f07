"""The public sets in their official layouts, as examples of the tasks.

Below data.root: ``coco/dataset_coco.json`` (Karpathy) with ``coco/{train2014,val2014}``; ``snli_ve`` with
``flickr30k-images``; ``vqa2``; ``vqa_e``; ``visual_news/origin``.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from common.config import UserError
from common.data.lookup import data_root, require
from common.data.tables import read_jsonl
from common.engine.experiment import Requirement
from projects.close.batches import Example
from projects.close.objective import vqa_training_targets
from projects.close.options import CloseData, TaskName

Part = Literal["train", "dev", "test"]
KARPATHY = "coco/dataset_coco.json"
NEWS = "visual_news/origin"  # as the set is packed; paths in its lists start here
# of questions; those of test2015 have no answers
COCO_YEAR = {"train": "train2014", "test": "val2014"}
NO_DEV: tuple[TaskName, ...] = ("vqa", "evqa")
SOURCES = {
    "s_cap": ([KARPATHY], "https://cs.stanford.edu/people/karpathy/deepimagesent and https://cocodataset.org"),
    "ve": (["snli_ve/snli_ve_train.jsonl", "snli_ve/snli_ve_test.jsonl"], "https://github.com/necla-ml/SNLI-VE"),
    "vqa": ([KARPATHY, "vqa2/v2_OpenEnded_mscoco_train2014_questions.json"], "https://visualqa.org/download.html"),
    "evqa": (["vqa_e/VQA-E_train_set.json", "vqa_e/VQA-E_val_set.json"], "https://github.com/liqing-ustc/VQA-E"),
    "news": ([f"{NEWS}/train_data.json", f"{NEWS}/test_data.json"],
             "https://github.com/FuxiaoLiu/VisualNews-Repository"),
}  # fmt: skip
SOURCES["m_cap"] = SOURCES["s_cap"]


def examples(data: CloseData, part: Part) -> list[Example]:
    """Examples of a task.

    Raises:
        UserError: a missing file with its source, one of another form, or a part that the task has not.
    """
    check_part(data.task, part)
    readers = {"s_cap": captions, "m_cap": captions, "ve": entailment, "vqa": questions, "evqa": explained, "news": news}  # fmt: skip
    try:
        return readers[data.task](data, part)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"data.task={data.task}: the files below {data_root(data.root)} have another form ({error!r}); "
            f"get them from {SOURCES[data.task][1]}"
        ) from error


def check_part(task: TaskName, part: Part) -> None:
    """Refuse a development part where there is none; the validation part is no stand-in.

    Raises:
        UserError: the task has none.
    """
    if part == "dev" and task in NO_DEV:
        raise UserError(
            f"data.task={task} has no development part, which eval.split=dev and trainer.val_every_n_steps read: "
            "of its parts with public answers one is trained on, and results are reported on the other; tasks "
            f"with one: {', '.join(name for name in SOURCES if name not in NO_DEV)}"
        )


def requirements(data: CloseData) -> tuple[Requirement, ...]:
    """Files of a task."""
    files, source = SOURCES[data.task]
    paths = [Path(data.root or "data") / file for file in files]
    return tuple(Requirement(f"data: {p.name}", str(p), p.exists(), source) for p in paths)


def multi_caption(texts: Sequence[str], image: str, label: str = "") -> list[Example]:
    """One example a caption; the other captions are its targets, and it is none of them.

    >>> [e.targets for e in multi_caption(["a", "b", "b"], "")]
    [('b', 'b'), ('a',), ('a',)]
    """
    found = []
    for text in texts:
        targets = tuple(t.lower() for t in texts if t.lower() != text.lower())
        if targets:
            found.append(Example((text,), image, targets, label=label))
    return found


def captions(data: CloseData, part: Part) -> list[Example]:
    """COCO: in training each caption for itself or for the others; else an image with all its captions."""
    wanted = {"train": set(data.splits), "dev": {"val"}, "test": {"test"}}[part]
    found: list[Example] = []
    for row in _json(data, KARPATHY)["images"]:
        if row["split"] not in wanted:
            continue
        texts = [sentence["raw"].strip() for sentence in row["sentences"]]
        image = _karpathy_image(row)
        if part != "train":
            found.append(Example((texts[0],), image, tuple(t.lower() for t in texts)))
        elif data.task == "m_cap":
            found += multi_caption(texts, image)
        else:
            found += [Example((t,), image, (t.lower(),)) for t in texts]
    return found


def entailment(data: CloseData, part: Part) -> list[Example]:
    """SNLI-VE: premise as the image's text, hypothesis as context, the label's word as target."""
    path = _path(data, f"snli_ve/snli_ve_{part}.jsonl")
    rows = read_jsonl(path, ["sentence1", "sentence2", "gold_label", "Flickr30K_ID"])
    return [
        Example((row["sentence1"],), f"flickr30k-images/{row['Flickr30K_ID']}.jpg", (row["gold_label"],),
                row["sentence2"], label=row["gold_label"])
        for row in rows
        if row["gold_label"] in ("entailment", "neutral", "contradiction")
    ]  # fmt: skip


def questions(data: CloseData, part: Part) -> list[Example]:
    """VQA 2.0: all captions of the image as its text, the question as context."""
    texts = {row["cocoid"]: tuple(s["raw"].strip() for s in row["sentences"]) for row in _json(data, KARPATHY)["images"]}  # fmt: skip
    year = COCO_YEAR[part]
    asked = _json(data, f"vqa2/v2_OpenEnded_mscoco_{year}_questions.json")["questions"]
    given = _answers(data, part)
    found = []
    for row in asked:
        answers = given[row["question_id"]]
        image = f"coco/{year}/COCO_{year}_{row['image_id']:012d}.jpg"
        targets = tuple(vqa_training_targets(answers))
        if row["image_id"] in texts:
            found.append(
                Example(texts[row["image_id"]], image, targets, row["question"], tuple(answers))
            )
    return found


def explained(data: CloseData, part: Part) -> list[Example]:
    """VQA-E: the explanation as the image's text, the question as context."""
    name = "train" if part == "train" else "val"
    year = COCO_YEAR[part]
    found = []
    for row in _json(data, f"vqa_e/VQA-E_{name}_set.json"):
        answers = tuple(row["answers"])
        image = f"coco/{year}/COCO_{year}_{row['img_id']:012d}.jpg"
        explanation = row["explanation"][0]
        targets = tuple(vqa_training_targets(answers))
        found.append(Example((explanation,), image, targets, row["question"], answers, row.get("answer_type", "")))  # fmt: skip
    return found


def news(data: CloseData, part: Part) -> list[Example]:
    """Visual News: the caption as the image's text and as target, the article's first line as context.

    Rows without their article or picture are left out, and counted; training on text asks for no picture.
    """
    name = {"train": "train", "dev": "val", "test": "test"}[part]
    root, folder, found = data_root(data.root), Path(NEWS), []
    shown = part != "train" or data.inputs == "image"
    rows = _json(data, f"{NEWS}/{name}_data.json")
    for row in rows:
        article, image = root / folder / row["article_path"], folder / row["image_path"]
        if not article.is_file() or (shown and not (root / image).is_file()):
            continue
        lines = article.read_text(encoding="utf-8", errors="replace").split("\n")
        first = next((line for line in lines if line.strip()), "")
        found.append(Example((row["caption"],), str(image), (row["caption"],), first.strip()))
    if len(found) < len(rows):
        lost = f"{len(rows) - len(found)} of {len(rows)} rows lack their article{' or picture' * shown}"
        warnings.warn(f"{NEWS}/{name}_data.json: {lost} and are left out", stacklevel=2)
    return found


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
        UserError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read {path} as an image: {error}") from error


def _answers(data: CloseData, part: Part) -> dict[int, list[str]]:
    rows = _json(data, f"vqa2/v2_mscoco_{COCO_YEAR[part]}_annotations.json")["annotations"]
    return {row["question_id"]: [a["answer"] for a in row["answers"]] for row in rows}


def _karpathy_image(row: dict[str, Any]) -> str:
    return str(Path("coco") / row.get("filepath", "") / row["filename"])


def _path(data: CloseData, name: str) -> Path:
    files, source = SOURCES[data.task]
    return require(
        data_root(data.root) / name, what=f"task {data.task}", layout=", ".join(files), source=source,
        size="1 to 20 GB with its images",
    )  # fmt: skip


def _json(data: CloseData, name: str) -> Any:
    path = _path(data, name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
