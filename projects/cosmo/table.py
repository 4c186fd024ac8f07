"""Few-shot scores, retrieval and classification of all sets of a config, as one table.

A set is JSON lines: ``{"image": "a.jpg"}`` or ``{"frames": ["1.jpg", ...]}`` (paths below its
folder) with ``texts`` (captions, or the annotators' answers), ``question`` and ``label``.
``TASK=few_shot_rows`` makes such rows of a Karpathy file and of VQA's files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from common.config import UserError
from common.data.lookup import data_root
from common.data.samplers import sample_rng
from common.data.tables import read_jsonl
from common.engine.workspace import Workspace, write_json
from common.evaluation.retrieval.cross_modal import image_text_retrieval
from common.files import write_text
from projects.cosmo.config import Config, EvalConfig, ShotSet
from projects.cosmo.few_shot import (
    FEWEST_ANSWERS,
    TEXT_ONLY,
    FewShotTask,
    Item,
    evaluate_few_shot,
)
from projects.cosmo.inference import PictureModel

ROW_STREAM = 92
CLASS_TEXT = "A photo of a {}"
RETRIEVED = ("image_to_text_recall_at_1", "text_to_image_recall_at_1", "recall_mean")
# what a row of a task needs alongside its picture
NEEDS = {
    "caption": ("texts",),
    "vqa": ("question", "texts"),
    "retrieval": ("texts",),
    "classification": ("label",),
}


class SetRows(NamedTuple):
    """A set: test items with their labels, and what demonstrations are drawn from."""

    items: list[tuple[Item, str]]
    pool: list[Item]


def read_items(
    path: Path, limit: int | None = None, seed: int = 42, needs: Sequence[str] = ()
) -> list[tuple[Item, str]]:
    """Items of a file with their labels, at most `limit` of them, drawn by the seed.

    Args:
        path: JSON lines.
        limit: None: all rows.
        seed: of the draw.
        needs: fields that a row must have alongside its picture.

    Raises:
        UserError: a missing file, or a row without picture, without one of `needs`, or with texts
            that are no list of texts.
    """
    if not path.is_file():
        raise UserError(
            f"there is no {path}; a set of the table is JSON lines of image, texts, question, label"
        )
    rows = list(enumerate(read_jsonl(path, []), start=1))
    if limit is not None and limit < len(rows):
        chosen = sorted(sample_rng(seed, 0, 0, ROW_STREAM).permutation(len(rows))[:limit].tolist())
        rows = [rows[i] for i in chosen]
    items = []
    for number, row in rows:
        names = row.get("frames") or ([row["image"]] if "image" in row else [])
        if not names:
            raise UserError(f"{path}, row {number}: neither image nor frames")
        texts = row.get("texts", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f'{path}, row {number}: texts are a list such as ["a bus"]')
        lacking = [name for name in needs if row.get(name) in (None, "", [])]
        if lacking:
            raise UserError(f"{path}, row {number} has no {', '.join(lacking)}: add it")
        picture = [str(path.parent / name) for name in names]
        items.append(
            (Item(picture, tuple(texts), str(row.get("question", ""))), str(row.get("label", "")))
        )
    if not items:
        raise UserError(f"{path} is empty")
    return items


def read_set(options: EvalConfig, chosen: ShotSet, root: Path) -> SetRows:
    """The rows of a set, fit for its task.

    Raises:
        UserError: files that are missing or lack something, or too few demonstrations.
    """
    needs = NEEDS[chosen.task]
    items = read_items(root / chosen.test, chosen.limit, options.shot_seed, needs)
    if chosen.task not in ("caption", "vqa"):
        return SetRows(items, [])
    if chosen.task == "vqa" and min(len(item.texts) for item, _ in items) < FEWEST_ANSWERS:
        raise UserError(
            f"{root / chosen.test}: the accuracy of a question is a mean over annotators and needs"
            f" the answers (texts) of at least {FEWEST_ANSWERS}; repeat a single answer ten times"
        )
    if chosen.train is None:
        raise UserError(f"the set {chosen.name} needs train=, where its demonstrations come from")
    pool = [
        item for item, _ in read_items(root / chosen.train, options.pool, options.shot_seed, needs)
    ]
    most = max((shots or TEXT_ONLY for shots in options.shots), default=0)
    if len(pool) < most:
        raise UserError(
            f"{root / chosen.train} has {len(pool)} rows for {most} demonstrations: add some, or"
            " lower eval.shots"
        )
    return SetRows(items, pool)


def evaluate_sets(
    cfg: Config, model: PictureModel, workspace: Workspace | None
) -> dict[str, float]:
    """``<set>_<metric>`` of every set.

    few_shot.md (the table of shots) and few_shot.json grow with each of them.

    All files are read before the first score. Sets that are judged by the latent heads are left
    empty for a model that has none.

    Raises:
        UserError: see `read_set`.
    """
    options, root = cfg.eval, data_root(cfg.data.root)
    sets = [(chosen, read_set(options, chosen, root)) for chosen in options.sets]
    scores_of_sets: dict[str, float] = {}
    for chosen, rows in sets:
        scores = one_set(cfg, model, chosen, rows)
        scores_of_sets |= {f"{chosen.name}_{name}": value for name, value in scores.items()}
        if workspace is None:
            continue
        if not scores:
            workspace.say(
                f"{chosen.name}: left empty, a model without contrastive loss has no vectors"
            )
        write_text(workspace.folder(".") / "few_shot.md", markdown(options.sets, scores_of_sets))
        write_json(workspace.folder(".") / "few_shot.json", scores_of_sets)
    return scores_of_sets


def one_set(cfg: Config, model: PictureModel, chosen: ShotSet, rows: SetRows) -> dict[str, float]:
    """Scores of one set by its task.

    None where the model lacks the latent heads that the task is judged by.
    """
    options = cfg.eval
    if chosen.task in ("caption", "vqa"):
        task: FewShotTask = "caption" if chosen.task == "caption" else "vqa"
        most = options.max_new_tokens if task == "caption" else options.vqa_tokens
        return evaluate_few_shot(
            lambda prompts: model.write(prompts, most),
            task,
            [item for item, _ in rows.items],
            rows.pool,
            shots=options.shots,
            seed=options.shot_seed,
            pool_size=options.pool,
        )
    if not model.module.network.contrastive:
        return {}
    items = rows.items
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
        from sklearn.metrics import roc_auc_score

        ahead = cosines[:, 1] - cosines[:, 0]
        auc = roc_auc_score(labels.numpy(), ahead.cpu().numpy())
        metrics |= {"roc_auc": float(auc), "roc_auc_chance": 0.5}
    return metrics


def markdown(sets: Sequence[ShotSet], metrics: Mapping[str, float]) -> str:
    """One row a set, one column a number of shots or a measure."""
    rows = {
        s.name: {
            k.removeprefix(f"{s.name}_"): v
            for k, v in metrics.items()
            if k.startswith(f"{s.name}_")
        }
        for s in sets
    }
    columns = list(
        dict.fromkeys(
            k
            for row in rows.values()
            for k in row
            if "_shot" in k or k in (*RETRIEVED, "accuracy", "roc_auc")
        )
    )
    lines = ["| set | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{row[c]:.3f}" if c in row else "" for c in columns) + " |"
        )
    return "\n".join(lines) + "\n"
