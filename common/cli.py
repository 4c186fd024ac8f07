"""Command line: ``python -m common.cli <verb> <project> <config> [key=value ...]``.

Parses and prints; everything else is done by the engine. Errors that a user can mend end with
exit code 2 and one message.
"""

import argparse
import contextlib
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.completion import complete_words
from common.config import ExperimentConfig, UserError, config_names, load, nearest, to_yaml
from common.registry import config_class, list_projects

VERBS = {
    "list": "projects, and what each is",
    "show": "print a resolved config",
    "check": "dry run: parameters, steps, negatives, memory, missing data",
    "train": "train, evaluate, write the run folder",
    "eval": "the evaluation protocol on a run, checkpoint or exported model",
    "compare": "train every arm with every seed and write the verdict",
    "check-all": "every paper config on the meta device; writes reports/cost.md",
    "compare-all": "every comparison, for a release",
    "evidence": "list all claims and verdicts, write docs/evidence.md",
    "sweep": (
        "vary settings by configs/<slug>/sweep.yaml, resumable; --wandb writes it as a W&B sweep"
    ),
    "run": "a project's own task",
    "runs": "list runs: [project] --where=state=failed,seed>=3",
    "diff": "settings and metrics in which two runs differ: two ids or folders",
    "prune": "name failed and superseded runs; --yes removes them",
    "dashboard": "W&B workspace of a project: --entity=<name>, or --dry-run to print it",
    "report": "static pages of runs and comparisons, of everything without a project",
    "export": "write the trained model in its field's format",
    "smoke": "train, evaluate, export and reload the smoke config of one or all projects",
}
# options of a verb; any other is refused, so that none is typed in vain
TAKES = {
    "eval": {"run", "ckpt", "baseline"},
    "export": {"run", "ckpt"},
    "train": {"arm"},
    "compare": {"seeds", "jobs", "arms", "only", "plan"},
    "compare-all": {"jobs"},
    "sweep": {"jobs", "trials", "arms", "wandb"},
    "run": {"task"},
    "runs": {"where"},
    "prune": {"where", "yes"},
    "dashboard": {"entity", "dry_run"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    if _is_busy():  # threads that spin while they wait fight with whatever else runs
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded
    try:
        return _dispatch(_parser().parse_intermixed_args(argv))
    except UserError as error:
        with contextlib.suppress(OSError, ValueError):  # nobody listens
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # Ctrl-C where nothing is at stake
        return 130


def _is_busy() -> bool:
    """Whether other work runs here; on an idle machine threads that spin are a fifth faster."""
    return _running_beside() > 0.25 * (os.cpu_count() or 1)


def _running_beside(kernel: Path = Path("/proc/loadavg")) -> float:
    """Fewest threads seen in ten looks that run or could run beside this one.

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


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {name:12}{text}" for name, text in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="contrastive",
        description="Train and compare contrastive-learning papers.\n\nverbs:\n" + verbs,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, metavar="verb")
    words = parser.add_argument("words", nargs="*", metavar="project config key=value")
    words.completer = complete_words  # type: ignore[attr-defined]  # read by argcomplete
    parser.add_argument("--task", default="", help="run: name of the task")
    parser.add_argument("--run", help="eval, export: run id, 'latest' or folder")
    parser.add_argument("--ckpt", help="eval, export: checkpoint file or exported folder")
    parser.add_argument("--baseline", help="eval: a baseline of the project that needs no training")
    parser.add_argument(
        "--seeds", help="compare: how many of compare.yaml's seeds, or a list: 10,11"
    )
    parser.add_argument("--jobs", type=int, default=1, help="compare, sweep: runs at the same time")
    parser.add_argument("--trials", type=int, help="sweep: trials of each arm; default: the file's")
    parser.add_argument("--wandb", action="store_true", help="sweep: write the W&B file alone")
    parser.add_argument("--plan", action="store_true", help="compare: estimate, run nothing")
    parser.add_argument(
        "--arms",
        default="",
        help=(
            "compare, sweep: comma-separated arms, or every one: 'full' ('all' where one is called"
            " full)"
        ),
    )
    parser.add_argument(
        "--arm", default="", metavar="NAME", help="train: settings of an arm of compare.yaml"
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="NAME",
        help="compare: one comparison of the project alone ('main' or a name under more:)",
    )
    parser.add_argument(
        "--where", default="", help="runs, prune: conditions, such as state=failed,seed>=3"
    )
    parser.add_argument("--yes", action="store_true", help="prune: remove what is named")
    parser.add_argument("--entity", default="", help="dashboard: W&B user or team")
    parser.add_argument("--dry-run", action="store_true", help="dashboard: print the definition")
    if "_ARGCOMPLETE" in os.environ:  # the shell asks
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser


def _refuse_options(args: argparse.Namespace) -> None:
    plain = vars(_parser().parse_args([args.verb]))
    given = [k for k, v in vars(args).items() if k not in ("verb", "words") and v != plain[k]]
    for name in given:
        if name not in TAKES.get(args.verb, ()):
            raise UserError(f"{args.verb} takes no --{name.replace('_', '-')}")
    chosen = [name for name in ("run", "ckpt", "baseline") if getattr(args, name)]
    if len(chosen) > 1:
        raise UserError(f"{args.verb} looks at one thing: give --{' or --'.join(chosen)}")


def _dispatch(args: argparse.Namespace) -> int:
    _refuse_options(args)
    if args.jobs < 1:
        raise UserError(f"JOBS={args.jobs}: run at least one job at a time, such as JOBS=2")
    if args.verb == "list":
        return _list()
    words = [w for w in args.words if "=" not in w]
    overrides = [w for w in args.words if "=" in w]
    if args.verb == "compare-all":
        return _compare_all(args.words, args.jobs)
    if args.verb in ("check-all", "evidence"):
        if args.words:
            raise UserError(
                f"{args.verb} takes no project and no overrides: {' '.join(args.words)}"
            )
        return _whole_repository(args)
    if args.verb in ("runs", "diff", "prune"):
        return _runs_at_hand(args)
    if args.verb in ("report", "smoke"):
        return _pages_or_smoke(args.verb, words, overrides)
    for word in overrides:
        if word.split("=")[0].lower() in ("project", "config"):
            raise UserError(
                f"'{word}' is no setting: write it as make {args.verb} PROJECT=... CONFIG=..., or "
                "the bare names behind the verb"
            )
    if not words or not words[0]:
        _list()
        raise UserError(f"name a project: make {args.verb} PROJECT=<one of the above>")
    if len(words) > 2:
        raise UserError(f"cannot read '{words[2]}': overrides have the form section.key=value")
    project = words[0]
    if len(words) > 1 and args.verb in ("compare", "sweep"):
        raise UserError(
            f"{args.verb} takes no config: configs/{project}/{args.verb}.yaml names the one that it"
            " starts from"
        )
    config = words[1] if len(words) > 1 else _default_config(args.verb)
    if args.arm:
        if len(words) > 1:
            raise UserError(
                f"ARM={args.arm} is of configs/{project}/compare.yaml, which names its config:"
                " leave CONFIG out"
            )
        from common.engine.comparison.spec import arm_settings

        config, own = arm_settings(project, args.arm, overrides)
        overrides = [*own, *overrides]
    return _one_project(args, project, config, overrides)


def _one_project(args: argparse.Namespace, project: str, config: str, overrides: list[str]) -> int:
    schema = config_class(project)
    if args.verb not in ("compare", "sweep"):
        cfg = load(schema, project, config, overrides)  # refuses typos before torch is imported
        _refuse_empty_mappings(cfg, overrides)
        if args.verb == "show":
            print(to_yaml(cfg), end="")
            return 0
    if args.verb == "sweep":
        return _sweep(args, project, overrides)
    if args.verb == "compare":
        _check_comparison(project, args.seeds, [a for a in args.arms.split(",") if a], args.only)
    return _with_torch(args, project, config, overrides)


def _refuse_empty_mappings(cfg: ExperimentConfig, overrides: Sequence[str]) -> None:
    """Mappings are merged, so that an empty one would change nothing without a word."""
    for text in overrides:
        key, value = text.split("=", 1)
        if value.replace(" ", "") != "{}":
            continue
        found: Any = cfg
        for name in key.split("."):
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        if isinstance(found, dict) and found:
            raise UserError(
                f"'{text}' would change nothing: mappings are merged, and {key} keeps"
                f" {', '.join(map(str, found))}; leave entries out in a config of your own that"
                " does not extend this one"
            )


def _with_torch(args: argparse.Namespace, project: str, config: str, overrides: list[str]) -> int:
    from common.engine import verbs

    if args.verb == "train":
        verbs.train(project, config, overrides)
    elif args.verb == "eval" and args.baseline:
        verbs.evaluate_baseline(project, config, overrides, args.baseline)
    elif args.verb == "eval":
        verbs.evaluate(project, config, overrides, args.run, args.ckpt)
    elif args.verb == "export":
        verbs.export(project, config, overrides, args.run, args.ckpt)
    elif args.verb == "check":
        verbs.check(project, config, overrides)
    elif args.verb == "run":
        verbs.run_task(project, config, overrides, args.task)
    elif args.verb == "dashboard":
        verbs.dashboard(project, config, overrides, args.entity, args.dry_run)
    elif args.verb == "compare":
        arms = [a for a in args.arms.split(",") if a]
        show = verbs.plan if args.plan else verbs.compare
        show(project, overrides, args.seeds, args.jobs, arms, args.only)
    return 0


def _check_comparison(project: str, seeds: str | None, arms: list[str], only: str) -> None:
    """Refuse unknown comparisons, arms, claims and seeds before torch is imported."""
    from common.engine.comparison.spec import (
        choose_arms,
        choose_comparisons,
        choose_seeds,
        read_comparisons,
    )

    specs = choose_comparisons(read_comparisons(project), only)
    choose_arms(specs, arms)
    for spec in specs:
        choose_seeds(spec, seeds)


def _sweep(args: argparse.Namespace, project: str, overrides: list[str]) -> int:
    from common.engine.sweeps.schema import arms_of, read_sweep

    if args.trials is not None and args.trials < 1:
        raise UserError(f"TRIALS={args.trials}: try at least one")
    arms = [a for a in args.arms.split(",") if a]
    arms_of(project, read_sweep(project, overrides), arms)  # refuses before torch is imported
    from common.engine import verbs

    verbs.sweep(project, overrides, arms, args.jobs, args.trials, args.wandb)
    return 0


def _whole_repository(args: argparse.Namespace) -> int:
    from common.engine import verbs

    if args.verb == "evidence":
        verbs.evidence()
    else:
        verbs.check_all()
    return 0


def _compare_all(words: Sequence[str], jobs: int) -> int:
    """Every comparison, or those of the projects that are named."""
    projects = list_projects()
    for word in filter(None, words):
        if "=" in word:
            raise UserError(f"compare-all takes no settings: {word}")
        if word not in projects:
            raise UserError(f"no project '{word}'{nearest(word, projects)}")
    from common.engine import verbs

    verbs.compare_all([word for word in words if word] or list(projects), jobs)
    return 0


def _runs_at_hand(args: argparse.Namespace) -> int:
    from common.engine import verbs

    words, folder = _folder_of_runs(args.verb, args.words)
    if len(words) != 2 and args.verb == "diff":
        raise UserError("name two runs: make diff A=<id or folder> B=<id or folder>")
    if len(words) > 1 and args.verb != "diff":
        raise UserError(f"{args.verb} takes one project: {' '.join(words)}")
    project = words[0] if words else None
    if project is not None and args.verb != "diff":
        projects = list_projects()
        if project not in projects and not (folder / project).is_dir():
            raise UserError(f"no project '{project}'{nearest(project, projects)}")
    if args.verb == "diff":
        verbs.diff(words[0], words[1], folder)
    elif args.verb == "runs":
        verbs.runs(project, args.where, folder)
    else:
        verbs.prune(project, args.where, args.yes, folder)
    return 0


def _folder_of_runs(verb: str, words: Sequence[str]) -> tuple[list[str], Path]:
    """Words without ``runs_dir=...``, and that folder; no other setting is taken."""
    folder, kept = ExperimentConfig.runs_dir, []
    for word in filter(None, words):
        name, sign, value = word.partition("=")
        if not sign:
            kept.append(word)
        elif name == "runs_dir":
            folder = value
        else:
            raise UserError(f"{verb} takes no setting but runs_dir=...: {word}")
    return kept, Path(folder)


def _pages_or_smoke(verb: str, words: list[str], overrides: list[str]) -> int:
    """Of one project, or of all."""
    if len(words) > 1:
        raise UserError(f"{verb} takes one project and no config: {' '.join(words)}")
    if verb == "smoke" and overrides:
        raise UserError(f"smoke takes no settings: {' '.join(overrides)}")
    _, folder = _folder_of_runs(verb, overrides)
    projects = [word for word in words if word]
    for project in projects:
        config_class(project)  # refuses a name that is none, before torch is imported
    from common.engine import verbs

    if verb == "smoke":
        verbs.smoke(projects or list(list_projects()))
    else:
        verbs.report(projects, folder)
    return 0


def _list() -> int:
    for slug, text in list_projects().items():
        print(f"{slug:16} {text}\n{'':16} configs: {', '.join(config_names(slug))}")
    return 0


def _default_config(verb: str) -> str:
    return "paper" if verb == "check" else "mini"


if __name__ == "__main__":
    sys.exit(main())
