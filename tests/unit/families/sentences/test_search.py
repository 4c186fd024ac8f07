"""`make run TASK=search`: index a text file, batch or interactive queries."""

import pytest
import torch

from common.config import UserError, load
from common.engine.workspace import Workspace
from common.families.sentences import search as own_search
from common.families.sentences.module import build_encoder
from projects.simcse import build
from projects.simcse.config import Config
from projects.simcse.module import SimCSE
from tests.placed import passes_within_evaluated

# weights large enough that texts differ
MODEL = (
    "method.mlm_weight=0.0",
    "model.pooling=avg",
    "model.mlp_only_train=false",
    "model.config.initializer_range=0.5",
)
TEXTS = ["a man plays the guitar", "the cat sleeps on the mat", "two dogs run over a field"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folder of an exported encoder."""
    folder = tmp_path_factory.mktemp("search")
    cfg = load(Config, "simcse", "smoke", MODEL)
    torch.manual_seed(0)
    build(cfg).export(SimCSE(cfg, build_encoder(cfg.model)).eval(), folder / "export")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n\n", encoding="utf-8")
    (folder / "empty.txt").write_text("\n", encoding="utf-8")
    return folder


def search(folder, *words):
    """Run the task."""
    words = [f"search.run={folder / 'export'}", *MODEL, *words]
    cfg = load(Config, "simcse", "smoke", words)
    build(cfg).tasks["search"](Workspace(folder / "run", "simcse", "smoke"))


def test_batch_queries_find_the_nearest_lines(exported, capsys):
    queries = exported / "queries.txt"
    queries.write_text("\n".join(TEXTS[::-1]), encoding="utf-8")
    search(exported, f"search.file={exported}/texts.txt", f"search.queries={queries}", "search.k=2")
    first, *blocks = capsys.readouterr().out.strip().split("\n\n")
    assert first.strip() == "3 texts indexed"
    assert len(blocks) == 3
    for text, block in zip(TEXTS[::-1], blocks, strict=True):
        query, *hits = block.splitlines()
        assert query == text
        assert len(hits) == 2
        assert hits[0].split(maxsplit=1) == ["1.000", text]
        assert float(hits[1].split()[0]) < 1


def test_interactive_queries_end_with_an_empty_line_and_hits_respect_the_threshold(
    exported, capsys, monkeypatch
):
    asked = iter([TEXTS[1], ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(asked))
    search(exported, f"search.file={exported}/texts.txt", "search.threshold=0.9999")
    assert capsys.readouterr().out.splitlines()[-1].split(maxsplit=1) == ["1.000", TEXTS[1]]
    assert next(asked, None) is None
    asked = iter(["it rains", ""])
    search(exported, f"search.file={exported}/texts.txt", "search.threshold=0.9999")
    assert "no text has a cosine of 0.9999 or more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search.file=nowhere.txt"], "text file nowhere.txt does not exist"),
        (["search.file={folder}/empty.txt"], "empty.txt has no text"),
        (["search.k=0"], r"search\.k must be >= 1"),
        (["search.run=unknown", "runs_dir={folder}"], "no run 'unknown' of simcse/smoke"),
    ],
)
def test_what_cannot_be_searched_is_said(exported, words, message):
    with pytest.raises(UserError, match=message):
        search(exported, *[word.format(folder=exported) for word in words])


def test_the_encoder_is_placed_and_fed_as_the_config_says(exported, monkeypatch, capsys):
    """And what is found does not depend on it."""
    queries = exported / "queries.txt"
    queries.write_text("\n".join(TEXTS), encoding="utf-8")
    words = [f"search.file={exported}/texts.txt", f"search.queries={queries}"]
    search(exported, *words)
    expected = capsys.readouterr().out
    seen = passes_within_evaluated(monkeypatch, own_search)
    search(exported, *words, "trainer.accelerator=gpu", "eval.batch_size=2")
    assert capsys.readouterr().out == expected
    assert {accelerator for _, accelerator in seen} == {"gpu"}
    assert len(seen) == 4  # three texts and three queries in pairs
