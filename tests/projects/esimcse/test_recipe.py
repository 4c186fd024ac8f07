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
    "repetition.level": "subword",
    "repetition.rate": 0.32,
    "repetition.rule": "code",
    "repetition.cap": 10,
    "momentum.decay": 0.995,
    "momentum.init": "pretrained",
    "momentum.order": "before_step",
    "queue.size": 160,
    "optim.name": "adamw",
    "optim.lr": 3e-05,
    "optim.weight_decay": 0.0,
    "optim.eps": 1e-08,
    "optim.schedule": "linear",
    "optim.warmup_steps": 0,
    "trainer.max_epochs": 1,
    "trainer.precision": "16-mixed",
    "trainer.gradient_clip_val": 1.0,
    "trainer.val_every_n_steps": 125,
    "seed": 42,
    "eval.sets": [
        f"senteval:{name}"
        for name in ("STSBenchmark", *(f"STS{year}" for year in range(12, 17)), "SICKRelatedness")
    ],
}
RECIPES = {
    "paper": SHARED | {},
    "paper_bert_large": SHARED | {"model.pretrained": "bert-large-uncased", "optim.lr": 1e-05},
    "paper_roberta_base": SHARED
    | {"model.pretrained": "roberta-base", "optim.lr": 1e-05, "repetition.rate": 0.3},
    "paper_roberta_large": SHARED
    | {
        "model.pretrained": "roberta-large",
        "optim.lr": 1e-05,
        "repetition.rate": 0.28,
        "queue.size": 128,
        "model.dropout": 0.15,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Rates, repetition and queue of every encoder; the protocol is SimCSE's."""
    assert_recipe("esimcse", name, RECIPES[name])
