"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "official",
    "data.task": "s_cap",
    "data.inputs": "text",
    "data.epoch_size": 200000,
    "data.epoch_share": 1.0,
    "model.clip": "open_clip:ViT-L-14-quickgelu/openai",
    "model.half": True,
    "model.pretrained": "t5-base",
    "model.dropout": None,  # T5's own, 0.1
    "model.num_tokens": 4,
    "model.num_constants": 0,
    "method.adapter": "noise",
    "optim.name": "adamw",
    "optim.weight_decay": 0.0,
    "optim.betas": [0.9, 0.999],
    "optim.schedule": "linear",
    "optim.decay_unit": "samples",
    "optim.warmup_steps": 0,
    "optim.warmup_epochs": 0,
    "trainer.devices": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.precision": "32-true",
    "trainer.gradient_clip_val": None,
    "eval.inputs": "image",
}
# test_objective.py says them, task by task, of the configs that are not built on this
CAPTIONS = SHARED | {
    "data.batch_size": 128,
    "method.noise": 0.12,
    "optim.lr": 3e-4,
    "trainer.max_epochs": 8,
    "eval.num_beams": 5,
    "eval.max_new_tokens": 32,
}
KARPATHY = CAPTIONS | {"data.splits": ["train"]}
RECIPES = {
    "paper": SHARED,
    "paper_m_cap": SHARED | {"data.task": "m_cap"},
    "paper_ve": SHARED | {"data.task": "ve"},
    "paper_vqa": SHARED | {"data.task": "vqa"},
    "paper_evqa": SHARED | {"data.task": "evqa"},
    "paper_news": SHARED
    | {
        "data.task": "news",
        "data.epoch_share": 0.15,
        "model.clip": "open_clip:ViT-L-14/laion400m_e32",
    },
    "paper_images": KARPATHY | {"data.inputs": "image", "method.noise": 0.0},
    "paper_linear": KARPATHY | {"method.adapter": "linear"},
    "paper_covariance": KARPATHY
    | {"method.adapter": "covariance", "method.covariance_factor": 3.0},
    "paper_style": CAPTIONS | {"data.source": "text"},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Encoders of the paper, training of the release; the schedule is the one that it runs."""
    assert_recipe("close", name, RECIPES[name])
