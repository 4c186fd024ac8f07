"""Rows next to the trained network, and further labelled sets, by hand."""

from types import SimpleNamespace

import torch

from common.engine.workspace import Workspace
from projects.hydra import evaluate as evaluation
from projects.hydra.networks import build_net
from tests.projects.hydra.conftest import config


def test_transfer_probes_features_and_not_projections(monkeypatch, tmp_path):
    """The encoder's features, by the protocols and below the root that are asked for."""
    (tmp_path / "judged").mkdir()
    cfg = config(
        f"eval.root={tmp_path}/judged",
        "eval.transfer=[dtd]",
        "eval.transfer_protocols=[few_shot]",
        "eval.batch_size=3",
        "seed=7",
    )
    asked = {}

    def protocol(embed, text, transform, root, **options):
        asked.update(embed=embed, root=root, **options)
        return lambda names: {f"{name}_few_shot": 1.0 for name in names}

    monkeypatch.setattr(evaluation, "ImageSetProtocol", protocol)
    net = build_net(cfg).eval()
    assert evaluation.transfer(cfg, net, Workspace(tmp_path)) == {"dtd_few_shot": 1.0}
    assert (asked["root"], asked["protocols"]) == (tmp_path / "judged", ["few_shot"])
    assert (asked["batch_size"], asked["seed"]) == (3, 7)
    images = torch.randn(2, 3, cfg.data.image_size, cfg.data.image_size)
    with torch.no_grad():
        features, projections = net(images)
        first, second = asked["embed"](images)
    assert torch.equal(first, projections)
    assert torch.equal(second, features)


def test_the_untrained_row_is_a_network_of_the_seed(monkeypatch, tmp_path):
    """``untrained_*`` are probes of new weights, in the trained network's precision and place."""
    cfg, seen, asked = config("seed=3"), [], []
    part = SimpleNamespace(class_names=["a", "b"])
    build = evaluation.untrained

    def untrained(make, seed, like):
        asked.append((seed, like))
        return build(make, seed, like)

    monkeypatch.setattr(evaluation, "untrained", untrained)
    frozen = SimpleNamespace(
        test=SimpleNamespace(features=torch.randn(4, 16), labels=torch.tensor([0, 1, 0, 1]))
    )

    def embedded(cfg, net, *_):
        seen.append(net)
        return frozen, torch.randn(4, 6)

    def probed(cfg, parts):
        return SimpleNamespace(metrics={"linear_probe_top1": float(len(seen))})

    monkeypatch.setattr(evaluation, "embed_parts", embedded)
    monkeypatch.setattr(evaluation, "probes", probed)
    for name in ("subspace_precision", "relations"):
        monkeypatch.setattr(evaluation, name, lambda *_, **__: {})
    for name in ("save_items", "draw_spectrum", "show_features"):
        monkeypatch.setattr(evaluation, name, lambda *_: None)
    monkeypatch.setattr(evaluation, "pair_gallery", lambda *_, **__: [])
    monkeypatch.setattr(Workspace, "gallery", lambda *_: None)
    net = build_net(cfg).eval()
    net.head.bias.data[1] = 1e4  # the head says 1, whatever the features are
    actual = evaluation.evaluate_net(cfg, net, part, part, Workspace(tmp_path))
    assert (actual["linear_probe_top1"], actual["untrained_linear_probe_top1"]) == (1, 2)
    assert actual["online_head_top1"] == 0.5
    assert seen[0] is net
    assert asked == [(3, net)]
    weights = [next(n.parameters()) for n in seen]
    assert not torch.equal(*weights)
