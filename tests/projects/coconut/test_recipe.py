"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "fsc",
    "data.batch_size": 32,
    "data.max_samples": 64000,
    "data.max_characters": 130,
    "model.encoder": "wav2vec2",
    "model.pretrained": "facebook/wav2vec2-base-960h",
    "model.decoder_layers": 6,
    "model.decoder_heads": 8,
    "model.decoder_hidden": 3072,
    "model.dropout": 0.1,
    "model.head_hidden": 512,
    "model.embed_dim": 128,
    "method.setting": "incremental",
    "method.memory_size": 230,
    "method.mm_weight": 0.1,
    "method.mm_rows": "current",
    "method.mm_first_only": False,
    "method.nspt_weight": 1.0,
    "method.nspt_ratio": True,
    "method.nspt_modalities": ["audio", "text"],
    "method.design": "nspt",
    "method.anchors": "rehearsal",
    "method.negatives": "all",
    "method.denominator": "with_positive",
    "method.temperature": 0.1,
    "method.text": "transcript",
    "method.distillation": "none",
    "method.label_smoothing": 0.0,
    "method.count_pad": False,
    "method.epochs": [25, 25, 25, 25, 25, 25],
    "method.select": "best",
    "method.select_from_epoch": 5,
    "optim.name": "adamw",
    "optim.lr": 5e-5,
    "optim.weight_decay": 0.1,
    "optim.betas": [0.9, 0.98],
    "optim.eps": 1e-6,
    "optim.schedule": "constant",
    "optim.warmup_steps": 0,
    "trainer.devices": 1,
    "trainer.precision": "32-true",
    "eval.beam_size": 5,
    "eval.val_share": 0.1,
    "eval.length_power": 0.6,
    "seed": 11,
}
SLURP = SHARED | {
    "data.source": "slurp",
    "data.order": [2, 5, 6, 11, 12, 14, 0, 1, 3, 4, 7, 8, 9, 10, 13, 15, 16, 17],
    "data.synthetic_recordings": True,
    "data.tokens": "bpe",
    "data.vocab_size": 1000,
    "data.max_samples": 112000,
    "method.memory_size": 1260,
    "method.epochs": [40, 25, 15, 15, 15, 15],
    "eval.beam_size": 20,
    "eval.val_beam_size": 10,
}
RECIPES = {
    "paper": SHARED,
    "paper_fsc3": SHARED | {"method.epochs": [35, 35, 35]},
    "paper_fsc6_sequence_kd": SHARED
    | {"data.num_tasks": 6, "method.distillation": "sequence", "method.kd_beam": 20},
    "paper_slurp6": SLURP,
    "paper_slurp6_random_order": SLURP
    | {
        "data.num_tasks": 6,
        "data.order": [11, 13, 3, 7, 16, 12, 2, 9, 10, 1, 15, 8, 6, 14, 5, 4, 17, 0],
    },
    "paper_slurp3": SLURP | {"method.epochs": [40, 25, 15]},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Training of the authors' earlier script; weights and temperature are those of the sheet."""
    assert_recipe("coconut", name, RECIPES[name])
