"""Schema of ``configs/<slug>/compare.yaml``; docs/compare.md explains it by an example."""

import io
import pickle
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.config import UserError, nearest

Direction = Literal["max", "min"]


@dataclass
class NotTestable:
    """Why a claim can't be tested here, and the measurement that shows it."""

    reason: str = "???"
    metric: str = "???"  # a metric of the result, printed with the reason
    below: float | None = None  # only if its mean over the claim's arms is below this
    above: float | None = None
    # two arms: measured is the metric of the first minus that of the second, in place of that mean
    difference: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.difference) not in (0, 2):
            raise ValueError("not_testable: difference names two arms")


@dataclass
class ClaimEntry:
    """Schema of one claim: ``left`` is better than ``right``, by the direction of the metric."""

    left: Any = "???"  # an arm or baseline; several with `function`
    right: Any = "???"  # another, a number, or a list: better than each of them
    # name of a function in projects/<slug>/claims.py that makes the two sides from the arms' values
    function: str = ""
    text: str = ""  # how readers see a claim with `function`
    paper: str = ""  # table and values there, or "ours" for an expectation of this repository
    metric: str | None = None  # None: the comparison's
    direction: Direction | None = None
    # further metrics in which the same must hold, by direction; one verdict for all of them
    and_in: dict[str, str] = field(default_factory=dict)
    margin: float | None = None  # may be worse by less than this
    at_least: float = 0.0  # must be better by more than this
    not_testable: NotTestable | None = None
    # the paper's values of left and right: an effect of that relative size is compared with the
    # interval, see `judge.against_published`
    published: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.published) not in (0, 2):
            raise ValueError("published: two values, of the claim's left and of its right side")
        if (self.margin or 0.0) < 0 or self.at_least < 0:
            raise ValueError("margin and at_least must be >= 0")
        if not set(self.and_in.values()) <= {"max", "min"}:
            raise ValueError("and_in gives a direction to each metric: max or min")
        if self.margin and self.at_least:
            raise ValueError(
                "margin (may be worse) and at_least (must be better) exclude each other"
            )
        if bool(self.function) != bool(self.text):
            raise ValueError("function and text come together: how the sides are made, and read")
        if not self.function and not isinstance(self.left, str):
            raise ValueError("left is the name of an arm; several need a function")


@dataclass
class Comparison:
    """Schema of compare.yaml; what `more` holds inherits the upper half of it."""

    base: str = "mini"  # config that all arms start from
    metric: str = "???"  # primary metric, a key of metrics.json
    direction: Direction = "max"  # which direction is better
    margin: float = 0.0  # of claims that name none: may be worse by less than this
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # of the verdict, not the pilots'
    shared: dict[str, Any] = field(default_factory=dict)  # overrides of every arm

    arms: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> dotted overrides
    default_arms: list[str] = field(default_factory=list)  # empty: all; ARMS=full runs the others
    baselines: list[str] = field(default_factory=list)  # functions of projects/<slug>/baselines.py
    bounds: list[str] = field(default_factory=list)  # those that know the answers: none to beat
    claims: list[Any] = field(default_factory=list)  # ClaimEntry each, on default arms alone
    appendix: list[Any] = field(default_factory=list)  # judged where its arms ran, never counted
    also: list[str] = field(default_factory=list)  # further metrics shown in the table
    note: str = ""  # printed under the table
    more: dict[str, Any] = field(default_factory=dict)  # name -> further comparison
    name: str = ""  # of a further comparison
    project: str = ""  # slug


def read_yaml(where: str, path: Path) -> Any:
    """Content of a file, as plain mappings and lists.

    Raises:
        UserError: it is not YAML.
    """
    try:
        return pickle.loads(_plain(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error


def from_mapping(where: str, schema: type[Any], content: Any) -> Any:
    """A dataclass from a mapping; unknown keys and missing values are named."""
    known = [f.name for f in fields(schema)]
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected a mapping with {', '.join(known)}")
    for key in content:
        if str(key) not in known:
            raise UserError(f"{where}: unknown key '{key}'{nearest(str(key), known)}")
    try:
        return pickle.loads(_built(cast(Hashable, schema), pickle.dumps(content)))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error


# Commands read the same comparison several times. Its types are checked once; copies come from
# pickles of our own, which take a hundredth of that time.


@lru_cache(maxsize=128)
def _plain(text: str) -> bytes:
    return pickle.dumps(OmegaConf.to_container(OmegaConf.load(io.StringIO(text))))


@lru_cache(maxsize=2048)
def _built(schema: Any, content: bytes) -> bytes:
    node = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(pickle.loads(content)))
    if missing := sorted(OmegaConf.missing_keys(node)):
        raise ValueError(f"no value for {', '.join(missing)}")
    return pickle.dumps(OmegaConf.to_object(node))
