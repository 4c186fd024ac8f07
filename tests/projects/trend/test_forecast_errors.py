"""Pictures of scans."""

import numpy as np

from projects.trend.evaluation.forecast_errors import range_image, scan_overlay


def test_rays_above_the_image_are_not_in_it():
    elevation = np.deg2rad([5.5, 4.9])
    directions = np.c_[np.cos(elevation), [0, 0], np.sin(elevation)]
    image = range_image(directions, np.array([3.0, 7.0]))
    assert image[np.isfinite(image)].tolist() == [7.0]
    assert np.isfinite(image[0]).sum() == 1


def test_an_overlay_has_x_upwards_y_to_the_left_and_what_is_rendered_on_top():
    directions = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    ranges = np.array([[3.5, 3.5], [1.5, 3.5]])  # true ones, rendered ones
    pixels = np.array(scan_overlay(np.zeros(3), directions, ranges, limit=4, size=8))
    grey, red = ((pixels == colour).all(2) for colour in ((150, 150, 150), (214, 39, 40)))
    assert np.argwhere(grey).tolist() == [[0, 4]]
    assert np.argwhere(red).tolist() == [[2, 4], [4, 0]]
