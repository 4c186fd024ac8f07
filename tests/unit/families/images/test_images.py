"""The parts that every image experiment shares."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from common.config import ExperimentConfig, TrainerConfig, UserError, leaf_keys
from common.data.image.files import LabelledFiles
from common.data.image.labelled import LabelledPixels
from common.data.image.parts import ImagePart
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from common.evaluation.features import linear_probe
from common.families.images import data as images
from common.families.images.config import (
    CIFAR10_STD_OF_IMAGES,
    ColourChanges,
    ImageSetData,
    ProjectedModel,
    WatchedEval,
)
from common.families.images.evaluation import (
    Frozen,
    FrozenParts,
    frozen_parts,
    item_scores,
    probes,
    show_features,
)
from common.families.images.experiment import (
    TrainedNetwork,
    features_and_embeddings,
    image_experiment,
    watched_stage,
)
from common.families.images.networks import build_network, network_options, projected_encoder
from common.families.images.validation import KnnValidatedModule
from common.registry import config_class
from projects.dcl.views import TwoViews

IMAGE_PROJECTS = ("cacr", "dcl", "hydra", "sepclr")


@dataclass
class Data(ColourChanges, ImageSetData):
    """Images of these tests."""

    source: str = "bundled"
    image_size: int = 16


@dataclass
class Config(ExperimentConfig):
    """Experiment of these tests."""

    data: Data = field(default_factory=Data)
    model: ProjectedModel = field(default_factory=lambda: ProjectedModel("convnet", [4, 6]))
    eval: WatchedEval = field(default_factory=lambda: WatchedEval(ks=[3], items_k=3))
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(max_steps=1))


class Module(KnnValidatedModule):
    """Encoder and projector."""

    def __init__(self, cfg, network=None):
        super().__init__(cfg.optim, k=3, temperature=0.1)
        self.network = network or projected_encoder(cfg)


def config(model=None, **data):
    return Config(data=Data(**data), model=model or ProjectedModel("convnet", [4, 6]))


# -- data ----------------------------------------------------------------------------------------


def test_a_limit_is_balanced_drawn_by_the_seed_and_of_the_stored_size():
    cfg = config(limit=40, cache_size=24)
    first, again = (images.image_part(cfg, "train", images.limited(cfg)) for _ in range(2))
    other = images.image_part(cfg, "train", images.limited(cfg, seed=5))
    whole = images.image_part(cfg, "train")
    assert first.labels.bincount().tolist() == [4] * 10
    assert torch.equal(first.data.images, again.data.images)
    assert not torch.equal(first.data.images, other.data.images)
    assert first.data.images.shape == (40, 3, 24, 24)
    assert len(whole.labels) == 9000
    assert images.num_images(cfg.data) == 40
    with pytest.raises(ValueError, match="for sets in memory, not for imagenet"):
        Data(source="imagenet", limit=40)


def test_the_development_split_is_no_part_of_the_test_images():
    test, dev = config(), config()
    dev.eval.split = "dev"
    kept, held = (images.image_part(cfg, "test").data.images for cfg in (test, dev))
    assert (len(kept), len(held)) == (2000, 1000)
    assert not torch.equal(kept[:1000], held)


def test_transforms_take_the_strengths_of_the_config():
    cfg = Data(jitter=(0.1, 0.2, 0.3, 0.4), crop_scale=(0.3, 0.9), std=(0.5, 0.6, 0.7))
    made = images.simclr_transform(cfg, blur_prob=0.25)
    assert (made.size, made.scale, made.jitter) == (16, (0.3, 0.9), (0.1, 0.2, 0.3, 0.4))
    assert (made.blur_prob, made.std, images.eval_transform(cfg).std) == (0.25, cfg.std, cfg.std)
    assert images.simclr_transform(cfg, size=8, scale=(0.1, 0.2)).scale == (0.1, 0.2)
    assert images.eval_transform(Data()).std == CIFAR10_STD_OF_IMAGES


def test_loaders_validate_only_where_the_config_asks():
    cfg, asked = config(limit=40), []

    def labelled(part):
        asked.append(part)
        return images.image_part(cfg, part, images.limited(cfg))

    train = TwoViews(labelled("train").source(images.simclr_transform(cfg.data)), seed=0)
    assert not images.image_data(cfg, train, labelled).val_sets
    cfg.trainer.val_every_n_steps = 1
    sets = images.image_data(cfg, train, labelled).val_sets
    assert list(sets) == asked[2:] == ["bank", "test"]
    assert set(sets["bank"][0]) == {"images", "labels"}


@pytest.mark.parametrize("every", [None, 1])
def test_a_bank_that_is_too_small_is_refused_before_the_training(every):
    """Not by the first validation, or by the evaluation after it."""
    cfg = config(limit=20)
    cfg.eval = WatchedEval(ks=[30], items_k=30)
    cfg.trainer.val_every_n_steps = every
    with pytest.raises(UserError, match=r"eval\.items_k=30 neighbours of a bank of 20 images"):
        images.image_data(cfg, None, lambda part: images.image_part(cfg, part, images.limited(cfg)))


def test_a_long_list_of_files_is_read_only_where_it_is_needed():
    cfg = config(source="imagenet")
    assert not images.image_data(cfg, None, lambda part: pytest.fail(f"{part} read")).val_sets


def test_requirements_name_what_is_missing(tmp_path):
    assert images.image_requirements("synthetic", None) == ()
    assert images.image_requirements("bundled", None)[0].present
    (need,) = images.image_requirements("imagenet100", str(tmp_path))
    assert not need.present
    assert need.hint.startswith("https://")
    assert images.weight_requirements("random") == ()
    assert images.weight_requirements("torchvision:resnet18")[0].location == "torchvision:resnet18"


# -- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["convnet", "small_alexnet", "resnet18"])
def test_options_rebuild_the_network(backbone):
    model = ProjectedModel(
        backbone, [4, 6], out_dim=5, projector_last_norm=True, projector_last_affine=False
    )
    cfg = config(model)
    first, again = projected_encoder(cfg), build_network(**network_options(cfg))
    assert first.state_dict().keys() == again.state_dict().keys()
    again.load_state_dict(first.state_dict())
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(first.eval()(pixels), again.eval()(pixels))
    assert "projector.layers.4.weight" not in first.state_dict()  # a norm without scale


@pytest.mark.parametrize("backbone", ["convnet", "small_alexnet"])
def test_weights_for_networks_that_have_none_are_refused(backbone):
    model = ProjectedModel(backbone, [4, 6], pretrained="torchvision:resnet18")
    with pytest.raises(UserError, match="no pretrained weights"):
        projected_encoder(config(model))


# -- evaluation ----------------------------------------------------------------------------------


def blobs(rows, classes=3):
    """Separable features."""
    labels = torch.arange(rows) % classes
    noise = torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))
    return Frozen(3 * torch.eye(4)[labels] + noise, labels, torch.arange(rows))


def test_items_are_those_of_the_metrics(monkeypatch):
    """The bank is searched once and the chosen probe is fitted once: metrics and items agree."""
    cfg, parts = config(), FrozenParts(blobs(60), blobs(30))
    fits = []
    fit = linear_probe.fit_logistic_regression

    def counted(x, y, l2, *rest, **options):
        fits.append((len(x), l2))
        return fit(x, y, l2, *rest, **options)

    monkeypatch.setattr(linear_probe, "fit_logistic_regression", counted)
    scores = probes(cfg, parts)
    assert sum(rows == 60 for rows, _ in fits) == 1
    items = item_scores(cfg, scores)
    assert set(items) == {"knn3_top1", "linear_probe_top1"}
    for name, correct in items.items():
        assert float(correct.double().mean()) == scores.metrics[name]
        assert scores.metrics[f"{name}_chance"] == pytest.approx(1 / 3)
    without = probes(cfg, parts, linear=False)
    assert set(item_scores(cfg, without)) == {"knn3_top1"}
    assert without.metrics["knn3_top1"] == scores.metrics["knn3_top1"] > 0.5


def test_unreadable_images_shift_neither_labels_nor_pictures(tmp_path):
    """The first of five files is broken: features, labels and gallery begin with the second."""
    for i in range(5):
        Image.new("RGB", (20, 20), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "0.png").write_bytes(b"no picture")
    files = LabelledFiles(tmp_path, [f"{i}.png" for i in range(5)], torch.arange(5), list("abcde"))
    part = ImagePart(files)
    shown = []

    def gallery(name, rows):
        shown.extend(row["query"].getpixel((0, 0))[0] for row in rows)

    workspace = SimpleNamespace(
        path=tmp_path,
        curves=tmp_path / "metrics.csv",
        gallery=gallery,
        figure=lambda *_: None,
        progress=lambda items, *_: items,
    )
    cfg = config()
    module = Module(cfg).eval()
    parts = frozen_parts(cfg, module.network.encoder, part, part, workspace)
    assert parts.test.labels.tolist() == parts.test.rows.tolist() == [1, 2, 3, 4]
    show_features(workspace, parts, part, part, "title")
    assert shown == [50, 100, 150, 200]


def test_a_bank_with_fewer_images_than_neighbours_is_refused_before_the_work():
    """And where images of it turn out to be unreadable."""
    few = ImagePart(LabelledPixels(torch.zeros(2, 3, 16, 16).byte(), torch.arange(2), list("ab")))
    encoder = lambda images: pytest.fail("encoded")  # noqa: E731
    with pytest.raises(UserError, match=r"eval\.items_k=3 neighbours of a bank of 2 images"):
        frozen_parts(config(), encoder, few, few, None)
    part = Frozen(torch.eye(2), torch.arange(2), torch.arange(2))
    with pytest.raises(UserError, match="to at most 2"):
        probes(config(), FrozenParts(part, part))


# -- experiment ----------------------------------------------------------------------------------


def experiment_of(cfg, passes, labelled=None):
    part = ImagePart(
        LabelledPixels(torch.zeros(4, 3, 16, 16).byte(), torch.arange(4), list("abcd"))
    )
    views = TwoViews(part.source(images.simclr_transform(cfg.data)), seed=0)
    build_data = lambda cfg: images.image_data(cfg, views, lambda _: part)  # noqa: E731
    return image_experiment(
        cfg,
        Module,
        watched_stage(Module, build_data, labelled),
        lambda cfg, module, workspace: {"seed": float(cfg.seed)},
        TrainedNetwork(build_network, network_options(cfg), passes, features_and_embeddings),
        num_samples=lambda cfg: 4,
        requirements=lambda cfg: (),
    )


def test_an_export_is_rebuilt_with_equal_outputs(tmp_path):
    cfg = config()
    experiment = experiment_of(cfg, [(2, (3, 16, 16))])
    (stage,) = experiment.stages()
    assert (stage.name, stage.module.configure_callbacks()) == ("train", [])
    with torch.inference_mode():
        stage.module.eval()
        experiment.export(stage.module, tmp_path)
        before, after = (
            experiment.embed(m.eval()) for m in (stage.module, experiment.load_export(tmp_path))
        )
    assert before.keys() == {"features", "embeddings"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(before["features"], experiment.embed(Module(cfg).eval())["features"])
    assert experiment.evaluate(stage.module, Workspace(tmp_path)) == {"seed": 0.0}


def test_plans_count_all_passes_and_load_no_weights():
    """No weights of that name are on this machine."""
    model = ProjectedModel("resnet18", pretrained="torchvision:none")
    plan, seen = experiment_of(config(model), [(2, (3, 16, 16)), (3, (3, 8, 8))]).plan(), []
    module = plan.module()
    module.network.register_forward_pre_hook(lambda m, args: seen.append(tuple(args[0].shape)))
    assert plan.forward(module, 5).requires_grad
    assert seen == [(10, 3, 16, 16), (15, 3, 8, 8)]


def test_the_online_probe_learns_from_the_labels_of_the_training_part():
    part = ImagePart(
        LabelledPixels(torch.zeros(4, 3, 16, 16).byte(), torch.arange(4), list("abcd"))
    )
    seen = []
    labelled = lambda cfg, name: seen.append(name) or part  # noqa: E731
    cfg, passes = config(), [(1, (3, 16, 16))]
    (stage,) = experiment_of(cfg, passes, labelled).stages()
    assert not seen
    assert stage.module.configure_callbacks() == []
    cfg.eval.online_probe = True
    (stage,) = experiment_of(cfg, passes, labelled).stages()
    assert seen == ["train"]
    (probe,) = stage.module.configure_callbacks()
    assert torch.equal(probe.labels, part.labels)
    assert probe.num_classes == 4
    assert isinstance(stage.module, ContrastiveModule)


@pytest.mark.parametrize("slug", IMAGE_PROJECTS)
def test_one_thing_has_one_name_in_all_image_projects(slug):
    """Sizes of subsets, neighbourhoods, moments and temperatures; CACR's taus multiply."""
    keys = leaf_keys(OmegaConf.structured(config_class(slug)))
    assert "data.limit" in keys
    assert "method.temperature" in keys
    other = {"neighbours", "train_samples", "test_samples", "normalize", "tau", "attribute_tau"}
    assert not other & {key.rpartition(".")[2] for key in keys}
