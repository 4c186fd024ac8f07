"""The stage of an experiment: sources, towers, module; what `make check` reports on."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from common.data.module import ContrastiveData
from common.encoders.text.experts import expert_modules
from common.engine.experiment import Plan, Stage, weights_requirement
from projects.cosmo.batches import CachedPatches, Frames, KindSource, Pixels, Words
from projects.cosmo.config import Config
from projects.cosmo.interleaved.round_robin import RoundRobin
from projects.cosmo.module import COSMO
from projects.cosmo.network import build_network, dry_network, visual_dim_of
from projects.cosmo.sources import Part, Pictures, requirements, rows_of
from projects.cosmo.start import begin_with, start_requirement
from projects.cosmo.visual_language.patch_tokens import PatchTower

# nf4: half a byte, and a scale in float32 for 64 of them
DTYPE_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "nf4": 0.5 + 4 / 64}


def build_module(cfg: Config, tower: PatchTower) -> COSMO:
    """Module before training."""
    network, tokenizer = build_network(cfg, tower.width)
    return COSMO(cfg, network, tokenizer, tower)


def encode(tower: PatchTower, cfg: Config, pictures: Any, batch_size: int = 128) -> Tensor:
    """Tokens (N, n, D_v) of a sequence of PIL images, on the CPU."""
    if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu":
        tower.to(torch.device("cuda"))
    device = next(tower.encoder.parameters()).device
    plain = Pixels(tower, cfg.data)
    parts = []
    for start in range(0, len(pictures), batch_size):
        rows = range(start, min(start + batch_size, len(pictures)))
        pixels = plain([pictures[i] for i in rows], None)
        parts.append(tower(pixels.to(device)).cpu())
    return torch.cat(parts)


def frames_of(cfg: Config, tower: PatchTower, part: Part) -> Frames:
    """Pictures of a part as batches hold them: tokens of a table, or pixels."""
    if cfg.data.source == "bundled" and cfg.data.cache:
        return CachedPatches(encode(tower, cfg, Pictures(cfg, part)))
    return Pixels(tower, cfg.data)


def source_of(cfg: Config, module: COSMO, kind: str, part: Part, frames: Frames) -> KindSource:
    """Documents of a kind as batches."""
    words = Words(module.tokenizer, cfg.data)
    return KindSource(kind, rows_of(cfg, kind, part), words, frames, cfg.data, cfg.seed)


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "train"."""
    tower = PatchTower(cfg.model.vision)
    module = build_module(cfg, tower)
    begin_with(cfg, module)
    frames = frames_of(cfg, tower, "train")
    sources = [source_of(cfg, module, kind, "train", frames) for kind in cfg.data.kinds]
    sizes = [cfg.data.batch_of(kind) for kind in cfg.data.kinds]
    stream = RoundRobin(sources, sizes, cfg.seed, cfg.data.batch_size)
    val = {}
    if cfg.trainer.val_every_n_steps is not None and cfg.data.source != "shards":
        val["dev"] = source_of(cfg, module, cfg.data.kinds[0], "dev", frames_of(cfg, tower, "dev"))
    data = ContrastiveData(
        stream,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )
    yield Stage("train", module, data)


def plan(cfg: Config) -> Plan[COSMO]:
    """What `make check` reports on."""
    needed = requirements(cfg)
    width, tokens, _ = visual_dim_of(cfg.model.vision)

    def forward(module: COSMO, batch_size: int) -> Tensor:
        size = cfg.data.batch_of(cfg.data.kinds[0])
        patches = torch.zeros(size, 1, 1, tokens, width)
        ids = torch.ones(size, cfg.data.max_caption, dtype=torch.long)
        parts = module.network(patches, ids, torch.ones_like(ids))
        loss: Tensor = parts.logits.float().sum()
        return (
            loss
            if parts.text is None or parts.visual is None
            else loss + parts.text.sum() + parts.visual.sum()
        )

    def frozen(module: COSMO, devices: int) -> Mapping[str, int]:
        model = module.network.language.model
        count = sum(p.numel() for p in model.parameters())
        dtype = cfg.model.language_dtype
        rows = {"frozen language model": int(count * DTYPE_BYTES[dtype])}
        if dtype == "nf4" and (experts := expert_modules(model)):
            layers = (sum(part.get_parameter(n).numel() for n in names) for part, names in experts)
            rows["experts of a layer in 16 bits"] = 2 * max(layers)
        return rows

    return Plan(
        lambda: COSMO(cfg, *dry_network(cfg, width)),
        num_samples(cfg) if all(r.present for r in needed) else 0,
        forward,
        (
            *weights_requirement(cfg.model.vision),
            *weights_requirement(cfg.model.language),
            *start_requirement(cfg),
            *needed,
        ),
        frozen,
    )


def num_samples(cfg: Config) -> int:
    """Samples of an epoch in units of ``data.batch_size``, on one process."""
    sizes = [len(rows_of(cfg, kind, "train")) // cfg.data.batch_of(kind) for kind in cfg.data.kinds]
    return len(sizes) * min(sizes) * cfg.data.batch_size
