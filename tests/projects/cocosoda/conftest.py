"""Configs, golden inputs and small encoders for the tests of CoCoSoDa."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from projects.cocosoda.config import Config
from projects.cocosoda.encoder import build_encoder
from projects.cocosoda.module import CoCoSoDa
from tests.configs import configs_of
from tests.table_encoder import TableEncoder
from tests.unit.losses.golden import fill

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/cocosoda.json").read_text(encoding="utf-8")
)["outputs"]
SIDES = ("code", "query", "augmented_code", "augmented_query")

config = configs_of(Config, "cocosoda")


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of both stages with validation and all rows of the table."""
    from common.engine.run import train

    folder = tmp_path_factory.mktemp("full")
    words = [
        f"runs_dir={folder}",
        "run_id=full",
        "trainer.val_every_n_steps=2",
        "trainer.keep_checkpoints=5",
    ]
    return train("cocosoda", "smoke", words)


def module_of(*overrides: str, finetune: bool = False) -> CoCoSoDa:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return CoCoSoDa(cfg, build_encoder(cfg.model), finetune=finetune).train()


def tokens(length: int, shift: int) -> dict[str, Tensor]:
    """Golden ids and mask (4, L); the last column of odd rows is padding."""
    i, j = torch.arange(4)[:, None], torch.arange(length)
    ids = 2 + (3 * i + 2 * j + shift) % 11
    ids[1::2, -1] = 1
    return {"input_ids": ids, "attention_mask": ids.ne(1).long()}


def golden_batch(step: int) -> dict[str, dict[str, Tensor]]:
    """Inputs of a golden step."""
    return {
        "code": tokens(4, 1 + step),
        "augmented_code": tokens(4, 2 + step),
        "query": tokens(3, 5 + step),
        "augmented_query": tokens(3, 6 + step),
    }


def golden_module(case: dict, finetune: bool = False) -> CoCoSoDa:
    """The project's module around `TableEncoder`, with the golden queues."""
    cfg = config(
        "data.batch_size=4",
        "method.queue_size=8",
        "method.momentum=0.9",
        f"method.temperature={case.get('temperature', 0.07)}",
        f"method.logit_scale={case.get('logit_scale_before_cross_entropy', 1.0)}",
        f"method.intra_modal={str(case.get('intra_modal', True)).lower()}",
    )
    module = CoCoSoDa(cfg, TableEncoder(13), finetune=finetune).double()  # type: ignore[arg-type]
    phases = {"code": 1.1, "augmented_code": 1.2, "query": 1.3, "augmented_query": 1.4}
    for name, phase in phases.items() if module.queues is not None else ():
        queue = nn.functional.normalize(fill((6, 8), phase).detach(), dim=0)
        module.queues[name].features = queue.T.contiguous()  # type: ignore[index]
    return module.train()


def batch(rows: int = 4, seed: int = 0) -> dict:
    """Random token rows of different lengths for all four sides."""
    generator = torch.Generator().manual_seed(seed)
    actual = {}
    for name in SIDES:
        length = 9 if name.endswith("code") else 6
        sizes = torch.randint(3, length + 1, (rows,), generator=generator)
        mask = (torch.arange(length) < sizes[:, None]).long()
        ids = torch.randint(10, 200, (rows, length), generator=generator)
        actual[name] = {"input_ids": ids * mask, "attention_mask": mask}
    return {**actual, "ids": torch.arange(rows)}
