"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.batch_size": 64,
    "data.max_length": 32,
    "model.pretrained": "bert-base-uncased",
    "model.pooling": "cls",
    "model.mlp_only_train": True,
    "model.dropout": 0.1,
    "method.temperature": 0.05,
    "method.hard_weight": 1.0,
    "method.twin_weight": 0.0,
    "surface.kind": "word_levenshtein",
    "pool.pos_k": 20,
    "pool.twin": True,
    "pool.repetition": True,
    "pool.neg_lex": 25,
    "pool.neg_rand": 25,
    "ipw.positives": "ipw",
    "ipw.negatives": "ipw",
    "ipw.surface": True,
    "ipw.semantic": True,
    "ipw.surface_temperature": 0.2,
    "ipw.semantic_temperature": 0.1,
    "ipw.clip": 10.0,
    "ipw.theta_pos_quantile": 0.95,
    "ipw.theta_neg_quantile": 0.5,
    "scorer.model": None,
    "optim.name": "adamw",
    "optim.lr": 3e-05,
    "optim.weight_decay": 0.0,
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
    "paper_bert_large": SHARED | {"model.pretrained": "bert-large-uncased", "optim.lr": 1e-05},
    "paper_roberta_base": SHARED | {"model.pretrained": "roberta-base"},
    "paper_roberta_large": SHARED | {"model.pretrained": "roberta-large", "optim.lr": 1e-05},
    "paper_mask": SHARED
    | {"data.max_length": 40, "model.pooling": "mask", "model.mlp_only_train": False},
    "paper_simcse": SHARED | {"ipw.positives": "self", "ipw.negatives": "none"},
    "paper_word_dropout": SHARED
    | {"ipw.positives": "augmented", "ipw.negatives": "none", "ipw.word_drop_prob": 0.1},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """SimCSE's protocol in every row; how pairs are drawn is what this project chose."""
    assert_recipe("debcse", name, RECIPES[name])
