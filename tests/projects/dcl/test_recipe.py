"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from projects.dcl.data import train_transform
from tests.projects.dcl.conftest import config
from tests.recipes import assert_recipe

IMAGENET = {
    "data.source": "imagenet",
    "data.batch_size": 32,
    "data.image_size": 224,
    "data.crop_scale": [0.08, 1.0],
    "data.jitter": [0.8, 0.8, 0.8, 0.2],
    "data.jitter_prob": 0.8,
    "data.grey_prob": 0.2,
    "data.blur_prob": 0.5,
    "data.eval_resize": 256,
    "eval.linear_probe": False,  # hours of a CPU; `paper_linear` is the paper's
    "model.backbone": "resnet50",
    "model.cifar_stem": False,
    "model.projector": [2048],
    "model.out_dim": 128,
    "model.head_norm": "batch",
    "model.sync_batchnorm": True,
    "method.host": "simclr",
    "method.loss": "dcl",
    "method.temperature": 0.1,
    "method.sigma": 0.5,
    "optim.name": "lars",
    "optim.lr": 1.2,
    "optim.momentum": 0.9,
    "optim.weight_decay": 1e-6,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 10,
    "trainer.max_epochs": 200,
    "trainer.devices": 8,
}
CIFAR = {
    "data.source": "cifar10",
    "data.batch_size": 32,
    "data.image_size": 32,
    "data.crop_scale": [0.08, 1.0],
    "data.jitter": [0.4, 0.4, 0.4, 0.1],
    "data.jitter_prob": 0.8,
    "data.grey_prob": 0.2,
    "data.blur_prob": 0.0,
    "data.std": [0.2023, 0.1994, 0.2010],
    "model.backbone": "resnet18",
    "model.cifar_stem": True,
    "model.projector": [512],
    "model.out_dim": 128,
    "method.host": "simclr",
    "method.loss": "dcl",
    "method.temperature": 0.07,
    "method.sigma": 0.5,
    "optim.name": "sgd",
    "optim.lr": 0.00375,
    "optim.momentum": 0.9,
    "optim.weight_decay": 5e-4,
    "optim.schedule": "cosine",
    "trainer.max_epochs": 200,
    "eval.items_k": 200,
    "eval.knn_temperature": 0.1,
}
RECIPES = {
    "paper": IMAGENET,
    "paper_imagenet100": IMAGENET | {"data.source": "imagenet100", "eval.linear_probe": True},
    "paper_moco": IMAGENET
    | {
        "data.crop_scale": [0.2, 1.0],
        "data.jitter": [0.4, 0.4, 0.4, 0.1],
        "model.head_norm": "none",
        "method.host": "moco",
        "method.temperature": 0.07,
        "method.queue_size": 65536,
        "method.momentum": 0.999,
        "optim.name": "sgd",
        "optim.lr": 0.03,
        "optim.weight_decay": 1e-4,
        "optim.warmup_epochs": 0,
    },
    "paper_nnclr": IMAGENET
    | {
        "data.batch_size": 64,
        "model.projector": [2048, 2048],
        "model.out_dim": 256,
        "model.projector_last_norm": True,
        "model.predictor": [4096],
        "method.host": "nnclr",
        "method.support_size": 98304,
        "optim.lr": 0.6,
        "trainer.max_epochs": 400,
    },
    "paper_linear": {
        "data.batch_size": 128,
        "data.eval_resize": 256,
        "data.eval_interpolation": "bilinear",
        "linear.train": True,
        "linear.augment": "crop",
        "linear.crop_scale": [0.08, 1.0],
        "optim.nesterov": True,
        "optim.name": "sgd",
        "optim.lr": 0.1,
        "optim.lr_scaling": "linear",
        "optim.lr_batch": 256,
        "optim.momentum": 0.9,
        "optim.weight_decay": 0.0,
        "optim.schedule": "cosine",
        "optim.warmup_epochs": 0,
        "trainer.max_epochs": 90,
        "trainer.devices": 8,
    },
    "paper_linear_cifar10": {
        "data.source": "cifar10",
        "data.batch_size": 512,
        "model.backbone": "resnet50",
        "linear.train": True,
        "linear.augment": "views",
        "optim.name": "adam",
        "optim.lr": 1e-3,
        "optim.weight_decay": 1e-6,
        "optim.schedule": "constant",
        "trainer.max_epochs": 100,
    },
    "paper_cifar10": CIFAR,
    "paper_cifar100": CIFAR | {"data.source": "cifar100"},
    "paper_stl10": CIFAR | {"data.source": "stl10", "data.image_size": 64},
    "paper_cifar10_reference": CIFAR
    | {
        "model.backbone": "resnet50",
        "method.temperature": 0.1,
        "optim.name": "adam",
        "optim.lr": 1e-3,
        "optim.weight_decay": 1e-6,
        "optim.schedule": "constant",
        "trainer.max_epochs": 100,
    },
    "gpu": CIFAR | {"trainer.max_epochs": 100, "trainer.precision": "bf16-mixed"},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Augmentation, heads, temperatures and rates of the three hosts."""
    assert_recipe("dcl", name, RECIPES[name])


def test_the_views_are_blurred_as_the_config_says():
    assert train_transform(config(name="paper").data).blur_prob == 0.5
    assert train_transform(config(name="paper_cifar10").data).blur_prob == 0.0
