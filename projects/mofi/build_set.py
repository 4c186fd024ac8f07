"""`make run TASK=build`: images with alt-texts -> images with entities, in resumable stages.

extract -> link -> describe -> score -> select and count. Each of the first four keeps its chunks in
``<output>.parts/<stage>``, may be shared out (``task.shard``) and goes on where it was broken off.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.decode import decode_image
from common.data.image.sources import EvalTransform
from common.data.lines import read_lines
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import MappedRows, RowMap, map_rows
from common.data.row_map.options import RowMapConfig
from common.data.row_map.parts import rows_digest
from common.decoding.generators import generator_settings, text_generator
from common.decoding.options import Policy, ServerConfig
from common.decoding.prompts import Prompt, TextGenerator
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder, open_clip_dual_encoder
from common.encoders.state_dict import read_state_dict
from common.engine.workspace import Workspace
from projects.mofi.bundled import row_of
from projects.mofi.config import BuildConfig, SelectConfig
from projects.mofi.extract import Extractor, lm_extractor, named_extractor, ner_extractor
from projects.mofi.knowledge import (
    Entity,
    Knowledge,
    description_vectors,
    entity_text,
    read_knowledge,
)
from projects.mofi.linking import Linker, lm_linker, table_linker
from projects.mofi.select import Row
from projects.mofi.write_set import check_folder, check_readable, finish

DESCRIBE = "Describe {name} in at most 12 words, as a noun phrase. {sentence}"
MOST_WORDS = 12
GREEDY = Policy("greedy")


def build_set(
    cfg: BuildConfig,
    select: SelectConfig,
    server: ServerConfig,
    task: RowMapConfig,
    workspace: Workspace | None = None,
    max_corrupt: float = 0.05,
) -> dict[str, Any] | None:
    """Run all stages; write ``<output>``, entities.tsv, report.json and hand_check.tsv.

    Source: Wu et al. 2024, section 3.1, arXiv 2306.07952.

    Args:
        cfg: the section of the config.
        select: score threshold and frequency filter.
        server: of the language model, instead of a local one.
        task: share of the work.
        workspace: shows the progress.
        max_corrupt: share of images that may be unreadable.

    Returns:
        The statistics; None where other shares have chunks left.

    Raises:
        UserError: a path that is not set, unreadable input, absent weights, files of another set in
            the output's folder, too many unreadable images, or no image left.
    """
    for name, value in (("input", cfg.input), ("output", cfg.output), ("clip", cfg.clip)):
        if value is None:
            raise UserError(f"set build.{name}; see make show PROJECT=mofi for what it is")
    output = Path(str(cfg.output))
    check_folder(output)
    rows = read_input(Path(str(cfg.input)))
    parts = Path(f"{cfg.output}.parts")

    def mapped(
        name: str, build: Callable[[], RowFunction], rows: Sequence[Any], **settings: Any
    ) -> MappedRows:
        step = RowMap(
            name, build, settings | {"max_new_tokens": cfg.max_new_tokens}, 0, cfg.chunk_size
        )
        return map_rows(step, rows, parts / name, task, workspace.meter if workspace else None)

    knowledge = partial(read_knowledge, Path(cfg.knowledge) if cfg.knowledge else None)
    lm = generator_settings(str(cfg.lm), GREEDY, server)
    base = {
        "knowledge": cfg.knowledge or "bundled",
        "digest": digest_of(cfg.knowledge),
        "names": "letters, digits",
    }
    built = mapped(
        "extract",
        partial(extract_rows, cfg, server, knowledge),
        rows,
        **base,
        extractor=cfg.extractor,
        limit=cfg.max_mentions,
        model={"ner": cfg.ner_model, "lm": lm, "dictionary": None}[cfg.extractor],
    )
    if not built.complete:
        return None
    built = mapped(
        "link",
        partial(link_rows, cfg, server, knowledge),
        list(built.rows()),
        **base,
        linker=cfg.linker,
        vectors=cfg.vectors,
        vectors_digest=file_digest(cfg.vectors),
        model=lm if cfg.linker == "lm" else None,
    )
    if not built.complete:
        return None
    linked = list(built.rows())
    if cfg.describe == "lm":
        built = mapped(
            "describe", partial(describe_rows, cfg, server), first_uses(linked), model=lm
        )
        if not built.complete:
            return None
        texts = {entity["id"]: entity["description"] for entity in built.rows()}
        for row in linked:
            row["entities"] = [e | {"description": texts[e["id"]]} for e in row["entities"]]
    images = cfg.images or str(Path(str(cfg.input)).parent)
    score = partial(score_rows, str(cfg.clip), Path(images), cfg.batch_size, cfg.device)
    built = mapped("score", score, linked, clip=cfg.clip, images=images)
    if not built.complete:
        return None
    scored = list(built.rows())
    check_readable(scored, max_corrupt, parts / "score")
    return finish(scored, linked, output, select)


def read_input(path: Path) -> list[Row]:
    """Rows with image and alt_text; a title is put before the alt-text.

    Raises:
        UserError: unreadable file or row.
    """
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            entry = json.loads(line)
            image, text = entry["image"], entry["alt_text"]
            title = entry.get("title", "")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number} needs image and alt_text: {error}") from error
        if not all(isinstance(x, str) for x in (image, text, title)):
            raise UserError(f"{path}, line {number}: image, alt_text and title are strings")
        rows.append({"image": image, "alt_text": f"{title}. {text}" if title else text})
    if not rows:
        raise UserError(f"{path} has no row: write one JSON object per line")
    return rows


def digest_of(path: str | None) -> str:
    """SHA-256 of a file's lines; empty without a file."""
    return "" if path is None else rows_digest(read_lines(Path(path)))


def file_digest(path: str | None) -> str:
    """SHA-256 of a file; empty without one.

    Raises:
        UserError: it cannot be read.
    """
    if path is None:
        return ""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


# -- stages --------------------------------------------------------------------------------------


def _generator(cfg: BuildConfig, server: ServerConfig) -> TextGenerator:
    if cfg.lm is None and server.endpoint is None:
        raise UserError("set build.lm, a local language model, or generator.endpoint")
    return text_generator(str(cfg.lm), GREEDY, server, batch_size=cfg.batch_size, device=cfg.device)


def extract_rows(
    cfg: BuildConfig, server: ServerConfig, knowledge: Callable[[], Knowledge]
) -> RowFunction:
    """Rows -> rows with ``mentions``."""
    extract: Extractor
    if cfg.extractor == "dictionary":
        extract = named_extractor(knowledge(), cfg.max_mentions)
    elif cfg.extractor == "lm":
        extract = lm_extractor(_generator(cfg, server), cfg.max_mentions, cfg.max_new_tokens)
    elif cfg.ner_model is None:
        raise UserError("set build.ner_model, a token-classification model")
    else:
        extract = ner_extractor(cfg.ner_model, cfg.max_mentions, cfg.batch_size, cfg.device)

    def run(rows: Sequence[Row], seeds: Sequence[RowSeed]) -> list[Row]:
        mentions = extract([row["alt_text"] for row in rows], [seed.rng(0) for seed in seeds])
        return [row | {"mentions": names} for row, names in zip(rows, mentions, strict=True)]

    return run


def link_rows(
    cfg: BuildConfig, server: ServerConfig, knowledge: Callable[[], Knowledge]
) -> RowFunction:
    """Rows with mentions -> rows with ``entities``, their scores still 0."""
    knowledge_base = knowledge()
    link: Linker
    if cfg.linker == "lm":
        link = lm_linker(knowledge_base, _generator(cfg, server), cfg.max_new_tokens)
    else:
        link = table_linker(
            knowledge_base, entity_vectors(cfg, knowledge_base) if cfg.linker == "context" else None
        )

    def run(rows: Sequence[Row], seeds: Sequence[RowSeed]) -> list[Row]:
        texts, mentions = [row["alt_text"] for row in rows], [row["mentions"] for row in rows]
        links = link(texts, mentions, [seed.rng(0) for seed in seeds])
        return [
            row_of(knowledge_base, row["image"], row["alt_text"], linked)
            for row, linked in zip(rows, links, strict=True)
        ]

    return run


def entity_vectors(cfg: BuildConfig, knowledge: Knowledge) -> Tensor:
    """Unit vectors of the knowledge base: of a file, or of its descriptions' words.

    Raises:
        UserError: a file without one row of ``vectors`` for each entity.
    """
    if cfg.vectors is None:
        return description_vectors(knowledge)
    stored = read_state_dict(Path(cfg.vectors)).get("vectors")
    if stored is None or stored.ndim != 2 or len(stored) != len(knowledge.entities):
        raise UserError(
            f"{cfg.vectors} needs a tensor 'vectors' with a row for each of the "
            f"{len(knowledge.entities)} entities of build.knowledge"
        )
    return torch.nn.functional.normalize(stored.float(), dim=1)


def first_uses(rows: Sequence[Row]) -> list[Row]:
    """Every entity once, with the caption that it was first seen in."""
    first: dict[str, Row] = {}
    for row in rows:
        for entity in row["entities"]:
            first.setdefault(entity["id"], {**entity, "caption": row["alt_text"]})
    return list(first.values())


def describe_rows(cfg: BuildConfig, server: ServerConfig) -> RowFunction:
    """Entities -> entities with a description of at most 12 words.

    What is no good keeps the old one.
    """
    generate = _generator(cfg, server)

    def run(rows: Sequence[Row], seeds: Sequence[RowSeed]) -> list[Row]:
        prompts = [
            Prompt(DESCRIBE.format(name=r["name"], sentence=r["description"]).strip(), turn=True)
            for r in rows
        ]
        answers = generate(prompts, [seed.rng(0) for seed in seeds], cfg.max_new_tokens)
        return [
            row | {"description": checked_description(answer, row["caption"]) or row["description"]}
            for row, answer in zip(rows, answers, strict=True)
        ]

    return run


def checked_description(answer: str, caption: str) -> str:
    r"""The first line of an answer; empty if it holds the caption or more than 12 words.

    >>> checked_description("a small song bird\nIt sings.", "a lark")
    'a small song bird'
    """
    lines = answer.strip().splitlines() or [""]
    line = lines[0].strip().rstrip(".")
    repeats_caption = caption.strip().lower() and caption.strip().lower() in line.lower()
    return "" if repeats_caption or len(line.split()) > MOST_WORDS else line


def score_rows(clip: str, folder: Path, batch_size: int, device: str) -> RowFunction:
    """Rows -> rows with CLIP scores.

    Without entities and ``unreadable`` where the image cannot be read.
    """
    encoder = open_clip_dual_encoder(None, clip).eval()
    place = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    encoder.to(place)
    mean, std = encoder.image_mean, encoder.image_std
    transform = EvalTransform(encoder.image_size, mean=mean, std=std)  # type: ignore[arg-type]

    def run(rows: Sequence[Row], seeds: Sequence[RowSeed]) -> list[Row]:
        scored_rows: list[Row] = []
        for start in range(0, len(rows), batch_size):
            scored_rows += scored(
                encoder, transform, rows[start : start + batch_size], folder, place
            )
        return scored_rows

    return run


@torch.inference_mode()
def scored(
    encoder: OpenClipDualEncoder,
    transform: EvalTransform,
    rows: Sequence[Row],
    folder: Path,
    device: torch.device,
) -> list[Row]:
    """A batch of rows with the cosine of image and entity text."""
    pixels = [
        picture(folder / row["image"], transform) if row["entities"] else None for row in rows
    ]
    kept = [i for i, x in enumerate(pixels) if isinstance(x, Tensor)]
    out = [{**row, "entities": []} for row in rows]
    for row, x in zip(out, pixels, strict=True):
        if isinstance(x, str):
            row["unreadable"] = x
    if not kept:
        return out
    texts = {entity_of(e): 0 for i in kept for e in rows[i]["entities"]}
    order = {text: n for n, text in enumerate(texts)}
    assert encoder.tokenizer is not None
    words = unit_rows(encoder.encode_text(encoder.tokenizer(list(texts)).to(device)))
    images = unit_rows(encoder.encode_image(torch.stack([pixels[i] for i in kept]).to(device)))  # type: ignore[misc]
    for image, i in zip(images, kept, strict=True):
        out[i]["entities"] = [
            {**e, "clip_score": round(float(image @ words[order[entity_of(e)]]), 4)}
            for e in rows[i]["entities"]
        ]
    return out


def entity_of(entity: Row) -> str:
    """What the text encoder sees of a row's entity: name and description."""
    return entity_text(Entity(entity["id"], entity["name"], entity["description"], 1.0, ()))


def unit_rows(x: Tensor) -> Tensor:
    """Unit rows on the CPU."""
    return torch.nn.functional.normalize(x.float(), dim=1).cpu()


def picture(path: Path, transform: EvalTransform) -> Tensor | str:
    """A file as the image tower takes it; what is wrong if it cannot be read."""
    try:
        return transform.one(decode_image(path).convert("RGB"))
    except ValueError as error:
        return f"{path}: {error}"
