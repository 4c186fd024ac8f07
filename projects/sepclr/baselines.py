"""What separated codes have to beat: the pixels in both places, the untrained encoders, chance."""

from dataclasses import replace

import torch
from torch import Tensor

from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.sepclr.config import Config
from projects.sepclr.data import set_pair, transforms
from projects.sepclr.evaluate import features, judged, probes
from projects.sepclr.module import SepCLR
from projects.sepclr.networks import Codes


def raw_pixels(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Probes of the pixels, which are common and salient code at once."""
    _, plain = transforms(cfg)
    pairs = [set_pair(cfg, part) for part in ("train", "test")]
    rows = [pair.samples.source(plain).load(list(range(len(pair))))[0] for pair in pairs]
    train, test = ((pair, _same(x)) for pair, x in zip(pairs, rows, strict=True))
    return judged(probes(cfg, train, test), test[0], workspace)


def _same(x: Tensor) -> Codes:
    flat = x.flatten(1)
    return Codes(flat, flat, flat, flat)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Probes of the encoders before training."""
    network = as_training_begins(lambda: SepCLR(cfg), cfg.seed).network
    train, test = (
        features(cfg, network, set_pair(cfg, part), workspace) for part in ("train", "test")
    )
    return judged(probes(cfg, train, test), test[0], workspace)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The expected accuracy of uniform guessing among the classes of each factor."""
    train, test = (set_pair(cfg, part) for part in ("train", "test"))
    blank = [(pair, _same(torch.zeros(len(pair), 1))) for pair in (train, test)]
    guessed = {
        name: replace(probe, value=probe.chance, scores=torch.full_like(probe.scores, probe.chance))
        for name, probe in probes(cfg, *blank).items()
        if probe.is_class
    }
    return judged(guessed, test, workspace)
