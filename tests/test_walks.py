"""The walks of docs/your-data.md are repeated word for word: their files, commands and outputs."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from common.cli import VERBS, main
from common.config import ROOT, config_names
from common.data.layouts import Layout
from common.make import command
from common.registry import list_projects
from tests.contract.test_own_data import section

PAGE = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)(?: title=(\S+))?\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
RUN = re.compile(r"eval-\d{8}-\d{6}-\w{4}")
QUICK = ("Sentences",)


class Block(NamedTuple):
    """A fenced block: its language, the file that it is, its text."""

    kind: str
    title: str
    text: str


def walks() -> dict[str, list[Block]]:
    """Heading -> blocks of the walks, which need the files of earlier ones."""
    part = PAGE.partition("## Judge a model on your data")[2].partition("\n## ")[0]
    _, *titled = re.split(r"^### (.+)$", part, flags=re.MULTILINE)
    return {
        title: [Block(*match) for match in BLOCK.findall(text)]
        for title, text in zip(titled[::2], titled[1::2], strict=True)
    }


def words_of(line: str) -> list[str]:
    """What ``make ...`` hands to the program."""
    _, target, *settings = line.split()
    flags = "-- " + " ".join(reversed(settings))
    return command(target, {"MAKEFLAGS": flags}, VERBS)


def tables(output: str) -> list[str]:
    """Lines of what a command printed, without bars, paths and the next commands."""
    lines = [RUN.sub("eval-...", line.rstrip()) for line in output.splitlines()]
    return [line for line in lines if line and not re.match(r"make |all metrics|.*\d/\d", line)]


def follow(blocks: list[Block], capsys) -> list[tuple[str, str]]:
    """Expected and actual output of the commands of a walk; `make train` prints nothing here."""
    compared = []
    for place, block in enumerate(blocks):
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            exec(block.text, {})
        elif block.kind == "sh":
            printed = ""
            for line in block.text.splitlines():
                capsys.readouterr()
                assert main(words_of(line)) == 0, line
                printed += capsys.readouterr().out if line.startswith("make eval") else ""
            compared.append((blocks[place + 1].text, "\n".join(tables(printed)) + "\n"))
    return compared


@pytest.mark.parametrize(
    "title",
    [pytest.param(t, marks=() if t in QUICK else pytest.mark.slow) for t in walks()],
)
def test_a_walk_prints_what_the_page_shows(title, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = walks()
    if title == "Images with texts":  # of the pictures of the walk before
        exec(next(b.text for b in blocks["Images"] if b.kind == "python"), {})
    for expected, actual in follow(blocks[title], capsys):
        assert NUMBER.sub("#", actual).split() == NUMBER.sub("#", expected).split(), actual
        values = ([float(x) for x in NUMBER.findall(text)] for text in (actual, expected))
        assert next(values) == pytest.approx(next(values), rel=0.15, abs=0.15), actual


def test_there_is_a_walk_for_every_family():
    texts, images = {"Sentences", "Retrieval", "Code", "Dialogue"}, {"Images", "Images with texts"}
    assert set(walks()) >= texts | images | {"Speech", "Video", "LiDAR", "Recommendation"}
    for blocks in walks().values():
        assert {block.kind for block in blocks} >= {"sh", "text"}


def test_the_table_names_the_projects_of_each_layout():
    rows = dict.fromkeys(re.findall(r"^\| [^|]+ \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE))
    shown = {tuple(row.split(", ")) for row in rows} - {("judged by",)}
    judges = {project: section(project).judges for project in list_projects()}
    actual = {tuple(p for p in judges if layout in judges[p]) for layout in Layout} - {()}
    assert shown == actual
    assert all("smoke" in config_names(project) for project in judges)


def test_numbers_that_differ_are_noticed():
    assert NUMBER.findall("accuracy  0.4167  -1.5e-05") == ["0.4167", "-1.5e-05"]
    assert float("0.4167") != pytest.approx(0.6, rel=0.15, abs=0.15)
