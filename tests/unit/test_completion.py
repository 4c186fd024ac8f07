"""Completion of the command in the shell, asked for as bash asks."""

import os
import subprocess
import sys

import pytest

from common.completion import setting_keys
from common.config import ROOT
from common.registry import config_class


def completed(line: str, tmp_path) -> list[str]:
    out = tmp_path / "out"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    code = "from common.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, cwd=ROOT, check=True)
    return [word.strip() for word in out.read_text().split("\n")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("contrastive tr", {"train"}),
        ("contrastive train simc", {"simcse"}),
        ("contrastive train simcse sm", {"smoke"}),
        ("contrastive train simcse mini optim.l", {"optim.lr="}),
        ("contrastive train nosuch x", {""}),
    ],
)
def test_the_shell_gets_what_fits(line, found, tmp_path):
    assert found <= set(completed(line, tmp_path))


def test_keys_are_those_of_the_schema():
    keys = list(setting_keys(config_class("dcl")))
    assert {"seed", "optim.lr", "trainer.max_steps", "data.batch_size"} <= set(keys)
    assert len(keys) == len(set(keys))
