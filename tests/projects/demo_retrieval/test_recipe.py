"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.meta": ["unifiedqa/*", "crossfit/*"],
    "data.bank": ["unifiedqa/*"],
    "data.bank_file": None,
    "data.bank_targets": False,
    "data.exclude_eval_tasks": True,
    "data.qa_shots": 128,
    "data.shots": 16,
    "data.dev_shots": 16,
    "data.split_seed": 42,
    "data.task_cap": 10_000,
    "data.mixing": "proportional",
    "data.batch_size": 8,
    "data.max_demo": 350,
    "data.max_target": 128,
    "data.demo_answers": True,
    "model.pretrained": "facebook/bart-large",
    "model.encoder": None,
    "retriever.question": "facebook/dpr-question_encoder-single-nq-base",
    "retriever.context": "facebook/dpr-ctx_encoder-single-nq-base",
    "retriever.key": "full",
    "retriever.train_question_encoder": False,
    "method.selection": "retrieved",
    "method.reduction": "tokens",
    "meta": True,
    "denoise.max_steps": 0,
    "optim.name": "adamw",
    "optim.lr": 1e-5,
    "optim.warmup_steps": 1000,
    "trainer.max_steps": 100_000,
    "trainer.accumulate_grad_batches": 5,
    "trainer.devices": 1,
    "trainer.precision": "bf16-mixed",
    "finetune.lr": 2e-5,
    "eval.split": "test",
    "eval.gold": False,
    "eval.num_beams": 1,
    "eval.max_new_tokens": 35,
}
TARGETS = {
    "paper": "mrqa/squad",
    "paper_mnli": "crossfit/glue-mnli",
    "paper_mrpc": "crossfit/glue-mrpc",
    "paper_qnli": "crossfit/glue-qnli",
    "paper_trec": "crossfit/trec",
}
RECIPES = {name: SHARED | {"data.targets": [target]} for name, target in TARGETS.items()}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """Rates, batches and lengths of FewshotQA and UnifiedQA, a frozen DPR, the bank of the note."""
    assert_recipe("demo_retrieval", name, RECIPES[name])
