"""Gates, gradients, baselines and parameter groups (checklist items 1, 7, 12)."""

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from projects.hydra import networks
from projects.hydra.config import GateConfig
from projects.hydra.gates import OpenGate, build_gate
from projects.hydra.module import Hydra
from projects.hydra.networks import (
    HydraNet,
    build_backbone,
    layer_decay_groups,
    network_options,
)
from tests.projects.hydra.conftest import batch_of, config, module_of

A, B = torch.tensor([0, 3, 5, 2]), torch.tensor([1, 3, 0, 7])


def gate_of(**options):
    torch.manual_seed(0)
    return build_gate(GateConfig(in_dim=16, mlp_dim=32, **options), 8, 12)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_item_1_gate_is_symmetric_and_between_0_and_1(fuse, mode):
    """Item 1: g(a, b) = g(b, a) in (0, 1), in both fusions, training and evaluation."""
    gate = gate_of(fuse=fuse).train(mode)
    first, second = gate(A, B), gate(B, A)
    assert torch.allclose(first, second, atol=1e-6)
    assert bool(((first > 0) & (first < 1)).all())
    assert first.shape == (4, 12)


def test_item_1_gate_depends_on_the_labels_alone():
    """Item 1: other images, same gates; another pair, another gate."""
    net = module_of().network.eval()
    before = net.gate(A, B)
    net(torch.randn(4, 3, 16, 16))
    assert torch.equal(net.gate(A, B), before)
    assert not torch.allclose(net.gate(A, A), before, atol=1e-3)


def test_product_gate_is_the_product_of_the_classes_gates():
    gate = gate_of(fuse=False).eval()
    single = gate_of(fuse=True).eval()
    single.load_state_dict(gate.state_dict())
    assert torch.allclose(gate(A, B), single(A, A) * single(B, B), atol=1e-6)
    assert not torch.allclose(single(A, B), gate(A, B), atol=1e-3)


def test_item_12_all_gate_types_are_selectable():
    """Item 12: each trains; open is all ones; noise is drawn in training mode only."""
    for kind in ("open", "basic", "gumbel", "stochastic"):
        module = module_of(f"gate.type={kind}")
        terms = module.losses(batch_of())
        terms["loss"].backward()
        assert torch.isfinite(terms["loss"])
        gate = module.network.gate
        noisy = not torch.equal(gate(A, B), gate(A, B))
        assert noisy == (kind in ("gumbel", "stochastic"))
        gate.eval()
        assert torch.equal(gate(A, B), gate(A, B))
        assert bool(((gate(A, B) >= 0) & (gate(A, B) <= 1)).all())
    assert torch.equal(gate_of(type="open")(A, B), torch.ones(4, 12))
    with pytest.raises(UserError, match=r"gate\.type"):
        config("gate.type=closed")


def test_item_12_basic_gate_is_the_sheet_s_network():
    """Item 12: ReLU, BN, linear, ReLU, BN, linear, sigmoid; statistics as at the start."""
    gate = gate_of().eval()
    weights, shrink = dict(gate.named_parameters()), (1 + 1e-5) ** -0.5
    table = weights["label_embedding.weight"]
    x = ((table[A] + table[B]) / 2).relu() * shrink
    x = (x @ weights["mlp.2.weight"].T + weights["mlp.2.bias"]).relu() * shrink
    expected = torch.sigmoid(x @ weights["mlp.5.weight"].T + weights["mlp.5.bias"])
    assert torch.allclose(gate(A, B), expected, atol=1e-6)


def test_item_12_noise_of_the_gates_is_that_of_their_papers():
    """Item 12: logit + Gumbel over temperature; mu + 0.5 + sigma * normal, cut to [0, 1]."""
    logits = torch.linspace(-1, 1, 40).view(2, 20)
    gumbel, stochastic = gate_of(type="gumbel", temperature=2.0), gate_of(type="stochastic")
    torch.manual_seed(5)
    actual = gumbel.open(logits)
    torch.manual_seed(5)
    noise = torch.distributions.Exponential(1.0).sample(logits.shape).log()
    assert torch.allclose(actual, torch.sigmoid((logits - noise) / 2), atol=1e-6)
    torch.manual_seed(5)
    actual = stochastic.open(logits)
    torch.manual_seed(5)
    expected = (logits + 0.5 + 0.5 * torch.randn(logits.shape)).clamp(0, 1)
    assert torch.allclose(actual, expected, atol=1e-6)
    assert torch.allclose(gumbel.eval().open(logits), torch.sigmoid(logits / 2))
    assert torch.allclose(stochastic.eval().open(logits), (logits + 0.5).clamp(0, 1))


def test_penalties_push_gates_to_the_ends():
    gate = gate_of(penalty=0.5)
    half, sure = torch.full((3, 4), 0.5), torch.tensor([[0.0, 1.0]])
    assert float(gate.penalty(half)) == pytest.approx(0.5 * 0.6931, rel=1e-3)
    assert float(gate.penalty(sure)) < 1e-4
    saturated = torch.tensor([0.0, 1.0], requires_grad=True)
    gate.penalty(saturated).backward()
    assert torch.isfinite(saturated.grad).all()
    assert float(gate_of().penalty(half)) == 0.0
    stochastic = gate_of(type="stochastic", open_penalty=1.0)
    with torch.no_grad():  # of 12 coordinates; the normal CDF at 1 is 0.841
        stochastic.mlp[-1].weight.zero_()
        for logit, expected in ((5.0, 12.0), (-5.0, 0.0), (-0.5, 6.0), (0.0, 12 * 0.8413447)):
            stochastic.mlp[-1].bias.fill_(logit)
            penalty = stochastic.penalty(stochastic(A, B))
            assert float(penalty) == pytest.approx(expected, abs=1e-3)


def grads(module, batch):
    module.zero_grad()
    module.losses(batch)["loss"].backward()
    return {n: p.grad for n, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("views", [1, 2])
def test_item_7_gradient_reaches_every_part(views):
    """Item 7: label embedding, MLP, projector, encoder, head."""
    actual = grads(module_of(f"data.views={views}"), batch_of(views=views))
    assert [n for n, g in actual.items() if g is None] == []
    zero = [n for n, g in actual.items() if not bool(g.any())]
    assert zero == []
    assert any("label_embedding" in n for n in actual)
    assert any("gate.mlp" in n for n in actual)


def test_item_7_online_head_does_not_reach_the_encoder():
    """Item 7: without the pair loss the encoder gets nothing, unless sup_loss is set."""
    batch = batch_of(classes=4)
    batch["partner_labels"] = torch.full((24,), 7)  # no positives: the pair loss is 0
    for sup_loss, reached in ((False, False), (True, True)):
        actual = grads(module_of(f"online_head.sup_loss={sup_loss}"), batch)
        encoder = [g for n, g in actual.items() if "encoder" in n and g is not None]
        assert any(bool(g.any()) for g in encoder) == reached
        assert bool(actual["network.head.weight"].any())


@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        (["method.objective=supcon"], ["gate"]),
        (["method.objective=simclr", "data.views=2"], ["gate"]),
        (["method.objective=cross_entropy", "online_head.sup_loss=true"], ["gate", "projector"]),
        (["online_head.weight=0"], ["head"]),
    ],
)
def test_baselines_build_and_train_only_what_they_use(overrides, unused):
    module = module_of(*overrides)
    views = 2 if "data.views=2" in overrides else 1
    actual = grads(module, batch_of(views=views))
    assert [n for n, g in actual.items() if g is None or not bool(g.any())] == []
    assert not any(f"network.{part}." in n for part in unused for n in actual)


def test_simclr_baseline_ignores_labels_and_supcon_does_not():
    batch = batch_of(views=2)
    other = {**batch, "labels": batch["labels"].sort().values}
    for objective, same in (("simclr", True), ("supcon", False)):
        module = module_of(f"method.objective={objective}", "data.views=2").eval()
        a, b = (module.losses(x)["objective"] for x in (batch, other))
        assert torch.equal(a, b) == same


def test_supcon_sees_both_views():
    module = module_of("method.objective=supcon", "data.views=2").eval()
    batch = batch_of(views=2)
    other = {**batch, "view_2": batch["view_2"].flip(0)}
    a, b = (module.losses(x)["objective"] for x in (batch, other))
    assert not torch.allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("objective", ["pairs", "supcon", "simclr"])
def test_every_contrast_has_the_temperature_of_the_config(objective):
    words = [f"method.objective={objective}", "data.views=2"]
    a, b = (
        module_of(*words, f"method.temperature={tau}").losses(batch_of(views=2))
        for tau in (0.1, 0.5)
    )
    assert not torch.allclose(a["objective"], b["objective"], rtol=1e-3)
    assert [float(x["logit_scale"]) for x in (a, b)] == pytest.approx([10, 2])


def test_frozen_encoder_keeps_weights_and_statistics():
    module = module_of("method.frozen_simclr=true")
    before = {k: v.clone() for k, v in module.network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.5)
    module.losses(batch_of())["loss"].backward()
    optimizer.step()
    after = module.network.state_dict()
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"gate", "head"}


def test_learnable_temperature_moves_and_stays_in_bounds():
    module = module_of("method.learn_temperature=true")
    assert grads(module, batch_of())["logit_scale.log_scale"].abs() > 0
    module.logit_scale.log_scale.data.fill_(9.0)
    module.after_optimizer_step()
    assert float(module.logit_scale()) == pytest.approx(100.0, rel=1e-5)


def test_negatives_per_query_are_those_of_neither_class():
    assert module_of().negatives_per_query(64) == 49  # 64 * (1 - 1/8)^2
    assert module_of("pairs.type=identical").negatives_per_query(64) == 56
    assert module_of("pairs.type=distinct").negatives_per_query(64) == 48
    objective = ["method.objective=cross_entropy", "online_head.sup_loss=true"]
    assert module_of(*objective).negatives_per_query(64) == 0


def test_paper_networks_have_the_sheet_s_sizes():
    with torch.device("meta"):
        net = Hydra(config(name="paper")).network
        features, projections = net(torch.zeros(2, 3, 32, 32))
        maps = net.encoder.backbone.forward_features(torch.zeros(2, 3, 32, 32))
        big = Hydra(config(name="paper_imagenet")).network
    assert features.shape == (2, 512)
    assert net.encoder.backbone.conv1[0].weight.shape == (64, 3, 3, 3)  # deep stem
    assert maps.shape == (2, 512, 4, 4)  # output stride 8
    assert projections.shape == (2, 256)
    assert [type(m).__name__ for m in net.projector] == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "LayerNorm",
    ]
    assert net.projector[3].bias is None
    assert net.gate.label_embedding.weight.shape == (10, 512)
    assert [m.out_features for m in net.gate.mlp if hasattr(m, "out_features")] == [1024, 256]
    assert big.encoder.num_features == 2048


def test_fine_tuning_starts_from_an_export_and_decays_layers(tmp_path):
    from common.export.safetensors import save_safetensors

    words = ["model.backbone=resnet18", "model.projector_dim=16", "model.out_dim=8"]
    options = network_options(config(*words))
    net = HydraNet(**options)
    save_safetensors(net, tmp_path, options)
    module = module_of(
        "model.backbone=resnet18",
        f"model.init_from={tmp_path}",
        "layer_decay=0.5",
        "method.objective=cross_entropy",
        "online_head.sup_loss=true",
    )
    own, given = module.network.encoder.state_dict(), net.encoder.state_dict()
    assert all(torch.equal(own[k], given[k]) for k in own)
    groups = module.parameter_groups()
    # ten layers as in timm: stem, eight blocks, and the classifier on top at the full rate
    assert {g.get("lr_scale", 1.0) for g in groups} == {0.5**i for i in range(10)}
    scale = {id(p): g.get("lr_scale", 1.0) for g in groups for p in g["params"]}
    assert scale[id(module.network.head.weight)] == 1.0
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decay[id(module.network.head.weight)] == module.cfg.optim.weight_decay > 0
    assert decay[id(module.network.head.bias)] == 0
    assert scale[id(module.network.encoder.backbone.layer4[1].conv2.weight)] == 0.5
    assert scale[id(module.network.encoder.backbone.conv1.weight)] == 0.5**9
    grouped = [id(p) for g in groups for p in g["params"]]
    expected = [id(p) for p in module.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(expected)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_fine_tuning_learns_mixtures_by_their_shares(kind, monkeypatch):
    """Each image is itself by a share, and the one before it by the rest; so are its labels."""
    words = ["method.objective=cross_entropy", "online_head.sup_loss=true"]
    module = module_of(*words, f"online_head.{kind}=1.0", "online_head.label_smoothing=0.1")
    batch, read = batch_of(size=4, classes=4), []
    batch["view_1"] = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).clone()
    forward = module.network.forward
    monkeypatch.setattr(module.network, "forward", lambda x: read.append(x) or forward(x))
    loss = module.losses(batch)["online_loss"]
    (mixed,) = read
    partner = torch.arange(4.0).roll(1)
    own = (mixed.mean((1, 2, 3)) - partner) / (torch.arange(4.0) - partner)
    share = own[0].expand(4)
    torch.testing.assert_close(own, share)
    assert 0 < share[0] < 1
    assert (mixed[0].unique().numel() > 1) == (kind == "cutmix")
    one_hot = torch.eye(module.cfg.data.num_classes)[:4]
    targets = share[:, None] * one_hot + (1 - share[:, None]) * one_hot.roll(1, 0)
    predicted = module.network.head(module.network(mixed)[0])
    expected = F.cross_entropy(predicted, targets, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-5)
    read.clear()
    module.eval().losses(batch)
    assert torch.equal(read[0], batch["view_1"])


def test_wrong_settings_are_user_errors():
    cases = {
        "data.views=2": ["method.objective=simclr"],
        "data.repeats=1": ["method.objective=simclr", "data.views=2", "data.repeats=2"],
        "exceeds data.num_classes": ["data.samples_per_class=2"],
        "data.test_limit is for sets": ["data.source=imagenet", "data.test_limit=50"],
        "sup_loss=true": ["method.objective=cross_entropy"],
        "needs a timm model": ["layer_decay=0.5"],
        "need method.objective=cross_entropy": ["online_head.mixup=0.8"],
        "optim.nesterov needs": ["optim.nesterov=true"],
        "must divide": ["data.samples_per_class=5"],
        "data.folder": ["data.source=folder"],
        "trains a gate": ["method.frozen_simclr=true", "method.objective=supcon"],
    }
    for message, overrides in cases.items():
        with pytest.raises(UserError, match=message):
            config(*overrides)
    with pytest.raises(UserError, match="resnet18"):
        build_backbone("resnet-18", (8,), "random", 32, "deep", None)
    with pytest.raises(UserError, match="need a ResNet from scratch"):
        build_backbone("vit_tiny_patch16_224", (8,), "random", 224, None, 8)
    assert isinstance(build_gate(GateConfig(type="open"), 4, 3), OpenGate)


def test_layer_decay_spares_what_timm_exempts():
    """Class token and position embeddings have three dimensions; a residual network names
    nothing."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        net = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
        residual = timm.create_model("resnet18", num_classes=0)
    names = {id(p): name for name, p in net.named_parameters()}
    groups = layer_decay_groups(net, 0.05, 0.5)
    decay = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    assert decay["cls_token"] == decay["pos_embed"] == decay["norm.weight"] == 0.0
    assert decay["patch_embed.proj.weight"] == decay["blocks.0.mlp.fc1.weight"] == 0.05
    scale = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    assert scale["pos_embed"] == scale["patch_embed.proj.weight"] < scale["norm.weight"] == 1.0
    decayed = [
        p.ndim
        for g in layer_decay_groups(residual, 0.05, 0.5)
        if g["weight_decay"]
        for p in g["params"]
    ]
    assert set(decayed) == {4}


def test_a_timm_encoder_has_the_weights_and_the_size_of_the_config(monkeypatch):
    asked = []

    def tower(*words, **options):
        asked.append((*words, options["image_size"]))
        encoder = torch.nn.Identity()
        encoder.num_features = 4
        return encoder

    monkeypatch.setattr(networks, "timm_tower", tower)
    words = ["model.backbone=vit_tiny_patch16_224", "model.pretrained=/weights"]
    networks.build_net(config(*words, "data.image_size=48"))
    assert asked == [("vit_tiny_patch16_224", "/weights", 48)]


def test_the_noise_of_the_stochastic_gate_is_that_of_the_config():
    gate, logits = gate_of(type="stochastic", sigma=0.1), torch.full((2, 4000), 0.0)
    torch.manual_seed(5)
    assert float(gate.open(logits).std()) == pytest.approx(0.1, rel=0.05)
