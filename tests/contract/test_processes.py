"""Two processes train what one does, in one run folder."""

import importlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from common.config import ROOT
from common.engine.run import train
from tests.contract.projects import FAMILIES, PROJECTS, QUICK
from tests.distributed.equal import assert_ranks_equal_one
from tests.distributed.launched import as_torchrun
from tests.projects.clip_baselines.conftest import words_of
from tests.projects.coconut.conftest import ER
from tests.projects.moe_embeddings.conftest import ROUTED
from tests.projects.sepclr.conftest import SUPERVISED


class Case(NamedTuple):
    """What of a project is compared: all that a function of its ``workers.py`` returns.

    Attributes:
        rtol: relative tolerance; wide where the steps are in single precision.
        atol: absolute tolerance.
        settings: of that function.
        function: takes steps of SGD on a global batch that the ranks share out; returns weights
            and buffers, of some projects also losses and gradients.
        equal_nan: whether a buffer has entries that are no number yet.
    """

    rtol: float
    atol: float
    settings: Mapping[str, Any] = MappingProxyType({})
    function: str = "three_steps"
    equal_nan: bool = False


DOUBLE, SINGLE = (1e-9, 1e-11), (1e-4, 1e-5)
CASES = {
    "b_prop": [
        # pairs are shared out whole, with unequal numbers of masked words
        Case(1e-8, 1e-10, {"words": words}, "two_steps")
        for words in [(), ("method.rop=false",)]
    ],
    "cacr": [
        Case(1e-10, 1e-12, {"host": host, "words": words, "synced": synced})
        for host, words, synced in [
            ("batch", (), False),
            ("batch", ("method.weighting=none",), False),
            ("queue", (), False),
            ("queue", ("method.weighting=none",), False),
            ("queue", ("method.loss=infonce",), False),
            ("momentum", (), False),
            ("momentum", (), True),
        ]
    ],
    "ccp": [
        Case(1e-8, 1e-10, {"kind": kind}, "steps") for kind in ("asymmetric", "plain", "finetune")
    ],
    "clip_baselines": [
        # swalip holds CL2L too; siamlip and byolip gather nothing of their own
        Case(1e-6, 1e-8, {"words": [*words_of(m), "method.gather_grad=true"]}, "two_steps")
        for m in ("barlip", "swalip")
    ],
    "close": [Case(*SINGLE)],
    "coconut": [
        # all memory samples are on one rank, targets are of unequal length
        Case(1e-7, 1e-9, {"overrides": overrides}, "two_steps", equal_nan=True)
        for overrides in [
            [],
            ["method.design=ntpt", "method.anchors=all", "method.mm_rows=all"],
            ["method.distillation=audio"],
            ["method.distillation=sequence"],
            ["method.distillation=token"],
            [*ER, "method.distillation=token_all"],
        ]
    ],
    "cocosoda": [Case(*DOUBLE, {"stage": stage}) for stage in ("pretrain", "momentum", "finetune")],
    "contrastive_search": [Case(1e-9, 1e-10)],
    "contriever": [Case(*DOUBLE, {"objective": o}) for o in ("moco", "in_batch", "finetune")],
    "cosmo": [Case(*SINGLE, {"gather": gather}, equal_nan=True) for gather in ("all", "node")],
    "cwcl": [Case(1e-8, 1e-10, {}, "two_steps")],
    "dcl": [
        *(
            Case(1e-10, 1e-12, {"host": host, "synced": synced})
            for host, synced in [("moco", False), ("nnclr", False), ("moco", True)]
        ),
        Case(1e-5, 1e-6, {}, "linear_steps"),
    ],
    "debcse": [Case(*DOUBLE, equal_nan=True)],
    "defsent_plus": [Case(*DOUBLE, equal_nan=True)],
    "demo_retrieval": [Case(*SINGLE)],
    "dito": [
        Case(1e-5, 1e-6, {"stage": stage, "words": words})
        for stage, words in [
            ("image", []),
            ("region", []),
            ("region", ["method.loss=focal"]),
            ("detect", []),
        ]
    ],
    "dse": [Case(1e-7, 1e-9)],
    "esimcse": [Case(*DOUBLE, {"decay": decay}) for decay in (0.9, 0.0)],
    "hydra": [
        Case(*DOUBLE, {"overrides": overrides})
        for overrides in [
            [],
            ["data.views=2", "method.learn_temperature=true"],
            ["method.renormalise_after_gate=true"],
        ]
    ],
    "lol": [Case(1e-9, 1e-10, {"kind": kind}) for kind in ("lora", "full")],
    "mirror_bert": [Case(1e-8, 1e-10)],
    "moe_embeddings": [
        # an expert may have no document on a rank, or on both
        Case(*DOUBLE, {"words": words}, "two_steps")
        for words in [[], *ROUTED.values()]
    ],
    "mofi": [
        Case(1e-6, 1e-9, {"words": words})
        for words in [["method.sampled=7"], ["method.recipe=contrastive"]]
    ],
    "one_to_k": [
        # of the contrast: matching and masked words are local by design
        Case(*DOUBLE, {"objective": objective})
        for objective in ("one_to_k", "random_language", "pivot", "finetune")
    ],
    "peft_augmentation": [Case(1e-7, 1e-9)],
    "promptreps": [
        Case(1e-8, 1e-10, {"stage": stage}, "two_steps") for stage in ("supervised", "answer")
    ],
    "rankgen": [
        Case(1e-8, 1e-10, {"overrides": [f"method.negatives={negatives}"]})
        for negatives in ("both", "generative", "inbook")
    ],
    "rtd": [Case(1e-7, 1e-9)],
    "sepclr": [
        # the two sets lie unevenly on the ranks
        Case(*DOUBLE, {"overrides": [*words, "model.common_dim=8"]})
        for words in (
            ["method.leakage=kjem"],
            ["method.leakage=vclub"],
            ["method.objective=simclr"],
            SUPERVISED,
        )
    ],
    "space2": [Case(1e-6, 1e-8)],
    "trend": [Case(*DOUBLE, {"overrides": []})],
    "vacancysbert": [
        # duplicates are found across the ranks
        Case(1e-7, 1e-10, {"objective": objective}, "two_steps")
        for objective in ("pairs", "skills")
    ],
    "vega": [Case(1e-5, 1e-6, {}, "two_steps")],
    "video_qa": [
        # the ranks have unequal numbers of annotated spans
        Case(1e-5, 1e-12, {"phase": phase}, "two_steps")
        for phase in ("main", "pretrain")
    ],
    "wikides": [Case(*DOUBLE, {"phase": phase}, "two_steps") for phase in ("rank", "describe")],
}
ELSEWHERE = {  # compared in another way, in tests/projects
    "laclip": "the gathered loss has golden values of two ranks",
    "mclrec": "several steps a batch, which the trainer takes",
    "multicsr": "loss and gradient: a mask model chooses the negatives",
    "nv_embed": "sharded: batches are made for all ranks together",
    "simcse": "the gradient is the global one divided by the number of ranks, as released",
    "whitenedcse": "losses of every rank are no global mean",
}


@pytest.mark.parametrize(
    ("project", "case"),
    [
        pytest.param(
            project,
            case,
            id=f"{project}-{number}",
            marks=pytest.mark.slow if number or project not in QUICK else (),
        )
        for project, cases in CASES.items()
        for number, case in enumerate(cases)
    ],
)
def test_two_processes_train_what_one_does(project, case, two_ranks, tmp_path):
    module = importlib.import_module(f"tests.projects.{project}.workers")
    settings = dict(case.settings)
    if project == "defsent_plus":
        settings["folder"] = str(tmp_path)
    whole = assert_ranks_equal_one(
        two_ranks,
        getattr(module, case.function),
        rtol=case.rtol,
        atol=case.atol,
        equal_nan=case.equal_nan,
        **settings,
    )
    assert whole


def test_every_project_is_compared():
    tests = (ROOT / "tests/projects").glob("*/test_two_processes.py")  # of a skeleton
    assert CASES.keys() | ELSEWHERE.keys() | {path.parent.name for path in tests} == set(PROJECTS)
    assert not CASES.keys() & ELSEWHERE.keys()


def train_as_rank(project, folder):
    """Runs on every rank of the pool, as torchrun would start it; returns the run folder."""
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "tracking.wandb=disabled"]
    with as_torchrun():
        return str(train(project, "smoke", [f"runs_dir={folder}", *two]))


@pytest.mark.slow
@pytest.mark.parametrize("project", FAMILIES.values())
def test_two_processes_have_one_run_folder(project, tmp_path, two_ranks):
    first, second = two_ranks.run(train_as_rank, project=project, folder=tmp_path)
    assert first == second
    (meta,) = tmp_path.glob(f"{project}/smoke/*/meta.json")
    assert json.loads(meta.read_text())["world_size"] == 2
    assert (meta.parent / "metrics.json").exists()
