"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "file",
    "data.file": "nli_for_simcse.csv",
    "data.generate": True,
    "data.limit": None,
    "model.pretrained": "bert-base-uncased",
    "model.pooling": "cls",
    "model.mlp_only_train": True,
    "stage1.enabled": True,
    "stage1.model": "google/flan-t5-xl",
    "stage1.omega": 0.3,
    "stage1.sample": False,
    "stage1.max_new_tokens": 256,
    "stage1.batch_size": 16,
    "stage2.judge": "lm",
    "stage2.score_model": "google/flan-t5-xl",
    "stage2.read": "text",
    "stage2.gap_mode": "paper",
    "stage2.preset": None,
    "stage2.keep": "rule",
    "stage3.variant": "masked_infonce",
    "stage3.mask_model": "princeton-nlp/unsup-simcse-bert-base-uncased",
    "stage3.pooling": "cls_before_pooler",
    "optim.name": "adamw",
    "optim.betas": [0.9, 0.999],
    "optim.eps": 1e-8,
    "optim.schedule": "linear",
    "optim.warmup_steps": 0,
    "optim.warmup_epochs": 0.0,
    "trainer.devices": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "16-mixed",
    "eval.sets": [
        "senteval:STSBenchmark",
        "senteval:STS12",
        "senteval:STS13",
        "senteval:STS14",
        "senteval:STS15",
        "senteval:STS16",
        "senteval:SICKRelatedness",
    ],
    "eval.dev": "senteval:STSBenchmark-dev",
}
RECIPES = {
    "paper": SHARED,
    "paper_chatgpt": SHARED
    | {
        "data.file": "chatgpt_triplets.csv",
        "data.generate": False,
        "stage1.enabled": False,
    },
    "paper_official": SHARED
    | {
        "stage1.enabled": False,
        "stage2.gap_mode": "official_neq",
        "stage3.variant": "official_bce",
    },
    "paper_roberta": SHARED
    | {
        "model.pretrained": "roberta-base",
        "stage3.mask_model": "princeton-nlp/unsup-simcse-roberta-base",
    },
    "paper_wiki": SHARED | {"data.file": "wiki1m_for_simcse.txt"},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Stages, models and SimCSE's optimiser; test_training has the table of the sheet."""
    assert_recipe("multicsr", name, RECIPES[name])
