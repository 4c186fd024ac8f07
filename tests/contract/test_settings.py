"""Configs of all projects load, and what does not fit is refused in one sentence with exit code
2."""

import json
import re
import shlex

import pytest
from omegaconf import OmegaConf

from common.cli import main
from common.config import (
    CONFIG_DIR,
    ROOT,
    UserError,
    _chain,
    config_names,
    config_path,
    leaf_keys,
)
from common.engine.comparison.claims import claims_of
from common.engine.comparison.spec import default_arms, read_comparisons
from common.registry import config_class
from tests.configs import load
from tests.contract.projects import PROJECTS


@pytest.mark.parametrize("project", PROJECTS)
def test_every_config_loads(project):
    names = set(config_names(project))
    assert {"smoke", "mini"} <= names
    assert any(name.startswith("paper") for name in names)
    for name in names:
        cfg = load(config_class(project), project, name)
        assert cfg.trainer.max_steps is not None or cfg.trainer.max_epochs is not None


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr'"),
        ("optim.lr=fast", "optim.lr"),
        ("trainer.max_steps=many", "trainer.max_steps"),
    ],
)
def test_misspelt_keys_and_wrong_types_are_refused(project, word, message, tmp_path, capsys):
    """One sentence on standard error, code 2, and no run folder."""
    assert main(["train", project, "smoke", f"runs_dir={tmp_path}", word]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.slow
def test_arms_of_the_comparison_are_valid_overrides(project):
    specs = read_comparisons(project)
    assert specs
    for spec in specs:
        assert len(spec.arms) >= 2
        claims = claims_of(spec)
        assert [claim for claim in claims if not claim.appendix]
        for overrides in spec.arms.values():
            words = [f"{k}={json.dumps(v)}" for k, v in overrides.items()]  # as `make compare` does
            load(config_class(project), project, spec.base, words)
        usual = {*default_arms(spec), *spec.baselines}
        assert all(set(claim.arms) <= usual for claim in claims if not claim.appendix)


@pytest.mark.parametrize("project", PROJECTS)
def test_paper_configs_say_where_their_values_come_from(project):
    for path in CONFIG_DIR.joinpath(project).glob("paper*.yaml"):
        assert "#" in path.read_text(encoding="utf-8"), path


def test_keys_of_a_schema_are_unique_and_dotted():
    keys = leaf_keys(OmegaConf.structured(config_class(PROJECTS[0])))
    assert len(keys) == len(set(keys))
    assert "optim.lr" in keys


@pytest.mark.parametrize("project", PROJECTS)
def test_no_config_believes_that_an_empty_mapping_clears_what_it_extends(project):
    """Mappings are merged: ``references: {}`` keeps all entries of the parent."""
    for name in config_names(project):
        chain = _chain(config_path(project, name))
        for place, (path, layer) in enumerate(chain):
            empty = [key for key, value in _leaves(OmegaConf.to_container(layer)) if value == {}]
            if empty:
                before = OmegaConf.merge(OmegaConf.create(), *(node for _, node in chain[:place]))
                kept = [key for key in empty if OmegaConf.select(before, key)]
                assert not kept, f"{path.name}: {kept}"


def _leaves(node, prefix=""):
    """Dotted keys of a nested mapping with their values; an empty mapping is a value."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_list_names_all_projects(capsys):
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    assert all(project in told for project in PROJECTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "laclp"], "did you mean 'laclip'"),
        (["train", "laclip", "smok"], "did you mean 'smoke'"),
        (["train"], "give a project"),
        (["run", "laclip", "smoke"], "give a task"),
        (["train", "laclip", "smoke", "extra"], "section.key=value"),
    ],
)
def test_wrong_words_end_with_code_2(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


FENCE = re.compile(r"```sh\n(.*?)```", re.S)


def commands_of(card: str) -> list[list[str]]:
    """Words behind ``make`` of the commands in a card's shell blocks."""
    lines = (
        line
        for block in FENCE.findall(card)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("make ")
    )
    return [shlex.split(line, comments=True)[1:] for line in lines]


def settings_of(words: list[str]) -> tuple[str, list[str]]:
    """Config and settings of a command."""
    options = dict(word.split("=", 1) for word in words if word.split("=", 1)[0].isupper())
    settings = [word for word in words[1:] if not word.split("=", 1)[0].isupper()]
    return options.get("CONFIG", "paper" if words[0] == "check" else "mini"), settings


@pytest.mark.parametrize("project", PROJECTS)
def test_commands_of_the_card_have_valid_settings(project):
    """In shell blocks, as a reader pastes them."""
    card = (ROOT / "projects" / project / "README.md").read_text(encoding="utf-8")
    commands = commands_of(card)
    assert commands
    for words in commands:
        assert all("=" in word for word in words[1:]), words
        load(config_class(project), project, *settings_of(words))


def test_a_wrong_setting_of_a_card_is_noticed():
    (words,) = commands_of("```sh\nmake train PROJECT=simcse \\\n  optim.lrr=1  # a comment\n```")
    with pytest.raises(UserError, match=r"optim\.lrr"):
        load(config_class("simcse"), "simcse", *settings_of(words))
