"""`make dashboard`: a project's W&B workspace, made from its compare.yaml by W&B's own library."""

from collections.abc import Mapping, Sequence
from typing import Any

from common.config import UserError, load
from common.engine.comparison.spec import read_comparisons
from common.registry import config_class

CURVES = {
    "loss": "train/.*loss$",
    "accuracy": "train/.*accuracy$",
    "learning rate": "train/lr$",
    "gradient norm": "train/grad_norm$",
}
SYSTEM = {"samples a second": "samples_per_second$", "memory": "memory"}
MISSING = (
    "wandb-workspaces is not installed: uv pip install wandb-workspaces (or DRY_RUN=1, which prints"
    " the definition and needs neither it nor an account)"
)


def dashboard(project: str, config: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the workspace of a project shows, as plain data.

    Args:
        project: slug.
        config: whose W&B project is taken.
        overrides: ``a.b=value``, such as ``tracking.wandb_project=mine``.

    Returns:
        ``name``, ``wandb_project``, ``entity`` (None where no config sets it), ``tags`` that its
        runs have, ``group`` (the entry of a run's config by which runs are averaged: the arm), and
        ``sections``: name -> list of panels, each ``{title, curve}`` with a
        regular expression over logged names, or ``{title, bar}`` with the name of a final metric.
    """
    cfg = load(config_class(project), project, config, overrides)
    specs = read_comparisons(project)
    metrics = {name: None for spec in specs for name in (spec.metric, *spec.also)}
    return {
        "name": f"{project}: arms of its comparisons",
        "wandb_project": cfg.tracking.wandb_project,
        "entity": cfg.tracking.entity,
        "tags": [f"project:{project}"],
        "group": "arm",
        "sections": {
            "Results": [{"title": name, "bar": f"test/{name}"} for name in metrics],
            "Curves": [{"title": title, "curve": regex} for title, regex in CURVES.items()],
            "Machine": [{"title": title, "curve": regex} for title, regex in SYSTEM.items()],
        },
    }


def save_dashboard(definition: Mapping[str, Any]) -> str:
    """Save the workspace online.

    Args:
        definition: of `dashboard`, with the entity that it is saved under.

    Returns:
        Its address.

    Raises:
        UserError: the library is absent, or W&B refuses.
    """
    workspace = build(definition)
    try:
        workspace.save()
    except Exception as error:  # of many kinds: no account, no network, an unknown entity
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"W&B takes no workspace for entity '{definition['entity']}': {lines[0]}"
        ) from error
    return str(workspace.url)


def build(definition: Mapping[str, Any]) -> Any:
    """The library's workspace.

    Raises:
        UserError: the library is absent.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(MISSING) from error

    def panel(entry: Mapping[str, str]) -> Any:
        grouped = {"groupby": panels.Config(definition["group"]), "groupby_aggfunc": "mean"}
        if "bar" in entry:
            return panels.BarPlot(
                title=entry["title"], metrics=[entry["bar"]], groupby_rangefunc="stddev", **grouped
            )
        return panels.LinePlot(
            title=entry["title"],
            metric_regex=entry["curve"],
            title_x="step",
            title_y=entry["title"],
            groupby_rangefunc="minmax",
            **grouped,
        )

    return ws.Workspace(
        entity=definition["entity"],
        project=definition["wandb_project"],
        name=definition["name"],
        sections=[
            ws.Section(name=name, panels=[panel(entry) for entry in entries], is_open=i < 2)
            for i, (name, entries) in enumerate(definition["sections"].items())
        ],
        runset_settings=ws.RunsetSettings(
            filters=[ws.Tags().isin(list(definition["tags"]))],
            groupby=[ws.Config(definition["group"])],
        ),
    )
