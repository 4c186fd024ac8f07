"""What the engine drives: the stage, export and reload, the plan of `make check`, the task."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.image_text.shards import is_local, names_of
from common.data.lookup import data_root
from common.encoders.pretrained import stand_in
from common.engine.experiment import (
    Plan,
    Requirement,
    Stage,
    bundled_requirement,
    weights_requirement,
)
from common.engine.trainer import world_size
from projects.one_to_k import export as exports
from projects.one_to_k.config import Config
from projects.one_to_k.data import EMOJI, build_data, build_tokenizer, emoji_rows, validation_set
from projects.one_to_k.module import OneToK
from projects.one_to_k.multilingual import CaptionLines
from projects.one_to_k.start import starting_module
from projects.one_to_k.validation import ValidatedOneToK, Whole

SIZES = {"captions": 29000, "multi30k": 29000 * 5, "coco": 113287 * 5}
ARCHITECTURES: dict[str, dict[str, Any]] = {  # what `make check` builds for absent weights
    "FacebookAI/xlm-roberta-large": {
        "model_type": "xlm-roberta",
        "vocab_size": 250002,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }
}
PROBES = ["a red apple", "ein roter Apfel"]


def stages(cfg: Config) -> Iterator[Stage]:
    """One stage; it starts from an export where the config names one (fine-tuning).

    With `trainer.val_every_n_steps` the weights of the best mean recall are kept.

    Raises:
        UserError: see `starting_module` and `build_data`.
    """
    validates = cfg.trainer.val_every_n_steps is not None
    module, data = starting_module(cfg, ValidatedOneToK), build_data(cfg)
    if validates:
        module.validated_on(validation_set(cfg, build_tokenizer(cfg.model)))
        data.val_sets = {"retrieval": Whole(world_size(cfg.trainer))}
    yield Stage("train", module, data, monitor="val/recall_mean" if validates else None)


def export(cfg: Config, module: OneToK, folder: Path) -> None:
    """See `projects.one_to_k.export`."""
    exports.save_export(cfg, module.network, float(module.temperature.temperature), folder)


def load_export(cfg: Config, folder: Path) -> OneToK:
    """A module around an exported network."""
    network, reading = exports.load_export(folder)
    module = OneToK(cfg, network)
    module.temperature.temperature.data.fill_(reading["temperature"])
    return module


def embed(cfg: Config, module: OneToK) -> dict[str, Tensor]:
    """Embeddings of a fixed image and of two texts."""
    net, ids = module.network, build_tokenizer(cfg.model)(PROBES)
    device = next(module.parameters()).device
    images = _images(cfg, 2).add(1).cumsum(-1).sin() if cfg.data.source != "captions" else ids
    image = net.image_embeddings(net.image_encoder(images.to(device)))
    text = net.text_embeddings(net.text_encoder.text(ids.to(device))[0])
    return {"image": image.cpu(), "text": text.cpu()}


def plan(cfg: Config) -> Plan[OneToK]:
    """Parameters, samples and what lies on disk."""
    texts = cfg.data.texts_per_image or max(1, len(cfg.data.languages))
    count = {"all": texts, "pivot": 2, "random": 1}[cfg.method.policy]

    def forward(module: OneToK, batch_size: int) -> Tensor:
        net: Any = module.network
        ids = torch.ones(batch_size * count, cfg.model.max_tokens, dtype=torch.long)
        anchors = ids[:batch_size] if cfg.data.source == "captions" else _images(cfg, batch_size)
        tokens, (states, mask) = net.image_encoder(anchors), net.text_encoder.text(ids)
        total: Tensor = net.image_embeddings(tokens).sum() + net.text_embeddings(states).sum()
        if cfg.method.itm_weight > 0:
            for _ in range(3):  # a positive and two negatives
                total = total + net.match(states[:batch_size], mask[:batch_size], tokens).sum()
        return total

    def module() -> OneToK:
        """Sizes; off the meta device a run is reopened with the export that it began with."""
        if torch.get_default_device().type != "meta":
            return starting_module(cfg, OneToK)
        sizes = stand_in(cfg.model.text_pretrained, ARCHITECTURES)
        if sizes is None:
            return OneToK(cfg)
        model = replace(cfg.model, text_pretrained="random", text_config=sizes)
        return OneToK(replace(cfg, model=model))

    return Plan(module, num_samples(cfg), forward, requirements(cfg))


def num_samples(cfg: Config) -> int:
    """Training samples of an epoch; of a set that is not on disk, what the config says."""
    data = cfg.data
    path = data_root(data.root) / (data.files or "")
    if data.source == "jsonl" and list(path.parent.glob(path.name)):
        return len(CaptionLines(path))
    if data.source == "emoji":
        return len(emoji_rows(cfg, "train")[0]) if bundled_requirement(EMOJI).present else 0
    if data.source == "captions":
        return round(data.train_fraction * SIZES["captions"])
    return SIZES.get(data.source, data.num_samples)


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Captions, and weights that the config needs: for fine-tuning an export and no others."""
    data, needed = cfg.data, []
    if data.source == "emoji":
        needed = [bundled_requirement(EMOJI)]
    elif data.source == "jsonl":
        path = data_root(data.root) / str(data.files)
        there = bool(list(path.parent.glob(path.name)))
        hint = "captions of CC3M in several languages, see the card, or TASK=translate"
        needed = [Requirement("data: captions", str(path), there, hint)]
    elif data.source == "webdataset":
        first = next(names_of(str(data.shards)))
        if is_local(first):
            path = data_root(data.root) / first
            needed = [Requirement(f"data: {path.name}", str(path), path.exists(), "see the card")]
    elif data.source != "synthetic":
        path = data_root(data.root) / data.source
        hint = "layout and source in the card's section Data"
        needed = [Requirement(f"data: {data.source}", str(path), path.exists(), hint)]
    if cfg.model.init is not None:
        there = (Path(cfg.model.init) / "model.safetensors").exists()
        hint = "make export of pre-training, see model.init"
        return (*needed, Requirement("weights: export", cfg.model.init, there, hint))
    weights = [
        *weights_requirement(cfg.model.image_pretrained),
        *weights_requirement(cfg.model.text_pretrained),
    ]
    return (*needed, *weights)


def _images(cfg: Config, count: int) -> Tensor:
    return torch.zeros(count, 3, cfg.data.image_size, cfg.data.image_size)
