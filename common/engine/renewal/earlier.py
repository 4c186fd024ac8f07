"""`make compare VERIFY=code`: the code that published a result beside today's, both on this machine.

Another processor rounds otherwise, so numbers that were made elsewhere cannot be met to the last
digit here. Two runs here can: one by a copy of the commit that published the result, one by today's
code, for a seed of every arm and every baseline that reaches other code than then. Where training
curves, metrics and items are equal, the code since then changes nothing that the result depends on,
and its numbers count as today's. What today's runs came out as is kept with the result, as a hash
of each: the next renewal with the same settings runs the earlier code only for those that do not
meet it, as on another kind of processor.

``VERIFY=arms`` leaves the baselines out, for one whose mended code gives other numbers: the result
is then stale for that baseline alone, and ``VERIFY=baselines`` puts today's numbers in its place.

Settings such as ``trainer.max_steps=40`` shorten both. The result then says so: what a run does
after its 40th step is not shown.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from common.config import ROOT, UserError, to_yaml
from common.engine.comparison.dependencies import executed
from common.engine.comparison.judge import git
from common.engine.comparison.results import comparisons, publish
from common.engine.comparison.runs import PlannedRun, process_environment
from common.engine.comparison.schedule import run_all
from common.engine.lifecycle.find import EARLIER
from common.engine.renewal.outcome import between, fingerprint
from common.engine.renewal.published import (
    Difference,
    Planned,
    config_hash,
    planned_again,
    published_result,
    stamp,
)
from common.engine.renewal.unchanged import same_baseline

# run by a copy of the earlier code: the hash of it, and its configs of runs from each base that it
# has
ASK = """
import json, sys
from common.config import load, to_yaml
from common.engine.comparison.dependencies import code_hash, file_hashes
from common.registry import config_class
project, runs = sys.argv[1], json.loads(sys.argv[2])
configs = []
for bases, words in runs:
    found = {}
    for base in bases:
        try:
            found[base] = to_yaml(load(config_class(project), project, base, words))
        except Exception as error:
            refused = error
    if not found:
        raise refused
    configs.append(found)
print(json.dumps({"code": code_hash(project), "files": file_hashes(project), "configs": configs}))
"""


class EarlierRun(PlannedRun):
    """A planned run as the code in another folder does it.

    Args:
        like: today's run.
        root: the folder.
        code: hash of its code.
        base: config that the arms started from then, which may have another name today.
    """

    def __init__(self, like: PlannedRun, root: Path, code: str, base: str) -> None:
        self.__dict__.update(like.__dict__)
        self.root, self.code, self.base = root, code, base
        self.run_id = f"{EARLIER}{self.stem}-{code}"
        self.path = like.folder.absolute().with_name(base) / self.run_id

    def command(self) -> list[str]:
        """Words of its process, which leaves its run beside today's."""
        words = [w for w in super().command() if not w.startswith("runs_dir=")]
        return [*words[:6], f"runs_dir={self.folder.absolute().parents[1]}", *words[6:]]

    def check_unchanged(self) -> None:
        """A copy of a commit stays as it is."""


def verify_code(
    project: str,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    jobs: int = 1,
    commit: str | None = None,
    arms_only: bool = False,
) -> list[Difference]:
    """Run some seeds by the code of a published result and by today's.

    Equal, the result is renewed.

    Args:
        project: slug.
        overrides: of both, such as fewer steps; they beat what compare.yaml sets.
        seeds: how many of compare.yaml's, or a list of them; None for the first.
        jobs: runs at the same time.
        commit: whose code to run; None for that which published the result.
        arms_only: leave the baselines out, which stay as stale as they are.

    Returns:
        What differs. With anything in it the published result stays as it is.

    Raises:
        UserError: nothing is published, the design has changed, the commit is not at hand or its
            code is not the result's, a setting that is overridden has another value today, or a run
            failed.
    """
    commit = commit_of(commit) if commit else published_by(project)
    result = published_result(project)
    planned = planned_again(project, result, seeds)
    root = planned[0][2][0].folder.absolute() / f".code-{commit[:10]}"
    with _alone(root):
        copy_tree(commit, root)
        code, bases, idle = check_earlier(project, result, planned, root, commit, overrides)
        if arms_only:
            idle |= {run.path for _, _, plan in planned for run in plan if run.is_baseline}
        short = [
            [shortened(run, overrides) for run in plan if run.path not in idle]
            for _, _, plan in planned
        ]
        now = list({run.path: run for plan in short for run in plan}.values())
        before = _outcomes(result)
        if known := [run for run in now if run.stem in before]:
            run_all(known, jobs, title=f"{project}: now")
        met = {run.path for run in known if fingerprint(run.path) == before[run.stem]}
        pairs = [
            (EarlierRun(run, root, code, bases[run.spec.name]), run)
            for run in now
            if run.path not in met
        ]
        if (
            pairs
        ):  # an arm of today follows the same arm of then, so that a difference is seen early
            run_all([run for pair in pairs for run in pair], jobs, title=f"{project}: then, now")
        shutil.rmtree(root)
    beside = ([old.path for old, _ in pairs], [run.path for run in now])
    found = [d for old, new in pairs for d in between(old.path, new.path, new.arm, beside)]
    if not found:
        published = {own.get("name", ""): own for own in (result, *result.get("more", []))}
        for (spec, arms, whole), plan in zip(planned, short, strict=True):
            unrun = [shortened(run, overrides) for run in whole if run.path in idle]
            own = published[spec.name]
            own["base"] = spec.base
            stale = own.get("verified", own).get("baseline_files", {})
            first = {arm: config_hash(next(r for r in whole if r.arm == arm), spec) for arm in arms}
            own["verified"] = {
                **stamp(project, spec, arms, plan),
                "config_hashes": first,  # of the whole runs
                "earlier": {"commit": commit, "code": code, "kept": len(met)},
                "overrides": list(overrides),
                "unchanged_baselines": [
                    b for b in spec.baselines if b not in {r.arm for r in plan}
                ],
                "outcomes": (
                    {run.stem: fingerprint(run.path) for run in plan}
                    | {run.stem: before[run.stem] for run in unrun if run.stem in before}
                ),
                **({"baseline_files": stale, "arms_only": True} if arms_only else {}),
            }
        publish(project, result)
    return found


def _outcomes(result: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of the runs of an earlier renewal, by the runs' ids without the code."""
    known: dict[str, str] = {}
    for own in comparisons(result):
        known |= own.get("verified", {}).get("outcomes", {})
    return known


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Let no other command use a copy of the code as long as this lasts.

    Raises:
        UserError: one does.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f"{root.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another command works with {root}; wait for it") from None
        except OSError:  # a file system without flock
            pass
        yield
        Path(file.name).unlink()


def published_by(project: str) -> str:
    """The commit that wrote the runs of a result file last; texts alone may have changed since.

    Raises:
        UserError: the history is not at hand, or the file is in none of its commits.
    """
    name, commit = f"results/{project}.json", ""
    runs: Any = None
    shallow = git("rev-parse", "--is-shallow-repository") != "false"
    for one in [] if shallow else git("log", "--format=%H", "--", name).split():
        there = _runs_of(git("show", f"{one}:{name}"))
        if commit and there != runs:
            break
        commit, runs = one, there
    if not commit:
        raise UserError(
            f"no commit at hand wrote results/{project}.json; VERIFY=code needs the repository's"
            " whole history"
        )
    return commit


def _runs_of(text: str) -> list[Any]:
    """What a result file says of the code of its runs, for each comparison."""
    try:
        found = json.loads(text)
    except ValueError:  # a commit that took the file away
        return []
    keys = ("code", "commit", "date", "verified")
    return [[own.get(key) for key in keys] for own in comparisons(found)]


def commit_of(name: str) -> str:
    """The whole name of a commit.

    Raises:
        UserError: the repository has none of that name.
    """
    found = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if not found:
        raise UserError(
            f"VERIFY={name}: not a commit that is at hand; 1, code, arms, baselines, or a commit"
        )
    return found


def copy_tree(commit: str, root: Path) -> None:
    """Write a commit's files into a folder, if it isn't there yet.

    Raises:
        UserError: git cannot read them.
    """
    if root.exists():
        return
    half = root.with_name(root.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    git = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
    with tarfile.open(fileobj=git.stdout, mode="r|") as archive:
        archive.extractall(half, filter="data")
    if git.wait():
        raise UserError(f"git archive {commit} failed")
    half.rename(root)


def check_earlier(
    project: str,
    result: Mapping[str, Any],
    planned: Planned,
    root: Path,
    commit: str,
    overrides: Iterable[str],
) -> tuple[str, dict[str, str], set[Path]]:
    """Look whether earlier code is that of the result, with its configs.

    Returns:
        Its hash, the config that each comparison's arms start from there (the one that the result
        names, or today's where that one has their configs), and folders of baselines that reach the
        same code, data and config today.

    Raises:
        UserError: it is not, or a setting that is overridden would have another value today.
    """
    runs = [run for _, _, plan in planned for run in plan]
    named = {own.get("name", ""): own["base"] for own in comparisons(result)}
    words = json.dumps([[[named[run.spec.name], run.spec.base], run.overrides] for run in runs])
    done = subprocess.run(
        [sys.executable, "-c", ASK, project, words],
        cwd=root,
        env=process_environment(1, root),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UserError(f"the code of {commit[:10]} does not start: {' '.join(last)}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    for own in comparisons(result):
        known = own.get("verified", own)
        if known["code"] != said["code"] and not _same_files(own, known, said["files"], runs):
            raise UserError(
                f"the code of {commit[:10]} ({said['code']}) is not that of the result"
                f" ({known['code']}); name the commit that it was published in: VERIFY=<commit>"
            )
    bases = _bases(result, list(zip(runs, said["configs"], strict=True)), named, commit)
    idle = set()
    for run, texts in zip(runs, said["configs"], strict=True):
        then, today = texts[bases[run.spec.name]], to_yaml(run.config())
        for key in (word.split("=", 1)[0] for word in overrides):
            before, now = (OmegaConf.select(OmegaConf.create(text), key) for text in (then, today))
            if before != now:
                raise UserError(f"{run.arm}: {key} was {before} and is {now}; leave it as it is")
        if run.is_baseline and then == today and same_baseline(project, run.arm, root):
            idle.add(run.path)
    return str(said["code"]), bases, idle


def _bases(
    result: Mapping[str, Any],
    found: Sequence[tuple[PlannedRun, Mapping[str, str]]],
    named: Mapping[str, str],
    commit: str,
) -> dict[str, str]:
    """The config per comparison from which the earlier code makes the configs that the result's arms had.

    Args:
        result: the published one.
        found: runs, each with its config there by the base it starts from.
        named: the base that the result names, per comparison.
        commit: of the earlier code.

    Raises:
        UserError: neither that one nor today's does.
    """
    hashes = _published_configs(result)
    first = {own.get("name", ""): own["seeds"][0] for own in comparisons(result)}

    def others(name: str, base: str) -> list[str]:
        """Arms that have another config than the result says."""
        return [
            run.arm
            for run, texts in found
            if run.spec.name == name and run.seed == first[name]
            if (known := hashes[name].get(run.arm)) is not None
            if base not in texts or hashlib.sha256(texts[base].encode()).hexdigest()[:8] != known
        ]

    bases = dict(named)
    for run, _ in found:
        name = run.spec.name
        if wrong := others(name, bases[name]):
            if others(name, run.spec.base):
                raise UserError(
                    f"the config of '{wrong[0]}' at {commit[:10]} is not that of the result"
                )
            bases[name] = run.spec.base
    return bases


def _same_files(
    result: Mapping[str, Any],
    known: Mapping[str, Any],
    files: Mapping[str, str],
    runs: Iterable[PlannedRun],
) -> bool:
    """Whether the earlier code is that of a result in all that its runs can have executed."""
    where = {
        "on_gpu": bool(result["hardware"]["gpu"]),
        "alone": all(run.alone for run in runs),
    }
    then = executed(known.get("files", {}), **where)
    return bool(then) and then == executed(files, **where)


def _published_configs(result: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Hashes of the configs of a result's arms, per comparison."""
    return {
        own.get("name", ""): (
            own.get("verified", {}).get("config_hashes")
            or {arm: entry["config_hash"] for arm, entry in own["arms"].items()}
        )
        for own in comparisons(result)
    }


def shortened(run: PlannedRun, overrides: Sequence[str]) -> PlannedRun:
    """The run with settings that beat those of compare.yaml."""
    taken = {word.split("=", 1)[0] for word in overrides}

    def without(own: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in own.items() if key not in taken}

    arms = {arm: without(own) for arm, own in run.spec.arms.items()}
    spec = replace(run.spec, arms=arms, shared=without(run.spec.shared))
    return PlannedRun(run.project, spec, run.arm, run.seed, overrides)
