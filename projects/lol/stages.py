"""Original and amateur of a config, stages, export, and what `make check` builds."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from common.config import UserError, to_dict
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.decoding.language_model import LanguageModel
from common.encoders.pretrained import stand_in
from common.encoders.text.language_models.causal import add_lora, remove_lora
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer, quiet
from common.engine.experiment import Plan, Stage
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.engine.module import freeze
from common.export.files import write_files
from projects.lol.config import Config
from projects.lol.data import (
    Answers,
    Hallucination,
    amateur_data,
    hallucinations,
    requirements,
    training_frame,
)
from projects.lol.decoder import Decoder
from projects.lol.facts import Statements, World, word_tokenizer, world_of
from projects.lol.lora import load_lora, save_lora
from projects.lol.module import LOL
from projects.lol.prompts import Prompts
from projects.lol.tracks import read

PROBE = "what is a rose"
ORIGINAL, AMATEUR = "original", "amateur"  # folders of an export
_LLAMA: dict[str, Any] = {"model_type": "llama"}
# what `make check` builds for weights that are not on this machine
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b-chat-hf": _LLAMA,
    "meta-llama/Llama-2-13b-chat-hf": {
        **_LLAMA,
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "intermediate_size": 13824,
    },
    "meta-llama/Meta-Llama-3-8B-Instruct": {
        **_LLAMA,
        "vocab_size": 128256,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
    },
    "mistralai/Mistral-7B-Instruct-v0.2": {"model_type": "mistral"},
}


def has_world(cfg: Config) -> bool:
    """Whether facts about nouns are trained on or asked for."""
    return bool({"facts", "synthetic"} & {cfg.data.source, cfg.eval.source})


def build_original(cfg: Config) -> tuple[Any, Any]:
    """Original model and tokenizer of the config, before any training.

    Raises:
        UserError: absent or unfitting weights.
    """
    tokenizer = _tokenizer(cfg)
    config = cfg.model.config
    if config is not None and cfg.base.steps:  # a model of the world's words
        ends = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
        config = {**config, "vocab_size": len(tokenizer), **ends}
    model = load_transformer(cfg.model.pretrained, config=config, auto_class=AutoModelForCausalLM)
    return model, tokenizer


def with_amateur(cfg: Config, model: Any, tokenizer: Any, path: Path | None = None) -> LOL:
    """The original with its amateur: new adapters, a new model, or those of a folder.

    Args:
        cfg: the experiment's config.
        model: the original; adapters are put on it, and its own weights are frozen.
        tokenizer: of both.
        path: peft's folder of adapters, or a folder of transformers; None: `amateur.path`, else
            new.

    Raises:
        UserError: no such folder, or an amateur of other words.
    """
    settings = cfg.amateur
    if path is None and settings.path is not None:
        path = Path(settings.path).expanduser()
        path = path if path.is_dir() else data_root(cfg.data.root) / settings.path
    if path is not None and (path / "adapter_config.json").is_file():
        load_lora(model, path)
        return LOL(cfg, model, tokenizer, lora=True)
    if path is not None:
        amateur = load_transformer(str(path), auto_class=AutoModelForCausalLM)
        if load_tokenizer(str(path)).get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"the amateur {path} has another vocabulary than {cfg.model.pretrained}"
            )
        return LOL(cfg, freeze(model), tokenizer, amateur=freeze(amateur))
    if settings.kind == "none":
        return LOL(cfg, freeze(model), tokenizer)
    if settings.kind == "full":
        amateur = copy.deepcopy(model)
        return LOL(cfg, freeze(model), tokenizer, amateur=amateur)
    add_lora(
        model,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        targets=settings.targets,
    )
    return LOL(cfg, model, tokenizer, lora=True)


def stages(cfg: Config) -> Iterator[Stage]:
    """The original where it is ours to train, then its amateur.

    What another run has trained is loaded.

    Raises:
        UserError: absent weights or data.
    """
    model, tokenizer = build_original(cfg)
    world = world_of(cfg) if has_world(cfg) else None
    if cfg.base.steps:
        if world is None:
            raise UserError(
                "base.steps > 0 trains on facts: set data.source=facts, or base.steps=0"
            )
        original = LOL(cfg, model, tokenizer, "original")
        yield from _kept(cfg, "base", original, statements(cfg, world, tokenizer), cfg.base.steps)
    module = with_amateur(cfg, model, tokenizer)
    if cfg.amateur.kind != "none" and cfg.amateur.path is None:
        frame = training_frame(cfg, Prompts(cfg, tokenizer))
        rows = Answers(hallucinations(cfg, world), _reader(module), frame, cfg.data.length)
        yield from _kept(cfg, "amateur", module.train(), amateur_data(cfg, rows), None)
        return
    # nothing is fitted: the stage takes over the weights, as from another run
    nothing = Answers([Hallucination(PROBE, PROBE)], _reader(module), str, 10**6)
    kept = kept_path(_folder(cfg), "off-the-shelf", "lol", _settings(cfg, "off-the-shelf"))
    keep_weights(kept, module)
    yield Stage(
        "off_the_shelf", module, ContrastiveData(nothing, batch_size=1, seed=cfg.seed), weights=kept
    )


def _reader(module: LOL) -> LanguageModel:
    """The original, for its tokenizer; on a GPU it is in the trainer's precision."""
    device = next(module.model.parameters()).device
    return LanguageModel(module.model, module.tokenizer, str(device))


def statements(cfg: Config, world: World, tokenizer: Any) -> ContrastiveData:
    """Batches that the original is trained on."""
    data = Statements(world, tokenizer, cfg.facts.forum_myths, cfg.seed)
    return ContrastiveData(
        data, batch_size=cfg.base.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )


def _kept(
    cfg: Config, name: str, module: LOL, data: ContrastiveData, steps: int | None
) -> Iterator[Stage]:
    """A stage whose weights are kept, for runs that differ in the evaluation alone."""
    kept = kept_path(_folder(cfg), name, "lol", _settings(cfg, name))
    trainer: Mapping[str, Any] = {} if steps is None else {"max_steps": steps, "max_epochs": None}
    weights = kept if kept.is_file() else None
    yield Stage(name, module, data, trainer, weights=weights)
    keep_weights(kept, module)


def _folder(cfg: Config) -> Path:
    return Path(cfg.runs_dir) / "lol" / "models"


def _settings(cfg: Config, stage: str) -> dict[str, Any]:
    """What the weights of a stage depend on."""
    plain = to_dict(cfg)
    names = ["data", "facts", "base", "model", "seed", "optim", "trainer"]
    names += [] if stage == "base" else ["amateur", "prompt"]
    if stage == "base":  # its own batch and rate
        plain["optim"] = {
            k: v for k, v in plain["optim"].items() if k not in ("lr", "warmup_steps")
        }
        plain["data"] = {k: plain["data"][k] for k in ("root", "source")}
        plain["trainer"] = {
            k: v for k, v in plain["trainer"].items() if k not in ("max_steps", "max_epochs")
        }
    else:  # what the refocus prompt says is not a part of the training
        plain["prompt"] = {
            k: v for k, v in plain["prompt"].items() if k not in ("truthful", "fabricate")
        }
    return {
        "stage": stage,
        "evaluated": cfg.eval.source == "synthetic",
        **{n: plain[n] for n in names},
    }


def build_decoder(cfg: Config, module: LOL, method: str) -> Decoder:
    """Scorer and writer of a method of the config.

    Raises:
        UserError: no such method, or one that lacks its amateur.
    """
    if method not in cfg.methods:
        raise UserError(f"'{method}' is none of methods: {', '.join(cfg.methods)}")
    small = None
    if cfg.methods[method].amateur == "small" and cfg.model.small is not None:
        if load_tokenizer(cfg.model.small).get_vocab() != module.tokenizer.get_vocab():
            raise UserError(
                f"model.small={cfg.model.small} has another vocabulary than the original"
            )
        small = load_transformer(cfg.model.small, auto_class=AutoModelForCausalLM)
    prompts = Prompts(cfg, module.tokenizer)
    return Decoder(module.models(small), cfg.methods[method], prompts, cfg.eval.batch_size)


def save(cfg: Config, module: LOL, folder: Path) -> None:
    """Load ``original`` (transformers, if trained here) and ``amateur`` (peft or transformers)."""
    trained_here = cfg.base.steps or cfg.model.config is not None
    model = copy.deepcopy(module.model)
    base = ORIGINAL if trained_here else cfg.model.pretrained

    def write(new: Path) -> None:
        with quiet():
            if module.lora:
                save_lora(model, new / AMATEUR, base)
                remove_lora(model)
            elif module.amateur is not None:
                copy.deepcopy(module.amateur).save_pretrained(new / AMATEUR)  # type: ignore[operator]
                module.tokenizer.save_pretrained(new / AMATEUR)
            if trained_here or not (new / AMATEUR).exists():
                model.save_pretrained(new / ORIGINAL)
                module.tokenizer.save_pretrained(new / ORIGINAL)

    write_files(folder, write)


def load(cfg: Config, folder: Path) -> LOL:
    """Original and amateur of an exported folder.

    Raises:
        UserError: not such a folder.
    """
    if not (folder / ORIGINAL).is_dir() and not (folder / AMATEUR).is_dir():
        raise UserError(
            f"{folder} contains neither {ORIGINAL}/ nor {AMATEUR}/: give an export of lol"
        )
    source = str(folder / ORIGINAL) if (folder / ORIGINAL).is_dir() else cfg.model.pretrained
    model = load_transformer(source, auto_class=AutoModelForCausalLM)
    tokenizer = load_tokenizer(source)
    if not (folder / AMATEUR).is_dir():
        return LOL(cfg, model, tokenizer)
    return with_amateur(cfg, model, tokenizer, folder / AMATEUR)


def embed(module: LOL) -> dict[str, Tensor]:
    """Logits of original and amateur on a small fixed text, to be compared after a reload."""
    models = module.models()
    ids = models.lm.token_ids(PROBE, special=True)
    kinds = {"original": "original", "amateur": "trained"}
    tracks = [models.track([ids[:1]], kind) for kind in kinds.values()]
    readings = read(tracks, [ids[1:]], models.lm.pad)
    return {name: r.logits.float().cpu() for name, r in zip(kinds, readings, strict=True)}


def plan(cfg: Config) -> Plan[LOL]:
    """What `make check` reports on."""
    sizes = stand_in(cfg.model.pretrained, ARCHITECTURES)
    needed = tuple(requirements(cfg))

    def module() -> LOL:
        if sizes is None:
            return with_amateur(cfg, *build_original(cfg))
        model = load_transformer("random", config=sizes, auto_class=AutoModelForCausalLM)
        return with_amateur(cfg, model, tiny_tokenizer())

    def forward(built: LOL, batch_size: int) -> Tensor:
        ids = torch.ones(batch_size, cfg.data.length, dtype=torch.long)
        trained = built.model if built.amateur is None else built.amateur
        out: Tensor = trained(input_ids=ids, use_cache=False).logits
        return out.sum()

    samples = 0
    if all(r.present for r in needed) and cfg.amateur.kind != "none" and cfg.amateur.path is None:
        samples = len(hallucinations(cfg, world_of(cfg) if has_world(cfg) else None))
    return Plan(module, samples, forward, needed)


def _tokenizer(cfg: Config) -> Any:
    if cfg.model.config is None:
        return load_tokenizer(cfg.model.pretrained)
    if cfg.base.steps:
        return word_tokenizer(world_of(cfg).vocabulary)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = tokenizer.sep_token
    return tokenizer
