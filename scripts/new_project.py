#!/usr/bin/env python3
"""Write the skeleton of a project: projects/<slug>, configs/<slug>, tests/projects/<slug>."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FILES = {
    "projects/{slug}/__init__.py": '''"""{slug}: one line on the paper (authors, venue, year)."""

from typing import TYPE_CHECKING

from projects.{slug}.config import Config

if TYPE_CHECKING:
    from common.engine.experiment import Experiment

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment":
    """The experiment of a config; heavy imports happen here."""
    from projects.{slug}.module import build_experiment

    return build_experiment(cfg)
''',
    "projects/{slug}/config.py": '''"""What can be set in an experiment of {slug}."""

from dataclasses import dataclass, field

from common.config import DataConfig, ExperimentConfig


@dataclass
class MethodConfig:
    """The objective."""

    temperature: float = 0.1  # divides the similarities


@dataclass
class Config(ExperimentConfig):
    """Experiment of {slug}."""

    data: DataConfig = field(default_factory=DataConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
''',
    "projects/{slug}/module.py": '''"""The method: SimCLR on synthetic two-view images, to be replaced by the paper's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.module import ContrastiveData
from common.data.image.synthetic import synthetic_views
from common.encoders.image.towers import ConvNet
from common.engine.module import ContrastiveModule
from common.engine.experiment import Experiment
from common.engine.experiment import Plan
from common.engine.experiment import Stage
from common.engine.workspace import Workspace
from common.export.safetensors import load_safetensors
from common.export.safetensors import save_safetensors
from common.losses.two_view import NTXentLoss
from projects.{slug}.config import Config


class Method(ContrastiveModule):
    """Two views of each image under NT-Xent (Chen et al. 2020, Eq. 1, arXiv 2002.05709).

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg.optim)
        self.encoder = ConvNet((16, 32))
        self.loss, self.scale = NTXentLoss(), 1 / cfg.method.temperature

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Loss of one batch of two views."""
        view_1, view_2 = self.encoder(batch["view_1"]), self.encoder(batch["view_2"])
        out = self.loss(view_1, view_2, self.scale)
        return {{"loss": out.loss}}


def build_experiment(cfg: Config) -> Experiment:
    """Stages, evaluation and export."""

    def stages() -> Iterator[Stage]:
        views = synthetic_views(num_samples=256, image_size=16, seed=cfg.seed)
        data = ContrastiveData(views, batch_size=cfg.data.batch_size, seed=cfg.seed)
        yield Stage("train", Method(cfg), data)

    def embed(module: Method) -> dict[str, Tensor]:
        return {{"image": module.encoder(torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16))}}

    def evaluate(module: Method, workspace: Workspace) -> dict[str, float]:
        return {{"embedding_std": float(embed(module)["image"].std())}}

    def export(module: Method, folder: Path) -> None:
        save_safetensors(module.encoder, folder)

    def load_export(folder: Path) -> Method:
        module = Method(cfg)
        module.encoder = load_safetensors(folder, lambda: ConvNet((16, 32)))
        return module

    plan = Plan(lambda: Method(cfg), 256)
    return Experiment(stages, evaluate, export, load_export, embed, lambda: plan)
''',
    "projects/{slug}/README.md": """# {slug}

## Paper

## Idea in three sentences

## Equations

## Run

## Results

<!-- results:begin -->
not run
<!-- results:end -->

## Deviations

## Data
""",
    "configs/{slug}/smoke.yaml": """extends: mini
trainer: {{max_steps: 2, accelerator: cpu}}
""",
    "configs/{slug}/mini.yaml": """data: {{batch_size: 32}}
optim: {{lr: 1.0e-3}}
trainer: {{max_steps: 50}}
""",
    "configs/{slug}/paper.yaml": """extends: mini
""",
    "configs/{slug}/compare.yaml": """base: mini
metric: embedding_std
arms: {{baseline: {{}}, method: {{}}}}
claims: [method > baseline]
""",
    "tests/projects/{slug}/test_{slug}.py": '''"""The checklist of {slug}."""
''',
}


def main(slug: str) -> int:
    """Write the files; refuses names that are no slug or exist."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", slug):
        print("usage: make new-project SLUG=lower_case_name")
        return 2
    if (ROOT / "projects" / slug).exists():
        print(f"projects/{slug} exists")
        return 2
    for name, text in FILES.items():
        path = ROOT / name.format(slug=slug)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(slug=slug), encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
