"""`make report`: one static HTML file with curves, tables and galleries of runs."""

import base64
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure

from common.config import ROOT, UserError
from common.engine.comparison.results import comparisons, markdown, verdict_line
from common.engine.tracking import read_metrics
from common.engine.workspace import read_json

MAX_RUNS = 6  # latest runs shown per project

TEMPLATE = """<!doctype html><meta charset="utf-8"><title>{{ title }}</title>
<style>
body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.6em 0}td,th{border:1px solid #ccc;padding:.25em .6em;text-align:left}
th{background:#f3f3f3}h2{border-bottom:2px solid #ddd;margin-top:2em}img{max-width:100%}
.gallery td{vertical-align:top;text-align:center;min-width:84px;max-width:150px;font-size:13px}
.texts{width:100%}.texts td{vertical-align:top}.texts td:last-child{width:85%}
.gallery img{width:72px;image-rendering:pixelated}.hit{background:#e3f6e3}.miss{background:#fdeeee}
pre{white-space:pre-wrap;background:#f7f7f7;padding:.8em}.small{color:#666;font-size:13px}
</style><h1>{{ title }}</h1>
{% for p in projects %}<h2 id="{{ p.slug }}">{{ p.slug }}</h2>
{% if p.comparison %}<h3>Comparison</h3>{{ p.comparison.table }}
<ul>{% for c in p.comparison.claims %}<li>{{ c }}</li>{% endfor %}</ul>
{% if p.comparison.image %}<img src="{{ p.comparison.image }}" alt="comparison">{% endif %}{% endif %}
{% for r in p.runs %}<h3>{{ r.name }}</h3>
<p class="small">seed {{ r.meta.seed }}, {{ r.meta.num_steps }} steps, batch
{{ r.meta.global_batch_size }}, {{ "{:,}".format(r.meta.parameters or 0) }} parameters,
commit {{ (r.meta.commit or "unknown")[:10] }}{{ " + local changes" if r.meta.dirty }},
{{ r.meta.hardware.gpu or r.meta.hardware.cpu }}, {{ r.meta.wall_seconds or "?" }} s,
{{ "%.0f"|format(r.meta.samples_per_second or 0) }} samples/s</p>
{% if r.metrics %}<table><tr><th>metric</th><th>value</th><th>chance</th></tr>
{% for name, value in r.metrics.items() if not name.endswith("_chance") %}<tr><td>{{ name }}</td>
<td>{{ value|number }}</td><td>{% if name ~ "_chance" in r.metrics %}
{{ r.metrics[name ~ "_chance"]|number }}{% endif %}</td></tr>{% endfor %}</table>{% endif %}
{% if r.curves %}<img src="{{ r.curves }}" alt="curves">{% endif %}
{% for plot in r.plots %}<img src="{{ plot }}" alt="plot">{% endfor %}
{% for g in r.galleries %}<h4>{{ g.name }}</h4>{% if g.text %}{% for row in g.rows %}
<table class="texts"><tr><th colspan="3">{{ row.query.text }}</th></tr>{% for x in row.results %}
<tr class="{{ mark(x) }}"><td>{{ x.name or "" }}</td><td>{{ "%.2f"|format(x.score) }}</td>
<td>{{ x.item.text }}</td></tr>{% endfor %}</table>{% endfor %}{% else %}
<table class="gallery">{% for row in g.rows %}<tr>
<th>{% if row.query.image %}<img src="{{ row.query.image }}" alt="query">{% else %}{{ row.query.text }}
{% endif %}</th>{% for x in row.results %}<td class="{{ mark(x) }}">
{% if x.item.image %}<img src="{{ x.item.image }}" alt="result">{% else %}{{ x.item.text }}{% endif %}
<br>{{ "%.2f"|format(x.score) }}</td>{% endfor %}</tr>{% endfor %}</table>{% endif %}{% endfor %}
{% endfor %}{% endfor %}"""


def write_report(
    projects: Sequence[str], out: Path | None = None, runs: Path | None = None
) -> Path:
    """Write reports/<project or index>.html; images are embedded, nothing else is needed.

    Args:
        projects: slugs.
        out: folder of the report; None: ``reports/``.
        runs: folder of the runs; None: ``runs/``.

    Returns:
        The HTML file.

    Raises:
        UserError: there is neither a run nor a comparison to show.
    """
    out, runs = out or ROOT / "reports", runs or Path("runs")
    shown = [_project(slug, runs) for slug in projects]
    shown = [p for p in shown if p["runs"] or p["comparison"]]
    if not shown:
        raise UserError(f"nothing to report: no runs of {', '.join(projects)} under {runs}")
    title = projects[0] if len(projects) == 1 else "Runs and comparisons"
    name = projects[0] if len(projects) == 1 else "index"
    environment = Environment(autoescape=True)
    environment.globals["mark"] = _mark
    environment.filters["number"] = lambda v: "undefined" if v is None else f"{v:.4f}"
    html = environment.from_string(TEMPLATE).render(title=title, projects=shown)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.html"
    path.write_text(html, encoding="utf-8")
    for plot in (ROOT / "results").glob("*.png"):
        shutil.copy(plot, out / plot.name)
    return path


def _project(slug: str, runs: Path) -> dict[str, Any]:
    folders = [p.parent for p in (runs / slug).glob("*/*/meta.json")]
    folders = [f for f in folders if not f.name.startswith("compare-")]
    latest = sorted(folders, key=lambda f: (f / "meta.json").stat().st_mtime)[::-1][:MAX_RUNS]
    return {
        "slug": slug,
        "comparison": _comparison(slug),
        "runs": [_run(folder) for folder in latest],
    }


def _comparison(slug: str) -> dict[str, Any] | None:
    path = ROOT / "results" / f"{slug}.json"
    if not path.exists():
        return None
    result = read_json(path)
    rows = [line for line in markdown(result).splitlines() if line.startswith("|")]
    plot = path.with_suffix(".png")
    return {
        "table": _html_table(rows),
        "claims": [
            verdict_line(claim, own["metric"]).replace("**", "")
            for own in comparisons(result)
            for claim in own["claims"]
        ],
        "image": _data_uri(plot.read_bytes()) if plot.exists() else None,
    }


def _html_table(rows: Sequence[str]) -> Any:
    from markupsafe import Markup, escape

    cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
    body = [
        "<tr>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in row) + "</tr>"
        for i, row in enumerate(cells)
        if i != 1
        for tag in ("th" if i == 0 else "td",)
    ]
    return Markup("<table>" + "".join(body) + "</table>")


def _run(folder: Path) -> dict[str, Any]:
    metrics, curves = folder / "metrics.json", folder / "metrics.csv"
    return {
        "name": f"{folder.parent.name}/{folder.name}",
        "meta": read_json(folder / "meta.json"),
        "metrics": read_json(metrics) if metrics.exists() else {},
        "curves": _curves(curves) if curves.exists() else None,
        "plots": [_data_uri(p.read_bytes()) for p in sorted((folder / "plots").glob("*.png"))],
        "galleries": [_gallery(p) for p in sorted((folder / "gallery").glob("*/gallery.json"))],
    }


def _gallery(path: Path) -> dict[str, Any]:
    def embed(item: dict[str, str]) -> dict[str, str]:
        if "image" not in item:
            return item
        return {"image": _data_uri((path.parent / item["image"]).read_bytes())}

    rows: list[dict[str, Any]] = [
        {
            "query": embed(row["query"]),
            "results": [{**r, "item": embed(r["item"])} for r in row["results"]],
        }
        for row in read_json(path)
    ]
    shown = [x for row in rows for x in (row["query"], *(r["item"] for r in row["results"]))]
    return {"name": path.parent.name, "rows": rows, "text": all("text" in x for x in shown)}


def _mark(result: dict[str, Any]) -> str:
    """Style of a gallery's item; none where nothing is right or wrong."""
    return "" if "correct" not in result else "hit" if result["correct"] else "miss"


def _curves(path: Path) -> str | None:
    curves = {k: v for k, v in read_metrics(path).items() if "/sys/" not in k}
    if not curves:
        return None
    columns = min(4, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(3 * columns, 2.2 * lines), layout="constrained")
    for position, (name, points) in enumerate(sorted(curves.items()), 1):
        axes = figure.add_subplot(lines, columns, position)
        axes.plot([s for s, _ in points], [v for _, v in points], linewidth=1)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, format="png")
    return _data_uri(buffer.getvalue())


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
