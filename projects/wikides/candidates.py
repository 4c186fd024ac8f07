"""From records of phase I to those of phase II: candidates by a sweep over beam widths."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.data.tables import read_jsonl, write_jsonl
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.engine.workspace import Workspace
from common.export.files import output_file
from projects.wikides.beam_sweep import beam_sweep, distinct
from projects.wikides.config import CandidatesConfig, Config
from projects.wikides.data import instance_names

CHUNK = 128  # rows in a file of finished candidates


def write_candidates(cfg: Config, workspace: Workspace) -> Path | None:
    """Let a generator describe every paragraph with every beam width (``TASK=candidates``).

    Can be stopped and continued, and shared out, see ``task``.

    Returns:
        The file of ``source``, ``candidate``, ``target``, ``phase1``, the text of the first width,
        "" where it writes nothing, and ``baseline_candidates`` where the input has them; None while
        other shares are missing.

    Raises:
        UserError: no input or generator, or damaged rows.
    """
    task = cfg.candidates
    if task.input is None or task.generator is None:
        raise UserError(
            "set candidates.input (records of phase I) and candidates.generator (a folder written"
            " by `make export`, or a hub id)"
        )
    path = Path(task.input).expanduser()
    rows, asked = read_jsonl(path, ("source", "target")), []
    for number, row in enumerate(rows, start=1):
        where = f"{path}, line {number}"
        if not all(isinstance(row[name], str) for name in ("source", "target")):
            raise UserError(f"{where}: source and target are texts")
        asked.append({"source": row["source"], "names": instance_names(row, where) or []})
    output = output_file(task.output, workspace.folder("."), "candidates.jsonl", [task.input])
    names = ("generator", "widths", "max_new_tokens", "max_source", "baselines", "batch_size")
    settings = {name: getattr(task, name) for name in names}
    step = RowMap("pools", partial(build_sweep, task), settings, cfg.seed, CHUNK)
    mapped = map_rows(step, asked, workspace.folder("candidates"), cfg.task, workspace.meter)
    workspace.say(mapped.summary)
    if not mapped.complete:
        return None
    pairs = zip(rows, mapped.rows(), strict=True)
    shown = ("source", "target", "baseline_candidates")
    made = [{name: r[name] for name in shown if name in r} | new for r, new in pairs]
    write_jsonl(output, made)
    mean = sum(len(row["candidate"]) for row in made) / max(1, len(made))
    workspace.say(f"{output}: {len(made)} rows, {mean:.2f} candidates a row")
    return output


def build_sweep(options: CandidatesConfig) -> RowFunction:
    """Rows of a chunk -> the pool of each, and phase I's own text."""
    assert options.generator is not None
    model = SequenceToSequence.from_pretrained(options.generator, options.device)
    model.context = min(model.context, options.max_source)
    most = fitting(model, options.max_new_tokens)

    def sweep(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[dict[str, Any]]:
        swept = beam_sweep(
            model,
            [row["source"] for row in rows],
            options.widths,
            most,
            batch_size=options.batch_size,
        )
        return [
            {
                "candidate": pool(outputs, row["names"] if options.baselines else ()),
                "phase1": outputs[0],
            }
            for outputs, row in zip(swept, rows, strict=True)
        ]

    return sweep


def fitting(model: SequenceToSequence, max_new_tokens: int) -> int:
    """At most as many new tokens as the decoder has positions.

    T5's, which are relative, have no end.
    """
    places = getattr(model.model.config, "max_position_embeddings", None)
    return max_new_tokens if places is None else min(max_new_tokens, int(places))


def pool(outputs: Sequence[str], names: Sequence[str]) -> list[str]:
    """Candidates of a paragraph: outputs in the order of the beam widths, then names of instances.

    No text twice, and the same order in every process (the release has that of a set of strings).
    """
    return distinct([*outputs, *names])
