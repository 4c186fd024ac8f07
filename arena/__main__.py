"""``python -m arena images``: search, fresh seeds, statistics, page. ``make arena FAMILY=images``."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arena.contestant import FAMILIES, SEARCH_RUNS, read_contestants
from arena.study import SEEDS, publish, result_path, study
from common.config import UserError
from common.engine.provenance import code_state
from common.engine.workspace import read_json, write_json

PUBLISHED_SCALES = ("mini", "base")


def main(words: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="arena", description=__doc__)
    parser.add_argument("family", choices=list(FAMILIES), help="what is compared")
    parser.add_argument(
        "--scale", default="mini", help="config of arena_<family>: smoke, mini, base"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--only", default="", help="names of contestants, with commas")
    parser.add_argument("--contestants", type=Path, action="append", default=[], help="own folder")
    parser.add_argument("--plan", action="store_true", help="list the runs, train nothing")
    parser.add_argument(
        "--cost", action="store_true", help="after a study: time, operations, memory of a step"
    )
    parser.add_argument(
        "--further", action="store_true", help="after a study: cost, equal time, batch sizes"
    )
    parser.add_argument("settings", nargs="*", help="a.b=c, of every run")
    asked = parser.parse_intermixed_args(words)
    only = [name for name in asked.only.split(",") if name]
    try:
        contestants = read_contestants(asked.contestants, only, asked.family)
        if asked.plan:
            searched = sum(one.role != "control" for one in contestants)
            print(f"{len(contestants)} contestants: {SEARCH_RUNS * searched} runs of the search,")
            print(f"{len(contestants) * len(SEEDS)} runs of fresh seeds")
            return 0
        if asked.cost or asked.further:
            return _further(asked)
        result = study(
            asked.family,
            asked.scale,
            jobs=asked.jobs,
            only=only,
            folders=asked.contestants,
            overrides=asked.settings,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from arena.page import table

    print("\n".join(table(result)))
    if reason := unpublished(asked, result):
        print(f"not published: {reason}")
        return 0
    print(publish(result))
    from arena.page import write_page

    print(write_page())
    return 0


def unpublished(asked: argparse.Namespace, result: Mapping[str, Any]) -> str:
    """Why a study is not published; empty if it is.

    A study of some contestants is published as long as none of more contestants stands.
    """
    if asked.scale not in PUBLISHED_SCALES:
        return f"--scale is {asked.scale}, and {' and '.join(PUBLISHED_SCALES)} are published"
    if asked.contestants or asked.settings:
        return "it has contestants or settings of your own"
    if code_state()["dirty"]:
        return "the code has local changes"
    path = result_path(asked.family, asked.scale)
    standing = len(read_json(path)["contestants"]) if path.is_file() else 0
    if result["left_out"] and len(result["contestants"]) < standing:
        return f"{path} has {standing} contestants, more than this study"
    return ""


def _further(asked: argparse.Namespace) -> int:
    """What comes after a published study."""
    from arena.cost import cost
    from arena.further import further
    from arena.page import COST, FURTHER, write_page

    path = result_path(asked.family, asked.scale)
    if not path.is_file():
        raise UserError(f"there is no {path}: run the study first")
    result = read_json(path)
    for one in read_contestants(family=asked.family):
        if one.name not in result["contestants"]:
            print(f"left out: {one.name}, which the published study does not have")
    measured = {COST: cost(result, asked.settings)}
    if asked.further:
        steps = measured[COST]["steps"]
        measured[FURTHER] = further(result, steps, jobs=asked.jobs, overrides=asked.settings)
    if asked.settings or code_state()["dirty"]:
        print(json.dumps(measured, indent=1))
        print("not published: settings were chosen, or the code has local changes")
        return 0
    for suffix, content in measured.items():
        write_json(path.with_suffix(suffix), content)
    print(write_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
