"""Train a model that is shipped under data/models, through the engine of the projects.

    python -m scripts.pretrain train masked_lm text_encoder [a.b=c ...]
    python -m scripts.pretrain export masked_lm text_encoder
    python -m scripts.pretrain figures data/models/text-encoder

Runs lie under ``runs/masked_lm``; resume, tracking and overrides work as in every project.
"""

import importlib
import sys
from pathlib import Path

import common.config
import common.registry

common.config.CONFIG_DIR = Path(__file__).parent / "configs"
common.registry.load_project = lambda slug: importlib.import_module(f"scripts.pretrain.{slug}")

from common import cli  # noqa: E402

if sys.argv[1:2] == ["figures"]:
    from scripts.pretrain.figures import main

    sys.exit(main(Path(sys.argv[2])))
sys.exit(cli.main())
