"""Baselines that are fitted on training texts see those of the project's arms."""

import importlib

import pytest

from common.config import load
from common.families.sentences import baselines as family
from common.registry import config_class


@pytest.mark.parametrize("project", ["debcse", "esimcse", "mirror_bert"])
@pytest.mark.parametrize("name", ["centred", "whitened"])
@pytest.mark.slow
def test_centre_and_whitening_are_fitted_on_what_the_arms_train_on(project, name, monkeypatch):
    """They saw another draw, and other sources, of the bundled sentences; parts are drawn alike."""
    cfg = load(config_class(project), project, "mini", ["seed=3"])
    seen = {}

    def score(cfg, workspace, encoder, fit=None, texts=None):
        seen["texts"] = family.fit_texts(cfg, texts)
        return {"stsb_test_spearman": 0.5}

    monkeypatch.setattr(family, "_encoder", score)
    monkeypatch.setattr(family, "untrained_encoder", lambda cfg: None)
    module = importlib.import_module(f"projects.{project}.baselines")
    assert getattr(module, name)(cfg, None)["stsb_test_spearman"] == 0.5
    data = importlib.import_module(f"projects.{project}.data")
    known = (
        data.corpus(cfg)
        if project == "debcse"
        else [t for row in data.training_rows(cfg) for t in row]
    )
    texts = seen["texts"]
    assert len(texts) == family.FIT_TEXTS == len({*texts}) < len(known)
    assert {*texts} <= {*known}
    place = {text: i for i, text in reversed([*enumerate(known)])}
    later = sum(place[text] > len(known) / 2 for text in texts) / len(texts)
    assert 0.45 < later < 0.55
