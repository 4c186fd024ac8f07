"""The repository's CLI with the toy project: ``python -m tests.toy <verb> toy <config> ...``."""

import sys
from pathlib import Path

import common.config
import common.registry

common.config.CONFIG_DIR = Path(__file__).parent / "configs"
common.registry.load_project = lambda slug: __import__("tests.toy", fromlist=["build"])

from common import cli  # noqa: E402

sys.exit(cli.main())
