"""Length bias, parts and momentum: what the config says reaches the encoder and the probe."""

import numpy as np
import torch

from common.data.text.sets import StsSet
from projects.esimcse import baselines, data
from projects.esimcse import evaluate as evaluation
from projects.esimcse.data import held_out_sentences, training_rows, training_views
from projects.esimcse.evaluate import length_bias
from projects.esimcse.length import length_r2, pair_bias
from tests.projects.esimcse.conftest import config, module_of


def test_bias_is_that_of_both_sides_and_the_probe_reads_held_out_sentences(monkeypatch):
    asked, held_out = {}, ["a b", "c", "d e f", "g h"]
    sts = StsSet("made-up", ["a", "b c"], ["d e f", "g"], [1.0, 2.0])
    monkeypatch.setattr(evaluation, "first_sts_set", lambda cfg: sts)
    monkeypatch.setattr(evaluation, "held_out_sentences", lambda cfg: held_out)

    def bias(first, second, scores, counts, threshold):
        asked.update(counts=[list(c) for c in counts], threshold=threshold)
        return {}

    def probe(fit, test):
        asked.update(fit=list(fit[1]), test=list(test[1]))
        return 0.5

    monkeypatch.setattr(evaluation, "pair_bias", bias)
    monkeypatch.setattr(evaluation, "length_r2", probe)
    encode = lambda texts: torch.randn(len(texts), 4)  # noqa: E731
    length_bias(config("length.threshold=2"), encode)
    assert asked == {
        "counts": [[1, 2], [3, 1]],
        "threshold": 2,
        "fit": [2, 3],
        "test": [1, 2],
    }


def test_a_difference_equal_to_the_threshold_is_similar():
    x, gold = torch.eye(4), np.arange(4.0)
    groups = [[3, 3, 9, 9], [3, 9, 9, 9]]
    keys = [pair_bias(x, x, gold, (lengths, [0] * 4), threshold=3).keys() for lengths in groups]
    assert {"spearman_similar_length", "spearman_different_length"} <= keys[0]
    assert "spearman_similar_length" not in keys[1]


def test_the_probe_reads_directions_by_the_moments_of_its_own_sentences():
    torch.manual_seed(0)
    x = torch.randn(60, 3)
    side = torch.nn.functional.normalize(x, dim=1)[:, 0]
    lengths, some = 10 + 5 * side, side > 0.3
    assert length_r2((x, lengths), (x, lengths)) > 0.99
    scale = 1 + 9 * torch.rand(60, 1)
    assert length_r2((scale * x, lengths), (x, lengths)) > 0.99
    assert length_r2((x, lengths), (x[some], lengths[some])) > 0.99  # not by those of the test


def test_views_are_repeated_as_the_config_says_within_the_encoder(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        data, "repeated_views", lambda rows, tokenizer, repeat, **rest: asked.update(rest, r=repeat)
    )
    cfg = config("repetition.rate=0.2", "repetition.level=word")
    encoder = module_of().encoder
    training_views(cfg, encoder)
    assert asked["limit"] == encoder.max_length
    assert asked["r"] == data.repetition(cfg.repetition)
    assert asked["r"] != data.repetition(config().repetition)


def test_sentences_of_the_probe_are_held_out_and_of_the_same_parts(monkeypatch):
    asked = []
    monkeypatch.setattr(
        data, "load_sentences", lambda root, **rest: asked.append(rest) or ["x"] * rest["limit"]
    )
    words = ["data.source=sentences", "data.parts=[wiki,book]", "length.sentences=10"]
    held_out_sentences(config(*words))
    assert (asked[0]["split"], asked[0]["sources"]) == ("test", ["wiki", "book"])
    asked.clear()
    equal = config(*words, "data.equal_parts=true", "data.limit=6", "seed=3")
    assert len(held_out_sentences(equal)) == 10
    assert len(training_rows(equal)) == 6
    assert [(a["split"], a["limit"], a["seed"]) for a in asked] == [
        ("test", 5, 1),
        ("test", 5, 1),
        ("train", 3, 3),
        ("train", 3, 3),
    ]


def test_the_copy_begins_as_the_config_says_and_pools_like_the_encoder():
    same = module_of("momentum.init=pretrained")
    fresh = module_of("momentum.init=random")
    for module, equal in ((same, True), (fresh, False)):
        own = module.encoder.tower.model.state_dict()
        copy = module.momentum_encoder.network.model.state_dict()
        weights = [name for name in own if name.endswith("query.weight")]
        assert all(torch.equal(own[n], copy[n]) == equal for n in weights)
    assert module_of("model.pooling=avg", "model.mlp_only_train=false").backbone().pooling == "avg"
    assert same.backbone().pooling == "cls_before_pooler"
    assert module_of("momentum.decay=0.5").momentum_encoder.momentum == 0.5


def test_whitened_means_are_pooled_over_the_tokens(monkeypatch, tmp_path):
    pooled = []
    monkeypatch.setattr(
        baselines.family, "whitened", lambda cfg, *_: pooled.append(cfg.model.pooling) or {}
    )
    monkeypatch.setattr(baselines, "_texts", lambda cfg: [])
    baselines.whitened(config(), None)
    baselines.whitened_mean(config(), None)
    assert pooled == ["cls", "avg"]


def test_the_contrast_runs_on_the_backend_of_the_config():
    assert module_of("method.loss_backend=dense").contrast.backend == "dense"
