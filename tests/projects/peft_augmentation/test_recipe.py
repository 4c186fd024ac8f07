"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.task": "rte",
    "data.examples": 200,
    "data.batch_size": 32,
    "model.head_dropout": 0.1,
    "model.max_length": 128,
    "augment.kind": "eda",
    "augment.copies": 4,
    "augment.alpha": 0.1,
    "augment.concentration": 0.2,
    "augment.layer": "sentence",
    "contrast.weight": 0.1,
    "contrast.form": "sup_con",
    "contrast.temperature": 0.1,
    "optim.name": "adamw",
    "optim.schedule": "linear",
    "trainer.gradient_clip_val": 1.0,
    "eval.alterations": [0.05, 0.1, 0.3, 0.5],
}
PTUNING = SHARED | {
    "tuning.kind": "prefix",
    "tuning.projection_dim": None,
    "tuning.shift_positions": True,
    "optim.weight_decay": 0.0,
    "optim.warmup_epochs": 0.0,
    "optim.warmup_steps": 0,
}
BERT = {"tuning.prefix_length": 20, "optim.lr": 1e-2, "trainer.max_epochs": 60.0}
ROBERTA = {"tuning.prefix_length": 128, "optim.lr": 5e-3, "trainer.max_epochs": 100.0}
LORA = SHARED | {
    "tuning.kind": "lora",
    "tuning.rank": 8,
    "tuning.alpha": 16.0,
    "tuning.lora_dropout": 0.1,
    "tuning.targets": ["query", "value"],
    "optim.lr": 5e-4,
    "optim.warmup_epochs": 2.4,
    "trainer.max_epochs": 40.0,
}
FULL = SHARED | {
    "tuning.kind": "full",
    "optim.lr": 2e-5,
    "optim.weight_decay": 0.01,
    "optim.warmup_epochs": 2.0,
    "trainer.max_epochs": 20.0,
}
ENCODERS = {
    "bert_base": "bert-base-cased",
    "bert_large": "bert-large-cased",
    "roberta_base": "roberta-base",
    "roberta_large": "roberta-large",
}
# what the large encoders' prefixes have of their own stands in test_tasks.py
PREFIXES = {"bert_base": BERT, "bert_large": {}, "roberta_base": ROBERTA, "roberta_large": {}}
RECIPES = {"paper": PTUNING | BERT | {"model.pretrained": "bert-large-cased"}}
for _encoder, _weights in ENCODERS.items():
    _own = {"model.pretrained": _weights}
    RECIPES[f"paper_ptuning_{_encoder}"] = PTUNING | PREFIXES[_encoder] | _own
    RECIPES[f"paper_lora_{_encoder}"] = LORA | _own
    RECIPES[f"paper_ft_{_encoder}"] = FULL | _own


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The sheet's table: P-tuning as its released script for RTE, the others as advised."""
    assert_recipe("peft_augmentation", name, RECIPES[name])
