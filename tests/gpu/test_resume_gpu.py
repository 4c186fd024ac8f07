"""On a CUDA device a run that goes on equals one that was not stopped, bit for bit."""

import pytest
import torch

from common.engine.run import train
from tests.interrupted import assert_killed, die_after_checkpoint, final_state, same

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
STAGE = "train"


def run_and_die(project: str, words: list[str]) -> None:
    die_after_checkpoint(STAGE, 2)
    train(project, "smoke", words)


@pytest.mark.parametrize("project", ["dcl", "laclip"])
def test_resume_on_the_device(tmp_path, project):
    words = [
        f"runs_dir={tmp_path}",
        "tracking.wandb=disabled",
        "trainer.accelerator=gpu",
        "trainer.devices=1",
        "trainer.deterministic=true",
        "trainer.checkpoint_every_n_steps=2",
        "trainer.max_steps=4",
    ]
    whole = train(project, "smoke", [*words, "run_id=whole"])
    assert_killed(run_and_die, project, [*words, "run_id=cut"])
    cut = train(project, "smoke", [*words, "resume=cut"])
    assert same(final_state(whole, STAGE), final_state(cut, STAGE))
    other = train(project, "smoke", [*words, "run_id=other", "seed=1"])
    assert not same(final_state(whole, STAGE), final_state(other, STAGE))
