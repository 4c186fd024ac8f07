"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "file",
    "model.pretrained": "google/t5-v1_1-base",
    "model.layers": None,
    "model.dropout": 0.1,
    "method.gather": True,
    "window.prefix_words": 256,
    "window.min_words": 10,
    "window.max_words": 128,
    "window.overlap": True,
    "window.half": "ranker",
    "generator.temperature": 1.0,
    "generator.tokens_per_word": 1.4,
    "trainer.devices": 8,
    "trainer.accumulate_grad_batches": 1,
    "trainer.precision": "bf16-mixed",
}
RECIPES = {
    "paper": SHARED,
    "paper_large": SHARED | {"model.pretrained": "google/t5-v1_1-large"},
    "paper_xl": SHARED | {"model.pretrained": "google/t5-v1_1-xl"},
    # the sheet's preset for few GPUs
    "paper_adamw": SHARED
    | {
        "data.batch_size": 512,
        "data.batches": "document",
        "model.pooling": "first",
        "model.prefix_length": 512,
        "model.suffix_length": 128,
        "method.negatives": "both",
        "optim.name": "adamw",
        "optim.lr": 1e-4,
        "optim.warmup_steps": 1000,
        "trainer.max_steps": 100_000,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """What `test_experiment` leaves out: sizes of T5 v1.1, windows, budget of a text, AdamW."""
    assert_recipe("rankgen", name, RECIPES[name])
