"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

RANK = {
    "phase": "rank",
    "data.folder": "wikides",
    "data.num_candidates": 5,
    "data.eval_candidates": None,
    "data.min_candidates": 1,
    "data.order": "gold_rouge",
    "model.pretrained": "bert-base-cased",
    "model.head_dim": None,
    "method.loss": "simcls",
    "method.use_sim": True,
    "method.use_rouge": False,
    "optim.name": "adamw",
    "optim.lr": 2e-5,
    "optim.weight_decay": 0.0,
    "optim.schedule": "constant",
    "optim.warmup_steps": 0,
    "optim.warmup_epochs": 0.0,
    "trainer.precision": "32-true",
    "trainer.val_every_n_steps": 3000,
    "eval.batch_size": 4,
    "eval.monitor": "source",
    "eval.whiten": False,
}
DESCRIBE = {
    "phase": "describe",
    "data.folder": "wikides",
    "data.split": "diff",
    "generator.pretrained": "t5-small",
    "generator.max_new_tokens": 256,
    "generator.beams": 1,
    "optim.name": "adamw",
    "optim.weight_decay": 0.0,
    "trainer.precision": "16-mixed",
    "trainer.val_every_n_steps": 65_772 // 8,
}
RECIPES = {
    "paper": RANK,
    "paper_random": RANK,
    "paper_official": RANK
    | {"data.eval_candidates": 5, "method.loss": "official", "optim.lr": 0.0},
    "paper_fusion": RANK | {"method.use_rouge": True, "method.sim_range": "clamp"},
    "paper_rouge": RANK | {"method.use_sim": False, "method.use_rouge": True},
    "paper_describe": DESCRIBE,
    "paper_describe_random": DESCRIBE
    | {
        "data.split": "random",
        "generator.pretrained": "facebook/bart-base",
        "trainer.val_every_n_steps": 68_296 // 8,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The sheet's table; the ranker's rate is its advice, as the released one is 0."""
    assert_recipe("wikides", name, RECIPES[name])
