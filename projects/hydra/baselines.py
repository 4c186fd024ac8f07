"""What Hydra has to beat: the pixels, the untrained network, chance."""

from common.families.images.baselines import image_baselines
from projects.hydra.data import image_part
from projects.hydra.module import Hydra

raw_pixels, untrained, chance = image_baselines(
    lambda cfg: (image_part(cfg, "train"), image_part(cfg, "test")),
    lambda cfg: Hydra(cfg).network.encoder,
)
