"""``eval.own``: a file or folder of the user is judged in place of the sets of a config.

The evaluation section of every project extends `OwnData` and declares in `judges` which layouts
the project can judge. The settings of a `Judge` point the options that a project has at the file;
they come after a config's values and before those that are typed. Where a family has a function for
a layout, `common.engine.experiment.Experiment.judges` holds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from common.config import UserError
from common.data.layouts import Layout, layout_of
from common.data.lookup import data_root

OWN = "{own}"  # in settings: the absolute path of the file or folder


@dataclass(frozen=True)
class Judge:
    """How a project judges a layout.

    Attributes:
        settings: dotted key -> value, with `OWN` for the path.
        baselines: whether the functions of the project's ``baselines.py`` read these settings, so
            that their values belong in the same table.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    baselines: bool = False


@dataclass
class OwnData:
    """What every evaluation section has."""

    # file or folder of yours, judged in place of the config's sets: here or below data.root; what
    # it holds decides how, see docs/your-data.md
    own: str | None = None

    judges: ClassVar[Mapping[Layout, Judge]] = {}

    @classmethod
    def settings_of_own(cls, own: str, root: str | None, project: str) -> dict[str, Any]:
        """Settings that follow from ``eval.own``, by dotted key.

        Args:
            own: its value.
            root: ``cfg.data.root``.
            project: slug, for messages.

        Raises:
            UserError: there is no such file, or the project can't judge what it holds.
        """
        path = own_path(own, root)
        judge = cls.judges.get(own_layout(path, cls.judges, project))
        assert judge is not None
        return {key: _filled(value, str(path)) for key, value in judge.settings.items()}


def own_path(own: str, root: str | None) -> Path:
    """Absolute path of ``eval.own``: in the working folder, else below the data root.

    Raises:
        UserError: it is in neither place.
    """
    place = Path(own).expanduser()
    for path in (place, data_root(root) / place):
        if path.exists():
            return path.resolve()
    raise UserError(f"eval.own={own} does not exist, here or below {data_root(root)}")


def own_layout(path: Path, judges: Mapping[Layout, Judge], project: str) -> Layout:
    """The layout of a user's file, one of those that a project judges.

    Raises:
        UserError: it is another one, or none.
    """
    if not judges:
        raise UserError(
            f"{project} judges no data of your own: its evaluation needs more than a file, see"
            f" projects/{project}/README.md"
        )
    readable = " or ".join(layout.value for layout in judges)
    layout = layout_of(path)
    if layout not in judges:
        raise UserError(f"eval.own={path} is {layout.value}; {project} judges {readable}")
    return layout


def _filled(value: Any, path: str) -> Any:
    """A value of a setting with the path in place of `OWN`."""
    if isinstance(value, str):
        return value.replace(OWN, path)
    if isinstance(value, list):
        return [_filled(entry, path) for entry in value]
    if isinstance(value, dict):
        return {key: _filled(entry, path) for key, entry in value.items()}
    return value
