"""Experiment, rows beside the method, sets in the BEIR layout and search, with a small encoder."""

import json
import shutil
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.config import DataConfig, OptimConfig, TrainerConfig, UserError, load
from common.engine.experiment import Plan, Requirement
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from common.families.retrieval.baselines import bm25
from common.families.retrieval.config import (
    DenseModel,
    RetrievalEval,
    RetrievalSearch,
    TrainingSet,
    check_queue,
)
from common.families.retrieval.dense import build_dense
from common.families.retrieval.encoder import EncoderRecipe
from common.families.retrieval.evaluation import (
    before_and_after,
    evaluate_beir,
    load_set,
    named_sets,
    set_names,
)
from common.families.retrieval.experiment import one_stage, retrieval_experiment, text_plan
from common.families.retrieval.finetuning import questions
from common.families.retrieval.sets import set_counts
from common.registry import config_class
from projects.nv_embed.data.training_sets import read_set, set_requirements

CORPUS = {"a": "red fox", "b": "blue car", "c": "green tree"}
QUERIES = {"1": "fox", "2": "car", "3": "tree"}
WORDS = ["red", "fox", "blue", "car", "green", "tree"]


class Bag(nn.Module):
    """Counts of words times a matrix; queries are scaled, which only a dot product notices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(WORDS), 3))
        self.modes: list[bool] = []

    def encode(self, texts, scale=1.0):
        self.modes.append(self.training)
        rows = torch.tensor([[float(w in text.split()) for w in WORDS] for text in texts])
        return scale * rows @ self.weight


class Module(ContrastiveModule):
    def __init__(self, encoder: Bag) -> None:
        super().__init__(OptimConfig())
        self.encoder = encoder


@dataclass
class Config:
    """What the family reads."""

    seed: int = 3
    runs_dir: str = "runs"
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(accelerator="cpu"))
    data: DataConfig = field(default_factory=DataConfig)
    eval: RetrievalEval = field(default_factory=RetrievalEval)
    search: RetrievalSearch = field(default_factory=RetrievalSearch)


def recipe(**changes):
    return EncoderRecipe(
        **{
            "build": Bag,
            "planned": Bag,
            "save": lambda encoder, folder: torch.save(encoder.state_dict(), folder / "bag.pt"),
            "load": lambda folder: read(folder),
            "queries": lambda encoder, texts: encoder.encode(texts, 2.0),
            "documents": lambda encoder, texts: encoder.encode(texts),
            "metric": "dot",
            **changes,
        }
    )


def read(folder):
    encoder = Bag()
    encoder.load_state_dict(torch.load(folder / "bag.pt", weights_only=True))
    return encoder.eval()


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    for name, rows in (("corpus", CORPUS), ("queries", QUERIES)):
        lines = [json.dumps({"_id": i, "text": text}) + "\n" for i, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    judged = "".join(f"{q}\t{d}\t1\n" for q, d in zip("123", "abc", strict=True))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def perfect() -> Bag:
    encoder = Bag()
    encoder.weight.data = torch.eye(3).repeat_interleave(2, dim=0)
    return encoder


def opposite() -> Bag:
    """The colour of a document points away from its noun, which is what queries ask for."""
    encoder = perfect()
    encoder.weight.data[::2] *= -2
    return encoder


def experiment_of(cfg, evaluate=lambda cfg, module, workspace: {"own": 1.0}, **tasks):
    return retrieval_experiment(
        cfg,
        recipe(),
        lambda cfg, encoder: Module(encoder),
        stages=lambda cfg: one_stage(recipe(), Module, lambda encoder: ("data of", encoder)),
        evaluate=evaluate,
        plan=lambda cfg: text_plan(
            cfg,
            recipe(),
            Module,
            passes=lambda size: [(size, 3), (2 * size, 2)],
            run=lambda encoder, ids: encoder.weight.sum() * ids,
            num_samples=7,
            requirements=[Requirement("data: x", "x", True)],
        ),
        texts=lambda cfg: list(CORPUS.values()),
        **tasks,
    )


def test_stage_export_and_embeddings(tmp_path):
    experiment = experiment_of(Config())
    (stage,) = experiment.stages()
    assert stage.name == "train"
    assert stage.data == ("data of", stage.module.encoder)
    experiment.export(stage.module, tmp_path)
    again = experiment.load_export(tmp_path)
    assert torch.equal(again.encoder.weight, stage.module.encoder.weight)
    actual = experiment.embed(again)
    assert actual.keys() == {"queries", "documents"}
    torch.testing.assert_close(actual["queries"], 2 * actual["documents"])


def test_tasks_are_given_the_experiment(tmp_path):
    seen = []
    cfg, workspace = Config(), Workspace(tmp_path)
    experiment = experiment_of(
        cfg,
        tasks={"write": lambda *given: seen.append(given)},
        model_tasks={"mine": lambda *given: seen.append(given)},
    )
    assert list(experiment.tasks) == ["search", "encode_sets", "write", "mine"]
    experiment.tasks["write"](workspace)
    experiment.tasks["mine"](workspace)
    assert seen == [(cfg, workspace), (cfg, workspace, experiment)]


def test_the_untrained_encoder_stands_beside_the_trained_one(tmp_path):
    """It is what the seed builds; it draws nothing from the global stream; modes come back."""
    cfg, encoder, seen = Config(), perfect().train(), []

    def measure(some, own):
        seen.append((some, own is None, some.training))
        return {"sum": float(some.weight.sum()), "sum_chance": 0.0}

    workspace = Workspace(tmp_path)
    state = torch.random.get_rng_state()
    actual = before_and_after(cfg, recipe(), encoder, measure, workspace)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert actual.keys() == {"sum", "sum_chance", "untrained_sum"}
    torch.manual_seed(cfg.seed)
    assert actual["untrained_sum"] == pytest.approx(float(Bag().weight.sum()))
    assert seen[0] == (encoder, False, False)
    assert seen[1][1:] == (True, False)
    assert encoder.training
    cfg.eval.untrained = False
    assert before_and_after(cfg, recipe(), encoder, measure, workspace).keys() == {
        "sum",
        "sum_chance",
    }


def test_a_set_larger_than_a_shard_has_the_same_metrics(tmp_path, beir):
    """Other processes encode its shards; the untrained encoder waits for a switch."""
    names = [str(beir)]
    whole = evaluate_beir(
        Config(eval=RetrievalEval(beir=names)), recipe(), opposite(), Workspace(tmp_path / "a")
    )
    options = RetrievalEval(beir=names, shard_size=2)
    cfg = Config(eval=options, runs_dir=str(tmp_path / "runs"))
    experiment, encoder = experiment_of(cfg), opposite()
    experiment.assist(Module(encoder))
    encoder.modes.clear()
    sharded = evaluate_beir(cfg, recipe(), encoder, Workspace(tmp_path / "b"))
    assert len(encoder.modes) == 1  # queries alone
    assert sharded == {
        name: whole[name] for name in sharded if not name.startswith(("untrained", "tfidf"))
    }
    assert not any(name.startswith(("untrained", "tfidf")) for name in sharded)
    options.untrained_shards = True
    asked = evaluate_beir(cfg, recipe(), encoder, Workspace(tmp_path / "c"))
    assert asked["untrained_small_mrr"] == whole["untrained_small_mrr"]
    other = Config(eval=RetrievalEval(beir=names, shard_size=2), runs_dir=cfg.runs_dir)
    evaluate_beir(other, recipe(), perfect(), Workspace(tmp_path / "d"))
    assert len(list((tmp_path / "runs" / "embeddings").iterdir())) == 4  # BM25, three encoders


def test_beir_sets_beside_lexical_rows(tmp_path, beir):
    cfg = Config(eval=RetrievalEval(beir=[str(beir)]))
    actual = evaluate_beir(cfg, recipe(build=opposite), perfect(), Workspace(tmp_path / "run"))
    assert actual["small_ndcg_at_10"] == actual["bm25_small_ndcg_at_10"] == 1.0
    assert actual["tfidf_small_mrr"] == 1.0
    assert actual["untrained_small_ndcg_at_10"] == 0.5  # the right one is the last of three
    for row in ("", "untrained_", "bm25_", "tfidf_"):
        items = json.loads((tmp_path / f"run/items/{row}small_ndcg_at_10.json").read_text())
        assert len(items) == 3
        assert sum(items) / 3 == pytest.approx(actual[f"{row}small_ndcg_at_10"])
    gallery = json.loads((tmp_path / "run/gallery/worst queries small/gallery.json").read_text())
    assert gallery[0]["results"][0] == {"item": {"text": "red fox"}, "score": 4.0, "correct": True}
    assert [r["correct"] for r in gallery[0]["results"]] == [True, False, False]
    plain = Config(eval=RetrievalEval(beir=[str(beir)], untrained=False, lexical=False))
    names = evaluate_beir(plain, recipe(), perfect(), Workspace(tmp_path / "run")).keys()
    assert all(name.startswith("small_") for name in names)


def test_evaluation_of_an_experiment_adds_the_sets(tmp_path, beir):
    cfg = Config(data=DataConfig(root=str(beir.parent)), eval=RetrievalEval(beir=["small"]))
    (beir / "qrels").mkdir()
    (beir / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tc\t1\n")
    actual = experiment_of(cfg).evaluate(Module(perfect()), Workspace(tmp_path / "run"))
    assert actual["own"] == 1.0
    assert actual["small_recall_at_10"] == 1.0  # three documents
    assert actual["small_ndcg_at_10"] < 1  # the test part judges otherwise
    cfg.eval.beir = ["nowhere"]
    with pytest.raises(UserError, match=r"eval\.beir takes folders"):
        experiment_of(cfg).evaluate(Module(perfect()), Workspace(tmp_path / "run"))


def test_plan_counts_the_passes_and_names_the_sets(beir):
    cfg = Config(eval=RetrievalEval(beir=[str(beir), "nowhere"]))
    plan = experiment_of(cfg).plan()
    assert isinstance(plan, Plan)
    assert [(r.name, r.present) for r in plan.requirements] == [
        ("data: x", True),
        (f"data: {beir} (evaluation)", True),
        ("data: nowhere (evaluation)", False),
    ]
    module = plan.module()
    total = plan.forward(module, 5)
    assert float(total) == pytest.approx(
        float(module.encoder.weight.sum()) * (5 * 3 + 10 * 2), rel=1e-5
    )
    total.backward()
    assert module.encoder.weight.grad is not None


def test_search_asks_both_sides(tmp_path, capsys):
    experiment = experiment_of(Config())
    experiment.export(Module(perfect()), tmp_path)
    (tmp_path / "q.txt").write_text("car\n")
    (tmp_path / "texts.txt").write_text("fox tree\nred fox\n")
    options = RetrievalSearch(queries=str(tmp_path / "q.txt"), run=str(tmp_path), k=1)
    workspace = Workspace(tmp_path / "task", "p", "c")
    experiment_of(Config(search=options)).tasks["search"](workspace)
    assert capsys.readouterr().out.split() == [
        "3",
        "texts",
        "indexed",
        "car",
        "4.000",
        "blue",
        "car",
    ]
    options.file, options.queries = str(tmp_path / "texts.txt"), str(tmp_path / "texts.txt")
    experiment_of(Config(search=options)).tasks["search"](workspace)
    assert "8.000  red fox" in capsys.readouterr().out
    options.dense_weight = 0.0
    experiment_of(Config(search=options)).tasks["search"](workspace)
    assert "8.000  red fox" not in capsys.readouterr().out  # scores of BM25


# -- dense encoder, merged rows, averages --------------------------------------------------------


def test_merged_rows_averages_and_sets_won(tmp_path, beir):
    """Two sets: every row has its mean; groups count as one set; sets won against BM25."""
    (beir.parent / "b").mkdir()
    twin = beir.parent / "b/small"
    twin.symlink_to(beir)
    sets = [str(beir), str(twin)]
    cfg = Config(eval=RetrievalEval(beir=sets, hybrid=True, dev=[f"{beir}@titles"]))
    (beir / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": i, "title": text.split()[1], "text": text}) + "\n"
            for i, text in CORPUS.items()
        )
    )
    actual = evaluate_beir(cfg, recipe(build=opposite), perfect(), Workspace(tmp_path / "run"))
    first, second = set_names(sets).values()
    assert first != second
    for row in ("", "untrained_", "bm25_", "tfidf_", "hybrid_", "rrf_"):
        own = [actual[f"{row}{name}_ndcg_at_10"] for name in (first, second)]
        assert actual[f"{row}average_ndcg_at_10"] == pytest.approx(sum(own) / 2)
        stored = json.loads((tmp_path / f"run/items/{row}average_mrr.json").read_text())
        assert stored == {"mean_of": [f"{row}{first}_mrr", f"{row}{second}_mrr"]}
    assert (actual["num_sets"], actual["sets_won_ndcg_at_10"]) == (2, 0)  # a draw is not won
    assert actual["small_titles_mrr"] == 1.0
    assert "bm25_small_titles_mrr" not in actual
    grouped = Config(eval=RetrievalEval(beir=sets, groups={"both": sets}, untrained=False))
    actual = evaluate_beir(grouped, recipe(), perfect(), Workspace(tmp_path / "run"))
    assert actual["num_sets"] == 1
    assert "both_map" in actual
    assert "average_map" not in actual
    with pytest.raises(ValueError, match=r"not a set of eval\.beir"):
        RetrievalEval(beir=sets, groups={"x": ["y"]})
    with pytest.raises(ValueError, match=r"needs eval\.lexical"):
        RetrievalEval(hybrid=True, lexical=False)


def test_a_development_set_leaves_the_metrics_of_a_test_set_of_the_same_folder_name(tmp_path, beir):
    """And a set that is in both lists is a test set, scored once."""
    twin = beir.parent / "dev/small"
    twin.parent.mkdir()
    shutil.copytree(beir, twin)
    (twin / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\tc\t1\n")  # another judgement
    alone = Config(eval=RetrievalEval(beir=[str(beir)], lexical=False, untrained=False))
    (name,) = set_names([str(beir)]).values()
    expected = evaluate_beir(alone, recipe(), perfect(), Workspace(tmp_path / "alone"))
    both = Config(eval=RetrievalEval(beir=[str(beir)], dev=[str(twin), str(beir)], untrained=False))
    actual = evaluate_beir(both, recipe(), perfect(), Workspace(tmp_path / "both"))
    ((_, test),), ((_, dev),) = (own.items() for own in named_sets(both.eval))
    assert (name, test != dev) == ("small", True)
    assert actual[f"{test}_mrr"] == expected["small_mrr"] == 1.0
    assert actual[f"{dev}_mrr"] < 1.0
    assert "small_mrr" not in actual
    baseline = bm25(both, Workspace(tmp_path / "bm25"))  # beside which `make compare` reads it
    assert baseline[f"{test}_mrr"] == actual[f"bm25_{test}_mrr"]
    assert f"{dev}_mrr" not in baseline


def test_two_sets_of_one_name_are_refused_before_the_training():
    places = ["x/ar", "y/ar", "x_ar"]
    with pytest.raises(UserError, match=r"'x/ar' and 'x_ar' would both be called 'x_ar'"):
        set_names(places)
    for lists in ({"beir": places[:2], "dev": places[2:]}, {"answers": places}):
        with pytest.raises(UserError, match="would both be called"):
            experiment_of(Config(eval=RetrievalEval(**lists)))


ASKED = {"question": "red house", "answers": "red"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"questions\.jsonl has no question"),
        (
            [ASKED, {**ASKED, "answers": None}],
            r"questions\.jsonl, row 2: 'answers' has to be a text",
        ),
        ([{**ASKED, "answers": 1999}], "row 1: 'answers'"),
        ([{**ASKED, "answers": ["red", 1999]}], "row 1: 'answers'"),
        ([{**ASKED, "question": None}], "row 1: 'question' has to be a text"),
        ([{**ASKED, "question": " "}], "row 1: 'question' has to be a text"),
    ],
)
def test_questions_and_answers_are_texts(tmp_path, beir, rows, message):
    (beir / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = Config(eval=RetrievalEval(answers=[str(beir)], untrained=False))
    with pytest.raises(UserError, match=message):
        evaluate_beir(cfg, recipe(), perfect(), Workspace(tmp_path / "run"))


def test_passages_of_one_id_are_refused(tmp_path, beir):
    """Where titles are read apart; an equal row twice is one passage, as in every collection."""
    (beir / "questions.jsonl").write_text(json.dumps(ASKED) + "\n")
    cfg = Config(eval=RetrievalEval(answers=[str(beir)], untrained=False, lexical=False))
    lines = (beir / "corpus.jsonl").read_text()
    first = json.loads(lines.splitlines()[0])
    (beir / "corpus.jsonl").write_text(lines + json.dumps(first) + "\n")
    actual = evaluate_beir(cfg, recipe(), perfect(), Workspace(tmp_path / "run"))
    assert actual["small_answer_recall_at_5"] == 1.0
    for change in ({"text": "another"}, {"title": "another"}):
        (beir / "corpus.jsonl").write_text(lines + json.dumps(first | change) + "\n")
        with pytest.raises(UserError, match="two texts of the id 'a'"):
            evaluate_beir(cfg, recipe(), perfect(), Workspace(tmp_path / "run"))


def test_a_set_is_reduced_and_its_queries_are_split(beir):
    limits = RetrievalEval(beir=[str(beir)], held_out_queries=1, own_limits=["held_out_queries"])
    cfg = Config(eval=limits)
    asked, held = (load_set(cfg, str(beir), held_out=part) for part in (False, True))
    assert (len(asked.queries), len(held.queries)) == (2, 1)
    cfg.eval.held_out_queries = 3
    with pytest.raises(UserError, match=r"eval\.held_out_queries"):
        load_set(cfg, str(beir))
    assert len(load_set(Config(), "synthetic").queries) == 12


@pytest.mark.parametrize(
    ("typed", "queries", "documents"),
    [
        ([], 3, 3),
        (["eval.held_out_queries=1"], 2, 3),
        (["eval.held_out_queries=1", "eval.max_documents=1"], 2, 3),  # all three are relevant
    ],
)
def test_limits_of_a_config_spare_own_sets_unless_typed(beir, typed, queries, documents):
    """The mini holds 20 queries of a set out, which left 32 of a user's 52."""
    cfg = load(config_class("contriever"), "contriever", "mini", [f"eval.beir=[{beir}]", *typed])
    data = load_set(cfg, str(beir))
    assert (len(data.queries), len(data.corpus)) == (queries, documents)
    assert data.cut_from == ((3, 3) if typed else None)
    if not typed:
        with pytest.raises(UserError, match=r"type eval\.held_out_queries"):
            questions(cfg, None)
    bundled = load_set(cfg, "retrieval-cisi")
    assert bundled.cut_from is not None
    assert len(bundled.queries) < bundled.cut_from[0]


def test_a_cut_set_says_from_how_many(tmp_path, beir, capsys):
    (beir / "corpus.jsonl").open("a").write('{"_id": "z", "text": "car tree"}\n')
    cfg = Config(eval=RetrievalEval(beir=[str(beir)], max_documents=3))
    whole = evaluate_beir(cfg, recipe(), perfect(), Workspace(tmp_path / "run"))
    assert (whole["small_num_queries"], whole["small_num_documents"]) == (3, 4)
    assert "small_num_documents_total" not in whole
    assert "cut" not in capsys.readouterr().out
    cfg.eval.own_limits = ["max_documents"]
    part = evaluate_beir(cfg, recipe(), perfect(), Workspace(tmp_path / "run"))
    assert (part["small_num_documents"], part["small_num_documents_total"]) == (3, 4)
    assert "'small' is cut to 3 of 3 queries and 3 of 4 documents" in capsys.readouterr().out
    assert bm25(cfg, Workspace(tmp_path / "bm25"))["small_num_documents_total"] == 4


def test_a_random_encoder_takes_the_tokenizer_that_is_named():
    """`model.tokenizer`: number of pieces and padding of the architecture come from it."""
    sizes = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 7,
    }
    encoder = build_dense(
        DenseModel("random", sizes, tokenizer="bundled:text-encoder", max_length=64)
    )
    assert encoder.tower.model.config.vocab_size == len(encoder.tokenizer) > 8000
    assert encoder.tower.model.config.pad_token_id == encoder.tokenizer.pad_token_id
    assert encoder.encode(["a word"]).shape == (1, 32)
    with pytest.raises(ValueError, match=r"needs model\.pretrained=random"):
        DenseModel(tokenizer="bundled:text-encoder")


@pytest.mark.parametrize(("size", "batch", "fits"), [(64, 8, True), (64, 24, False)])
def test_a_queue_is_filled_by_whole_batches(size, batch, fits):
    if fits:
        check_queue(size, batch)
    else:
        with pytest.raises(ValueError, match="not a multiple"):
            check_queue(size, batch)


def test_titles_are_split_too(tmp_path):
    """Fine-tuning took the very titles that are asked."""
    rows = [{"_id": str(i), "title": f"title {i}", "text": f"text {i}"} for i in range(6)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = f"{tmp_path}@titles"
    cfg = Config(
        eval=RetrievalEval(beir=[place], held_out_queries=2, own_limits=["held_out_queries"])
    )
    asked, held = ({*load_set(cfg, place, held_out=part).queries} for part in (False, True))
    assert (len(asked), len(held)) == (4, 2)
    assert not asked & held
    assert {r.question for r in questions(cfg, None)} == {
        load_set(cfg, place, held_out=True).queries[query] for query in held
    }
    assert len(load_set(Config(), place).queries) == 6


def test_training_files_are_found_as_they_are_read(tmp_path, monkeypatch):
    """`make check` missed what a run would have read from the folder that it is started in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"query": "a", "pos": ["b"]}\n')
    named = TrainingSet(path="own.jsonl", kind="retrieval", layout="pairs", instruction="")
    data = SimpleNamespace(
        source="sets",
        root=str(tmp_path / "elsewhere"),
        sets={"own": named},
        class_positives="label",
    )
    cfg = SimpleNamespace(data=data, seed=0)
    (needed,) = set_requirements(cfg)
    assert needed.present
    assert len(read_set(cfg, "own", named).records) == 1


def test_queries_without_judgement_and_empty_documents_are_counted_and_named(
    beir, tmp_path, capsys
):
    cfg = Config(
        eval=RetrievalEval(beir=[str(beir)], max_documents=3, own_limits=["max_documents"])
    )
    clean = set_counts(load_set(cfg, str(beir)), "small", Workspace(tmp_path / "run"))
    assert set(clean) == {"small_num_queries", "small_num_documents"}
    (beir / "corpus.jsonl").open("a").write('{"_id": "blank", "title": null, "text": " "}\n')
    (beir / "queries.jsonl").open("a").write('{"_id": "open", "text": "is it judged?"}\n')
    cfg.eval.max_documents = 4
    counts = set_counts(load_set(cfg, str(beir)), "small", Workspace(tmp_path / "run"))
    assert counts["small_num_unjudged_queries"] == counts["small_num_empty_documents"] == 1
    printed = capsys.readouterr().out
    assert "set 'small': queries without a judgement, which are not asked: 1" in printed
    assert "documents without title and text: 1 (blank)" in printed
