"""Sides, cut-offs and samples of the evaluation, and settings of augmentation and fine-tuning."""

import pytest
import torch

from common.engine.workspace import Workspace
from projects.cocosoda import evaluate as evaluation
from projects.cocosoda.code.search_sets import set_of_pairs
from projects.cocosoda.code.types import TYPES, type_token
from projects.cocosoda.data import soft_augmentation, synthetic_pairs, training_data
from projects.cocosoda.encoder import build_encoder
from projects.cocosoda.evaluate import encoded, evaluate, score_sets
from tests.projects.cocosoda.conftest import config, module_of

SET = set_of_pairs("made-up", synthetic_pairs("valid", 0)[:4])


def test_queries_and_code_are_encoded_as_what_they_are_once(monkeypatch):
    read = []
    for side in ("queries", "codes"):
        monkeypatch.setattr(
            evaluation,
            f"encode_{side}",
            lambda encoder, model, texts, size, side=side: read.append((side, texts)) or side,
        )
    vectors = encoded(config(), None)
    assert vectors(SET) == vectors(SET) == ("queries", "codes")
    assert read == [("queries", SET.queries), ("codes", SET.codes)]


@pytest.mark.parametrize(("rank", "mrr"), [(1, 0.0), (2, 0.5)])
def test_functions_beyond_the_config_s_rank_count_zero(tmp_path, rank, mrr):
    second = torch.eye(4).roll(1, 1) + 0.5 * torch.eye(4)
    metrics = score_sets(
        config(f"eval.max_rank={rank}"),
        lambda data: lambda rows: second[rows],
        Workspace(tmp_path),
        sets=[SET],
    )
    assert metrics["made-up_mrr"] == mrr


def test_geometry_is_of_the_config_s_number_of_pairs(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(evaluation, "evaluation_sets", lambda cfg: [SET])
    monkeypatch.setattr(evaluation, "encoded", lambda *_: lambda data: (None, None))
    monkeypatch.setattr(evaluation, "score_sets", lambda *_: {"made-up_mrr": 0.5})
    monkeypatch.setattr(
        evaluation, "geometry", lambda vectors, data, sample: asked.append(sample) or {}
    )
    words = ["eval.sample=3", "eval.untrained=false", "eval.lexical=false", "eval.whitened=false"]
    evaluate(config(*words), module_of(), Workspace(tmp_path))
    assert asked == [3]


@pytest.mark.parametrize("typed", [True, False])
def test_shares_and_vocabulary_of_the_augmentation(typed):
    """Random tokens are no types, whose tokens are the last of the vocabulary."""
    words = ["data.soda.ratio=0.2", "data.soda.type_ratio=0.7", f"model.type_tokens={typed}"]
    words += [] if typed else ["data.soda.strategies=[mask]"]
    cfg = config(*words)
    tokenizer = build_encoder(cfg.model).tokenizer
    augmentation = soft_augmentation(tokenizer, cfg)
    assert (augmentation.ratio, augmentation.type_ratio) == (0.2, 0.7)
    types = tokenizer.convert_tokens_to_ids([type_token(name) for name in TYPES])
    assert augmentation.vocab_size == (min(types) if typed else len(tokenizer))


def test_fine_tuning_has_no_augmented_keys_and_its_own_scale():
    cfg = config("finetune.logit_scale=7")
    encoder = build_encoder(cfg.model)
    for finetune in (True, False):
        data = training_data(cfg, encoder, finetune=finetune).train_set
        assert ("augmented_code" in data[[(0, 0), (1, 0)]]) != finetune
    scales = [
        module_of(f"finetune.logit_scale={scale}", finetune=True).objective for scale in (1, 7)
    ]
    z = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    losses = [objective(z, z.roll(1, 0)).loss for objective in scales]
    expected = torch.nn.functional.cross_entropy(7 * z @ z.roll(1, 0).T, torch.arange(4))
    torch.testing.assert_close(losses[1], expected)
    assert losses[0] != losses[1]
