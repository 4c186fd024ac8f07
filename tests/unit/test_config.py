"""Typed configs: inheritance, overrides, and messages that say what to do."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from common import cli
from common import config as config_module
from common.config import ExperimentConfig, UserError, load, to_dict, to_yaml
from tests import configs as merged_once


@dataclass
class Model:
    width: int = 8
    kind: Literal["small", "large"] = "small"
    names: list[str] = field(default_factory=list)


@dataclass
class Config(ExperimentConfig):
    model: Model = field(default_factory=Model)
    path: str = "???"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(config_module, "CONFIG_DIR", tmp_path)

    def write(name: str, text: str) -> None:
        path = tmp_path / "p" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    write("base", "path: x\ntrainer: {max_steps: 5}\nmodel: {width: 16, names: [a, b]}")
    return write


def test_child_overrides_parent_and_command_line_overrides_both(write):
    write("child", "extends: base\nmodel: {names: [c]}\noptim: {lr: 1e-3}")
    cfg = load(Config, "p", "child", ["optim.lr=3e-4", "trainer.devices=[0,1]"])
    assert cfg.model == Model(width=16, names=["c"])
    assert cfg.optim.lr == 3e-4
    assert cfg.trainer.devices == [0, 1]
    assert type(cfg.model.names) is list


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2026_12_02", "2026_12_02"),  # a number to YAML, as are the next four
        ("1e5", "1e5"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("0x1f", "0x1f"),
        ("no", "no"),
        ("/data/set #2/x", "/data/set #2/x"),
        ("[a]: {b}", "[a]: {b}"),
        ("%a", "%a"),
        ("*", "*"),
        (" a ", "a"),
        ("'a'", "a"),
        ("\U0001f600", "\U0001f600"),
        ("~/a", "/home/me/a"),
        ("b/~/a", "b/~/a"),
    ],
)
def test_a_text_is_what_was_typed(write, monkeypatch, typed, meant):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = load(Config, "p", "base", [f"path={typed}", f"tracking.group={typed}"])
    assert (cfg.path, cfg.tracking.group) == (meant, meant)


def test_home_folders_in_lists_and_files(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    write("home", "extends: base\npath: ~/a\nmodel: {names: [~/b, c~/d]}")
    cfg = load(Config, "p", "home")
    assert (cfg.path, cfg.model.names) == ("/home/me/a", ["/home/me/b", "c~/d"])
    assert load(Config, "p", "base", ["model.names=[~/e]"]).model.names == ["/home/me/e"]


@pytest.mark.parametrize("number", ["010", "1:30", "-01_0", "190:20:30.15"])
def test_numbers_that_yaml_reads_to_another_base_are_refused(write, number):
    with pytest.raises(UserError, match=f"YAML reads {number} as a number in another base"):
        load(Config, "p", "base", [f"optim.lr={number}"])
    with pytest.raises(UserError, match=f"YAML reads {number} as a number"):
        load(Config, "p", "base", [f"trainer.devices=[1, {number}]"])
    write("odd", f"extends: base\noptim:\n  lr: {number}  # as typed\n")
    with pytest.raises(UserError, match=rf"odd.yaml, line 3: YAML reads {number} as a number"):
        load(Config, "p", "odd")


@pytest.mark.parametrize("text", ["no", "1e5"])
def test_a_text_that_a_file_gives_as_something_else_is_refused(write, text):
    write("odd", f"extends: base\npath: {text}")
    with pytest.raises(UserError, match="odd.yaml: path is a text, which YAML reads as"):
        load(Config, "p", "odd")
    write("odd", f"extends: base\npath: '{text}'")
    assert load(Config, "p", "odd").path == text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", ["optim.lrr", "did you mean 'optim.lr'"]),
        ("width=3", ["unknown key 'width'", "model.width"]),
        ("optim.lr=abc", ["optim.lr: must be a number, not 'abc'"]),
        ("trainer.max_steps=1.5", ["trainer.max_steps: must be a whole number, not '1.5'"]),
        ("trainer.deterministic=maybe", ["must be true or false, not 'maybe'"]),
        ("optim=adam", ["optim: is a group of settings: write optim.name=..."]),
        ("model.kind=huge", ["model.kind", "huge"]),
        ("trainer.devices=two", ["trainer.devices"]),
        ("trainer.max_epochs=2", ["max_steps and trainer.max_epochs"]),
        ("optim.lr=-1", ["optim.lr must be > 0"]),
        ("model", ["'model' is not of the form"]),
        ("model.names=a", ["model.names: is a list: write [a, b]"]),
    ],
)
def test_wrong_override_is_refused_with_a_hint(write, override, words):
    with pytest.raises(UserError) as error:
        load(Config, "p", "base", [override])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_load_leaves_no_trace_in_the_next(write):
    """The schema's defaults are made once; neither overrides nor changed lists stay in them."""
    write("plain", "path: x\ntrainer: {max_steps: 5}")
    first = load(Config, "p", "plain", ["model.width=3", "optim.lr=0.5"])
    first.model.names.append("mine")
    assert load(Config, "p", "plain").model == Model()
    assert load(Config, "p", "plain").optim.lr == 1e-3


def test_all_missing_values_are_named(write):
    write("none", "trainer: {max_steps: 5}")
    with pytest.raises(UserError, match="no value for path"):
        load(Config, "p", "none")
    with pytest.raises(UserError, match="no value for .*path"):
        load(Config, "p", "none", ["model.names=[a, '${path}']"])


def test_unknown_config_names_the_nearest(write):
    with pytest.raises(UserError, match="did you mean 'base'"):
        load(Config, "p", "bse")


@pytest.mark.parametrize("word", ["run_id=${x}", "path=${no.such}"])
def test_a_name_of_no_setting_in_a_value_is_refused(write, word):
    write("base", "path: y")
    with pytest.raises(UserError, match=r"Interpolation key '(x|no.such)' not found"):
        load(Config, "p", "base", [word])


def test_cycle_and_missing_parent_are_errors(write):
    write("a", "extends: b")
    write("b", "extends: a")
    with pytest.raises(UserError, match="cycle"):
        load(Config, "p", "a")
    write("orphan", "extends: nowhere")
    with pytest.raises(UserError, match="nowhere.yaml, which does not exist"):
        load(Config, "p", "orphan")


@pytest.mark.parametrize("text", ["", "# nothing but words\n", "{}", "---\n"])
def test_a_file_that_sets_nothing_is_refused(write, text):
    """Also where a config extends it: the defaults of a schema train for hours."""
    write("empty", text)
    write("child", "extends: empty\npath: x\ntrainer: {max_steps: 5}")
    for name in ("empty", "child"):
        with pytest.raises(UserError, match=r"empty.yaml sets nothing: begin it with 'extends: '"):
            load(Config, "p", name, ["path=x", "trainer.max_steps=1"])


def test_unknown_key_in_a_file_names_the_file(write):
    write("typo", "extends: base\nmodel: {widht: 3}")
    with pytest.raises(UserError, match=r"typo.yaml: unknown key 'model.widht'.*model.width"):
        load(Config, "p", "typo")


def test_resolved_config_round_trips(write):
    cfg = load(Config, "p", "base", ["model.width=3"])
    write("again", to_yaml(cfg))
    assert to_dict(load(Config, "p", "again")) == to_dict(cfg)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "toy", "smoke", "optim.lrr=1"],
        ["show", "nothing"],
        ["train", "laclip", "smoke", "optim.lr=-1"],
    ],
)
def test_typos_end_with_code_2_before_torch_is_imported(words):
    program = (
        "import sys; from common import cli; code = cli.main(sys.argv[1:]); assert 'torch' not in"
        " sys.modules; sys.exit(code)"
    )
    if words[1] == "toy":
        program = (
            "import sys; sys.argv[1:1] = []; import runpy; runpy.run_module('tests.toy',"
            " run_name='__main__')"
        )
    begun = time.process_time()
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert time.process_time() - begun < 5
    assert not Path("runs/toy").exists()


def test_an_empty_mapping_on_the_command_line_is_no_silent_nothing(capsys):
    assert cli.main(["show", "vacancysbert", "paper", "eval.references={}"]) == 2
    said = capsys.readouterr().err
    assert "'eval.references={}' would change nothing" in said
    assert "sentence_bert" in said
    assert (
        cli.main(["show", "vacancysbert", "paper_esco", "eval.references={}"]) == 0
    )  # there is none


@pytest.mark.parametrize(("load", "policy"), [(0.0, None), (64.0, "passive")])
def test_threads_yield_on_a_busy_machine_only(monkeypatch, load, policy):
    monkeypatch.setattr(cli, "_running_beside", lambda: load)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert cli.main(["list"]) == 0
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert cli.main(["list"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_what_runs_now_counts_not_what_ran_before(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    kernel = tmp_path / "loadavg"
    kernel.write_text("9.00 9.00 9.00 1/234 56\n")
    assert cli._running_beside(kernel) == 0
    kernel.write_text("0.00 0.00 0.00 3/234 56\n")
    assert cli._running_beside(kernel) == 2
    assert cli._running_beside(tmp_path / "not Linux") == 9


def test_the_tests_helper_gives_what_load_gives():
    """`tests/configs.py`: equal configs, apart from each other; the same refusals."""
    from projects.simcse.config import Config as Own

    words = ("optim.lr=3e-4", "eval.sets=[stsb-dev]")
    first = merged_once.load(Own, "simcse", "mini", words)
    assert first == load(Own, "simcse", "mini", words)
    first.eval.sets.append("changed")
    assert merged_once.load(Own, "simcse", "mini", words).eval.sets == ["stsb-dev"]
    assert merged_once.load(Own, "simcse", "smoke") == load(Own, "simcse", "smoke")
    with pytest.raises(UserError) as expected:
        load(Own, "simcse", "mini", ["optim.lrr=1"])
    with pytest.raises(UserError) as actual:
        merged_once.load(Own, "simcse", "mini", ["optim.lrr=1"])
    assert str(actual.value) == str(expected.value)
    assert config_module._chain(config_module.config_path("simcse", "mini"))  # whole again
