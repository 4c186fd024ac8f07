"""What the comparison measures: nouns, names and keywords of drawings nobody has seen."""

from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.data.image.sources import CachedImages
from common.data.image_text.captions import CaptionedImages, CaptionFiles, CaptionLists
from common.data.image_text.drawings import words
from common.data.lookup import bundled
from common.data.packed import Packed
from common.encoders.modes import untrained
from common.engine.comparison.claims import claims_of
from common.engine.comparison.spec import read_comparisons
from common.engine.workspace import Workspace, read_json
from common.families.image_text import drawings, drawings_evaluation
from common.families.image_text.drawings import UNSEEN_TEMPLATES
from common.families.image_text.drawings_evaluation import recall_both_ways
from projects.laclip import baselines, evaluate
from projects.laclip.data import Formed, drawn_texts, training_pairs
from projects.laclip.encoders import Encoders, prompt_agreement
from projects.laclip.evaluate import HeldOut, held_out, nouns_of, pool_metrics
from projects.laclip.module import LaCLIP
from tests.projects.laclip.conftest import config

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def names():
    files = CaptionFiles(bundled("drawings") / "train.csv", root="")
    return [(str(files.path(i)), files.texts(i)[0]) for i in range(len(files))]


@pytest.fixture(scope="module")
def dev():
    return held_out(config("eval.split=dev", name="mini_drawings"))


def test_no_held_out_drawing_is_a_training_drawing_byte_for_byte(names, dev):
    """The stored split is by words: four development pictures are training pictures too."""

    packed = {s: Packed(bundled(f"{s}/images.npz")) for s in ("clipart", "emoji-captions")}

    def content(image):
        folder, row = image.split("/")
        return packed[folder].item(int(row.removesuffix(".jpg"))).tobytes()

    rows = drawings.read_held_out(config("eval.split=dev", name="mini_drawings"))
    assert len(rows) - len(dev.rows) == 4
    trained = {content(image) for image, _ in names}
    kept = {row["image"] for row in dev.rows}
    for row in rows:
        assert (content(row["image"]) in trained) == (row["image"] not in kept)
    assert len(dev.pixels) == len(dev.rows)


def test_class_nouns_and_known_keywords_are_words_of_the_pool_s_names(names, dev):
    """The vocabulary is that of the names, which no arm's other texts change; a run draws three
    quarters of the names.
    """
    assert len(dev.classes) > 50
    assert "flag" not in dev.classes
    times = Counter(noun for _, name in names for noun in nouns_of(name))
    assert min(times[noun] for noun in dev.classes) >= 2
    assert [dev.rows[i]["noun"] for i in dev.labelled] == [dev.classes[k] for k in dev.labels]
    assert set(dev.labels.tolist()) == set(range(len(dev.classes)))
    single = Counter(word for _, name in names for word in set(words(name)))
    assert min(single[word] for _, query in dev.known for word in words(query)) >= 3
    for i, query in dev.known:
        assert set(query.split(", ")) <= set(dev.rows[i]["query"].split(", "))
        assert not set(words(query)) & set(words(dev.rows[i]["name"]))


def test_a_keyword_query_asks_for_one_drawing(dev):
    """Of two keywords or more, and of no other drawing; cut to known words, each query is there
    once."""
    queries = Counter(row["query"] for row in dev.rows)
    for i, row in enumerate(dev.rows):
        asked = queries[row["query"]] == 1 and ", " in row["query"]
        assert (i in dev.queried) == asked
    assert max(queries.values()) > 1
    known = Counter(query for _, query in dev.known)
    assert set(known.values()) == {1}
    assert "" not in known


def colour_rows(shown, named):
    rows = [{"image": "", "name": f"{n} {i}", "query": "", "noun": n} for i, n in enumerate(named)]
    pixels = torch.zeros(len(shown), 3, 4, 4, dtype=torch.uint8)
    for i, colour in enumerate(shown):
        pixels[i, COLOURS.index(colour)] = 200
    labels = torch.tensor([COLOURS.index(n) for n in named])
    rest = [(i, n) for i, n in enumerate(named)]
    return HeldOut(rows, pixels, list(COLOURS), list(range(len(rows))), labels, [0, 1], rest[:2])


def planted(wording=0.0):
    """Images are their colour, texts the colour that they name, and a share of their wording."""

    def texts(sentences):
        rows = torch.zeros(len(sentences), 6)
        for row, sentence in zip(rows, sentences, strict=True):
            for k, colour in enumerate(COLOURS):
                row[k] = float(colour in sentence)
            row[3 + len(sentence.split()) % 3] = wording
        return F.normalize(rows, dim=1)

    def images(pixels):
        flat = pixels.float().mean((2, 3))
        return F.normalize(torch.cat([flat, torch.zeros(len(flat), 3)], 1), dim=1)

    return Encoders(images, texts)


def test_items_of_the_primary_metric_are_the_classes(tmp_path):
    """Red 2 of 4, green 1 of 1, blue 0 of 1: mean of classes .5, of drawings .5."""
    held = colour_rows(
        ["red", "red", "blue", "green", "green", "red"],
        ["red", "red", "red", "red", "green", "blue"],
    )
    actual = pool_metrics(planted(), held, Workspace(tmp_path))
    assert actual["zeroshot_mean_per_class"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert actual["zeroshot_top1"] == pytest.approx(3 / 6)
    assert read_json(tmp_path / "items/zeroshot_mean_per_class.json") == [0.5, 1.0, 0.0]
    for name in ("bare_mean_per_class", "name_recall_at_10", "keyword_recall_at_10"):
        items = read_json(tmp_path / f"items/{name}.json")
        assert sum(items) / len(items) == pytest.approx(actual[name])
    of = read_json(tmp_path / "items/score.json")["mean_of"]
    assert actual["score"] == pytest.approx(sum(actual[name] for name in of) / 2)
    assert actual["zeroshot_top1_chance"] == 1 / 3


def test_zero_shot_asks_in_sentences_and_bare_in_names():
    """Sentences that no caption is made from, and the nouns alone."""
    held, asked = colour_rows(["red", "green"], ["red", "green"]), []
    model = planted()
    spy = Encoders(model.images, lambda texts: asked.append(list(texts)) or model.texts(texts))
    pool_metrics(spy, held)
    sentences = {t.replace("{}", c) for t in UNSEEN_TEMPLATES for c in COLOURS}
    first = [text for texts in asked for text in texts]
    assert first[: len(sentences)] == [
        t.replace("{}", c) for c in COLOURS for t in UNSEEN_TEMPLATES
    ]
    assert first[len(sentences) : len(sentences) + 3] == list(COLOURS)


def test_recall_takes_equal_names_for_each_other():
    """Twelve drawings in a row, two of one name: either is right for it, both ways."""
    rows = torch.eye(12)
    swapped = rows[[1, 0, *range(2, 12)]]
    said = ["cat", "cat", *map(str, range(10))]
    assert recall_both_ways(rows, swapped, said)[0].tolist() == [1.0] * 12
    away = -rows  # its own text is the farthest of twelve
    actual, chance = recall_both_ways(rows, away, [str(i) for i in range(12)])
    assert actual.tolist() == [0.0] * 12
    assert chance == pytest.approx(10 / 12)


@pytest.mark.parametrize(("rank", "recall"), [(10, 1.0), (11, 0.0)])
def test_recall_at_ten_counts_the_tenth_of_a_ranking(rank, recall):
    """Twelve drawings whose own text comes at the same rank in both directions."""
    i = torch.arange(12)
    texts = ((i - i[:, None] - rank) % 12).float()  # row: a text's scores of the drawings
    actual, _ = recall_both_ways(torch.eye(12), texts, [str(n) for n in range(12)])
    assert actual.tolist() == [recall] * 12


def test_prompt_agreement_tells_meaning_from_wording():
    assert prompt_agreement(planted(), COLOURS) == pytest.approx(1, abs=1e-5)
    assert prompt_agreement(planted(1.0), COLOURS) == pytest.approx(0, abs=1e-5)
    assert prompt_agreement(planted(10.0), COLOURS) < -0.9  # one sentence, nearly one vector


@pytest.mark.parametrize(
    ("words", "altered", "texts"),
    [
        (["data.num_rewrites=0", "data.text_form=given"], (0, 0), (1, 1)),
        ([], (0.6, 0.9), (3, 5)),
        (["data.text_form=joined"], (0.9, 1), (1, 1)),
        (["method.num_texts=2"], (0.8, 1), (2, 4)),
    ],
)
def test_drawn_texts_are_those_of_training(words, altered, texts):
    """In small: the share of draws that are not the name, and how many texts a drawing has."""
    pairs = training_pairs(
        config("data.train_fraction=0.02", "seed=3", *words, name="mini_drawings")
    )
    actual = drawn_texts(pairs, epochs=12, step=2)
    assert altered[0] <= actual["text_altered_share"] <= altered[1]
    assert texts[0] <= actual["texts_per_image"] <= texts[1]


def test_image_sets_of_the_config_are_judged_on_the_pool_too(tmp_path, monkeypatch):
    """`eval.datasets` beside the drawings, in evaluation mode."""
    cfg = config("eval.datasets=[cifar10]")
    module = LaCLIP(cfg).train()
    for name in ("held_out", "training_pairs", "show"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)
    zeros = dict.fromkeys(evaluate.UNTRAINED, 0.0)
    for name in ("pool_metrics", "name_losses", "drawn_texts"):
        monkeypatch.setattr(evaluate, name, lambda *_: zeros)
    judge = lambda names: {f"{n}_training": float(module.training) for n in names}  # noqa: E731
    monkeypatch.setattr(evaluate, "protocol", lambda *_: judge)
    actual = evaluate.evaluate_drawings(cfg, module, Workspace(tmp_path), lambda: LaCLIP(cfg))
    assert actual["cifar10_training"] == 0


def test_the_untrained_row_is_of_a_model_before_training(tmp_path, monkeypatch):
    """New weights of the config's seed, not the trained ones."""
    cfg = config("seed=5")
    module, start = LaCLIP(cfg), untrained(lambda: LaCLIP(cfg), 5)
    for name in ("held_out", "training_pairs", "show"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)
    for name in ("name_losses", "drawn_texts"):
        monkeypatch.setattr(evaluate, name, lambda *_: {})
    monkeypatch.setattr(evaluate, "encoders", lambda cfg, model: model)
    first = lambda model: float(next(model.parameters()).detach().sum())  # noqa: E731
    spaces = []
    monkeypatch.setattr(
        evaluate,
        "pool_metrics",
        lambda model, held, space=None: (
            spaces.append(space) or dict.fromkeys(evaluate.UNTRAINED, first(model))
        ),
    )
    space = Workspace(tmp_path)
    actual = evaluate.evaluate_drawings(cfg, module, space, lambda: LaCLIP(cfg))
    assert spaces == [None, space]  # items are of the trained model
    for name in evaluate.UNTRAINED:
        assert actual[name] == first(module) != first(start)
        assert actual[f"untrained_{name}"] == first(start)


@pytest.mark.parametrize(("drawings", "judged"), [(600, 256), (300, 256), (200, 128), (100, None)])
def test_trained_names_are_judged_in_whole_batches_none_twice(drawings, judged, monkeypatch):
    """300 held-out drawings: as many batches of training drawings as there are, at most two."""
    number = torch.arange(drawings)
    pixels = torch.stack([number // 256, number % 256, 0 * number], 1)[..., None, None].byte()
    texts = CaptionLists([[f"x{i}", f"z{i}"] for i in range(drawings)])
    joined = Formed(texts, "joined", 0)  # the loss is that of the names themselves
    pairs = CaptionedImages(CachedImages(pixels, None), joined, None, seed=0)
    rows = [{"name": "y"}] * 300
    held = HeldOut(rows, torch.zeros(300, 1, 1, 1), [], [], torch.tensor([]), [], [])
    seen = []
    encode = Encoders(lambda pixels: pixels, lambda texts: texts)
    monkeypatch.setattr(evaluate, "encoders", lambda *_: encode)
    monkeypatch.setattr(
        drawings_evaluation, "pair_loss", lambda _, i, t: float(seen.append((i, t)) or 1)
    )
    actual = evaluate.name_losses(config(), None, held, pairs)
    assert actual["pair_loss_test"] == 1
    assert ("pair_loss_train" in actual) == ("loss_gap" in actual) == (judged is not None)
    if judged:
        trained = [(images, names) for images, names in seen if names[0] != "y"]
        shown = [image for images, _ in trained for image in images.flatten(1).tolist()]
        assert len(shown) == len({str(image) for image in shown}) == judged
        own = [f"x{256 * high + low}" for high, low, _ in shown]
        assert [name for _, names in trained for name in names] == own


def test_galleries_show_the_drawings_that_are_asked_for(tmp_path, monkeypatch):
    """Names and keywords find the drawing of their row; rows without a query are left out."""
    shown = {}
    held = colour_rows(COLOURS, COLOURS)
    for i, row in enumerate(held.rows):
        row |= {"image": f"image {i}", "query": f"{COLOURS[i]}, thing"}
    held = held._replace(queried=[1, 2])
    monkeypatch.setattr(evaluate, "pool_picture", lambda image, _: image)
    space = Workspace(tmp_path)
    monkeypatch.setattr(space, "gallery", lambda title, rows: shown.update({title: rows}))
    evaluate.show(config(), planted(), held, space)
    for title, key in (("names to drawings", "name"), ("keywords to drawings", "query")):
        assert [row["query"] for row in shown[title]] == [held.rows[i][key] for i in (1, 2)]
        best = [row["results"][0] for row in shown[title]]
        assert [(r["item"], r["correct"]) for r in best] == [("image 1", True), ("image 2", True)]


def test_the_untrained_baseline_begins_with_the_seed_of_the_config(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "require_pool", lambda cfg: None)
    monkeypatch.setattr(baselines, "held_out", lambda cfg: None)
    monkeypatch.setattr(baselines, "encoders", lambda cfg, model: model)
    monkeypatch.setattr(baselines, "pool_metrics", lambda model, *_: model.state_dict())
    cfg = config("seed=5")
    actual = baselines.untrained(cfg, Workspace(tmp_path))
    expected = untrained(lambda: LaCLIP(cfg), 5).state_dict()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_raw_pixels_learn_words_from_the_pictures_they_name(tmp_path, monkeypatch):
    train = colour_rows(COLOURS * 3, COLOURS * 3)
    pairs = CachedImages(train.pixels, None), CaptionLists([[f"a {c}"] for c in COLOURS * 3])
    test = colour_rows(["red", "blue", "green"], ["red", "blue", "green"])
    monkeypatch.setattr(baselines, "pool_pairs", lambda *_: pairs)
    monkeypatch.setattr(baselines, "held_out", lambda _: test)
    actual = baselines.raw_pixels(config(name="mini_drawings"), Workspace(tmp_path))
    assert actual["bare_mean_per_class"] == 1
    swapped = test._replace(labels=torch.tensor([1, 0, 2]))
    monkeypatch.setattr(baselines, "held_out", lambda _: swapped)
    assert baselines.raw_pixels(config(name="mini_drawings"), Workspace(tmp_path))["bare_top1"] == 0
    monkeypatch.setattr(
        baselines, "held_out", lambda _: colour_rows(COLOURS, ["red", "red", "blue"])
    )
    assert (
        baselines.majority(config(name="mini_drawings"), Workspace(tmp_path))["bare_top1"] == 2 / 3
    )
    with pytest.raises(UserError, match="source=pool"):
        baselines.majority(config(), Workspace(tmp_path))


def test_pixels_are_less_the_mean_training_image(tmp_path, monkeypatch):
    """Those of the query and those that words are learnt from."""
    train = colour_rows([*COLOURS, "red"], [*COLOURS, "red"]).pixels
    names = [["red"], ["greens"], ["blue thing"], ["red"]]
    pairs = CachedImages(train, None), CaptionLists(names)
    monkeypatch.setattr(baselines, "pool_pairs", lambda *_: pairs)
    monkeypatch.setattr(baselines, "held_out", lambda _: None)
    monkeypatch.setattr(
        baselines,
        "pool_metrics",
        lambda model, *_: {
            "images": model.images(train),
            "texts": model.texts(["red", "Blue thing", "green", "red blue"]),
            "top1_chance": 0,
        },
    )
    actual = baselines.raw_pixels(config(name="mini_drawings"), Workspace(tmp_path))
    small = baselines._small(train)
    centred = F.normalize(small - small.mean(0), dim=1)
    assert actual.keys() == {"images", "texts"}
    torch.testing.assert_close(actual["images"], centred)
    mixed = F.normalize(centred[0] + centred[2], dim=0)  # a name in the plural has the singular
    torch.testing.assert_close(actual["texts"], torch.stack([*centred[[0, 2, 1]], mixed]))


def test_untrained_model_is_near_chance(tmp_path, monkeypatch, dev):
    monkeypatch.setattr(baselines, "held_out", lambda _: dev)
    cfg = config("eval.split=dev", name="mini_drawings")
    actual = baselines.untrained(cfg, Workspace(tmp_path))
    monkeypatch.setattr(baselines, "untrained", lambda *_: actual)
    chance = baselines.chance(cfg, Workspace(tmp_path))
    assert chance["bare_top1"] == 1 / len(dev.classes)
    assert actual["zeroshot_mean_per_class"] < 0.06
    assert actual["name_recall_at_10"] < 2 * chance["name_recall_at_10"]


@pytest.mark.parametrize("comparison", ["main", "drawings"])
def test_claimed_arms_differ_in_their_texts_alone(comparison):
    """Same data, steps, batch, towers and search for every arm of a claim."""
    spec = next(c for c in read_comparisons("laclip") if c.name == comparison)
    base = config(*(f"{k}={v}" for k, v in spec.shared.items()), name=spec.base)
    for name in spec.default_arms:
        cfg = config(*(f"{k}={v}" for k, v in spec.arms[name].items()), name=spec.base)
        text = {
            "texts",
            "text_form",
            "num_rewrites",
            "augmentation",
            "augment_prob",
            "augment_strength",
        }
        assert {k for k, v in vars(cfg.data).items() if v != vars(base.data)[k]} <= text
        assert vars(cfg.trainer) == vars(base.trainer)
        assert {k for k, v in vars(cfg.optim).items() if v != vars(base.optim)[k]} <= {"lr"}
        assert cfg.model.open_clip["vision_cfg"] == base.model.open_clip["vision_cfg"]
    claimed = {arm for c in claims_of(spec) if not c.appendix for arm in c.arms}
    assert claimed <= {*spec.default_arms, *spec.baselines}
    assert len([c for c in claims_of(spec) if not c.paper.startswith("ours")]) >= 3
    assert evaluate.LEFT_OUT == ("flag",)
