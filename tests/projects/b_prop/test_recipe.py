"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "files",
    "data.max_document": 510,
    "data.pairs": 5,
    "data.min_words": 10,
    "data.short_skip_prob": 0.8,
    "model.pretrained": "bert-base-uncased",
    "words.distribution": "entropy",
    "words.labels": "score",
    "words.encoder": None,
    "words.layer": -1,
    "words.heads": "mean",
    "words.saturation": "ratio",
    "words.parity_extraction": False,
    "words.stemming": False,
    "method.pretrain": True,
    "method.rop": True,
    "method.mlm": True,
    "method.margin": 1.0,
    "method.mask_prob": 0.15,
    "optim.weight_decay": 0.01,
    "optim.eps": 1e-6,
    "optim.schedule": "linear",
    "optim.warmup_epochs": 0.1,
    "trainer.max_epochs": 1.0,
    "trainer.precision": "32-true",
    "trainer.accumulate_grad_batches": 1,
    "eval.depth": 200,
    "seed": 42,
}
# of the release, for configs that no other test reads
RELEASED = {
    "data.batch_size": 80,
    "data.short_pieces": 200,
    "model.max_length": 512,
    "words.poisson_mean": 3.0,
    "words.saturation_k": 0.01,
    "method.score_norm": "softmax",
    "method.max_predictions": 60,
    "optim.lr": 2e-5,
}
PROP = {
    "words.distribution": "unigram",
    "words.background": "df",
    "words.keep_threshold": 1e-4,
    "words.mu": None,
}
SMALL_SETS = {
    "eval.sets": ["robust04", "clueweb09b", "gov2", "mq2007", "mq2008"],
    "eval.query_counts": [50, 100],
}
FINETUNE = {
    "model.max_length": 512,
    "method.pretrain": False,
    "finetune.set": "msmarco-doc@train",
    "finetune.lr": 1e-5,
    "finetune.warmup_share": 0.1,
    "finetune.depth": 100,
    "eval.depth": 100,
    "eval.tune.steps": 0,
    "seed": 42,
}
RECIPES = {
    "paper": SHARED | SMALL_SETS,
    "paper_subtract": SHARED
    | RELEASED
    | SMALL_SETS
    | {"words.distribution": "subtract", "data.documents": "b_prop/wikipedia"},
    "paper_marco": SHARED | RELEASED | {"data.documents": "b_prop/msmarco"},
    "paper_prop": SHARED | SMALL_SETS | PROP,
    "paper_prop_marco": SHARED
    | RELEASED
    | PROP
    | {
        "data.documents": "b_prop/msmarco_counts",
        "data.short_pieces": 100,
        "words.min_count": 10,
        "words.vocabulary": 500,
        "words.extra_words": 100,
        "prepare.attention": False,
        "prepare.keep_words": 512,
    },
    "paper_finetune_marco": FINETUNE
    | {"model.pretrained": "xyma/PROP-marco-step400k", "model.head": "new"},
    "paper_finetune_bert": FINETUNE
    | {
        "model.pretrained": "bert-base-uncased",
        "model.head": "new",
        "finetune.loss": "groupwise",
        "finetune.group_size": 12,
        "finetune.batch_size": 4,
        "trainer.accumulate_grad_batches": 3,
        "eval.sets": ["msmarco-doc@dev", "msmarco-doc@dl19"],
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """README and scripts of the release, PROP's counts, the authors' answer on fine-tuning."""
    assert_recipe("b_prop", name, RECIPES[name])
