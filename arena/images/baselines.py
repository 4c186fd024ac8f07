"""What a contestant has to beat without training: the pixels, the untrained network, chance."""

from arena.images.data import image_part
from arena.images.module import Contest
from common.families.images.baselines import image_baselines

raw_pixels, untrained, chance = image_baselines(
    lambda cfg: (image_part(cfg, "bank"), image_part(cfg, "test")),
    lambda cfg: Contest(cfg).network.encoder,
)
