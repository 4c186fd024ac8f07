"""Lists of names, captions, gates and guards of the evaluation and training, by hand."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from common.engine.workspace import Workspace
from projects.cosmo import evaluate as evaluation
from projects.cosmo.evaluate import CLASSES, Judged, caption_scores, gates, judged, written_metrics
from tests.projects.cosmo.conftest import batch_of, config, module_of


class PartAsked(Exception):
    """Names the part of the pictures."""


@pytest.mark.parametrize("split", ["dev", "test"])
def test_pictures_are_those_of_the_split(monkeypatch, split):
    def pictures(cfg, part):
        raise PartAsked(part)

    monkeypatch.setattr(evaluation, "Pictures", pictures)
    with pytest.raises(PartAsked, match=split):
        judged(config(f"eval.split={split}", name="mini"))


def test_a_photograph_is_ranked_among_one_of_each_other_class():
    labels = [i % len(CLASSES) for i in range(40)]

    class Photographs(list):
        pass

    held_out = Photographs(range(40))
    held_out.texts, held_out.labels = [[f"photo {i}"] for i in range(40)], labels
    actual = evaluation._photographs(held_out, list(range(40)), 20)
    of_place = [labels[picture] for picture in actual.pictures]
    assert sorted(of_place) == sorted(list(range(len(CLASSES))) * 2)
    for place, row in enumerate(actual.candidates.tolist()):
        assert row[0] == place
        assert sorted(of_place[k] for k in row) == list(range(len(CLASSES)))


def test_names_are_cut_as_captions_of_the_training_are(monkeypatch):
    """The second name is longer than ``max_caption``: four of its seven tokens are read."""
    read = []

    class Lengths:
        pad = 0

        def __init__(self, *_):
            pass

        def __call__(self, text):
            return list(range(1, len(text.split()) + 1))

        def labels(self, kind, ids):
            return ids.masked_fill(ids == 0, -100)

    def language(ids, mask, shown):
        read.append(mask.sum(1).tolist())
        return SimpleNamespace(logits=torch.zeros(*ids.shape, 8))

    monkeypatch.setattr(evaluation, "Words", Lengths)
    network = SimpleNamespace(media=lambda patches: (patches,), language=language)
    module = SimpleNamespace(tokenizer=None, device="cpu", network=network)
    held_out = Judged([0, 1], ["a b", "a b c d e f g"], torch.tensor([[0, 1], [1, 0]]))
    cfg = config("data.max_caption=4", "eval.batch_size=4")
    evaluation.name_losses(cfg, module, held_out, torch.zeros(2, 1))
    assert read == [[2, 2, 4, 4]]


def test_captions_are_written_for_pictures_of_all_classes(monkeypatch, tmp_path):
    names, read = [f"a photo of a {x}" for x in "aabbcc"], []
    held_out = Judged(list(range(6)), names, torch.zeros(6, 1))
    monkeypatch.setattr(evaluation, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(
        evaluation,
        "PictureModel",
        lambda module: lambda pictures: read.extend(pictures) or ["x"] * len(pictures),
    )
    monkeypatch.setattr(Workspace, "gallery", lambda *_: None)
    written_metrics(config("eval.written=3"), module_of(), held_out, Workspace(tmp_path))
    assert read == [0, 2, 4]


def test_the_class_is_the_last_word_of_a_name():
    names = ["a photo of a frog"] * 2
    assert caption_scores(names, ["a green frog", "a ship"])["last_word"] == 0.5


def test_gates_count_by_how_far_they_are_open():
    blocks = [
        SimpleNamespace(attn_gate=torch.tensor(a), ff_gate=torch.tensor(f))
        for a, f in ((-1.0, 0.2), (1.0, -0.2))
    ]
    actual = gates(SimpleNamespace(language=SimpleNamespace(blocks=blocks)))
    assert actual["gate_attention"] == pytest.approx(0.76159, abs=1e-4)
    assert actual["gate_ff"] == pytest.approx(0.19738, abs=1e-4)


def test_the_contrastive_loss_has_a_guard_of_its_own():
    module = module_of("method.guard=true", "method.contrastive_weight=0.5")
    module.contrastive_guard.average.fill_(0.1)
    terms = module.losses(batch_of())
    assert terms["contrastive"] > 0.8
    torch.testing.assert_close(terms["loss"], terms["lm"] + 0.5 * 0.1)


def test_each_validation_is_a_mean_of_its_own(monkeypatch):
    module, logged = module_of(), []
    monkeypatch.setattr(module, "log", lambda name, value: logged.append(float(value)))
    for total, count in ((6.0, 3.0), (2.0, 4.0)):
        module._seen += torch.tensor([total, count])
        module.on_validation_epoch_end()
    assert logged == [2.0, 0.5]
