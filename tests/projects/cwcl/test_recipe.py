"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "csv",
    "data.crop_scale": [0.05, 1.0],
    "data.normalize": "imagenet",
    "model.open_clip.embed_dim": 1024,
    "model.open_clip.vision_cfg.timm_model_name": "vit_large_patch16_224",
    "model.open_clip.vision_cfg.timm_proj": "none",
    "model.open_clip.text_cfg.context_length": 77,
    "model.open_clip.text_cfg.vocab_size": 49408,
    "model.open_clip.text_cfg.width": 1024,
    "model.open_clip.text_cfg.heads": 16,
    "model.open_clip.text_cfg.layers": 24,
    "model.vision_pretrained": "timm:vit_large_patch16_224.augreg_in21k",
    "model.augment": True,
    "model.cache": False,
    "model.centred": False,
    "method.weight_features": "embedding",
    "method.smoothing": 0.0,
}
RECIPES = {
    "paper": SHARED,
    "paper_lit": SHARED,
    "paper_clip": SHARED,
    "paper_speech": {
        "speech.manifest": "common_voice/en/validated.tsv",
        "speech_model.text": "FacebookAI/roberta-base",
        "speech_model.text_pooling": "avg",
        "speech_model.pretrained": "openai/whisper-base",
        "model.centred": False,
        "method.weight_features": "embedding",
        "method.smoothing": 0.0,
        "optim.weight_decay": 0.01,
        "eval.intents": ["slurp", "stop/manifests/test.tsv"],
        "eval.keywords": "speech_commands_v0.02",
        "eval.intent_texts": None,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Towers, crops and sets of the sheet, most of them (unconfirmed), as of both baselines."""
    assert_recipe("cwcl", name, RECIPES[name])
