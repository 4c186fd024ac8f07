"""Phase I as an experiment: the generator, its stage, evaluation, export, plan."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from common.config import UserError
from common.data.module import ContrastiveData
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.encoders.modes import evaluation_mode, untrained
from common.encoders.pretrained import stand_in
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer, quiet
from common.engine.experiment import Plan, Stage, weights_requirement
from common.engine.workspace import Workspace
from common.evaluation.generation.reference import rouge_f
from common.export.files import write_files
from projects.wikides.batches import DescribeRows
from projects.wikides.candidates import fitting
from projects.wikides.config import Config, GeneratorModel
from projects.wikides.data import Row, first_seed, load_rows, requirements
from projects.wikides.describer import Describer
from projects.wikides.evaluate import GIVEN, full_metrics, given_rows, row_metrics, table
from projects.wikides.selectors import lead

PROBES = ["A small cat is a pet of the house.", "The old town lies in the north of the country."]
_T5: dict[str, Any] = {"model_type": "t5", "vocab_size": 32128, "decoder_start_token_id": 0}
_BASE = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
# what `make check` builds for weights that are not on this machine
SIZES: Mapping[str, dict[str, Any]] = {
    "t5-small": _T5,
    "t5-base": {**_T5, **_BASE},
    "google/t5-v1_1-small": {**_T5, **_GATED, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "google/t5-v1_1-base": {**_T5, **_GATED, **_BASE, "d_ff": 2048},
    "microsoft/ssr-base": {**_T5, **_BASE},
    "facebook/bart-base": {
        "model_type": "bart",
        "d_model": 768,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 12,
        "encoder_ffn_dim": 3072,
        "decoder_attention_heads": 12,
        "decoder_ffn_dim": 3072,
    },
}


def build_generator(cfg: GeneratorModel) -> tuple[Any, Any]:
    """Encoder-decoder and tokenizer of the config, before training.

    With "random" the decoder begins with the tokenizer's separator and ends with it, as BART's.

    Raises:
        UserError: absent or unfitting weights, or no start token.
    """
    if cfg.pretrained != "random":
        if cfg.tokenizer is not None:
            raise UserError("generator.tokenizer needs generator.pretrained=random")
        model = load_transformer(
            cfg.pretrained, dropout=cfg.dropout, auto_class=AutoModelForSeq2SeqLM
        )
        tokenizer = load_tokenizer(cfg.pretrained)
    else:
        size = int((cfg.config or {}).get("vocab_size", 256))
        tokenizer = load_tokenizer(cfg.tokenizer) if cfg.tokenizer else tiny_tokenizer(size)
        tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
        end = tokenizer.sep_token_id
        ids = {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": end,
            "decoder_start_token_id": end,
            "forced_eos_token_id": None,
        }
        model = load_transformer(
            "random",
            config={**(cfg.config or {}), **ids},
            dropout=cfg.dropout,
            auto_class=AutoModelForSeq2SeqLM,
        )
    if model.config.decoder_start_token_id is None:
        raise UserError(f"generator.pretrained={cfg.pretrained} names no decoder_start_token_id")
    return model, tokenizer


def generator_of(cfg: Config, module: Describer) -> SequenceToSequence:
    """The module's model as a generator, where it is; in evaluation mode from here on."""
    device = str(next(module.model.parameters()).device)
    return SequenceToSequence(module.model, module.tokenizer, device, cfg.generator.max_source)


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "describe"; validation keeps the checkpoint with the lowest loss."""
    model, tokenizer = build_generator(cfg.generator)
    start = int(model.config.decoder_start_token_id)
    val = {}
    if cfg.trainer.val_every_n_steps is not None:
        val = {"dev": DescribeRows(cfg, load_rows(cfg, "dev"), tokenizer, start)}
    data = ContrastiveData(
        DescribeRows(cfg, load_rows(cfg, "train"), tokenizer, start),
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )
    monitor = "val/token_loss" if val else None
    yield Stage(
        "describe", Describer(cfg, model, tokenizer), data, monitor=monitor, monitor_mode="min"
    )


def evaluate(cfg: Config, module: Describer, workspace: Workspace) -> dict[str, float]:
    """Descriptions of the test paragraphs against gold and source.

    ``untrained_*``, ``lead_*`` alongside.

    Where the rows have the names of the instances, ``baseline_*``, the first of them, and
    ``reference_source_*``, the gold description against the paragraph.
    """
    rows = load_rows(cfg, cfg.eval.part)
    texts = describe_rows(cfg, module, rows)
    metrics = row_metrics(rows, [[text] for text in texts], workspace)
    if cfg.eval.full:
        metrics |= full_metrics(cfg, rows, texts)
    names = [""]
    if cfg.eval.untrained:
        raw = untrained(
            lambda: Describer(cfg, *build_generator(cfg.generator)), first_seed(cfg), module
        )
        before = [[text] for text in describe_rows(cfg, raw, rows)]
        metrics |= row_metrics(rows, before, None, "untrained_")
        names.append("untrained")
    if cfg.eval.grid:
        metrics |= row_metrics(rows, lead(rows), None, "lead_") | given_rows(cfg, rows)
        names += ["lead", *GIVEN]
    shown = range(0, len(rows), max(1, len(rows) // 12))
    pictures = []
    for i in shown:
        score = rouge_f(texts[i], rows[i].target, "rouge_l")
        result = {"item": texts[i] or "-", "score": score, "name": f"gold: {rows[i].target}"}
        pictures.append({"query": rows[i].source[:300], "results": [result]})
    workspace.gallery("descriptions", pictures)
    workspace.say(table(metrics, names))
    return metrics


def describe_rows(cfg: Config, module: Describer, rows: list[Row]) -> list[str]:
    """A description of every paragraph by beam search."""
    settings, generator = cfg.generator, generator_of(cfg, module)
    most = fitting(generator, settings.max_new_tokens)
    with evaluation_mode(module.model):
        return generator.beam_search(
            [row.source for row in rows], settings.beams, most, batch_size=cfg.eval.batch_size
        )


def export(cfg: Config, module: Describer, folder: Path) -> None:
    """A folder that `AutoModelForSeq2SeqLM` and `AutoTokenizer` load."""

    def write(new: Path) -> None:
        with quiet():
            module.model.save_pretrained(new)
            module.tokenizer.save_pretrained(new)

    write_files(folder, write)


def load_export(cfg: Config, folder: Path) -> Describer:
    """The generator of such a folder."""
    exported = GeneratorModel(pretrained=str(folder))
    return Describer(cfg, *build_generator(exported)).eval()


def embed(cfg: Config, module: Describer) -> dict[str, Tensor]:
    """Logits of the first token for two fixed texts, compared after export and reload."""
    inputs = generator_of(cfg, module).inputs(PROBES)
    start = torch.full((len(PROBES), 1), int(module.model.config.decoder_start_token_id))
    start = start.to(inputs["input_ids"].device)
    with evaluation_mode(module.model):
        logits: Tensor = module.model(**inputs, decoder_input_ids=start).logits[:, 0]
    return {"logits": logits.float().cpu()}


def plan(cfg: Config) -> Plan[Describer]:
    """What `make check` reports on."""
    needed = requirements(cfg)
    here = all(r.present for r in needed)

    def module() -> Describer:
        config = stand_in(cfg.generator.pretrained, SIZES)
        if config is None:
            return Describer(cfg, *build_generator(cfg.generator))
        model = load_transformer("random", config=config, auto_class=AutoModelForSeq2SeqLM)
        return Describer(cfg, model, None)

    def forward(module: Describer, batch_size: int) -> Tensor:
        source = torch.ones(batch_size, cfg.generator.max_source, dtype=torch.long)
        target = torch.ones(batch_size, cfg.generator.max_target, dtype=torch.long)
        logits: Tensor = module.model(
            input_ids=source, decoder_input_ids=target, use_cache=False
        ).logits
        return torch.sum(logits)

    return Plan(
        module,
        len(load_rows(cfg, "train")) if here else 0,
        forward,
        (*weights_requirement(cfg.generator.pretrained), *needed),
    )
