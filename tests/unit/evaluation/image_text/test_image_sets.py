"""The protocol on labelled image sets, with a classifier that can be checked by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.image.benchmarks import IMAGE_SETS
from common.data.image.sources import EvalTransform
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.image_text.image_sets import (
    ImageSetProtocol,
    main_metric,
    require_image_sets,
)

PLAIN = EvalTransform(8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.fixture
def root(tmp_path):
    """RESISC45's layout with a red and a blue class of 44 images."""
    for channel, name in ((0, "airport"), (2, "beach")):
        folder = tmp_path / "NWPU-RESISC45" / name
        folder.mkdir(parents=True)
        for i in range(44):
            pixels = np.zeros((8, 8, 3), np.uint8)
            pixels[..., channel] = 100 + i
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


def mean_color(images):
    color = images.mean(dim=(2, 3))
    return color, color


def color_of(texts):
    rows = [[1.0, 0, 0] if "airport" in t else [0, 0, 1.0] for t in texts]
    return torch.tensor(rows)


def test_perfect_encoder_is_perfect_and_swapped_names_are_wrong(root):
    metrics = ImageSetProtocol(mean_color, color_of, PLAIN, root)(["resisc45"])
    assert metrics["resisc45_zeroshot_top1"] == 1.0
    assert metrics["resisc45_zeroshot_top1_chance"] == 0.5
    assert "zeroshot_average" not in metrics  # one set has no average
    swapped = ImageSetProtocol(mean_color, lambda t: color_of(t).flip(1), PLAIN, root)
    assert swapped(["resisc45"])["resisc45_zeroshot_top1"] == 0.0


def test_probe_uses_features_and_zero_shot_embeddings(root):
    def embed(images):
        color = images.mean(dim=(2, 3))
        return torch.ones_like(color), color

    protocols = ["zeroshot", "linear_probe"]
    metrics = ImageSetProtocol(embed, color_of, PLAIN, root, protocols=protocols)(["resisc45"])
    assert metrics["resisc45_linear_probe_top1"] == 1.0
    assert metrics["resisc45_zeroshot_top1"] == 0.0  # ties are wrong


def test_missing_sets_and_unknown_names_are_user_errors(root):
    with pytest.raises(UserError, match="unknown image set 'food'"):
        require_image_sets(["food"], root)
    with pytest.raises(UserError, match="Expected layout"):
        require_image_sets(["resisc45", "dtd"], root)
    with pytest.raises(UserError, match="did you mean 'few_shot'"):
        ImageSetProtocol(mean_color, color_of, PLAIN, root, protocols=["fewshot"])


def test_a_protocol_can_be_of_some_sets_alone(root, monkeypatch):
    """ImageNet by zero-shot and kNN, the others by zero-shot and a probe."""
    monkeypatch.setitem(IMAGE_SETS, "imagenet", IMAGE_SETS["resisc45"])
    protocols = ["zeroshot", "imagenet:knn", "downstream:linear_probe"]
    judge = ImageSetProtocol(mean_color, color_of, PLAIN, root, protocols=protocols)
    actual = judge(["imagenet", "resisc45"])
    of = {"imagenet": ("zeroshot", "knn"), "resisc45": ("zeroshot", "linear_probe")}
    for name, kinds in of.items():
        own = [key.removeprefix(f"{name}_") for key in actual if key.startswith(name)]
        assert all(key.startswith(kinds) for key in own)
        assert all(any(key.startswith(kind) for key in own) for kind in kinds)
    with pytest.raises(UserError, match="unknown image set 'cifar'.*; did you mean 'cifar10'"):
        ImageSetProtocol(mean_color, color_of, PLAIN, root, protocols=["cifar:knn"])


def test_the_training_part_is_asked_for_where_a_protocol_reads_it(tmp_path):
    (tmp_path / "imagenet/val").mkdir(parents=True)
    require_image_sets(["imagenet"], tmp_path)
    require_image_sets(["imagenet"], tmp_path, ["zeroshot", "few_shot", "downstream:linear_probe"])
    for protocol in ("linear_probe", "knn", "imagenet:knn"):
        with pytest.raises(UserError, match="imagenet/train does not exist"):
            require_image_sets(["imagenet"], tmp_path, ["zeroshot", protocol])


def test_sets_with_mean_per_class_metric():
    per_class = ["aircraft", "pets", "caltech101", "flowers"]
    assert all(main_metric(n).endswith("mean_per_class") for n in per_class)
    assert main_metric("imagenet") == "imagenet_zeroshot_top1"


def test_gallery_rows_are_spread_and_ranked():
    scores = torch.tensor([[0.1, 0.9], [0.2, 0.1], [0.0, 0.5], [0.7, 0.6]])
    rows = retrieval_gallery(scores, list("abcd"), ["x", "y"], [1, 0, 0, 0], num_queries=2)
    assert [row["query"] for row in rows] == ["a", "c"]
    assert [r["item"] for r in rows[0]["results"]] == ["y", "x"]
    assert [r["correct"] for r in rows[1]["results"]] == [False, True]
