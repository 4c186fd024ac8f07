"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from projects.laclip.config import RewriteConfig
from tests.recipes import assert_recipe

SETS = [
    "imagenet",
    "food101",
    "cifar10",
    "cifar100",
    "sun397",
    "cars",
    "aircraft",
    "dtd",
    "pets",
    "caltech101",
    "flowers",
    "stl10",
    "eurosat",
    "resisc45",
    "gtsrb",
    "country211",
]
SHARED = {
    "data.image_size": 224,
    "data.num_rewrites": None,
    "data.augmentation": "none",
    "data.text_form": "given",
    "method.num_texts": 1,
    "model.logit_scale_init": 14.285714285714286,  # 1 / 0.07
    "model.max_logit_scale": 100.0,
    "optim.name": "adamw",
    "optim.betas": [0.9, 0.98],
    "optim.schedule": "cosine",
    "trainer.devices": 8,
    "trainer.gradient_clip_val": None,
    "eval.validate": "imagenet",
    "eval.datasets": SETS,
    "eval.protocols": ["zeroshot", "downstream:few_shot", "downstream:linear_probe"],
    "seed": 0,
}
CURATED = SHARED | {
    "data.source": "csv",
    "data.texts": ["original", "chatgpt", "bard", "mscoco", "human"],
    "data.batch_size": 256,
    "data.crop_scale": [0.5, 1.0],
    "data.interpolation": "bilinear",
    "data.eval_interpolation": "bilinear",
    "data.normalize": "imagenet",
    "model.vision": "qknorm_vit_b16",
    "model.text.vocab_size": 49408,
    "model.text.context_length": 77,
    "model.text.width": 512,
    "model.text.heads": 8,
    "model.text.layers": 12,
    "model.embed_dim": 512,
    "model.official_init": False,
    "optim.lr": 1e-3,
    "optim.weight_decay": 0.5,
    "optim.eps": 1e-8,
    "optim.warmup_epochs": 1,
    "optim.warmup_start_lr": 1e-6,
    "optim.final_lr": 1e-5,
    "trainer.num_nodes": 4,
    "trainer.precision": "16-mixed",
    "eval.templates": "simple",
}
LAION = SHARED | {
    "data.source": "webdataset",
    "data.texts": ["original", "chatgpt"],
    "data.batch_size": 512,
    "data.crop_scale": [0.9, 1.0],
    "data.interpolation": "bicubic",
    "data.eval_interpolation": "bicubic",
    "data.normalize": "clip",
    "model.open_clip": "ViT-B-16",
    "optim.lr": 5e-4,
    "optim.weight_decay": 0.2,
    "optim.eps": 1e-6,
    "optim.warmup_steps": 2000,
    "optim.warmup_start_lr": 0.0,
    "optim.final_lr": 0.0,
    "trainer.num_nodes": 8,
    "trainer.precision": "bf16-mixed",
    "trainer.max_epochs": 32,
    "trainer.val_every_n_steps": 12430,
    "eval.templates": "openai",
}


def of(captions, epochs, steps):
    """What differs between the curated sets; `steps` are those of an epoch."""
    return CURATED | {
        "data.captions": f"{captions}/{captions}.csv",
        "trainer.max_epochs": epochs,
        "trainer.val_every_n_steps": steps,
    }


RECIPES = {
    "paper": of("cc12m", 35, 1516),
    "paper_cc3m": of("cc3m", 40, 405),
    "paper_redcaps": of("redcaps", 30, 1466),
    "paper_laion400m": LAION,
    "paper_laion400m_b32": LAION | {"model.open_clip": "ViT-B-32"},
    "paper_laion400m_l14": (
        LAION
        | {
            "data.batch_size": 256,
            "trainer.num_nodes": 16,
            "model.open_clip": "ViT-L-14-quickgelu",
        }
    ),
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """QK-norm towers and 8,192 pairs on curated sets, open_clip's recipe and 32,768 on
    LAION-400M."""
    assert_recipe("laclip", name, RECIPES[name])


def test_rewrites_are_sampled_as_in_the_documented_run():
    """Four kinds of demonstrations (checklist 12); temperature .9, top-p .95, 77 tokens, 400 of
    prompt.
    """
    assert RewriteConfig() == RewriteConfig(
        source_type="chatgpt",
        batch_size=100,
        temperature=0.9,
        top_p=0.95,
        max_new_tokens=77,
        prompt_budget=400,
        seed=1,
    )
