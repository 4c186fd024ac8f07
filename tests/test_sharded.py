"""FSDP2 against DDP on two processes: one project of every family trains the same weights."""

import pytest
import torch

from common.engine import checkpoint as ckpt
from tests.distributed.launched import train_on_two

PROJECTS = {  # of each family one, at its smoke config
    "images": ("dcl",),
    "image_text": ("laclip",),
    "retrieval": ("contriever", "data.batch_size=4", "finetune.batch_size=2"),
    "sentences": ("simcse",),
    "classification": ("peft_augmentation",),
    "speech": ("coconut",),
    "lidar": ("trend",),
}
WORDS = ["trainer.max_steps=3", "optim.eps=0.1", "trainer.gradient_clip_val=1.0"]  # eps: else AdamW
# turns rounding of small gradients into whole steps


def weights(folder, strategy):
    (run,) = (p.parent for p in (folder / strategy).glob("*/smoke/*/meta.json"))
    (stage, *_) = sorted((run / "checkpoints").iterdir())
    path = ckpt.finished(stage)
    assert path is not None
    return ckpt.load(path)["state_dict"]


@pytest.mark.parametrize("family", PROJECTS)
def test_shards_train_the_weights_of_copies(family, tmp_path, pool):
    slug, *own = PROJECTS[family]
    for strategy in ("ddp", "fsdp"):
        words = [f"runs_dir={tmp_path / strategy}", f"trainer.strategy={strategy}", *WORDS, *own]
        shares = pool(2).run(train_on_two, slug=slug, words=words)
        assert all((share < 0.75) == (strategy == "fsdp") for share in shares)
    copies, shards = (weights(tmp_path, strategy) for strategy in ("ddp", "fsdp"))
    assert list(copies) == list(shards)
    for name, value in copies.items():
        torch.testing.assert_close(
            shards[name], value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name
        )
