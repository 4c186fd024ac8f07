"""The experiment as the commands drive it: read-outs, export, resume, card (checklist 14, 16,
17)."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from common.config import UserError, config_names
from common.data.image.labelled import load_cifar10
from common.engine import checkpoint as ckpt
from common.engine.run import train
from common.engine.sweeps.schema import arms_of, read_sweep
from common.engine.workspace import Workspace
from common.evaluation.image_text.zeroshot import (
    CIFAR_TEMPLATES,
    LACLIP_TEMPLATES,
    OPENAI_TEMPLATES,
)
from common.families.image_text.data import eval_transform
from common.families.image_text.drawings import pool_pairs
from common.families.image_text.drawings_evaluation import training_rows
from projects.clip_baselines import build, heads_file
from projects.clip_baselines import evaluate as evaluation
from projects.clip_baselines.evaluate import WEIGHTS, combined, evaluate_pool, readouts
from projects.clip_baselines.heads_file import ZeroShot
from tests.projects.clip_baselines.conftest import BASIC, METHODS, config, module_of

TEXTS = ["a drawing of a cat", "two red arrows"]


@pytest.fixture
def resisc(tmp_path):
    """RESISC45's layout with a red and a blue class."""
    for channel, name in ((0, "airport"), (2, "beach")):
        (tmp_path / "NWPU-RESISC45" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.zeros((32, 32, 3), np.uint8)
            pixels[..., channel] = 100 + 40 * i
            Image.fromarray(pixels).save(tmp_path / "NWPU-RESISC45" / name / f"{i}.png")
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_a_run_validates_and_reports_its_cost(resisc, tmp_path):
    """Checklist 17: speed and memory are metrics; BYOLIP has its momentum copy in the
    checkpoint."""
    words = [
        f"runs_dir={tmp_path}",
        "method.name=byolip",
        "trainer.max_steps=4",
        "trainer.val_every_n_steps=2",
        "eval.validate=resisc45",
        f"eval.root={resisc}",
    ]
    run = train("clip_baselines", "smoke", words)
    folder = run / "checkpoints/train"
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["samples_per_second"] > 0
    assert metrics["peak_memory_mib"] > 0
    assert (run / "metrics.csv").read_text(encoding="utf-8").count("val/zeroshot_top1") == 2
    best = ckpt.load(folder / "best.ckpt")["state_dict"]
    assert sum(name.startswith("average.") for name in best) > 10


def test_item_14_readouts_are_z_h_and_nine_ensembles_of_cosines():
    """Checklist 14: w S_z + (1 - w) S_h for w = 0.1 ... 0.9, and z alone without MLP heads."""
    g = torch.Generator().manual_seed(0)
    a, b = (
        {k: F.normalize(torch.randn(5, 4, generator=g), dim=1) for k in ("z", "h")}
        for _ in range(2)
    )
    actual, other = readouts(a), readouts(b)
    assert list(actual) == ["z", "h", *(f"ens_{w}" for w in WEIGHTS)]
    assert WEIGHTS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    for w in WEIGHTS:
        expected = w * a["z"] @ b["z"].T + (1 - w) * a["h"] @ b["h"].T
        torch.testing.assert_close(actual[f"ens_{w}"] @ other[f"ens_{w}"].T, expected)
    assert list(readouts({"z": a["z"]})) == ["z"]
    assert combined(a, 1.0).shape == (5, 8)


@pytest.mark.slow
def test_item_14_evaluation_of_an_untrained_model_has_all_readouts_near_chance(
    tmp_path, monkeypatch
):
    """Checklist 14: with items, galleries and chance."""
    monkeypatch.setattr(
        evaluation,
        "photographs_to_judge",
        lambda root, split, size: load_cifar10(root, "test", size=size, limit=100),
    )
    rows = evaluation.read_held_out(config(name="mini"))[:100]
    monkeypatch.setattr(evaluation, "read_held_out", lambda cfg: rows)
    cfg = config("data.train_fraction=0.05", name="mini")
    module = build(cfg).plan().module().eval()
    scores, plain = [], evaluation.retrieval_gallery
    monkeypatch.setattr(
        evaluation, "retrieval_gallery", lambda s, *more: scores.append(s) or plain(s, *more)
    )
    with torch.inference_mode():
        metrics = evaluate_pool(cfg, module, Workspace(tmp_path))
    assert torch.equal(scores[0], scores[1].T)
    assert not torch.equal(scores[0], scores[1])
    chances = [metrics[f"{name}_chance"] for name in ("cifar_top1", "name_recall_at_10")]
    assert metrics["score_chance"] == pytest.approx(sum(chances) / 2)
    assert sum(name.endswith("_score") and not name.startswith("chance") for name in metrics) == 11
    assert metrics["score"] == pytest.approx(metrics["ens_0.5_score"], abs=1e-6)
    assert metrics["cifar_top1"] < 0.2
    assert metrics["name_recall_at_10"] < 3 * metrics["name_recall_at_10_chance"]
    items = json.loads((tmp_path / "items/name_recall_at_10.json").read_text(encoding="utf-8"))
    assert sum(items) / len(items) == pytest.approx(metrics["name_recall_at_10"])
    assert json.loads((tmp_path / "items/score.json").read_text(encoding="utf-8")) == {
        "mean_of": ["name_recall_at_10", "cifar_top1"]
    }
    assert (tmp_path / "gallery/name to drawings/gallery.json").exists()
    for head in (module.encoder.model.visual.head.proj, module.heads.local["image"].layers[-1]):
        head.weight.data.zero_()  # all images alike: ties are wrong, whichever class stands first
    module.heads.local["image"].layers[-1].bias.data.zero_()
    monkeypatch.setattr(evaluation, "name_losses", lambda *inputs: {})
    with torch.inference_mode():
        collapsed = evaluate_pool(cfg, module)
    assert collapsed["cifar_top1"] == collapsed["ens_0.5_cifar_top1"] == 0


def test_loss_on_training_names_is_of_drawings_that_were_trained_on(monkeypatch):
    """The seed draws a share of the pool; the others are unseen, so they don't count as
    training."""
    cfg = config("data.train_fraction=0.05", name="mini")
    module = build(cfg).plan().module().eval()
    seen = []
    embed = evaluation.embed_words
    monkeypatch.setattr(
        evaluation, "embed_words", lambda c, m, texts: seen.extend(texts) or embed(c, m, texts)
    )
    held_out = F.normalize(torch.randn(150, 128), dim=1)
    with torch.inference_mode():
        actual = evaluation.name_losses(cfg, module, held_out, held_out)
    _, texts = pool_pairs(cfg, eval_transform(cfg.data))
    trained = {texts.texts(i)[0] for i in range(len(texts))}
    assert len(texts) == round(0.05 * 3456)
    assert seen == [texts.texts(i)[0] for i in training_rows(len(texts), 150)]
    assert len(seen) == 128
    assert set(seen) <= trained
    assert actual["loss_gap"] == actual["pair_loss_test"] - actual["pair_loss_train"]


def test_item_14_labelled_sets_have_all_read_outs_and_the_headline(resisc, tmp_path, monkeypatch):
    """Checklist 14: eleven read-outs of a set, the headline's weight, CLIP's sentences."""
    cfg = config("eval.datasets=[resisc45]", f"eval.root={resisc}", "eval.ensemble=0.3")
    module = module_of()
    codes = {"z": torch.tensor([[1.0, 0.0]]), "h": torch.tensor([[0.0, 1.0]])}
    monkeypatch.setattr(
        module, "embed_images", lambda x: {k: v.expand(len(x), 2) for k, v in codes.items()}
    )
    names = {"z": [[1.0, 0.0], [0.8, 0.6]], "h": [[0.6, 0.8], [0.0, 1.0]]}  # z: airport, h: beach
    monkeypatch.setattr(
        module,
        "embed_texts",
        lambda texts: {k: torch.tensor([v["beach" in t] for t in texts]) for k, v in names.items()},
    )
    actual = evaluation.evaluate_image_set(cfg, module, "resisc45")
    assert set(actual) == {
        "resisc45_top1",
        *(f"resisc45_{r}_top1" for r in ["z", "h", *(f"ens_{w}" for w in WEIGHTS)]),
    }
    # z says airport and h says beach for every image, so each is right for half of them; a tie is
    # wrong
    wrong = {key for key, value in actual.items() if value != 0.5}
    assert wrong == {"resisc45_ens_0.5_top1"}
    judged = []
    original = evaluation.zeroshot_accuracy

    def spy(images, labels, classes, **options):
        judged.append(float(images[0] @ classes[0]))
        return original(images, labels, classes, **options)

    monkeypatch.setattr(evaluation, "zeroshot_accuracy", spy)
    evaluation.evaluate_image_set(cfg, module, "resisc45")
    assert judged[-1] == pytest.approx(0.3 * 1 + 0.7 * 0.8)  # cosines of z and h with "airport"
    data = SimpleNamespace(templates=["a photo of {}."])
    for templates, expected, count in (
        ("openai", CIFAR_TEMPLATES, 18),
        ("simple", data.templates, 1),
    ):
        own = config(f"eval.templates={templates}")
        validated = module_of(f"eval.templates={templates}").templates
        assert (validated == OPENAI_TEMPLATES) == (templates == "openai")
        imagenet, cifar = (evaluation.templates_of(own, n, data) for n in ("imagenet", "cifar100"))
        assert cifar == expected
        assert imagenet == (OPENAI_TEMPLATES if templates == "openai" else LACLIP_TEMPLATES)
        assert len(evaluation.templates_of(own, "resisc45", data)) == count


def test_hateful_memes_are_judged_by_the_area_under_the_curve():
    """As released: by the difference of the cosines with both classes, not by their order."""
    assert [evaluation.metric_of(name) for name in ("hateful_memes", "pets", "mnist")] == [
        "roc_auc",
        "mean_per_class",
        "top1",
    ]
    classes, labels = torch.eye(2), torch.tensor([0, 0, 1, 1])
    rows = F.normalize(torch.tensor([[9.0, 1.0], [3.0, 1.0], [4.0, 1.0], [2.0, 1.0]]), dim=1)
    # of the four pairs of both classes three are in order, though no row is nearer to class 1
    assert evaluation.class_metric(rows, labels, classes, "roc_auc") == pytest.approx(3 / 4)
    assert evaluation.class_metric(rows, labels, classes, "top1") == pytest.approx(1 / 2)


def test_export_opens_in_open_clip_with_equal_embeddings_and_keeps_both_heads(tmp_path):
    import open_clip

    cfg = config("eval.ensemble=0.4")
    experiment, module = build(cfg), module_of().eval()
    module.local_scale.log_scale.data.fill_(1.5)
    with torch.inference_mode():
        experiment.export(module, tmp_path)
        again = experiment.load_export(tmp_path).eval()
        before, after = experiment.embed(module), experiment.embed(again)
        assert {"image", "text", "text_z", "text_h"} == before.keys()
        assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
        assert torch.allclose(before["text"], before["text_z"], atol=1e-5)
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
        assert torch.allclose(model.eval().encode_text(tokens), before["text"], atol=1e-5)
        pixels = torch.linspace(-2, 2, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)
        assert torch.allclose(model.encode_image(pixels), before["image"], atol=1e-5)
        user = ZeroShot(tmp_path, weight=0.3)
        z = F.normalize(before["image"], dim=1) @ F.normalize(before["text_z"], dim=1).T
        h = module.embed_images(pixels)["h"]
        h = F.normalize(h, dim=1) @ F.normalize(before["text_h"], dim=1).T
        torch.testing.assert_close(
            user.similarity(pixels, TEXTS), 0.3 * z + 0.7 * h, atol=1e-5, rtol=1e-4
        )
    assert float(again.local_scale.log_scale) == 1.5
    assert ZeroShot(tmp_path).weight == pytest.approx(0.4)  # that of the run's headline read-out
    assert ZeroShot(tmp_path, weight=0).weight == 0
    assert not ZeroShot(tmp_path).heads.training
    (tmp_path / heads_file.FILE).unlink()
    with pytest.raises(UserError, match="separate heads"):
        experiment.load_export(tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(
            ZeroShot(tmp_path).similarity(pixels, TEXTS), z, atol=1e-5, rtol=1e-4
        )


def test_item_16_one_grid_of_recipes_and_methods():
    """Checklist 16: every ingredient of the strong recipe is a switch of its own in
    compare.yaml."""
    from common.engine.comparison.spec import read_comparison

    arms = read_comparison("clip_baselines").arms
    for name in ("clip", "siam", "byol", "bar", "swal"):
        assert {f"{name}_basic", f"{name}_strong"} <= arms.keys()
    switches = {
        "no_image_augmentation",
        "no_text_augmentation",
        "no_heads",
        "no_smoothing",
        "no_dropout",
        "more_decay",
    }
    assert switches <= arms.keys()
    for method in METHODS:
        smoothing = ["method.label_smoothing=0"] if method == "swalip" else []
        assert config(f"method.name={method}", *smoothing, name="paper").method.name == method
        config(f"method.name={method}", *BASIC, name="paper")


def test_item_17_all_cells_of_the_grid_see_the_same_number_of_images():
    """Checklist 17: of {basic, strong} x five methods; the arm with three times as many is none of
    them.
    """
    from common.engine.comparison.spec import read_comparison

    arms = read_comparison("clip_baselines").arms
    cells = [
        f"{name}_{recipe}"
        for name in ("clip", "siam", "byol", "bar", "swal")
        for recipe in ("basic", "strong")
    ]
    seen = {}
    for name in [*cells, "clip_basic_x3"]:
        cfg = config(*(f"{k}={v}" for k, v in arms[name].items()), name="mini")
        seen[name] = (cfg.trainer.max_steps, cfg.data.batch_size, cfg.trainer.max_epochs)
    assert len({seen[name] for name in cells}) == 1
    assert seen["clip_basic_x3"] != seen["clip_basic"]


@pytest.mark.parametrize("name", ["paper_yfcc_vits", "paper_yfcc_vitb"])
def test_image_towers_of_the_vits_are_timm_s_as_far_as_open_clip_allows(name):
    """Guards against the text tower's QuickGELU and LayerNorm eps 1e-5 in ViT-B's image tower;
    ViT-S keeps the former.
    """
    from open_clip.model import CLIP

    with torch.device("meta"):
        built = CLIP(**config(name=name).model.open_clip)
    kinds = {type(module).__name__ for module in built.visual.modules()}
    assert {m.eps for m in built.visual.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    assert ("QuickGELU" in kinds) == (name == "paper_yfcc_vits")
    assert sum(p.numel() for p in built.visual.parameters()) > (
        2e7 if name == "paper_yfcc_vits" else 8.5e7
    )


def test_the_search_is_equal_and_has_the_config_s_rate_inside():
    """Same rates for every default arm, on the development part, with a seed of its own."""
    from common.engine.comparison.spec import read_comparison

    spec, sweep = read_comparison("clip_baselines"), read_sweep("clip_baselines")
    assert list(arms_of("clip_baselines", sweep, [])) == spec.default_arms
    rates = [point["optim.lr"] for point in sweep.grid()]
    assert min(rates) < config(name="mini").optim.lr < max(rates)
    assert len(rates) >= 3
    assert sweep.shared["eval.split"] == "dev"
    assert sweep.seed not in spec.seeds
    mini = config(name="mini")
    assert 10 * mini.method.freeze_prototypes_steps <= mini.trainer.max_steps


def test_every_main_setting_has_a_config_with_its_values():
    """The recipe table of the paper's release."""
    # epochs, text layers, text dropout, reduction, weight decay, learning rate, texts cleaned
    rows = {
        "paper": (32, 12, 0.0, "sum", 0.1, 3e-3, True),
        "paper_cc3m": (32, 6, 0.2, "avg", 0.5, 3e-3, False),
        "paper_cc12m": (32, 12, 0.05, "sum", 0.1, 3e-3, False),
        "paper_cc12m_lip": (32, 12, 0.1, "sum", 0.1, 3e-3, False),
        "paper_yfcc_lip": (32, 12, 0.0, "sum", 0.1, 3e-3, True),
        "paper_yfcc_vits": (25, 12, 0.0, "sum", 0.1, 3e-3, True),
        "paper_yfcc_vitb": (25, 12, 0.0, "sum", 0.1, 3e-3, True),
        "paper_29m": (32, 12, 0.0, "sum", 0.1, 2e-3, True),
    }
    assert rows.keys() <= set(config_names("clip_baselines"))
    for name, row in rows.items():
        cfg = config(name=name)
        text = cfg.model.open_clip["text_cfg"]
        method, optim = cfg.method, cfg.optim
        actual = (cfg.trainer.max_epochs, text["layers"], method.text_dropout, method.reduction)
        cleaned = cfg.data.clean_before_augment
        assert (*actual, optim.weight_decay, optim.lr, cleaned) == row, name
    assert config(name="paper").data.remove_stopwords_prob == 0.9
    assert config(name="paper_29m").data.captions_of_views == "multi"


def test_every_set_has_its_official_metric():
    metrics = {
        name: evaluation.metric_of(name) for name in ("food101", "aircraft", "hateful_memes")
    }
    assert metrics == {
        "food101": "top1",
        "aircraft": "mean_per_class",
        "hateful_memes": "roc_auc",
    }


def test_cost_is_the_median_speed_and_the_largest_memory(tmp_path, monkeypatch):
    """Of the logged steps; nothing of a run that has logged none."""
    work = Workspace(tmp_path)
    assert evaluation.cost(work) == {}
    curves = {
        "train/samples_per_second": [(1, 5.0), (2, 9.0), (3, 50.0)],
        "train/peak_memory_mib": [(1, 7.0), (2, 30.0), (3, 8.0)],
    }
    work.curves.parent.mkdir(parents=True, exist_ok=True)
    work.curves.write_text("")
    monkeypatch.setattr(evaluation, "read_metrics", lambda path: curves)
    assert evaluation.cost(work) == {"samples_per_second": 9, "peak_memory_mib": 30}


def test_rows_of_the_pool_are_of_the_split_and_of_new_weights(tmp_path, monkeypatch):
    """`eval.split` chooses the photographs; untrained_* is a model of the seed before training."""
    asked = []
    monkeypatch.setattr(
        evaluation, "photographs_to_judge", lambda root, split, size: asked.append(split) or 1 / 0
    )
    monkeypatch.setattr(evaluation, "read_held_out", lambda cfg: [{"image": "", "name": "a"}])
    monkeypatch.setattr(evaluation, "pool_images", lambda *_: None)
    monkeypatch.setattr(evaluation, "embed_pixels", lambda *_: None)
    monkeypatch.setattr(evaluation, "embed_words", lambda *_: None)
    for split in ("dev", "test"):
        with pytest.raises(ZeroDivisionError):
            evaluate_pool(config(f"eval.split={split}", name="mini"), module_of())
    assert asked == ["dev", "test"]
    judged = []
    names = ("score", "cifar_top1", "name_recall_at_10")
    monkeypatch.setattr(
        evaluation,
        "evaluate_pool",
        lambda cfg, module, *_: judged.append(module) or dict.fromkeys(names, float(len(judged))),
    )
    seeds, untrained = [], evaluation.modes.untrained
    monkeypatch.setattr(
        evaluation.modes,
        "untrained",
        lambda make, seed, like: seeds.append(seed) or untrained(make, seed, like),
    )
    monkeypatch.setattr(evaluation, "evaluate_image_set", lambda cfg, module, name: {name: 1.0})
    cfg = config("eval.datasets=[pets,dtd]", "seed=3", name="mini")
    module = module_of()
    module.local_scale.log_scale.data.fill_(1.0)
    actual = evaluation.evaluate(cfg, module, Workspace(tmp_path), module_of)
    assert [actual[n] for n in ("score", "untrained_score", "pets", "dtd")] == [1, 2, 1, 1]
    assert actual["local_scale"] == pytest.approx(math.e)
    assert seeds == [3]
    assert judged[0] is module
    assert judged[1] is not module
