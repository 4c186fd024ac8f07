"""Our losses in the loops and test suites of the libraries that they can replace.

``make test-peers [ARGS="--sources FOLDER"]`` installs requirements-peers.lock and the wheel of
packaging/contrastive-losses into .peers-venv, compares every adapter with its library, and trains
in the library's own loop. It then installs the wheel into an empty environment, prints its size and
the time of its import, adds open_clip and sentence-transformers and runs their loops. The
libraries' packages come without the tests of their losses: with ``--sources``, a folder of their
checkouts (lightly, open_clip, pytorch-metric-learning, sentence-transformers), these run as they
are and with our losses in place, and with a small random model for every one that they would
download. A test that only ours fail ends with exit code 1 unless its suite gives the reason.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".peers-venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements-peers.lock"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TEST_DEVICE": "cpu",  # of pytorch-metric-learning's tests
    "TEST_DTYPES": "float32,float64",  # its references fail in float16 on a CPU
}
PACKAGE = ROOT / "packaging" / "contrastive-losses"
WALK = ("open_clip_torch>=3.2,<4", "sentence-transformers[train]>=6.2", "pytest")


class Suite(NamedTuple):
    """Tests of a library that reach a loss that ours replace."""

    library: str
    tests: tuple[str, ...]
    expected: dict[str, str]  # pattern of a test's name -> why ours differ


INTERNALS = "reads or replaces parts of the library's class that are not its interface"
BUDGETS = "token budgets are refused"
ROUNDING = "asks for 1e-6 of a small difference of numbers near 10, which float32 rounds by 1e-6"
SUITES = {
    "lightly": Suite(
        "lightly",
        tuple(
            f"tests/loss/test_{name}.py"
            for name in ("dcl_loss", "directclr_loss", "ntx_ent_loss", "co2")
        ),
        {"dclloss_forward|with_correlated_embedding": ROUNDING},
    ),
    "open_clip": Suite(
        "open_clip",
        # test_training_simple::test_training passes too, but trains RN50 for minutes and writes its
        # checkpoints into the checkout; its other two tests have other losses or download a model
        tuple(
            f"tests/test_{name}.py"
            for name in ("loss", "siglip_chunked_loss", "factory_task", "task_specific_unit")
        ),
        {"siglip_chunked_loss": INTERNALS},  # ._loss
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
    "pytorch-metric-learning": Suite(
        "pytorch_metric_learning",
        (
            "tests/losses/test_ntxent_loss.py",
            "tests/losses/test_self_supervised_loss.py",
            "tests/losses/test_losses_without_labels.py",
            *(  # its others take minutes and do not reach these losses
                f"tests/losses/test_cross_batch_memory.py::TestCrossBatchMemory::test_{name}"
                for name in ("sanity_check", "with_distance_weighted_miner", "all_losses")
            ),
        ),
        {},
    ),
}


IMPORTS = """
import sys, time
start = time.process_time()
import torch
between = time.process_time()
import contrastive_losses.losses.info_nce, contrastive_losses.losses.image_text
import contrastive_losses.open_clip, contrastive_losses.sentence_transformers
print(between - start, time.process_time() - between)
print(*sorted({name.split(".")[0] for name in sys.modules} & {"common", "open_clip", "triton"}))
"""


def uv_pip(*words: str | Path) -> None:
    """A command of `uv pip`, which must succeed."""
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "pip", words[0], "--quiet", *words[1:]], check=True)


def walk() -> bool:
    """The wheel alone in an empty environment, then in the loops of two libraries there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", name, str(PACKAGE)]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
        wheel = next(folder.glob("*.whl"))
        python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        uv_pip("install", "--python", python, wheel)
        runs = [
            subprocess.run(
                [python, "-c", IMPORTS], cwd=folder, check=True, capture_output=True, text=True
            )
            for _ in range(3)  # the first compiles
        ]
        foreign = " ".join(runs[-1].stdout.splitlines()[1:]).strip()
        times = [[float(x) for x in run.stdout.splitlines()[0].split()] for run in runs[1:]]
        seconds = [min(column) for column in zip(*times, strict=True)]
        print(
            f"{wheel.name}: {wheel.stat().st_size / 1000:.0f} kB; CPU time of import torch "
            f"{seconds[0]:.2f} s, then ours {seconds[1]:.2f} s"
        )
        if foreign:
            print(f"the import also loads {foreign}")
        uv_pip("install", "--python", python, *WALK)
        shutil.copy(ROOT / "tests/peers/test_loops.py", folder)
        tests = [str(python), "-m", "pytest", "-q", "-k", "open_clip or sentence or matryoshka"]
        return not (foreign or subprocess.run([*tests, "test_loops.py"], cwd=folder).returncode)


def install() -> None:
    """The locked libraries, and our wheel as it stands."""
    stamp = VENV / f".stamp-{LOCK.name}"
    if not stamp.exists() or stamp.stat().st_mtime < LOCK.stat().st_mtime:
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        uv_pip("sync", "--require-hashes", "--python", PYTHON, LOCK)
        stamp.touch()
    uv_pip("install", "--python", PYTHON, "--no-deps", "--reinstall", PACKAGE)


def run_own_tests() -> bool:
    """Adapters against the libraries, alone, in two processes and in training loops."""
    tests = ["tests/unit/losses/adapters", "tests/distributed/test_adapters.py", "tests/peers"]
    tests.append("tests/published/test_readme.py")
    words = ["-m", "pytest", "-o", "timeout=1800", *tests]  # first imports compile the libraries
    return not subprocess.run([PYTHON, *words], cwd=ROOT).returncode


def failures(checkout: Path, suite: Suite, *options: str) -> tuple[set[str], str]:
    """Names of the tests that fail, and pytest's last line."""
    words = [str(PYTHON), "-m", "pytest", "-p", "in_place", "--library", suite.library, *options]
    words += ["-q", "-rfE", "-o", "addopts=", "-p", "no:cacheprovider", *suite.tests]
    paths = [ROOT / "tests/peers", checkout / "src"]  # the library as its tests know it
    done = subprocess.run(
        words,
        cwd=checkout,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    names = re.findall(r"^(?:FAILED|ERROR) (\S+(?: [^-]\S*)*)", done.stdout, re.M)
    return set(names), done.stdout.strip().splitlines()[-1]


def compare(name: str, suite: Suite, checkout: Path) -> bool:
    """Run a suite as it is and in place; whether every difference is expected."""
    theirs, line = failures(checkout, suite, "--as-is")
    print(f"{name}, as it is: {line}")
    ours, line = failures(checkout, suite)
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
    parser.add_argument("--only", choices=("walk", "peers"), help="one of the two environments")
    args = parser.parse_args()
    if args.only != "walk":
        install()
    right = args.only == "walk" or run_own_tests()
    right &= args.only == "peers" or walk()
    for name, suite in SUITES.items() if args.sources else ():
        checkout = args.sources.resolve() / name
        absent = [t for t in suite.tests if not (checkout / t.partition("::")[0]).exists()]
        if not checkout.exists():
            print(f"{name}: no checkout in {args.sources}")
        elif absent:
            print(f"{name}: the checkout has no {absent[0]}; check out its newest state")
            right = False
        else:
            right &= compare(name, suite, checkout)
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
