"""Tasks: the entry matrix of a glossary by any encoder, and the entries that fit a description."""

from dataclasses import replace
from pathlib import Path

from common.config import UserError
from common.data.tables import write_jsonl
from common.encoders.modes import evaluated
from common.encoders.text.template import plain_ids, special_tokens
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.features.geometry import mean_cosine
from common.export.files import write_tensors
from common.families.sentences.module import first_encoder
from common.files import replacing_together
from projects.defsent_plus.config import Config
from projects.defsent_plus.data import load_dictionary
from projects.defsent_plus.entries import cached_entries
from projects.defsent_plus.module import DefSentPlus

SCORES = 2**24  # of descriptions with entries that are held at a time, 64 MiB


def write_entries(cfg: Config, workspace: Workspace) -> Path:
    """Entry embeddings of the config's dictionary by its starting model, for any other use.

    Nothing is evaluated here, so no definition is held out or left out as a text of an STS set.

    Returns:
        ``entries.safetensors`` with ``entries`` (n, D); ``entries.jsonl`` next to it names the rows.

    Raises:
        UserError: another kind of file is wanted, or a definition is too long.
    """
    path = Path(cfg.lookup.output or workspace.folder(".") / "entries.safetensors").expanduser()
    if path.suffix != ".safetensors":
        raise UserError(f"lookup.output={path} must end in .safetensors; the names lie next to it")
    dictionary = load_dictionary(
        replace(cfg, data=replace(cfg.data, held_out=0.0, exclude_sets=[]))
    )
    entries = cached_entries(cfg, dictionary, first_encoder(cfg))
    rows = zip(dictionary.entries, dictionary.definitions, strict=True)
    names = [{"entry": entry, "definitions": len(texts)} for entry, texts in rows]
    with replacing_together(path, path.with_suffix(".jsonl")) as (vectors, lines):
        write_tensors(vectors, {"entries": entries})
        write_jsonl(lines, names)
    workspace.say(f"{len(entries)} entries, mean cosine {mean_cosine(entries):.3f}: {path}")
    if dictionary.num_dropped:
        workspace.say(f"{dictionary.num_dropped} entries are left out: data.single_piece=true")
    return path


def lookup(cfg: Config, workspace: Workspace, experiment: Experiment[DefSentPlus]) -> Path:
    """Reverse dictionary: the entries that fit descriptions, by a trained run or an export.

    Returns:
        A JSON-lines file of ``text``, ``entries`` and ``scores``.

    Raises:
        UserError: no description, a missing file, or no trained run.
    """
    options = cfg.lookup
    texts = [options.text] if options.text else []
    if options.file is not None:
        path = Path(options.file).expanduser()
        if not path.is_file():
            raise UserError(f"lookup.file {path} does not exist: give one description per line")
        try:
            lines = path.read_text("utf-8-sig").split("\n")
        except UnicodeError as error:
            raise UserError(
                f"lookup.file {path} is not UTF-8: save it as that ({error})"
            ) from error
        texts += [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError("describe what you look for: lookup.text='...', or lookup.file")
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    reader = module.definitions
    around = sum(len(ids) for ids in special_tokens(reader.tokenizer))
    sizes = [len(ids) + around for ids in plain_ids(reader.tokenizer, texts)]
    long = sum(size > (reader.max_length or size) for size in sizes)
    if long:
        workspace.say(
            f"{long} of {len(texts)} descriptions are longer than {reader.max_length} tokens and"
            " read up to there: shorten them, or train with a larger data.max_length"
        )
    with evaluated(module, cfg.trainer.accelerator):
        size = max(1, SCORES // len(module.names))
        parts = [texts[i : i + size] for i in range(0, len(texts), size)]
        written = [
            best
            for part in workspace.progress(parts, "lookup", len(parts))
            for best in module.lookup(part, options.k)
        ]
    for text, best in zip(texts, written, strict=True):
        workspace.say(f"{text}: " + ", ".join(f"{entry} ({s:.1f})" for entry, s in best))
    output = workspace.folder(".") / "lookup.jsonl"
    rows = [
        {"text": text, "entries": [e for e, _ in best], "scores": [s for _, s in best]}
        for text, best in zip(texts, written, strict=True)
    ]
    write_jsonl(output, rows)
    return output
