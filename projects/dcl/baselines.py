"""What DCL has to beat: the pixels, the untrained network, chance."""

from torch import Tensor, nn

from common.data.image.parts import Part
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from common.evaluation.features.frozen import knn_correct, source_features
from common.evaluation.features.trivial import majority_class
from projects.dcl.config import Config
from projects.dcl.data import eval_transform, image_part
from projects.dcl.evaluate import probes
from projects.dcl.module import DCL


def raw_pixels(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Probes on the normalised pixels."""
    return _probe(cfg, nn.Flatten(), workspace)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Probes on the network as its training begins with it."""
    return _probe(cfg, as_training_begins(lambda: DCL(cfg), cfg.seed).network.encoder, workspace)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The bank's most frequent class for every test image."""
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    correct = majority_class(bank.labels.tolist(), test.labels.tolist())
    names = [f"knn{k}_top1" for k in cfg.eval.ks] + ["linear_probe_top1"] * cfg.eval.linear_probe
    for name in names:
        workspace.items(name, correct)
    return dict.fromkeys(names, sum(correct) / len(correct))


def _probe(cfg: Config, encoder: nn.Module, workspace: Workspace) -> dict[str, float]:
    def features(part: Part) -> tuple[Tensor, Tensor]:
        images = image_part(cfg, part)
        x, kept = source_features(
            encoder,
            images.source(eval_transform(cfg.data)),
            batch_size=cfg.eval.batch_size,
            num_workers=cfg.data.num_workers,
            progress=workspace.progress,
        )
        return x, images.labels[kept]

    bank, test = features("bank"), features("test")
    correct = knn_correct(*bank, *test, k=cfg.eval.items_k)
    workspace.items(f"knn{cfg.eval.items_k}_top1", correct)
    return probes(cfg, bank, test, cfg.eval.linear_probe)
