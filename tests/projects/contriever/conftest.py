"""Configs, golden inputs and small encoders for the tests of Contriever."""

import json
import random
from pathlib import Path

import torch
from torch import Tensor, nn

from common.families.retrieval.dense import build_dense
from projects.contriever.config import Config
from projects.contriever.module import Contriever
from tests.configs import configs_of
from tests.table_encoder import TableEncoder
from tests.unit.losses.golden import fill

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/contriever.json").read_text(encoding="utf-8")
)["outputs"]

config = configs_of(Config, "contriever")


def module_of(*overrides: str, finetune: bool = False) -> Contriever:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return Contriever(cfg, build_dense(cfg.model), finetune=finetune).train()


def tokens(batch: int, shift: int) -> dict[str, Tensor]:
    """Golden ids and mask (B, 3)."""
    i, j = torch.arange(batch)[:, None], torch.arange(3)
    return {"input_ids": (3 * i + 2 * j + shift) % 11, "attention_mask": (j < 3 - i % 2).long()}


def golden_module(case: dict, finetune: bool = False) -> Contriever:
    """The project's module around `TableEncoder`, with the golden queue."""
    norms = case.get("norm", False)
    cfg = config(
        "data.batch_size=4",
        f"method.queue_size={case.get('queue_size', 8)}",
        f"method.momentum={case.get('momentum', 0.9)}",
        f"method.temperature={case['temperature']}",
        f"finetune.temperature={case['temperature']}",
        f"method.label_smoothing={case['label_smoothing']}",
        f"method.norm_query={str(case.get('norm_query', norms)).lower()}",
        f"method.norm_document={str(case.get('norm_doc', norms)).lower()}",
    )
    module = Contriever(cfg, TableEncoder(11), finetune=finetune).double()  # type: ignore[arg-type]
    if module.queue is not None:
        queue = nn.functional.normalize(fill((6, 8), 1.1).detach(), dim=0)
        module.queue.features = queue.T.contiguous()
    return module.train()


class PythonDraws:
    """Python's own generator under the names of NumPy's, to replay what the release drew."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        return self.source.uniform(low, high)

    def integers(self, low: int, high: int) -> int:
        return self.source.randint(low, high - 1)


def batch(rows: int = 4, length: int = 9, seed: int = 0) -> dict:
    """Two views of random token rows of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    views = {}
    for name in ("query", "key"):
        sizes = torch.randint(4, length + 1, (rows,), generator=generator)
        mask = (torch.arange(length) < sizes[:, None]).long()
        ids = torch.randint(10, 200, (rows, length), generator=generator)
        views[name] = {"input_ids": ids * mask, "attention_mask": mask}
    return {**views, "ids": torch.arange(rows)}
