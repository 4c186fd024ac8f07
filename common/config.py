"""Typed experiment configs: dataclass schema + YAML with ``extends:`` + ``a.b=c`` overrides.

`load` refuses unknown keys, wrong types and missing values with one message that gives the
nearest valid name. Nothing here imports torch, so a typo costs milliseconds.
"""

import difflib
import io
import os
import pickle
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf, StringNode
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from common.ranges import Count, NonNegative, Positive, Rate, Seed, Whole, problems

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "configs"
MOST = 40  # names that a message lists
SECRETS = re.compile(
    r"(://)[^/\s@]+@|([?&][^=&\s]*(?:key|token|secret|signature|credential|password)[^=&\s]*)=[^&\s]*",
    re.IGNORECASE,
)
BRACES = re.compile(r"\{[^{}]*\}.*\S", re.DOTALL)  # more than a mapping: a pattern of names
NULLS = ("", "~", "null", "Null", "NULL")
# to YAML 010 is 8 and 1:30 is 90: as a whole value, or in a list
_OTHER_BASE = r"([-+]?(?:0[0-7_]*[0-7]|[1-9][\d_]*(?::[0-5]?\d)+(?:\.\d*)?))"
OTHER_BASE = re.compile(
    rf"(?:^|[:-]\s+){_OTHER_BASE}\s*$|[\[,:]\s*{_OTHER_BASE}\s*[\],}}]", re.MULTILINE
)
COMMENT = re.compile(r"(^|\s)#.*")
NOT_CONVERTED = re.compile(
    r"Value (.*) (?:of type '\w+' could not be converted to|is not a valid) (Float|Integer|bool)\b"
)
KINDS = {"Float": "a number", "Integer": "a whole number", "bool": "true or false"}


class UserError(Exception):
    """Something that the user can fix; the CLI prints it as one message and exits with 2."""


@dataclass
class DataConfig:
    """Fields that every data section has."""

    root: str | None = None  # folder of the data sets; None: $DATA_DIR, else ./data
    batch_size: Count = 32  # samples per device and step
    num_workers: Whole = 0  # loader processes per device


@dataclass
class OptimConfig:
    """Optimiser and its per-step schedule."""

    # adam: weight decay is an L2 penalty, as in torch.optim.Adam; adamw: decoupled from the gradient
    name: Literal["adam", "adamw", "sgd", "lars", "adafactor", "bertadam"] = "adamw"
    lr: Positive = 1e-3  # peak learning rate
    # factor of `lr`: none, B / lr_batch, or its square root, for a global batch of B samples
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    lr_batch: Count = 256
    weight_decay: NonNegative = 0.0
    betas: tuple[Rate, Rate] = (0.9, 0.999)  # Adam and AdamW
    eps: Positive = 1e-8  # Adam and AdamW
    momentum: Rate = 0.9  # SGD and LARS
    nesterov: bool = False  # SGD
    # trapezoid: constant, then linear to final_lr over the last `decay_steps`
    # warmup_linear: linear, its warm-up as released with Contriever
    schedule: Literal["cosine", "linear", "constant", "trapezoid", "warmup_linear"] = "cosine"
    decay_steps: Whole = 0
    warmup_steps: Whole = 0  # optimiser steps of linear warm-up
    warmup_epochs: NonNegative = 0.0  # added to warmup_steps, in epochs
    warmup_start_lr: NonNegative = 0.0  # learning rate of the first warm-up step
    final_lr: NonNegative = 0.0  # learning rate at the end of the schedule

    def __post_init__(self) -> None:
        if (self.decay_steps > 0) != (self.schedule == "trapezoid"):
            raise ValueError("optim.decay_steps > 0 and optim.schedule=trapezoid need each other")
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError("optim.nesterov needs optim.name=sgd with optim.momentum")


@dataclass
class TrainerConfig:
    """Arguments of Lightning's Trainer, and settings of our engine."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: Any = 1  # count, "auto" or list of device indices
    num_nodes: Count = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "32-true"
    # products of float32 matrices on CUDA while training, as torch.set_float32_matmul_precision:
    # high takes TF32 tensor cores (10 bits of mantissa); evaluation is always in full float32
    matmul: Literal["highest", "high", "medium"] = "high"
    max_steps: Count | None = None  # optimiser steps; exactly one of max_steps / max_epochs
    max_epochs: Positive | None = None  # passes over the training set
    accumulate_grad_batches: Count = 1
    allow_small_negatives: bool = False  # accumulation with an in-batch loss (adds no negatives)
    gradient_clip_val: Positive | None = None  # maximum gradient norm
    compile: bool = False  # torch.compile the encoders
    ema_decay: Rate | None = None  # exponential moving average of the weights, used to evaluate
    log_every_n_steps: Count = 10
    val_every_n_steps: Count | None = None  # None: no validation during training
    checkpoint_every_n_steps: Count = 500
    keep_checkpoints: Count = 2  # latest ones in addition to the best; with a best, at least two
    # fsdp: every process writes its share of a checkpoint in the background, into a folder
    shard_checkpoints: bool = False
    deterministic: bool | None = None  # None: on a CPU, where it costs nothing
    num_threads: Count | None = None  # CPU threads per process; None: torch's default
    # without a step after which a fit reports what it waits for, and one of several processes ends
    stall_seconds: Positive = 300.0

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_epochs is not None:
            raise ValueError("trainer.max_steps and trainer.max_epochs are both set; null one")
        if self.shard_checkpoints and self.strategy != "fsdp":
            raise ValueError("trainer.shard_checkpoints=true needs trainer.strategy=fsdp")
        counts = self.devices if isinstance(self.devices, list) else [self.devices]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts)
        if self.devices not in ("auto", -1) and (not whole or self.devices == 0 or not counts):
            raise ValueError(
                f"trainer.devices={self.devices!r}: give a count (1, 2, ...), 'auto' or a list"
            )


@dataclass
class TrackingConfig:
    """Weights & Biases; metrics.csv is always written."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online with a key
    wandb_project: str = "contrastive"
    entity: str | None = None  # user or team; None: the default of the account
    # runs shown together; None: <project>-<config>, in a comparison <project>-<config>-<comparison>
    group: str | None = None
    name: str | None = None  # of the run; None: <project>-<config>-<run id>
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.entity is not None and not re.fullmatch(r"[\w.-]{1,128}", self.entity):
            raise ValueError(
                f"tracking.entity={self.entity!r}: give the name of a W&B user or team, without"
                " blanks and slashes"
            )
        if not re.fullmatch(r"[^/\\#?%:]{1,128}", self.wandb_project):
            raise ValueError(
                f"tracking.wandb_project={self.wandb_project!r}: 1 to 128 characters without any"
                " of / \\ # ? % :"
            )
        for key, longest, texts in (
            ("group", 128, [self.group]),
            ("name", 128, [self.name]),
            ("tags", 64, self.tags),
        ):
            for text in texts:
                if text is not None and not (text.strip() and len(text) <= longest):
                    raise ValueError(
                        f"tracking.{key}: {text!r} is not a text of 1 to {longest} characters"
                    )


@dataclass
class ExperimentConfig:
    """Root of every project's config; projects subclass it and its sections."""

    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: Seed = 0
    runs_dir: str = "runs"
    run_id: str | None = None  # None: made from date and time
    resume: str | None = None  # latest | a run id | path of a run folder

    def __post_init__(self) -> None:
        if self.trainer.max_steps is None and self.trainer.max_epochs is None:
            raise ValueError("set trainer.max_steps or trainer.max_epochs")
        name = self.run_id
        if name is not None and (name == "latest" or not re.fullmatch(r"\w[\w.,+=@-]*", name)):
            raise ValueError(
                f"run_id '{name}': use letters, digits and . , + = @ _ -, but not the word 'latest'"
            )


Config = TypeVar("Config", bound=ExperimentConfig)


def most_processes() -> int:
    """Processes, or threads of one, that a command may ask for on this machine."""
    return max(64, 8 * (os.cpu_count() or 1))


def check_counts(cfg: ExperimentConfig) -> None:
    """Refuse more loader processes or threads than this machine can start in reasonable time.

    Raises:
        UserError: names the setting.
    """
    most = most_processes()
    counts = {
        "data.num_workers": cfg.data.num_workers,
        "trainer.num_threads": cfg.trainer.num_threads or 0,
    }
    for name, count in counts.items():
        if count > most:
            raise UserError(
                f"{name}={count} is far beyond the {os.cpu_count()} cores of this machine: give at"
                f" most {most}"
            )


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ' (did you mean ...?)' for the closest valid name, else the list of valid names."""
    valid = sorted(valid)
    match = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    match = match or difflib.get_close_matches(name.lower(), valid, n=1, cutoff=0.5)
    if not match:  # a right leaf in the wrong section
        leaf = name.rsplit(".", 1)[-1]
        match = [v for v in valid if v.rsplit(".", 1)[-1] == leaf][:1]
    if match:
        return f"; did you mean '{match[0]}'?"
    if len(valid) > MOST and any("." in v for v in valid):
        tops = sorted({v.split(".")[0] for v in valid})
        return f"; valid: {', '.join(tops)} and what is in them, see make show"
    return f"; valid: {', '.join(valid)}" if valid else ""


def config_names(project: str) -> list[str]:
    """Names of the configs that a project has (without compare and sweep)."""
    paths = (CONFIG_DIR / project).glob("*.yaml")
    return sorted(p.stem for p in paths if p.stem not in ("compare", "sweep") and p.is_file())


def config_path(project: str, config: str) -> Path:
    """Path of ``configs/<project>/<config>.yaml``; UserError with the nearest name if missing."""
    path = CONFIG_DIR / project / f"{config}.yaml"
    if Path(config).name != config or not path.is_file():  # a name, not a way to another folder
        names = config_names(project)
        raise UserError(f"project '{project}' has no config '{config}'{nearest(config, names)}")
    return path


def lineage(project: str, config: str) -> list[str]:
    """Names of a config and of those that it extends, the oldest first."""
    return [path.stem for path, _ in _chain(config_path(project, config))]


def load(schema: type[Config], project: str, config: str, overrides: Sequence[str] = ()) -> Config:
    """Build the typed config from schema, YAML chain and overrides.

    Args:
        schema: the project's dataclass, a subclass of `ExperimentConfig`.
        project: slug, names the folder under ``configs/``.
        config: name of a YAML file in it, without suffix.
        overrides: ``a.b=value`` strings; values are parsed as YAML.

    Returns:
        An instance of `schema`; plain Python objects, no OmegaConf containers.

    Raises:
        UserError: unknown key or config, wrong type, missing value, a value out of its range, or a
            rule between fields.
    """
    base = _files_over_schema(schema, config_path(project, config))
    typed = _parse_overrides(base, overrides)
    _merge(base, typed, "command line")
    try:
        _follow(base, typed)
        _judge_own(base, typed, project)
        values = OmegaConf.to_container(base, resolve=True)
        if missing := sorted(_missing(values)):
            raise UserError(f"{project}/{config}: no value for {', '.join(missing)}")
        check_ranges(schema, values, f"{project}/{config}: ")
        return OmegaConf.to_object(base)  # type: ignore[return-value]
    except InterpolationToMissingValueError as error:
        missing = sorted(OmegaConf.missing_keys(base))
        raise UserError(f"{project}/{config}: no value for {', '.join(missing)}") from error
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = getattr(error, "full_key", None)
        where = f"{key}: " if key else ""
        raise UserError(f"{project}/{config}: {where}{first_line(error)}") from error


def check_ranges(schema: type[Any], values: Any, where: str, prefix: str = "") -> None:
    """Refuse values outside the ranges in a schema's types.

    Args:
        schema: dataclass of a config or of a section.
        values: plain containers in its shape.
        where: begins the message.
        prefix: of the names, such as ``trainer.``.

    Raises:
        UserError: with up to three of them.
    """
    errors = problems(schema, values, prefix)
    if errors:
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        raise UserError(f"{where}{'; '.join(errors[:3])}{more}")


def to_dict(cfg: Any) -> dict[str, Any]:
    """Plain nested dict of a config (lists, strings, numbers): safe for YAML and checkpoints."""
    plain = OmegaConf.to_container(OmegaConf.create(asdict(cfg) if is_dataclass(cfg) else cfg))  # type: ignore[arg-type]
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def to_yaml(cfg: Any) -> str:
    """YAML text of a config, in the order of its fields."""
    return yaml.safe_dump(to_dict(cfg), sort_keys=False, allow_unicode=True)


def leaf_keys(node: Any, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a config node, sections included."""
    keys: list[str] = []
    if OmegaConf.is_dict(node):
        for key in node:
            name = f"{prefix}{key}"
            keys += [name, *leaf_keys(node._get_node(key), f"{name}.")]
    return keys


def _missing(values: Any, name: str = "") -> Iterator[str]:
    """Dotted names of fields without a value, in plain containers."""
    match values:
        case dict():
            for key, value in values.items():
                yield from _missing(value, f"{name}.{key}" if name else str(key))
        case list():
            for index, value in enumerate(values):
                yield from _missing(value, f"{name}[{index}]")
        case "???":
            yield name


@cache
def _structured(schema: Hashable) -> bytes:
    """The schema with its defaults, which takes half of the time of `load`.

    Pickled, because OmegaConf reads that eight times as fast as it copies a config.
    """
    return pickle.dumps(OmegaConf.structured(schema))


def _files_over_schema(schema: type[Any], path: Path) -> Any:
    base = pickle.loads(_structured(cast(Hashable, schema)))
    for source, layer in _chain(path):
        _merge(base, layer, _relative(source))
    return base


def _chain(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, DictConfig]]:
    """The file and its ancestors, oldest first."""
    path = path.resolve()
    if path in seen:
        raise UserError("cycle of 'extends': " + " -> ".join(_relative(p) for p in (*seen, path)))
    try:
        text = path.read_text(encoding="utf-8")
        node = OmegaConf.load(io.StringIO(text))
    except FileNotFoundError:
        raise UserError(
            f"{_relative(seen[-1])}: 'extends' names {_relative(path)}, which does not exist"
        ) from None
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise UserError(f"{_relative(path)} is not valid YAML in UTF-8: {error}") from error
    if not isinstance(node, DictConfig):
        raise UserError(f"{_relative(path)}: the top level must be a mapping")
    if not node:  # a write that was cut short; the schema's defaults are a large model
        raise UserError(
            f"{_relative(path)} sets nothing: begin it with 'extends: ' and the name of another config"
        )
    if match := OTHER_BASE.search(plain := COMMENT.sub(r"\1", text)):
        line = plain.count("\n", 0, match.start(match.lastindex or 0)) + 1
        raise UserError(f"{_relative(path)}, line {line}: {_other_base(match)}")
    if "~/" in text:
        node = OmegaConf.create(_home(OmegaConf.to_container(node)))
    parent = node.pop("extends", None)
    if parent is None:
        return [(path, node)]
    return [*_chain(path.parent / f"{parent}.yaml", (*seen, path)), (path, node)]


def _parse_overrides(base: Any, overrides: Sequence[str]) -> DictConfig:
    """The typed words as a layer over `base`, whose types say which values are texts."""
    layer = OmegaConf.create()
    for word in overrides:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise UserError(f"override '{word}' is not of the form section.key=value")
        if any("\udc80" <= c <= "\udcff" for c in word):
            raise UserError(f"'{word}' has bytes that are not UTF-8: rename the file or folder")
        try:
            OmegaConf.update(layer, key, _value(base, key, value))
        except Exception as error:  # a value that is not YAML
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot read the override '{word}': {first_line(error)}") from error
    return layer


def _value(base: Any, key: str, text: str) -> Any:
    """What a typed value means.

    A text is taken as it was typed: as YAML ``2026_12_02`` and ``1e5`` would be numbers, ``no``
    False, and `` #`` would begin a comment.
    """
    stripped = text.strip()
    if stripped in NULLS:
        return None
    quoted = stripped[0] in "\"'" and stripped[-1] == stripped[0]
    if not quoted and (_is_text(base, key) or BRACES.fullmatch(stripped)):
        return _home(stripped)
    if match := OTHER_BASE.search(stripped):
        raise UserError(f"{key}={stripped}: {_other_base(match)}")
    parsed: Any = OmegaConf.to_container(OmegaConf.create(f"x: {stripped}"))
    return _home(parsed["x"])


def _is_text(base: Any, key: str) -> bool:
    """Whether a config's field is a text."""
    *path, name = key.split(".")
    node = base
    for each in path:
        node = node._get_node(each) if OmegaConf.is_dict(node) and each in node else None
    if not OmegaConf.is_dict(node):
        return False
    if name in node:
        return isinstance(node._get_node(name), StringNode)
    return node._metadata.element_type is str


def _home(value: Any) -> Any:
    """A value whose paths under ``~`` are in the home folder; shells leave ``a=~/b`` unchanged."""
    match value:
        case str():
            return os.path.expanduser(value) if value.startswith("~/") else value
        case list():
            return [_home(each) for each in value]
        case dict():
            return {key: _home(each) for key, each in value.items()}
    return value


def _other_base(match: re.Match[str]) -> str:
    return (
        f"YAML reads {match[1] or match[2]} as a number in another base: write it without leading"
        " zeros and colons, or in quotes if it is a name"
    )


def _merge(base: Any, layer: DictConfig, source: str) -> None:
    """Put a layer over `base`, in place: a copy takes longer than all else in `load`."""
    _refuse_unknown(base, layer, source, "")
    try:
        base.merge_with(layer)
    except OmegaConfBaseException as error:
        key, said = getattr(error, "full_key", None) or "value", first_line(error)
        wholes = (str(name) for name in layer if _is_section_set_whole(base, layer, name))
        if (section := next(wholes, None)) is not None:
            names = list(base[section])
            key, said = section, f"is a group of settings: write {section}.{names[0]}=..."
        elif "is not a" in said and "ListConfig" in said:
            said = "is a list: write [a, b], or [a] for a single value"
        elif match := NOT_CONVERTED.match(said):
            said = f"must be {KINDS[match[2]]}, not {match[1]}"
        raise UserError(f"{source}: {key}: {said}") from error


def _is_section_set_whole(base: Any, layer: DictConfig, name: Any) -> bool:
    """Whether a layer gives a section one value, such as ``data=x``."""
    value = layer._get_node(name)
    return (
        name in base
        and OmegaConf.is_dict(base._get_node(name))
        and len(base[name] or ()) > 0
        and not OmegaConf.is_dict(value)
    )


def _follow(base: Any, typed: DictConfig) -> None:
    """Set what a section's ``implied_by`` derives from the names typed on the command line."""
    for name, names in typed.items():
        section = base._get_node(name)
        implied_by = getattr(OmegaConf.get_type(section), "implied_by", None)
        if implied_by is not None and OmegaConf.is_dict(names):
            section.update(implied_by(list(names)))


def _judge_own(base: Any, typed: DictConfig, project: str) -> None:
    """Set what follows from ``eval.own``, but for what is typed."""
    section = base.eval if "eval" in base else None
    if section is None or "own" not in section or section.own is None:
        return
    typed_keys = {*leaf_keys(typed)}
    for key, value in settings_of_own(base, project).items():
        if key not in typed_keys:
            OmegaConf.update(base, key, value, merge=False)


def settings_of_own(base: Any, project: str) -> dict[str, Any]:
    """Settings that ``eval.own`` of a config stands for, by dotted key.

    Args:
        base: the config, typed or as a node.
        project: slug, for messages.

    Raises:
        UserError: the file is missing, or the project can't judge what it holds.
    """
    section = base.eval
    schema: Any = OmegaConf.get_type(section) if OmegaConf.is_config(section) else type(section)
    settings: dict[str, Any] = schema.settings_of_own(section.own, base.data.root, project)
    return settings


def _refuse_unknown(base: Any, layer: Any, source: str, prefix: str, root: Any = None) -> None:
    root = base if root is None else root
    if not (OmegaConf.is_dict(base) and OmegaConf.is_dict(layer)):
        return
    typed, keys = is_dataclass(OmegaConf.get_type(base)), set(base.keys())
    for key in layer:
        name = f"{prefix}{key}"
        if typed and key not in keys:
            raise UserError(f"{source}: unknown key '{name}'{nearest(name, leaf_keys(root))}")
        if key in keys and isinstance(base._get_node(key), StringNode):
            value = layer._get_node(key)._value()
            if isinstance(value, bool | float):  # 'no', 1e5
                raise UserError(
                    f"{source}: {name} is a text, which YAML reads as {value}: put it in quotes"
                )
        if key in keys and not OmegaConf.is_missing(base, key):
            _refuse_unknown(base[key], layer._get_node(key), source, f"{name}.", root)


def without_secrets(text: str) -> str:
    """A text whose addresses have neither user and password nor keys, for messages and logs.

    >>> without_secrets("cannot read https://me:pw@x.org/0.tar?part=1&X-Signature=ab1 at all")
    'cannot read https://***@x.org/0.tar?part=1&X-Signature=*** at all'
    """
    return SECRETS.sub(lambda m: f"{m[1]}***@" if m[1] else f"{m[2]}=***", text)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(ROOT))
    except ValueError:
        return str(path)
