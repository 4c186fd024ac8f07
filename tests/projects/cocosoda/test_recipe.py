"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

# every stage, beside what test_experiment.py says of `paper`
COMMON = {
    "model.prefix": "<encoder-only>",
    "model.pooling": "avg",
    "model.type_tokens": True,
    "optim.name": "adamw",
    "optim.eps": 1e-8,
    "optim.warmup_steps": 0,
    "trainer.gradient_clip_val": 1.0,
    "eval.batch_size": 128,
    "eval.max_rank": 1000,
    "seed": 123456,
}
BATCH = {
    "data.batch_size": 128,
    "model.code_length": 256,
    "model.query_length": 128,
    "optim.weight_decay": 0.01,
    "optim.schedule": "linear",
}
PRETRAINING = COMMON | {
    "data.source": "csn",
    "data.languages": ["ruby", "javascript", "java", "go", "php", "python"],
    "data.language_exponent": 0.7,
    "data.soda.strategies": ["mask", "replace", "replace_type", "mask_type"],
    "data.soda.queries_in": ["mask"],
    "model.pretrained": "microsoft/unixcoder-base",
    "method.pretrain": True,
    "method.inter_modal": True,
    "method.original_keys": "online",
}
PAPER = PRETRAINING | {
    "data.typed": True,
    "data.soda.ratio": 0.15,
    "data.soda.type_ratio": 1.0,
    "method.intra_modal": True,
    "method.logit_scale": 1.0,
}
STEPS = BATCH | {
    "method.temperature": 0.07,
    "method.queue_size": 1024,
    "method.momentum": 0.999,
    "optim.lr": 2e-5,
    "trainer.max_steps": 100000,
    "trainer.val_every_n_steps": 1000,
}
TUNED = COMMON | BATCH | {"data.source": "csn", "finetune.warmup_steps": 0}
LANGUAGE = TUNED | {
    "model.pretrained": "DeepSoftwareAnalytics/CoCoSoDa",
    "method.pretrain": False,
    "finetune.lr": 2e-5,
    "finetune.logit_scale": 20.0,
}
RECIPES = {
    "paper": PAPER,
    "paper_no_soda": PAPER | STEPS | {"data.soda.strategies": []},
    "paper_no_momentum": PAPER | STEPS | {"method.queue_size": 0, "method.momentum": 0.0},
    "paper_graphcodebert": PAPER
    | STEPS
    | {"model.pretrained": "microsoft/graphcodebert-base", "model.prefix": None},
    "paper_released": PRETRAINING | STEPS,
    "paper_finetune": TUNED
    | {"data.languages": ["python"], "method.pretrain": False, "finetune.lr": 2e-5},
    "paper_finetune_go": LANGUAGE | {"data.languages": ["go"]},
    "paper_finetune_java": LANGUAGE | {"data.languages": ["java"]},
    "paper_finetune_javascript": LANGUAGE | {"data.languages": ["javascript"]},
    "paper_finetune_php": LANGUAGE | {"data.languages": ["php"]},
    "paper_finetune_ruby": LANGUAGE | {"data.languages": ["ruby"]},
    "paper_baseline": TUNED | {"data.languages": ["python"], "trainer.max_epochs": 5},
    "paper_cosqa": LANGUAGE
    | {"data.source": "cosqa", "finetune.epochs": 5, "trainer.max_epochs": 5},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The method as the paper has it, training and lengths of the release's launch scripts."""
    assert_recipe("cocosoda", name, RECIPES[name])
