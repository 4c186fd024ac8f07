"""`make run TASK=search` on a folder of code, and `TASK=prepare` for CodeSearchNet."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.data.tables import write_jsonl
from common.encoders.modes import evaluated
from common.encoders.state_dict import weights_digest
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.retrieval.text_index import INDEX, TextIndex
from common.evaluation.retrieval.text_search import queries_of, save_answers
from common.families.retrieval.search import with_words
from projects.cocosoda.code.functions import Function, read_functions
from projects.cocosoda.code.lexer import plain_code
from projects.cocosoda.code.search_sets import PIECES, CodePair, joined_rows, listed_urls
from projects.cocosoda.code.types import TYPES, Language
from projects.cocosoda.config import Config
from projects.cocosoda.data import evaluation_sets, typed_pieces, with_line_breaks
from projects.cocosoda.encoder import build_encoder
from projects.cocosoda.module import CoCoSoDa
from projects.cocosoda.stages import recipe_of

PARTS = ("train", "valid", "test", "codebase")
MOST_ABSENT = 0.1  # of a list's URLs; if more have no row, an archive is missing
# functions of the published code bases, whose lists name more than the archives hold
CODE_BASES: dict[Language, int] = {
    "ruby": 4_360,
    "javascript": 13_981,
    "java": 40_347,
    "go": 28_120,
    "php": 52_660,
    "python": 43_827,
}


def bundled_codes(cfg: Config) -> list[str]:
    """What is searched when the config names no folder: the first code base of the evaluation."""
    return evaluation_sets(cfg)[0].codes


def search(cfg: Config, workspace: Workspace, experiment: Experiment[CoCoSoDa]) -> None:
    """Index the functions of a file or folder and print the nearest ones of queries.

    An index that is kept holds exactly the functions that the folder has now: those that are new or
    changed are encoded, those that are gone leave it.

    Raises:
        UserError: no trained run, nothing to read but comments, or an index of another encoder.
    """
    options = cfg.search
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    recipe, encoder = recipe_of(cfg), module.encoder
    by_file: dict[str, list[Function]] = {}
    for function in read_functions(options.file, workspace.say) if options.file else ():
        by_file.setdefault(
            " ".join(plain_code(function.code, function.language).split()), []
        ).append(function)
    by_file.pop("", None)
    texts = list(by_file)
    if options.file and not texts:
        raise UserError(f"{options.file} contains comments alone: give code in search.file")
    kept = None if options.index is None else Path(options.index).expanduser()
    with evaluated(encoder, cfg.trainer.accelerator):
        settings: dict[str, Any] = {
            "query_encoder": lambda rows: recipe.queries(encoder, rows),
            "batch_size": cfg.eval.batch_size,
            "progress": workspace.progress,
        }
        documents = lambda rows: recipe.documents(encoder, rows)  # noqa: E731
        if kept is not None and (kept / INDEX).is_file():
            index = TextIndex.open(kept, documents, weights_digest(encoder), **settings)
            new = index.replace(texts) if options.file else 0
            workspace.say(f"{kept}: opened, {new} functions encoded")
        else:
            index = TextIndex(documents, texts if options.file else bundled_codes(cfg), **settings)
        if kept is not None:
            index.save(kept, weights_digest(encoder))
        workspace.say(f"{len(index)} functions indexed")
        searched = with_words(index, options.dense_weight)
        answers: list[dict[str, Any]] = []
        for query in queries_of(options):
            workspace.say(f"\n{query}")
            (hits,) = searched.search([query], options.k, options.threshold)
            for hit in hits:
                places = by_file.get(hit.text, [])
                named = "  ".join(f"{f.place} {f.name}" for f in places) or hit.text[:100]
                workspace.say(f"  {hit.score:6.3f}  {named}")
            if not hits:
                workspace.say(
                    f"  no function has a {searched.metric} of {options.threshold} or more"
                )
            rows = [
                {
                    "ids": [f"{f.place} {f.name}" for f in by_file.get(hit.text, [])],
                    "score": hit.score,
                    "text": hit.text,
                }
                for hit in hits
            ]
            answers.append({"query": query, "hits": rows})
        save_answers(options, answers)


def prepare(cfg: Config, workspace: Workspace) -> Path:
    """Join CodeSearchNet's archives with the lists of URLs; give every piece of the code its type.

    Writes ``<language>/{train,valid,test,codebase}.jsonl``, which ``data.source=csn`` reads. Rows
    are worked through in chunks that are kept, so a stopped call goes on, and may be shared out
    (``task.shard``). The released lists of the code bases name functions that no archive holds: how
    many is said, alongside the published size.

    Returns:
        The folder.

    Raises:
        UserError: no input, a language without archives or lists, or archives that lack more than a
            tenth of the training, development or test list.
    """
    options, model = cfg.prepare, cfg.model
    if options.input is None:
        raise UserError("give the folder of the languages' archives and lists in prepare.input")
    source = Path(options.input).expanduser()
    settings = {
        "model": model.pretrained,
        "tokenizer": model.tokenizer,
        "length": model.code_length,
        "split_identifiers": model.split_identifiers,
    }
    target = Path(options.output).expanduser() if options.output else workspace.folder("csn")
    for language in cfg.data.languages:
        for part in PARTS:
            rows = joined_rows(source / language, part)
            absent = _absent(source, language, part, len(rows))
            step = RowMap(
                f"{language} {part}",
                partial(_typed, cfg, language),
                settings | {"language": language},
                options.seed,
            )
            folder = workspace.folder(f"parts/{language}-{part}")
            done = map_rows(step, rows, folder, cfg.task, workspace.meter)
            if done.complete:
                (target / language).mkdir(parents=True, exist_ok=True)
                write_jsonl(target / language / f"{part}.jsonl", done.rows())
            workspace.say(f"{language} {part}: {done.summary}; {absent}")
    return target


def _absent(source: Path, language: Language, part: str, count: int) -> str:
    """How many listed URLs have no row; of a code base, also how many have one.

    Raises:
        UserError: too many of a part whose whole list the archives hold.
    """
    folder = source / language
    listed = len(listed_urls(folder, part))
    text = f"{listed - count:,} of {listed:,} listed URLs are in no archive"
    if part == "codebase":
        return f"{text}, {count:,} are (published code base: {CODE_BASES[language]:,})"
    if listed - count > MOST_ABSENT * listed:
        raise UserError(
            f"{folder / part}.txt: {text}; unpack every final/jsonl/*/*.jsonl.gz of CodeSearchNet"
            " next to it"
        )
    return text


def _typed(cfg: Config, language: Language) -> RowFunction:
    tokenizer = build_encoder(cfg.model).tokenizer

    def add(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[Any]:
        typed = []
        for row in rows:
            tokens = row["code_tokens"]
            tokens = tokens.split() if isinstance(tokens, str) else tokens
            code = " ".join(tokens)
            lines = with_line_breaks(tokens, language)
            pair = CodePair("", code, language, row["url"])
            ids, types = typed_pieces(tokenizer, pair, cfg.model.code_length, lines)
            pieces = tokenizer.convert_ids_to_tokens(ids.tolist())
            names = [TYPES[t] if t >= 0 else "other" for t in types.tolist()]
            typed.append(row | ({PIECES: list(zip(pieces, names, strict=True))} if code else {}))
        return typed

    return add
