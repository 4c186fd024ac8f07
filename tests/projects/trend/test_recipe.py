"""Values that the paper gives, and those of OpenPCDet that it names (item 15)."""

import pytest

from tests.recipes import assert_recipe

PAPER = {
    "optim.lr": 2e-4,
    "optim.schedule": "cosine",
    "data.batch_size": 3,
    "trainer.devices": 8,
    "data.low": [-75.2, -75.2, -5.0],
    "data.high": [75.2, 75.2, 3.0],
    "data.voxel": [0.1, 0.1, 0.2],
    "data.mask_rate": 0.9,
    "data.rays": 12288,
    "method.samples": 48,
    "model.time_dim": 32,
    "model.action_dim": 16,
    "model.widths": [16, 32, 64, 128],
    "method.horizons": [1, 4],
    "method.epochs": [12, 36],
    "method.range_weight": 1.0,
    "method.intensity_weight": 1.0,
    "method.surface_weight": 1.0,
    "method.range_unit": "metres",
    "finetune.lr_scale": 15.0,
    "finetune.epochs": 80,
    "finetune.frames": 248,
}
RECIPES = {
    "paper": PAPER,
    "paper_nuscenes": {
        **PAPER,
        "data.low": [-54.0, -54.0, -5.0],
        "data.high": [54.0, 54.0, 3.0],
        "data.voxel": [0.075, 0.075, 0.2],
        "finetune.lr_scale": 5.0,
        "finetune.epochs": 20,
        "finetune.frames": 175,
        "finetune.proposals": 200,
    },
    "paper_scratch": {**PAPER, "data.batch_size": 2, "trainer.max_epochs": 80},
    "paper_waymo": {
        **PAPER,
        "data.batch_size": 2,
        "trainer.max_epochs": 30,
        "finetune.epochs": 30,
        "finetune.frames": 1581,
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    assert_recipe("trend", name, RECIPES[name])
