"""Encoders, arms, both views, two processes, resume (items 1, 8-14)."""

import pytest
import torch

from common.config import UserError
from common.losses.functional.geometry import alignment, uniformity
from common.losses.functional.two_view import nt_xent
from common.losses.output import unit
from projects.sepclr.independence import gaussian_kl
from projects.sepclr.networks import Codes, Decoder, build_network
from projects.sepclr.objective import attribute_loss, k_jem, sepclr_terms
from tests.projects.sepclr.conftest import LEAKAGES, SUPERVISED, batch, config, module_of
from tests.projects.sepclr.workers import three_steps

ARMS = {
    **{leakage: (f"method.leakage={leakage}",) for leakage in LEAKAGES},
    "lambda0": ("method.leakage_weight=0",),
    "simclr": ("method.objective=simclr",),
    "vae": ("method.objective=vae",),
    "supervised": SUPERVISED,
}
UNUSUAL = (
    "method.bandwidth=0.3",
    "method.temperature=0.2",
    "method.common_uniformity=1.5",
    "method.salient_weight=7",
    "method.background_weight=3",
    "method.leakage_weight=5",
    "method.attribute_bandwidth=0.04",
    "method.kl_weight=0.7",
)


def test_item_1_the_encoders_share_nothing():
    """Item 1: disjoint parameters, buffers and memory; a common-only loss moves one encoder."""
    network = module_of().network
    common = {t.data_ptr() for t in network.common.state_dict().values()}
    salient = {t.data_ptr() for t in network.salient.state_dict().values()}
    assert common
    assert salient
    assert not common & salient
    codes = network(batch()["view_1"])
    codes.common_head.square().sum().backward()
    assert all(p.grad is None for p in network.salient.parameters())
    assert all(p.grad is not None for p in network.common.parameters())


@pytest.mark.parametrize("arm", ARMS)
def test_items_13_and_14_every_arm_trains_every_parameter(arm):
    """Items 13, 14: finite terms, and a gradient for every parameter."""
    module = module_of(*ARMS[arm])
    terms = module.losses(batch(num_factors=1 if arm == "supervised" else 0))
    assert all(torch.isfinite(value) for value in terms.values())
    terms["loss"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # a bias before a norm, and one that all rows share, may cancel; a weight may not
        assert parameter.ndim < 2 or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("targets", [0, 8])
@pytest.mark.parametrize("arm", ARMS)
def test_item_10_batches_of_one_set_are_finite(arm, targets):
    """Item 10: all background and all target, through every arm."""
    module, one_set = module_of(*ARMS[arm]), batch(num_factors=1)
    one_set["target"] = torch.arange(8) < targets
    terms = module.losses(one_set)
    terms["loss"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in grads)


def expected_loss(module, data):
    """The functional terms at the weights and widths of `UNUSUAL`."""
    target, network = data["target"], module.network
    if module.method.objective == "vae":
        images, both = torch.cat([data["view_1"], data["view_2"]]), target.repeat(2)
        (c, c_log), (s, s_log) = network.common(images), network.salient(images)
        torch.manual_seed(1)
        drawn = [m + torch.randn_like(m) * (log / 2).exp() for m, log in ((c, c_log), (s, s_log))]
        decoded = network.decode(drawn[0], drawn[1] * both[:, None])
        kl = (gaussian_kl(c, c_log) + both * gaussian_kl(s, s_log)).mean()
        return (decoded - images).square().sum((1, 2, 3)).mean() + 0.7 * kl
    views = [network(data[view]) for view in ("view_1", "view_2")]
    common, salient = [v.common_head for v in views], [v.salient_head for v in views]
    c = [unit(x) for x in common]
    if module.method.objective == "simclr":
        return nt_xent(c[0], c[1], 1 / 0.2).loss
    if module.method.objective == "supervised":
        uniform = (uniformity(c[0], 0.3) + uniformity(c[1], 0.3)) / 2
        salient_term = attribute_loss(
            salient[0], target, data["factors"], [False], attribute_tau=0.04, tau=0.3
        )
        penalty = k_jem(common[:1], salient[:1], target, 0.3)
        return alignment(c[0], c[1], 0.3) + 1.5 * uniform + 7 * salient_term + 5 * penalty
    t = sepclr_terms(common, salient, target, 0.3)
    return (
        t.common_align
        + 1.5 * t.common_uniform
        + 7 * (t.salient_align + 2 * t.salient_uniform)
        + 3 * t.salient_reg
        + 5 * k_jem(common, salient, target, 0.3)
    )


@pytest.mark.parametrize("arm", ["kjem", "supervised", "simclr", "vae"])
def test_item_9_weights_and_widths_of_the_config_reach_the_objective(arm):
    """Items 9, 13: no value of `method` is the default one."""
    module = module_of(*ARMS[arm], "method.discrete=[]", *UNUSUAL)
    data = batch(num_factors=1)
    data["factors"] = data["factors"] / 10
    torch.manual_seed(1)
    actual = module.losses(data)["loss"]
    torch.testing.assert_close(actual, expected_loss(module, data))


def test_item_9_the_loss_is_the_weighted_sum_of_its_terms():
    """Item 9: weights as configured; zero weights are allowed."""
    weights = {"salient_weight": 7.0, "background_weight": 3.0, "leakage_weight": 5.0}
    module = module_of(*[f"method.{k}={v}" for k, v in weights.items()])
    t = module.losses(batch())
    expected = (
        t["common_align"]
        + 2 * t["common_uniform"]
        + 3 * t["salient_reg"]
        + 5 * t["kjem"]
        + 7 * (t["salient_align"] + 2 * t["salient_uniform"])
    )
    torch.testing.assert_close(t["loss"], expected)
    zeros = module_of(*[f"method.{k}=0" for k in weights])
    t = zeros.losses(batch())
    torch.testing.assert_close(t["loss"], t["common_align"] + 2 * t["common_uniform"])
    t["loss"].backward()
    assert all(not p.grad.any() for p in zeros.network.salient.parameters())


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("paper", (1000, 1000, 10)),
        ("paper_celeba", (1000, 1000, 10)),
        ("paper_chexpert", (1, 10, 10)),
        ("paper_odir", (1, 100, 10)),
    ],
)
def test_item_9_paper_weights_are_tabulated(name, weights):
    """Item 9: beta_t, beta_r, lambda of each data set."""
    method = config(name=name).method
    assert (method.salient_weight, method.background_weight, method.leakage_weight) == weights
    supervised = config(name="paper_dsprites").method
    assert (supervised.salient_weight, supervised.leakage_weight) == (100, 10)
    assert supervised.common_uniformity == 1


def test_item_11_four_forward_passes_see_both_views():
    """Item 11: each encoder runs on each view, and both passes carry gradient."""
    module, data = module_of(), batch()
    seen = {"common": [], "salient": []}
    for name, calls in seen.items():
        branch = getattr(module.network, name)
        branch.register_forward_pre_hook(lambda m, args, calls=calls: calls.append(args[0]))
    data = {
        **data,
        "view_1": data["view_1"].requires_grad_(),
        "view_2": data["view_2"].requires_grad_(),
    }
    module.losses(data)["loss"].backward()
    for calls in seen.values():
        assert len(calls) == 2
        assert calls[0] is data["view_1"]
        assert calls[1] is data["view_2"]
    assert all(data[view].grad.abs().sum() > 0 for view in ("view_1", "view_2"))


def test_item_14_the_switch_changes_the_penalty_alone():
    """Item 14: all other terms agree; none has no penalty and equals lambda 0 in value."""
    actual = {kind: module_of(f"method.leakage={kind}").losses(batch()) for kind in LEAKAGES}
    for kind, terms in actual.items():
        assert float(terms["salient_uniform"]) == float(actual["kjem"]["salient_uniform"])
        assert (kind in terms) == (kind != "none")
    assert len({float(terms["loss"]) for terms in actual.values()}) == len(LEAKAGES)
    without = module_of("method.leakage_weight=0").losses(batch())
    torch.testing.assert_close(without["loss"], actual["none"]["loss"])


def test_item_14_vclub_trains_its_network_by_likelihood_alone():
    """Item 14: the bound does not move q, the likelihood does not move the encoders."""
    module = module_of("method.leakage=vclub", "method.leakage_weight=0")
    terms = module.losses(batch())
    terms["club_nll"].backward(retain_graph=True)
    assert all(p.grad is None for p in module.network.parameters())
    assert all(p.grad.abs().sum() > 0 for p in module.club.parameters() if p.ndim > 1)
    module.club.zero_grad()
    terms["vclub"].backward()
    assert all(p.grad is None or not p.grad.any() for p in module.club.parameters())
    assert any(p.grad is not None and p.grad.any() for p in module.network.common.parameters())


def test_item_12_the_supervised_salient_code_reads_the_plain_view_only():
    """Item 12: view 1 is un-augmented; the second view moves the common encoder only."""
    module, data = module_of(*SUPERVISED), batch(num_factors=1)
    first = module.losses(data)
    again = module.losses({**data, "view_2": 1 - data["view_2"]})
    assert float(first["attributes"]) == float(again["attributes"])
    assert float(first["common_align"]) != float(again["common_align"])


def test_vae_decodes_the_background_without_its_salient_code():
    """Item 13: background samples give the salient encoder no gradient."""
    module, data = module_of("method.objective=vae"), batch()
    data["target"] = torch.zeros(8, dtype=torch.bool)
    torch.manual_seed(0)
    terms = module.losses(data)
    terms["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in module.network.salient.parameters())
    assert all(p.grad.abs().sum() > 0 for p in module.network.decoder.parameters() if p.ndim > 1)
    images = module.network.decode(torch.zeros(2, 8), torch.zeros(2, 8))
    assert images.shape == (2, 3, 16, 16)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_single_encoder_gives_one_code_of_both_sizes():
    """Item 13: as many dimensions as both codes together, and no knowledge of the sets."""
    module, data = module_of("method.objective=simclr"), batch()
    common, salient = module.encode(data["view_1"])
    assert torch.equal(common, salient)
    assert common.shape == (8, 16)
    module.eval()
    loss = module.losses(data)["loss"]
    assert float(module.losses({**data, "target": ~data["target"]})["loss"]) == float(loss)


def test_use_codes_norms_and_ranks():
    module, images = module_of().eval(), batch()["view_1"]
    codes: Codes = module.network(images)
    common, salient = module.encode(images)
    assert torch.equal(common, codes.common_rep)
    assert torch.equal(salient, codes.salient_rep)
    torch.testing.assert_close(module.salient_norm(images), codes.salient_head.norm(dim=1))
    for space in ("common", "salient"):
        assert module.rank(images, images, space, k=2).indices[:, 0].tolist() == list(range(8))
    assert module.negatives_per_query(8) == 7


@pytest.mark.parametrize("backbone", ["convnet", "pooled_convnet", "sprites", "resnet18"])
def test_backbones_give_codes_of_the_configured_sizes(backbone):
    size = 64 if backbone == "sprites" else 24
    network = build_network(
        "pair",
        backbone,
        [8, 16],
        True,
        None if backbone == "sprites" else 8,
        16,
        6,
        5,
        "none",
        [],
        size,
    ).eval()
    codes = network(torch.rand(2, 3, size, size))
    reps = 128 if backbone == "sprites" else 8
    assert [tuple(x.shape) for x in codes] == [(2, reps), (2, 6), (2, reps), (2, 5)]


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="divisible by 2"):
        Decoder(8, 18, [8, 8])
    with pytest.raises(UserError, match="no pretrained weights"):
        module_of("model.pretrained=torchvision:resnet18")
    for override, message in {
        "method.attributes=[corner]": "belongs to method.objective=supervised",
        "method.objective=supervised": "belongs to method.objective=supervised",
        "method.discrete=[a]": "must be a part of method.attributes",
        "method.bandwidth=0": "must be > 0",
        "method.temperature=0": "must be > 0",
        "method.leakage_weight=-1": "leakage_weight must be >= 0",
        "data.crop_scale=[0.5,0.2]": "must be an increasing pair",
        "data.limit=3": "must be even",
        "data.source=volumes": "needs model.backbone=convnet3d",
        "eval.split=dev": "part of data.source=digits",
    }.items():
        with pytest.raises(UserError, match=message):
            config(override)
    with pytest.raises(UserError, match="one dimension for each"):
        config("method.objective=supervised", "method.attributes=[corner]")


# -- two processes equal one ---------------------------------------------------------------------


def test_two_processes_without_gathering_do_not(two_ranks):
    """The comparison can fail."""
    expected = three_steps([], distributed=False)
    options = {"overrides": ["method.gather=false"], "distributed": True}
    state = two_ranks.run(three_steps, **options)[0]
    assert max(float((state[k] - v).abs().max()) for k, v in expected.items()) > 1e-4


# -- exact resume --------------------------------------------------------------------------------
