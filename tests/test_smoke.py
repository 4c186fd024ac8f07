"""For each project: train, evaluate, export, reload, compare; and what the commands promise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import main
from common.config import ROOT
from common.distributed.process import rank
from common.engine.run import train
from common.registry import list_projects
from tests import cards
from tests.schedule import users_of_the_pool

# One project of each family also trains in two processes: the one that does most of its own there.
# Equal losses, gradients and weights are tested for every project in its own folder.
FAMILIES = {
    "sentences": "debcse",  # mines before it trains, ranks wait for each other
    "images": "dcl",  # queue and support set of all ranks
    "image_text": "laclip",
    "classification": "peft_augmentation",
    "retrieval": "nv_embed",  # batches are made for all ranks together
    "speech": "coconut",  # several stages, replay
    "lidar": "trend",
}


TIMED = re.compile("seconds|speedup|break_even|per_second")
# the head is no part of the export, and the evaluation has a new one in its place
NOT_EXPORTED = {("whitenedcse", "head_stsb_test_spearman")}


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    base = [sys.executable, "-m", "common.cli", *words]
    return subprocess.run(base, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("project", list_projects())
def test_smoke(project, tmp_path, monkeypatch):
    """Training to reloading; then the examples of the project's card on what was exported."""
    from common.engine.verbs import smoke_one

    assert smoke_one(project, tmp_path) <= 1e-5
    (run,) = [p.parent for p in tmp_path.glob(f"{project}/smoke/*/meta.json")]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics
    (told,) = (json.loads(p.read_text()) for p in run.parent.glob("*eval-*/metrics.json"))
    other = {  # an export says what its run said, or leaves it out
        name: (metrics[name], told[name])
        for name in metrics.keys() & told.keys()
        if not TIMED.search(name)
        and (project, name) not in NOT_EXPORTED
        and told[name] != pytest.approx(metrics[name], rel=1e-3, abs=1e-5)
    }
    assert not other
    assert metrics.keys() & told.keys()
    loss = [r for r in (run / "metrics.csv").read_text().splitlines() if ",train/loss," in r]
    assert loss
    monkeypatch.chdir(tmp_path)
    cards.at_hand(tmp_path)
    examples = cards.snippets(project)
    assert examples
    for code in examples:
        cards.run_snippet(code, project, run / "export")


def test_every_example_of_a_card_is_run_somewhere():
    for (project, number), where in cards.ELSEWHERE.items():
        card = (ROOT / "projects" / project / "README.md").read_text(encoding="utf-8")
        assert len(cards.BLOCK.findall(card)) > number
        path = where.partition(":")[0]
        if path != "nowhere":
            assert "python" in (ROOT / path).read_text(encoding="utf-8")


def test_an_example_that_names_another_folder_is_not_taken(tmp_path):
    with pytest.raises(AssertionError, match="runs/dcl"):
        cards.run_snippet("load('somewhere')", "dcl", tmp_path)
    with pytest.raises(AssertionError):
        cards.run_snippet("load('runs/cacr/mini/<id>/export')", "dcl", tmp_path)


def train_as_rank(project: str, folder: Path) -> str:
    """Runs on every rank of the pool, as torchrun would start it; returns the run folder."""
    place = {"RANK": rank(), "LOCAL_RANK": rank(), "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    external = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    os.environ.update({name: str(value) for name, value in {**place, **external}.items()})
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "tracking.wandb=disabled"]
    try:
        return str(train(project, "smoke", [f"runs_dir={folder}", *two]))
    finally:
        for name in (*place, *external):
            os.environ.pop(name)


def test_every_family_has_a_two_process_smoke_and_every_project_a_test_in_the_pool():
    families = {
        p.name for p in (ROOT / "common/families").iterdir() if (p / "__init__.py").exists()
    }
    assert families
    assert families <= FAMILIES.keys()
    for project in list_projects():
        files = list((ROOT / "tests/projects" / project).glob("test_*.py"))
        pooled = any(n.startswith("test_") for f in files for n in users_of_the_pool(f))
        assert pooled, f"no test in tests/projects/{project} takes `two_ranks`: two processes = one"


@pytest.mark.parametrize("project", FAMILIES.values())
def test_smoke_with_two_processes_has_one_run_folder(project, tmp_path, pool):
    first, second = pool(2).run(train_as_rank, project=project, folder=tmp_path)
    assert first == second
    (meta,) = tmp_path.glob(f"{project}/smoke/*/meta.json")
    assert json.loads(meta.read_text())["world_size"] == 2
    assert (meta.parent / "metrics.json").exists()


def test_list_names_all_projects():
    done = cli("list")
    assert done.returncode == 0
    assert all(project in done.stdout for project in list_projects())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "laclp"], "did you mean 'laclip'"),
        (["train", "laclip", "smok"], "did you mean 'smoke'"),
        (["train"], "name a project"),
        (["run", "laclip", "smoke"], "name a task"),
        (["train", "laclip", "smoke", "extra"], "override"),
    ],
)
def test_wrong_words_end_with_code_2(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err
