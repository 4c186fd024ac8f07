"""Data, probes, evaluation and export as the commands drive them (items 7, 8, 13)."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.paired_sets.pairs import PixelStore, SetPair
from common.encoders.modes import evaluated, evaluation_mode
from common.engine.check import inspect
from common.engine.comparison.compare import read_comparison
from common.engine.run import train
from common.engine.workspace import Workspace
from projects.sepclr import build
from projects.sepclr.augment import eval_transform, rescaled, rotated, train_transform
from projects.sepclr.data import build_data, num_samples, set_pair
from projects.sepclr.evaluate import features
from projects.sepclr.module import SepCLR
from projects.sepclr.networks import Codes
from projects.sepclr.probes import (
    auc,
    class_probe,
    code_entropies,
    dimension_correlations,
    number_probe,
    separation_error,
    space_probes,
)
from tests.projects.sepclr.conftest import SUPERVISED, config, module_of

PAPERS = (
    "paper",
    "paper_celeba",
    "paper_chexpert",
    "paper_odir",
    "paper_dsprites",
    "paper_volumes",
)


def train_smoke(folder, *overrides):
    return train("sepclr", "smoke", [f"runs_dir={folder}", *overrides])


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_item_7_salient_norm_tells_the_sets_apart_after_training(tmp_path):
    """Item 7: AUC > 0.95 on test images of the toy set; metrics, items and pictures exist."""
    run = train_smoke(tmp_path, "trainer.max_steps=60")
    metrics = metrics_of(run)
    assert metrics["salient_norm_auc"] > 0.95
    assert metrics["salient_norm_target"] > 2 * metrics["salient_norm_background"]
    for name in ("object", "corner", "domain"):
        for space in ("common", "salient"):
            key = f"{name}_from_{space}"
            assert {key, f"{key}_chance", f"untrained_{key}"} <= metrics.keys()
            items = json.loads((run / f"items/{key}.json").read_text(encoding="utf-8"))
            assert sum(items) / len(items) == pytest.approx(metrics[key])
    assert metrics["corner_separation"] == pytest.approx(
        metrics["corner_from_salient"] - metrics["corner_from_common"]
    )
    pictures = {p.stem for p in (run / "plots").glob("*.png")}
    assert {"probes", "salient_norm", "common_by_corner", "salient_by_object"} <= pictures
    for space in ("common", "salient"):
        rows = json.loads(
            (run / f"gallery/neighbours by {space} code/gallery.json").read_text(encoding="utf-8")
        )
        assert len(rows) == 8


def test_item_7_negative_twin_before_training_the_norms_are_alike(tmp_path):
    """Item 7: the untrained network gives both sets nearly the same norm."""
    cfg = config()
    module, pair = module_of().eval(), set_pair(cfg, "test")
    with evaluated(module, cfg.trainer.accelerator):
        _, codes = features(cfg, module.network, pair, Workspace(tmp_path))
    norms = codes.salient_head.norm(dim=1)
    assert float(norms[pair.target].mean()) < 1.2 * float(norms[~pair.target].mean())


def test_item_8_probes_see_plain_images_before_the_projector_in_eval_mode(tmp_path):
    """Item 8: codes equal encode() of pixel / 255 in eval mode; in training mode they differ."""
    cfg = config()
    module, pair = module_of(), set_pair(cfg, "test")
    plain = pair.samples.pixels.float() / 255
    with evaluated(module, cfg.trainer.accelerator):
        assert not module.training
        _, codes = features(cfg, module.network, pair, Workspace(tmp_path))
    assert module.training
    with evaluation_mode(module):
        common, salient = module.encode(plain)
        head = module.network.common.projector(common)
    torch.testing.assert_close(codes.common_rep, common)
    torch.testing.assert_close(codes.salient_rep, salient)
    torch.testing.assert_close(codes.common_head, head)
    with torch.no_grad():
        assert not torch.allclose(module.encode(plain)[0], common, atol=1e-3)


def pair_of(rows=80):
    """Object and digit are independent; the second half of the rows are targets."""
    index = torch.arange(rows)
    target = index >= rows // 2
    return SetPair(
        PixelStore(torch.zeros(rows, 3, 2, 2, dtype=torch.uint8)), target,
        {"digit": torch.where(target, index // 2 % 4, -1)},
        {"object": index % 2, "age": (index % 2).float()},
    )  # fmt: skip


def perfect_codes(pair):
    """Common code: the object; salient code: the digit and the set."""
    common = torch.nn.functional.one_hot(pair.common["object"]).float()
    salient = torch.nn.functional.one_hot(pair.salient["digit"] + 1, 5).float()
    return Codes(common, common, salient, salient)


def test_perfect_codes_have_no_separation_error():
    pair = pair_of()
    found = space_probes((pair, perfect_codes(pair)), (pair, perfect_codes(pair)))
    values = {name: probe.value for name, probe in found.items()}
    assert values["object_from_common"] == values["digit_from_salient"] == 1
    assert values["domain_from_salient"] == 1
    assert values["digit_from_common"] == pytest.approx(0.25)
    assert values["object_from_salient"] == values["domain_from_common"] == 0.5
    assert values["age_from_common"] == pytest.approx(0, abs=1e-6)
    assert values["age_from_salient"] == pytest.approx(found["age_from_salient"].chance, abs=1e-6)
    assert separation_error(found, pair.salient) == pytest.approx(0)


def test_leaking_codes_are_found_out():
    """The twin: codes that hold everything are as wrong as chance is far from certainty."""
    pair = pair_of()
    both = torch.cat([perfect_codes(pair).common_rep, perfect_codes(pair).salient_rep], 1)
    codes = Codes(both, both, both, both)
    found = space_probes((pair, codes), (pair, codes))
    assert found["digit_from_common"].value == 1
    assert separation_error(found, pair.salient) == pytest.approx((0.75 + 0.5 + 0.5) / 6)


def test_domain_probe_may_read_the_heads():
    pair = pair_of()
    codes = perfect_codes(pair)._replace(salient_head=torch.zeros(80, 3))
    part = (pair, codes)
    assert space_probes(part, part)["domain_from_salient"].value == 1
    assert space_probes(part, part, domain_from_heads=True)["domain_from_salient"].value == 0.5


def test_probes_agree_with_scikit_learn():
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6))
    y = (x @ rng.standard_normal((6, 3)) + rng.standard_normal((300, 3))).argmax(1)
    fit, test = slice(0, 200), slice(200, 300)
    tensors = [(torch.from_numpy(x[part]), torch.from_numpy(y[part])) for part in (fit, test)]
    model = LogisticRegression(max_iter=1000).fit(x[fit], y[fit])
    found = class_probe(*tensors, 3, standardize=False)
    assert found.value == pytest.approx(model.score(x[test], y[test]), abs=0.011)
    balanced = class_probe(*tensors, 3, balanced=True, standardize=False)
    wanted = balanced_accuracy_score(y[test], model.predict(x[test]))
    assert balanced.value == pytest.approx(wanted, abs=0.02)
    z = x @ rng.standard_normal(6) + 3
    tensors = [(torch.from_numpy(x[part]), torch.from_numpy(z[part])) for part in (fit, test)]
    line = LinearRegression().fit(x[fit], z[fit])
    wanted = np.abs(line.predict(x[test]) - z[test]).mean()
    assert number_probe(*tensors, standardize=False).value == pytest.approx(wanted, abs=1e-8)


def test_auc_counts_pairs():
    scores = torch.tensor([0.1, 0.9, 0.8, 0.2])
    target = torch.tensor([False, True, True, False])
    assert auc(scores, target) == 1.0
    assert auc(-scores, target) == 0.0


def test_entropies_show_dependence():
    torch.manual_seed(0)
    code, target = torch.randn(200, 3), torch.ones(200, dtype=torch.bool)
    code = torch.nn.functional.normalize(code, dim=1)
    independent = torch.nn.functional.normalize(torch.randn(200, 3), dim=1)
    same = code_entropies(Codes(code, code, code, code), target, 0.5)
    apart = code_entropies(Codes(code, code, independent, independent), target, 0.5)
    gap = same["kernel_mutual_information"] - apart["kernel_mutual_information"]
    assert gap > 0.3
    assert same["joint_entropy"] < apart["joint_entropy"]


def test_dimension_correlations_find_the_own_dimension():
    torch.manual_seed(0)
    y = torch.rand(100, 2)
    salient = torch.stack([-3 * y[:, 0], y[:, 1] + 1], 1)
    matrix = dimension_correlations(salient, {"a": y[:, 0], "b": y[:, 1]})
    torch.testing.assert_close(matrix.diagonal(), torch.ones(2, dtype=torch.float64))
    assert float(matrix[0, 1]) < 0.4


@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize("arm", read_comparison("sepclr").arms)
def test_item_13_every_arm_of_the_comparison_trains(arm, tmp_path):
    """Item 13: from the same config group; the probes of both spaces exist."""
    own = [f"{key}={json.dumps(v)}" for key, v in read_comparison("sepclr").arms[arm].items()]
    run = train_smoke(tmp_path, *own, "trainer.max_steps=2", "eval.untrained=false")
    metrics = metrics_of(run)
    assert {"corner_from_common", "domain_from_common", "separation_error"} <= metrics.keys()
    assert ("salient_norm_auc" in metrics) == (arm != "simclr")
    assert (run / "plots/decoded.png").exists() == (arm == "vae")


def test_supervised_run_reports_dimensions(tmp_path):
    run = train_smoke(tmp_path, *SUPERVISED, "trainer.max_steps=4", "eval.untrained=false")
    assert 0 <= metrics_of(run)["own_dimension_correlation"] <= 1
    assert (run / "plots/attribute_dimensions.png").exists()
    with pytest.raises(UserError, match="no salient factor 'cornr'.*'corner'"):
        build_data(config(*SUPERVISED, "method.attributes=[cornr]", "method.discrete=[]"))


@pytest.mark.usefixtures("unrendered_figures")
def test_volumes_train(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["participant_id\tage\tsex"]
    for name, shift in (("background", 0), ("target", 2)):
        folder = tmp_path / "volumes" / name
        folder.mkdir(parents=True)
        for i in range(20):
            volume = rng.standard_normal((10, 12, 8)).astype(np.float32)
            volume[:4] += shift
            np.savez(folder / f"{name}{i}.npz", volume)
            lines.append(f"{name}{i}\t{20 + i}\t{'MF'[i % 2]}")
    (tmp_path / "volumes/participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = train_smoke(
        tmp_path / "runs", f"data.root={tmp_path}", "data.source=volumes", "data.image_size=8",
        "model.backbone=convnet3d", "data.batch_size=8", "trainer.max_steps=2",
        "data.noise=0.1", "eval.balanced=true",
    )  # fmt: skip
    metrics = metrics_of(run)
    assert {"age_from_common", "sex_from_salient", "domain_from_salient"} <= metrics.keys()
    cfg = config(f"data.root={tmp_path}", "data.source=volumes", "model.backbone=convnet3d")
    assert num_samples(cfg) == len(set_pair(cfg, "train")) == 32


# -- data ----------------------------------------------------------------------------------------


def test_mini_draws_by_seed_and_keeps_test_images_and_digits_apart():
    first, again = (set_pair(config(name="mini"), "train") for _ in range(2))
    other = set_pair(config("seed=1", name="mini"), "train")
    assert torch.equal(first.samples.pixels, again.samples.pixels)
    assert not torch.equal(first.samples.pixels, other.samples.pixels)
    assert len(first) == 5000
    assert int(first.target.sum()) == 2500
    test, dev = (set_pair(config(f"eval.split={s}", name="mini"), "test") for s in ("test", "dev"))
    assert len(test) == len(dev) == 2000
    assert test.common["object"][test.target].bincount().tolist() == [100] * 10
    assert (first.salient["digit"] >= 0).equal(first.target)
    known = {image.numpy().tobytes() for image in first.samples.pixels}
    for part in (test, dev):
        assert not any(image.numpy().tobytes() in known for image in part.samples.pixels)
    assert torch.equal(
        test.samples.pixels, set_pair(config("seed=1", name="mini"), "test").samples.pixels
    )


def test_batches_do_not_depend_on_the_order_of_access():
    data = build_data(config("data.rotation=20", "data.noise=0.1", "data.flip_prob=0.5")).train_set
    whole, alone = data[[(3, 0), (9, 0), (4, 1)]], data[[(9, 0)]]
    torch.testing.assert_close(whole["view_1"][1], alone["view_1"][0], rtol=1e-4, atol=1e-4)
    assert not torch.equal(whole["view_1"], whole["view_2"])
    assert whole["target"].tolist() == [True, True, False]
    assert whole["factors"].shape == (3, 0)
    assert not torch.equal(data[[(9, 1)]]["view_1"], alone["view_1"])


def test_attributes_come_with_a_plain_first_view():
    """Item 12: what the salient encoder sees is not augmented."""
    cfg = config(*SUPERVISED)
    data, pair = build_data(cfg).train_set, set_pair(cfg, "train")
    batch = data[[(1, 0), (2, 0)]]
    torch.testing.assert_close(batch["view_1"], pair.samples.pixels[[1, 2]].float() / 255)
    assert not torch.equal(batch["view_1"], batch["view_2"])
    assert batch["factors"][:, 0].tolist() == pair.salient["corner"][[1, 2]].tolist()


def test_rotation_turns_and_rescaling_spans_the_unit_interval():
    image = torch.zeros(2, 3, 8, 8)
    image[:, :, 0, 0] = 1
    turned = rotated(image, torch.tensor([0.0, torch.pi / 2]))
    torch.testing.assert_close(turned[0], image[0])
    corners = [(0, 7), (7, 0)]
    assert sorted(float(turned[1, 0, a, b]) for a, b in corners) == pytest.approx([0, 1], abs=1e-5)
    scaled = rescaled(torch.rand(3, 3, 8, 8))
    assert scaled.amin((1, 2, 3)).tolist() == [0.0] * 3
    assert scaled.amax((1, 2, 3)).tolist() == pytest.approx([1.0] * 3)
    data = config("data.rescale=minmax", "data.vertical_flip_prob=1.0").data
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8))
    rng = np.random.default_rng(0)
    for transform, generator in ((train_transform(data), rng), (eval_transform(data), None)):
        one = transform.one(picture, generator)
        assert one.shape == (3, 16, 16)
        assert float(one.max()) == pytest.approx(1.0)
    plain = config().data
    flipped = config("data.vertical_flip_prob=1.0").data
    images = torch.randint(0, 255, (2, 3, 16, 16)).byte()
    views = [
        train_transform(d).batch(images, [np.random.default_rng(i) for i in range(2)])
        for d in (plain, flipped)
    ]
    assert torch.equal(views[0].flip(2), views[1])


# -- the commands --------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["sepclr", "simclr", "vae"])
def test_export_keeps_the_codes_and_the_readme_s_lines_work(tmp_path, objective):
    from common.export.safetensors import load_safetensors
    from projects.sepclr.networks import build_network

    cfg = config(f"method.objective={objective}")
    experiment = build(cfg)
    torch.manual_seed(0)
    module = SepCLR(cfg).eval()
    with torch.inference_mode():
        experiment.export(module, tmp_path)
        again = experiment.load_export(tmp_path).eval()
        before, after = experiment.embed(module), experiment.embed(again)
        network = load_safetensors(tmp_path, build_network)
        codes = network(torch.zeros(1, 3, 16, 16))
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert codes.common_rep.shape[0] == codes.salient_rep.shape[0] == 1


@pytest.mark.parametrize("name", PAPERS)
def test_check_builds_the_paper_s_model_and_names_what_is_missing(name, tmp_path):
    rows = inspect("sepclr", name, [f"data.root={tmp_path}"])
    assert any("MISSING" in value for value in rows.values())
    if name == "paper":
        assert rows["steps"] == "24,250"  # 250 epochs of 97 batches
        assert rows["negatives per query"] == "511"


@pytest.mark.parametrize(
    ("source", "message"),
    [("cifar_mnist", "cifar-10"), ("celeba", "CelebA"), ("chexpert", "CheXpert"),
     ("odir", "ODIR-5K"), ("dsprites", "MNIST")],
)  # fmt: skip
def test_missing_data_is_said_before_training(source, message, tmp_path):
    cfg = config(f"data.root={tmp_path}", f"data.source={source}")
    with pytest.raises(UserError, match=message):
        next(build(cfg).stages())
