"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SIX = ["cs", "de", "en", "fr", "ja", "zh"]
TEN = ["cs", "de", "en", "es", "fr", "id", "ja", "ru", "tr", "zh"]
SHARED = {
    "data.rand_augment": True,
    "data.texts_per_image": None,
    "model.image": "swin_base_patch4_window7_224",
    "model.image_pretrained": "timm:swin_base_patch4_window7_224.ms_in22k",
    "model.text": "transformer",
    "model.text_pretrained": "FacebookAI/xlm-roberta-large",
    "model.split": 6,
    "model.embed_dim": 256,
    "model.temperature": 0.07,
    "method.itm_weight": 1.0,
    "method.positive": "aligned_least",
    "method.vicreg": False,
    "optim.name": "adamw",
    "optim.weight_decay": 0.01,
    "optim.betas": [0.9, 0.98],
    "optim.eps": 1e-8,
    "optim.schedule": "linear",
    "optim.warmup_steps": 0,
    "trainer.accumulate_grad_batches": 1,
    "seed": 42,
}
PRETRAINING = SHARED | {
    "data.source": "jsonl",
    "data.languages": TEN,
    "data.num_samples": 3309520,
    "data.batch_size": 64,
    "data.image_size": 224,
    "data.crop_scale": [0.2, 1.0],
    "data.max_words": 40,
    "data.mask_probability": 0.4,
    "data.max_masks": 12,
    "data.span_probability": 0.2,
    "data.max_span": 3,
    "model.max_tokens": 40,
    "model.window": None,
    "method.objective": "one_to_k",
    "method.need_divm": 0.0,
    "method.t2i_scale": None,
    "method.mlm_weight": 1.0,
    "method.lr_mult": 2.0,
    "optim.lr": 1e-4,
    "optim.warmup_epochs": 0.9018,  # 3.006 % of 30
    "trainer.max_epochs": 30,
    "trainer.devices": 2,
    "trainer.precision": "16-mixed",
    "trainer.gradient_clip_val": 1.0,
}
FINE_TUNING = SHARED | {
    "data.source": "multi30k",
    "data.languages": ["en"],
    "data.split": "train",
    "data.batch_size": 16,
    "data.image_size": 384,
    "data.crop_scale": [0.5, 1.0],
    "model.window": 12,
    "method.objective": "finetune",
    "method.mlm_weight": 0.0,
    "optim.lr": 3e-5,
    "optim.warmup_epochs": 1,
    "trainer.max_epochs": 10,
    "trainer.devices": 4,
    "trainer.val_every_n_steps": 2265,  # an epoch of 29,000 images with five captions
    "eval.benchmarks": ["multi30k"],
    "eval.k_test": 128,
}
RECIPES = {
    "paper": PRETRAINING,
    "paper_cclm_easy": PRETRAINING | {"method.objective": "random_language"},
    "paper_ccr10": PRETRAINING | {"data.num_samples": 1863804},
    "paper_ccr6": PRETRAINING | {"data.num_samples": 1863804, "data.languages": SIX},
    "paper_ccr6_e": PRETRAINING | {"data.languages": SIX},
    "paper_coco": FINE_TUNING
    | {
        "data.source": "coco",
        "trainer.val_every_n_steps": 8850,
        "eval.benchmarks": ["coco"],
        "eval.k_test": 256,
    },
    "paper_multi30k": FINE_TUNING,
    "paper_wit": FINE_TUNING
    | {
        "data.source": "wit",
        "data.batch_size": 20,
        "data.num_samples": 500000,
        "optim.warmup_epochs": 0.5,
        "trainer.max_epochs": 5,
        "trainer.val_every_n_steps": 6250,
        "eval.benchmarks": ["wit"],
    },
    "paper_xflickrco": FINE_TUNING
    | {
        "data.source": "xflickrco",
        "data.num_samples": 145000,
        "eval.benchmarks": ["xflickrco"],
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The release's tables of both stages; test_experiment has what fine-tuning leaves out."""
    assert_recipe("one_to_k", name, RECIPES[name])
