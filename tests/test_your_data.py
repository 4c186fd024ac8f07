"""The commands of the pages on own data and on machines: their settings are accepted, and
enough."""

import re
import shlex
from typing import NamedTuple

import pytest

from common.config import ROOT, ExperimentConfig, UserError
from common.registry import config_class
from tests.configs import load

COMMAND = re.compile(r"make (?:train|run) PROJECT=[a-z0-9_]+[^`\n]*")
OF_THE_SET = {"limit": None, "num_actions": 0}  # else of a config's own set
JUDGED = ("datasets", "validate", "beir", "answers", "intents", "keywords")


class Command(NamedTuple):
    """A line of a page; `<...>` stands for a value of the reader's."""

    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(re.sub(r"<[^>]*>", "1", self.text))[2:]

    @property
    def config(self) -> ExperimentConfig:
        named = dict(word.split("=", 1) for word in self.words if word.partition("=")[0].isupper())
        own = [word for word in self.words if not word.partition("=")[0].isupper()]
        project = named["PROJECT"]
        return load(config_class(project), project, named.get("CONFIG", "mini"), own)

    @property
    def left(self) -> list[str]:
        """Settings of the config's own data, sets and machines that the command leaves as they
        are."""
        cfg, given = self.config, {word.partition("=")[0] for word in self.words}
        data, actual = cfg.data, []
        source = getattr(data, "source", None)
        if source == "file":
            actual += [k for k, v in OF_THE_SET.items() if getattr(data, k, v) != v]
        if source == "webdataset" and "data.num_samples" not in given:
            actual.append("num_samples")
        if self.text.startswith("make train"):
            actual += ["num_nodes"] if cfg.trainer.num_nodes > 1 else []
            if "data.root" in given:
                judged = {name: getattr(cfg.eval, name, None) for name in JUDGED}  # type: ignore[attr-defined]
                sets = {k: [v] if isinstance(v, str) else v or [] for k, v in judged.items()}
                actual += [
                    name
                    for name, own in sets.items()
                    if f"eval.{name}" not in given
                    and not all((ROOT / "data" / place).is_dir() for place in own)
                ]
        return actual


def commands(page: str) -> list[Command]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [Command(actual.strip()) for actual in COMMAND.findall(text)]


SHOWN = [*commands("your-data.md"), *commands("scaling.md")]


def test_the_pages_show_commands():
    assert len(commands("your-data.md")) >= 20
    assert len(commands("scaling.md")) >= 2
    assert any(" data.num_samples=" in command.text for command in SHOWN)  # of a second line


@pytest.mark.parametrize("command", SHOWN, ids=lambda c: shlex.split(c.text)[2])
def test_command_is_accepted_and_leaves_nothing_of_the_config_s_own_data(command):
    assert command.left == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("make train PROJECT=simcse data.source=file data.file_=a.txt", "unknown key 'data.file_'"),
        ("make train PROJECT=coconut data.source=fsc data.root=/data", "data.command_words"),
        ("make run PROJECT=mclrec TASK=recommend recommend.inputs=u.jsonl", "recommend.inputs"),
    ],
)
def test_a_wrong_key_or_combination_is_noticed(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Command(text).config  # noqa: B018


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("make train PROJECT=mclrec data.source=file data.file=<log>", ["num_actions"]),
        (
            "make train PROJECT=esimcse data.source=file data.file=a.txt data.equal_parts=false",
            ["limit"],
        ),
        (
            (
                "make train PROJECT=laclip CONFIG=paper data.root=/data data.source=webdataset "
                "data.shards='a/{0..9}.tar' data.num_rewrites=0"
            ),
            ["num_samples", "num_nodes", "datasets", "validate"],
        ),
        (
            "make train PROJECT=contriever CONFIG=paper data.root=/data trainer.num_nodes=1",
            ["beir", "answers"],
        ),
    ],
)
def test_what_a_command_leaves_is_noticed(text, left):
    assert Command(text).left == left


@pytest.mark.parametrize("project", ["debcse", "esimcse", "mirror_bert", "whitenedcse"])
def test_a_card_s_command_without_the_paper_s_files_asks_for_none_of_them(project):
    """It was refused, or left sets in the config whose absence was said after training."""
    card = (ROOT / "projects" / project / "README.md").read_text(encoding="utf-8")
    (own,) = (text for text in COMMAND.findall(card) if "data.file=null" in text)
    cfg = Command(own).config
    assert cfg.data.source == "sentences"
    assert not cfg.eval.transfer
    assert not any(name.startswith("senteval:") for name in [*cfg.eval.sets, cfg.eval.dev])
