"""Our losses in the loops and test suites of the libraries that they can replace.

``make test-peers [ARGS="--sources FOLDER"]`` installs requirements-peers.lock and the wheel of
packaging/contrastive-losses into .peers-venv, compares every adapter with its library, and trains
in the library's own loop. The libraries' packages come without the tests of their losses: with
``--sources``, a folder of their checkouts (lightly, open_clip, pytorch-metric-learning,
sentence-transformers), these run as they are and with our losses in place, and a test that only
ours fail ends with exit code 1 unless EXPECTED gives its reason.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".peers-venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements-peers.lock"
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT / "tests/peers"),
    "HF_HUB_OFFLINE": "1",
    "TEST_DEVICE": "cpu",  # of pytorch-metric-learning's tests
}
PACKAGE = ROOT / "packaging" / "contrastive-losses"


class Suite(NamedTuple):
    """Tests of a library that reach a loss that ours replace."""

    library: str
    tests: tuple[str, ...]
    expected: dict[str, str]  # pattern of a test's name -> why ours differ


INTERNALS = "reads or replaces parts of the library's class that are not its interface"
BUDGETS = "token budgets are refused"
SUITES = {
    "lightly": Suite("lightly", ("tests/loss",), {}),
    "open_clip": Suite("open_clip", ("tests/test_training_simple.py",), {}),
    "pytorch-metric-learning": Suite(
        "pytorch_metric_learning",
        (
            "tests/losses/test_ntxent_loss.py",
            "tests/losses/test_self_supervised_loss.py",
            "tests/losses/test_losses_without_labels.py",
            "tests/losses/test_cross_batch_memory.py",
            "tests/trainers/test_metric_loss_only.py",
        ),
        {},
    ),
    "sentence-transformers": Suite(
        "sentence_transformers",
        tuple(
            f"tests/sentence_transformer/losses/test_{name}.py"
            for name in ("cmnrl", "gradcache", "matryoshka", "merged_forward")
        ),
        {
            "token_budget|non_positive_budget|prompt_exclusion.minibatching1": BUDGETS,
            "hyperparameters_stay_assignable": INTERNALS,  # .loss
            "gather_across_devices_offset": INTERNALS,  # the module's all_gather_with_grad
            "replays_(dropout|through_prompt)": INTERNALS,  # embed_minibatch
            "releases_the_hook_state": "ours has no hook and releases the features earlier",
            "gradcache_under_autocast": "asserts a bfloat16 loss; ours stays float32",
            "keep_the_anchor_on_its_own_forward": "ours encodes columns one by one",
        },
    ),
}


def install() -> None:
    """The locked libraries, and our wheel as it stands."""
    uv = str(Path(sys.executable).with_name("uv"))
    stamp = VENV / f".stamp-{LOCK.name}"
    if not stamp.exists() or stamp.stat().st_mtime < LOCK.stat().st_mtime:
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        sync = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", PYTHON, LOCK]
        subprocess.run(sync, check=True)
        stamp.touch()
    wheel = [uv, "pip", "install", "--quiet", "--python", PYTHON, "--no-deps", "--reinstall"]
    subprocess.run([*wheel, PACKAGE], check=True)


def run_own_tests() -> bool:
    """Adapters against the libraries, alone, in two processes and in training loops."""
    tests = ["tests/unit/losses/adapters", "tests/distributed/test_adapters.py", "tests/peers"]
    return not subprocess.run([PYTHON, "-m", "pytest", *tests], cwd=ROOT).returncode


def failures(checkout: Path, suite: Suite, *options: str) -> tuple[set[str], str]:
    """Names of the tests that fail, and pytest's last line."""
    words = [str(PYTHON), "-m", "pytest", "-p", "in_place", "--library", suite.library, *options]
    words += ["-q", "-rfE", "-o", "addopts=", "-p", "no:cacheprovider", *suite.tests]
    done = subprocess.run(
        words,
        cwd=checkout,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    names = re.findall(r"^(?:FAILED|ERROR) (\S+(?: [^-]\S*)*)", done.stdout, re.M)
    return set(names), done.stdout.strip().splitlines()[-1]


def compare(name: str, suite: Suite, checkout: Path, model: Path | None) -> bool:
    """Run a suite as it is and in place; whether every difference is expected."""
    local = ["--local-model", str(model)] if model and name == "sentence-transformers" else []
    theirs, line = failures(checkout, suite, "--as-is", *local)
    print(f"{name}, as it is: {line}")
    ours, line = failures(checkout, suite, *local)
    print(f"{name}, our losses in place: {line}")
    right = True
    for test in sorted(ours - theirs):
        reason = next((r for p, r in suite.expected.items() if re.search(p, test)), None)
        right &= reason is not None
        print(f"  {test}: {reason or 'NOT EXPECTED'}")
    return right


def main() -> int:
    """Install, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, help="folder of the libraries' checkouts")
    parser.add_argument("--local-model", type=Path, help="in place of those that tests download")
    args = parser.parse_args()
    install()
    right = run_own_tests()
    for name, suite in SUITES.items() if args.sources else ():
        checkout = args.sources.resolve() / name
        if checkout.exists():
            right &= compare(name, suite, checkout, args.local_model)
        else:
            print(f"{name}: no checkout in {args.sources}")
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
