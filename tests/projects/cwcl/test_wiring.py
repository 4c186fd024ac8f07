"""What the modules hand to the objective, and the baselines (checklist 1, 3, 9)."""

import pytest
import torch

from common.engine.workspace import Workspace
from common.families.image_text.class_captions import CaptionedImages, captioned_cifar
from projects.cwcl import baselines
from projects.cwcl.locked_towers import given_part
from projects.cwcl.objective import similarity_weights
from tests.projects.cwcl.conftest import batch_of, config, dense, module_of, spoken_of

PROJECTED = ("model.projected=true", "model.embed_dim=24")
RAW, CLASSES = "method.weight_features=raw", "method.weight_mode=classes"


def same(labels):
    return (labels[:, None] == labels).float()


@pytest.mark.parametrize("words", [(), (RAW,), PROJECTED, (RAW, *PROJECTED), (CLASSES,)])
def test_items_1_3_and_9_the_loss_of_images_and_texts_written_out(words):
    """Checklist 1, 3, 9: frozen -> trained is weighted, by the tower's features before any
    projection.
    """
    module, batch = module_of(*words).eval(), batch_of()
    batch["ids"] = torch.tensor([9, 3, 0, 5, 11, 6, 2, 4])
    module.classes = torch.tensor([0, 1, 1, 0, 2, 2, 1, 0, 2, 1, 0, 1])
    with torch.no_grad():
        raw = given_part(module.encoder).tower(batch["images"])
        module.set_mean(raw.mean(0))
        centred = raw - raw.mean(0)
        frozen = module.encoder.image_proj(centred)
        trained = module.encoder.encode_text(batch["tokens"])
        actual = module.losses(batch)["loss"]
        weights = similarity_weights(raw if RAW in words else centred)
        if CLASSES in words:
            weights = same(module.classes[batch["ids"]])
        expected = sum(dense(frozen, trained, module.logit_scale(), weights))
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("words", [(), (RAW,), (CLASSES,)])
def test_items_1_3_and_9_the_loss_of_texts_and_speech_written_out(words):
    """Checklist 1, 3, 9: texts are the frozen side; with "classes" equal transcripts are
    positives."""
    module = spoken_of(*words).eval()
    raw = 1 + torch.randn(6, 12)
    batch = {
        "frozen": raw,
        "waveforms": torch.randn(6, 20),
        "lengths": torch.full((6,), 20),
        "texts": torch.tensor([3, 0, 3, 1, 2, 0]),
        "ids": torch.arange(6),
    }
    with torch.no_grad():
        module.mean.copy_(raw.mean(0))
        frozen = raw - raw.mean(0)
        trained = module.speech(batch["waveforms"], batch["lengths"])
        actual = module.losses(batch)["loss"]
        weights = similarity_weights(raw if RAW in words else frozen)
        if CLASSES in words:
            weights = same(batch["texts"])
        expected = sum(dense(frozen, trained, module.logit_scale(), weights))
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("shift", "accuracy"), [(0, 1.0), (1, 0.0)])
def test_prototypes_are_of_what_captions_name_and_not_of_labels(
    monkeypatch, tmp_path, shift, accuracy
):
    """Where all captions name the next class, every picture is taken for what such pictures were
    called.
    """
    labels = torch.arange(3).repeat(4)
    actual = CaptionedImages(
        torch.eye(3)[labels], [""] * 12, labels, (labels + shift) % 3, ["a", "b", "c"]
    )
    monkeypatch.setattr(baselines, "captioned_cifar", lambda *_: actual)
    monkeypatch.setattr(baselines, "training_data", lambda cfg, module: None)
    monkeypatch.setattr(baselines, "image_features", lambda cfg, module, images: images)
    assert baselines.noisy_prototype(config(), Workspace(tmp_path)) == {"zeroshot_top1": accuracy}


def test_the_tower_s_own_head_is_judged_by_labels(monkeypatch, tmp_path):
    """A ceiling, whatever captions say: here all of them name a wrong class."""

    def few(data, part, seed):
        actual = captioned_cifar(data, part, seed)
        assert not bool((actual.named == actual.labels).any())
        rows = slice(0, 40)
        return actual._replace(
            images=actual.images[rows], labels=actual.labels[rows], named=actual.named[rows]
        )

    monkeypatch.setattr(baselines, "captioned_cifar", few)
    monkeypatch.setattr(baselines, "training_data", lambda cfg, module: None)
    cfg = config("data.right_words=0", "data.wrong_words=1")
    assert baselines.own_head(cfg, Workspace(tmp_path))["zeroshot_top1"] > 0.8
