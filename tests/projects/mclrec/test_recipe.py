"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "file",
    "data.min_user": 5,
    "data.min_item": 5,
    "data.train_share": 1.0,
    "data.crop_ratio": 0.5,
    "data.mask_ratio": 0.5,
    "data.reorder_ratio": 0.8,
    "model.augmenter_dims": [32, 16],
    "model.shared_augmenter": False,
    "method.cl2": True,
    "method.reg_weight": 0.1,
    "method.temperature": 1.0,
    "method.similarity": "dot",
    "optim.name": "adamw",  # Adam, since nothing decays
    "optim.warmup_steps": 0,
    "optim.warmup_epochs": 0.0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": None,
    "trainer.precision": "32-true",
    "eval.part": "test",
    "eval.ks": [5, 10, 20],
    "eval.mask_history": False,
    "eval.noise": 0.0,
}
RECIPES = {
    "paper": SHARED,
    "paper_ml1m": SHARED,
    "paper_sports": SHARED,
    "paper_toys": SHARED,
    "paper_yelp": SHARED,
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """What the release's scripts share; test_experiment has the columns of the sheet's table."""
    assert_recipe("mclrec", name, RECIPES[name])
