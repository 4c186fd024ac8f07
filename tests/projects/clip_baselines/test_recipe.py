"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "csv",
    "data.texts": ["original", "description"],
    "data.batch_size": 128,
    "data.image_size": 224,
    "data.crop_scale": [0.5, 1.0],
    "data.normalize": "imagenet",
    "model.open_clip.embed_dim": 256,
    "model.open_clip.quick_gelu": True,
    "model.open_clip.text_cfg.context_length": 77,
    "model.open_clip.text_cfg.vocab_size": 49408,
    "model.open_clip.text_cfg.width": 512,
    "model.open_clip.text_cfg.heads": 8,
    "model.logit_scale_init": 14.285714285714286,  # 1 / 0.07
    "model.max_logit_scale": 100.0,
    "model.activation_checkpointing": False,
    "method.name": "clip",
    "method.head_dim": 4096,
    "method.local_scale_init": 10.0,  # 1 / 0.1
    "method.gather_grad": False,
    "method.sync_batchnorm": True,
    "method.separate_children": False,
    "method.child_dims": [2048, 128],
    "method.barlow_dims": [3000, 8192],
    "method.barlow_lambda": 5e-3,
    "method.barlow_weight": 0.025,
    "method.momentum": 0.99,
    "method.prototypes": 3000,
    "method.freeze_prototypes_steps": 100,
    "method.sinkhorn_epsilon": 0.05,
    "method.sinkhorn_iterations": 3,
    "optim.name": "adamw",
    "optim.betas": [0.9, 0.98],
    "optim.eps": 1e-8,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 1,
    "optim.warmup_start_lr": 1e-6,
    "optim.final_lr": 1e-5,
    "trainer.devices": 8,
    "trainer.num_nodes": 4,
    "trainer.accumulate_grad_batches": 1,
    "trainer.precision": "16-mixed",
    "trainer.gradient_clip_val": None,
    "eval.templates": "openai",
    "eval.validate": "imagenet",
    "seed": 0,
}
RESNET = SHARED | {
    "model.open_clip.vision_cfg.timm_model_name": "resnet50",
    "model.open_clip.vision_cfg.timm_model_pretrained": False,
    "model.open_clip.vision_cfg.timm_pool": "avg",
    "model.open_clip.vision_cfg.timm_proj": "linear",
}
STRONG = {
    "data.num_augs": 2,
    "data.text_augmentation": True,
    "data.eda_weights": [0.4, 0.4, 0.2, 0.0],
    "data.eda_synonyms": True,
    "method.separate_heads": True,
    "method.label_smoothing": 0.1,
    "method.swalip_weight": 0.2,
}
# test_data.py says them of `paper`
VIEWS = {
    "data.interpolation": "bicubic",
    "data.image_augmentation": True,
    "data.asymmetric": False,
    "data.view_scale": [0.08, 1.0],
    "data.jitter": [0.4, 0.4, 0.4, 0.1],
    "data.jitter_prob": 0.8,
    "data.grey_prob": 0.2,
    "data.blur_prob": 0.5,
    "data.solarise_prob": 0.0,
}
WHOLE = {"data.captions_of_views": "single", "data.view_size": None}
OTHERS = STRONG | VIEWS | {"data.remove_stopwords_prob": 0.8}
CONCEPTUAL = RESNET | OTHERS | WHOLE | {"data.texts": ["original"]}
VIT = (
    SHARED
    | OTHERS
    | WHOLE
    | {
        "model.open_clip.vision_cfg.image_size": 224,
        "model.activation_checkpointing": True,
        "method.separate_children": True,
    }
)
# test_experiment.py says them of the others
TABLE = {
    "data.clean_before_augment": False,
    "model.open_clip.text_cfg.layers": 12,
    "method.text_dropout": 0.0,
    "method.reduction": "sum",
    "optim.lr": 3e-3,
    "optim.weight_decay": 0.1,
    "trainer.max_epochs": 32,
}
RECIPES = {
    "paper": RESNET | STRONG | {"data.captions_of_views": "single"},
    "paper_basic": RESNET
    | TABLE
    | {
        "data.interpolation": "bicubic",
        "data.num_augs": 0,
        "data.remove_stopwords_prob": 0.0,
        "method.separate_heads": False,
        "method.label_smoothing": 0.0,
    },
    "paper_cc3m": CONCEPTUAL,
    "paper_cc12m": CONCEPTUAL,
    "paper_cc12m_lip": CONCEPTUAL | {"method.name": "siamlip"},
    "paper_redcaps": CONCEPTUAL | TABLE | {"method.text_dropout": 0.05},
    "paper_yfcc_lip": RESNET | OTHERS | WHOLE | {"method.name": "siamlip"},
    "paper_29m": RESNET | OTHERS | {"data.num_samples": 29000000},
    "paper_yfcc_vits": VIT
    | {
        "model.open_clip.vision_cfg.timm_model_name": None,
        "model.open_clip.vision_cfg.layers": 12,
        "model.open_clip.vision_cfg.width": 384,
        "model.open_clip.vision_cfg.head_width": 32,  # 12 heads
        "model.open_clip.vision_cfg.patch_size": 16,
    },
    "paper_yfcc_vitb": VIT
    | {
        "model.open_clip.vision_cfg.timm_model_name": "vit_base_patch16_224",
        "model.open_clip.vision_cfg.timm_pool": "token",
        "model.open_clip.vision_cfg.timm_proj": "linear",
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Commands of the release; `paper_basic` has none of the strong recipe's ingredients."""
    assert_recipe("clip_baselines", name, RECIPES[name])
