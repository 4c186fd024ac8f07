"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "files",
    "data.candidates": None,
    "data.max_ads_per_title": 500,
    "data.clean_titles": True,
    "model.pretrained": "bert-base-uncased",
    "model.pooling": "avg",
    "method.objective": "pairs",
    "extract.kind": "dictionary",
    "extract.max_prompt_tokens": 1000,
    "extract.max_words": 6,
    "optim.name": "adamw",
    "optim.schedule": "linear",
    "trainer.precision": "bf16-mixed",
    "eval.beta": None,
    "eval.query": "mean",
}
REFERENCES = {
    "fasttext": "vacancysbert/crawl-300d-2M.vec",
    "bert": "bert-base-uncased",
    "sentence_bert": "sentence-transformers/all-mpnet-base-v2",
    "jobbert_2022": "jjzha/jobbert-base-cased",
}
RECIPES = {
    "paper": SHARED | {"eval.references": REFERENCES},
    "paper_asymmetric": SHARED
    | {
        "model.pretrained": "sentence-transformers/all-mpnet-base-v2",
        "model.head_dim": 1024,
        "eval.references": REFERENCES,
    },
    "paper_esco": SHARED
    | {
        "data.source": "esco",
        "data.train": None,
        "data.test": None,
        "data.dev": None,
        "data.batch_size": 256,
        "data.max_skills": 20,
        "data.max_title_len": 32,
        "data.max_skill_len": 128,
        "data.clean_titles": False,
        "model.asymmetric_head": False,
        "model.max_length": 128,
        "method.temperature": 0.05,
        "method.symmetric": True,
        "method.mask_duplicates": True,
        "optim.lr": 2e-5,
        "optim.weight_decay": 0.01,
        "optim.warmup_epochs": 1.0,
        "trainer.max_epochs": 10.0,
        "trainer.gradient_clip_val": 1.0,
        "seed": 42,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The sheet's table, all decisions; what test_experiment.py pins is left out."""
    assert_recipe("vacancysbert", name, RECIPES[name])
