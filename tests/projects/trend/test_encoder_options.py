"""Options of the detectors."""

import pytest

from projects.trend.encoders.options import DetectorOptions


def test_transfusion_needs_a_width_that_its_heads_divide():
    """It failed inside of torch, while the network was built."""
    DetectorOptions(detector="transfusion", head_width=24)
    DetectorOptions(detector="center", head_width=20)
    with pytest.raises(ValueError, match="head_width=20: .* multiple of 8"):
        DetectorOptions(detector="transfusion", head_width=20)
