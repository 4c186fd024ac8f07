"""`make run TASK=decode|evaluate|isotropy`: any model, any prompts, no training needed."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.config import UserError
from common.data.lines import read_lines
from common.data.lookup import data_root
from common.data.offline import content_digest
from common.data.row_map.chunks import RowFunction
from common.data.row_map.mapper import RowMap, map_rows
from common.data.text.books import load_books
from common.decoding.language_model import LanguageModel, cut_note
from common.encoders.state_dict import weights_digest
from common.engine import workspace as ws
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.generation.preference import FORM, KEY, write_form
from common.evaluation.tables import write_report
from common.files import write_text
from projects.contrastive_search.config import Config
from projects.contrastive_search.data import language_texts, passages
from projects.contrastive_search.diversity import diversity
from projects.contrastive_search.evaluate import evaluate_lm, gallery_row, isotropy, policies
from projects.contrastive_search.harness import decode_side_by_side
from projects.contrastive_search.module import SimCTG, language_model
from projects.contrastive_search.stages import build_module

CHUNK = 64  # prompts in a file of finished continuations


def evaluate_off_the_shelf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """All decoders on the evaluation set with `model.pretrained` as it is; no run, no training."""
    lm = build_module(cfg).language_model()
    with torch.inference_mode():
        metrics = evaluate_lm(cfg, lm, passages(cfg, lm), workspace)
    write_report(metrics, workspace.folder("."), title="decoders side by side")
    workspace.say((workspace.path / "metrics.md").read_text("utf-8"))
    return metrics


def chosen_model(
    cfg: Config, workspace: Workspace, experiment: Experiment[SimCTG]
) -> tuple[LanguageModel, str]:
    """The language model that `decode.model`, `decode.run` or `model` name, and a name for it.

    Raises:
        UserError: absent weights or no such run.
    """
    section = cfg.decode
    if section.model is not None:
        lm = language_model(cfg, section.model)
        lm.passes = cfg.model.passes
        return lm, section.model
    if section.run is not None:
        module, run = trained_module(experiment, workspace, section.run, cfg.runs_dir)
        return module.language_model(), str(run or section.run)
    return build_module(cfg).language_model(), cfg.model.pretrained


def decode(cfg: Config, workspace: Workspace, experiment: Experiment[SimCTG]) -> dict[str, float]:
    """Continue prompts by every method, side by side (``TASK=decode``).

    Can be stopped, continued and shared out (``task.shard=0/4``). Writes ``continuations.md`` and
    ``continuations.json``, a gallery that `make report` shows, diversity and words of each method
    and, for `decode.ab_pair`, a blind A/B form (``ab_form.csv``) with its key.

    Raises:
        UserError: no prompts, absent weights, no room for a prompt in the model's context, or an
            A/B pair that is not of two methods.
    """
    section, methods = cfg.decode, policies(cfg)
    two = len(section.ab_pair) == len({*section.ab_pair}) == 2
    if section.ab_pair and not (two and {*section.ab_pair} <= methods.keys()):
        raise UserError(f"decode.ab_pair: choose two of {', '.join(methods)}")
    lm, name = chosen_model(cfg, workspace, experiment)
    if section.file is not None:
        prompts = [
            line.strip() for line in read_lines(Path(section.file).expanduser()) if line.strip()
        ]
        if not prompts:
            raise UserError(f"{section.file} has no prompt: one text per line")
    else:
        few = replace(cfg.eval, num_prefixes=section.num_prompts, per_chapter=1)
        selected = passages(replace(cfg, eval=few), lm)
        prompts = [lm.tokenizer.decode(p.prefix, skip_special_tokens=True) for p in selected]
    note = cut_note(lm, [lm.token_ids(text, special=True) for text in prompts], section.new_tokens)
    if note is not None:
        workspace.say(note)
    settings = {
        "model": name,
        "weights": weights_digest(lm.model),
        "methods": {n: repr(p) for n, p in methods.items()},
        "new_tokens": section.new_tokens,
        "prompts_cut_to": lm.context,
    }
    step = RowMap("decode", partial(row_function, cfg, lm), settings, cfg.seed, CHUNK)
    folder = workspace.folder(".")
    mapped = map_rows(
        step,
        prompts,
        workspace.folder(
            f"decoded/{content_digest([repr(settings), str(cfg.seed), *prompts])[:12]}"
        ),
        cfg.task,
        workspace.meter,
    )
    if not mapped.complete:
        workspace.say(f"decode: {mapped.summary}")
        return {}
    rows = list(mapped.rows())
    texts = {method: [row[method] for row in rows] for method in methods}
    metrics = {f"{m}_diversity": 100 * diversity(written) for m, written in texts.items()}
    metrics |= {
        f"{m}_words": sum(len(t.split()) for t in written) / len(written)
        for m, written in texts.items()
    }
    shown = [gallery_row(p, row) for p, row in zip(prompts, rows, strict=True)]
    workspace.gallery("continuations", shown)
    ws.write_json(
        folder / "continuations.json",
        [{"prompt": p, **row} for p, row in zip(prompts, rows, strict=True)],
    )
    page = "\n".join(_page(row) for row in shown)
    write_text(folder / "continuations.md", page)
    write_report(metrics, folder, title=f"{name}: decoders side by side")
    if section.ab_pair:
        pair = {m: texts[m] for m in section.ab_pair}
        count = write_form(folder / FORM, prompts, pair, cfg.seed)
        workspace.say(
            f"{count} of {len(prompts)} pairs, those of unequal texts: give {folder / FORM} to "
            f"raters, keep {folder / KEY}"
        )
    workspace.say(f"{page}\nwritten: {folder}")
    return metrics


def row_function(cfg: Config, lm: LanguageModel) -> RowFunction:
    """Prompts -> method -> continuation; a prompt that does not fit is cut on its left."""
    methods, budget = policies(cfg), cfg.decode.new_tokens

    def run(rows: Sequence[Any], seeds: Sequence[Any]) -> list[dict[str, str]]:
        ids = [lm.fitting(lm.token_ids(text, special=True), budget) for text in rows]
        decoded = decode_side_by_side(
            lm, ids, methods, budget, seeds=seeds, batch_size=cfg.eval.batch_size
        )
        return [
            {name: lm.finished(row, new[0][i]).text for name, new in decoded.items()}
            for i, row in enumerate(ids)
        ]

    return run


def isotropy_report(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Isotropy of every (language, model) of `isotropy.models`, in one table (``TASK=isotropy``).

    Texts are stripped; those shorter than two characters are left out; the first `num_texts` are
    cut to `length` tokens, start token included where the model has one. One model is in memory at
    a time, and its row is written before the next is loaded.

    Raises:
        UserError: a model without a value: no such file, no text of two tokens in its language,
            absent weights, or too little memory. The others are measured and written first.
    """
    section = cfg.isotropy
    pairs = [(lang, name) for lang, names in section.models.items() for name in names]
    pairs = pairs or [("en", cfg.model.pretrained)]
    metrics: dict[str, float] = {}
    lines = ["| language | model | texts | isotropy |", "|---|---|---:|---:|"]
    failures: list[str] = []
    for language, name in pairs:
        try:
            value, count = _isotropy_of(cfg, language, name)
        except UserError as error:
            failures.append(f"{language} {name}: {error}")
            continue
        except (MemoryError, torch.OutOfMemoryError):
            failures.append(f"{language} {name}: out of memory, set model.dtype=bfloat16")
            continue
        metrics[f"{language}_{name}"] = value
        lines.append(f"| {language} | {name} | {count} | {value:.2f} |")
        write_text(workspace.folder(".") / "isotropy.md", "\n".join(lines) + "\n")
        ws.write_json(workspace.path / "isotropy.json", metrics)
    workspace.say("\n".join(lines))
    if failures:
        reasons = "; ".join(failures)
        raise UserError(f"{len(failures)} of {len(pairs)} models have no isotropy ({reasons})")
    return metrics


def _isotropy_of(cfg: Config, language: str, name: str) -> tuple[float, int]:
    """Isotropy of a model, which is loaded for it alone, and the number of texts."""
    section = cfg.isotropy
    texts = [text.strip() for text in _isotropy_texts(cfg, language)]
    texts = [text for text in texts if len(text) >= 2][: section.num_texts]
    lm = language_model(cfg, name)
    limit = min(section.length, lm.context)
    rows = [_started(lm, text)[:limit] for text in texts]
    if all(len(row) < 2 for row in rows):
        raise UserError(f"no text in '{language}' has two tokens of {name}: give longer ones")
    return isotropy(lm, rows, section.batch_size), len(rows)


def _started(lm: LanguageModel, text: str) -> list[int]:
    """Ids behind the start token, where the tokenizer sets one; no [CLS] and [SEP] of BERT's."""
    first, *rest = lm.token_ids(text, special=True)
    return [first, *rest] if first == lm.tokenizer.bos_token_id else lm.token_ids(text)


def _isotropy_texts(cfg: Config, language: str) -> list[str]:
    if cfg.isotropy.file is not None:
        path = data_root(cfg.data.root) / cfg.isotropy.file
        if not path.is_file():
            raise UserError(
                f"isotropy.file: {path} is not a file: give JSON {{language: [text, ...]}}"
            )
        return language_texts(path, language)
    if language != "en":
        raise UserError(
            f"name texts in '{language}' in isotropy.file: JSON {{language: [text, ...]}}"
        )
    return [p for c in load_books(cfg.data.root, cfg.eval.part) for p in c.paragraphs]


def _page(row: dict[str, Any]) -> str:
    lines = [f"> {row['query']}", ""]
    lines += [f"- **{r['name']}:** {' '.join(r['item'].split())}" for r in row["results"]]
    return "\n".join([*lines, ""])
