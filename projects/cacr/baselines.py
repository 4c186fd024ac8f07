"""What CACR has to beat: the pixels, the untrained network, chance."""

from common.families.images.baselines import image_baselines
from projects.cacr.data import image_part
from projects.cacr.module import CACR

raw_pixels, untrained, chance = image_baselines(
    lambda cfg: (image_part(cfg, "bank"), image_part(cfg, "test")),
    lambda cfg: CACR(cfg).network.encoder,
)
