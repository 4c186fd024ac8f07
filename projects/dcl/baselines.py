"""What DCL has to beat: the pixels, the untrained network, chance."""

from common.families.images.baselines import image_baselines
from projects.dcl.data import image_part
from projects.dcl.module import DCL

raw_pixels, untrained, chance = image_baselines(
    lambda cfg: (image_part(cfg, "bank"), image_part(cfg, "test")),
    lambda cfg: DCL(cfg).network.encoder,
)
