"""Composed retrieval: four official layouts on fixtures, hand-made metrics, server files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from common.config import UserError
from projects.rtd.composed_retrieval import (
    composed_metrics,
    evaluate_composed,
    mean_average_precision,
    submission,
    subset_ranks,
)
from projects.rtd.composed_sets import (
    ComposedQuery,
    ComposedSet,
    circo,
    cirr,
    dilated_crop,
    fashion_iq,
    genecis,
)

COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255), "d": (250, 250, 0)}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def paint(path, colour, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def mean_colour(images):
    """Stands for an image tower."""
    return torch.stack([torch.tensor(np.asarray(i, dtype=np.float32).mean((0, 1))) for i in images])


def wanted(references, texts):
    """Composed embedding: the colour that the sentence names."""
    names = {"red": "a", "green": "b", "blue": "c", "yellow": "d"}
    return torch.tensor([COLOURS[names[t.split()[-1]]] for t in texts], dtype=torch.float32)


def test_fashion_iq_joins_both_captions_in_both_orders(tmp_path):
    """Checklist 15 of RTD: candidates outside of the gallery are references; captions are
    stripped."""
    row = {"candidate": "c", "target": "a", "captions": ["is longer?", "is red."]}
    write(tmp_path / "captions/cap.dress.val.json", [row])
    write(tmp_path / "image_splits/split.dress.val.json", ["a", "b"])
    for name in "ab":
        paint(tmp_path / f"images/{name}.png", COLOURS[name])
    paint(tmp_path / "images/c.jpg", COLOURS["c"])
    data = fashion_iq(tmp_path, "dress")
    assert data.queries[0].texts == ("is longer and is red", "is red and is longer")
    asked = []

    def compose(references, texts):
        asked.append((references, texts))
        first = (
            torch.tensor([[3.0, 0.0, 0.0]])
            if texts[0].endswith("red")
            else torch.tensor([[0.0, 1.0, 0.0]])
        )
        return first

    metrics, query, _ = evaluate_composed(data, mean_colour, compose)
    torch.testing.assert_close(
        query, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0]])
    )  # unit before the mean
    assert float(asked[0][0][0, 2]) > 200  # the reference is the blue one
    assert metrics == {"recall_at_10": 1.0, "recall_at_50": 1.0}
    half = evaluate_composed(data, mean_colour, lambda *own: compose(*own).bfloat16())[1]
    assert (half.dtype, half.device.type) == (
        torch.float32,
        "cpu",
    )  # as the gallery, whatever the tower runs in
    with pytest.raises(UserError, match="toptee"):
        fashion_iq(tmp_path, "hat")
    with pytest.raises(UserError, match="image_splits"):
        fashion_iq(tmp_path / "none", "dress")


def test_cirr_takes_the_reference_out_and_ranks_within_the_group(tmp_path):
    """Checklist 10, 15 of RTD: R@k without the reference; recall among the group's other
    members."""
    group = {"id": 1, "members": ["a", "b", "c"]}
    rows = [
        {
            "pairid": 7,
            "reference": "a",
            "target_hard": "b",
            "caption": "make it red",
            "img_set": group,
        },
        {
            "pairid": 8,
            "reference": "b",
            "target_hard": "c",
            "caption": "make it blue",
            "img_set": group,
        },
    ]
    write(tmp_path / "cirr/captions/cap.rc2.val.json", rows)
    write(
        tmp_path / "cirr/captions/cap.rc2.test1.json",
        [{k: v for k, v in r.items() if k != "target_hard"} for r in rows],
    )
    places = {name: f"./dev/{name}.png" for name in COLOURS}
    for split in ("val", "test1"):
        write(tmp_path / f"cirr/image_splits/split.rc2.{split}.json", places)
    for name, colour in COLOURS.items():
        paint(tmp_path / f"dev/{name}.png", colour)
    data = cirr(tmp_path)
    assert [q.subset for q in data.queries] == [("b", "c"), ("a", "c")]
    metrics, _, _ = evaluate_composed(data, mean_colour, wanted)
    # query 1 wants red: without its reference (the red picture) yellow comes before green and blue
    assert metrics["recall_at_1"] == 0.5
    assert metrics["recall_at_5"] == 1.0
    assert metrics["subset_recall_at_2"] == 1.0
    none, query, gallery = evaluate_composed(cirr(tmp_path, "test1"), mean_colour, wanted)
    assert none == {}
    files = submission(cirr(tmp_path, "test1"), query, gallery)
    assert files["cirr_recall.json"]["version"] == "rc2"
    assert files["cirr_recall.json"]["8"][0] == "c"
    assert "a" not in files["cirr_recall.json"]["7"]
    assert files["cirr_subset.json"]["8"] == ["c", "a"]
    assert files["cirr_subset.json"]["metric"] == "recall_subset"


def test_circo_has_several_answers_and_keeps_the_reference(tmp_path):
    """Checklist 10, 15 of RTD: mAP@k over min(answers, k), R@k on the main target."""
    ids = {1: "a", 2: "b", 3: "c", 4: "d"}
    row = {
        "id": 0,
        "reference_img_id": 1,
        "target_img_id": 4,
        "relative_caption": "is yellow",
        "shared_concept": "x",
        "gt_img_ids": [4, 1],
    }
    write(tmp_path / "annotations/val.json", [row])
    info = {"images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]}
    write(tmp_path / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", info)
    for i, name in ids.items():
        paint(tmp_path / f"COCO2017_unlabeled/unlabeled2017/{i:012d}.jpg", COLOURS[name])
    data = circo(tmp_path)
    assert data.queries[0].targets == ("4", "1")
    metrics, query, gallery = evaluate_composed(data, mean_colour, wanted)
    assert metrics["map_at_5"] == pytest.approx(1.0)  # yellow, then red or green
    assert metrics["recall_at_5"] == 1.0
    assert submission(data, query, gallery)["circo.json"]["0"][0] == 4


def colours(name, queries, exclude=False):
    """A set whose pictures are the four colours."""
    pictures = {n: Image.new("RGB", (4, 4), colour) for n, colour in COLOURS.items()}
    return ComposedSet(name, queries, list(COLOURS), pictures.__getitem__, exclude)


def test_every_answer_of_circo_counts_and_its_file_has_the_whole_gallery():
    """Yellow first, then red or green, blue last: the second answer is the fourth hit."""
    places = dict(zip("1234", COLOURS.values(), strict=True))
    pictures = {name: Image.new("RGB", (4, 4), colour) for name, colour in places.items()}
    queries = [ComposedQuery("0", "1", ("is yellow",), ("4", "3"))]
    data = ComposedSet("circo", queries, list("1234"), pictures.__getitem__)
    metrics, query, gallery = evaluate_composed(data, mean_colour, wanted)
    assert metrics["map_at_5"] == pytest.approx((1 + 2 / 4) / 2)
    assert submission(data, query, gallery)["circo.json"]["0"][::3] == [4, 3]


def test_batches_of_queries_keep_references_and_sentences_together():
    """Three queries in batches of two: each is its own reference moved to what it asks for."""
    queries = [
        ComposedQuery(n, n, (f"is {text}",), ("d",))
        for n, text in zip("abc", ("red", "green", "blue"), strict=True)
    ]

    def compose(references, texts):
        return references + wanted(references, texts)

    data = colours("cirr_like", queries)
    results = [evaluate_composed(data, mean_colour, compose, batch_size=n)[1] for n in (2, 3)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(results[0], torch.eye(3))


def test_lengths_of_pictures_have_no_part_within_a_group():
    """Yellow is longer than red, whose direction is nearer."""
    queries = [ComposedQuery("7", "b", ("x",), ("a",), ("a", "d"))]
    data = colours("cirr", queries, exclude=True)
    metrics, query, gallery = evaluate_composed(
        data, mean_colour, lambda *_: torch.tensor([[1.0, 0.3, 0.0]])
    )
    assert metrics["subset_recall_at_1"] == 1
    assert submission(data, query, gallery)["cirr_subset.json"]["7"] == ["a", "d"]


def test_the_file_of_a_group_has_three_names():
    queries = [ComposedQuery("7", "b", ("is red",), (), ("a", "c", "d"))]
    data = colours("cirr", queries, exclude=True)
    _, query, gallery = evaluate_composed(data, mean_colour, wanted)
    assert submission(data, query, gallery)["cirr_subset.json"]["7"] == ["a", "d", "c"]


def test_genecis_ranks_each_query_in_its_own_gallery(tmp_path):
    """Checklist 15 of RTD: objects by COCO's id, attributes as enlarged boxes on a black square."""
    sample = {
        "reference": {"val_image_id": 1},
        "target": {"val_image_id": 2},
        "gallery": [{"val_image_id": 3}, {"val_image_id": 4}],
        "condition": "green",
    }
    write(tmp_path / "genecis/change_object.json", [sample])
    for i, name in enumerate("abcd", start=1):
        paint(tmp_path / f"val2017/{i:012d}.jpg", COLOURS[name])
    objects = genecis(tmp_path, "change_object")
    assert [q.subset for q in objects.queries] == [("2", "3", "4")]  # without the reference
    metrics, _, _ = evaluate_composed(objects, mean_colour, wanted)
    assert metrics == {"recall_at_1": 1.0, "recall_at_2": 1.0, "recall_at_3": 1.0}
    box = {"image_id": 9, "instance_bbox": [4, 4, 4, 2]}
    other = {"image_id": 9, "instance_bbox": [0, 0, 2, 2]}
    write(
        tmp_path / "genecis/focus_attribute.json",
        [{**sample, "reference": box, "target": other, "gallery": [box]}],
    )
    paint(tmp_path / "VG_100K_all/9.jpg", (0, 200, 0), (20, 20))
    data = genecis(tmp_path, "focus_attribute")
    assert len(data.gallery) == 2
    assert data.open("9 [4, 4, 4, 2]").size == (7, 7)
    with pytest.raises(UserError, match="change_object"):
        genecis(tmp_path, "colour")


def test_the_box_grows_on_all_sides_and_stays_within_the_picture():
    """left = 10 - .7 * 4 = 7.2, right = 7.2 + 1.7 * 4 = 14; top = 0, lower border 1.7 * 2 = 3.4."""
    image = Image.new("RGB", (20, 20), "white")
    part = dilated_crop(image, (10, 1, 4, 2))
    assert part.size == (7, 7)
    array = np.asarray(part)
    assert (array[0] == 0).all()  # black above and below the strip
    assert (array[3] == 255).all()


def test_mean_average_precision_by_hand():
    """Hits at 1 and 3 of three answers, cut at 3: (1 + 2/3) / 3; of five answers, cut at 2: (1) /
    2.
    """
    assert mean_average_precision([[4, 7, 5, 6]], [[4, 5, 6]], 3) == pytest.approx((1 + 2 / 3) / 3)
    assert mean_average_precision([[4, 7]], [[4, 1, 2, 3, 5]], 2) == pytest.approx(1 / 2)
    assert mean_average_precision([[7], [4]], [[4], [4]], 5) == 0.5


def test_subset_ranks_count_ties_against_the_target():
    gallery = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    query = gallery[:1].repeat(2, 1)
    assert subset_ranks(query, gallery, [[0, 1, 2], [0, 2]], [0, 2]).tolist() == [2, 2]
    with pytest.raises(ValueError, match="subset"):
        subset_ranks(query[:1], gallery, [[1, 2]], [0])
    for pair in ((query * torch.nan, gallery), (query, gallery * torch.nan)):
        with pytest.raises(ValueError, match="NaN"):  # would be rank 0
            subset_ranks(*pair, [[0, 1, 2], [0, 2]], [0, 2])


def test_towers_run_without_gradients():
    tower = torch.nn.Linear(3, 3)
    asked = []

    def through(vectors):
        asked.append(torch.is_grad_enabled())
        return tower(vectors)

    pictures = {
        "a": Image.new("RGB", (2, 2), COLOURS["a"]),
        "b": Image.new("RGB", (2, 2), COLOURS["b"]),
    }
    queries = [ComposedQuery("0", "a", ("x",), ("b",))]
    data = ComposedSet("cirr", queries, ["a", "b"], pictures.__getitem__, True)
    _, query, gallery = evaluate_composed(
        data, lambda images: through(mean_colour(images)), lambda references, _: through(references)
    )
    assert asked == [False, False]
    assert [x.requires_grad for x in (query, gallery)] == [False, False]


def test_metrics_need_targets():
    data = ComposedSet(
        "cirr", [ComposedQuery("0", "a", ("x",))], ["a", "b"], lambda name: None, True
    )
    with pytest.raises(ValueError, match="submission"):
        composed_metrics(data, torch.eye(2)[:1], torch.eye(2))
