"""What learned image features have to beat: the pixels, the untrained network, chance."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from common.data.image.parts import ImagePart
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.features.trivial import majority_class
from common.families.images.data import ImageConfig
from common.families.images.evaluation import frozen_parts, probes, save_items


def probed(
    cfg: ImageConfig, encoder: nn.Module, bank: ImagePart, test: ImagePart, workspace: Workspace
) -> dict[str, float]:
    """Vote and linear probe on what an encoder gives, saved item by item.

    Args:
        cfg: the experiment's config.
        encoder: from normalised images to (B, F) features, on the GPU if the config allows it;
            `nn.Flatten()` gives the pixels, which stay where they are.
        bank: labelled images.
        test: images to classify.
        workspace: takes the items.
    """
    placed: AbstractContextManager[None] = nullcontext()
    if next(encoder.parameters(), None) is not None:
        placed = evaluated(encoder, cfg.trainer.accelerator)
    with placed:
        parts = frozen_parts(cfg, encoder, bank, test, workspace)
    scores = probes(cfg, parts)
    save_items(cfg, scores, workspace)
    return scores.metrics


def untrained_probed(
    cfg: ImageConfig,
    build: Callable[[], nn.Module],
    bank: ImagePart,
    test: ImagePart,
    workspace: Workspace,
) -> dict[str, float]:
    """`probed` for a network before its training, see `untrained`.

    Args:
        cfg: the experiment's config.
        build: makes the encoder under ``cfg.seed``.
        bank: labelled images.
        test: images to classify.
        workspace: takes the items.
    """
    return probed(cfg, untrained(build, cfg.seed), bank, test, workspace)


def majority_probed(
    cfg: ImageConfig, bank: ImagePart, test: ImagePart, workspace: Workspace
) -> dict[str, float]:
    """The bank's most frequent class for every test image, under the names of all probes."""
    correct = majority_class(bank.labels.tolist(), test.labels.tolist())
    names = [f"knn{k}_top1" for k in cfg.eval.ks] + ["linear_probe_top1"] * cfg.eval.linear_probe
    for name in names:
        workspace.items(name, correct)
    return dict.fromkeys(names, sum(correct) / len(correct))


Baseline = Callable[[Any, Workspace], dict[str, float]]


def image_baselines(
    parts: Callable[[Any], tuple[ImagePart, ImagePart]], build: Callable[[Any], nn.Module]
) -> tuple[Baseline, Baseline, Baseline]:
    """What a project's `baselines` module exposes as ``raw_pixels``, ``untrained`` and ``chance``.

    Args:
        parts: config -> labelled bank and test images.
        build: config -> the encoder before training, from the global random state.

    Returns:
        Probes on the normalised pixels; on the untrained encoder; the bank's most frequent class.
    """

    def raw_pixels(cfg: Any, workspace: Workspace) -> dict[str, float]:
        return probed(cfg, nn.Flatten(), *parts(cfg), workspace)

    def untrained_encoder(cfg: Any, workspace: Workspace) -> dict[str, float]:
        return untrained_probed(cfg, lambda: build(cfg), *parts(cfg), workspace)

    def chance(cfg: Any, workspace: Workspace) -> dict[str, float]:
        return majority_probed(cfg, *parts(cfg), workspace)

    return raw_pixels, untrained_encoder, chance
