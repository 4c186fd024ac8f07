"""The Makefile: what is typed reaches the program as it is, and a signal to make reaches it too."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.cli import VERBS
from common.config import ROOT, UserError
from common.make import assignments, command

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
ECHO = "#!/bin/sh\nprintf '%s\\0' \"$@\" ==\nenv -0\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a blank and an umlaut, the Makefile, and a Python that prints its words.

    Behind them it prints its environment, from which the program reads what was typed.
    """
    folder = tmp_path / "my ünit repo"
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    set_python(folder, ECHO)
    (folder / "requirements.lock").write_text("")
    (folder / ".venv/.stamp-requirements.lock").write_text("")
    return folder


def set_python(folder: Path, text: str) -> None:
    python = folder / ".venv/bin/python"
    python.write_text(text)
    python.chmod(0o755)


def make(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words], cwd=folder, capture_output=True, text=True, env={**inherited, **env}
    )


def words_of(folder: Path, *words: str, **env: str) -> list[str]:
    """Words behind `contrastive`, or behind `python` for another target."""
    done = make(folder, *words, **env)
    assert done.returncode == 0, done.stderr
    argv, _, variables = done.stdout.partition("\0==\0")
    typed = argv.split("\0")
    if typed[:3] != ["-m", "common.cli", "--make"]:
        return typed
    pairs = (line.partition("=") for line in variables.split("\0"))
    return command(typed[3], {name: value for name, _, value in pairs}, VERBS)


EVIL = [
    "smoke; touch x",
    "$(touch x)",
    "$(shell touch x)",
    "$$(touch x)",
    "${shell touch x}",
    "`touch x`",
    "a' ; touch x ; '",
    '"; touch x #',
    "a && touch x",
    "$HOME ü \\ * ?",
    "a,b)",
]


@pytest.mark.parametrize("text", EVIL)
def test_nothing_that_is_typed_is_evaluated(checkout, text):
    # a variable of one word is exported to recipes, where make would expand it
    settings = [f"a.b={text}", f"seed={text}", f"v={text}", f"name={text}"]
    assert words_of(checkout, "train", f"PROJECT={text}", f"CONFIG={text}", *settings) == [
        "train",
        text,
        text,
        *settings,
    ]
    names = ["PROJECT=p", "CONFIG=c"]
    for name, verb in (("CKPT", "eval"), ("RUN", "export"), ("BASELINE", "eval"), ("TASK", "run")):
        words = words_of(checkout, verb, *names, f"{name}={text}")
        assert words == [verb, "p", "c", f"--{name.lower()}={text}"]
    words = words_of(checkout, "compare", "PROJECT=p", *(f"{n}={text}" for n in ("SEEDS", "ARMS")))
    assert words == ["compare", "p", f"--seeds={text}", f"--arms={text}"]
    for target in ("mutants", "bench"):
        words = words_of(checkout, target, f"ARGS={text}")
        assert words[-len(text.split()) :] == text.split()
    assert words_of(checkout, "new-project", f"SLUG={text}")[:2] == ["new-project", text]
    assert words_of(checkout, "bench", f"KERNEL={text}") == [f"benchmarks/bench_{text}.py"]
    assert words_of(checkout, "train", PROJECT=text, CONFIG=text) == ["train", text, text]
    (checkout / ".venv/bin/python").unlink()
    assert make(checkout, "-B", "setup", f"PYTHON={text}", f"EVAL={text}").returncode == 2
    left = {path.name for path in checkout.iterdir()}
    assert left == {"Makefile", ".venv", "requirements.lock"}


def test_the_program_reads_what_was_typed(checkout):
    """The whole way with the real program; its message holds the words as they were typed."""
    set_python(checkout, f"#!/bin/sh\nPYTHONPATH='{ROOT}' exec '{sys.executable}' \"$@\"\n")
    done = make(checkout, "show", "PROJECT=dcl", "CONFIG=smoke", "optim.lr=0.25", "seed=7")
    assert done.returncode == 0, done.stderr
    assert "lr: 0.25" in done.stdout
    done = make(checkout, "show", "PROJECT=$(shell touch x) `touch x`'")
    assert done.returncode == 2
    assert "no project '$(shell touch x) `touch x`''" in done.stderr
    assert not (checkout / "x").exists()


@pytest.mark.parametrize(
    ("flags", "typed"),
    [
        ("", {}),
        ("ks", {}),
        (" -- A=b", {"A": "b"}),
        ("k -j2 --jobserver-auth=3,4 -- A=b", {"A": "b"}),
        (r" -Imy\ --\ dir=x -- a.b=c\ d", {"a.b": "c d"}),
        (r"A=b\\\ $$(c)", {"A": r"b\ $(c)"}),  # make 3.81 separates nothing without flags
        (" -- B=2 A=1", {"A": "1", "B": "2"}),
    ],
)
def test_makeflags_of_several_versions(flags, typed):
    assert assignments(flags) == typed
    assert list(assignments(flags)) == list(typed)  # make keeps the last word first


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("train", "SEEDS=3"),
        ("prune", "CONFIG=smoke"),
        ("compare", "CONFIG=paper"),
        ("runs", "RUN=x"),
        ("bench", "KERNL=tiles"),
        ("train", "PY=touch"),
    ],
)
def test_what_a_target_does_not_read_is_refused(checkout, target, word):
    name = word.split("=")[0]
    with pytest.raises(UserError, match=f"make {target} takes no {name}"):
        words_of(checkout, target, word)


@pytest.mark.parametrize("word", ["task=search", "config=smoke", "Project=p"])
def test_a_variable_in_small_letters_is_named(checkout, word):
    with pytest.raises(UserError, match=rf"'{word}': type {word.split('=')[0].upper()}="):
        words_of(checkout, "run", word)


def test_a_setting_that_is_called_like_a_variable_is_a_setting(checkout):
    assert "resume=latest" in words_of(checkout, "train", "PROJECT=p", "resume=latest")


@pytest.mark.parametrize("word", ["TIMS=x", "ARGS=x", "a.b=c"])
def test_a_target_without_variables_refuses_them_before_it_begins(checkout, word):
    done = make(checkout, "test", word)
    assert done.returncode == 2
    assert f"make test takes no {word.split('=')[0]}" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("word", ["PROJECT:=p", "PROJECT+=p"])
def test_an_assignment_that_make_itself_would_evaluate_is_refused(checkout, word):
    if word == "PROJECT+=p":  # one value: nothing was there to append to
        assert words_of(checkout, "train", word) == ["train", "p"]
        return
    with pytest.raises(UserError, match="with a plain '='"):
        words_of(checkout, "train", word)


def test_a_word_that_is_no_target_ends_it_before_anything_is_begun(checkout):
    """`seed 3` in place of `seed=3` trained with the default seed and complained afterwards."""
    for words in (["train", "PROJECT=p", "seed", "3"], ["tran", "PROJECT=p"]):
        done = make(checkout, *words)
        assert done.returncode == 2
        assert "there is no target" in done.stderr
        assert not done.stdout


def test_a_switch_is_on_by_a_yes(checkout):
    for target, name, option in (
        ("compare", "PLAN", "--plan"),
        ("dashboard", "DRY_RUN", "--dry-run"),
        ("prune", "YES", "--yes"),
    ):
        assert option in words_of(checkout, target, "PROJECT=p", f"{name}=1")
        assert option not in words_of(checkout, target, "PROJECT=p", f"{name}=0")
        with pytest.raises(UserError, match=f"{name}=maybe: type 1 or 0"):
            words_of(checkout, target, "PROJECT=p", f"{name}=maybe")


def test_a_line_break_is_refused(checkout):
    with pytest.raises(UserError, match="the value of CONFIG has a line break"):
        words_of(checkout, "train", "PROJECT=p", "CONFIG=a\ntouch x")
    with pytest.raises(UserError, match="the value of CONFIG has a line break"):
        words_of(checkout, "train", "PROJECT=p", CONFIG="a\ntouch x")
    assert not (checkout / "x").exists()


def test_paths_with_blanks_and_umlauts_stay_whole(checkout):
    words = words_of(checkout, "eval", "PROJECT=p", "CKPT=/my repo/ä/x.ckpt", "runs_dir=/my runs")
    assert words == ["eval", "p", "runs_dir=/my runs", "--ckpt=/my repo/ä/x.ckpt"]


def test_words_of_targets(checkout):
    assert words_of(checkout, "train", "PROJECT=p") == ["train", "p"]
    assert words_of(checkout, "train", "PROJECT=p", "ARM=a b") == ["train", "p", "--arm=a b"]
    assert words_of(checkout, "check", "PROJECT=p", CONFIG="smoke") == ["check", "p", "smoke"]
    assert words_of(checkout, "check", "PROJECT=p", "CONFIG=x", CONFIG="y") == ["check", "p", "x"]
    assert words_of(checkout, "train", "CONFIG=smoke") == ["train", "", "smoke"]
    assert words_of(checkout, "smoke", "PROJECT=a  b") == ["smoke", "a", "b"]
    assert words_of(checkout, "compare-all", JOBS="2") == ["compare-all", "--jobs=2"]
    assert words_of(checkout, "report") == ["report"]
    assert words_of(checkout, "report", "PROJECT=") == ["report"]
    assert words_of(checkout, "report", "runs_dir=a b") == ["report", "runs_dir=a b"]
    assert words_of(checkout, "diff", "A=x", "B=y") == ["diff", "x", "y"]
    assert words_of(checkout, "prune", "WHERE=a=b", "YES=1") == ["prune", "--where=a=b", "--yes"]
    assert words_of(checkout, "bench") == ["benchmarks/bench_losses.py"]
    assert words_of(checkout, "-k", "-j2", "train", "PROJECT=p", "a.b=1", "a.b=2", "c=3") == [
        "train",
        "p",
        "a.b=2",
        "c=3",
    ]


def test_variables_of_the_makefile_cannot_be_replaced(checkout):
    for name in ("PY", "VENV", "STAMP", "VERBS", "LOCK"):
        make(checkout, "train", "PROJECT=p", f"{name}=touch", SHELL="/bin/false")
        assert not (checkout / "-m").exists()
        with pytest.raises(UserError, match=f"takes no {name}"):
            words_of(checkout, "train", "PROJECT=p", f"{name}=touch")


def test_a_signal_to_make_reaches_the_program(checkout):
    set_python(
        checkout,
        f"#!{sys.executable}\nimport os, signal, sys, time\ndef end(*_):\n    open('ended',"
        " 'w').close()\n    sys.exit(143)\nsignal.signal(signal.SIGTERM, end)\nopen('pid.new',"
        " 'w').write(str(os.getpid()))\nos.rename('pid.new', 'pid')\ntime.sleep(60)\n",
    )
    process = subprocess.Popen(
        ["make", "train", "PROJECT=p"],
        cwd=checkout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (checkout / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert (checkout / "ended").exists()  # make waits for it
    with pytest.raises(ProcessLookupError):
        os.kill(int((checkout / "pid").read_text()), 0)


def test_no_folder_of_the_same_name_hides_a_target(checkout):
    """`runs/` and `docs/` are folders of the checkout and targets too."""
    targets = [*VERBS, "bench", "test", "docs", "lint", "clean"]
    for name in targets:
        (checkout / name).mkdir()
    for name in targets:
        done = make(checkout, "-n", name)
        assert "up to date" not in done.stdout, name


def test_the_verbs_of_the_makefile_are_those_of_the_program():
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (verbs,) = re.findall(r"^override VERBS +:= (.*)$", text, flags=re.MULTILINE)
    assert set(verbs.split()) == set(VERBS)


def test_compiled_modules_are_kept_where_the_environment_forbids_it(checkout: Path) -> None:
    set_python(checkout, '#!/bin/sh\nprintf "%s" "${PYTHONDONTWRITEBYTECODE-unset}"\n')
    assert words_of(checkout, "list", PYTHONDONTWRITEBYTECODE="1") == ["unset"]
