"""The experiment as the commands drive it: evaluation, export, fine-tuning, check, the card."""

import csv
import json

import pytest
import torch
from PIL import Image

from common.config import ROOT, UserError
from common.encoders.image.grid import grid_tower
from common.engine.check import inspect
from common.engine.run import train
from common.engine.trained import module_of_run
from common.engine.workspace import Workspace
from projects.one_to_k import build
from projects.one_to_k.baselines import constant_text, random_ranking, untrained_model
from projects.one_to_k.cross_lingual import Ranks, cross_lingual_metrics
from projects.one_to_k.data import (
    EvalSet,
    build_tokenizer,
    emoji_rows,
    evaluation_sets,
    training_source,
    validation_set,
)
from projects.one_to_k.evaluate import ranks_of, save_items, table
from projects.one_to_k.export import Retriever
from projects.one_to_k.module import OneToK
from projects.one_to_k.retrieval_sets import LanguageSet
from projects.one_to_k.stages import embed, num_samples, requirements
from projects.one_to_k.start import starting_module
from projects.one_to_k.two_stage import NEVER, best_ranks, rescored
from tests.cards import run_card
from tests.projects.one_to_k.conftest import PLAIN, batch_of, config, module_of
from tests.projects.one_to_k.test_data import benchmark_files, picture, wit_files


def test_items_13_18_one_table_of_recall_spread_and_mrv():
    """Checklist 13, 18: by hand for two languages and two queries."""
    ranks = {
        "en": Ranks(torch.tensor([1, 1]), torch.tensor([1, 3])),
        "de": Ranks(torch.tensor([1, 5]), torch.tensor([1, 1])),
    }
    actual = cross_lingual_metrics(ranks, aligned=True, ks=(1, 2))
    assert actual["en_recall_mean"] == pytest.approx(0.75)
    assert actual["de_text_to_image_recall_at_1"] == 1.0
    assert actual["recall_mean"] == pytest.approx(0.75)
    assert actual["recall_spread"] == pytest.approx(0.0)
    assert actual["image_to_text_recall_at_1"] == pytest.approx(0.75)
    assert actual["image_to_text_mrv_std"] == pytest.approx(1.0)
    assert actual["text_to_image_mrv_std"] == pytest.approx(0.5)
    assert actual["text_to_image_mrv_var"] == pytest.approx(0.5)
    assert actual["mrv_std"] == pytest.approx(0.75)
    assert actual["mrv_over_mean_rank"] == pytest.approx((1.0 / 2 + 0.5 / 1.5) / 2)
    assert "mrv_std" not in cross_lingual_metrics(ranks, aligned=False)


def test_item_18_second_stage_scores_the_best_and_no_other():
    """Checklist 18: top k_test by the matching head, the others -100; ties count against us."""
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    again = rescored(scores, lambda pairs: (pairs[:, 1] == 1).float(), k=2, batch_size=3)
    assert again.tolist() == [[0, 1, NEVER], [NEVER, 1, 0]]
    assert best_ranks(again, [[1], [0]]).tolist() == [1, 3]
    assert best_ranks(torch.zeros(1, 4), [[0, 2]]).tolist() == [3]


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_the_contrast_learns_and_reports_chance_and_the_untrained_model(tmp_path):
    words = (*PLAIN, "trainer.max_steps=40", "optim.lr=5e-3", "run_id=r", f"runs_dir={tmp_path}")
    run = train("one_to_k", "smoke", list(words))
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["recall_mean"] > metrics["recall_mean_chance"] + 0.1
    assert metrics["recall_mean"] > metrics["untrained_recall_mean"]
    items = json.loads((run / "items/recall_mean.json").read_text())
    assert sum(items) / len(items) == pytest.approx(metrics["recall_mean"])
    spread = json.loads((run / "items/mrv_std.json").read_text())
    assert sum(spread) / len(spread) == pytest.approx(metrics["mrv_std"])
    assert (run / "gallery/l0 to images/gallery.json").exists()
    # another objective starts from the export of this run
    again = config(*PLAIN, f"model.init={run}/export", "method.objective=random_language")
    experiment = build(config(*PLAIN))
    trained = module_of_run(experiment, run)
    experiment.export(trained, run / "export")
    module = next(build(again).stages()).module
    for name, value in trained.network.state_dict().items():
        assert torch.equal(module.network.state_dict()[name], value), name
    assert module.network.training
    learnt = float(trained.temperature.temperature)
    assert learnt != again.model.temperature
    assert float(module.temperature.temperature) == pytest.approx(learnt)
    with pytest.raises(UserError, match="no matching head"):
        next(build(config(f"model.init={run}/export")).stages())


def test_export_reloads_with_equal_embeddings_and_a_matching_head(tmp_path):
    cfg, module = config(), module_of().eval()
    module.temperature.temperature.data.fill_(0.03)
    with torch.inference_mode():
        build(cfg).export(module, tmp_path / "export")
        again = build(cfg).load_export(tmp_path / "export").eval()
        before, after = embed(cfg, module), embed(cfg, again)
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
    assert float(again.temperature.temperature) == pytest.approx(0.03)
    opened = Retriever.load(tmp_path / "export")
    texts = ["a red apple", "ein roter Apfel"]
    assert torch.allclose(opened.encode_texts(texts), before["text"], atol=1e-6)
    match = opened.match([Image.new("RGB", (30, 20), "red")] * 2, texts)
    assert match.shape == (2,)
    pictures = [Image.new("RGB", (9, 9), color) for color in ("red", "blue", "green")]
    for encode, inputs in ((opened.encode_images, pictures), (opened.encode_texts, [*texts, "x"])):
        torch.testing.assert_close(encode(inputs, batch_size=2), encode(inputs))
        assert encode([]).shape == (0, encode(inputs).shape[1])
    assert bool(((match > 0) & (match < 1)).all())


@pytest.mark.parametrize("bias", ["true", "false"])
def test_projections_of_both_kinds_go_through_an_export(tmp_path, bias):
    """The release's are plain linear layers (`XVLMBase`); an export without the key has no bias."""
    words = (*PLAIN, f"model.projection_bias={bias}")
    cfg, module = config(*words), module_of(*words).eval()
    build(cfg).export(module, tmp_path)
    options = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert options["network"]["projection_bias"] == (bias == "true")
    if bias == "false":
        del options["network"]["projection_bias"]
        (tmp_path / "config.json").write_text(json.dumps(options), "utf-8")
    with torch.inference_mode():
        before = embed(cfg, module)
        after = embed(config(), build(config(*PLAIN)).load_export(tmp_path).eval())
    assert all(torch.equal(before[k], after[k]) for k in before)
    for name in ("image_projection", "text_projection"):
        projection = getattr(Retriever.load(tmp_path).network, name)
        assert (projection.bias is not None) == (bias == "true")
        bounded = float(projection.weight.abs().max()) <= projection.in_features**-0.5
        assert bounded == (bias == "true")  # uniform as torch draws it, or normal
    biased = {p: config(name=p).model.projection_bias for p in ("paper", "paper_wit", "mini")}
    assert biased == {"paper": True, "paper_wit": True, "mini": False}


def test_item_11_the_projections_biases_are_new_and_do_not_decay():
    """Checklist 11: twice the rate, no weight decay."""
    module = module_of(*PLAIN, "model.projection_bias=true")
    for projection in (module.network.image_projection, module.network.text_projection):
        (group,) = [
            g for g in module.parameter_groups() if any(p is projection.bias for p in g["params"])
        ]
        assert (group["lr_scale"], group["weight_decay"]) == (2.0, 0.0)
    module.losses(batch_of(*PLAIN))["loss"].backward()
    assert bool(module.network.image_projection.bias.grad.abs().sum() > 0)


def test_the_mini_s_model_gives_cosines_and_has_no_matching(tmp_path):
    cfg = config(name="mini")
    from projects.one_to_k.module import OneToK

    with torch.inference_mode():
        build(cfg).export(OneToK(cfg).eval(), tmp_path)
    assert run_card("one_to_k", tmp_path)["cosines"].shape == (1, 2)
    with pytest.raises(UserError, match="without matching"):
        Retriever.load(tmp_path).match([Image.new("RGB", (9, 9))], ["x"])


def test_trivial_rows_show_that_mrv_alone_says_nothing():
    """A constant text vector has no variance and no recall; a random ranking has both at chance."""
    cfg = config(name="mini")
    space = Workspace(ROOT / "unused")
    constant, chance = constant_text(cfg, space), random_ranking(cfg, space)
    assert (constant["mrv_std"], constant["recall_mean"]) == (0.0, 0.0)
    assert chance["mrv_std"] == pytest.approx(69, rel=0.05)  # 269 drawings, six languages
    assert chance["recall_mean"] == pytest.approx(16 / 3 / 269, rel=0.3)
    raw = untrained_model(config(*PLAIN), space)
    assert 0.3 < raw["recall_mean"] < 0.9


def test_item_18_a_benchmark_is_evaluated_under_its_name(tmp_path):
    """Checklist 18: zero-shot on a set in its official layout, with the second stage."""
    benchmark_files(tmp_path)
    for n in (1, 2):
        picture(tmp_path / f"xflickrco/images/{n}.jpg", n)
    cfg = config(f"data.root={tmp_path}", "eval.benchmarks=[xflickrco]", "eval.languages=[en,de]")
    metrics = build(cfg).evaluate(module_of(), Workspace(tmp_path / "run"))
    names = (
        "en_recall_mean",
        "de_image_to_text_recall_at_1",
        "recall_spread",
        "mrv_std",
        "mrv_var",
    )
    assert all(f"xflickrco_{n}" in metrics for n in names if n != "mrv_var")
    assert "xflickrco_text_to_image_mrv_var" in metrics
    (tmp_path / "xflickrco/images/2.jpg").unlink()
    with pytest.raises(UserError, match="every picture"):
        build(cfg).evaluate(module_of(), Workspace(tmp_path / "run"))


def test_item_18_xflickrco_has_recall_in_eight_languages_and_mrv_over_four():
    """Checklist 13, 18: the release's `analysis_ranks` reads en, de, ja, zh."""
    ranks = {x: Ranks(torch.tensor([1]), torch.tensor([1])) for x in ("de", "en", "ja", "zh")}
    ranks["ru"] = Ranks(torch.tensor([11]), torch.tensor([11]))
    one = LanguageSet(("a",), ("b",), (0,))
    actual = EvalSet(dict.fromkeys(ranks, one), torch.zeros)
    own = table("xflickrco", ranks, actual)
    assert (own["mrv_std"], own["recall_mean"]) == (0.0, pytest.approx(0.8))
    assert own["recall_spread"] == 1.0
    assert table("multi30k", ranks, actual)["mrv_std"] == pytest.approx(4.0)
    few = {x: ranks[x] for x in ("en", "ru")}
    assert table("xflickrco", few, EvalSet(dict.fromkeys(few, one), torch.zeros))["mrv_std"] == 5.0


def test_items_13_18_mrv_leaves_out_the_image_that_a_language_lacks(tmp_path):
    """Checklist 13, 18: one German caption of xFlickr&CO is empty; WIT's languages stay apart."""
    whole, part = (
        LanguageSet(tuple("abc"), tuple("xyz"), (0, 1, 2)),
        LanguageSet(tuple("ac"), tuple("xz"), (0, 1)),
    )
    first, second = torch.tensor([1, 9, 5]), torch.tensor([1, 3])
    ranks = {x: Ranks(first, first) for x in ("en", "ja", "zh")} | {"de": Ranks(second, second)}
    actual = EvalSet({x: part if x == "de" else whole for x in ranks}, torch.zeros)
    by_hand = torch.tensor([5.0, 5, 5, 3]).std(correction=0).item() / 2  # a: 0, c
    assert table("xflickrco", ranks, actual)["mrv_std"] == pytest.approx(by_hand)
    save_items(Workspace(tmp_path), "xflickrco", ranks, actual)
    assert read_items(tmp_path) == {"mrv_std": pytest.approx([0, 2 * by_hand] * 2)}
    assert not any("mrv" in key for key in table("wit", ranks, actual))
    several = EvalSet({**actual.sets, "de": LanguageSet(("a",), ("x", "z"), (0, 0))}, torch.zeros)
    assert not any("mrv" in key for key in table("xflickrco", ranks, several))


def read_items(folder):
    """Items of a run by metric."""
    return {p.stem: json.loads(p.read_text("utf-8")) for p in folder.glob("items/*.json")}


def test_items_13_18_a_source_whose_languages_differ_has_metrics_and_no_items(tmp_path):
    """Checklist 13, 18: WIT has other images in each language, so no MRV and nothing to pair."""
    numbers = {"en": (1, 2, 3), "da": (2, 3)}
    wit_files(tmp_path, {x: [(n, f"{x} {n}") for n in own] for x, own in numbers.items()})
    for n in (1, 2, 3):
        picture(tmp_path / f"wit/images/{n}.png", n)
    cfg = config(
        *PLAIN,
        f"data.root={tmp_path}",
        "data.source=wit",
        "eval.benchmarks=[wit]",
        "eval.languages=[en,da]",
    )
    metrics = build(cfg).evaluate(module_of(*PLAIN), Workspace(tmp_path / "run"))
    assert {"recall_mean", "da_recall_mean", "untrained_recall_mean"} <= metrics.keys()
    assert not any("mrv" in key for key in metrics)
    assert read_items(tmp_path / "run") == {}
    assert (tmp_path / "run/gallery/da to images/gallery.json").exists()
    told = (tmp_path / "run/notes.txt").read_text("utf-8")
    assert "wit: en 3 images, 3 texts; da 2 images, 2 texts\n" in told


def test_items_13_18_all_mrv_is_over_the_headline_s_languages(tmp_path):
    """Checklist 13, 18: xFlickr&CO as the source; the fifth language counts in recall alone."""
    languages = ("en", "de", "ja", "zh", "ru")
    for language in languages:
        (tmp_path / "xflickrco" / language).mkdir(parents=True)
        texts = ["x" if language == "ru" else f"{language * n} {n}" for n in range(1, 9)]
        rows = [{"img_path": f"{n}.png", "sentences": [t]} for n, t in enumerate(texts, 1)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "xflickrco" / language / "test.jsonl").write_text(text)
    for n in range(1, 9):
        picture(tmp_path / f"xflickrco/images/{n}.png", n)
    cfg = config(
        *PLAIN,
        f"data.root={tmp_path}",
        "data.source=xflickrco",
        "eval.benchmarks=[xflickrco]",
        f"eval.languages=[{','.join(languages)}]",
    )
    module = module_of(*PLAIN, seed=cfg.seed)  # equal to what the untrained row is measured with
    metrics = build(cfg).evaluate(module, Workspace(tmp_path / "run"))
    items = read_items(tmp_path / "run")
    assert items.keys() == {"recall_mean", "mrv_std"}
    for name, values in items.items():
        assert sum(values) / len(values) == pytest.approx(metrics[name], rel=1e-9), name
        assert metrics[f"untrained_{name}"] == metrics[name]
    actual = evaluation_sets(cfg, build_tokenizer(cfg.model))["xflickrco"]
    with torch.inference_mode():
        ranks, _ = ranks_of(cfg, module.eval().network, actual, build_tokenizer(cfg.model))
    everything = cross_lingual_metrics(ranks, aligned=True)["mrv_std"]
    assert everything > metrics["mrv_std"] + 0.2  # so the test can fail
    assert untrained_model(cfg, Workspace(ROOT / "unused"))["mrv_std"] == metrics["mrv_std"]


def test_items_of_a_metric_are_there_where_its_own_languages_are_aligned(tmp_path):
    """A language in another order has no part in MRV; several texts an image have no items."""
    ranks = {
        x: Ranks(torch.tensor([1, 2]), torch.tensor([i, 1]))
        for i, x in enumerate(("en", "de", "ja", "zh", "ru"), 1)
    }
    one = LanguageSet(("a", "b"), ("x", "y"), (0, 1))
    sets = dict.fromkeys(ranks, one) | {"ru": LanguageSet(("b", "a"), ("y", "x"), (0, 1))}
    save_items(Workspace(tmp_path / "a"), "xflickrco", ranks, EvalSet(sets, torch.zeros))
    (values,) = read_items(tmp_path / "a").values()
    headline = table("xflickrco", ranks, EvalSet(sets, torch.zeros))["mrv_std"]
    assert sum(values) / len(values) == pytest.approx(headline)
    two = EvalSet({"en": LanguageSet(("a",), ("x", "y"), (0, 0))}, torch.zeros)
    several = {"en": Ranks(torch.tensor([1]), torch.tensor([1, 2]))}
    save_items(Workspace(tmp_path / "b"), "coco", several, two)
    assert read_items(tmp_path / "b") == {}


def test_the_untrained_row_of_fine_tuning_is_the_export_that_it_starts_from(tmp_path):
    """No other weights are read, and the window is that of fine-tuning."""
    module = module_of(*PLAIN, seed=5).eval()
    build(config(*PLAIN)).export(module, tmp_path / "export")
    # weights that pre-training began with, which are not here
    cfg = config(
        *PLAIN,
        f"model.init={tmp_path}/export",
        "model.text_pretrained=absent/weights",
        "seed=9",
        "method.objective=random_language",
    )
    (actual,) = evaluation_sets(cfg, build_tokenizer(cfg.model)).values()
    with torch.inference_mode():
        ranks, _ = ranks_of(cfg, module.network, actual, build_tokenizer(cfg.model))
    expected = table("synthetic", ranks, actual)
    assert untrained_model(cfg, Workspace(ROOT / "unused")) == expected
    metrics = build(cfg).evaluate(module_of(*PLAIN, seed=2), Workspace(tmp_path / "run"))
    for name in ("recall_mean", "mrv_std"):
        assert metrics[f"untrained_{name}"] == expected[name]
    assert metrics["mrv_std"] != expected["mrv_std"]
    (needed,) = requirements(cfg)
    assert (needed.location, needed.present) == (f"{tmp_path}/export", True)
    opened = (
        build(cfg).plan().module()
    )  # takes a run's weights: the export that it began with, not its sizes
    assert opened.network.options == starting_module(cfg, OneToK).network.options
    cfg.model.window = 4
    for begin in (
        lambda: untrained_model(cfg, Workspace(ROOT / "unused")),
        build(cfg).plan().module,
    ):
        with pytest.raises(UserError, match="only Swin"):
            begin()


def test_item_18_folds_are_searched_on_their_own():
    """Checklist 18: COCO's recall is the mean over five thousands (`re_eval_dataset`, fold)."""
    cfg, module = config(), module_of().eval()
    tokenizer = build_tokenizer(cfg.model)
    (whole,) = evaluation_sets(cfg, tokenizer).values()
    with torch.inference_mode():
        folded, _ = ranks_of(cfg, module.network, whole._replace(folds={"l1": 2}), tokenizer)
        plain, _ = ranks_of(cfg, module.network, whole, tokenizer)
        halves = []
        for part in (slice(0, 4), slice(4, 8)):
            own = whole.sets["l1"]
            half = LanguageSet(own.images[part], own.texts[part], tuple(range(4)))
            halves.append(
                ranks_of(cfg, module.network, EvalSet({"l1": half}, whole.load), tokenizer)[0]["l1"]
            )
    assert torch.equal(folded["l0"].text_to_image, plain["l0"].text_to_image)
    for direction in Ranks._fields:
        expected = torch.cat([getattr(half, direction) for half in halves])
        assert torch.equal(getattr(folded["l1"], direction), expected)
        assert not torch.equal(getattr(plain["l1"], direction), expected)


@pytest.mark.slow
def test_the_best_validated_weights_are_kept(tmp_path):
    """Validation is the retrieval of the whole development set (here the evaluated one)."""
    words = (
        *PLAIN,
        "trainer.max_steps=9",
        "trainer.val_every_n_steps=3",
        "optim.lr=0.05",
        "run_id=r",
        f"runs_dir={tmp_path}",
    )
    run = train("one_to_k", "smoke", list(words))
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    seen = [float(row["value"]) for row in rows if row["name"] == "val/recall_mean"]
    assert len(seen) == 3
    assert max(seen) > seen[-1]
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["recall_mean"] == pytest.approx(max(seen), abs=1e-6)
    two = config(*PLAIN, "trainer.val_every_n_steps=3", "trainer.devices=2")
    assert len(next(build(two).stages()).data.val_sets["retrieval"]) == 2  # one for each process
    with pytest.raises(UserError, match="no validation set"):
        validation_set(config("data.source=jsonl", "data.files=x"), build_tokenizer(config().model))


def test_fine_tuning_is_validated_where_the_release_validates(tmp_path):
    """xFlickr&CO on English, Multi30K on all its languages, both on the split "val"."""
    folder = tmp_path / "xflickrco/en"
    folder.mkdir(parents=True)
    (folder / "val.jsonl").write_text('{"img_path": "1.jpg", "sentences": ["a dog"]}\n')
    words = (f"data.root={tmp_path}", "data.source=xflickrco", "data.languages=[de]")
    actual = validation_set(config(*words), build_tokenizer(config().model))
    assert {x: own.texts for x, own in actual.sets.items()} == {"en": ("a dog",)}
    with pytest.raises(UserError, match=r"val\.txt"):
        validation_set(config(*words, "data.source=multi30k"), build_tokenizer(config().model))


@pytest.mark.parametrize(
    ("name", "words"), [("multi30k", 30), ("coco", 30), ("xflickrco", 80), ("wit", 80)]
)
def test_fine_tuning_configs_have_the_release_s_values(name, words):
    """One rate for all parameters, 32 bits, no clipping (`RetrievalModel.init_params`, `train`)."""
    cfg = config(name=f"paper_{name}")
    assert cfg.method.lr_mult == 1.0
    assert (cfg.trainer.precision, cfg.trainer.gradient_clip_val) == ("32-true", None)
    assert cfg.data.max_words == words
    assert cfg.model.max_tokens == (40 if words == 30 else 80)
    assert cfg.trainer.val_every_n_steps is not None


def test_captions_without_pictures_are_trained_on(tmp_path):
    """Multi30K's captions read from a path: the pivot takes the place of the picture."""
    folder = tmp_path / "multi30k-captions"
    folder.mkdir()
    for split in ("train", "val", "test_2016_flickr"):
        rows = [
            {"en": f"{split} dog {i}", "de": f"Hund {split} {i}", "fr": f"chien {i}"}
            for i in range(12)
        ]
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (folder / f"{split}.jsonl").write_text(text)
    words = (
        f"data.root={tmp_path}",
        "data.files=multi30k-captions/<split>.jsonl",
        "data.languages=[de,fr]",
        "eval.languages=[]",
        "data.train_fraction=1.0",
        "data.batch_size=4",
        "trainer.max_steps=2",
    )
    cfg = config(*words, name="mini_multi30k")
    stage = next(build(cfg).stages())
    learnt = training_source(cfg, build_tokenizer(cfg.model)).texts
    assert [row["de"] for row in learnt] == [f"Hund train {i}" for i in range(12)]
    batch = stage.data.train_set[[(i, 0) for i in range(4)]]
    assert batch["images"].dtype == torch.int64
    stage.module.losses(batch)["loss"].backward()
    metrics = build(cfg).evaluate(stage.module, Workspace(tmp_path / "run"))
    assert {"de_recall_mean", "fr_recall_mean", "mrv_std"} <= metrics.keys()
    with pytest.raises(UserError, match="aligned captions not found"):
        next(build(config(f"data.root={tmp_path}", name="mini_multi30k")).stages())


@pytest.mark.slow
def test_swin_takes_larger_images_by_interpolated_positions():
    """Fine-tuning at 384 px with windows of 12: mean token and 12 x 12 places."""
    tower = grid_tower("swin_tiny_patch4_window7_224").eval()
    with torch.inference_mode():
        tower.resize(384, 12)
        tokens = tower(torch.randn(1, 3, 384, 384))
    assert tokens.shape == (1, 145, 768)
    assert torch.allclose(tokens[:, 0], tokens[:, 1:].mean(1), atol=1e-4)
    with pytest.raises(UserError, match="only Swin"):
        grid_tower("conv", widths=(8,)).resize(32, 4)


def test_check_of_the_mini_names_its_data(tmp_path):
    rows = inspect("one_to_k", "mini", [])
    assert any("emoji" in key for key in rows)
    assert rows["samples"] == f"{len(emoji_rows(config(name='mini'), 'train')[0]):,}" == "1,121"
    assert num_samples(config(name="mini_multi30k")) == 5800  # a fifth of 29,000 captions
