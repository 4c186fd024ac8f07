"""Command line: ``contrastive <verb> <project> <config> [key=value ...]``.

``python -m common.cli`` is the same command. Parses and prints; the engine does everything else.
Errors that a user can fix end with exit code 2 and one message.
"""

import argparse
import contextlib
import gc
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from common.arguments import Verb, build_parser, parse
from common.config import (
    ROOT,
    ExperimentConfig,
    UserError,
    check_counts,
    config_names,
    load,
    most_processes,
    nearest,
    to_yaml,
)
from common.extras import missing
from common.failures import explain
from common.registry import config_class, list_projects


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        import argcomplete

        argcomplete.autocomplete(build_parser(VERBS)[0])
    words = list(sys.argv[1:] if argv is None else argv)
    with _printing():
        return _main(words)


def _main(words: list[str]) -> int:
    try:
        if _is_busy():  # threads that spin while they wait slow down whatever else runs
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded
        if len(words) == 2 and words[0] == "--make":
            words = _typed_behind_make(words[1])
        args = parse(VERBS, words)
        if args is None:
            return 2
        return _run_verb(args)
    except UserError as error:
        return _refused(str(error))
    except KeyboardInterrupt:  # Ctrl-C before a run has anything to save
        return 130
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        return _refused(sentence)


class _Printed:
    """Standard output or errors whose reader may leave, as that of ``| head`` does.

    What is printed then goes nowhere, and the command continues.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that the locale cannot write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """As of a text stream."""
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        """As of a text stream."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._leave()

    def end(self) -> None:
        """Write what is left; what cannot be written was reported or has no reader."""
        try:
            self.stream.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a stream in memory has no handle
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Standard output and errors are `_Printed` within the block, also where they are closed."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, errors = _Printed(before[0] or nowhere), _Printed(before[1] or nowhere)
        sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, errors)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            out.end()
            errors.end()


def _refused(sentence: str) -> int:
    with contextlib.suppress(OSError, ValueError):  # stderr is closed
        print(f"error: {sentence}", file=sys.stderr)
    return 2


def _run_verb(args: argparse.Namespace) -> int:
    try:
        VERBS[args.verb].run(args)
        sys.stdout.flush()  # to a full disk: an error that is reported
    except ModuleNotFoundError as error:
        message = missing(error, getattr(args, "project", None) or args.verb)
        if message is None:
            raise
        raise UserError(message) from error
    return 0


def _typed_behind_make(target: str) -> list[str]:
    """Words of ``make <target> ...``; a target that is a script replaces this process."""
    from common.make import SCRIPTS, command

    words = command(target, os.environ, VERBS)
    if target in SCRIPTS:
        os.execv(sys.executable, [sys.executable, *words])
    sys.argv[1:] = words  # what the run folder records and what further processes are started with
    return words


def _is_busy() -> bool:
    """Whether other work runs here; on an idle machine threads that spin are a fifth faster."""
    return _running_beside() > 0.25 * (os.cpu_count() or 1)


def _running_beside(kernel: Path = Path("/proc/loadavg")) -> float:
    """Fewest threads seen in ten looks that run or could run alongside this one.

    An idle machine needs one look.

    The load average, which other systems than Linux have alone, still holds the command before this
    one.
    """
    try:
        fewest = math.inf
        for _ in range(10):
            running = int(kernel.read_text(encoding="ascii").split()[3].split("/")[0])
            fewest = min(fewest, running - 1)
            if fewest <= 0:
                break
            time.sleep(0.005)
        return fewest
    except (OSError, ValueError, IndexError):
        return os.getloadavg()[0]


def _need_project(args: argparse.Namespace) -> str:
    if args.project is None:
        _list(args)
        raise UserError(
            f"give a project: contrastive {args.verb} <one of the above>, or make {args.verb}"
            " PROJECT=<one of the above>"
        )
    project: str = args.project
    return project


def _resolve(args: argparse.Namespace, default: str = "mini") -> tuple[str, str, list[str]]:
    """Project, config and settings, checked before torch is imported."""
    project, config = _need_project(args), args.config or default
    _check_settings(project, config, args.settings)
    return project, config, args.settings


def _check_settings(project: str, config: str, settings: Sequence[str]) -> ExperimentConfig:
    cfg = load(config_class(project), project, config, settings)
    check_counts(cfg)
    for text in settings:  # mappings are merged, so that an empty one would change nothing
        key, value = text.split("=", 1)
        if value.replace(" ", "") != "{}":
            continue
        current: Any = cfg
        for name in key.split("."):
            current = current[name] if isinstance(current, dict) else getattr(current, name)
        if isinstance(current, dict) and current:
            raise UserError(
                f"'{text}' would change nothing: mappings are merged, and {key} keeps"
                f" {', '.join(map(str, current))}; leave entries out in a config of your own that"
                " does not extend this one"
            )
    return cfg


NAMES = ("run_id", "resume")  # settings that only `train` reads
TRACKING = ("tracking",)


def _refuse_ignored(args: argparse.Namespace, ignored: Sequence[str]) -> None:
    """Refuse settings of these sections and names, which the verb does not read."""
    for word in args.settings:
        key = word.split("=")[0]
        if key in ignored or key.split(".")[0] in ignored:
            raise UserError(f"'{word}' would change nothing: {args.verb} does not read {key}")


def _refuse_own(args: argparse.Namespace) -> None:
    """Refuse ``eval.own`` where models are made or compared: only `eval` judges a user's data."""
    for word in args.settings:
        if word.startswith("eval.own="):
            raise UserError(
                f"'{word}' is for evaluation: make eval PROJECT={args.project} RUN=latest {word}"
            )


def _list(args: argparse.Namespace) -> None:
    for slug, text in list_projects().items():
        print(f"{slug:16} {text}\n{'':16} configs: {', '.join(config_names(slug))}")


def _show(args: argparse.Namespace) -> None:
    cfg = _check_settings(_need_project(args), args.config or "mini", args.settings)
    print(to_yaml(cfg), end="")


def _check(args: argparse.Namespace) -> None:
    _refuse_ignored(args, NAMES + TRACKING)
    resolved = _resolve(args, default="paper")
    from common.engine import verbs

    verbs.check(*resolved)


def _check_all(args: argparse.Namespace) -> None:
    from common.engine import verbs

    verbs.check_all()


def _data(args: argparse.Namespace) -> None:
    from common.engine.official import fetch, fetch_missing, listing

    if args.set:
        fetch(args.set, args.root)
    elif args.project is None:
        print(listing(args.root))
    elif not fetch_missing(*_resolve(args, "paper")):
        raise UserError("not everything is here yet: see the steps above")


def _load_engine() -> None:
    """Import what a run needs without searching it for garbage.

    Packages make some million objects that stay: looking through them again and again took a fifth
    of the CPU time from the command to the first step.
    """
    if "common.engine.run" in sys.modules:
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        import common.engine.run  # noqa: F401

        gc.freeze()  # not searched later either
    finally:
        if collects:
            gc.enable()


def _train(args: argparse.Namespace) -> None:
    _refuse_own(args)
    if args.arm and args.config:
        raise UserError(
            f"ARM={args.arm} is of configs/{args.project}/compare.yaml, which names its config:"
            " leave CONFIG out"
        )
    if args.arm:
        from common.engine.comparison.spec import arm_settings

        args.config, arm = arm_settings(_need_project(args), args.arm, args.settings)
        args.settings = [*arm, *args.settings]
    resolved = _resolve(args)
    _load_engine()
    from common.engine.run import train
    from common.engine.verbs import show_run

    show_run(train(*resolved))


def _eval(args: argparse.Namespace) -> None:
    _only_one_of(args, "run", "ckpt", "baseline")
    if not args.baseline:  # a baseline has a run folder of its own
        _refuse_ignored(args, NAMES + TRACKING)
    project, config, settings = _resolve(args)
    _load_engine()
    from common.engine import verbs

    if args.baseline:
        verbs.evaluate_baseline(project, config, settings, args.baseline)
    else:
        verbs.evaluate(project, args.config, settings, args.run, args.ckpt)


def _export(args: argparse.Namespace) -> None:
    _refuse_own(args)
    _only_one_of(args, "run", "ckpt")
    _refuse_ignored(args, NAMES + TRACKING)
    resolved = _resolve(args)
    _load_engine()
    from common.engine.trained import export

    print(f"exported: {export(*resolved, args.run, args.ckpt)}")


def _only_one_of(args: argparse.Namespace, *options: str) -> None:
    typed = [name for name in options if getattr(args, name)]
    if len(typed) > 1:
        raise UserError(f"{args.verb} looks at one model: give --{' or --'.join(typed)}")


def _run(args: argparse.Namespace) -> None:
    _refuse_own(args)
    _refuse_ignored(args, NAMES + TRACKING)
    resolved = _resolve(args)
    _load_engine()
    from common.engine.trained import run_task

    run_task(*resolved, args.task)


def _some_or_all(args: argparse.Namespace) -> list[str]:
    for project in args.projects:
        config_class(project)  # refuses an unknown name before torch is imported
    return args.projects or list(list_projects())


def _smoke(args: argparse.Namespace) -> None:
    projects = _some_or_all(args)
    from common.engine import verbs

    verbs.smoke(projects)


def _compare(args: argparse.Namespace) -> None:
    _refuse_own(args)
    project, arms = _need_project(args), _names(args.arms)
    _refuse_ignored(args, NAMES)
    from common.engine.comparison.spec import (
        choose_arms,
        choose_comparisons,
        choose_seeds,
        read_comparisons,
    )

    _need_job(args.jobs)
    config_class(project)
    specs = choose_comparisons(read_comparisons(project), args.only)
    choose_arms(specs, arms)
    for spec in specs:
        choose_seeds(spec, args.seeds)
    from common.engine import verbs

    show = verbs.plan if args.plan else verbs.compare
    show(project, args.settings, args.seeds, args.jobs, arms, args.only)


def _compare_all(args: argparse.Namespace) -> None:
    _need_job(args.jobs)
    projects = _some_or_all(args)
    from common.engine.comparison.compare import compare_all

    if failed := compare_all(args.jobs, projects):
        raise UserError("\n".join(["these comparisons failed:", *failed]))


def _evidence(args: argparse.Namespace) -> None:
    from common.engine import verbs

    verbs.evidence()


def _sweep(args: argparse.Namespace) -> None:
    _refuse_own(args)
    project, arms = _need_project(args), _names(args.arms)
    _refuse_ignored(args, NAMES)
    from common.engine.sweeps.schema import arms_of, read_sweep

    _need_job(args.jobs)
    config_class(project)
    arms_of(project, read_sweep(project, args.settings), arms)  # refuses before torch is imported
    from common.engine.sweeps.sweep import run_sweep

    folder, text = run_sweep(project, args.settings, arms, args.jobs, print)
    print(f"{text}\nwritten: {folder}")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _need_job(jobs: int) -> None:
    if not 1 <= jobs <= most_processes():
        raise UserError(
            f"JOBS={jobs}: give 1 to {most_processes()} on this machine, such as JOBS=2"
        )


def _runs_folder(args: argparse.Namespace) -> Path:
    """The folder of ``runs_dir=...``."""
    return Path(args.settings[-1].split("=", 1)[1] if args.settings else ExperimentConfig.runs_dir)


def _check_project_of_runs(project: str | None, folder: Path) -> None:
    if not folder.is_dir() and folder != Path(ExperimentConfig.runs_dir):
        raise UserError(f"there is no folder {folder}: give runs_dir=<folder of runs>")
    projects = list_projects()
    if project is not None and project not in projects and not (folder / project).is_dir():
        raise UserError(f"no project '{project}'{nearest(project, projects)}")


def _runs(args: argparse.Namespace) -> None:
    folder = _runs_folder(args)
    _check_project_of_runs(args.project, folder)
    from common.engine import verbs

    verbs.runs(args.project, args.where, folder)


def _prune(args: argparse.Namespace) -> None:
    folder = _runs_folder(args)
    _check_project_of_runs(args.project, folder)
    from common.engine import verbs

    verbs.prune(args.project, args.where, args.yes, folder)


def _diff(args: argparse.Namespace) -> None:
    if args.a is None or args.b is None:
        raise UserError("give two runs: make diff A=<id or folder> B=<id or folder>")
    from common.engine import verbs

    verbs.diff(args.a, args.b, _runs_folder(args))


def _report(args: argparse.Namespace) -> None:
    _some_or_all(args)
    from common.engine.report.pages import write_report

    print(f"report: {write_report(args.projects, runs=_runs_folder(args))}")


def _dashboard(args: argparse.Namespace) -> None:
    for word in args.settings:
        if not word.startswith("tracking."):
            raise UserError(f"'{word}' would change nothing: dashboard only reads tracking.*")
    resolved = _resolve(args)
    from common.engine import verbs

    verbs.dashboard(*resolved, args.entity, args.dry_run)


def _new_project(args: argparse.Namespace) -> None:
    from common.new_project import write_project

    for path in write_project(args.slug or "", args.family, ROOT):
        print(path.relative_to(ROOT))


ONE_CONFIG: dict[str, Any] = {"names": ("project", "config"), "required": 1, "settings": "any"}
OF_COMPARISON: dict[str, Any] = {"names": ("project",), "required": 1, "settings": "any"}
OF_RUNS: dict[str, Any] = {"names": ("project",), "settings": "runs_dir"}

JOBS = {"type": int, "default": 1, "metavar": "N", "help": "number of parallel runs (1)"}
ARMS = {
    "default": "",
    "metavar": "A,B",
    "help": "only these arms; 'full' takes every arm ('all' if an arm is called full)",
}
RUN = {"metavar": "RUN", "help": "run id, 'latest' or a run folder"}
CKPT = {"metavar": "PATH", "help": "checkpoint file, exported folder or run folder"}
WHERE = {
    "default": "",
    "metavar": "CONDITIONS",
    "help": "only runs that match, such as state=failed,seed>=3",
}

TRAINING, COMPARING = "train, evaluate, export", "compare with baselines"
LOOKING, RUNS = "look without training", "finished runs"
WRITING = "a paper of your own"
VERBS = {
    "list": Verb(LOOKING, "List projects and their configs.", "list", _list),
    "show": Verb(LOOKING, "Print a resolved config.", "show laclip paper", _show, **ONE_CONFIG),
    "check": Verb(
        LOOKING,
        "Report parameters, steps, negatives, memory and missing data (default config: paper).",
        "check dcl paper",
        _check,
        **ONE_CONFIG,
    ),
    "check-all": Verb(
        LOOKING, "Check every paper config; write reports/cost.md.", "check-all", _check_all
    ),
    "data": Verb(
        LOOKING,
        "Fetch an official data set (--set), or those that a config lacks; alone, list them.",
        "data --set beir/scifact",
        _data,
        options={
            "--set": {"default": "", "metavar": "NAME", "help": "one official set"},
            "--root": {"default": "", "metavar": "FOLDER", "help": "data root, with --set"},
        },
        **ONE_CONFIG,
    ),
    "train": Verb(
        TRAINING,
        "Train, evaluate and write the run folder.",
        "train simcse mini seed=1 optim.lr=1e-4",
        _train,
        options={
            "--arm": {
                "default": "",
                "metavar": "NAME",
                "help": "train this arm of compare.yaml",
            }
        },
        **ONE_CONFIG,
    ),
    "eval": Verb(
        TRAINING,
        "Evaluate a run, a checkpoint, an exported model or a training-free baseline.",
        "eval simcse mini --run latest",
        _eval,
        options={
            "--run": RUN,
            "--ckpt": CKPT,
            "--baseline": {"metavar": "NAME", "help": "evaluate this training-free baseline"},
        },
        **ONE_CONFIG,
    ),
    "export": Verb(
        TRAINING,
        "Write the trained model in a format that its field's libraries load.",
        "export laclip mini --run latest",
        _export,
        options={"--run": RUN, "--ckpt": CKPT},
        **ONE_CONFIG,
    ),
    "run": Verb(
        TRAINING,
        "Run a task of a project, such as mining or rewriting.",
        "run laclip mini --task rewrite",
        _run,
        options={"--task": {"default": "", "metavar": "NAME", "help": "name of the task"}},
        **ONE_CONFIG,
    ),
    "smoke": Verb(
        TRAINING,
        "Train, evaluate, export and reload the smoke config of some or all projects.",
        "smoke dcl",
        _smoke,
        names=("projects",),
    ),
    "compare": Verb(
        COMPARING,
        "Train every arm with every seed and publish the verdicts.",
        "compare dcl --plan",
        _compare,
        options={
            "--seeds": {
                "metavar": "N|A,B",
                "help": "the first N seeds of compare.yaml, or these seeds",
            },
            "--jobs": JOBS,
            "--arms": ARMS,
            "--only": {
                "default": "",
                "metavar": "NAME",
                "help": "only this comparison: 'main', or a name under 'more' in compare.yaml",
            },
            "--plan": {
                "action": "store_true",
                "help": "estimate the cost without running anything",
            },
        },
        **OF_COMPARISON,
    ),
    "compare-all": Verb(
        COMPARING,
        "Run the comparisons of some or all projects at the lowest priority, resumable.",
        "compare-all --jobs 2",
        _compare_all,
        names=("projects",),
        options={"--jobs": JOBS},
    ),
    "evidence": Verb(
        COMPARING,
        "List all claims and verdicts; write docs/evidence.md and the tables of README.md.",
        "evidence",
        _evidence,
    ),
    "sweep": Verb(
        COMPARING,
        "Try every point of configs/<project>/sweep.yaml; resumable.",
        "sweep mclrec --jobs 2",
        _sweep,
        options={"--jobs": JOBS, "--arms": ARMS},
        **OF_COMPARISON,
    ),
    "runs": Verb(
        RUNS,
        "List runs.",
        "runs dcl --where 'state=failed,seed>=3'",
        _runs,
        options={"--where": WHERE},
        **OF_RUNS,
    ),
    "diff": Verb(
        RUNS,
        "Show the settings and metrics that differ between two runs (ids or folders).",
        "diff 2025-01-31_10-00-00 2025-01-31_11-00-00",
        _diff,
        names=("a", "b"),
        required=2,
        settings="runs_dir",
    ),
    "report": Verb(
        RUNS,
        "Write static pages of the runs and comparisons of some or all projects.",
        "report laclip",
        _report,
        names=("projects",),
        settings="runs_dir",
    ),
    "prune": Verb(
        RUNS,
        "List failed and replaced runs; --yes deletes them.",
        "prune dcl --yes",
        _prune,
        options={
            "--where": WHERE,
            "--yes": {"action": "store_true", "help": "delete the listed runs"},
        },
        **OF_RUNS,
    ),
    "dashboard": Verb(
        RUNS,
        "Save the W&B workspace of a project.",
        "dashboard simcse --entity my-team",
        _dashboard,
        options={
            "--entity": {"default": "", "metavar": "NAME", "help": "W&B user or team"},
            "--dry-run": {"action": "store_true", "help": "print the definition without saving it"},
        },
        **ONE_CONFIG,
    ),
    "new-project": Verb(
        WRITING,
        "Write the skeleton of a new project without changing existing files.",
        "new-project vicreg --family images",
        _new_project,
        names=("slug",),
        required=1,
        options={
            "--family": {
                "default": "",
                "metavar": "NAME",
                "help": "images, sentences, image_text or retrieval",
            }
        },
    ),
}


if __name__ == "__main__":
    sys.exit(main())
