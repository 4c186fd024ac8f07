"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "files",
    "data.domains": ["copd", "cvd", "cancer", "parasitic", "autoimmune"],
    "data.train_domains": [],
    "data.batch_size": 16,
    "data.max_length": 512,
    "data.swap_prob": 0.5,
    "data.batches": "mixed",
    "model.pretrained": "answerdotai/ModernBERT-base",
    "model.routing": "enforced",
    "model.num_experts": None,  # one a domain
    "model.layers": "all",
    "model.block": "copy",
    "model.pooler": "mean_mlp",
    "model.domain_tokens": True,
    "model.dropout": None,
    "model.attention_dropout": None,
    "model.lora_rank": None,
    "method.loss": "mnr_plus",
    "method.normalize": False,
    "method.temperature": None,
    "method.learn_temperature": False,
    "method.gather": False,
    "method.balance_weight": 0.0,
    "method.router_loss": "none",
    "method.assignment": "domain",
    "method.patience": 5,
    "method.monitor": "f1",
    "optim.name": "adamw",
    "optim.lr": 1e-4,
    "optim.weight_decay": 0.0,
    "optim.schedule": "linear",
    "optim.warmup_steps": 0,
    "optim.warmup_epochs": 0.0,
    "trainer.max_epochs": 100,
    "trainer.accumulate_grad_batches": 1,
    "trainer.precision": "16-mixed",
    "trainer.gradient_clip_val": 1.0,
    "trainer.val_every_n_steps": 2500,
    "eval.part": "test",
    "seed": 42,
}
DENSE = SHARED | {"model.routing": "dense"}
ROUTED_2024 = SHARED | {
    "data.batch_size": 20,  # 2 to 20
    "model.pretrained": "allenai/scibert_scivocab_uncased",
    "model.routing": "sentence",
    "model.num_experts": 8,
    "model.top_k": 2,
    "model.block": "gated",
    "model.pooler": "cls",
    "model.dropout": 0.05,
    "model.attention_dropout": 0.0,
    "method.loss": "clip",
    "method.temperature": 0.7,
    "method.learn_temperature": True,
    "method.balance_weight": 0.05,
    "method.router_loss": "mutual_information",
    "method.router_weight": 0.01,
    "method.detached_mi": False,
    "optim.lr": 1e-5,
    "optim.weight_decay": 0.01,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 500,  # 100 to 500
    "trainer.max_epochs": 10,
    "trainer.val_every_n_steps": 5000,  # 1,000 to 5,000
}
ENFORCED_2024 = ROUTED_2024 | {
    "model.routing": "enforced",
    "model.num_experts": None,
    "method.balance_weight": 0.0,
    "method.router_loss": "none",
}
RECIPES = {
    "paper": SHARED | {"eval.gradients": False},
    "paper_2024": ROUTED_2024,
    "paper_2024_enforced": ENFORCED_2024,
    "paper_2024_single_moe": ENFORCED_2024 | {"model.layers": "middle"},
    "paper_2024_switch": ROUTED_2024
    | {"model.routing": "switch", "method.router_loss": "specified"},
    "paper_2024_token": ROUTED_2024 | {"model.routing": "token"},
    "paper_dense": DENSE,
    "paper_one_epoch": SHARED | {"trainer.max_epochs": 1, "trainer.val_every_n_steps": 10000},
    "paper_single": DENSE | {"data.train_domains": ["copd"], "trainer.val_every_n_steps": 1000},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The three columns of the sheet's table: joint and single-domain of 2025, the preprint's."""
    assert_recipe("moe_embeddings", name, RECIPES[name])
