"""Exports: a BERT for transformers with projection and head alongside it, and back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.encoders.modes import evaluation_mode
from common.engine.module import ContrastiveModule
from projects.space2.config import Config
from projects.space2.exported import fill, load_dialog_encoder
from projects.space2.finetune import Finetune
from projects.space2.heads import TaskHead
from projects.space2.module import Space2
from projects.space2.network import Space2Network, load_network, save_network
from projects.space2.scoring import run_head, unlabelled_row

PROBES = ("I need a cheap hotel in the north", "what is the phone number")


def export(cfg: Config, module: ContrastiveModule, folder: Path) -> None:
    """Encoder for ``AutoModel``; ``dialog.safetensors`` holds what that class has no place for."""
    assert isinstance(module, Space2 | Finetune)
    head = module.head if isinstance(module, Finetune) else None
    settings = {} if head is None else {"head": head.settings()}
    save_network(module.network, folder, settings, {} if head is None else {"head": head})


def load_parts(folder: str | Path) -> tuple[Space2Network, TaskHead | None, dict[str, Any]]:
    """Network, head and settings of an exported folder, in eval mode.

    Raises:
        UserError: no such folder, or a damaged one.
    """
    network = load_network(folder)
    _, _, settings, tensors = load_dialog_encoder(folder)
    head = None
    if "head" in settings:
        head_settings = dict(settings["head"])
        head = TaskHead(head_settings.pop("kind"), network.encoder.num_features, **head_settings)
        fill(head, "head", tensors, folder)
        head.eval()
    return network, head, settings


def load(cfg: Config, folder: Path) -> ContrastiveModule:
    """A module that can be evaluated."""
    network, head, _ = load_parts(folder)
    return Space2(cfg, network) if head is None else Finetune(cfg, network, head)


def embed(cfg: Config, module: ContrastiveModule) -> dict[str, Tensor]:
    """Vectors, views and logits of two requests, compared after export and reload."""
    assert isinstance(module, Space2 | Finetune)
    network = module.network
    rows = network.texts.texts(PROBES)
    with evaluation_mode(module):
        sentence = network.encode(rows)
        views = network.view_vectors(sentence.to(network.device)).float().cpu()
        outputs = {"sentence": sentence, "views": views}
        if isinstance(module, Finetune):
            from projects.space2.dialogs.tasks import Example
            from projects.space2.dialogs.turns import Turn

            examples = [Example((Turn(True, text),)) for text in PROBES]
            task_rows = [unlabelled_row(e, network.texts, module.head) for e in examples]
            aux = torch.zeros(len(task_rows), 2 * len(module.head.slots))
            logits = run_head(network, module.head, task_rows, aux)
            outputs |= {
                name: x for name, x in logits.items() if name not in ("start", "end", "tags")
            }
    return outputs
