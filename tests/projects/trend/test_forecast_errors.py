"""Pictures of scans."""

import numpy as np

from projects.trend.evaluation.forecast_errors import range_image


def test_rays_above_the_image_are_not_in_it():
    elevation = np.deg2rad([5.5, 4.9])
    directions = np.c_[np.cos(elevation), [0, 0], np.sin(elevation)]
    image = range_image(directions, np.array([3.0, 7.0]))
    assert image[np.isfinite(image)].tolist() == [7.0]
    assert np.isfinite(image[0]).sum() == 1
