"""The run folder: layout, provenance, figures, galleries and per-item scores."""

import datetime
import json
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from common.config import ROOT, ExperimentConfig, UserError, nearest, to_yaml

PACKAGES = ("torch", "torchvision", "torchaudio", "triton", "lightning", "transformers",
            "open_clip_torch", "timm", "numpy", "wandb", "omegaconf")  # fmt: skip


class Workspace:
    """One run's folder, ``runs/<project>/<config>/<run-id>/``.

    Args:
        path: the folder; created when something is first written.
        project: slug.
        config: config name.
    """

    def __init__(self, path: Path, project: str = "", config: str = "") -> None:
        self.path, self.project, self.config = path, project, config
        self.figure_sinks: list[Any] = []  # loggers with log_image(key, images)

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.path.name

    def folder(self, name: str) -> Path:
        """A sub-folder, created."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def progress(
        self, iterable: Iterable[Any], description: str, total: int | None = None
    ) -> Iterable[Any]:
        """Iterate with a progress bar (a line every few seconds where there is no terminal)."""
        from common.engine.progress import track

        return track(iterable, description, total)

    def note(self, text: str) -> None:
        """Append a line to notes.txt of the run."""
        with (self.folder(".") / "notes.txt").open("a", encoding="utf-8") as file:
            file.write(text.rstrip() + "\n")

    def figure(self, name: str, figure: Any) -> Path:
        """Save a matplotlib figure as plots/<name>.png and hand it to the loggers."""
        path = self.folder("plots") / f"{name}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight")
        for sink in self.figure_sinks:
            sink.log_image(key=name, images=[str(path)])
        return path

    def items(self, metric: str, values: Sequence[float]) -> None:
        """Save a metric's value for each test item; `make compare` pairs them between arms."""
        path = self.folder("items") / f"{metric}.json"
        write_json(path, [float(v) for v in values])

    def rank_items(self, metric: str, predicted: Sequence[float], gold: Sequence[float]) -> None:
        """As `items` for a Spearman correlation: what was predicted for each item, and its gold."""
        values = {"predicted": [float(v) for v in predicted], "gold": [float(v) for v in gold]}
        write_json(self.folder("items") / f"{metric}.json", values)

    def mean_items(self, metric: str, of: Sequence[str]) -> None:
        """As `items` for the mean of other metrics: each has its items, drawn within its own set."""
        write_json(self.folder("items") / f"{metric}.json", {"mean_of": list(of)})

    def gallery(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Save queries with what was retrieved for them; the report shows them.

        Args:
            name: title.
            rows: ``{"query": image or text, "results": [{"item": image or text, "score": float,
                "correct": bool, "name": str}, ...]}``; images are PIL images. `correct` is left
                out where nothing is right or wrong, `name` where an item has none.
        """
        folder = self.folder(f"gallery/{name}")
        plain = []
        for r, row in enumerate(rows):
            results = [
                {**res, "item": self._save_item(folder, f"{r}-{i}", res["item"])}
                for i, res in enumerate(row["results"])
            ]
            query = self._save_item(folder, f"{r}-query", row["query"])
            plain.append({"query": query, "results": results})
        write_json(folder / "gallery.json", plain)

    def _save_item(self, folder: Path, stem: str, item: Any) -> dict[str, str]:
        if isinstance(item, str):
            return {"text": item}
        item.save(folder / f"{stem}.png")
        return {"image": f"{stem}.png"}


def new_run_id() -> str:
    """Date, time and four random hex digits."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_folder(cfg: ExperimentConfig, project: str, config: str) -> Path:
    """Folder of all runs of one config."""
    return Path(cfg.runs_dir) / project / config


def find_run(cfg: ExperimentConfig, project: str, config: str, which: str) -> Path:
    """Folder of an existing run: ``latest``, a run id, or a path.

    Raises:
        UserError: none exists under that name.
    """
    base = run_folder(cfg, project, config)
    runs = sorted(p.parent.name for p in base.glob("*/meta.json"))
    if which == "latest":
        if not runs:
            raise UserError(
                f"no run of {project}/{config} under {base} yet: "
                f"make train PROJECT={project} CONFIG={config}"
            )
        return base / max(runs, key=lambda r: (base / r / "meta.json").stat().st_mtime)
    for path in (base / which, Path(which)):
        if (path / "meta.json").is_file():
            return path
    raise UserError(f"no run '{which}' of {project}/{config} under {base}{nearest(which, runs)}")


def create(cfg: ExperimentConfig, project: str, config: str, overrides: Sequence[str],
           extra: Mapping[str, Any]) -> Workspace:  # fmt: skip
    """Make the folder of a new run with config.yaml and meta.json.

    Raises:
        UserError: a run with this id exists.
    """
    path = run_folder(cfg, project, config) / (cfg.run_id or new_run_id())
    if (path / "meta.json").exists():
        raise UserError(f"{path} exists; choose another run_id, or resume={path.name}")
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(to_yaml(cfg), encoding="utf-8")
    write_json(path / "meta.json", {**provenance(cfg, project, config, overrides), **extra})
    return Workspace(path, project, config)


def provenance(
    cfg: ExperimentConfig, project: str, config: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Commit, versions, hardware and seed of this process."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "project": project,
        "config": config,
        "overrides": list(overrides),
        "seed": cfg.seed,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu},
        "command": " ".join(["python -m common.cli", *sys.argv[1:]]),
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def update_meta(path: Path, **values: Any) -> None:
    """Merge values into a run's meta.json."""
    meta = read_json(path / "meta.json")
    write_json(path / "meta.json", {**meta, **values})


def write_json(path: Path, value: Any) -> None:
    """Write JSON through a temporary file, so that readers never see half of it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file through a temporary one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read JSON; UserError when the file is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def _git(*args: str) -> str | None:
    try:
        out = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() if out.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
