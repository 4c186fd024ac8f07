"""Values of the paper's configs, against the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

FORUMS = (
    "android",
    "english",
    "gaming",
    "gis",
    "mathematica",
    "physics",
    "programmers",
    "stats",
    "tex",
    "unix",
    "webmasters",
    "wordpress",
)
OPTIM = {
    "optim.name": "adamw",
    "optim.betas": [0.9, 0.98],
    "optim.eps": 1e-6,
    "optim.weight_decay": 0.01,
    "optim.schedule": "warmup_linear",
    "optim.final_lr": 0.0,
}
ENCODER = {
    "model.pooling": "avg",
    "model.max_length": 512,
    "method.norm_query": False,
    "method.norm_document": False,
    "trainer.precision": "32-true",
    "trainer.gradient_clip_val": None,
    "seed": 0,
}
# both pre-trainings, beside what test_experiment.py says of them
PRETRAINING = {
    "data.source": "files",
    "data.views": "crops",
    "data.batch_size": 64,
    "method.pretrain": True,
    "optim.final_lr": 0.0,
    "trainer.accumulate_grad_batches": 1,
}
ENGLISH = PRETRAINING | {
    "data.sources": {"wikipedia": "contriever/wikipedia", "ccnet": "contriever/ccnet"},
    "model.pretrained": "bert-base-uncased",
    "eval.beir": [
        "beir/msmarco@dev",
        "beir/trec-covid",
        "beir/nfcorpus",
        "beir/nq",
        "beir/hotpotqa",
        "beir/fiqa",
        "beir/arguana",
        "beir/webis-touche2020",
        *(f"beir/cqadupstack/{name}" for name in FORUMS),
        "beir/quora",
        "beir/dbpedia-entity",
        "beir/scidocs",
        "beir/fever",
        "beir/climate-fever",
        "beir/scifact",
    ],
    "eval.answers": ["dpr/nq", "dpr/triviaqa"],
}
ABLATION = (
    ENGLISH
    | OPTIM
    | ENCODER
    | {
        "data.sampling_coefficient": 0.0,
        "data.chunk_length": 256,
        "data.ratio_min": 0.05,
        "data.ratio_max": 0.5,
        "data.noise.kind": "delete",
        "data.noise.probability": 0.1,
        "method.objective": "moco",
        "method.temperature": 0.05,
        "method.queue_size": 131072,
        "method.momentum": 0.9995,
        "method.label_smoothing": 0.0,
        "method.key_encoder_dropout": True,
        "optim.lr": 5e-5,
        "optim.warmup_steps": 20000,
        "trainer.max_steps": 500000,
        "trainer.devices": 8,
        "trainer.num_nodes": 4,
    }
)
LANGUAGES = (
    "fr",
    "en",
    "ar",
    "bn",
    "fi",
    "id",
    "ja",
    "ko",
    "ru",
    "sw",
    "hu",
    "he",
    "it",
    "km",
    "ms",
    "nl",
    "no",
    "pl",
    "pt",
    "sv",
    "te",
    "th",
    "tr",
    "vi",
    "zh_CN",
    "zh_TW",
    "es",
    "de",
    "da",
)
MULTILINGUAL = PRETRAINING | {
    "data.sources": {name: f"ccnet/{name}" for name in LANGUAGES},
    "model.pretrained": "bert-base-multilingual-cased",
}
TYDI = [
    f"mrtydi/{name}" for name in ("ar", "bn", "en", "fi", "id", "ja", "ko", "ru", "sw", "te", "th")
]
TUNED = OPTIM | ENCODER | {"trainer.accumulate_grad_batches": 1}
MSMARCO = TUNED | {
    "finetune.steps": 20000,
    "finetune.file": "contriever/msmarco.jsonl",
    "eval.beir": ENGLISH["eval.beir"],
}
MANY = {"eval.beir": TYDI, "eval.normalize_text": True}
RECIPES = {
    "paper": ENGLISH,
    "paper_in_batch": ABLATION | {"method.objective": "in_batch"},
    "paper_inverse_cloze": ABLATION | {"data.views": "inverse_cloze", "data.cloze_keep": 0.1},
    "paper_multilingual": MULTILINGUAL | {"eval.beir": TYDI},
    "paper_mkqa": MULTILINGUAL | {"eval.beir": []},
    "paper_msmarco": MSMARCO,
    "paper_msmarco_bert": MSMARCO,
    "paper_msmarco_hard": MSMARCO
    | {
        "model.pretrained": "facebook/contriever",
        "finetune.file": "contriever/msmarco_mined.jsonl",
    },
    "paper_msmarco_multilingual": MSMARCO | MANY,
    "paper_msmarco_multilingual_bert": MSMARCO | MANY,
    "paper_mrtydi": TUNED | MANY | {"finetune.file": "contriever/mrtydi.jsonl"},
    "paper_few_shot": TUNED | {"eval.beir": ["beir/fiqa"]},
    "paper_few_shot_bert": TUNED | {"eval.beir": ["beir/fiqa"]},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Launch scripts and sets of the release; an ablation changes one thing of `paper`."""
    assert_recipe("contriever", name, RECIPES[name])
