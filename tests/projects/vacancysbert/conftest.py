"""Configs, encoders and files of adverts for the tests of VacancySBERT."""

from pathlib import Path

import torch

from common.data.tables import write_jsonl
from projects.vacancysbert.config import Config
from projects.vacancysbert.encoder import build_encoder
from projects.vacancysbert.module import VacancySBERT
from tests.configs import configs_of

TITLES = ["Java developer", "baker", "nurse", "train driver"]
SKILLS = [
    ("java", "sql", "git"),
    ("dough", "ovens"),
    ("wound care", "drugs"),
    ("signals", "brakes"),
]

config = configs_of(Config, "vacancysbert")


def module_of(*overrides: str) -> VacancySBERT:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return VacancySBERT(cfg, build_encoder(cfg)).train()


def write_files(folder: Path, train: list[dict], test: list[dict]) -> list[str]:
    """Adverts and test rows as files; overrides that read them."""
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "test.jsonl", test)
    return [
        "data.source=files",
        f"data.root={folder}",
        "data.train=train.jsonl",
        "data.test=test.jsonl",
        "data.batch_size=2",
        "eval.beta=0.5",
        "trainer.val_every_n_steps=null",
    ]


def batch(rows: int = 8, seed: int = 0, buckets: int = 40) -> dict:
    """Random titles and skills of different lengths, two of them duplicates in each way."""
    generator = torch.Generator().manual_seed(seed)
    sides = {}
    for name, length in (("title", 5), ("skills", 9)):
        sizes = torch.randint(3, length + 1, (rows,), generator=generator)
        mask = (torch.arange(length) < sizes[:, None]).long()
        ids = torch.randint(10, 200, (rows, length), generator=generator)
        sides[name] = {"input_ids": ids * mask, "attention_mask": mask}
    same = torch.stack([torch.arange(rows), torch.arange(rows)], 1)
    same[rows - 1, 0] = 0  # the title of the first row, in the other half
    same[rows // 2, 1] = 1  # the skills of the second
    skill_ids = torch.randint(0, buckets, (rows, 2), generator=generator)
    return {**sides, "duplicates": same, "skill_ids": skill_ids, "ids": torch.arange(rows)}
