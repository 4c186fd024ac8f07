"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

VIEWS = ["D", "I", "S", "V", "DI", "IS", "SV", "DIS", "ISV", "DISV"]
PRETRAIN = {
    "train": "pretrain",
    "data.source": "corpora",
    "data.labelled": "AnPreDial",
    "data.unlabelled": "UnPreDial",
    "data.corpora": [],
    "data.batch_nolabel": 16,
    "data.in_turn": True,
    "data.max_length": 256,
    "data.max_turns": 16,
    "model.pretrained": "convbert",
    "model.dim": 768,
    "model.shared": False,
    "method.learning": "semi",
    "method.score": "tree",
    "method.views": VIEWS,
    "method.base_tau": 0.07,
    "method.gather": False,
    "optim.name": "adamw",
    "optim.eps": 1e-6,
    "trainer.devices": 8,
    "trainer.strategy": "ddp",
    "trainer.precision": "32-true",
    "seed": 11,
}
RATES = {
    "model.dropout": 0.2,
    "method.tau": 0.07,
    "method.mlm_weight": 0.1,
    "optim.lr": 1e-5,
    "trainer.max_epochs": 60.0,
}
SCHEDULE = {
    "optim.weight_decay": 0.0,
    "optim.schedule": "linear",
    "optim.warmup_epochs": 6.0,
    "trainer.gradient_clip_val": 5.0,
}
ARM = PRETRAIN | RATES | SCHEDULE | {"data.batch_size": 16}
FINETUNE = {
    "train": "finetune",
    "data.max_length": 256,
    "data.max_turns": 16,
    "data.batch_size": 128,
    "model.pretrained": "space2-intent",
    "task.kind": "intent",
    "task.source": "folder",
    "task.mlm_weight": 0.1,
    "optim.name": "adamw",
    "optim.eps": 1e-6,
    "trainer.max_epochs": 60.0,
    "trainer.precision": "32-true",
}
# DialoGLUE's, as no script was released
TAGGER = FINETUNE | {
    "data.max_length": 50,
    "data.batch_size": 64,
    "model.pretrained": "space2-slot",
    "model.dropout": 0.1,
    "task.kind": "slot",
    "task.kl_weight": 0.0,
    "task.head_dropout": 0.1,
    "optim.lr": 6e-5,
    "optim.weight_decay": 0.0,
    "optim.eps": 1e-8,
    "optim.schedule": "constant",
    "optim.warmup_epochs": 0.0,
    "trainer.max_epochs": 100.0,
    "trainer.gradient_clip_val": None,
}
RECIPES = {
    "paper": PRETRAIN,
    "paper_self": ARM | {"method.learning": "self"},
    "paper_super": ARM | {"method.learning": "super"},
    "paper_hard": ARM | {"method.score": "hard"},
    "paper_adapt_intent": PRETRAIN
    | RATES
    | SCHEDULE
    | {
        "data.labelled": "intents-trees",
        "data.corpora": ["banking", "clinc", "hwu"],
        "data.batch_size": 128,
        "data.batch_nolabel": 128,
        "model.pretrained": "space2",
        "method.learning": "super",
        "method.views": ["I"],
        "trainer.devices": 1,
        "trainer.strategy": "auto",
    },
    "paper_adapt_slot": {k: v for k, v in PRETRAIN.items() if k != "data.corpora"}
    | RATES
    | {
        "data.labelled": "slots-trees",
        "data.batch_size": 190,
        "data.batch_nolabel": 190,
        "model.pretrained": "space2",
        "method.learning": "super",
        "trainer.precision": "bf16-mixed",
        "trainer.devices": 4,
    },
    "paper_banking": FINETUNE | {"task.folder": "dialoglue/banking", "task.head_dropout": 0.25},
    "paper_clinc": FINETUNE
    | SCHEDULE
    | {"task.folder": "dialoglue/clinc", "task.head_dropout": 0.25},
    "paper_hwu": FINETUNE | {"task.folder": "dialoglue/hwu", "task.head_dropout": 0.3},
    "paper_rest8k": TAGGER | {"task.folder": "dialoglue/restaurant8k"},
    "paper_dstc8": TAGGER | {"task.folder": "dialoglue/dstc8_sgd"},
    "paper_top": TAGGER | {"task.kind": "top", "task.folder": "dialoglue/top"},
    "paper_multiwoz": {
        "train": "finetune",
        "data.max_length": 180,
        "model.pretrained": "space2-slot",
        "task.kind": "dst",
        "task.folder": "dialoglue/multiwoz/MULTIWOZ2.1",
        "task.kl_weight": 0.0,
        "task.class_loss_ratio": 0.8,
        "optim.name": "adamw",
        "optim.schedule": "linear",
        "trainer.gradient_clip_val": 1.0,
        "trainer.precision": "32-true",
        "seed": 42,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The sheet's training table, of the release's scripts; TripPy's for the dialogue states."""
    assert_recipe("space2", name, RECIPES[name])
