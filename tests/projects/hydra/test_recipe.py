"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "cifar10",
    "data.image_size": 32,
    "data.batch_size": 256,
    "data.views": 1,
    "data.repeats": 3,
    "data.samples_per_class": None,
    "data.augmentation": "randaugment",
    "data.crop_scale": [0.7, 1.0],
    "data.erase_prob": 0.25,
    "data.eval_resize": 36,
    "data.eval_interpolation": "bicubic",
    "data.mean": [0.4914, 0.4822, 0.4465],
    "data.std": [0.2470, 0.2435, 0.2616],
    "model.pretrained": "random",
    "model.projector_dim": 2048,
    "gate.type": "basic",
    "gate.fuse": True,
    "gate.penalty": 0.0,
    "pairs.type": "arbitrary",
    "online_head.weight": 1.0,
    "online_head.sup_loss": False,
    "method.objective": "pairs",
    "method.temperature": 0.1,
    "method.learn_temperature": False,
    "method.exclude_self": False,
    "method.renormalise_after_gate": False,
    "method.alpha": None,
    "method.row_mean": False,
    "method.frozen_simclr": False,
    "optim.lr": 1e-3,
    "optim.weight_decay": 5e-4,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 2,
    "optim.warmup_start_lr": 1e-6,
    "optim.final_lr": 1e-5,
    "trainer.max_epochs": 50,
    "trainer.precision": "16-mixed",
    "layer_decay": 1.0,
}
RESNET = {  # `test_networks` looks at those of paper and paper_imagenet
    "model.backbone": "resnet18",
    "model.stem_type": "deep",
    "model.output_stride": 8,
    "model.out_dim": 256,
    "gate.in_dim": 512,
    "gate.mlp_dim": 1024,
}
TWO_VIEWS = SHARED | {
    "data.batch_size": 512,
    "data.views": 2,
    "data.repeats": 1,
    "data.augmentation": "dino",
    "data.crop_scale": [0.8, 1.0],
    "data.erase_prob": 0.0,
    "method.learn_temperature": True,
    "method.row_mean": True,
    "online_head.weight": 0.0,
    "optim.name": "adamw",
    "optim.lr": 1e-4,
    "optim.final_lr": 1e-4,
    "optim.warmup_epochs": 10,
    "optim.weight_decay": 0.05,
    "optim.betas": [0.9, 0.95],
    "trainer.max_epochs": 1000,
}
IMAGENET = {
    "data.source": "imagenet",
    "data.num_classes": 1000,
    "data.image_size": 224,
    "data.eval_resize": 256,
    "data.mean": [0.485, 0.456, 0.406],
    "data.std": [0.229, 0.224, 0.225],
}
ADAM = SHARED | {"optim.name": "adam"}
# without an online head the logistic regression is the only linear accuracy
RESNET50 = (
    TWO_VIEWS
    | IMAGENET
    | {
        "data.augmentation": "multiview",
        "data.crop_scale": [0.4, 1.0],
        "eval.linear_probe": True,
    }
)
RECIPES = {
    "paper": ADAM,
    "paper_cifar100": ADAM | RESNET | {"data.source": "cifar100", "data.num_classes": 100},
    "paper_cifar10_two_views": TWO_VIEWS | RESNET,
    "paper_finetune": SHARED
    | RESNET
    | {
        "data.erase_prob": 0.1,
        "method.objective": "cross_entropy",
        "online_head.sup_loss": True,
        "online_head.label_smoothing": 0.1,
        "online_head.mixup": 0.8,
        "online_head.cutmix": 1.0,
        "optim.name": "sgd",
        "optim.lr": 0.1,
        "optim.momentum": 0.9,
        "optim.nesterov": True,
        "optim.warmup_epochs": 5,
        "trainer.max_epochs": 100,
        "layer_decay": 0.65,
    },
    "paper_imagenet": RESNET50,
    "paper_imagenet_supcon": RESNET50
    | {
        "data.batch_size": 512,
        "trainer.devices": 8,
        "model.backbone": "resnet50",
        "method.objective": "supcon",
        "optim.name": "lars",
        "optim.lr": 0.2,
        "optim.weight_decay": 1e-4,
        "optim.warmup_epochs": 40,
        "optim.final_lr": 0.0,
    },
    "paper_imagenet_vitb16": SHARED
    | IMAGENET
    | {
        "data.batch_size": 512,
        "data.repeats": 1,
        "data.augmentation": "three_augment",
        "eval.linear_probe": False,
        "online_head.weight": 1.0,
        "data.crop_scale": [0.08, 1.0],
        "data.erase_prob": 0.0,
        "model.backbone": "vit_base_patch16_224",
        "model.out_dim": 256,
        "gate.in_dim": 512,
        "gate.mlp_dim": 1024,
        "optim.name": "adamw",
        "optim.lr": 5e-4,
        "optim.lr_scaling": "linear",
        "optim.weight_decay": 0.05,
        "optim.warmup_epochs": 5,
        "trainer.max_epochs": 100,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Commands of vitookit (one view) and FastSSL (two), defaults of their scripts, checkpoint."""
    assert_recipe("hydra", name, RECIPES[name])
