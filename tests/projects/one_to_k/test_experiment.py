"""The experiment as the commands drive it: evaluation, export, fine-tuning, check, the card."""

import csv
import json

import pytest
import torch
from PIL import Image

from common.config import ROOT, UserError
from common.data.image_text.retrieval_sets import LanguageSet
from common.encoders.image.grid import grid_tower
from common.engine.check import inspect
from common.engine.run import module_of_run, train
from common.engine.workspace import Workspace
from common.evaluation.image_text.cross_lingual import Ranks, cross_lingual_metrics
from common.evaluation.image_text.two_stage import NEVER, best_ranks, rescored
from projects.one_to_k import build
from projects.one_to_k.baselines import constant_text, random_ranking, untrained_model
from projects.one_to_k.data import EvalSet, build_tokenizer, evaluation_sets, validation_set
from projects.one_to_k.evaluate import ranks_of, table
from projects.one_to_k.export import Retriever
from projects.one_to_k.stages import embed
from tests.cards import run_card
from tests.projects.one_to_k.conftest import PLAIN, config, module_of
from tests.projects.one_to_k.test_data import benchmark_files, picture


def test_items_13_18_one_table_of_recall_spread_and_mrv():
    """Checklist 13, 18: by hand for two languages and two queries."""
    ranks = {
        "en": Ranks(torch.tensor([1, 1]), torch.tensor([1, 3])),
        "de": Ranks(torch.tensor([1, 5]), torch.tensor([1, 1])),
    }
    found = cross_lingual_metrics(ranks, aligned=True, ks=(1, 2))
    assert found["en_recall_mean"] == pytest.approx(0.75)
    assert found["de_text_to_image_recall_at_1"] == 1.0
    assert found["recall_mean"] == pytest.approx(0.75)
    assert found["recall_spread"] == pytest.approx(0.0)
    assert found["image_to_text_recall_at_1"] == pytest.approx(0.75)
    assert found["image_to_text_mrv_std"] == pytest.approx(1.0)
    assert found["text_to_image_mrv_std"] == pytest.approx(0.5)
    assert found["text_to_image_mrv_var"] == pytest.approx(0.5)
    assert found["mrv_std"] == pytest.approx(0.75)
    assert found["mrv_over_mean_rank"] == pytest.approx((1.0 / 2 + 0.5 / 1.5) / 2)
    assert "mrv_std" not in cross_lingual_metrics(ranks, aligned=False)


def test_item_18_second_stage_scores_the_best_and_no_other():
    """Checklist 18: top k_test by the matching head, the others -100; ties count against us."""
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    again = rescored(scores, lambda pairs: (pairs[:, 1] == 1).float(), k=2, batch_size=3)
    assert again.tolist() == [[0, 1, NEVER], [NEVER, 1, 0]]
    assert best_ranks(again, [[1], [0]]).tolist() == [1, 3]
    assert best_ranks(torch.zeros(1, 4), [[0, 2]]).tolist() == [3]


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
    assert bool(((match > 0) & (match < 1)).all())


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
    found = EvalSet(dict.fromkeys(ranks, one), torch.zeros)
    own = table("xflickrco", ranks, found)
    assert (own["mrv_std"], own["recall_mean"]) == (0.0, pytest.approx(0.8))
    assert own["recall_spread"] == 1.0
    assert table("multi30k", ranks, found)["mrv_std"] == pytest.approx(4.0)
    few = {x: ranks[x] for x in ("en", "ru")}
    assert table("xflickrco", few, EvalSet(dict.fromkeys(few, one), torch.zeros))["mrv_std"] == 5.0


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


def test_the_best_validated_weights_are_kept(tmp_path):
    """Validation is the retrieval of the whole development set (here the evaluated one)."""
    words = (*PLAIN, "trainer.max_steps=9", "trainer.val_every_n_steps=3", "optim.lr=0.05", "run_id=r", f"runs_dir={tmp_path}")  # fmt: skip
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
    found = validation_set(config(*words), build_tokenizer(config().model))
    assert {x: own.texts for x, own in found.sets.items()} == {"en": ("a dog",)}
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
        rows = [{"en": f"dog {i}", "de": f"Hund {i}", "fr": f"chien {i}"} for i in range(12)]
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (folder / f"{split}.jsonl").write_text(text)
    words = (
        f"data.root={tmp_path}", "data.files=multi30k-captions/<split>.jsonl", "data.languages=[de,fr]",
        "eval.languages=[]", "data.train_fraction=1.0", "data.batch_size=4", "trainer.max_steps=2",
    )  # fmt: skip
    cfg = config(*words, name="mini_multi30k")
    stage = next(build(cfg).stages())
    batch = stage.data.train_set[[(i, 0) for i in range(4)]]
    assert batch["images"].dtype == torch.int64
    stage.module.losses(batch)["loss"].backward()
    metrics = build(cfg).evaluate(stage.module, Workspace(tmp_path / "run"))
    assert {"de_recall_mean", "fr_recall_mean", "mrv_std"} <= metrics.keys()
    with pytest.raises(UserError, match="aligned captions not found"):
        next(build(config(f"data.root={tmp_path}", name="mini_multi30k")).stages())


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
