"""What probes, mechanism and parts read of the config, by stand-ins and by hand."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from projects.sepclr import data, evaluate
from projects.sepclr import module as method
from projects.sepclr.data import build_data, set_pair, transforms
from projects.sepclr.evaluate import gallery, judged, mechanism, probes
from projects.sepclr.module import _sample
from projects.sepclr.networks import ContrastiveVAE
from tests.projects.sepclr.conftest import SUPERVISED, batch, config, module_of

NO_FIGURES = SimpleNamespace(figure=lambda *_: None, items=lambda *_: None)


def test_separation_is_what_salient_codes_know_beyond_common_ones(monkeypatch):
    monkeypatch.setattr(evaluate, "separation_error", lambda *_: 0.0)
    kept = {}
    workspace = SimpleNamespace(items=lambda name, values: kept.update({name: values}))
    scores = {"salient": torch.tensor([1, 1]), "common": torch.tensor([0, 1])}
    results = {
        f"corner_from_{space}": SimpleNamespace(value=0.0, chance=0.5, scores=values)
        for space, values in scores.items()
    }
    metrics = judged(results, SimpleNamespace(salient=["corner"]), workspace)
    assert metrics["corner_separation"] == 0.5
    assert kept["corner_separation"] == [1, 0]


@pytest.mark.parametrize("name", ["balanced", "standardize", "domain_from_heads"])
@pytest.mark.parametrize("value", [True, False])
def test_probes_have_the_options_of_the_config(monkeypatch, name, value):
    asked = {}
    monkeypatch.setattr(evaluate, "space_probes", lambda *_, **options: asked.update(options))
    probes(config(f"eval.{name}={str(value).lower()}"), None, None)
    assert asked[name] == value


def test_norms_and_correlations_by_hand(monkeypatch):
    """Two targets with norms 5 and 3, a background row with norm 1."""
    asked = []
    monkeypatch.setattr(evaluate, "auc", lambda norms, target: 0.5)
    monkeypatch.setattr(
        evaluate,
        "code_entropies",
        lambda codes, target, width: asked.append((target.tolist(), width)) or {},
    )
    matrix = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    monkeypatch.setattr(
        evaluate,
        "dimension_correlations",
        lambda codes, factors: asked.append(factors["corner"].tolist()) or matrix,
    )
    monkeypatch.setattr(evaluate, "norm_figure", lambda *_: None)
    monkeypatch.setattr(evaluate, "matrix_figure", lambda *_: None)
    target = torch.tensor([False, True, True])
    salient = torch.tensor([[1.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    codes = SimpleNamespace(salient_head=salient, common_head=torch.ones(3, 2))
    pair = SimpleNamespace(target=target, salient={"corner": torch.tensor([9.0, 1.0, 2.0])})
    cfg = config(*SUPERVISED, "method.bandwidth=0.3")
    metrics = mechanism(cfg, (pair, codes), NO_FIGURES)
    assert metrics["salient_norm_target"] == 4
    assert metrics["salient_norm_background"] == 1
    assert metrics["own_dimension_correlation"] == pytest.approx(0.8)
    assert metrics["other_dimension_correlation"] == pytest.approx(0.2)
    assert asked == [(target.tolist(), 0.3), [1, 2]]


def test_samples_that_cannot_be_read_have_neither_codes_nor_labels(monkeypatch):
    looks = []
    monkeypatch.setattr(evaluate, "transforms", lambda cfg: ("augmented", "plain"))
    monkeypatch.setattr(evaluate, "source_outputs", lambda *_, **__: ([None] * 4, [0, 2]))

    class Pair(list):
        samples = SimpleNamespace(source=looks.append)

        def rows(self, kept):
            return kept

    network = torch.nn.Linear(1, 1)
    workspace = SimpleNamespace(progress=None)
    assert evaluate.features(config(), network, Pair(range(3)), workspace)[0] == [0, 2]
    assert looks == ["plain"]


def test_every_fourth_target_asks_for_the_others(monkeypatch):
    monkeypatch.setattr(evaluate, "class_gallery", lambda queries, others, *_: (queries, others))
    x = torch.arange(8.0)[:, None]
    queries, others = gallery(None, torch.arange(8), x, torch.arange(8))
    assert queries[1].tolist() == [0, 4]
    assert len(others[0]) == 6


def test_a_picture_without_its_salient_code_keeps_the_common_one(monkeypatch):
    decoded = []
    images = torch.zeros(1, 3, 4, 4)

    def decode(common, salient):
        decoded.append((common.item(), salient.item()))
        return images

    codes = SimpleNamespace(common_rep=torch.tensor([2.0]), salient_rep=torch.tensor([3.0]))
    network = ContrastiveVAE.__new__(ContrastiveVAE)
    torch.nn.Module.__init__(network)
    network.weight = torch.nn.Parameter(torch.zeros(1))
    network.forward, network.decode = lambda images: codes, decode
    source = SimpleNamespace(load=lambda rows: (images, rows))
    pair = SimpleNamespace(
        target=torch.tensor([True]), samples=SimpleNamespace(source=lambda transform: source)
    )
    evaluate.decoded_figure(config(), network, pair)
    assert decoded == [(2, 3), (2, 0)]


def test_test_samples_are_others_and_of_the_split_of_the_config(monkeypatch):
    monkeypatch.setattr(data, "synthetic_set_pair", lambda count, image_size, first: (count, first))
    cfg = config("data.limit=20", "data.test_limit=10")
    assert [set_pair(cfg, part) for part in ("train", "test")] == [(20, 0), (10, 20)]
    monkeypatch.setattr(
        data, "cifar_digits", lambda root, name, num_samples, size, seed: (name, seed)
    )
    cfg = config("data.source=digits", "eval.split=dev", "seed=4")
    assert [set_pair(cfg, part) for part in ("train", "test")] == [("train", 4), ("dev", None)]


def test_diseases_keep_their_shares_in_both_parts_of_odir(monkeypatch):
    pair = SimpleNamespace(salient={"disease": "diseases"}, target=torch.ones(2))
    monkeypatch.setattr(data, "odir_subtypes", lambda *_, **__: pair)
    monkeypatch.setattr(data, "split_pair", lambda pair, share, strata: (strata, share))
    assert set_pair(config("data.source=odir", "data.root=x"), "train") == "diseases"


def test_volumes_get_the_noise_of_the_config(monkeypatch):
    monkeypatch.setattr(data, "VolumeTransform", lambda *args: args)
    train, plain = transforms(
        config("data.source=volumes", "model.backbone=convnet3d", "data.noise=0.25")
    )
    assert train[-1] == 0.25
    assert len(plain) == 1


@pytest.mark.parametrize(("words", "first"), [((), "augmented"), (SUPERVISED, "plain")])
def test_attributes_need_a_plain_first_view(monkeypatch, words, first):
    asked = []
    pair = SimpleNamespace(
        samples=SimpleNamespace(source=lambda t: t), target=None, salient={"corner": None}
    )
    monkeypatch.setattr(data, "set_pair", lambda *_: pair)
    monkeypatch.setattr(data, "transforms", lambda cfg: ("augmented", "plain"))
    monkeypatch.setattr(data, "SetPairViews", lambda views, *_, **__: asked.append(views))
    monkeypatch.setattr(data, "ContrastiveData", lambda *_, **__: None)
    build_data(config(*words))
    assert asked == [(first, "augmented")]


def test_only_listed_attributes_are_classes_and_they_have_a_width_of_their_own(monkeypatch):
    asked = []

    def loss(salient, target, factors, discrete, attribute_tau, tau):
        asked.append((discrete, attribute_tau, tau))
        return salient.sum()

    monkeypatch.setattr(method, "attribute_loss", loss)
    words = ["method.discrete=[]", "method.attribute_bandwidth=0.3", "method.bandwidth=0.7"]
    module_of(*SUPERVISED[:2], SUPERVISED[3], *words).losses(batch(num_factors=1))
    assert asked == [([False], 0.3, 0.7)]


def test_attributes_are_compared_with_codes_of_the_plain_view(monkeypatch):
    asked = []

    def loss(salient, *_, **__):
        asked.append(salient.detach())
        return salient.sum()

    monkeypatch.setattr(method, "attribute_loss", loss)
    module, views = module_of(*SUPERVISED).eval(), batch(num_factors=1)
    module.losses(views)
    torch.testing.assert_close(asked[0], module.network(views["view_1"]).salient_head.detach())


def test_the_reparametrisation_multiplies_noise_by_the_standard_deviation(monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    actual = _sample(torch.tensor(1.0), torch.tensor(2 * math.log(3.0)))
    assert actual.item() == pytest.approx(4)


def test_a_background_row_pays_nothing_for_its_salient_code(monkeypatch):
    images = torch.zeros(4, 3, 2, 2)
    network = SimpleNamespace(
        common=lambda x: (torch.zeros(4, 1), torch.zeros(4, 1)),
        salient=lambda x: (torch.ones(4, 1), torch.zeros(4, 1)),
        decode=lambda common, salient: images,
    )
    monkeypatch.setattr(method, "gaussian_kl", lambda mean, log_variance: mean.sum(1))
    module = SimpleNamespace(method=SimpleNamespace(kl_weight=2.0))
    views = {"view_1": images[:2], "view_2": images[2:], "target": torch.tensor([True, False])}
    terms = method.SepCLR._vae(module, network, views)
    assert (terms["kl"], terms["loss"]) == (0.5, 1)


def test_a_query_is_ranked_among_the_gallery(monkeypatch):
    module = module_of()
    monkeypatch.setattr(module, "encode", lambda images: (images, -images))
    monkeypatch.setattr(method, "search", lambda query, others, k: (query.item(), others.item()))
    query, others = torch.tensor(1.0), torch.tensor(2.0)
    assert module.rank(query, others, "common") == (1, 2)
    assert module.rank(query, others, "salient") == (-1, -2)


def test_probes_learn_from_training_samples_and_the_untrained_codes_are_of_the_seed(monkeypatch):
    asked, seeds = [], []
    fresh = SimpleNamespace(network="fresh")
    monkeypatch.setattr(evaluate, "set_pair", lambda cfg, part: part)
    monkeypatch.setattr(evaluate, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluate, "features", lambda cfg, network, pair, _: (pair, network))
    monkeypatch.setattr(evaluate, "probes", lambda cfg, *parts: asked.append(parts) or {})
    monkeypatch.setattr(
        evaluate, "untrained", lambda build, seed, like: seeds.append(seed) or fresh
    )
    for name in ("judged", "mechanism", "show"):
        monkeypatch.setattr(evaluate, name, lambda *_: {})
    module = SimpleNamespace(network="trained")
    evaluate.evaluate(config("seed=4", "eval.untrained=true"), module, None)
    assert asked == [(("train", name), ("test", name)) for name in ("trained", "fresh")]
    assert seeds == [4]


def test_a_fifth_of_the_volumes_is_for_the_test(tmp_path):
    (tmp_path / "study/target").mkdir(parents=True)
    for number in range(5):
        (tmp_path / f"study/target/{number}.npz").touch()
    words = [f"data.root={tmp_path}", "data.folder=study", "model.backbone=convnet3d"]
    assert data.num_samples(config("data.source=volumes", *words)) == 4
