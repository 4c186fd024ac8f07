"""SEARLE's two stages and LinCIR's noise by hand; when images are inverted, and what that costs."""

import json
import math
import tarfile
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from common.config import UserError
from common.engine.run import train
from projects.rtd import stages
from projects.rtd.composer import Composer
from projects.rtd.data import Inverted
from projects.rtd.hosts import HOSTS, LinCIR, Searle
from projects.rtd.module import RTD
from projects.rtd.oti import Phrases, invert, nearest_concepts
from tests.projects.rtd.conftest import config
from tests.projects.rtd.workers import inverted_rows

STEPS = ["phi.host=searle", "phi.dropout=0.0"]


def still(*words: str) -> tuple[object, Composer]:
    """A config and its composer, which learns nothing."""
    cfg = config(*STEPS, *words)
    torch.manual_seed(0)
    composer = stages.composer_of(cfg)
    composer.freeze(phi=False, student=False)
    return cfg, composer


def test_item_14_the_distillation_is_nt_xent_at_its_temperature():
    """Checklist 14: every vector of both sides against all others, cosines over .25."""
    cfg, composer = still()
    images = torch.randn(3, 32)
    tokens = torch.randn(3, 32)
    data = Inverted(images, tokens, torch.zeros(3, 1).long(), Phrases(["cat"]), composer.tokens, 0)
    actual = Searle(cfg, composer).losses(data[[(i, 0) for i in range(3)]])["distil"]
    both = F.normalize(torch.cat([tokens, composer.phi(images)]), dim=1)
    scores = (both @ both.T / 0.25).fill_diagonal_(-math.inf)
    torch.testing.assert_close(actual, F.cross_entropy(scores, torch.arange(6).roll(3)))


class Scripted:
    """In place of phrases: the same one for every draw."""

    def draw(self, place: int, rng: object) -> tuple[str, str]:
        assert place == 1
        return "a dog on a mat", "a $ on a mat"


FILES = ["data.source=files", "data.triplets=t.json", "phi.host=pic2word", "eval.validate=false"]


def picture_shards(folder: Path, count: int) -> None:
    """Two shards of `count` pictures, and the same pictures in a folder."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i in range(shard, count, 2):
                path = folder / f"pictures/{i:03d}.png"
                Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(path)
                tar.add(path, path.name)


def test_pic2word_reads_shards_as_it_reads_a_folder(tmp_path):
    """The same pixels of every picture; a stream goes on at the batch where it stopped."""
    picture_shards(tmp_path, 8)
    words = [*FILES, f"data.root={tmp_path}", "phi.batch_size=4", "data.num_workers=0"]

    def data(images):
        cfg = config(*words, f"data.images={images}")
        return stages.host_data(cfg, HOSTS["pic2word"](cfg, stages.composer_of(cfg))).train_set

    folder = data("pictures")[[(i, 0) for i in range(8)]]["images"]
    stream = data("{0..1}.tar")
    first, second, third = islice(stream, 3)
    for batch in (first, second):
        for image, key in zip(batch["images"], batch["keys"], strict=True):
            assert torch.equal(image, folder[int(key)])
    assert sorted(first["keys"] + second["keys"]) == [f"{i:03d}" for i in range(8)]
    stream.start_at(2)
    assert next(iter(stream))["keys"] == third["keys"]


def test_pic2word_trains_on_shards_and_searle_refuses_them(tmp_path):
    picture_shards(tmp_path, 8)
    triplet = {f"{name}_caption": f"a {name}" for name in ("reference", "conditioning", "target")}
    (tmp_path / "t.json").write_text(json.dumps([triplet] * 8))
    words = [f"data.root={tmp_path}", "data.images={0..1}.tar", "rtd.enabled=false"]
    with pytest.raises(UserError, match="nothing to evaluate"):  # after the fit: no official set
        train("rtd", "smoke", [*FILES, *words, f"runs_dir={tmp_path}/runs", "phi.steps=2"])
    assert list(tmp_path.glob("runs/rtd/smoke/*/checkpoints/host/step-00000002.ckpt"))
    with pytest.raises(UserError, match="searle inverts every image.*unpack the shards"):
        config(*FILES, *words, "phi.host=searle")


def test_item_14_inversion_steps_by_hand(monkeypatch):
    """Checklist 14: image term + .5 phrase term, AdamW, and the mean of the tokens is what
    counts."""
    words = ["phi.searle.steps=2", "phi.searle.ema_decay=0.75", "phi.searle.weight_decay=0.1"]
    cfg, composer = still(*words)
    monkeypatch.setattr("projects.rtd.oti.TEMPLATES", ("a photo of {}",))
    images, own = torch.randn(2, 32), cfg.phi.searle
    near = torch.ones(2, 1).long()
    with monkeypatch.context() as first:  # a step of a vanishing rate leaves the start
        first.setattr(own, "steps", 1)
        first.setattr(own, "lr", 1e-30)
        start = invert(composer, images, near, Scripted(), own, 0)
    token = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([token], lr=0.02, weight_decay=0.1)
    sentence, whole, hidden = (
        composer.tokens([text] * 2) for text in ("a photo of $", "a dog on a mat", "a $ on a mat")
    )
    mean = start
    for _ in range(2):
        near_image = 1 - F.cosine_similarity(composer.anchor(sentence, token), images).mean()
        word = (
            1 - F.cosine_similarity(composer.anchor(hidden, token), composer.anchor(whole)).mean()
        )
        optimizer.zero_grad()
        (near_image + 0.5 * word).backward()
        optimizer.step()
        mean = 0.75 * mean + 0.25 * token.detach()
    torch.testing.assert_close(
        invert(composer, images, near, Scripted(), own, 0), mean, rtol=1e-4, atol=1e-5
    )


def test_item_14_near_concepts_are_those_whose_sentence_is_nearest():
    """Checklist 14: an image that is a concept's own sentence finds it first, its opposite last."""
    _, composer = still()
    phrases = Phrases(["cat", "dog", "red box"])
    texts = composer.anchor(composer.tokens([f"a photo of {c}" for c in phrases.concepts]))
    for size in (2, 256):
        nearest = nearest_concepts(composer, 3 * texts, phrases, 1, batch_size=size)
        assert nearest.tolist() == [[0], [1], [2]]
    order = nearest_concepts(composer, texts[:1], phrases, 9)
    cosines = F.cosine_similarity(texts[:1], texts)[order[0]]
    assert len(order[0]) == 3
    assert all(a >= b for a, b in pairwise(cosines.tolist()))


def test_item_14_noise_of_the_host_lincir_has_its_scale():
    """Checklist 14: half of it reaches phi with phi.noise_scale=.5."""
    cfg = config("phi.dropout=0.0", "phi.noise_scale=0.5")
    torch.manual_seed(0)
    composer = stages.composer_of(cfg)
    host = LinCIR(cfg, composer)
    batch = stages.host_data(cfg, host).train_set[[(i, 0) for i in range(3)]]
    whole = composer.anchor(batch["caption"])
    hidden = composer.anchor(batch["hidden"], composer.phi(whole + batch["noise"] / 2))
    torch.testing.assert_close(host.losses(batch)["loss"], F.mse_loss(hidden, whole))


@pytest.mark.slow
def test_images_are_inverted_when_phi_is_fitted_and_not_on_a_later_resume(tmp_path, monkeypatch):
    """Checklist 16: the time of the inversion is the host's; a finished host needs no tokens
    again."""
    calls: list[int] = []
    spent: list[dict[str, float]] = []

    def counted(composer, images, *rest):
        calls.append(len(images))
        return torch.zeros(len(images), 32)

    class Clock:
        perf_counter = staticmethod(lambda: 1000.0 * len(calls))

    monkeypatch.setattr(stages, "invert", counted)
    monkeypatch.setattr(stages, "time", Clock)
    monkeypatch.setattr(RTD, "on_train_end", lambda self: spent.append(dict(self.seconds)))
    words = [
        f"runs_dir={tmp_path}",
        "run_id=r",
        "trainer.max_steps=1",
        "phi.steps=1",
        "phi.host=searle",
    ]
    run = train("rtd", "smoke", words)
    for path in (run / "checkpoints/rtd").iterdir():
        path.unlink()
    train("rtd", "smoke", [*words, "resume=r"])
    assert calls == [64]
    assert 1000 < spent[0]["phi"] < 1100
    assert "phi" not in spent[1]


def test_two_processes_share_the_images(two_ranks):
    """Each inverts blocks of its own; all have every token, as one process has."""
    first, second = two_ranks.run(inverted_rows, rows=5)
    assert first[1] + second[1] == 3
    assert max(first[1], second[1]) == 2
    alone, blocks = inverted_rows(5)
    assert blocks == 3
    for tokens in (first[0], second[0]):
        torch.testing.assert_close(tokens, alone, rtol=1e-5, atol=1e-6)
