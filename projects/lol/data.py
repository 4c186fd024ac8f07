"""What the amateur learns: questions with hallucinated answers, of which only the answers count."""

import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import data_root, require
from common.data.module import ContrastiveData
from common.data.padding import padded
from common.data.samplers import Key
from common.data.tables import read_jsonl
from common.decoding.language_model import LanguageModel
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from common.losses.auxiliary.tokens import IGNORED
from projects.lol.config import Config
from projects.lol.facts import World
from projects.lol.prompts import Prompts

HALUEVAL = (
    "a JSON list, or JSON lines, of {instruction, input, output} (output: the hallucinated answer)",
    "the QA part of RUCAIBox/HaluEval, or `make run PROJECT=lol TASK=hallucinate`",
    "10 MB",
)

Frame = Callable[[str], str]


class Hallucination(NamedTuple):
    """A question with an answer that is wrong."""

    question: str
    answer: str


class Answers(Dataset[dict[str, Tensor]]):
    """Prompts and hallucinated answers; the labels are the answer's tokens and its end.

    Args:
        rows: questions with answers.
        lm: whose tokenizer is used.
        frame: the prompt of a question.
        length: tokens; longer rows are left out, with a warning that counts them.

    Raises:
        UserError: no row is left.
    """

    def __init__(
        self, rows: Sequence[Hallucination], lm: LanguageModel, frame: Frame, length: int
    ) -> None:
        self.pad = lm.pad
        self.rows: list[tuple[list[int], int]] = []
        for row in rows:
            prompt = frame(row.question)
            start = len(lm.token_ids(prompt, special=True))
            ids = lm.token_ids(f"{prompt} {row.answer}", special=True)
            ids += [] if lm.eos is None else [lm.eos]
            if start < len(ids) <= length:
                self.rows.append((ids, start))
        if not self.rows:
            raise UserError(
                f"no hallucinated answer fits data.length={length} tokens: raise it or look at"
                " data.file"
            )
        if missing := len(rows) - len(self.rows):
            warnings.warn(
                f"{missing} of {len(rows)} hallucinated answers are left out: empty, or longer than"
                f" data.length={length} tokens with their prompt",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Ids, mask and labels (B, L) of the keys (index, epoch)."""
        answers = [self.rows[index] for index, _ in keys]
        batch: dict[str, Any] = {**padded([ids for ids, _ in answers], self.pad)}
        place = torch.arange(batch["input_ids"].shape[1])
        starts = torch.tensor([start for _, start in answers])
        learnt = (place >= starts[:, None]) & batch["attention_mask"].bool()
        labels = batch["input_ids"].masked_fill(~learnt, IGNORED)
        return {**batch, "labels": labels, "ids": torch.tensor([index for index, _ in keys])}


def training_frame(cfg: Config, prompts: Prompts) -> Frame:
    """What stands around a question when the amateur is trained, see `amateur.prompt`."""
    if cfg.amateur.prompt == "question":
        return prompts.bare
    return lambda question: prompts(question).neutral


def hallucinations(cfg: Config, world: World | None) -> list[Hallucination]:
    """Training rows of the amateur.

    Raises:
        UserError: a missing or unreadable file.
    """
    if world is not None and cfg.data.source != "file":
        statements = [
            Hallucination(fact.noun, answer)
            for fact in world.parts["amateur"]
            for answer in fact.false_answers[:2]
        ]
        return statements[: cfg.data.limit]
    return read_hallucinations(cfg)[: cfg.data.limit]


def read_hallucinations(cfg: Config) -> list[Hallucination]:
    """Rows of `data.file`: ICD's form (instruction, input, output) or HaluEval's own.

    Raises:
        UserError: a missing file, or rows of another form.
    """
    path = data_root(cfg.data.root) / str(cfg.data.file)
    layout, source, size = HALUEVAL
    require(path, what="the hallucinated answers", layout=layout, source=source, size=size)
    try:
        rows = json.loads(path.read_text("utf-8")) if path.suffix == ".json" else read_jsonl(path)
    except json.JSONDecodeError:
        rows = read_jsonl(path)  # HaluEval's .json files hold JSON lines
    hallucinations = []
    for number, row in enumerate(rows):
        question = row.get("instruction", row.get("question"))
        answer = row.get("output", row.get("hallucinated_answer"))
        if not isinstance(question, str) or not isinstance(answer, str) or not answer.strip():
            raise UserError(f"{path}, row {number}: expected {layout}")
        more = row.get("input") or ""
        hallucinations.append(
            Hallucination(f"{question}\n{more}" if more else question, answer.strip())
        )
    return hallucinations


def amateur_data(cfg: Config, rows: Answers) -> ContrastiveData:
    """Batches of the amateur's training."""
    return ContrastiveData(
        rows, batch_size=cfg.data.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and data that the config needs."""
    needs = list(weights_requirement(cfg.model.pretrained))
    for name in (cfg.model.small,):
        needs += weights_requirement(name) if name is not None else ()
    if "facts" in (cfg.data.source, cfg.eval.source):
        needs.append(bundled_requirement("wordnet"))
    files = {"data.file": cfg.data.file, "eval.file": cfg.eval.file}
    files["prompt.demonstrations_file"] = cfg.prompt.demonstrations_file
    for name, file in files.items():
        if file is not None:
            path = data_root(cfg.data.root) / file
            needs.append(
                Requirement(f"data: {name}", str(path), path.is_file(), "see the card, Data")
            )
    return needs
