"""Few-shot scores, retrieval and classification of all sets of a config, as one table.

A set is JSON lines: ``{"image": "a.jpg"}`` or ``{"frames": ["1.jpg", ...]}`` (paths below its folder) with ``texts`` (captions, or
the annotators' answers), ``question`` and ``label``. A Karpathy file and VQA's files become such rows by `karpathy_rows` and
`vqa_rows`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.config import UserError
from common.data.lookup import data_root
from common.data.samplers import sample_rng
from common.data.tables import read_jsonl
from common.engine.workspace import Workspace, write_text
from common.evaluation.image_text.few_shot import FewShotTask, Item, evaluate_few_shot
from common.evaluation.image_text.zeroshot import zeroshot_roc_auc
from common.evaluation.retrieval.cross_modal import image_text_retrieval
from projects.cosmo.config import Config
from projects.cosmo.inference import PictureModel
from projects.cosmo.options import ShotSet

ROW_STREAM = 92
CLASS_TEXT = "A photo of a {}"
RETRIEVED = ("image_to_text_recall_at_1", "text_to_image_recall_at_1", "recall_mean")


def read_items(path: Path, limit: int | None = None, seed: int = 42) -> list[tuple[Item, str]]:
    """Items of a file with their labels, at most `limit` of them, drawn by the seed.

    Raises:
        UserError: a missing file, or a row without picture.
    """
    if not path.is_file():
        raise UserError(
            f"there is no {path}; a set of the table is JSON lines of image, texts, question, label"
        )
    rows = read_jsonl(path, [])
    if limit is not None and limit < len(rows):
        chosen = sorted(sample_rng(seed, 0, 0, ROW_STREAM).permutation(len(rows))[:limit].tolist())
        rows = [rows[i] for i in chosen]
    found = []
    for number, row in enumerate(rows):
        names = row.get("frames") or ([row["image"]] if "image" in row else [])
        if not names:
            raise UserError(f"{path}, row {number}: neither image nor frames")
        picture = [str(path.parent / name) for name in names]
        item = Item(picture, tuple(row.get("texts", ())), str(row.get("question", "")))
        found.append((item, str(row.get("label", ""))))
    return found


def evaluate_sets(
    cfg: Config, model: PictureModel, workspace: Workspace | None
) -> dict[str, float]:
    """``<set>_<metric>`` of every set; the table of shots as few_shot.md."""
    own, root = cfg.eval, data_root(cfg.data.root)
    found: dict[str, float] = {}
    for chosen in own.sets:
        items = read_items(root / chosen.test, chosen.limit, own.shot_seed)
        scores = one_set(cfg, model, chosen, items, root)
        found |= {f"{chosen.name}_{name}": value for name, value in scores.items()}
    if workspace is not None:
        write_text(workspace.folder(".") / "few_shot.md", markdown(own.sets, found))
    return found


def one_set(
    cfg: Config, model: PictureModel, chosen: ShotSet, items: Sequence[tuple[Item, str]], root: Path
) -> dict[str, float]:  # fmt: skip
    """Scores of one set by its task.

    Raises:
        UserError: no demonstrations, or labels that are not two.
    """
    own = cfg.eval
    if chosen.task in ("caption", "vqa"):
        task: FewShotTask = "caption" if chosen.task == "caption" else "vqa"
        if chosen.train is None:
            raise UserError(
                f"the set {chosen.name} needs train=, where its demonstrations come from"
            )
        pool = [item for item, _ in read_items(root / chosen.train, own.pool, own.shot_seed)]
        most = own.max_new_tokens if task == "caption" else own.vqa_tokens
        return evaluate_few_shot(
            lambda prompts: model.write(prompts, most), task, [item for item, _ in items], pool, shots=own.shots,
            seed=own.shot_seed, pool_size=own.pool,
        )  # fmt: skip
    pictures = [item.picture for item, _ in items]
    if chosen.task == "retrieval":
        texts = [(i, text) for i, (item, _) in enumerate(items) for text in item.texts]
        vectors = model.embed(pictures, [text for _, text in texts])
        assert vectors.visual is not None
        assert vectors.text is not None
        place = torch.tensor([i for i, _ in texts])
        return image_text_retrieval(vectors.visual, vectors.text, place)
    names = sorted({label for _, label in items})
    vectors = model.embed(pictures, [CLASS_TEXT.format(name) for name in names])
    assert vectors.visual is not None
    assert vectors.text is not None
    labels = torch.tensor([names.index(label) for _, label in items])
    cosines = vectors.visual @ vectors.text.T
    metrics = {
        "accuracy": float((cosines.argmax(1) == labels).float().mean()),
        "accuracy_chance": 1 / len(names),
    }
    if len(names) == 2:  # Hateful Memes
        metrics |= zeroshot_roc_auc(vectors.visual, labels, vectors.text)
    return metrics


def markdown(sets: Sequence[ShotSet], metrics: Mapping[str, float]) -> str:
    """One row a set, one column a number of shots or a measure."""
    rows = {s.name: {k.removeprefix(f"{s.name}_"): v for k, v in metrics.items() if k.startswith(f"{s.name}_")} for s in sets}  # fmt: skip
    columns = list(dict.fromkeys(k for row in rows.values() for k in row if "_shot" in k or k in (*RETRIEVED, "accuracy", "roc_auc")))  # fmt: skip
    lines = ["| set | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{row[c]:.3f}" if c in row else "" for c in columns) + " |"
        )
    return "\n".join(lines) + "\n"


# -- official files ------------------------------------------------------------------------------


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
    given = {
        row["question_id"]: row
        for row in json.loads(annotations.read_text(encoding="utf-8"))["annotations"]
    }
    for row in asked:
        answers = [answer["answer"] for answer in given[row["question_id"]]["answers"]]
        yield {
            "image": image.format(row["image_id"]),
            "question": row["question"],
            "texts": answers,
        }
