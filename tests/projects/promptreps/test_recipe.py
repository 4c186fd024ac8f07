"""Values of the paper's configs, against the sources that their comments name."""

from typing import Any

import pytest

from tests.recipes import assert_recipe

LLAMA, MISTRAL, PHI = (
    "meta-llama/Meta-Llama-3-8B-Instruct",
    "mistralai/Mistral-7B-Instruct-v0.2",
    "microsoft/Phi-3-mini-4k-instruct",
)
PROMPT = {
    "framed": True,
    "system": True,
    "words": "one",
    "lowercase": True,
    "prefilled": True,
    "chat": None,
    "literal_backslash_n": False,
}
BEIR = [
    "trec-covid",
    "nfcorpus",
    "nq",
    "hotpotqa",
    "fiqa",
    "arguana",
    "webis-touche2020",
    "quora",
    "dbpedia-entity",
    "scidocs",
    "fever",
    "climate-fever",
    "scifact",
]
ZERO_SHOT = {
    "model.weights": "bfloat16",
    "model.representation.weights": "logits",
    "instruct.steps": 0,
    "method.supervised": False,
    "eval.alphas": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "eval.beir": [f"beir/{name}" for name in BEIR],
}
# what test_experiment.py has of `paper`
STATED = {
    "model.pretrained": LLAMA,
    "model.prompt": PROMPT,
    "model.representation.kind": "first_token",
    "model.representation.normalize": True,
    "model.representation.most": 128,
    "model.representation.expansion": 0,
    "model.representation.query_length": 512,
    "model.representation.passage_length": 512,
    "eval.alpha": 0.5,
    "eval.depth": 1000,
    "eval.remove_query": True,
    "eval.batch_size": 64,
}
OTHER = ZERO_SHOT | STATED
ANSWER = {k: v for k, v in OTHER.items() if k not in ("model.prompt", "model.representation.kind")}
ANSWER |= {"model.representation.max_tokens": 10}
TUNED = OTHER | {
    "method.supervised": True,
    "method.lora_rank": 8,
    "method.lora_alpha": 64.0,
    "method.lora_dropout": 0.1,
    "method.lora_targets": "q_proj,k_proj,v_proj,o_proj,down_proj,up_proj,gate_proj",
    "method.grad_checkpointing": True,
    "method.gather": True,
    "optim.name": "adamw",
    "trainer.precision": "bf16-mixed",
}


def row(pretrained: str | None = None, **prompt: Any) -> dict[str, Any]:
    """A row of the table: another model, or the prompt without one of its parts."""
    return {"pretrained": pretrained, "prompt": PROMPT | prompt, "kind": "first_token"}


RECIPES = {
    "paper": ZERO_SHOT,
    "paper_70b": OTHER | {"model.pretrained": "meta-llama/Meta-Llama-3-70B-Instruct"},
    "paper_mistral": OTHER | {"model.pretrained": MISTRAL},
    "paper_phi3": OTHER | {"model.pretrained": PHI},
    "paper_first_word": ANSWER,
    "paper_multi_token": ANSWER,
    "paper_multi_token_multi": ANSWER,
    "paper_multi_word_multi": ANSWER,
    "paper_msmarco": {
        k: v for k, v in OTHER.items() if k not in ("eval.beir", "eval.remove_query")
    },
    "paper_released_prompts": OTHER | {"model.prompt": PROMPT | {"literal_backslash_n": True}},
    "paper_prompts": OTHER
    | {
        "eval.beir": ["beir/nfcorpus", "beir/scifact", "beir/fiqa"],
        "eval.rows": {
            "any_words": row(words="free"),
            "any_case": row(lowercase=False),
            "no_opening": row(prefilled=False),
            "no_system": row(system=False),
            "no_prompt": row(framed=False),
            "base_model": row("meta-llama/Meta-Llama-3-8B", chat=False),
            "phi3": row(PHI),
            "mistral": row(MISTRAL),
        },
    },
    "paper_supervised": TUNED,
    "paper_supervised_dense": TUNED
    | {
        "data.batch_size": 8,
        "data.group_size": 16,
        "data.query_length": 32,
        "data.passage_length": 156,
        "method.temperature": 0.01,
        "optim.lr": 1e-4,
        "optim.schedule": "linear",
        "trainer.max_epochs": 1.0,
        "trainer.devices": 4,
        "trainer.accumulate_grad_batches": 4,
    },
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """The sheet's table, of the release's commands; what test_experiment.py pins is left out."""
    assert_recipe("promptreps", name, RECIPES[name])
