"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "cifar_mnist",
    "data.batch_size": 512,
    "data.image_size": 24,
    "data.eval_size": 32,
    "data.crop_scale": [0.2, 1.0],
    "data.flip_prob": 0.5,
    "data.vertical_flip_prob": 0.0,
    "data.jitter": [0.4, 0.4, 0.4, 0.1],
    "data.jitter_prob": 0.8,
    "data.grey_prob": 0.2,
    "data.rotation": 0.0,
    "data.noise": 0.0,
    "model.backbone": "resnet18",
    "model.pretrained": "random",
    "model.cifar_stem": True,
    "model.rep_dim": 32,
    "model.hidden_dim": 128,
    "model.common_dim": 32,
    "model.salient_dim": 32,
    "model.head_norm": "batch",
    "method.objective": "sepclr",
    "method.leakage": "kjem",
    "method.bandwidth": 0.5,
    "method.common_uniformity": 2.0,
    "method.salient_weight": 1000.0,
    "method.background_weight": 1000.0,
    "method.leakage_weight": 10.0,
    "optim.name": "adamw",
    "optim.lr": 3e-4,
    "optim.weight_decay": 0.0,
    "optim.schedule": "constant",
    "trainer.max_epochs": 250,
    "eval.standardize": False,
    "eval.balanced": False,
    "eval.domain_from_heads": False,
}
CHEXPERT = SHARED | {
    "data.source": "chexpert",
    "data.batch_size": 256,
    "data.image_size": 224,
    "data.eval_size": 224,
    "data.rotation": 45.0,
    "model.cifar_stem": False,
    "model.pretrained": "torchvision:resnet18",
    "method.salient_weight": 1.0,
    "method.background_weight": 10.0,
    "trainer.max_epochs": 200,
    "eval.balanced": True,
    "eval.domain_from_heads": True,
}
RECIPES = {
    "paper": SHARED,
    "paper_celeba": SHARED
    | {
        "data.source": "celeba",
        "data.batch_size": 256,
        "data.image_size": 128,
        "data.eval_size": 128,
        "model.cifar_stem": False,
        "model.rep_dim": 16,
        "model.common_dim": 16,
        "model.salient_dim": 16,
        "eval.balanced": True,
    },
    "paper_chexpert": CHEXPERT,
    "paper_odir": CHEXPERT
    | {
        "data.source": "odir",
        "data.crop_scale": [0.75, 1.0],
        "data.flip_prob": 0.0,
        "data.vertical_flip_prob": 0.5,
        "data.rescale": "minmax",
        "method.background_weight": 100.0,
    },
    "paper_dsprites": SHARED
    | {
        "data.source": "dsprites",
        "data.limit": 50000,
        "data.test_limit": 5000,
        "data.batch_size": 1024,
        "data.image_size": 64,
        "data.eval_size": 64,
        "data.crop_scale": [0.5, 1.0],
        "data.jitter_prob": 0.0,
        "data.grey_prob": 0.0,
        "data.rotation": 25.0,
        "data.noise": 1.0,
        "data.noise_prob": 0.5,
        "model.backbone": "sprites",
        "model.cifar_stem": False,
        "model.rep_dim": None,
        "model.salient_dim": 5,
        "model.head_norm": "none",
        "method.objective": "supervised",
        "method.attributes": ["shape", "scale", "orientation", "x", "y"],
        "method.discrete": ["shape"],
        "method.attribute_bandwidth": 0.025,
        "method.common_uniformity": 1.0,
        "method.salient_weight": 100.0,
        "method.leakage_weight": 10.0,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The five columns of the release's scripts; `paper_volumes` has no published values."""
    assert_recipe("sepclr", name, RECIPES[name])
