"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

FINETUNE = {
    "train": "finetune",
    "data.task": "rte",
    "data.source": "official",
    "data.batch_size": 32,
    "data.noise": 0.0,
    "model.pretrained": "microsoft/deberta-v3-large",
    "model.pooling": "context",
    "model.head_dropout": 0.2,
    "model.max_length": 320,
    "sift.layer": "embeddings.LayerNorm",
    "transductive.soft": False,
    "transductive.epochs": 1.0,
    "optim.name": "adamw",
    "optim.lr": 1e-5,
    "optim.weight_decay": 0.01,
    "optim.schedule": "linear",
    "optim.warmup_steps": 50,
    "trainer.max_epochs": 6.0,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "bf16-mixed",
    "eval.part": "dev",
}
TRICKS = {
    "sift.lr": 1e-4,
    "sift.init": 1e-2,
    "sift.alpha": 1.0,
    "self_calibration.k": 5,
    "self_calibration.threshold": 0.9,
    "self_calibration.mu": 0.5,
    "transductive.rounds": 1,
    "transductive.threshold": 0.9,
    "transductive.lr_scale": 0.3,
    "select.seeds": [0, 1, 2, 3, 4],
}
PRETRAIN = {
    "train": "pretrain",
    "data.batch_size": 8,
    "model.pretrained": "random",
    "model.size": "vega-1.3b",
    "model.tokenizer": "roberta-base",
    "pretrain.packed": True,
    "pretrain.max_length": 512,
    "pretrain.sentence_length": 128,
    "pretrain.mask_share": 0.15,
    "pretrain.mask_limit": 0.2,
    "pretrain.temperature": 1.0,
    "pretrain.embedding_sharing": "gdes",
    "pretrain.decoupled": False,
    "pretrain.phase1_steps": 500_000,
    "pretrain.phase2_steps": 10_000,
    "pretrain.phase2_lr": 2e-5,
    "pretrain.phase2_warmup": 1000,
    "pretrain.phase2_batch_size": 4,
    "optim.name": "adamw",
    "optim.lr": 1e-4,
    "optim.weight_decay": 0.01,
    "optim.eps": 1e-6,
    "optim.schedule": "linear",
    "optim.warmup_steps": 10_000,
    "trainer.max_steps": 510_000,
    "trainer.devices": 8,
    "trainer.num_nodes": 32,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "bf16-mixed",
}


def switches(sift: bool, calibrated: bool, transductive: bool) -> dict[str, bool]:
    """Which tricks are on."""
    return {
        "sift.enabled": sift,
        "self_calibration.enabled": calibrated,
        "transductive.enabled": transductive,
    }


RECIPES = {
    "paper": FINETUNE | switches(True, True, True),
    "paper_1b": FINETUNE
    | TRICKS
    | switches(True, True, True)
    | {
        "data.batch_size": 4,
        "model.pretrained": "random",
        "model.size": "vega-1.3b",
        "model.tokenizer": "roberta-base",
        "optim.lr": 5e-6,
        "trainer.devices": 8,
    },
    "paper_vanilla": FINETUNE | TRICKS | switches(False, False, False),
    "paper_sift": FINETUNE | TRICKS | switches(True, False, False),
    "paper_calibrated": FINETUNE | TRICKS | switches(False, True, False),
    "paper_transductive": FINETUNE | TRICKS | switches(False, False, True),
    "paper_pretrain": PRETRAIN,
    "paper_pretrain_base": PRETRAIN
    | {
        "data.batch_size": 64,
        "model.size": "base",
        "pretrain.generator_depth_ratio": 0.5,
        "pretrain.rtd_lambda": 50.0,
        "pretrain.cl_gamma": 0.1,
        "pretrain.cl_tau": 0.05,
        "pretrain.pooling": "cls",
        "pretrain.phase2_batch_size": 32,
        "optim.lr": 5e-4,
        "optim.betas": [0.9, 0.98],
        "trainer.num_nodes": 4,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The sheet's table, of DeBERTa's scripts; a trick alone in the ablations."""
    assert_recipe("vega", name, RECIPES[name])
