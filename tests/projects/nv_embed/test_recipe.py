"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.batch_size": 16,
    "data.num_negatives": 7,
    "data.max_length": 512,
    "data.batches": "blended",
    "data.class_positives": "example",
    "data.mining.ratio": 0.95,
    "data.mining.num_negatives": 7,
    "model.pretrained": "mistralai/Mistral-7B-v0.1",
    "model.max_length": 512,
    "model.causal": False,
    "model.pooling": "latent",
    "model.num_latents": 512,
    "model.heads": 8,
    "model.dim_head": 4096,
    "model.lora_rank": 16,
    "model.lora_alpha": 32,
    "model.lora_dropout": 0.1,
    "method.temperature": 0.02,
    "method.schedule": "two_stage",
    "method.without": [],
    "method.stage_1_steps": 20000,
    "method.stage_2_lr": 1.5e-05,
    "optim.name": "adam",
    "optim.lr": 2e-05,
    "optim.weight_decay": 0.03,
    "optim.schedule": "linear",
    "optim.warmup_steps": 500,
    "trainer.max_steps": 38000,
    "trainer.precision": "bf16-mixed",
    "trainer.devices": 8,
    "synthesis.model": "mistralai/Mixtral-8x22B-Instruct-v0.1",
    "synthesis.examples": 40000,
}
ADDED = ["hover", "scifact", "nfcorpus", "miracl", "mrtydi"]  # retrieval sets of v2
RECIPES = {
    "paper": SHARED | {},
    "paper_causal": SHARED | {"model.causal": True},
    "paper_label_classes": SHARED | {"data.class_positives": "label"},
    "paper_reversed": SHARED | {"method.schedule": "reversed"},
    "paper_s0": SHARED | {"method.without": ["synthetic_pairs", *ADDED]},
    "paper_s1": SHARED | {"method.without": ["synthetic_pairs", *ADDED]},
    "paper_s2": SHARED | {"method.without": ["synthetic_pairs"]},
    "paper_single_stage": SHARED | {"method.schedule": "single_in_batch"},
    "paper_single_stage_no_in_batch": SHARED | {"method.schedule": "single"},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Two stages, low-rank adapters, latent attention; ablations differ in what they name."""
    assert_recipe("nv_embed", name, RECIPES[name])
