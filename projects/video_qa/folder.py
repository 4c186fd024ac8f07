"""An exported model: weights as safetensors, settings, tokenizer.

The frozen encoder of frames by its name.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.modes import evaluation_mode
from common.encoders.state_dict import read_state_dict
from common.encoders.text.tower import load_tokenizer
from common.export.safetensors import load_safetensors, save_safetensors
from projects.video_qa.clips.batches import Layout, VideoQABatch, Words
from projects.video_qa.config import Config
from projects.video_qa.data import layout_of
from projects.video_qa.module import VideoQA
from projects.video_qa.network import VideoQANet, build_encoder, build_tokenizer, network_options

TOKENIZER = "tokenizer"  # folder in an export


class Exported(NamedTuple):
    """What a folder holds, and what a trained module knows."""

    network: VideoQANet
    words: Words
    layout: Layout
    image_encoder: str


def exported_of(module: VideoQA) -> Exported:
    """A trained module with the settings that it was trained with."""
    cfg = module.cfg
    return Exported(
        module.network, Words(build_tokenizer(cfg)), layout_of(cfg), cfg.model.image_encoder
    )


def export(cfg: Config, module: VideoQA, folder: Path) -> None:
    """Write the network of answers; nothing of the contrastive branch is needed."""
    trained_cfg = module.cfg
    config = {
        "encoder": module.network.encoder.config.to_diff_dict(),
        "network": network_options(trained_cfg),
        "layout": asdict(layout_of(trained_cfg)),
        "image_encoder": trained_cfg.model.image_encoder,
    }
    save_safetensors(module.network, folder, config)
    build_tokenizer(trained_cfg).save_pretrained(folder / TOKENIZER)


def read(folder: Path) -> Exported:
    """Open a folder written by `export`.

    Raises:
        UserError: another folder, or a damaged one.
    """
    net, settings = _opened(folder)
    words = Words(load_tokenizer(str(folder / TOKENIZER)))
    return Exported(net, words, Layout(**settings["layout"]), settings["image_encoder"])


def load_export(cfg: Config, folder: Path) -> VideoQA:
    """The module around an exported network.

    Its settings are the folder's, whatever those of the command are.

    Raises:
        UserError: another folder, or a damaged one.
    """
    network, settings = _opened(folder)
    net, layout = settings["network"], settings["layout"]
    kept = (
        "attention",
        "fusion",
        "pool",
        "streams",
        "rnn",
        "hidden",
        "head_dropout",
        "chunk",
        "checkpointing",
    )
    sizes = ("max_sentences", "max_length", "max_objects", "localised", "fps")
    model = replace(
        cfg.model,
        **{k: net[k] for k in kept},
        time_embedding=net["time_sentences"] > 0,
        image_encoder=settings["image_encoder"],
        tokenizer=str(folder / TOKENIZER),
    )
    data = replace(cfg.data, feature_dim=net["feature_dim"], **{k: layout[k] for k in sizes})
    weight = (cfg.method.localisation_weight or 1.0) if net["localise"] else 0.0
    method = replace(cfg.method, localisation_weight=weight, contrast_features="text")
    return VideoQA(replace(cfg, model=model, data=data, method=method), network)


def _opened(folder: Path) -> tuple[VideoQANet, dict[str, Any]]:
    settings: dict[str, Any] = {}

    def build(encoder: dict[str, Any], network: dict[str, Any], **rest: Any) -> VideoQANet:
        settings.update(rest, network=network)
        return VideoQANet(build_encoder("random", encoder, None, None), **network)

    return load_safetensors(folder, build), settings


def read_network(folder: Path, network: VideoQANet) -> dict[str, Tensor]:
    """State of a network with all weights of an export that fit it, the scores' included.

    A head for spans may be on one side alone; it then stays as it is.

    Raises:
        UserError: no export, or weights that do not fill the network.
    """
    state, own_state = read_state_dict(folder / "model.safetensors"), network.state_dict()
    fits = {k: v for k, v in state.items() if k in own_state and v.shape == own_state[k].shape}
    lost = [k for k in own_state if k not in fits and not k.startswith("span_head.")]
    if lost:
        raise UserError(
            f"pretrain.weights={folder} has no {lost[0]} of the right shape ({len(lost)} such"
            " tensors): use the settings of model that it was trained with"
        )
    return {**own_state, **fits}


def probe(module: VideoQA) -> VideoQABatch:
    """A small batch of numbers with a padding sentence and one without frames."""
    net, device = module.network, next(module.parameters()).device
    dim = int(net.project[0].in_features) if net.visual else 0  # type: ignore[arg-type]
    ids = torch.arange(2 * 3 * 2 * 6, device=device).view(2, 3, 2, 6) % 50 + 5
    ones = torch.ones_like(ids)
    sentences = torch.tensor([[True, True], [True, False]], device=device)
    spans = torch.tensor([[[1, 1, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 0]]], device=device).bool()
    return {
        "input_ids": ids,
        "attention_mask": ones,
        "token_type_ids": ones.cumsum(-1).gt(3).long(),
        "sentence_mask": sentences,
        "sentence_times": torch.zeros(2, 2, 2, device=device),
        "frames": torch.linspace(-1, 1, 2 * 3 * dim, device=device).sin().view(2, 3, dim),
        "frame_mask": torch.ones(2, 3, device=device).bool(),
        "frame_spans": spans,
        "frame_sentence": torch.zeros(2, 3, device=device).long(),
        "labels": torch.zeros(2, device=device).long(),
        "spans": torch.zeros(2, 2, device=device).long(),
        "span_seconds": torch.zeros(2, 2, device=device),
        "ids": torch.arange(2, device=device),
    }


def embed(cfg: Config, module: VideoQA) -> dict[str, Tensor]:
    """Scores and vectors of numbers as input, compared after export and reload."""
    with evaluation_mode(module):
        out = module.network(probe(module))
    outputs = {"scores": out.scores, "text": out.text}
    outputs |= {} if out.visual is None else {"visual": out.visual}
    return {name: value.detach().float().cpu() for name, value in outputs.items()}
