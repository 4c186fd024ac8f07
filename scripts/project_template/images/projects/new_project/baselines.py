"""What NewProject has to beat: the pixels, the untrained network, chance."""

from common.families.images.baselines import image_baselines
from projects.new_project.data import image_part
from projects.new_project.module import NewProject

raw_pixels, untrained, chance = image_baselines(
    lambda cfg: (image_part(cfg, "bank"), image_part(cfg, "test")),
    lambda cfg: NewProject(cfg).network.encoder,
)
