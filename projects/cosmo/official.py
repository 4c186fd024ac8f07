"""Official files of captions and questions as the JSON lines that the few-shot table reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading
from common.data.lookup import data_root
from common.data.tables import write_jsonl
from common.engine.workspace import Workspace
from projects.cosmo.config import Config


def write_rows(cfg: Config, workspace: Workspace) -> int:
    """``TASK=few_shot_rows``: the files of ``eval.official`` as JSON lines (`cosmo.table`).

    They are written below `data.root`, where the table reads its sets.

    Returns:
        Number of rows.

    Raises:
        UserError: no files named, others than official ones, or no such `data.root`.
    """
    options = cfg.eval.official
    asked = options.questions is not None and options.annotations is not None
    if options.output is None or asked == (options.karpathy is not None):
        raise UserError(
            "set eval.official.output=<set>.jsonl and either eval.official.karpathy=<captions.json>"
            " or both eval.official.questions and eval.official.annotations"
        )
    if options.karpathy is not None:
        path = Path(options.karpathy).expanduser()
        with reading(path, "Karpathy file of captions"):
            rows = list(karpathy_rows(path, options.split, options.folder))
    else:
        questions, annotations = (
            Path(str(p)).expanduser() for p in (options.questions, options.annotations)
        )
        with reading(questions, "file of questions with those annotations"):
            rows = list(vqa_rows(questions, annotations, options.image))
    if not rows:
        raise UserError(f"no row of eval.official.split={options.split}")
    output = data_root(cfg.data.root) / Path(options.output).expanduser()
    output.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(output, rows)
    workspace.say(f"{output}: {len(rows)} rows; pictures lie below {output.parent}")
    return len(rows)


def karpathy_rows(path: Path, split: str, folder: str = "") -> Iterator[dict[str, Any]]:
    """Rows of a split of a Karpathy file (COCO, Flickr30k)."""
    for row in json.loads(path.read_text(encoding="utf-8"))["images"]:
        if row["split"] == split:
            place = "/".join(p for p in (folder, row.get("filepath", ""), row["filename"]) if p)
            yield {
                "image": place,
                "texts": [sentence["raw"].strip() for sentence in row["sentences"]],
            }


def vqa_rows(questions: Path, annotations: Path, image: str) -> Iterator[dict[str, Any]]:
    """Rows of VQA's question and annotation files (VQAv2, OKVQA, and others in their form).

    Args:
        questions: file of questions.
        annotations: file of answers.
        image: place of a picture, such as ``val2014/COCO_val2014_{:012d}.jpg``.
    """
    asked = json.loads(questions.read_text(encoding="utf-8"))["questions"]
    answers_of = {
        row["question_id"]: row
        for row in json.loads(annotations.read_text(encoding="utf-8"))["annotations"]
    }
    for row in asked:
        answers = [answer["answer"] for answer in answers_of[row["question_id"]]["answers"]]
        yield {
            "image": image.format(row["image_id"]),
            "question": row["question"],
            "texts": answers,
        }
