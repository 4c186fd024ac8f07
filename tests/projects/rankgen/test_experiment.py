"""Data, tasks, evaluation and training as the commands drive them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.row_map.chunks import RowSeed
from common.data.row_map.options import RowMapConfig
from common.data.tables import read_jsonl, write_jsonl
from common.data.text import books as bundled_books
from common.engine import checkpoint as ckpt
from common.engine.run import train
from common.engine.workspace import Workspace
from projects.rankgen import baselines, build, continuations, tasks
from projects.rankgen import evaluate as evaluation
from projects.rankgen.continuations import METHODS, decode_all, text_metrics
from projects.rankgen.data import (
    Triple,
    TripleBatches,
    TripleFile,
    TripleList,
    build_data,
    eval_triples,
    train_triples,
)
from projects.rankgen.evaluate import (
    book_retrieval,
    hard_negatives,
    large_books,
    negatives,
    own_book_mass,
    rank_metrics,
)
from projects.rankgen.generate import (
    book_windows,
    fitted,
    generated_rows,
    write_generations,
    write_windows,
)
from projects.rankgen.stages import make_encoder
from tests.completion_server import CompletionServer
from tests.projects.rankgen.conftest import config, encoder, language_model, save_language_model

SMALL = [
    "window.prefix_words=30",
    "window.min_words=4",
    "window.max_words=12",
    "window.limit=6",
    "generator.tokens_per_word=6",
    "generator.device=cpu",
]


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    learns = [
        "trainer.max_steps=60",
        "optim.lr=3e-3",
        "model.dropout=0",
        "method.chunk_size=null",
        "trainer.checkpoint_every_n_steps=60",
        "trainer.log_every_n_steps=20",
    ]
    return train("rankgen", "smoke", [f"runs_dir={folder}", "run_id=full", *learns])


@pytest.fixture
def one_book(monkeypatch):
    """Of the bundled books one alone is read; splitting all of them takes seconds."""
    name = "mary-shelley_frankenstein"
    monkeypatch.setattr(
        bundled_books,
        "read_jsonl",
        lambda path, fields: [row for row in read_jsonl(path, fields) if row["book"] == name],
    )
    return name


@pytest.fixture
def books(tmp_path):
    """Two books of made-up sentences in PG19's layout, and a small language model."""
    rng = np.random.default_rng(0)
    words = ["the", "of", "and", "state", "time", "world", "people", "house", "man", "made", "work"]
    for name in ("one", "two", "three", "four"):
        sentences = [" ".join(rng.choice(words, 6)).capitalize() + "." for _ in range(40)]
        (tmp_path / "books").mkdir(exist_ok=True)
        (tmp_path / f"books/{name}.txt").write_text(" ".join(sentences))
    save_language_model(tmp_path / "lm")
    return [f"data.root={tmp_path}", "window.books=books", f"generator.model={tmp_path}/lm", *SMALL]


# -- data ----------------------------------------------------------------------------------------


def test_batches_hold_the_marked_texts_of_their_triples():
    rows = [Triple(f"d{i % 2}", f"the man {i}", f"he said {i}", f"no {i}") for i in range(4)]
    model = encoder()
    batch = TripleBatches(TripleList(rows), model, True)[[(2, 0), (1, 5)]]
    assert batch["ids"].tolist() == [2, 1]
    for name, kind, column in (
        ("prefix", "prefix", 1),
        ("gold", "suffix", 2),
        ("generated", "suffix", 3),
    ):
        texts = [rows[i][column] for i in (2, 1)]
        for ids, mask, expected in zip(
            batch[name]["input_ids"],
            batch[name]["attention_mask"],
            model.token_ids(texts, kind),
            strict=True,
        ):
            assert ids[mask.bool()].tolist() == expected
    assert "generated" not in TripleBatches(TripleList(rows), model, False)[[(0, 0)]]


def test_missing_generations_are_named():
    rows = [Triple("d", "p", "g", None)]
    with pytest.raises(UserError, match=r"triple 0 has no generated continuation.*inbook"):
        TripleBatches(TripleList(rows), encoder(), True)[[(0, 0)]]


def test_document_batches_are_the_default_and_mixed_ones_a_switch():
    """Checklist 5 through the data module."""

    def documents(*overrides):
        data = build_data(config("data.batch_size=8", *overrides), encoder())
        sampler = data._sampler(0, 1, 12)
        return [{int(data.train_set.triples.documents[i]) for i, _ in batch} for batch in sampler]

    assert all(len(actual) == 1 for actual in documents())
    assert any(len(actual) > 1 for actual in documents("data.batches=mixed"))


def test_triple_file(tmp_path):
    path = tmp_path / "triples.jsonl"
    rows = [
        {"doc_id": f"d{i // 3}", "prefix": f"p{i}", "gold": "g", "generated": "x"} for i in range(9)
    ]
    write_jsonl(path, rows)
    actual = TripleFile(path)
    assert (len(actual), actual[4].prefix) == (9, "p4")
    assert actual.documents.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    cfg = config(f"data.root={tmp_path}", "data.source=file", "data.file=triples.jsonl")
    assert len(train_triples(cfg)) == 9
    limited = [replace(cfg, data=replace(cfg.data, limit=4), seed=s) for s in (0, 1)]
    assert [r.prefix for r in train_triples(limited[0])] != [
        r.prefix for r in train_triples(limited[1])
    ]
    with pytest.raises(UserError, match="there are 9 triples"):
        train_triples(replace(cfg, data=replace(cfg.data, limit=10)))
    with pytest.raises(UserError, match=r"set data\.eval_file"):
        eval_triples(cfg)
    with pytest.raises(UserError, match="TASK=generate"):
        TripleFile(tmp_path / "none.jsonl")
    for row in (
        '{"doc_id": "a"}',
        '{"doc_id": "a", "prefix": null, "gold": "g", "generated": "x"}',
        '{"doc_id": "a", "prefix": "p", "gold": "g", "generated": 5}',
        "[1]",
        "{",
    ):
        path.write_text(f"{row}\n")
        with pytest.raises(UserError, match="line 1: no triple"):
            TripleFile(path)


def test_windows_without_generations_are_read_for_in_book_training(tmp_path):
    """As TASK=windows writes them; arms that need generations name what is missing."""
    path = tmp_path / "windows.jsonl"
    write_jsonl(path, [{"doc_id": "d", "prefix": f"p {i}", "gold": f"g {i}"} for i in range(8)])
    words = [f"data.root={tmp_path}", "data.source=file", "data.file=windows.jsonl"]
    data = build_data(config(*words, "method.negatives=inbook"), encoder())
    assert set(data.train_set[[(0, 0)]]) == {"prefix", "gold", "ids"}
    with pytest.raises(UserError, match="has no generated continuation"):
        build_data(config(*words), encoder()).train_set[[(0, 0)]]


def test_bundled_parts(one_book):
    """Checklist 8, 9: held-back chapters for scoring; lengths of the mini's windows."""
    cfg = config(name="mini")
    parts = [train_triples(replace(cfg, data=replace(cfg.data, limit=None))), eval_triples(cfg)]
    parts.append(eval_triples(replace(cfg, eval=replace(cfg.eval, part="dev"))))
    texts = [{row.gold for row in part.rows} for part in parts]
    assert min(map(len, texts)) > 100
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    for part in parts:
        for row in part.rows:
            assert len(row.prefix.split()) <= 80
            assert 24 <= len(row.gold.split()) <= 48
            assert 24 <= len(row.generated.split()) <= 48
        # neither length nor the last character tells a generation from a gold
        sides = [[row.gold for row in part.rows], [row.generated for row in part.rows]]
        words = [np.mean([len(text.split()) for text in own]) for own in sides]
        assert abs(words[0] - words[1]) < 1.5
        quoted = [np.mean([text.endswith("”") for text in own]) for own in sides]
        assert abs(quoted[0] - quoted[1]) < 0.15
    windows = {
        w.continuation: w.prefix
        for w in book_windows(replace(cfg, window=replace(cfg.window, limit=None)))
    }
    own = [row for row in parts[0].rows if row.document == one_book]
    assert len(own) > 100
    assert all(windows[row.gold] == row.prefix for row in own)  # the ranker's half only
    generator = replace(cfg.window, limit=None, half="generator")
    other = {w.continuation for w in book_windows(replace(cfg, window=generator))}
    assert not texts[0] & other


# -- the generation stage ------------------------------------------------------------------------


def test_generation_continues_real_prefixes_and_resumes(tmp_path, books, monkeypatch):
    cfg = config(*books)
    path = write_generations(cfg, Workspace(tmp_path / "task"))
    rows = read_jsonl(path, ("doc_id", "prefix", "gold", "generated"))
    windows = {(w.prefix, w.continuation) for w in book_windows(cfg)}
    assert rows
    assert {(r["prefix"], r["gold"]) for r in rows} <= windows
    assert all(len(r["generated"].split()) >= 4 and r["generated"] != r["gold"] for r in rows)
    assert {r["doc_id"] for r in rows} <= {"four", "one", "three", "two"}
    import projects.rankgen.generate as stage

    monkeypatch.setattr(stage, "build_continuer", lambda *a: pytest.fail("generated again"))
    assert generated_rows(cfg, Workspace(tmp_path / "task")) == rows
    longer = config(*books, "generator.top_p=0.5")
    with pytest.raises(UserError, match="made for another policy"):
        generated_rows(longer, Workspace(tmp_path / "task"))


@pytest.mark.slow
def test_a_window_s_continuation_does_not_depend_on_the_selection(tmp_path, books):
    """Nor on chunks and shares."""
    every = generated_rows(config(*books), Workspace(tmp_path / "whole"))
    shared = Workspace(tmp_path / "shared")
    chunks = [*books, "task.chunk_size=2"]
    assert generated_rows(config(*chunks, "task.shard=1/2"), shared) is None
    assert generated_rows(config(*chunks, "task.shard=0/2"), shared) == every
    half = generated_rows(config(*books, "window.limit=3"), Workspace(tmp_path / "half"))
    assert half
    assert all(row in every for row in half)


def test_a_server_writes_negatives_but_cannot_be_ranked(tmp_path, books):
    """Each with the budget of its gold; likelihoods and decoding ask for a local model."""
    with CompletionServer(lambda prompt, body: f" {body['seed']} goes on and on. And") as server:
        cfg = config(*books, f"generator.endpoint={server.url}", "generator.served_model=big")
        rows = generated_rows(cfg, Workspace(tmp_path / "task"))
    assert all(row["generated"].endswith("goes on and on.") for row in rows)
    assert len({row["generated"] for row in rows}) == len(rows) == 6
    budget = {r["body"]["prompt"]: r["body"]["max_tokens"] for r in server.requests}
    assert all(budget[row["prefix"]] == 6 * len(row["gold"].split()) for row in rows)
    with pytest.raises(UserError, match="need a local generator"):
        continuations.language_model(cfg)


def test_negatives_end_like_golds_and_are_as_long():
    """`sentence`: whole sentences with their quotes, nearest to the gold's length; else the paper's
    cut.
    """
    words = ["window.min_words=3", "window.max_words=10"]
    cfg = config(*words, "generator.ending=sentence")
    text = "“He went away.” Then Mr. Hall came in at last. She had seen; and Mr."
    assert fitted(cfg, text, 3) == "“He went away.”"
    assert fitted(cfg, text, 8) == "“He went away.” Then Mr. Hall came in at last."
    assert fitted(cfg, text, 9) == fitted(cfg, text, 8)  # what was begun is never kept
    assert fitted(cfg, "One. Two and Mr. No more", 3) is None
    long = config("window.min_words=3", "window.max_words=5", "generator.ending=sentence")
    assert fitted(long, text, 9) == "“He went away.”"
    assert fitted(config(*words), text, 3) == text  # up to the last of . ? ! ;
    assert fitted(config(*words), "“He went away.” She had", 3) == "“He went away."
    assert fitted(config(*words), "No. More", 3) is None


def test_a_negative_that_is_too_short_is_sampled_again(monkeypatch):
    """With another random stream; only for the windows that lack one, and `attempts` times at
    most."""
    import projects.rankgen.generate as stage

    calls = []

    def generate(prompts, rngs, budgets):
        calls.append(([p.text for p in prompts], budgets, [rng.random() for rng in rngs]))
        return ["It is long." if p.text == "good" or len(calls) > 2 else "No." for p in prompts]

    monkeypatch.setattr(stage, "text_generator", lambda *a, **k: generate)
    cfg = config("window.min_words=3", "generator.attempts=4", "generator.tokens_per_word=2")
    rows = [{"prefix": "bad", "gold": "a b c d"}, {"prefix": "good", "gold": "a b c"}]
    seeds = [RowSeed(0, 1), RowSeed(0, 2)]
    assert stage.build_continuer(cfg)(rows, seeds) == ["It is long."] * 2
    assert [call[:2] for call in calls] == [
        (["good", "bad"], [6, 8]),
        (["bad"], [8]),
        (["bad"], [8]),
    ]
    assert len({calls[0][2][1], calls[1][2][0], calls[2][2][0]}) == 3
    calls.clear()
    once = config("window.min_words=3", "generator.tokens_per_word=2")
    assert stage.build_continuer(once)(rows, seeds) == [None, "It is long."]
    assert len(calls) == 1


def test_halves_are_written_for_the_generator(tmp_path, books):
    """Checklist 9: documents of both files are disjoint."""
    actual = []
    for half in ("generator", "ranker"):
        cfg = config(*books, f"window.half={half}", f"window.output={tmp_path}/{half}.jsonl")
        rows = read_jsonl(
            write_windows(cfg, Workspace(tmp_path / "task")), ("doc_id", "prefix", "gold")
        )
        actual.append({row["doc_id"] for row in rows})
    assert not actual[0] & actual[1]
    assert actual[0] | actual[1] == {"four", "one", "three", "two"}


def test_windows_go_where_the_user_says(tmp_path, books, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = config(*books, "window.output=~/own/windows.jsonl")
    assert write_windows(cfg, Workspace(tmp_path / "task")) == tmp_path / "own/windows.jsonl"
    with pytest.raises(UserError, match="is a folder"):
        write_windows(config(*books, "window.output=~/own"), Workspace(tmp_path / "task"))


def test_the_halves_do_not_take_each_other_s_place(tmp_path, books):
    """Guards against a second TASK=windows that overwrites the first."""
    workspace = Workspace(tmp_path / "task")
    paths = {
        write_windows(config(*books, f"window.half={h}"), workspace)
        for h in ("generator", "ranker")
    }
    assert {path.name for path in paths} == {
        "windows-books-generator.jsonl",
        "windows-books-ranker.jsonl",
    }
    assert all(path.is_file() for path in paths)


@pytest.mark.usefixtures("one_book")
def test_windows_of_the_paper():
    """Checklist 8: 256 words before, 10 to 128 after, at every sentence boundary."""
    window = config(name="paper").window
    assert (window.prefix_words, window.min_words, window.max_words) == (256, 10, 128)
    assert window.overlap
    actual = book_windows(replace(config(), window=replace(window, limit=40)))
    lengths = [len(w.prefix.split()) for w in actual]
    assert max(lengths) <= 256
    assert sum(lengths) / len(lengths) > 230
    assert all(10 <= len(w.continuation.split()) <= 128 for w in actual)


@pytest.mark.usefixtures("one_book")
def test_missing_books_and_models(tmp_path):
    with pytest.raises(UserError, match=r"one \.txt file per document"):
        book_windows(config(f"data.root={tmp_path}", "window.books=none"))
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin/a.txt").write_bytes("He said \u201cyes\u201d.".encode("cp1252"))
    with pytest.raises(UserError, match=r"a\.txt is not a text file in UTF-8"):
        book_windows(config(f"data.root={tmp_path}", "window.books=latin"))
    with pytest.raises(UserError, match="no window of these lengths"):
        book_windows(config("window.prefix_words=100000"))
    cfg = config("generator.model=bundled:nothing", "window.limit=1")
    with pytest.raises(UserError, match="does not exist"):
        write_generations(cfg, Workspace(tmp_path))


# -- evaluation ----------------------------------------------------------------------------------


class Oracle:
    """Vectors by which the gold of a prefix scores 1, other golds and generations 0."""

    def __init__(self, triples, right=True):
        self.index = {t.gold: i for i, t in enumerate(triples.rows)}
        self.index |= {
            t.prefix: i if right else (i + 1) % len(triples) for i, t in enumerate(triples.rows)
        }
        self.size = len(triples)

    def encode(self, texts, kind, batch_size=64):
        rows = torch.zeros(len(texts), self.size)
        for row, text in zip(rows, texts, strict=True):
            if text in self.index:
                row[self.index[text]] = 1
        return rows


def test_metrics_of_an_oracle_and_of_a_wrong_ranker(tmp_path):
    cfg, triples = (
        config(),
        TripleList([Triple(f"d{i % 3}", f"p {i}", f"gold {i}", f"gen {i}") for i in range(24)]),
    )
    metrics, items = rank_metrics(cfg, Oracle(triples), triples, Workspace(tmp_path))
    for name in (
        "inbook_accuracy",
        "inbook_hard_accuracy",
        "generated_accuracy",
        "inbook_all_accuracy",
        "retrieval_recall_at_1",
    ):
        assert metrics[name] == 1.0
    assert metrics["inbook_accuracy_chance"] == 0.5
    assert metrics["retrieval_recall_at_1_chance"] == pytest.approx(1 / 8)
    assert metrics["inbook_all_accuracy_chance"] == pytest.approx(1 / 5)
    assert {len(v) for v in items.values()} == {24}
    assert (tmp_path / "plots/scores.png").is_file()
    assert json.loads((tmp_path / "gallery/suffixes of the same book/gallery.json").read_text())
    assert metrics["identification_accuracy"] == 1.0
    assert metrics["generated_blind_accuracy"] == 0.5  # by another prefix both score 0: half
    wrong, _ = rank_metrics(cfg, Oracle(triples, right=False), triples)
    assert wrong["retrieval_recall_at_1"] == 0.0
    assert wrong["generated_accuracy"] == 0.5  # 0 against 0


class Critic:
    """Scores every gold 1 and every generation 0, whatever the prefix."""

    def encode(self, texts, kind, batch_size=64):
        return torch.tensor([[0.0 if text.startswith("gen") else 1.0] for text in texts])


def test_who_needs_no_prefix_is_seen():
    triples = TripleList(
        [Triple(f"d{i % 3}", f"p {i}", f"gold {i}", f"gen {i}") for i in range(24)]
    )
    metrics, _ = rank_metrics(config(), Critic(), triples)
    assert metrics["generated_accuracy"] == metrics["generated_blind_accuracy"] == 1.0
    assert metrics["inbook_accuracy"] == 0.5
    assert metrics["identification_accuracy"] == 0.75


def test_baselines(tmp_path):
    """By hand: shared words, lengths, chance; the language model and TF-IDF as the evaluation has
    them.
    """
    cfg, space = config("eval.num_negatives=1"), Workspace(tmp_path)
    rows = [
        Triple("d", "red sea", "the red sea", "a sky above us all"),
        Triple("d", "fox", "the old fox", "rain fell down"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "eval_triples", lambda cfg: TripleList(rows))
        assert baselines.overlap(cfg, space) == {"inbook_accuracy": 1.0, "generated_accuracy": 1.0}
        # equal lengths are half a pair; 3 against 5 and 3 against 3: the shorter wins
        assert baselines.length(cfg, space) == {"inbook_accuracy": 0.5, "generated_accuracy": 0.75}
        assert baselines.tfidf(cfg, space)["inbook_accuracy"] == 1.0
        actual = baselines.chance(cfg, space)
    assert actual["inbook_accuracy"] == actual["generated_accuracy"] == 0.5
    assert actual["retrieval_recall_at_1"] == 0.5
    save_language_model(tmp_path / "lm")
    lm = config(f"generator.model={tmp_path}/lm", "generator.device=cpu")
    assert set(baselines.perplexity(lm, space)) == {"inbook_accuracy", "generated_accuracy"}


def test_negatives_are_of_the_same_book_and_never_the_gold():
    triples = TripleList([Triple(f"d{i % 3}", f"red {i}", f"red gold {i}", "x") for i in range(30)])
    for chosen in (negatives(triples, 5), hard_negatives(triples, 5)):
        assert chosen.shape == (30, 5)
        assert (triples.documents[chosen] == triples.documents[:, None]).all()
        assert all(i not in row and len(set(row)) == 5 for i, row in enumerate(chosen))
    assert (negatives(triples, 5) == negatives(triples, 5)).all()
    with pytest.raises(UserError, match="a book has 9 other prefixes"):
        negatives(triples, 10)


def test_books_with_too_few_prefixes_are_left_out():
    rows = [Triple("a", f"p {i}", f"g {i}", "x") for i in range(6)] + [
        Triple("b", "p", "g", "x")
    ] * 3
    triples = TripleList(rows)
    assert len(large_books(triples, 4)) == 6
    assert len(large_books(triples, 2)) == 9
    with pytest.raises(UserError, match="a book has 5 other prefixes"):
        large_books(triples, 6)


def test_hard_negatives_share_words_with_the_prefix():
    texts = ["blue sea", "red fox", "green hill", "red rose"]
    triples = TripleList([Triple("d", f"about {t}", t, "x") for t in texts])
    assert hard_negatives(triples, 1)[1].tolist() == [3]


def test_retrieval_ranks_within_each_book():
    triples = TripleList([Triple("ab"[i % 2], "p", "g", "x") for i in range(6)])
    eye = torch.eye(6)
    metrics, hits = book_retrieval(triples, eye, eye)
    assert metrics["retrieval_mrr"] == 1.0
    assert hits.tolist() == [1.0] * 6
    shifted, hits = book_retrieval(triples, eye, eye.roll(2, 0))
    assert hits.sum() == 0
    assert shifted["retrieval_recall_at_5"] == 1.0  # three golds a book


def test_share_of_the_softmax_on_the_own_book():
    """Without preference the share of their number; all of it for a ranker that knows the books."""
    triples = TripleList([Triple("aaab"[i % 4], "p", "g", "x") for i in range(8)])
    blind = own_book_mass(triples, torch.zeros(8, 2), torch.zeros(8, 2))
    share = (6 * 5 + 2 * 1) / 8 / 7
    assert blind == pytest.approx({"own_book_mass": share, "own_book_mass_chance": share})
    book = 30 * torch.nn.functional.one_hot(torch.from_numpy(triples.documents)).float()
    assert own_book_mass(triples, book, book)["own_book_mass"] == pytest.approx(1.0)
    assert own_book_mass(triples, book, book.flip(1))["own_book_mass"] == pytest.approx(0.0)


def test_further_sets_and_language_model(tmp_path):
    rows = [
        {"prefix": "the state", "suffix": f"gold {i}", "negatives": ["no", "yes"]} for i in range(3)
    ]
    write_jsonl(tmp_path / "chapterbreak.jsonl", rows)
    save_language_model(tmp_path / "lm")
    cfg = config(
        f"data.root={tmp_path}",
        "eval.sets=[chapterbreak.jsonl]",
        "eval.lm_prefixes=8",
        "eval.decode_prefixes=2",
        f"generator.model={tmp_path}/lm",
        "generator.device=cpu",
        "decode.num_samples=3",
        "decode.max_tokens=8",
    )
    experiment = build(cfg)
    module = next(experiment.stages()).module
    metrics = experiment.evaluate(module, Workspace(tmp_path / "run"))
    assert {
        "chapterbreak_pairwise",
        "chapterbreak_all",
        "lm_inbook_accuracy",
        "lm_generated_accuracy",
        "nucleus_rep",
        "rerank_overlap",
        "human_words",
        "untrained_inbook_accuracy",
    } <= metrics.keys()
    assert (tmp_path / "run/gallery/continuations/gallery.json").is_file()
    assert len(json.loads((tmp_path / "run/items/generated_accuracy.json").read_text())) == 48


# -- decoding ------------------------------------------------------------------------------------


def test_one_harness_for_all_methods(tmp_path):
    """Checklist 14: every strategy, ranked samples and the beam search on the same prefixes."""
    cfg = config(
        "decode.num_samples=4",
        "decode.beam_samples=2",
        "decode.segment_tokens=4",
        "decode.max_tokens=8",
    )
    prefixes = ["the state of the world", "a man in his house"]
    lm, ranker = language_model(), encoder()
    actual = decode_all(cfg, ranker, lm, prefixes, METHODS, Workspace(tmp_path))
    assert list(actual) == list(METHODS)
    assert all(len(texts) == 2 for texts in actual.values())
    metrics = text_metrics(prefixes, actual)
    assert {f"{m}_rep" for m in METHODS} <= metrics.keys()
    assert not any(name.endswith("mauve") for name in metrics)
    alone = decode_all(cfg, ranker, lm, prefixes, ["nucleus"], Workspace(tmp_path))
    assert alone["nucleus"] == actual["nucleus"]  # the first of the ranked samples
    quoted = TripleList([Triple("d", prefixes[0], "“I will,” he said. “Now.”", "x")])
    few = config("eval.decode_prefixes=1", "decode.num_samples=2", "decode.max_tokens=8")
    continuations.decode_metrics(few, ranker, lm, quoted, Workspace(tmp_path))
    shown = json.loads((tmp_path / "gallery/continuations/gallery.json").read_text())
    human = [r["item"]["text"] for r in shown[0]["results"] if r["name"] == "human"]
    assert human == ["“I will,” he said. “Now."]  # cut like the generations
    with pytest.raises(UserError, match="'magic' is none of"):
        decode_all(cfg, ranker, lm, prefixes, ["magic"], Workspace(tmp_path))


@pytest.mark.slow
def test_decode_task_writes_samples_and_a_form(tmp_path, full_run, monkeypatch):
    """The decode command with and without the ranker, on prefixes of a file."""
    save_language_model(tmp_path / "lm")
    (tmp_path / "prefixes.txt").write_text("the state of the world\n\na man in his house\n")
    cfg = config(
        f"generator.model={tmp_path}/lm",
        "generator.device=cpu",
        "decode.num_samples=3",
        "decode.max_tokens=10",
        f"decode.file={tmp_path}/prefixes.txt",
        "decode.beam_samples=2",
        f"decode.run={full_run}",
        "decode.methods=[nucleus,rerank,beam]",
    )
    experiment, workspace = build(cfg), Workspace(tmp_path / "task", "rankgen", "smoke")
    tasks.decode(cfg, experiment, workspace)
    text = (tmp_path / "task/continuations.md").read_text()
    assert text.count("**rerank:**") == 2
    assert "| beam |" in text
    shown = json.loads((full_run / "gallery/decoded continuations/gallery.json").read_text())
    assert [r["name"] for r in shown[0]["results"]] == ["nucleus", "rerank", "beam"]
    assert not (tmp_path / "task/meta.json").exists()  # it would count as a run
    assert (tmp_path / "task/ab_form.csv").read_text().startswith("InstanceNum,Prefix,First,Second")
    assert "too long" not in (tmp_path / "task/notes.txt").read_text()
    with monkeypatch.context() as patch:  # started again, it decodes nothing twice
        patch.setattr(continuations, "_decode_one", lambda *a: pytest.fail("decoded again"))
        tasks.decode(cfg, experiment, workspace)
    assert (tmp_path / "task/continuations.md").read_text() == text
    other = Workspace(tmp_path / "shares", "rankgen", "smoke")
    for share, done in (("1/2", False), ("0/2", True)):
        split = replace(cfg, task=RowMapConfig(share, chunk_size=1))
        assert bool(tasks.decode(split, build(split), other)) == done
    assert (tmp_path / "shares/continuations.md").read_text() == text
    answers = tmp_path / "answers.csv"
    answers.write_text('InstanceNum,Order,Choice,Explanation\n0,"nucleus,rerank",2,it fits\n')
    scored = config(f"preference.answers={answers}")
    assert tasks.preference(scored, workspace)["majority_share"] == 1.0
    with pytest.raises(UserError, match=r"set preference\.answers"):
        tasks.preference(cfg, workspace)


@pytest.mark.slow
def test_a_form_that_cannot_be_written_is_refused_before_decoding(tmp_path, full_run, monkeypatch):
    """Guards against hours of decoding that end without the A/B form that was asked for."""
    save_language_model(tmp_path / "lm")
    (tmp_path / "p.txt").write_text("a man\n")
    words = [
        f"generator.model={tmp_path}/lm",
        "generator.device=cpu",
        f"decode.run={full_run}",
        f"decode.file={tmp_path}/p.txt",
        "decode.max_tokens=4",
    ]
    monkeypatch.setattr(tasks, "decode_kept", lambda *a: pytest.fail("decoded"))
    for wrong in ("[nucleus,rerank]", "[greedy,human]", "[greedy]"):
        cfg = config(*words, "decode.methods=[greedy,nucleus]", f"decode.ab_pair={wrong}")
        with pytest.raises(UserError, match=r"choose two of greedy, nucleus, or none"):
            tasks.decode(cfg, build(cfg), Workspace(tmp_path / "task", "rankgen", "smoke"))


def test_prefixes_that_are_cut_are_counted(tmp_path):
    """Guards against a language model and a ranker that read different texts, and nobody knows."""
    lm, ranker = language_model(), encoder(prefix_length=16)
    cfg, long = config("decode.max_tokens=10"), "the state of the world " * 30
    assert tasks.cut_notes(cfg, ranker, lm, ["a man"]) == []
    seen, ranked = tasks.cut_notes(cfg, ranker, lm, ["a man", long])
    assert "1 of 2 prompts are too long: the language model reads their last 86 tokens" in seen
    assert "1 of 2 prefixes are too long: the ranker reads their first 16 tokens" in ranked


@pytest.mark.slow
def test_other_weights_of_one_name_are_decoded_anew(tmp_path, full_run, monkeypatch):
    """Guards against old texts of a language model that was trained further in its folder."""
    save_language_model(tmp_path / "lm")
    (tmp_path / "p.txt").write_text("a man\n")
    cfg = config(
        f"generator.model={tmp_path}/lm",
        "generator.device=cpu",
        f"decode.run={full_run}",
        f"decode.file={tmp_path}/p.txt",
        "decode.methods=[greedy]",
        "decode.ab_pair=[]",
    )
    names = []
    monkeypatch.setattr(tasks, "decode_kept", lambda *args: names.append(args[-1]))
    for amount in (0.0, 1.0):
        lm = language_model()
        lm.model.transformer.wte.weight.data += amount
        lm.model.save_pretrained(tmp_path / "lm")
        tasks.decode(cfg, build(cfg), Workspace(tmp_path / "task", "rankgen", "smoke"))
    assert names[0] != names[1]


@pytest.mark.slow
def test_mauve_and_the_report_of_a_decoded_run(tmp_path, full_run, monkeypatch):
    """Held-back prefixes with their golds: MAUVE where the library is, a figure, readable
    samples."""
    import projects.rankgen.continuations as stage
    from common.engine.report.pages import write_report

    save_language_model(tmp_path / "lm")
    words = [
        f"generator.model={tmp_path}/lm",
        "generator.device=cpu",
        "decode.num_samples=2",
        "decode.max_tokens=8",
        f"decode.run={full_run}",
        "decode.methods=[nucleus,rerank]",
    ]
    seen = []

    def mauve(human, machine):
        seen.append((human.shape, machine.shape))
        return 0.25 * len(seen)

    monkeypatch.setattr(stage.measures, "mauve", mauve)
    monkeypatch.setattr(stage, "MAUVE_TEXTS", 6)
    cfg = config(*words, "decode.num_prefixes=6")
    metrics = tasks.decode(cfg, build(cfg), Workspace(tmp_path / "task", "rankgen", "smoke"))
    assert (metrics["nucleus_mauve"], metrics["rerank_mauve"]) == (0.25, 0.5)
    assert seen == [((6, 32), (6, 32))] * 2
    assert "| rerank |" in (tmp_path / "task/continuations.md").read_text()
    assert (full_run / "plots/decoding.png").is_file()
    html = write_report(["rankgen"], tmp_path / "html", full_run.parents[2]).read_text()
    block = html[html.index("decoded continuations") :]
    assert block.index("<td>nucleus</td>") < block.index("<td>rerank</td>")
    assert '<tr class="hit"><td>human</td>' in block
    assert 'class="miss"' not in block[: block.index("</table>")]

    few = config(*words, "decode.num_prefixes=2")
    rows = [Triple("d", t.prefix, f"{t.gold} “Yes.”", None) for t in eval_triples(few).rows[:2]]
    monkeypatch.setattr(tasks, "eval_triples", lambda cfg: TripleList(rows))
    metrics = tasks.decode(few, build(few), Workspace(tmp_path / "few", "rankgen", "smoke"))
    assert not any(name.endswith("mauve") for name in metrics)
    assert "decode.num_prefixes >= 6, here 2" in (tmp_path / "few/notes.txt").read_text()
    texts = json.loads((tmp_path / "few/continuations.json").read_text())
    assert [t["human"] for t in texts] == [
        f"{row.gold[:-1]}" for row in rows
    ]  # without its last quote
    with pytest.raises(UserError, match="human continuations"):
        stage.mauve_metrics(["a"] * 20, {"nucleus": ["b"] * 20}, language_model)


def test_mauve_compares_features_of_its_own_model(tmp_path, monkeypatch):
    """The paper's are those of the library's default; they are read once, and only if there are
    enough texts.
    """
    import projects.rankgen.continuations as stage

    asked, lm = [], language_model()
    monkeypatch.setattr(stage.measures, "mauve", lambda human, machine: 0.5)
    monkeypatch.setattr(
        stage.LanguageModel, "from_pretrained", lambda place, device: asked.append(place) or lm
    )
    assert stage.mauve_judge(config(), lm)() is lm
    judge = stage.mauve_judge(config("decode.mauve_model=gpt2-large"), language_model)
    actual = {"human": ["a man."] * 20, "nucleus": ["the state."] * 20}
    few = {name: texts[:19] for name, texts in actual.items()}
    stage.repeated_metrics(["p"] * 19, [few], judge, Workspace(tmp_path))
    assert asked == []
    again = [actual, {"nucleus": actual["nucleus"]}]
    metrics = stage.repeated_metrics(["p"] * 20, again, judge, Workspace(tmp_path))
    assert (metrics["nucleus_mauve"], asked) == (0.5, ["gpt2-large"])
    monkeypatch.undo()
    absent = stage.mauve_judge(config("decode.mauve_model=bundled:nothing"), lm)
    assert "nucleus_mauve" not in stage.repeated_metrics(
        ["p"] * 20, [actual], absent, Workspace(tmp_path)
    )
    assert "does not exist" in (tmp_path / "notes.txt").read_text()


@pytest.mark.slow
def test_sampling_strategies_are_averaged_over_repeats(tmp_path, full_run, monkeypatch):
    """The paper's protocol: five runs of each baseline that samples, one of the others."""
    import projects.rankgen.continuations as stage

    save_language_model(tmp_path / "lm")
    words = [
        f"generator.model={tmp_path}/lm",
        "generator.device=cpu",
        "decode.num_samples=2",
        "decode.max_tokens=8",
        f"decode.run={full_run}",
        "decode.num_prefixes=6",
        "decode.methods=[greedy,nucleus,rerank]",
    ]
    seen, runs = [], []

    def mauve(human, machine):
        seen.append(machine)
        return 0.1 * len(seen)

    def text_metrics(prefixes, found, plain=stage.text_metrics):
        runs.append(plain(prefixes, found))
        return dict(runs[-1])

    monkeypatch.setattr(stage.measures, "mauve", mauve)
    monkeypatch.setattr(stage, "MAUVE_TEXTS", 6)
    monkeypatch.setattr(stage, "text_metrics", text_metrics)
    cfg = config(*words, "decode.repeats=3")
    metrics = tasks.decode(cfg, build(cfg), Workspace(tmp_path / "task", "rankgen", "smoke"))
    assert [sorted({k.rsplit("_", 1)[0] for k in run}) for run in runs] == [
        ["greedy", "human", "nucleus", "rerank"],
        ["nucleus"],
        ["nucleus"],
    ]
    words_of = [run["nucleus_words"] for run in runs]
    assert len(set(words_of)) > 1  # other samples
    assert metrics["nucleus_words"] == pytest.approx(np.mean(words_of))
    assert metrics["nucleus_words_std"] == pytest.approx(np.std(words_of, ddof=1))
    assert metrics["nucleus_mauve"] == pytest.approx((0.2 + 0.4 + 0.5) / 3)
    assert metrics["rerank_mauve"] == pytest.approx(0.3)
    assert not any(k.endswith("_std") and not k.startswith("nucleus") for k in metrics)
    assert " +- " in (tmp_path / "task/continuations.md").read_text()
    assert f"{metrics['greedy_rep']:.3f} |" in (tmp_path / "task/continuations.md").read_text()


def test_decoding_with_weights_as_they_are(tmp_path):
    cfg = config("decode.run=pretrained")
    module, run = tasks.trained(cfg, build(cfg), Workspace(tmp_path, "rankgen", "smoke"))
    assert run is None
    assert module.encoder.projection.weight.shape == (32, 32)


def test_search_finds_the_suffix_that_scores_best(full_run, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("ak al am.\nbk bl bm.\n")
    (tmp_path / "queries.txt").write_text("ak the al.\n")
    words = [
        f"search.file={tmp_path}/texts.txt",
        f"search.queries={tmp_path}/queries.txt",
        "search.k=2",
        "search.run=full",
        f"runs_dir={full_run.parents[2]}",
    ]
    experiment = build(config(*words))
    experiment.tasks["search"](Workspace(tmp_path / "task", "rankgen", "smoke"))
    lines = capsys.readouterr().out.strip().splitlines()
    assert (lines[0], lines[2]) == ("2 texts indexed", "ak the al.")
    module = tasks.trained(
        config("decode.run=full", *words), experiment, Workspace(tmp_path, "rankgen", "smoke")
    )[0]
    prefix = module.encoder.encode("ak the al.", "prefix")[0]
    value = module.encoder.encode(["ak al am.", "bk bl bm."], "suffix") @ prefix
    shown = [float(line.split()[0]) for line in lines[3:]]
    assert shown == pytest.approx(sorted(value.tolist(), reverse=True), abs=1e-3)


# -- training ------------------------------------------------------------------------------------


def test_run_folder(full_run):
    metrics = json.loads((full_run / "metrics.json").read_text())
    assert {"inbook_accuracy", "generated_accuracy", "retrieval_recall_at_1"} <= metrics.keys()
    # words tell the document, but not a continuation from the same words in another order
    assert metrics["tfidf_inbook_accuracy"] > 0.8
    assert metrics["tfidf_generated_accuracy"] == 0.5
    assert (full_run / "plots/scores.png").is_file()
    meta = json.loads((full_run / "meta.json").read_text())
    assert meta["negatives_per_query"] == 15
    assert len(json.loads((full_run / "items/inbook_accuracy.json").read_text())) == 48


def weights(run):
    final = ckpt.finished(run / "checkpoints/train")
    assert final is not None
    return ckpt.load(final)["state_dict"]


def test_training_learns_the_synthetic_documents(full_run):
    """In-book accuracy rises well above that of the untrained encoder."""
    metrics = json.loads((full_run / "metrics.json").read_text())
    assert metrics["inbook_accuracy"] > metrics["untrained_inbook_accuracy"] + 0.15
    assert metrics["inbook_accuracy"] > 0.7


def test_values_of_the_paper():
    """Batches, optimiser, decoding and scoring as the sheet of the paper has them."""
    expected = {"paper": 4096, "paper_large": 4096, "paper_xl": 1536}
    for name, triples in expected.items():
        cfg = config(name=name)
        assert cfg.data.batch_size * cfg.trainer.devices == triples
        assert (cfg.data.batches, cfg.method.negatives) == ("document", "both")
        optim = cfg.optim
        assert (optim.name, optim.lr, optim.schedule) == ("adafactor", 2e-3, "constant")
        assert (optim.weight_decay, optim.warmup_steps, cfg.trainer.max_steps) == (0, 0, 100_000)
        assert (cfg.model.prefix_length, cfg.model.suffix_length, cfg.model.pooling) == (
            512,
            128,
            "first",
        )
        assert (cfg.generator.strategy, cfg.generator.top_p, cfg.generator.ending) == (
            "nucleus",
            0.9,
            "punctuation",
        )
        d = cfg.decode
        assert (d.num_samples, d.num_beams, d.beam_samples, d.segment_tokens, d.max_tokens) == (
            20,
            2,
            10,
            20,
            115,
        )
        assert (d.repeats, d.num_prefixes, d.mauve_model) == (5, 7713, "gpt2-large")
        assert cfg.eval.num_negatives == 10


def test_encoder_of_the_config_has_its_lengths():
    assert make_encoder(config()).lengths == {"prefix": 48, "suffix": 32}
    with pytest.raises(UserError, match="must be >= 4"):
        config("model.prefix_length=2")
    with pytest.raises(UserError, match="belong together"):
        config("data.file=x.jsonl")


def test_prefixes_of_short_documents_are_counted(monkeypatch, tmp_path, capsys):
    """A document with too few windows for the negatives is not scored, and the report says so."""
    rows = TripleList([Triple("a", "p", "g", "x")] * 6 + [Triple("b", "p", "g", "x")] * 2)
    monkeypatch.setattr(evaluation, "eval_triples", lambda cfg: rows)
    monkeypatch.setattr(evaluation, "before_and_after", lambda *_: {})
    cfg = config("eval.num_negatives=4", "eval.lexical=false", "eval.lm_prefixes=0")
    module = SimpleNamespace(encoder=None)
    assert evaluation.evaluate(cfg, module, Workspace(tmp_path)) == {}
    assert "2 of 8 prefixes are not scored" in capsys.readouterr().out
    cfg.eval.num_negatives = 1
    evaluation.evaluate(cfg, module, Workspace(tmp_path))
    assert "not scored" not in capsys.readouterr().out
