"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "webdataset",
    "data.image_size": 256,
    "data.batch_size": 32,
    "trainer.devices": 8,
    "trainer.num_nodes": 16,
    "model.patch_size": 16,
    "model.width": 1024,
    "model.depth": 24,
    "model.heads": 16,
    "model.position_grid": 14,
    "model.windows_per_side": 4,
    "model.global_layers": [6, 12, 18, 24],
    "model.shift": 2,
    "model.image_shift": False,
    "model.image_windows": False,
    "model.embed_dim": 1024,
    "model.text_tower": "clip",
    "model.channels": 256,
    "model.scales": [4.0, 2.0, 1.0, 0.5],
    "model.canonical_size": 224.0,
    "model.head_convs": 4,
    "model.head_hidden": 1024,
    "model.head_unit_rows": True,
    "model.logit_scale_init": 1 / 0.07,
    "method.stages": ["region"],
    "method.continues": False,
    "method.loss": "info_nce",
    "method.boxes": 16,
    "method.area": [0.05, 1.0],
    "method.aspect": [0.5, 2.0],
    "method.pool": "max",
    "method.freeze_backbone": True,
    "method.freeze_text": True,
    "optim.name": "adamw",
    "optim.lr": 1e-4,
    "optim.weight_decay": 0.01,
    "trainer.max_steps": 30_000,
    "trainer.precision": "bf16-mixed",
    "eval.templates": "clip",
}
# `test_stages` has the detector's rate and steps
OWN = {key for key in SHARED if key.startswith("optim.")} | {"trainer.max_steps"}
DETECTOR = {key: value for key, value in SHARED.items() if key not in OWN} | {
    "data.source": "coco",
    "data.novel": "lvis",
    "data.image_size": 1024,
    "data.batch_size": 2,
    "model.shift": 8,
    "method.stages": ["detect"],
    "method.detect_freeze_backbone": False,
    "detect.regions": 512,
    "detect.positive_fraction": 0.25,
    "detect.positive_iou": 0.5,
    "score.vlm": True,
    "eval.detections": True,
}
RECIPES = {
    "paper": SHARED,
    "paper_image": SHARED
    | {
        "data.image_size": 224,
        "data.batch_size": 128,
        "model.shift": 0,
        "method.stages": ["image"],
        "optim.lr": 5e-4,
        "optim.warmup_steps": 10_000,
        "trainer.max_steps": 500_000,
    },
    "paper_image_continued": SHARED
    | {"model.shift": 0, "method.stages": ["image"], "method.continues": True},
    "paper_lvis": DETECTOR | {"model.masks": True, "eval.masks": True},
    "paper_coco": DETECTOR | {"data.novel": "coco", "model.masks": False},
    "paper_objects365": DETECTOR | {"data.novel": "none", "eval.masks": False},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """ViT-L/16 of the release on 128 devices: 16,384 pairs, 4,096, then 256 annotated pictures."""
    assert_recipe("dito", name, RECIPES[name])
