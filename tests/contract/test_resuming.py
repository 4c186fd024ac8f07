"""A run that was interrupted and goes on ends as one that was not, bit for bit."""

import json
import re
import shutil

import pytest

from common.engine import checkpoint as ckpt
from common.engine.run import train
from tests.contract.projects import PROJECTS
from tests.interrupted import same
from tests.smoke import EVERY_STEP, metrics_of

COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step")
MEASURED = re.compile("seconds|speedup|break_even|per_second|memory")  # by the clock
# what holds a state that the smoke config has not: project, config, settings
VARIANTS = [
    ("cacr", "smoke", "method.host=momentum", "method.momentum_schedule=cosine"),
    ("clip_baselines", "smoke", "method.name=byolip"),
    ("coconut", "smoke", "method.distillation=sequence"),
    ("dcl", "smoke", "method.host=moco", "eval.online_probe=true"),
    ("hydra", "smoke", "gate.type=stochastic", "method.learn_temperature=true"),
    (
        "moe_embeddings",
        "smoke",
        "model.routing=sentence",
        "method.router_loss=mutual_information",
        "method.detached_mi=true",
        "method.temperature=0.7",
        "method.learn_temperature=true",
        "method.patience=5",
    ),
    ("mclrec", "smoke", "eval.patience=5"),
    ("promptreps", "smoke", "method.lora_dropout=0.5"),
    ("sepclr", "smoke", "method.leakage=vclub"),
    ("vega", "smoke", "sift.enabled=true"),
    ("wikides", "smoke_describe"),
]
CASES = [*((project, "smoke") for project in PROJECTS), *VARIANTS]
# one of each family, of those that go on quickly
QUICK = {"simcse", "dcl", "laclip", "peft_augmentation", "contriever", "mclrec"}


def stages_of(run):
    """Checkpoint folders in the order in which they were written."""
    folders = (p.parent for p in run.glob("checkpoints/*/finished.json"))
    return sorted(folders, key=lambda p: json.loads((p / "finished.json").read_text())["stage"])


def state(path):
    content = ckpt.load(path)
    return {key: content[key] for key in COMPARED}


def final_states(run):
    """Of every stage: after the last step, and what counts, which may be the best step."""
    return {
        stage.name: {
            "last": state(ckpt.saved_checkpoints(stage)[-1]),
            "kept": state(ckpt.finished(stage)),
        }
        for stage in stages_of(run)
    }


def interrupted(run, folder, number):
    """A copy of a run as it was in the middle of a stage, and that stage's folder in it."""
    copy = folder / run.relative_to(run.parents[2])
    shutil.copytree(run, copy)
    (copy / "metrics.json").unlink()
    stage, *later = stages_of(copy)[number:]
    for path in later:
        shutil.rmtree(path)
    (stage / "finished.json").unlink()
    steps = ckpt.saved_checkpoints(stage)
    middle = ckpt.step_of(steps[(len(steps) - 1) // 2])
    assert middle < ckpt.step_of(steps[-1])
    for path in steps:
        if ckpt.step_of(path) > middle:
            path.unlink()
    best, validated = stage / "best.ckpt", stage / ckpt.VALIDATIONS
    if best.exists() and ckpt.load(best)["global_step"] > middle:
        best.unlink()
    if validated.exists():
        earlier = {k: v for k, v in ckpt.validations(stage).items() if k <= middle}
        validated.write_text(json.dumps(earlier))
    return copy, stage


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            marks=() if case[0] in QUICK and len(case) == 2 else pytest.mark.slow,
        )
        for case in CASES
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("unrendered_figures")
def test_a_run_goes_on_where_it_was_interrupted(case, smoke_runs, tmp_path):
    """Inside every stage, and before the last: weights, buffers, optimisers, callbacks, metrics."""
    project, config, *words = case
    whole = smoke_runs(*case)
    expected = final_states(whole)
    metrics = {k: v for k, v in metrics_of(whole).items() if not MEASURED.search(k)}
    stages = stages_of(whole)
    places = [(number, True) for number in range(len(stages))]
    places += [(len(stages) - 1, False)] if len(stages) > 1 else []
    for number, inside in places:
        folder = tmp_path / f"{number}-{inside}"  # no weights that an earlier resume has kept
        copy, stage = interrupted(whole, folder, number)
        if inside:
            middle = ckpt.saved_checkpoints(stage)[-1]
            assert not same(state(middle), expected[stage.name]["last"])  # the twin
        else:
            shutil.rmtree(stage)
        own = [f"runs_dir={folder}", *EVERY_STEP, *words, f"resume={whole.name}"]
        assert train(project, config, own) == copy
        assert same(final_states(copy), expected), stage.name
        again = {k: v for k, v in metrics_of(copy).items() if not MEASURED.search(k)}
        assert same(again, metrics), stage.name
        shutil.rmtree(folder)


@pytest.mark.usefixtures("unrendered_figures")
def test_another_seed_ends_otherwise(smoke_runs, tmp_path):
    """The comparison can fail."""
    other = train("simcse", "smoke", [f"runs_dir={tmp_path}", *EVERY_STEP, "seed=1"])
    assert not same(final_states(other), final_states(smoke_runs("simcse")))
