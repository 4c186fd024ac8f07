"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "jsonl",
    "data.num_samples": 1000000000,
    "data.text": "name_description",
    "data.batch_size": 128,
    "data.image_size": 224,
    "data.crop_scale": [0.5, 1.0],  # the range is ours
    "data.flip_prob": 0.5,
    "data.normalize": "clip",
    "model.open_clip.embed_dim": 512,
    "model.open_clip.vision_cfg.image_size": 224,
    "model.open_clip.vision_cfg.patch_size": 16,
    "model.open_clip.vision_cfg.layers": 12,
    "model.open_clip.vision_cfg.width": 768,
    "model.open_clip.text_cfg.layers": 12,
    "model.open_clip.text_cfg.width": 512,
    "model.open_clip.text_cfg.heads": 8,
    "model.logit_scale_init": 14.285714285714286,  # 1 / 0.07
    "model.max_logit_scale": 100.0,
    "method.same_entity": "masked",
    "select.threshold": 0.2,
    "select.slack": 0.05,
    "select.min_images": 5,
    "optim.name": "adamw",
    "optim.lr": 8e-4,  # 5e-4 to 8e-4
    "optim.weight_decay": 0.05,  # 0.05 to 0.2
    "optim.betas": [0.9, 0.98],
    "optim.schedule": "cosine",
    "optim.warmup_steps": 10000,
    "trainer.max_steps": 600000,  # 500,000 to 600,000
    "trainer.devices": 8,
    "trainer.num_nodes": 32,  # 32,768 pairs in all
    "trainer.accumulate_grad_batches": 1,
    "trainer.precision": "bf16-mixed",
    "trainer.ema_decay": None,
    "eval.protocols": ["zeroshot", "imagenet:knn", "linear_probe"],
    "eval.gpr1200": "GPR1200/images",
}
CLASSES = {
    "method.margin": 0.15,
    "method.margin_on": "cosine",
    "method.scale": 32.0,
    "method.sampled": 524288,
    "method.sampling": "uniform",
    "method.logq_correction": False,
    "method.num_classes": 2000000,
    "method.class_weight_decay": 0.0,
    "method.class_std": 0.02,
}
MULTITASK = SHARED | CLASSES | {"method.recipe": "multitask", "method.cls_weight": 0.9}
CONTRASTIVE = SHARED | {"method.recipe": "contrastive"}
RECIPES = {
    "paper": MULTITASK,
    "paper_clip": CONTRASTIVE | {"data.text": "alt_text", "method.same_entity": "negative"},
    "paper_contrastive": CONTRASTIVE,
    "paper_h14": MULTITASK
    | {
        "data.batch_size": 32,
        "model.open_clip.embed_dim": 1024,
        "model.open_clip.vision_cfg.patch_size": 14,
        "model.open_clip.vision_cfg.layers": 32,
        "model.open_clip.vision_cfg.width": 1280,
        "model.open_clip.vision_cfg.head_width": 80,  # 16 heads
        "model.open_clip.text_cfg.layers": 24,
        "model.open_clip.text_cfg.width": 1024,
        "model.open_clip.text_cfg.heads": 16,
        "optim.lr": 5e-4,
        "trainer.num_nodes": 128,
    },
    "paper_l14": MULTITASK
    | {
        "data.batch_size": 64,
        "model.open_clip.embed_dim": 768,
        "model.open_clip.vision_cfg.patch_size": 14,
        "model.open_clip.vision_cfg.layers": 24,
        "model.open_clip.vision_cfg.width": 1024,
        "model.open_clip.text_cfg.width": 768,
        "model.open_clip.text_cfg.heads": 12,
        "optim.lr": 5e-4,
        "trainer.num_nodes": 64,
    },
    "paper_reduced": MULTITASK
    | {
        "data.batch_size": 1024,
        "data.num_samples": 1000000,  # with the steps 31 epochs, of 20 to 50
        "model.open_clip.embed_dim": 384,  # the text side of ViT-S is ours
        "model.open_clip.vision_cfg.width": 384,
        "model.open_clip.text_cfg.width": 384,
        "model.open_clip.text_cfg.heads": 6,
        "method.sampled": 5000,  # a quarter
        "method.num_classes": 20000,
        "optim.lr": 1e-3,
        "optim.warmup_steps": 1000,  # ours
        "trainer.max_steps": 30000,
        "trainer.devices": 1,
        "trainer.num_nodes": 1,
    },
    "paper_supervised": SHARED | CLASSES | {"method.recipe": "supervised"},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The sheet's table of sizes and its recommended values; most of them are (unconfirmed)."""
    assert_recipe("mofi", name, RECIPES[name])
