"""The Makefile: what is typed reaches the program as it is, and a signal to make reaches it too."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.config import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
ECHO = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a blank and an umlaut, the Makefile, and a Python that prints its words."""
    folder = tmp_path / "my ünit repo"
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    python = folder / ".venv/bin/python"
    python.write_text(ECHO)
    python.chmod(0o755)
    (folder / "requirements.lock").write_text("")
    (folder / ".venv/.stamp-requirements.lock").write_text("")
    return folder


def make(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words], cwd=folder, capture_output=True, text=True, env={**inherited, **env}
    )


def words_of(folder: Path, *words: str, **env: str) -> list[str]:
    done = make(folder, *words, **env)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    return printed[2:] if printed[:2] == ["-m", "common.cli"] else printed


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
    assert words_of(
        checkout, "train", f"PROJECT={text}", f"CONFIG={text}", f"a.b={text}", f"seed={text}"
    ) == ["train", text, text, f"a.b={text}", f"seed={text}"]
    own = ["PROJECT=p", "CONFIG=c"]
    for name, verb in (("CKPT", "eval"), ("RUN", "export"), ("BASELINE", "eval"), ("TASK", "run")):
        found = words_of(checkout, verb, *own, f"{name}={text}")
        assert found == [verb, "p", "c", f"--{name.lower()}={text}"]
    for name in ("SEEDS", "JOBS", "ARMS"):
        found = words_of(checkout, "compare", "PROJECT=p", f"{name}={text}")
        assert found == ["compare", "p", f"--{name.lower()}={text}"]
    for target, name in (
        ("mutants", "ARGS"),
        ("bench", "ARGS"),
        ("smoke", "PROJECT"),
    ):
        found = words_of(checkout, target, f"{name}={text}")
        assert found[-len(text.split()) :] == text.split()
    assert words_of(checkout, "new-project", f"SLUG={text}")[-1] == text
    assert words_of(checkout, "bench", f"KERNEL={text}") == [f"benchmarks/bench_{text}.py"]
    assert words_of(checkout, "train", PROJECT=text, CONFIG=text) == ["train", text, text]
    left = {path.name for path in checkout.iterdir()}
    assert left == {"Makefile", ".venv", "requirements.lock"}


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("train", "SEEDS=3"),
        ("prune", "CONFIG=smoke"),
        ("compare", "CONFIG=paper"),
        ("runs", "RUN=x"),
        ("test", "TIMS=x"),  # misspelt, where no setting is read
        ("bench", "KERNL=tiles"),
    ],
)
def test_what_a_target_does_not_read_is_refused(checkout, target, word):
    done = make(checkout, target, *(["PROJECT=p"] if target not in ("test", "bench") else []), word)
    assert done.returncode == 2
    assert f"make {target} takes no {word.split('=')[0]}" in done.stderr


def test_a_word_that_is_no_target_ends_it_before_anything_is_begun(checkout):
    """`seed 3` in place of `seed=3` trained with the default seed and complained afterwards."""
    for words in (["train", "PROJECT=p", "seed", "3"], ["tran", "PROJECT=p"]):
        done = make(checkout, *words)
        assert done.returncode == 2
        assert "there is no target" in done.stderr
        assert not done.stdout


def test_an_arm_names_its_config_itself(checkout):
    assert words_of(checkout, "train", "PROJECT=p", "ARM=a b") == ["train", "p", "--arm=a b"]
    assert words_of(checkout, "train", "PROJECT=p", "ARM=a", "CONFIG=smoke") == [
        "train",
        "p",
        "smoke",
        "--arm=a",
    ]  # refused there


def test_a_switch_is_on_by_a_yes(checkout):
    for target, name, option in (
        ("compare", "PLAN", "--plan"),
        ("sweep", "WANDB", "--wandb"),
        ("dashboard", "DRY", "--dry-run"),
        ("prune", "YES", "--yes"),
    ):
        assert option in words_of(checkout, target, "PROJECT=p", f"{name}=1")
        assert option not in words_of(checkout, target, "PROJECT=p", f"{name}=0")


def test_a_line_break_is_refused(checkout):
    done = make(checkout, "train", "PROJECT=p", "CONFIG=a\ntouch x")
    assert done.returncode == 2
    assert "the value of CONFIG has a line break" in done.stderr
    assert not (checkout / "x").exists()


def test_paths_with_blanks_and_umlauts_stay_whole(checkout):
    found = words_of(checkout, "eval", "PROJECT=p", "CKPT=/my repo/ä/x.ckpt", "runs_dir=/my runs")
    assert found == ["eval", "p", "mini", "runs_dir=/my runs", "--ckpt=/my repo/ä/x.ckpt"]


def test_defaults(checkout):
    assert words_of(checkout, "train", "PROJECT=p") == ["train", "p", "mini"]
    assert words_of(checkout, "check", "PROJECT=p") == ["check", "p", "paper"]
    assert words_of(checkout, "check", "PROJECT=p", "CONFIG=mini") == ["check", "p", "mini"]
    assert words_of(checkout, "check", "PROJECT=p", CONFIG="smoke") == ["check", "p", "smoke"]
    assert words_of(checkout, "compare", "PROJECT=p", "PLAN=1") == ["compare", "p", "--plan"]
    assert words_of(checkout, "report") == ["report"]
    assert words_of(checkout, "report", "runs_dir=a b") == ["report", "runs_dir=a b"]
    assert words_of(checkout, "compare-all", "PROJECT=p", "a.b=1") == ["compare-all", "p", "a.b=1"]
    assert words_of(checkout, "prune", "WHERE=a=b", "YES=1") == ["prune", "--where=a=b", "--yes"]
    assert words_of(checkout, "prune", "YES=0") == ["prune"]
    assert words_of(checkout, "bench") == ["benchmarks/bench_losses.py"]
    # a program of another place is no way to run something else
    assert words_of(checkout, "train", "PROJECT=p", "PY=touch") == [
        "train",
        "p",
        "mini",
        "PY=touch",
    ]


def test_a_signal_to_make_reaches_the_program(checkout):
    program = checkout / ".venv/bin/python"
    program.write_text(
        f"#!{sys.executable}\nimport os, signal, sys, time\ndef end(*_):\n    open('ended',"
        " 'w').close()\n    sys.exit(143)\nsignal.signal(signal.SIGTERM, end)\nopen('pid.new',"
        " 'w').write(str(os.getpid()))\nos.rename('pid.new', 'pid')\ntime.sleep(60)\n"
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
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    targets = [line.split(":")[0] for line in lines if "## " in line and not line.startswith("\t")]
    targets = [name for name in targets if name.replace("-", "").isalpha()]
    assert {"runs", "docs", "train"} <= set(targets)
    for name in targets:
        (checkout / name).mkdir()
    for name in targets:
        done = make(checkout, "-n", name)
        assert "up to date" not in done.stdout, name


def test_compiled_modules_are_kept_where_the_environment_forbids_it(checkout: Path) -> None:
    (checkout / ".venv/bin/python").write_text(
        '#!/bin/sh\nprintf "%s\\n" "${PYTHONDONTWRITEBYTECODE-unset}"\n'
    )
    assert words_of(checkout, "list", PYTHONDONTWRITEBYTECODE="1") == ["unset"]
