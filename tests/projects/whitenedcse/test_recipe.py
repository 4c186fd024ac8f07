"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.batch_size": 128,
    "data.max_length": 32,
    "model.pooling": "cls_before_pooler",
    "model.dropout": 0.1,
    "num_pos": 3,
    "sgw.position": "before_mlp",
    "sgw.groups": 128,
    "sgw.shuffle": True,
    "sgw.detach_whitening": True,
    "sgw.ridge": 1e-05,
    "sgw.block_layout": "view",
    "repetition.level": "none",
    "method.temperature": 0.05,
    "optim.name": "adamw",
    "optim.lr": 1e-05,
    "optim.weight_decay": 0.0,
    "optim.eps": 1e-08,
    "optim.schedule": "linear",
    "optim.warmup_steps": 0,
    "trainer.max_epochs": 1,
    "trainer.precision": "16-mixed",
    "trainer.gradient_clip_val": 1.0,
    "trainer.val_every_n_steps": 125,
    "seed": 42,
}
RECIPES = {
    "paper": SHARED | {},
    "paper_bert_large": SHARED | {},
    "paper_official": SHARED | {"sgw.block_layout": "official", "sgw.ridge": 0.0},
    "paper_repetition": SHARED | {"repetition.level": "subword", "repetition.rate": 0.32},
    "paper_simcse": SHARED
    | {"data.batch_size": 64, "num_pos": 2, "sgw.position": "none", "optim.lr": 3e-05},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Batch, rate and whitening of the release's command; the baseline has SimCSE's."""
    assert_recipe("whitenedcse", name, RECIPES[name])
