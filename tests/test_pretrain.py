"""The bundled models: what they may read, and that their training still runs."""

import importlib
from pathlib import Path

import pytest
import torch

import common.config
from common import registry
from common.config import ROOT
from common.data.splits import book_split, sentence_split
from common.data.tables import read_jsonl
from common.engine import run
from scripts.pretrain import corpus


def test_held_out_text_is_not_read():
    train, test = corpus.sentences(None, "train"), corpus.sentences(None, "test")
    assert {sentence_split(text) for text in train} == {"train"}
    assert not set(train) & set(test)
    assert 0.04 < len(test) / (len(train) + len(test)) < 0.06
    book = corpus.sentences(None, "test", sources=["book"])
    assert 0 < len(book) < len(test)
    rows = list(read_jsonl(ROOT / "data/books-en/chapters.jsonl.gz", ("book", "paragraphs")))
    held = [
        " ".join(row["paragraphs"])
        for row, split in zip(rows, book_split([row["book"] for row in rows]), strict=True)
        if split == "test"
    ]
    assert held == corpus.chapters(None, "test")
    assert not set(held) & set(corpus.chapters(None, "train"))


@pytest.mark.parametrize("kind", ["masked_lm", "causal_lm"])
def test_training_runs_and_the_export_reloads(kind, tmp_path, monkeypatch):
    """The shipped weights are float16, hence the tolerance."""
    module = importlib.import_module(f"scripts.pretrain.{kind}")
    monkeypatch.setattr(common.config, "CONFIG_DIR", ROOT / "scripts/pretrain/configs")
    for place in (registry, run):
        monkeypatch.setattr(place, "load_project", lambda slug: module)
    folder = run.train(kind, "smoke", [f"runs_dir={tmp_path}", "data.limit=400"])
    _, experiment = run.prepare(kind, "smoke", ["data.limit=400"])
    trained = run.module_of_run(experiment, folder).eval()
    before = experiment.embed(trained)
    experiment.export(trained, Path(tmp_path / "export"))
    after = experiment.embed(experiment.load_export(tmp_path / "export").eval())
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.allclose(value, after[name], atol=5e-3), name
        assert not torch.allclose(value, torch.zeros_like(value), atol=5e-3)
