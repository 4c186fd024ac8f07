"""The rewrite stage: in-context prompts for a base LM, and the parser of its answers."""

import csv
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from common.config import UserError
from common.data.row_map.options import RowMapConfig
from common.decoding.options import Policy, ServerConfig
from projects.laclip.config import ALIASES, RewriteConfig

if TYPE_CHECKING:
    from common.data.row_map.chunks import RowFunction, RowSeed
    from common.data.row_map.mapper import MappedRows
    from common.engine.workspace import Workspace

INSTRUCTION = "Write every image caption again in different words."
NUM_DEMONSTRATIONS = 3
ARROW = "=>"
PROMPT_STREAM, TOKEN_STREAM = 11, 12  # independent random streams of one line
CHUNK_BATCHES = 10  # batches in a file of finished rewrites
Pair = tuple[str, str]


@lru_cache(1)
def meta_pairs() -> Mapping[str, Sequence[Sequence[str]]]:
    """Demonstration material by source type: pairs, and for mscoco groups of five captions."""
    path = Path(__file__).with_name("meta_pairs.yaml")
    content: dict[str, list[list[str]]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def demonstrations(source_type: str, rng: np.random.Generator) -> list[Pair]:
    """Three pairs of one source type, drawn without replacement.

    For mscoco three scenes are drawn, and of each two different captions in random order.

    Args:
        source_type: chatgpt, bard, mscoco (alias coco) or human.
        rng: generator of one caption.

    Raises:
        UserError: another source type.
    """
    source_type = ALIASES.get(source_type, source_type)
    pairs = meta_pairs()
    if source_type not in pairs:
        raise UserError(f"source_type '{source_type}': use one of {', '.join(pairs)} or coco")
    material = pairs[source_type]
    chosen = [material[i] for i in rng.choice(len(material), NUM_DEMONSTRATIONS, replace=False)]
    if source_type == "mscoco":
        chosen = [[group[i] for i in rng.permutation(len(group))[:2]] for group in chosen]
    return [(source, target) for source, target in chosen]


def build_prompt(caption: str, source_type: str, rng: np.random.Generator) -> str:
    """Instruction, three demonstrations ``source => target``, then ``caption =>``.

    The parts are separated by blank lines; a caption's own line breaks become spaces.

    Source: Fan et al. 2023 (arXiv 2305.20088) and the rewriting script of its official code.
    """
    pairs = demonstrations(source_type, rng)
    shown = [f"{source} {ARROW} {target}" for source, target in pairs]
    return "\n\n".join([INSTRUCTION, *shown, f"{' '.join(caption.split())} {ARROW}"])


def parse_rewrite(completion: str, caption: str) -> str:
    """The rewrite in what the LM wrote after the prompt's final arrow.

    It ends at the first line break or at a further arrow. The caption is returned instead where
    fewer than two words are left, or where it is empty: there was nothing to say again.

    Args:
        completion: new text without the prompt.
        caption: the original.
    """
    line = completion.strip().split("\n", 1)[0]
    text = line.split(ARROW, 1)[0].strip()
    return text if caption.strip() and len(text.split()) >= 2 else caption


def build_rewriter(cfg: RewriteConfig, server: ServerConfig) -> "RowFunction":
    """Captions of a chunk -> their rewrites."""
    from common.data.lines import one_line
    from common.decoding.generators import text_generator
    from common.decoding.prompts import Prompt

    source_type = ALIASES.get(cfg.source_type, cfg.source_type)
    generate = text_generator(
        cfg.model,
        policy_of(cfg),
        server,
        batch_size=cfg.batch_size,
        device=cfg.device,
        stop="\n",
        prompt_budget=cfg.prompt_budget,
        cut_suffix=f" {ARROW}",
    )

    def rewrite(captions: "Sequence[str]", seeds: "Sequence[RowSeed]") -> list[str]:
        prompts = [
            Prompt(build_prompt(caption, source_type, seed.rng(PROMPT_STREAM)))
            for caption, seed in zip(captions, seeds, strict=True)
        ]
        rngs = [seed.rng(TOKEN_STREAM) for seed in seeds]
        rewrites = generate(prompts, rngs, cfg.max_new_tokens)
        return [
            one_line(parse_rewrite(text, caption))
            for text, caption in zip(rewrites, captions, strict=True)
        ]

    return rewrite


def policy_of(cfg: RewriteConfig) -> Policy:
    """Nucleus sampling of the config."""
    return Policy("nucleus", temperature=cfg.temperature, top_p=cfg.top_p)


def rewrite_file(
    cfg: RewriteConfig,
    workspace: "Workspace | None" = None,
    *,
    task: RowMapConfig | None = None,
    server: ServerConfig | None = None,
) -> "MappedRows":
    """Rewrite every caption of a text file or CSV with a language model (``TASK=rewrite``).

    Finished chunks are kept in ``<output>.parts``; the output is written when all are there.

    Args:
        cfg: the rewrite section of the config.
        workspace: shows the progress, and is told of rows without rewrite.
        task: share, engine and size of the chunks.
        server: endpoint that writes in place of a local model.

    Returns:
        The rewrites, in the order of the captions.

    Raises:
        UserError: input, output or model missing, an output that this task did not make or made
            with other settings, or see `csv_captions`.
    """
    if cfg.input is None or cfg.output is None:
        raise UserError("set rewrite.input (a caption per line, or the CSV) and rewrite.output")
    from common.data.lines import one_line, read_lines
    from common.data.row_map.mapper import RowMap, map_rows
    from common.data.row_map.parts import MANIFEST, write_joined
    from common.decoding.generators import generator_settings

    if cfg.input.endswith(".csv"):
        captions, skipped = csv_captions(Path(cfg.input).expanduser())
        if skipped and workspace is not None:
            workspace.say(
                f"{skipped} of {skipped + len(captions)} rows of {cfg.input} are skipped, here and"
                " in training: their paths do not end in .png, .jpg or .jpeg (in lower case)"
            )
    else:
        captions = read_lines(Path(cfg.input).expanduser())
    output, server = Path(cfg.output).expanduser(), server or ServerConfig()
    folder = output.with_name(output.name + ".parts")
    if output.exists() and not (folder / MANIFEST).is_file():
        raise UserError(f"{output} exists, but not {folder}: delete it or choose another output")
    settings = {
        **generator_settings(cfg.model, policy_of(cfg), server),
        "source_type": ALIASES.get(cfg.source_type, cfg.source_type),
        "max_new_tokens": cfg.max_new_tokens,
        "prompt_budget": cfg.prompt_budget,
        "batch_size": cfg.batch_size,
    }
    step = RowMap(
        "rewrite",
        partial(build_rewriter, cfg, server),
        settings,
        cfg.seed,
        chunk_size=CHUNK_BATCHES * cfg.batch_size,
    )
    display = workspace.meter if workspace else None
    mapped = map_rows(step, [one_line(text) for text in captions], folder, task, display)
    if mapped.complete:
        write_joined(output, mapped.rows())
        if workspace is not None:
            workspace.say(copies([one_line(text) for text in captions], list(mapped.rows())))
    return mapped


def csv_captions(path: Path) -> tuple[list[str], int]:
    """Captions of a CSV as training reads them, and the number of rows that it skips.

    Raises:
        UserError: no such file, no usable row, or one of more than two cells.
    """
    from common.data.image_text.captions import IMAGE_SUFFIXES, CaptionFiles

    files = CaptionFiles(path)
    skipped = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            if len(row) > 2 and row[0].endswith(IMAGE_SUFFIXES):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, not path,caption: training"
                    f" would read '{row[1]}' alone. Put captions that hold commas between"
                    ' "quotes"'
                )
            skipped += bool(row) and not row[0].endswith(IMAGE_SUFFIXES)
    return [files.texts(i)[0] for i in range(len(files))], skipped


def copies(captions: Sequence[str], rewrites: Sequence[str]) -> str:
    """What is said of rewrites that are the caption itself, as `parse_rewrite` falls back to it.

    >>> copies(["a dog", "a cat", ""], ["a dog", "one cat", ""])
    '1 of 2 rewrites are the caption itself: more than a tenth, so take a larger rewrite.model'
    """
    pairs = [(a, b) for a, b in zip(captions, rewrites, strict=True) if a.strip()]
    same = sum(a == b for a, b in pairs)
    many = ": more than a tenth, so take a larger rewrite.model" if 10 * same > len(pairs) else ""
    return f"{same} of {len(pairs)} rewrites are the caption itself{many}"
