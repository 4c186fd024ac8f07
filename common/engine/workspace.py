"""What an evaluation or a task leaves behind: figures, galleries, notes and per-item scores."""

import datetime
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import ExperimentConfig, UserError
from common.files import write_text

NOTES = "notes.txt"  # of a run or an evaluation


class Workspace:
    """A folder to write in: of a run, of one evaluation of it, or of a task.

    Args:
        path: the folder; created when something is first written.
        project: slug.
        config: config name.
        trained: folder of the run that is evaluated; None: the same.
    """

    def __init__(
        self, path: Path, project: str = "", config: str = "", trained: Path | None = None
    ) -> None:
        self.path, self.project, self.config, self.trained = path, project, config, trained or path
        self.figure_sinks: list[Any] = []  # loggers with log_image(key, images)

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def curves(self) -> Path:
        """metrics.csv of the run, absent where only weights are known."""
        return self.trained / "metrics.csv"

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

    def meter(self, description: str, total: int) -> Any:
        """A progress display, which shows how many of the units are done."""
        from common.engine.progress import Meter

        return Meter(description, total)

    def say(self, text: str) -> None:
        """A note that is also shown on the terminal."""
        self.note(text)
        sys.stdout.write(text.rstrip() + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Append a line to `NOTES` of the run, which the report shows."""
        with (self.folder(".") / NOTES).open("a", encoding="utf-8") as file:
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
        """As `items` for the mean of metrics that have items; each is resampled within its set."""
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


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written in; it is not made here.

    Raises:
        UserError: see above.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is not writable" if there.is_dir() else "is a file"
        raise UserError(f"cannot write runs below {folder}: {there} {why}; set another runs_dir")


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole and synced, so that neither readers nor a loss of power see half of it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; UserError when the file is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
