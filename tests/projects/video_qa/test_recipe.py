"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "tvqa",
    "data.feature_dim": 2048,
    "data.fps": 3.0,
    "data.max_frames": 300,
    "data.max_objects": 20,
    "data.max_sentences": 60,
    "data.max_length": 70,
    "data.localised": False,
    "data.batch_size": 8,
    "model.pretrained": "bert-base-uncased",
    "model.image_encoder": "torchvision:resnet101",
    "model.streams": "both",
    "model.attention": "local",
    "model.time_embedding": False,
    "model.pool": "max",
    "model.rnn": "lstm",
    "model.hidden": 300,
    "model.head_dropout": 0.1,
    "model.alike": False,
    "pretrain.epochs": 1.0,
    "pretrain.answer": "correct",
    "pretrain.distractors": "clip",
    "pretrain.candidates": 5,
    "method.contrast_weight": 1.0,
    "method.localisation_weight": 1.0,
    "method.mask_prob": 0.15,
    "method.mask_scope": "all",
    "method.similarity": "dot",
    "method.temperature": 1.0,
    "method.contrast_features": "text",
    "method.stop_gradient": False,
    "method.head_lr": 1e-4,
    "optim.name": "adamw",
    "optim.lr": 5e-5,
    "optim.weight_decay": 0.01,
    "optim.schedule": "linear",
    "trainer.max_epochs": 3.0,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "bf16-mixed",
}
RECIPES = {
    "paper": SHARED,
    "paper_dramaqa": SHARED | {"data.source": "dramaqa", "method.localisation_weight": 0.0},
    "paper_text": SHARED
    | {
        "data.features": None,
        "data.objects": None,
        "data.max_objects": 0,
        "model.streams": "text",
    },
    "paper_tvqa_plus": SHARED | {"data.source": "tvqa_plus"},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The sheet's table, which recommends: no value of the paper's own recipe could be read."""
    assert_recipe("video_qa", name, RECIPES[name])
