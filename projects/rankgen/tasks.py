"""`make run TASK=...`: decode and score what raters said."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.config import UserError
from common.data.lines import read_lines
from common.decoding.language_model import LanguageModel, cut_note
from common.encoders.modes import evaluated
from common.encoders.state_dict import weights_digest
from common.engine import workspace as ws
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.generation.preference import FORM, KEY, write_form
from common.evaluation.tables import markdown_table
from common.files import write_text
from projects.rankgen.config import Config
from projects.rankgen.continuations import (
    REPEAT_SEED,
    SAMPLED,
    decode_kept,
    language_model,
    mauve_judge,
    repeated_metrics,
    side_by_side,
)
from projects.rankgen.data import Triple, eval_triples
from projects.rankgen.decode import tidy
from projects.rankgen.encoder import MARKERS, PrefixSuffixEncoder
from projects.rankgen.generate import write_bundled, write_generations, write_windows
from projects.rankgen.module import RankGen
from projects.rankgen.preference import preference_metrics, read_answers
from projects.rankgen.stages import make_encoder


def decode(cfg: Config, experiment: Experiment[RankGen], workspace: Workspace) -> dict[str, float]:
    """Continue prefixes by every method, side by side (``TASK=decode``).

    Writes ``continuations.md`` and ``continuations.json``, the metrics, a blind A/B form
    (``ab_form.csv``, its key in ``ab_key.csv``) of the two methods of `decode.ab_pair`, and a
    gallery and a figure, which `make report` shows with the run that was decoded.

    Raises:
        UserError: no trained run, unknown method, an A/B pair that is not of two methods, or absent
            weights of the language model.
    """
    section = cfg.decode
    module, run = trained(cfg, experiment, workspace)
    lm = language_model(cfg)
    rows = read_prefixes(Path(section.file).expanduser()) if section.file else _held_back(cfg)
    prefixes = [row.prefix for row in rows]
    _check_pair(cfg, [*section.methods, *(["human"] if all(row.gold for row in rows) else [])])
    for note in cut_notes(cfg, module.encoder, lm, prefixes):
        workspace.say(note)
    writers = [lm.model] if lm.amateur is lm.model else [lm.model, lm.amateur]
    digests = [weights_digest(model) for model in (module.encoder, *writers)]
    name = " ".join([str(run or section.run), *digests])
    sampled = [method for method in section.methods if method in SAMPLED]
    repeats = section.repeats if sampled else 1
    plans = [
        (cfg.seed + REPEAT_SEED * i, sampled if i else section.methods) for i in range(repeats)
    ]
    with torch.inference_mode(), evaluated(module.encoder, cfg.trainer.accelerator):
        kept = [
            decode_kept(
                replace(cfg, seed=seed), module.encoder, lm, prefixes, methods, workspace, name
            )
            for seed, methods in plans
        ]
        runs = [run for run in kept if run is not None]
        if len(runs) < len(kept):
            return {}
        first = runs[0]
        if all(row.gold for row in rows):
            first["human"] = [tidy(row.gold) for row in rows]  # cut like the generations
        shown = side_by_side(module.encoder, prefixes, first)
        metrics = repeated_metrics(prefixes, runs, mauve_judge(cfg, lm), workspace)
    folder = workspace.folder(".")
    ws.write_json(folder / "metrics.json", metrics)
    place = workspace if run is None else Workspace(run)
    place.gallery("decoded continuations", shown)
    place.figure("decoding", method_figure(metrics))
    write_text(folder / "continuations.md", _markdown(shown, metrics))
    texts = [
        {"prefix": prefix, **{name: texts[i] for name, texts in first.items()}}
        for i, prefix in enumerate(prefixes)
    ]
    ws.write_json(folder / "continuations.json", texts)
    if section.ab_pair:
        pair = {name: first[name] for name in section.ab_pair}
        count = write_form(folder / FORM, prefixes, pair, cfg.seed)
        workspace.say(
            f"{count} of {len(prefixes)} pairs, those of unequal texts: give {folder / FORM} to "
            f"raters, keep {folder / KEY}"
        )
    print(_markdown(shown, metrics))  # noqa: T201
    print(f"written: {folder}")  # noqa: T201
    return metrics


def preference(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Majority votes and agreement of raters (``TASK=preference``).

    The key of the form is looked for alongside the answers, then where ``TASK=decode`` wrote it.

    Raises:
        UserError: no file of answers, or one that cannot be read or does not fit its key.
    """
    if cfg.preference.answers is None:
        raise UserError("set preference.answers: the CSV of TASK=decode as raters filled it in")
    path = Path(cfg.preference.answers).expanduser()
    keys = path.with_name(KEY), workspace.path.parent / "task-decode" / KEY
    answers = read_answers(path, next((key for key in keys if key.is_file()), None))
    metrics = preference_metrics(answers, cfg.preference.system)
    ws.write_json(workspace.folder(".") / "preference.json", metrics)
    print(markdown_table(metrics))  # noqa: T201
    return metrics


def trained(
    cfg: Config, experiment: Experiment[RankGen], workspace: Workspace
) -> tuple[RankGen, Path | None]:
    """Module of a run, of an exported folder, or with `model.pretrained` as it is; and the run.

    Raises:
        UserError: no such run.
    """
    if cfg.decode.run == "pretrained":
        return RankGen(cfg, make_encoder(cfg)), None
    return trained_module(experiment, workspace, cfg.decode.run, cfg.runs_dir)


def read_prefixes(path: Path) -> list[Triple]:
    """Prefixes of a text file, one per line.

    Raises:
        UserError: missing or empty file.
    """
    lines = [line.strip() for line in read_lines(path)]
    triples = [Triple("file", line, "", None) for line in lines if line]
    if not triples:
        raise UserError(f"{path} has no prefix: one text per line")
    return triples


def cut_notes(
    cfg: Config, encoder: PrefixSuffixEncoder, lm: LanguageModel, prefixes: Sequence[str]
) -> list[str]:
    """What language model and ranker do not read of the prefixes, in words; nothing if all fit."""
    ids = [lm.token_ids(prefix, special=True) for prefix in prefixes]
    note = cut_note(lm, ids, cfg.decode.max_tokens)
    room, marked = encoder.lengths["prefix"], [MARKERS["prefix"] + text for text in prefixes]
    long = sum(len(row) > room for row in encoder.tokenizer(marked)["input_ids"])
    ranked = (
        f"{long} of {len(prefixes)} prefixes are too long: the ranker reads their first {room}"
        " tokens"
    )
    return [*([note] if note else []), *([ranked] if long else [])]


def method_figure(metrics: dict[str, float]) -> Any:
    """Bars of repetition, overlap and, where it was computed, MAUVE; a line marks human texts."""
    from matplotlib.figure import Figure

    titles = {
        "rep": "repetition (20 words)",
        "overlap": "overlap with the prefix",
        "mauve": "MAUVE",
    }
    shown = [end for end in titles if any(name.endswith(f"_{end}") for name in metrics)]
    figure = Figure(figsize=(3.6 * len(shown), 3.6), layout="constrained")
    for axes, end in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        values = {k.removesuffix(f"_{end}"): v for k, v in metrics.items() if k.endswith(f"_{end}")}
        human = values.pop("human", None)
        axes.barh(list(values)[::-1], list(values.values())[::-1])
        if human is not None:
            axes.axvline(human, color="0.3", linestyle="--", label="human")
            axes.legend(fontsize=8)
        axes.set_title(titles[end], fontsize=9)
        axes.tick_params(labelsize=8)
    return figure


def _check_pair(cfg: Config, methods: Sequence[str]) -> None:
    pair = cfg.decode.ab_pair
    if pair and not (len(pair) == len({*pair}) == 2 and {*pair} <= {*methods}):
        raise UserError(
            f"decode.ab_pair={pair}: choose two of {', '.join(methods)}, or none by"
            " decode.ab_pair=[]"
        )


def _held_back(cfg: Config) -> list[Triple]:
    triples = eval_triples(cfg)
    count = min(cfg.decode.num_prefixes, len(triples))
    return [triples[i * len(triples) // count] for i in range(count)]


def _markdown(shown: list[dict[str, Any]], metrics: dict[str, float]) -> str:
    parts = []
    for row in shown:
        lines = [f"> {row['query']}", ""]
        lines += [f"- ({r['score']:.2f}) **{r['name']}:** {r['item']}" for r in row["results"]]
        parts.append("\n".join(lines))
    methods = [name.removesuffix("_rep") for name in metrics if name.endswith("_rep")]
    columns = ["rep", "overlap", "words", "mauve"]
    table = ["| method | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for method in methods:
        cells = [_cell(metrics, f"{method}_{c}") for c in columns]
        table.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n\n".join([*parts, "\n".join(table)]) + "\n"


def _cell(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    spread = metrics.get(f"{name}_std")
    return f"{metrics[name]:.3f}" + ("" if spread is None else f" +- {spread:.3f}")


TASKS: Mapping[str, Callable[[Config, Workspace], object]] = {
    "windows": write_windows,
    "generate": write_generations,
    "bundle": write_bundled,
    "preference": preference,
}
