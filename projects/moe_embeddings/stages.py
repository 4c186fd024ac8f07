"""The one stage of training, what is exported and read again, what `make check` builds."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from common.engine.experiment import Plan, Stage
from projects.moe_embeddings.config import Config
from projects.moe_embeddings.data import requirements, training_data, training_pairs
from projects.moe_embeddings.encoder import build_encoder
from projects.moe_embeddings.export import load_encoder, save_encoder
from projects.moe_embeddings.module import MoeEmbeddings, check_domains_route

PROBES = ["Catalogues of small libraries.", "Noise in a transistor amplifier at low frequencies."]


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "train", whose best checkpoint on the validation pairs is kept if it validates."""
    encoder = build_encoder(cfg.model, cfg.data.domains, cfg.data.max_length)
    monitor = None if cfg.trainer.val_every_n_steps is None else f"val/{cfg.method.monitor}"
    module, data = MoeEmbeddings(cfg, encoder), training_data(cfg, encoder)
    mode = "min" if cfg.method.monitor == "loss" else "max"
    yield Stage("train", module, data, monitor=monitor, monitor_mode=mode)  # type: ignore[arg-type]


def export(cfg: Config, module: MoeEmbeddings, folder: Path) -> None:
    """Write the encoder.

    Raises:
        UserError: the control that routes by hash, whose experts are not those of domains.
    """
    check_domains_route(module)
    save_encoder(module.encoder, folder)


def load_export(cfg: Config, folder: Path) -> MoeEmbeddings:
    """A module around an exported encoder."""
    return MoeEmbeddings(cfg, load_encoder(folder))


def embed(cfg: Config, module: MoeEmbeddings) -> dict[str, Tensor]:
    """Embeddings of a few texts in each domain, compared after export and reload."""
    encoder = module.encoder
    return {name: encoder.encode(PROBES, name) for name in encoder.layout.domains}


def plan(cfg: Config) -> Plan[MoeEmbeddings]:
    """What `make check` reports on."""
    needed = requirements(cfg)
    here = all(r.present for r in needed if r.name.startswith("data"))
    data = cfg.data

    def module() -> MoeEmbeddings:
        encoder = build_encoder(cfg.model, data.domains, data.max_length, planned=True)
        return MoeEmbeddings(cfg, encoder)

    def forward(module: MoeEmbeddings, batch_size: int) -> Tensor:
        ids = torch.ones(2 * batch_size, data.max_length, dtype=torch.long)
        # without a mask: transformers looks at its values, and meta tensors have none
        kinds = module.encoder.layout.num_experts
        embeddings: Tensor = module.encoder(ids, expert=[i % kinds for i in range(len(ids))])
        return embeddings.sum()

    return Plan(module, len(training_pairs(cfg)) if here else 0, forward, tuple(needed))
