"""Stage 1: a positive and a hard negative for every premise, written by a local language model."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.lines import one_line
from common.data.offline import content_digest
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import Display, MappedRows, RowMap, map_rows
from common.data.row_map.options import RowMapConfig
from common.decoding.generators import framed
from common.decoding.language_model import LanguageModel
from common.decoding.prompts import Prompt
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.encoders.text.tower import load_config
from projects.multicsr.config import Stage1Config
from projects.multicsr.contrast import Model, contrastive_answers
from projects.multicsr.graded_triplets import GradedTriplet
from projects.multicsr.prompts import OPPOSITE, Kind, generation_prompt, parse_sentence

KINDS: tuple[Kind, Kind] = ("entailment", "contradiction")
CHUNK_BATCHES = 8  # batches in a file of finished premises
PLAUSIBILITY = 0.1  # of causal models, unless the config says otherwise
DECODING = "logits alone, whole turns"  # of what is kept: other ways made other texts
_STREAM = 71


def load_model(name: str) -> Model:
    """A causal or encoder-decoder model from a folder, ``bundled:<name>`` or hub id.

    Raises:
        UserError: absent or unfitting weights.
    """
    if load_config(name).is_encoder_decoder:
        return SequenceToSequence.from_pretrained(name)
    return LanguageModel.from_pretrained(name)


def takes_turns(model: Model) -> bool:
    """Whether the tokenizer has a chat template."""
    return getattr(model.tokenizer, "chat_template", None) is not None


def end_of_answer(model: Model) -> str | None:
    """The character that ends an answer: a line break, of causal models that continue with a text.

    A chat model may open with line breaks and ends its turn itself, as an encoder-decoder does.
    """
    return "\n" if isinstance(model, LanguageModel) and not takes_turns(model) else None


def in_frame(model: Model, text: str) -> str:
    """A prompt in the model's chat template, if its tokenizer has one."""
    return framed(model.tokenizer, Prompt(text, turn=takes_turns(model)))


def effective_omega(cfg: Stage1Config) -> float:
    """Weight of the opposite branch; 0 with stage 1 off, which is plain generation."""
    return cfg.omega if cfg.enabled else 0.0


def build_writer(cfg: Stage1Config) -> RowFunction:
    """Premises of a chunk -> a record for each kind, see `written`."""
    model = load_model(cfg.model)
    causal, omega = isinstance(model, LanguageModel), effective_omega(cfg)
    plausibility = cfg.plausibility
    if plausibility is None:
        plausibility = PLAUSIBILITY if causal else 0.0
    options: dict[str, Any] = {
        "max_new_tokens": cfg.max_new_tokens,
        "batch_size": cfg.batch_size,
        "stop": end_of_answer(model),
    }

    def write(premises: Sequence[str], seeds: Sequence[RowSeed]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{} for _ in premises]
        for number, kind in enumerate(KINDS):
            prompts, opposite = (
                [
                    in_frame(model, generation_prompt(text, which, cfg.instruction, cfg.prompts))
                    for text in premises
                ]
                for which in (kind, OPPOSITE[kind])
            )
            rngs = [seed.rng(_STREAM, number) for seed in seeds] if cfg.sample else None
            # without the other branch nothing is left out: plain greedy decoding
            guard = plausibility if omega > 0 else 0.0
            answers = contrastive_answers(
                model, prompts, opposite, omega=omega, plausibility=guard, rngs=rngs, **options
            )
            plain = None
            if cfg.compare_plain:
                plain = contrastive_answers(model, prompts, opposite, omega=0.0, **options)
            for i, answer in enumerate(answers):
                rows[i][kind] = {
                    "text": one_line(parse_sentence(answer.text)),
                    "tokens": answer.num_tokens,
                    "omega": omega,
                    "model": cfg.model,
                    "differs": None if plain is None else plain[i].text != answer.text,
                }
        return rows

    return write


def write_records(
    cfg: Stage1Config,
    premises: Sequence[str],
    folder: Path,
    seed: int = 0,
    options: RowMapConfig | None = None,
    display: Callable[[str, int], Display] | None = None,
) -> MappedRows:
    """Records of premises in files of `folder`; a killed job continues, shares are joined.

    Raises:
        UserError: the folder was made from other premises or with other settings; no such model.
    """
    step = RowMap(
        "generate", partial(build_writer, cfg), settings(cfg), seed, cfg.batch_size * CHUNK_BATCHES
    )
    return map_rows(step, [one_line(text) for text in premises], folder, options, display)


def settings(cfg: Stage1Config) -> dict[str, Any]:
    """What the records depend on besides premises and seed."""
    return {
        "model": cfg.model,
        "omega": effective_omega(cfg),
        "plausibility": cfg.plausibility,
        "sample": cfg.sample,
        "max_new_tokens": cfg.max_new_tokens,
        "instruction": cfg.instruction,
        "compare_plain": cfg.compare_plain,
        "batch_size": cfg.batch_size,
        "quotes": "in pairs",
        "decoding": DECODING,
        "prompts": content_digest(
            generation_prompt("", kind, cfg.instruction, cfg.prompts) for kind in KINDS
        ),
    }


def written(premises: Sequence[str], records: Sequence[dict[str, Any]]) -> list[GradedTriplet]:
    """Triplets of premises and records; those with an empty answer are left out, with a warning.

    Raises:
        UserError: none is left.
    """
    triplets = [
        GradedTriplet(one_line(premise), *(record[kind]["text"] for kind in KINDS))
        for premise, record in zip(premises, records, strict=True)
        if all(record[kind]["text"] for kind in KINDS)
    ]
    if not triplets:
        raise UserError("the language model wrote no sentence: take another stage1.model")
    if len(triplets) < len(records):
        lost = f"{len(records) - len(triplets)} of {len(records)} premises are left out"
        warnings.warn(
            f"{lost}: an answer is empty; another stage1.model may have more", stacklevel=2
        )
    return triplets
