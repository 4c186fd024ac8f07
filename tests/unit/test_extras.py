"""Requirements by modality: what is missing is named with its extra."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common import cli
from common.config import ROOT
from common.extras import EXTRAS, missing

DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TOOLS = {"all", "dev", "notebooks", "peers"}  # nothing of the program imports these
NOT_IMPORTED = {"accelerate"}  # the trainer of sentence-transformers does


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def test_extras_are_those_of_pyproject():
    assert EXTRAS.keys() == DECLARED.keys() - TOOLS
    every = {
        name for extra in DECLARED["all"] for name in re.search(r"\[(.+)\]", extra)[1].split(",")
    }
    assert every == EXTRAS.keys() - {"video", "audio", "large", "eval", "dashboard", "scale"}


@pytest.mark.parametrize("extra", ["text", "image", "speech", "code", "parquet", "tracking"])
def test_modules_come_from_the_requirements_of_their_extra(extra):
    modules = importlib.metadata.packages_distributions()
    installed = {plain(name) for module in EXTRAS[extra] for name in modules[module]}
    assert installed - {"open-clip-torch"} <= {plain(name) for name in DECLARED[extra]}
    assert {plain(name) for name in DECLARED[extra]} - NOT_IMPORTED <= installed


def test_a_missing_module_is_named_with_its_extra():
    error = ModuleNotFoundError("No module named 'tree_sitter_go'", name="tree_sitter_go.language")
    assert missing(error, "cocosoda") == (
        "cocosoda needs 'tree_sitter_go' of the extra 'code': pip install -e '.[code]'"
    )
    assert missing(ModuleNotFoundError(name="common.nothing"), "cocosoda") is None


def test_the_command_names_the_extra(monkeypatch, capsys):
    def run(name):
        def verb(args):
            raise ModuleNotFoundError(name=name)

        monkeypatch.setitem(cli.VERBS, "list", replace(cli.VERBS["list"], run=verb))
        return cli.main(["list"])

    assert run("wandb") == 2
    assert "list needs 'wandb' of the extra 'tracking'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        run("common.nothing")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """`environment(extras)` is a folder of links to what an install with these extras has."""

    def make(extras):
        hidden = {plain(n) for e in DECLARED.keys() - {"all", "dev", *extras} for n in DECLARED[e]}
        hidden -= {plain(name) for extra in extras for name in DECLARED[extra]}
        folder = tmp_path_factory.mktemp("site")
        site = Path(torch.__file__).parents[1]
        left_out = {
            file.parts[0]
            for found in importlib.metadata.distributions(path=[str(site)])
            if plain(found.metadata["Name"]) in hidden
            for file in found.files
        }
        for entry in site.iterdir():
            if entry.name not in left_out:
                (folder / entry.name).symlink_to(entry)
        return folder

    return make


def train(project, site, runs):
    """The command with nothing on its path but a folder of packages and this checkout."""
    words = [
        sys.executable,
        "-S",
        "-m",
        "common.cli",
        "train",
        project,
        "smoke",
        f"runs_dir={runs}",
    ]
    return subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("project", "extras"), [("mclrec", ()), ("simcse", ("text",)), ("dcl", ("image",))]
)
def test_a_project_trains_with_the_extra_of_its_modality(project, extras, environment, tmp_path):
    done = train(project, environment(extras), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_project_without_its_extra_says_so(environment, tmp_path):
    done = train("simcse", environment(()), tmp_path)
    assert done.returncode == 2
    assert re.search(r"error: simcse needs '\w+' of the extra 'text'", done.stderr), done.stderr
