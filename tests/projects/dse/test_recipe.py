"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from common.config import to_dict
from projects.dse.table import PLAIN, STUDENT, TEACHER, arm_name
from tests.projects.dse.conftest import config
from tests.recipes import assert_recipe

WEIGHTS = "bert-large-uncased-whole-word-masking"
SHARED = {
    "train": "student",
    "data.batch_size": 16,
    "data.max_length": 128,
    "teacher.pretrained": WEIGHTS,
    "teacher.max_length": 128,
    "teacher.batch_size": 16,
    "teacher.accumulate": 2,
    "teacher.epochs": 3.0,
    "teacher.lr": 2e-5,
    "teacher.warmup_share": 0.1,
    "teacher.weight_decay": 0.01,
    "teacher.score_batch_size": 256,
    "student.encoder": WEIGHTS,
    "student.freeze": False,
    "student.projection_dim": None,
    "student.pool.use_cls": False,
    "student.pool.sqrt_len": False,
    "student.pool.dropout": 0.1,
    "student.head.kind": "concat",
    "distill.scores": None,
    "optim.name": "adamw",
    "optim.lr": 2e-5,
    "optim.weight_decay": 0.01,
    "optim.eps": 1e-6,
    "optim.schedule": "linear",
    "optim.final_lr": 0.0,
    "trainer.max_epochs": 5,
    "trainer.accumulate_grad_batches": 2,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "32-true",
    "trainer.keep_checkpoints": 2,
    "eval.thresholds": [0.5],
    "eval.batch_size": 128,
    "seed": 42,
}
# what `test_training` asserts of some configs, for the others
OTHERS = SHARED | {
    "student.pool.kind": "concat_top_mean",
    "student.pool.top_layers": 4,
    "student.head.dims": [512],
    "distill.alpha": 0.5,
    "optim.warmup_epochs": 0.5,
    "eval.parts": ["dev"],
}
MRPC = {"trainer.max_epochs": 8}
EPOCH = {"data.task": "mrpc", "optim.warmup_epochs": 0.8, "trainer.val_every_n_steps": 114}
VARIANT = OTHERS | MRPC | EPOCH
# a baseline has no teacher; of a frozen encoder the head alone is trained, its rate is ours
FROZEN = {key: value for key, value in VARIANT.items() if key != "optim.lr"} | {
    "student.freeze": True,
    "distill.alpha": 0.0,
}
RECIPES = {
    "paper": SHARED,
    "paper_allnli": SHARED
    | {"eval.transfer": ["MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC"]},
    "paper_qnli": OTHERS | {"data.task": "qnli"},
    "paper_qqp": OTHERS | {"data.task": "qqp"},
    "paper_snli": OTHERS | {"data.task": "snli", "eval.parts": ["dev", "test"]},
    "paper_stsb": SHARED,
    "paper_stsb_dot": OTHERS
    | {
        "data.task": "sts-b",
        "student.head.kind": "dot",
        "student.head.dims": [],
        "trainer.val_every_n_steps": 179,
    },
    "paper_mrpc": SHARED | MRPC,
    "paper_mrpc_as_released": VARIANT
    | {
        "optim.name": "bertadam",
        "optim.warmup_epochs": 1.6,
        "optim.final_lr": 1.1111111e-5,  # half way: 2e-5 * (1 - 0.5) / (1 - 0.1)
        "trainer.gradient_clip_val": None,
    },
    "paper_mrpc_alpha_0": VARIANT | {"distill.alpha": 0.0},
    "paper_mrpc_teacher": VARIANT | {"train": "teacher"},
    "paper_mrpc_frozen": FROZEN,
    "paper_mrpc_bilstm": FROZEN | {"student.pool.kind": "bilstm"},
    "paper_mrpc_word_vectors": FROZEN | {"student.pool.kind": "word_vectors"},
}
ARMS = dict.fromkeys(RECIPES, STUDENT) | {
    "paper_stsb_dot": f"{STUDENT}, dot head",
    "paper_mrpc_alpha_0": PLAIN,
    "paper_mrpc_teacher": TEACHER,
    "paper_mrpc_frozen": "frozen encoder",
    "paper_mrpc_bilstm": "BiLSTM",
    "paper_mrpc_word_vectors": "word vectors",
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """README and defaults of the release, MRPC's own epochs; each config is the arm of its name."""
    assert_recipe("dse", name, RECIPES[name])
    assert arm_name(to_dict(config(name=name))) == ARMS[name]
