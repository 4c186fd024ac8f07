"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.projects.cosmo.conftest import config
from tests.recipes import assert_recipe

SHARED = {
    "data.source": "shards",
    "data.kinds": ["image_text", "video_text", "interleaved_image"],
    "data.weights": {
        "image_text": 2,
        "video_text": 1,
        "interleaved_image": 2,
        "interleaved_video": 2,
    },
    "data.shuffle_images": False,
    "model.language": "facebook/opt-iml-max-1.3b",
    "model.language_dtype": "float16",
    "model.text_depth": None,
    "model.qk_norm": False,
}
# of the 180M base, for configs that no other test reads
BASE = SHARED | {
    "data.batch_size": 96,
    "data.augment": True,
    "data.normalise": "imagenet",
    "data.max_document": 128,
    "model.vision": "open_clip:ViT-L-14-quickgelu/openai",
    "model.unimodal_depth": 12,
    "model.interval": 2,
    "model.compression": 2,
    "model.trained_rows": "none",
    "method.contrastive_weight": 1.0,
    "method.logit_scale_init": 0.2,
    "method.apply_weights": False,
    "optim.lr": 5e-4,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 500,
    "trainer.max_epochs": 5,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "16-mixed",
    "seed": 42,
}
BLOCKS = ("model.unimodal_depth", "model.interval", "model.compression")  # of both (unconfirmed)
RECIPES = {
    "paper": SHARED,
    "paper_18m": SHARED
    | {"data.kinds": ["image_text", "interleaved_image"], "data.threshold": 0.25},
    "paper_340m": BASE | {"model.interval": 1},
    "paper_mixtral": SHARED
    | {"model.language": "mistralai/Mixtral-8x7B-v0.1", "model.language_dtype": "nf4"},
    "paper_redpajama": {key: value for key, value in BASE.items() if key not in BLOCKS}
    | {"model.language": "togethercomputer/RedPajama-INCITE-Base-3B-v1"},
    "paper_mistral": {key: value for key, value in BASE.items() if key not in BLOCKS}
    | {"model.language": "mistralai/Mistral-7B-v0.1"},
    "paper_howto": BASE | {"data.kinds": [*SHARED["data.kinds"], "interleaved_video"]},
    "paper_few_shot": BASE
    | {
        "eval.shots": [0, 4, 8, 16, 32],
        "eval.shot_seed": 42,
        "eval.pool": 2048,
        "eval.num_beams": 5,
        "eval.length_penalty": -2.0,
        "eval.max_new_tokens": 20,
        "eval.vqa_tokens": 5,
    },
    "paper_reference": BASE
    | {
        "model.unimodal_depth": 0,
        "model.interval": 1,
        "model.compression": 1,
        "method.contrastive_weight": 0.0,
    },
    # a second stage: what is trained on, its length and its rate are its own
    "paper_instruction": {
        key: value
        for key, value in BASE.items()
        if key not in ("data.max_document", "optim.lr", "trainer.max_epochs")
    }
    | {"data.kinds": ["instruction"], "data.augment": False, "model.trained_rows": "all"},
}
SETS = {
    "image_text": {"laion400m", "cc3m", "sbu"},
    "video_text": {"webvid"},
    "interleaved_image": {"mmc4", "obelics"},
    "interleaved_video": {"howto_interlink7m"},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Language models, kinds and weights of the release; shards are of the sheet's sets."""
    assert_recipe("cosmo", name, RECIPES[name])
    data = config(name=name).data
    for kind in set(data.kinds) - {"instruction"}:
        own = data.shards[kind]
        patterns = [own] if isinstance(own, str) else own
        sets = {"mmc4"} if (name, kind) == ("paper_18m", "interleaved_image") else SETS[kind]
        assert {pattern.partition("/")[0] for pattern in patterns} == sets
