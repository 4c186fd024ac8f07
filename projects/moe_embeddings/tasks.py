"""Tasks: pairs from citations; documents of all domains embedded, and searched, in one index."""

from collections import defaultdict
from pathlib import Path

import torch

from common.config import UserError
from common.data.tables import Row, read_csv, read_jsonl, write_jsonl
from common.encoders.modes import evaluated
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.matrices import blocks
from common.evaluation.search import search as nearest
from common.export.files import write_tensors
from common.files import replacing_together
from projects.moe_embeddings.cocitation import PARTS, Collection, Pair, pairs_of
from projects.moe_embeddings.config import Config
from projects.moe_embeddings.data import load_pairs, texts_by_domain
from projects.moe_embeddings.encoder import DomainEncoder
from projects.moe_embeddings.left_out import left_out
from projects.moe_embeddings.module import MoeEmbeddings, check_domains_route

BLOCK = 64  # batches of `embed` between two signs of progress
SHOWN = 200  # documents of a domain where no file is named


def pairs(cfg: Config, workspace: Workspace) -> Path:
    """Write ``<domain>/{train,valid,test}.jsonl``, which ``data.paths`` reads.

    Citations between documents of different domains are not used. What else is left out is counted
    and said.

    Returns:
        The folder.

    Raises:
        UserError: missing or broken files, or a part without a pair.
    """
    options = cfg.pairs
    if options.citations is None or options.documents is None:
        raise UserError("name pairs.citations (citing, cited) and pairs.documents (id, text)")
    table = Path(options.citations).expanduser()
    columns = ("citing", "cited")
    rows = read_jsonl(table, columns) if ".jsonl" in table.name else read_csv(table, columns)
    for number, row in enumerate(rows, 1):  # without names, all of them would be one that cites
        if row["citing"] is None or not str(row["citing"]).strip():
            raise UserError(
                f"{table}, row {number}: nothing stands under 'citing'; leave the row out"
            )
    citations = [(str(row["citing"]), str(row["cited"])) for row in rows]
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    listed = read_jsonl(Path(options.documents).expanduser(), ("id", "text"))
    if not listed:
        raise UserError(f"{options.documents} has no document")
    for number, row in enumerate(listed, 1):
        if row["id"] is None or not isinstance(row["text"], str | None):
            raise UserError(
                f"{options.documents}, document {number}: id is a name, and text a text or null"
            )
        members, name = texts[str(row.get("domain") or "all")], str(row["id"])
        text = row["text"] or ""  # no abstract: dropped with the empty ones
        if members.setdefault(name, text) != text:
            raise UserError(f"{options.documents}: two documents have the id '{name}' and differ")
    folder = (
        workspace.folder("pairs") if options.output is None else Path(options.output).expanduser()
    )
    ids = {name for members in texts.values() for name in members}
    if strange := sum(cited not in ids for _, cited in citations):
        workspace.say(f"{strange} of {len(citations)} citations name no document in 'cited'")
    for domain, members in texts.items():
        collection = Collection(domain, members, citations)
        parts = pairs_of(collection, options.shares, lambda _: options.most, cfg.seed)
        paths = [folder / domain / f"{part}.jsonl" for part in PARTS]
        with replacing_together(*paths) as files:  # other shares would mix training and test
            for part, file in zip(PARTS, files, strict=True):
                write_jsonl(file, [{"a": p.a, "b": p.b, "label": p.label} for p in parts[part]])
        counts = ", ".join(f"{len(parts[part])} {part}" for part in PARTS)
        workspace.say(f"{domain}: {counts} pairs in {folder / domain}")
        workspace.say(f"{domain}: {left_out(collection, options.shares, options.most, parts)}")
    return folder


def embed(cfg: Config, experiment: Experiment[MoeEmbeddings], workspace: Workspace) -> Path:
    """Write ``embeddings.safetensors`` (unit vectors, domain number) and ``documents.jsonl``.

    Returns:
        The folder.

    Raises:
        UserError: no trained run, a missing file, or a domain that the model does not know.
    """
    encoder = _encoder(cfg, experiment, workspace)
    rows = documents(cfg)
    texts, domains = [row["text"] for row in rows], [row["domain"] for row in rows]
    numbers = torch.tensor(encoder.indices(domains, len(domains)))
    size = cfg.eval.batch_size
    parts = list(blocks(len(rows), BLOCK * size))
    with evaluated(encoder, cfg.trainer.accelerator):
        shown = workspace.progress(parts, "documents", len(parts))
        vectors = torch.cat([encoder.encode(texts[p], domains[p], size) for p in shown])
    output = cfg.use.output
    folder = workspace.folder("embeddings") if output is None else Path(output).expanduser()
    names = ("embeddings.safetensors", "documents.jsonl")
    with replacing_together(*(folder / name for name in names)) as (embeddings, lines):
        write_tensors(embeddings, {"embeddings": vectors, "domain": numbers})
        write_jsonl(lines, rows)
    workspace.say(f"{folder}: {len(rows)} documents of {len(set(domains))} domains")
    return folder


def search(cfg: Config, experiment: Experiment[MoeEmbeddings], workspace: Workspace) -> list[Row]:
    """Print the nearest documents of a query, of any domain or of one; write ``use.output``.

    Returns:
        Hits, best first: text, domain, score, and ``_id`` where the file has it.

    Raises:
        UserError: as `embed`; no domain for the query.
    """
    options, rows = cfg.use, documents(cfg)
    query, domain = options.query, options.query_domain
    if query is None:
        query, domain = rows[0]["text"], rows[0]["domain"]
    if options.output is not None and not options.output.endswith(".jsonl"):
        raise UserError(f"use.output={options.output} must end in .jsonl")
    if domain is None:
        raise UserError("give the query's domain in use.query_domain: it decides on the expert")
    asked_for = (query, domain)
    rows = [row for row in rows if options.domain in (None, row["domain"])]
    rows = [row for row in rows if (row["text"], row["domain"]) != asked_for]
    if not rows:
        what = "but the query" if options.domain is None else f"of the domain '{options.domain}'"
        raise UserError(f"no document {what} is left to search")
    encoder = _encoder(cfg, experiment, workspace)
    size = cfg.eval.batch_size
    with evaluated(encoder, cfg.trainer.accelerator):
        asked = encoder.encode([query], domain)
        gallery = encoder.encode([r["text"] for r in rows], [r["domain"] for r in rows], size)
    result = nearest(asked, gallery, min(options.k, len(rows)))
    hits: list[Row] = [
        {**rows[i], "score": score}
        for i, score in zip(result.indices[0].tolist(), result.scores[0].tolist(), strict=True)
    ]
    workspace.say(f"{domain}: {query}")
    for hit in hits:
        name = f"[{hit['_id']}] " if "_id" in hit else ""
        workspace.say(f"  {hit['score']:.3f}  {hit['domain']}: {name}{hit['text']}")
    if options.output is not None:
        output = Path(options.output).expanduser()
        write_jsonl(output, [{"query": query, "hits": hits}])
        workspace.say(str(output))
    return hits


def documents(cfg: Config) -> list[Row]:
    """Documents of the file with their domains; without a file some of the evaluation."""
    if cfg.use.file is not None:
        rows = read_jsonl(Path(cfg.use.file).expanduser(), ("text", "domain"))
        if not rows:
            raise UserError(f"{cfg.use.file} has no document")
        for number, row in enumerate(rows, 1):
            if not isinstance(row["text"], str) or not row["text"].strip():
                raise UserError(f"{cfg.use.file}: document {number} has no text")
        return rows
    held: dict[str, list[Pair]] = load_pairs(cfg, cfg.eval.part)
    return [
        {"text": text, "domain": name}
        for name, texts in texts_by_domain(held).items()
        for text in texts[:SHOWN]
    ]


def _encoder(
    cfg: Config, experiment: Experiment[MoeEmbeddings], workspace: Workspace
) -> DomainEncoder:
    module, _ = trained_module(experiment, workspace, cfg.use.run, cfg.runs_dir)
    check_domains_route(module)
    return module.encoder
