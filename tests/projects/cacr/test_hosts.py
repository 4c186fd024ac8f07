"""The three hosts as modules: what is stored when, gradients, schedules, two processes, resume."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from common.config import UserError
from common.encoders.image.conv_nets import SmallAlexNet
from common.encoders.momentum import MomentumEncoder
from common.engine import checkpoint as ckpt
from common.engine.run import train
from common.families.images.networks import build_network, embed_views, network_options
from projects.cacr.data import local_transforms, view_transforms
from projects.cacr.module import CACR
from tests.projects.cacr.conftest import HOSTS, WEIGHTINGS, batch, config

ARMS = [("batch", ("method.loss=infonce",))]
ARMS += [("batch", (f"method.weighting={w}",)) for w in WEIGHTINGS]
ARMS += [("batch", ("method.cost=rbf",)), ("batch", ("method.detach_weights=true",))]
ARMS += [("queue", ()), ("momentum", ("method.cost=rbf",)), ("momentum", ())]
ARMS += [("queue", ("method.loss=infonce",)), ("queue", ("method.weighting=none",))]
ARMS += [("momentum", ("method.loss=infonce", "method.cost=rbf"))]


def module_of(host, *overrides):
    torch.manual_seed(0)
    return CACR(config(f"method.host={host}", *overrides))


def with_other_keys(host, *overrides):
    """A module whose momentum encoder has gone another way, so that keys are no queries."""
    module = module_of(host, *overrides)
    for parameter in getattr(module, "momentum_encoder", nn.Module()).parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize(("host", "overrides"), ARMS)
def test_every_arm_gives_a_gradient_to_every_trained_weight(host, overrides):
    module = module_of(host, *overrides)
    terms = module.losses(batch())
    assert all(torch.isfinite(value) for value in terms.values())
    terms["loss"].backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.ndim < 2 or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("host", HOSTS)
def test_item_14_diagnostics_are_logged(host):
    """Checklist 14: entropies and rank correlations on logged steps, for every host."""
    names = {
        "positive_entropy",
        "negative_entropy",
        "positive_rank_correlation",
        "negative_rank_correlation",
    }
    assert names <= module_of(host).losses(batch()).keys()
    sparse = module_of(host, "trainer.log_every_n_steps=2")
    assert not names & sparse.losses(batch()).keys()  # step 1 of 2


@pytest.mark.parametrize("in_batch", [True, False])
def test_item_14_the_queue_s_diagnostics_are_those_of_its_negatives(in_batch):
    """Checklist 14: pi- over the stored rows and, where they count, other samples' queries."""
    module = module_of("queue", f"method.in_batch_negatives={str(in_batch).lower()}")
    with torch.no_grad():
        for weight in module.momentum_encoder.parameters():  # keys differ from queries
            weight.add_(0.1 * torch.randn_like(weight))
        query = F.normalize(embed_views(module.network, batch()["views"])[0], dim=1)
    stored = torch.cdist(query, module.queue.features)
    others = torch.cdist(query, query).fill_diagonal_(torch.inf)
    distance = torch.cat([stored, others], 1) if in_batch else stored
    entropy = torch.special.entr((-2.0 * distance.square()).softmax(1)).sum(1).mean()
    actual = module.losses(batch())["negative_entropy"]
    torch.testing.assert_close(actual, entropy, rtol=1e-4, atol=1e-4)


def test_item_14_momentum_diagnostics_are_predictions_against_keys():
    """Checklist 14: pi- is a softmax over the keys of other samples, at 1 / T of half a
    distance."""
    module = module_of("momentum", "method.temperature=0.5")
    with torch.no_grad():
        key = F.normalize(embed_views(module.momentum_encoder, batch()["views"])[0], dim=1)
        query = F.normalize(module._predict(batch()["views"])[1], dim=1)
    logits = (query @ key.T / 0.5).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    entropy = torch.special.entr(logits.softmax(1)).sum(1).mean()
    actual = module.losses(batch())["negative_entropy"]
    torch.testing.assert_close(actual, entropy, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("host", HOSTS)
@torch.no_grad()
def test_item_14_positives_of_the_diagnostics_are_the_other_views(host):
    """Checklist 14: pi+ is a softmax over the views but the first; the batch's pi- over the
    second."""
    module, views = with_other_keys(host), batch()["views"]
    actual = module.losses(batch())
    if host == "momentum":
        query, others = embed_views(module.momentum_encoder, views)[0], module._predict(views)[1:]
    else:
        query = embed_views(module.network, views)[0]
        keys = module.network if host == "batch" else module.momentum_encoder
        others = embed_views(keys, views)[1:]
    query, others = F.normalize(query, dim=-1), F.normalize(others, dim=-1)
    logits = module.tau_pos * (query - others).square().sum(-1)
    entropy = torch.special.entr(logits.softmax(0)).sum(0).mean()
    torch.testing.assert_close(actual["positive_entropy"], entropy, rtol=1e-5, atol=1e-5)
    if host == "batch":
        logits = -module.tau_neg * torch.cdist(query, others[0]).square()
        pushed = logits.fill_diagonal_(-torch.inf).softmax(1)
        entropy = torch.special.entr(pushed).sum(1).mean()
        torch.testing.assert_close(actual["negative_entropy"], entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("host", HOSTS)
def test_a_diverged_batch_has_terms_by_which_the_training_stops(host):
    """Guards against an error of the rank correlation in place of the one that names step and
    batch.
    """
    diverged = batch()
    diverged["views"][0, 0] = torch.nan
    terms = module_of(host).losses(diverged)
    assert len(terms) >= 5
    assert all(value.isnan() for value in terms.values())


def test_item_14_diagnostics_keep_their_digits_in_half_precision():
    module = module_of("batch").bfloat16()
    actual = module.losses(batch(dtype=torch.bfloat16))
    assert actual["negative_entropy"].dtype == torch.float32


@pytest.mark.parametrize("host", ["queue", "momentum"])
def test_item_7_momentum_encoder_and_weights_receive_no_gradient(host):
    """Checklist 7: neither the copy nor, through pi, the keys."""
    module = module_of(host)
    module.losses(batch())["loss"].backward()
    assert all(p.grad is None for p in module.momentum_encoder.parameters())
    assert not embed_views(module.momentum_encoder, batch()["views"]).requires_grad


@pytest.mark.parametrize(("host", "name"), [("queue", "terms"), ("momentum", "forward")])
def test_item_7_keys_are_the_momentum_encoder_s(monkeypatch, host, name):
    """Checklist 7: what the loss and the queue get is its output, not that of the trained
    network."""
    module, seen = with_other_keys(host), []
    call = getattr(module.objective, name)

    def recorded(queries, keys, *stored):
        seen.append(keys)
        return call(queries, keys, *stored)

    monkeypatch.setattr(module.objective, name, recorded)
    module.losses(batch())
    expected = embed_views(module.momentum_encoder, batch()["views"])
    (keys,) = seen
    torch.testing.assert_close(torch.stack([*keys]), expected)
    assert not any(key.requires_grad for key in keys)
    for rows in module._new_rows:
        torch.testing.assert_close(rows, expected[-1])


def test_item_7_the_queue_holds_no_keys_of_the_batch_at_loss_time():
    """Checklist 7: they enter after the step, those of the last view alone."""
    module = module_of("queue")
    before = module.queue.features.clone()
    module.losses(batch())
    assert torch.equal(module.queue.features, before)
    with torch.no_grad():
        keys = embed_views(module.momentum_encoder, batch()["views"])[-1]
    module.after_optimizer_step()
    expected = nn.functional.normalize(keys, dim=1)
    torch.testing.assert_close(module.queue.features[:6], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(module.queue.features[6:], before[6:])


def test_momentum_encoder_follows_after_the_step():
    module = module_of("momentum", "method.momentum=0.75")
    weight = module.network.projector.layers[-1].weight
    copy = module.momentum_encoder.network.projector.layers[-1].weight
    start = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    module.after_optimizer_step()
    torch.testing.assert_close(copy, start + 0.25)


def test_local_crops_are_queries_and_in_full_mode_keys():
    data = "data.local_views=2"
    light = module_of("momentum", data, "method.cost=rbf")
    full = module_of("momentum", data, "method.cost=rbf", "method.local_keys=true")
    with_local, without = batch(local_views=2), batch()
    seen = []
    light.objective.register_forward_pre_hook(lambda m, args: seen.append([len(a) for a in args]))
    full.objective.register_forward_pre_hook(lambda m, args: seen.append([len(a) for a in args]))
    values = [
        float(m.losses(b)["loss"])
        for m, b in ((light, with_local), (full, with_local), (light, without))
    ]
    assert seen == [[5, 3], [5, 5], [3, 3]]
    assert len({round(v, 6) for v in values}) == 3


def test_negatives_per_query():
    assert module_of("batch").negatives_per_query(16) == 15
    assert module_of("queue").negatives_per_query(16) == 64 + 15
    assert module_of("queue", "method.in_batch_negatives=false").negatives_per_query(16) == 64
    assert not module_of("queue", "method.in_batch_negatives=false").in_batch_negatives


# -- networks ------------------------------------------------------------------------------------


def test_small_alexnet_has_the_paper_s_shape_and_initialisation():
    """Five convolutions without bias, fc6 and fc7 of 4,096, projector to 128, N(0, 0.02)."""
    torch.manual_seed(0)
    network = build_network(**network_options(config(name="paper")))
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [96, 192, 384, 384, 192]
    assert all(c.bias is None and c.kernel_size == (3, 3) for c in convs)
    linears = [
        (m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)
    ]
    assert linears == [(192 * 9, 4096), (4096, 4096), (4096, 128)]
    assert sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in network.modules()) == 7
    last = network.projector.layers[-1]
    assert last.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (last.bias == 0).all()
    images = torch.randn(2, 3, 32, 32)
    assert network.encoder(images).shape == (2, 4096)
    assert network(images).shape == (2, 128)


def test_small_alexnet_at_64_px_and_below_15():
    assert SmallAlexNet(64, width=8).layers[-6].in_features == 192 * 49
    with pytest.raises(UserError, match="image_size >= 15"):
        SmallAlexNet(14, width=8)


def test_patch_embedding_is_frozen_on_request_and_crops_of_other_sizes_fit():
    words = ("model.backbone=timm/vit_tiny_patch16_224", "data.image_size=32")
    frozen = build_network(**network_options(config(*words, "model.freeze_patch_embed=true")))
    free = build_network(**network_options(config(*words)))
    embed = "encoder.backbone.patch_embed.proj.weight"
    assert not dict(frozen.named_parameters())[embed].requires_grad
    assert dict(free.named_parameters())[embed].requires_grad
    assert (
        free.encoder(torch.zeros(1, 3, 16, 16)).shape
        == free.encoder(torch.zeros(1, 3, 32, 32)).shape
    )
    with pytest.raises(UserError, match="needs a ViT of timm"):
        build_network(**network_options(config("model.freeze_patch_embed=true")))


# -- schedule, two processes, resume ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_learning_rate_falls_at_the_milestones(tmp_path):
    """A tenth at each fraction of training; logged step by step."""
    run = train(
        "cacr",
        "smoke",
        [
            f"runs_dir={tmp_path}",
            "optim.schedule=constant",
            "optim.warmup_steps=0",
            "optim.milestones=[0.5,0.84]",
            "trainer.keep_checkpoints=9",
            "trainer.checkpoint_every_n_steps=1",
            "eval.linear_probe=false",
            "eval.untrained=false",
        ],
    )
    folder = run / "checkpoints/train"
    rates = [
        ckpt.load(folder / f"step-{step:08d}.ckpt")["lr_schedulers"][0]["_last_lr"][0]
        for step in range(1, 7)
    ]  # of the following step
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005])


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize(
    ("host", "extra", "steps"),
    [
        ("queue", (), [0.9] * 6),
        (
            "momentum",
            ("method.momentum_schedule=cosine", "data.local_views=2"),
            [0.9, 0.9067, 0.925, 0.95, 0.975, 0.9933],  # half a cosine from .9 to 1 in six steps
        ),
    ],
)
def test_the_momentum_rises_or_does_not(tmp_path, monkeypatch, host, extra, steps):
    update, momenta = MomentumEncoder.update, []

    def recorded(self, encoder):
        momenta.append(self.momentum)
        update(self, encoder)

    monkeypatch.setattr(MomentumEncoder, "update", recorded)
    quick = ["eval.linear_probe=false", "eval.untrained=false"]
    train("cacr", "smoke", [f"runs_dir={tmp_path}", f"method.host={host}", *extra, *quick])
    assert momenta == pytest.approx(steps, abs=1e-4)


def test_the_imagenet_recipe_starts_as_released():
    """Residual blocks are the identity at first, the predictor ends without a bias, and local crops
    are bicubic while the others are bilinear."""
    words = ("model.backbone=resnet50", "method.host=momentum", "data.local_views=2")
    for word, scale in (("true", 0.0), ("false", 1.0)):
        module = CACR(config(*words, f"model.zero_init_residual={word}"))
        blocks = [m for m in module.network.modules() if isinstance(m, Bottleneck)]
        assert len(blocks) == 16
        assert {float(block.bn3.weight.detach().mean()) for block in blocks} == {scale}
    assert module.predictor.layers[-1].bias is None
    cfg = config(*words).data
    local, whole = local_transforms(cfg).transforms[0], view_transforms(cfg).transforms[0]
    assert (local.interpolation.value, whole.interpolation.value) == ("bicubic", "bilinear")
    with pytest.raises(UserError, match="model.pretrained=random"):
        config("model.zero_init_residual=true", "model.pretrained=somewhere")
