"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

# beside what test_experiment.py says of `paper`
PAPER = {
    "data.source": "files",
    "data.sampling_exponent": 0.3,
    "data.max_length": 256,
    "model.pretrained": "xlm-roberta-large",
    "model.dropout": 0.1,
    "model.max_length": 256,
    "model.normalize": True,
    "method.pretrain": True,
    "method.norm": "asymmetric",
    "method.last_norm": True,
    "method.norm_eps": 1e-12,
    "method.norm_momentum": 0.1,
    "method.language_bank": True,
    "method.bank_sides": "both",
    "method.bank_initial": "masked",
    "method.in_batch_negatives": True,
    "method.cts_weight": 1.0,
    "method.mlm_weight": 1.0,
    "method.mlm_probability": 0.15,
    "method.mlm_every": 4,
    "finetune.steps": 0,
    "optim.name": "adamw",
    "optim.weight_decay": 0.01,
    "optim.schedule": "linear",
    "optim.final_lr": 0.0,
    "trainer.max_steps": 200000,
    "trainer.devices": 8,
    "trainer.precision": "16-mixed",
    "trainer.gradient_clip_val": None,
    "eval.rotation_steps": 0,
}
ALIKE = PAPER | {
    "data.window": 5,
    "data.batch_size": 256,
    "model.pooling": "cls_before_pooler",
    "method.temperature": 0.1,
    "optim.lr": 4e-5,
    "optim.betas": [0.9, 0.98],
    "optim.eps": 1e-6,
    "optim.warmup_steps": 10000,
}
TYDI = [
    f"mrtydi/{name}" for name in ("ar", "bn", "en", "fi", "id", "ja", "ko", "ru", "sw", "te", "th")
]
XOR = [f"xor@{name}" for name in ("ar", "bn", "fi", "ja", "ko", "ru", "te")]
QUESTIONS = {
    "model.architecture": "xlm-roberta-large",
    "model.pooling": "cls_before_pooler",
    "model.dropout": 0.1,
    "model.max_length": 256,
    "model.normalize": False,
    "finetune.dev_batch_size": 32,
    "finetune.negative_hard_ratio": 1.0,
    "finetune.max_length": 256,
    "finetune.share_towers": False,
    "optim.name": "adamw",
    "optim.betas": [0.9, 0.999],
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.0,
    "optim.schedule": "linear",
    "optim.final_lr": 0.0,
    "trainer.devices": 8,
    "trainer.accumulate_grad_batches": 1,
    "trainer.precision": "16-mixed",
}
# test_experiment.py says them of `paper_nq`
TARGET = QUESTIONS | {
    "finetune.batch_size": 6,
    "finetune.lr": 1e-5,
    "trainer.gradient_clip_val": 2.0,
    "seed": 42,
}
RECIPES = {
    "paper": PAPER,
    "paper_plain_norm": ALIKE | {"method.norm": "plain"},
    "paper_shared_bank": ALIKE | {"method.language_bank": False},
    "paper_rotation": ALIKE | {"eval.rotation_steps": 25000},
    "paper_nq": QUESTIONS
    | {
        "model.pretrained": "runs/ccp/paper/release/export",
        "finetune.steps": 20 * 1237,
        "finetune.file": "dpr/nq-train.json",
        "finetune.dev_file": "dpr/nq-dev.json",
        "finetune.warmup_steps": 1237,
        "optim.lr": 1e-5,
        "optim.warmup_steps": 1237,
        "trainer.max_steps": 20 * 1237,
        "eval.beir": TYDI,
        "eval.xor": XOR,
    },
    "paper_mrtydi": TARGET
    | {
        "finetune.file": "mrtydi/train.jsonl",
        "finetune.dev_file": "mrtydi/dev.jsonl",
        "eval.beir": TYDI,
        "eval.xor": [],
    },
    "paper_xor": TARGET
    | {
        "model.pretrained": "runs/ccp/paper_nq/release/export",
        "finetune.dev_file": "xor/dpr_dev_data.json",
        "eval.beir": [],
        "eval.xor": XOR,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Pre-training of the group's later release, fine-tuning of the paper's own."""
    assert_recipe("ccp", name, RECIPES[name])
