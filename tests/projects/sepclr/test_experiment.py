"""Data, evaluation and export as the commands drive them (items 7, 8, 13)."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from common.config import UserError
from common.encoders.modes import evaluated, evaluation_mode
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from common.engine.workspace import Workspace
from projects.sepclr import build
from projects.sepclr import data as data_of_sepclr
from projects.sepclr.augment import eval_transform, rescaled, rotated, train_transform
from projects.sepclr.data import build_data, num_samples, set_pair
from projects.sepclr.evaluate import features
from projects.sepclr.module import SepCLR
from projects.sepclr.paired_sets.pairs import PixelStore, SetPair
from tests.projects.sepclr.conftest import SUPERVISED, config, module_of
from tests.smoke import metrics_of


def train_smoke(folder, *overrides):
    return train("sepclr", "smoke", [f"runs_dir={folder}", *overrides])


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_supervised_run_reports_dimensions(tmp_path):
    run = train_smoke(tmp_path, *SUPERVISED, "trainer.max_steps=4", "eval.untrained=false")
    assert 0 <= metrics_of(run)["own_dimension_correlation"] <= 1
    assert (run / "plots/attribute_dimensions.png").exists()
    with pytest.raises(UserError, match="no salient factor 'cornr'.*'corner'"):
        build_data(config(*SUPERVISED, "method.attributes=[cornr]", "method.discrete=[]"))


@pytest.mark.slow
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
        tmp_path / "runs",
        f"data.root={tmp_path}",
        "data.source=volumes",
        "data.image_size=8",
        "model.backbone=convnet3d",
        "data.batch_size=8",
        "trainer.max_steps=2",
        "data.noise=0.1",
        "eval.balanced=true",
    )
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


def test_rotation_turns_and_vertical_flips_turn_upside_down():
    image = torch.zeros(2, 3, 8, 8)
    image[:, :, 0, 0] = 1
    turned = rotated(image, torch.tensor([0.0, torch.pi / 2]))
    torch.testing.assert_close(turned[0], image[0])
    corners = [(0, 7), (7, 0)]
    assert sorted(float(turned[1, 0, a, b]) for a, b in corners) == pytest.approx([0, 1], abs=1e-5)
    plain = config().data
    flipped = config("data.vertical_flip_prob=1.0").data
    images = torch.randint(0, 255, (2, 3, 16, 16)).byte()
    views = [
        train_transform(d).batch(images, [np.random.default_rng(i) for i in range(2)])
        for d in (plain, flipped)
    ]
    assert torch.equal(views[0].flip(2), views[1])


@pytest.mark.parametrize(
    ("source", "reader", "test_sizes"),
    [
        ("celeba", "celeba_accessories", None),
        ("chexpert", "chexpert_subtypes", None),
        ("odir", "odir_subtypes", {-1: 6, 0: 2, 1: 1, 2: 1}),
        ("volumes", "volume_folders", {False: 12, True: 8}),
    ],
)
def test_parts_are_the_shares_of_the_release(source, reader, test_sizes, monkeypatch):
    """Item 15: 20 % of CelebA, 10 % of CheXpert and ODIR; of ODIR a tenth of each disease."""
    disease = torch.tensor([-1] * 60 + [0] * 20 + [1] * 10 + [2] * 10)
    pixels = torch.arange(100).byte()[:, None, None, None].expand(-1, 3, 1, 1)
    pair = SetPair(PixelStore(pixels), disease >= 0, {"disease": disease}, {})
    monkeypatch.setattr(data_of_sepclr, reader, lambda *_, **__: pair)
    backbone = "convnet3d" if source == "volumes" else "convnet"
    cfg = config(f"data.source={source}", f"model.backbone={backbone}")
    train, test = (set_pair(cfg, part) for part in ("train", "test"))
    share = 10 if source in ("chexpert", "odir") else 20
    assert (len(train), len(test)) == (100 - share, share)
    rows = torch.cat([train.samples.pixels, test.samples.pixels])[:, 0, 0, 0]
    assert sorted(rows.tolist()) == list(range(100))
    if test_sizes:
        strata = (test.target if source == "volumes" else test.salient["disease"]).tolist()
        assert {value: strata.count(value) for value in test_sizes} == test_sizes


def test_noise_is_grey_and_falls_on_its_share_of_the_images():
    """The generator's coin decides for each image; the deviation is that of the config."""
    data = config("data.noise=2", "data.noise_prob=0.5", "data.jitter_prob=0").data
    images = torch.full((40, 3, 16, 16), 51, dtype=torch.uint8)
    grain = train_transform(data).batch(images, [np.random.default_rng(i) for i in range(40)]) - 0.2
    noisy = grain.abs().amax((1, 2, 3)) > 1e-3
    assert 10 < int(noisy.sum()) < 30
    assert float(grain[noisy].std()) == pytest.approx(2, rel=0.05)
    torch.testing.assert_close(grain[:, :1].expand(-1, 3, -1, -1), grain)


def test_rescaling_is_the_release_s_fixed_map_before_the_augmentation():
    """All images share the scale of the released ODIR set; a dark one stays dark."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 20, 20, 3), np.uint8)  # RGB
    images[0, 0, 0], images[0, 0, 1], images[1] = 0, 255, images[1] // 4
    # BGR and moments of [0, 1] on bytes, as cv2 and the release have them
    actual = (images[..., ::-1] - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    actual = (actual - actual.min()) / (0.001 + (actual - actual.min()).max())
    pixels = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    expected = torch.from_numpy(actual[..., ::-1].copy()).permute(0, 3, 1, 2)
    ours = rescaled(pixels)
    assert float((ours / 255 - expected).abs().max()) < 0.51 / 255
    on, off = (config(f"data.rescale={x}", "data.rotation=20").data for x in ("minmax", "none"))
    rngs = [[np.random.default_rng(i) for i in range(3)] for _ in range(3)]
    views = train_transform(on).batch(pixels, rngs[0])
    assert torch.equal(views, train_transform(off).batch(ours, rngs[1]))
    torch.testing.assert_close(eval_transform(on).batch(pixels), eval_transform(off).batch(ours))
    picture, mapped = Image.fromarray(images[1]), to_pil_image(ours[1])
    one = train_transform(on).one(picture, rngs[2][1])
    assert torch.equal(one, train_transform(off).one(mapped, np.random.default_rng(1)))


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


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cifar_mnist", "cifar-10"),
        ("celeba", "CelebA"),
        ("chexpert", "CheXpert"),
        ("odir", "ODIR-5K"),
        ("dsprites", "MNIST"),
    ],
)
def test_missing_data_is_said_before_training(source, message, tmp_path):
    cfg = config(f"data.root={tmp_path}", f"data.source={source}")
    with pytest.raises(UserError, match=message):
        next(build(cfg).stages())
