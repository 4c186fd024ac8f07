"""The command line's grammar: verbs, names, settings, options."""

import shlex

import pytest

from common.arguments import build_parser, parse
from common.cli import VERBS, main
from common.config import UserError


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_has_its_options_and_an_example_that_is_valid(name):
    verb, text = VERBS[name], build_parser(VERBS)[1][name].format_help()
    assert all(flag in text for flag in verb.options)
    assert f"contrastive {verb.example.split()[0]}" in text
    args = parse(VERBS, shlex.split(verb.example))
    assert args is not None
    assert args.verb == name


def test_help_of_the_command_lists_every_verb(capsys):
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in VERBS)


def test_names_settings_and_options_may_be_mixed():
    args = parse(VERBS, ["train", "seed=1", "simcse", "--arm", "unsup", "a.b=x=y"])
    assert args is not None
    assert (args.project, args.config, args.arm) == ("simcse", None, "unsup")
    assert args.settings == ["seed=1", "a.b=x=y"]
    args = parse(VERBS, ["smoke", "dcl", "simcse"])
    assert args is not None
    assert args.projects == ["dcl", "simcse"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tran", "simcse"], "no verb 'tran'; did you mean 'train'"),
        (["compare", "dcl", "--sedes=3"], "compare takes no --sedes; did you mean '--seeds'"),
        (["compare", "dcl", "--seed", "3"], "compare takes no --seed; did you mean '--seeds'"),
        (["show", "dcl", "--run", "x"], "show takes no --run"),
        (["train", "dcl", "smoke", "mini"], "one config and settings"),
        (["train", "dcl", ""], "the name of the config is empty"),
        (["list", "dcl"], "list takes no project"),
        (["diff", "a", "b", "c"], "diff takes two names: c"),
        (["runs", "seed=1"], "no setting but runs_dir"),
        (["sweep", "dcl", "--jobs", "two"], "argument --jobs: invalid int value: 'two'"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(words, message):
    with pytest.raises(UserError) as error:
        parse(VERBS, words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "dcl", "run_id=x"], "'run_id=x' would change nothing: eval does not read run_id"),
        (["eval", "dcl", "tracking.name=x"], "eval does not read tracking.name"),
        (["export", "dcl", "resume=latest"], "export does not read resume"),
        (["run", "dcl", "run_id=x", "--task", "t"], "run does not read run_id"),
        (["check", "dcl", "tracking.tags=[a]"], "check does not read tracking.tags"),
        (["compare", "dcl", "run_id=x", "--plan"], "compare does not read run_id"),
        (["sweep", "mclrec", "resume=latest"], "sweep does not read resume"),
        (["dashboard", "dcl", "seed=1"], "dashboard only reads tracking.*"),
    ],
)
def test_what_a_verb_would_ignore_is_refused(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_baseline_has_a_run_folder_which_can_be_named(monkeypatch):
    asked = []
    monkeypatch.setattr("common.engine.verbs.evaluate_baseline", lambda *a: asked.append(a))
    words = ["run_id=x", "tracking.tags=[a]"]
    assert main(["eval", "dcl", "mini", *words, "--baseline", "raw_pixels"]) == 0
    assert asked == [("dcl", "mini", words, "raw_pixels")]
