"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

NONE = {"refocus": "none"}
METHODS = {
    "lol": {
        "amateur": "trained",
        "lambda_final": 1.0,
        "lambda_lower": 1.0,
        "beta": 1.0,
        "omega": 0.2,
        "rho_refocus": 0.5,
        "layers": "dola_high",
        "layer_choice": "dynamic_jsd",
        "early_exit_norm": False,
        "refocus": "prompt_contrast",
    },
    "greedy": NONE | {"amateur": "none", "lambda_final": 0.0, "beta": 1.0, "omega": 0.0},
    "dola": NONE | {"amateur": "lower_layer", "omega": 0.0},
    "icd_prompt": NONE | {"amateur": "prompt", "lambda_final": 1.0, "beta": 1.0, "omega": 0.0},
    "icd": NONE | {"amateur": "trained", "lambda_final": 1.0, "beta": 1.0, "omega": 0.0},
    "lower": NONE | {"lambda_lower": 1.0, "beta": 0.0},
    "fused": NONE | {"lambda_final": 1.0, "lambda_lower": 1.0, "beta": 1.0, "omega": 0.2},
    "icd_refocus": {"beta": 1.0, "omega": 0.0, "rho_refocus": 0.5, "refocus": "prompt_contrast"},
    "instruct_original": {"omega": 0.2, "refocus": "instruct_original"},
    "keyword_emphasis": {"omega": 0.2, "rho_refocus": 0.5, "refocus": "keyword_emphasis"},
    "pli_low": {"layers": "pli_low", "layer_choice": "dynamic_jsd"},
    "pli_mid": {"layers": "pli_mid", "layer_choice": "dynamic_jsd"},
    "pli_high": {"layers": "pli_high", "layer_choice": "dynamic_jsd"},
    "norm": {"early_exit_norm": True},
}
for layer in (4, 8, 16, 24, 28):
    METHODS[f"static_{layer}"] = {
        "layers": "list",
        "layer_list": [layer],
        "layer_choice": "static",
        "omega": 0.2,
    }
SHARED = {
    "data.source": "file",
    "data.limit": 10000,
    "data.length": 1024,  # ours
    "data.batch_size": 8,
    "model.pretrained": "meta-llama/Llama-2-7b-chat-hf",
    "amateur.kind": "lora",
    "amateur.rank": 8,
    "amateur.alpha": 16.0,
    "amateur.targets": ["q_proj", "v_proj"],
    "amateur.prompt": "question",
    "optim.name": "adamw",
    "optim.lr": 5e-4,
    "optim.schedule": "cosine",
    "trainer.max_epochs": 5,
    "trainer.max_steps": None,
    "trainer.accumulate_grad_batches": 8,  # 64 in all
    "trainer.precision": "bf16-true",
    "eval.limit": None,
} | {f"methods.{name}.{key}": x for name, own in METHODS.items() for key, x in own.items()}
TRUTHFULQA = SHARED | {
    "prompt.demonstrations": "own",
    "prompt.chat": True,
    "eval.source": "truthfulqa",
    "generate.method": "generation",
    "generate.new_tokens": 50,
    "generate.decoder.strategy": "nucleus",
    "generate.decoder.top_p": 0.95,
    "generate.decoder.temperature": 0.9,
    "generate.decoder.repetition_penalty": 1.0,
    "methods.generation.omega": 0.2,
    "methods.generation.rho_refocus": 0.5,
}
METHODS_OF_THE_GRID = [
    "lol",
    "greedy",
    "dola",
    "icd_prompt",
    "icd",
    "lower",
    "fused",
    "icd_refocus",
]
REASONING = SHARED | {
    "generate.method": "generation",
    "generate.new_tokens": 256,
    "generate.decoder.strategy": "greedy",  # DoLa's runner without --do_sample
}
LOW = {
    "methods.dola.layers": "dola_low",
    "methods.generation_dola.layers": "dola_low",
}  # DoLa's commands
RECIPES = {
    "paper": TRUTHFULQA | {"eval.methods": METHODS_OF_THE_GRID, "methods.dola.layers": "dola_high"},
    "paper_cd": TRUTHFULQA
    | {
        "model.pretrained": "meta-llama/Llama-2-13b-chat-hf",
        "model.small": "meta-llama/Llama-2-7b-chat-hf",
        "amateur.kind": "none",
        "methods.cd.amateur": "small",
        "methods.cd.omega": 0.0,
        "methods.cd.refocus": "none",
        "methods.cd.alpha_plausibility": 0.0,
        "eval.methods": ["cd", "greedy"],
    },
    "paper_factor": SHARED
    | LOW
    | {
        "prompt.chat": False,
        "eval.source": "factor",
        "eval.methods": METHODS_OF_THE_GRID,
    },
    "paper_full": TRUTHFULQA
    | {
        "data.batch_size": 1,
        "trainer.accumulate_grad_batches": 64,
        "amateur.kind": "full",
        "optim.lr": 2e-5,
        "eval.methods": METHODS_OF_THE_GRID,
    },
    "paper_gsm8k": REASONING | LOW | {"generate.file": "grade_school_math/data/test.jsonl"},
    "paper_reasoning": REASONING | LOW | {"generate.file": "strategyqa_train.json"},
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """ICD's amateur and decoding, the sheet's defaults; test_experiment has the plausibility."""
    assert_recipe("lol", name, RECIPES[name])
