"""What CACR has to beat: the pixels, the untrained network, chance."""

from torch import nn

from common.engine.workspace import Workspace
from common.families.images import baselines
from projects.cacr.config import Config
from projects.cacr.data import image_part
from projects.cacr.module import CACR


def raw_pixels(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Probes on the normalised pixels."""
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    return baselines.probed(cfg, nn.Flatten(), bank, test, workspace)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Probes on the network as its training begins with it."""
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    return baselines.untrained_probed(cfg, lambda: CACR(cfg).network.encoder, bank, test, workspace)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The bank's most frequent class for every test image."""
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    return baselines.majority_probed(cfg, bank, test, workspace)
