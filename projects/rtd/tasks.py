"""`make run`: search your own pictures, make triplets and phrases, put runs into one table."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.config import UserError
from common.data.image.upright import PICTURES, upright
from common.data.lines import read_lines
from common.data.row_map.mapper import RowMap, map_rows
from common.data.row_map.parts import MANIFEST
from common.data.samplers import sample_rng
from common.data.tables import write_jsonl
from common.decoding.generators import generator_settings
from common.engine.workspace import Workspace
from common.evaluation.matrices import blocks
from common.files import write_text
from projects.rtd.config import Config
from projects.rtd.data import TRIES, tagger_of
from projects.rtd.generate import build_editor, build_writer, editor_policy, holding, writer_policy
from projects.rtd.inference import ComposedSearch, Found
from projects.rtd.pseudo_tokens import without_placeholder
from projects.rtd.table import before_after
from projects.rtd.triplets import Triplet, clean, key_phrases, rule_triplet, write_triplets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RULE_STREAM = 92
BATCH = 64  # pictures of a forward pass


def search(cfg: Config, workspace: Workspace) -> None:
    """``TASK=search``: a reference picture and a sentence over a folder of pictures.

    Writes a PNG, and ``search.hits`` if it is given.
    """
    options = cfg.search
    if (
        options.run is None
        or options.gallery is None
        or options.reference is None
        or options.text is None
    ):
        raise UserError(
            "TASK=search needs search.run (an exported folder), search.gallery (a folder of"
            " pictures), search.reference (a picture) and search.text (what to change)"
        )
    folder, reference = Path(options.gallery).expanduser(), Path(options.reference).expanduser()
    output = None if options.output is None else picture_file(options.output)
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in PICTURES)
    if not paths:
        raise UserError(f"{folder} has no picture ({', '.join(PICTURES)})")
    itself = [i for i, p in enumerate(paths) if p.resolve() == reference.resolve()]
    if len(itself) == len(paths):
        raise UserError(f"{folder} has no picture but the reference")
    if output is not None and output.resolve() in {p.resolve() for p in (reference, *paths)}:
        raise UserError(
            f"search.output={output} is a picture that is searched with, and would be written over:"
            " name another file"
        )
    model = ComposedSearch(Path(options.run).expanduser())
    asked, parts = model.compose(reference, options.text), list(blocks(len(paths), BATCH))
    shown = workspace.progress(parts, "pictures", len(parts))
    index = torch.cat([model.index(paths[part], BATCH) for part in shown])
    hits = model.search(asked, index, options.top, itself)
    for place, score in hits:
        workspace.say(f"{paths[place].name} {score:.3f}")
    if options.hits is not None:
        rows = [{"id": paths[place].name, "score": score} for place, score in hits]
        query = f"{reference.name}: {options.text}"
        write_jsonl(Path(options.hits).expanduser(), [{"query": query, "hits": rows}])
    picture = draw(reference, options.text, [(paths[f.place], f) for f in hits])
    if output is None:
        workspace.say(str(workspace.figure("search", picture)))
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(output, dpi=110, bbox_inches="tight")
        workspace.say(str(output))


def picture_file(output: str) -> Path:
    """Where a figure goes.

    Raises:
        UserError: a suffix of no kind of figure, which would be told after the search alone.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    path, kinds = Path(output).expanduser(), FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise UserError(
            f"search.output={output} is not a picture: end it in .png (or"
            f" .{', .'.join(sorted(kinds))})"
        )
    return path


def draw(reference: Path, text: str, answers: list[tuple[Path, Found]]) -> "Figure":
    """Reference with its sentence, then the answers with their cosines, in a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.8 * (1 + len(answers)), 2.2))
    cells = figure.subplots(1, 1 + len(answers), squeeze=False)[0]
    shown = [(reference, text)] + [(path, f"{path.name}\n{f.score:.3f}") for path, f in answers]
    for axes, (path, title) in zip(cells, shown, strict=True):
        axes.imshow(upright(path))
        axes.set_title(title.replace("$", r"\$"), fontsize=8, wrap=True)  # a price is not a formula
        axes.axis("off")
    return figure


def make_triplets(cfg: Config, workspace: Workspace) -> None:
    """``TASK=triplets``: captions -> text triplets, by rules or by a language model."""
    options = cfg.triplets
    if options.input is None or options.output is None:
        raise UserError(
            "set triplets.input (one caption per line) and triplets.output (a JSON file)"
        )
    source, output = Path(options.input).expanduser(), Path(options.output).expanduser()
    if not source.is_file():
        raise UserError(
            f"triplets.input={source} does not exist: give a text file, one caption per line"
        )
    check_output(output, parts=options.by == "lm")
    captions = [text for line in read_lines(source) if (text := clean(line))]
    if options.by == "rules":
        triplets = by_rules(cfg, captions)
    else:
        step = RowMap(
            "triplets",
            partial(build_editor, options, cfg.generator),
            settings={
                **generator_settings(options.model, editor_policy(options), cfg.generator),
                "max_new_tokens": options.max_new_tokens,
                "retries": options.retries,
                "min_overlap": options.min_overlap,
            },
            seed=cfg.seed,
        )
        mapped = map_rows(step, captions, Path(f"{output}.parts"), cfg.task, workspace.meter)
        workspace.say(mapped.summary)
        if not mapped.complete:
            return
        triplets = [Triplet(*row) for row in mapped.rows() if row is not None]
    if not triplets:
        raise UserError(
            "no triplet passed: the model writes no 'Instruction: ... Edited: ...', or captions"
            " have no nouns"
        )
    write_triplets(output, triplets)
    workspace.say(f"{output}: {len(triplets)} triplets of {len(captions)} captions")


def by_rules(cfg: Config, captions: list[str]) -> list[Triplet]:
    """One rule-based triplet of each caption that has a key phrase to swap."""
    tagger, path = tagger_of(cfg), cfg.triplets.keywords
    if path:
        phrases = [p for line in read_lines(Path(path).expanduser()) if (p := line.strip())]
    else:
        phrases = key_phrases(captions, tagger)
    if not captions or not phrases:
        what = (
            f"triplets.keywords={path} has no phrase"
            if captions and path
            else "triplets.input has no caption with a noun"
        )
        raise UserError(what)
    drawn = []
    for i, caption in enumerate(captions):
        rng = sample_rng(cfg.seed, 0, i, RULE_STREAM)
        tries = (rule_triplet(caption, phrases, tagger, rng) for _ in range(TRIES))
        drawn.append(next((triplet for triplet in tries if triplet is not None), None))
    return [triplet for triplet in drawn if triplet is not None]


def make_phrases(cfg: Config, workspace: Workspace) -> None:
    """``TASK=phrases``: a causal language model writes phrases of concepts, for SEARLE."""
    options = cfg.phrases
    if options.concepts is None or options.output is None:
        raise UserError(
            "set phrases.concepts (one concept per line) and phrases.output (a JSON file)"
        )
    source, output = Path(options.concepts).expanduser(), Path(options.output).expanduser()
    if not source.is_file():
        raise UserError(f"phrases.concepts={source} does not exist")
    if cfg.generator.endpoint is not None and cfg.generator.api == "chat":
        raise UserError(
            "TASK=phrases continues 'a photo of <concept>', which a chat server does not do:"
            " set generator.api=completions, or phrases.model to a local model"
        )
    check_output(output)
    lines = read_lines(source)
    concepts = list(dict.fromkeys(name for line in lines if (name := without_placeholder(line))))
    if not concepts:
        raise UserError(f"phrases.concepts={source} has no concept: write one per line")
    rows = [[concept, i] for concept in concepts for i in range(options.per_concept)]
    step = RowMap(
        "phrases",
        partial(build_writer, options, cfg.generator),
        settings={
            **generator_settings(options.model, writer_policy(options), cfg.generator),
            "max_new_tokens": options.max_new_tokens,
        },
        seed=cfg.seed,
    )
    mapped = map_rows(step, rows, Path(f"{output}.parts"), cfg.task, workspace.meter)
    workspace.say(mapped.summary)
    if not mapped.complete:
        return
    sentences: dict[str, list[str]] = {concept: [] for concept in concepts}
    for concept, phrase in mapped.rows():
        if (held := holding(concept, phrase)) is not None:
            sentences[concept].append(held)
    kept, without = (
        sum(map(len, sentences.values())),
        sum(not phrases for phrases in sentences.values()),
    )
    if not kept:
        raise UserError(
            f"none of {len(rows)} phrases holds its concept: take another phrases.model"
        )
    write_text(output, json.dumps(sentences, ensure_ascii=False))
    workspace.say(
        f"{output}: {kept} of {len(rows)} phrases hold their concept; {without} of {len(concepts)}"
        " concepts have none (SEARLE takes its fixed sentences)"
    )


def table(cfg: Config, workspace: Workspace) -> None:
    """``TASK=table``: before and after RTD of several runs, with what each part cost."""
    if not cfg.table.runs:
        raise UserError("set table.runs=[<run folder>, ...]")
    output = None if cfg.table.output is None else Path(cfg.table.output).expanduser()
    if output is not None:
        check_output(output, parts=False)
    text = before_after([Path(run).expanduser() for run in cfg.table.runs])
    workspace.say(text)
    if output is not None:
        write_text(output, text + "\n")


def check_output(output: Path, *, parts: bool = True) -> None:
    """Refuse a file that would be replaced; make its folder.

    Args:
        output: the file.
        parts: it may be there if ``<output>.parts`` shows that this task made it.

    Raises:
        UserError: the file exists.
    """
    if output.exists() and not (parts and (Path(f"{output}.parts") / MANIFEST).is_file()):
        raise UserError(f"{output} exists already: delete it or choose another output")
    output.parent.mkdir(parents=True, exist_ok=True)


TASKS: Mapping[str, Callable[[Config, Workspace], None]] = {
    "search": search,
    "triplets": make_triplets,
    "phrases": make_phrases,
    "table": table,
}
