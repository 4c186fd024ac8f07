"""Runs, evaluation, export, tasks and configs as the commands drive them: checklist item 16."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.config import UserError, config_names
from common.engine.run import train
from common.engine.workspace import Workspace
from common.evaluation.retrieval.runs import run_scores
from common.families.retrieval.evaluation import load_set
from projects.promptreps import baselines, build, tasks
from projects.promptreps.encoder import PromptRepsEncoder
from projects.promptreps.evaluate import KS, search_set, table
from projects.promptreps.export import load_encoder, save_encoder
from projects.promptreps.stages import kept_answers, stages
from tests.projects.promptreps.conftest import TEXTS, config, encoder_of, module_of
from tests.searching import index_two_files

QUICK = [
    "eval.alphas=[0.5]",
    "eval.untrained=false",
    "eval.rows={}",
    "eval.lexical=false",
    "trainer.keep_checkpoints=5",
]


@pytest.fixture
def full_run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("promptreps")


@pytest.fixture
def seen(monkeypatch):
    """Texts as they reach the encoder."""
    texts: list[str] = []
    rows = PromptRepsEncoder.rows

    def watched(self, found, *rest):
        texts.extend(found)
        return rows(self, found, *rest)

    monkeypatch.setattr(PromptRepsEncoder, "rows", watched)
    return texts


@pytest.mark.slow
def test_an_answer_stage_is_trained_once_for_the_arms_that_share_it(tmp_path):
    """Another ranking loads its weights; another prompt trains its own."""
    words = [f"runs_dir={tmp_path}", "instruct.keep=true", "method.supervised=false", *QUICK]
    first = train("promptreps", "smoke", [*words, "run_id=a"])
    second = train(
        "promptreps",
        "smoke",
        [*words, "run_id=b", "eval.ranking=dense", "model.prompt.framed=false"],
    )
    assert ",train/loss," in (first / "metrics.csv").read_text()
    taken = sorted(path.name for path in (second / "checkpoints/answer").iterdir())
    assert taken == ["best.ckpt", "finished.json"]  # no step was made
    assert len(list((tmp_path / "promptreps/answers").iterdir())) == 1
    kept = {
        kept_answers(config(*words, *more))
        for more in ([], ["instruct.framed=false"], ["model.prompt.words=free"], ["seed=1"])
    }
    assert len(kept) == 4
    file, paths = tmp_path / "w.jsonl", set()
    for content in ("one", "two"):  # what a file holds counts, not its name alone
        file.write_text(content)
        paths.add(kept_answers(config("instruct.source=file", f"instruct.file={file}")))
    assert len(paths) == 2


def test_item_16_one_table_holds_all_searches_weights_models_and_prompts(full_run):
    """Checklist 16: dense, sparse, hybrid with the sweep of alpha, BM25, further models and
    prompts.
    """
    actual = json.loads((full_run / "metrics.json").read_text())
    rows = [
        "",
        "dense_",
        "sparse_",
        "hybrid_",
        "alpha_0_",
        "alpha_0.5_",
        "alpha_1_",
        "bm25_",
        "untrained_hybrid_",
        "no_quote_dense_",
        "bare_hybrid_",
        "bare_alpha_0.5_",
        "untrained_alpha_1_",
    ]
    table = (full_run / "table.md").read_text()
    for row in rows:
        for metric in ("ndcg_at_10", "recall_at_100", "recall_at_1000", "mrr_at_10"):
            value = actual[f"{row}synthetic_{metric}"]
            assert f"{100 * value:.2f}" in table
        assert f"| {row.rstrip('_') or 'method'} |" in table
        items = json.loads((full_run / f"items/{row}synthetic_ndcg_at_10.json").read_text())
        assert actual[f"{row}synthetic_ndcg_at_10"] == pytest.approx(np.mean(items))
    assert (
        actual["synthetic_ndcg_at_10"]
        == actual["hybrid_synthetic_ndcg_at_10"]
        == actual["alpha_0.5_synthetic_ndcg_at_10"]
    )
    assert (
        actual["bare_alpha_0.5_synthetic_ndcg_at_10"] == actual["bare_hybrid_synthetic_ndcg_at_10"]
    )
    # documents of one list only go behind at the ends of the sweep: the first ten are the same
    assert actual["alpha_1_synthetic_mrr_at_10"] == pytest.approx(
        actual["dense_synthetic_mrr_at_10"]
    )
    assert -1 <= actual["synthetic_weight_idf_correlation"] <= 1
    assert [p.name for p in (full_run / "checkpoints").iterdir() if p.is_dir()] != []


def test_item_16_another_language_model_is_a_row(tmp_path):
    """Checklist 16: a folder with another model beside the run's own, in the same call."""
    save_encoder(encoder_of(), tmp_path / "other")
    rows = f"eval.rows={{other: {{pretrained: {tmp_path}/other, prompt: {{words: free}}}}}}"
    cfg = config("eval.untrained=false", rows, "eval.alphas=[0.5]", "eval.ranking=dense")
    actual = build(cfg).tasks["evaluate"](Workspace(tmp_path / "task"))
    assert "other_hybrid_synthetic_ndcg_at_10" in actual
    assert actual["synthetic_ndcg_at_10"] == actual["dense_synthetic_ndcg_at_10"]
    assert "| other_sparse |" in (tmp_path / "task/table.md").read_text()


def test_zero_shot_trains_nothing(tmp_path):
    words = ["method.supervised=false", "instruct.steps=0"]
    with pytest.raises(UserError, match="TASK=evaluate"):
        next(stages(config(*words)))
    with pytest.raises(UserError, match="instruct.steps trains all weights"):
        config("model.weights=bfloat16")
    with pytest.raises(UserError, match="is for representation.kind=first_token"):
        config("model.representation.kind=multi_token_multi")


def test_export_opens_in_transformers_and_gives_equal_representations(tmp_path):
    """Adapters are merged; the folder says what is asked; a plain folder takes the config's
    prompt."""
    module = module_of("model.prompt.words=three", "model.representation.most=3")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    module.eval()
    save_encoder(module.encoder, tmp_path)
    again = load_encoder(tmp_path)
    assert again.prompt.words == "three"
    before, after = (e.encode(TEXTS, "query") for e in (module.encoder, again))
    torch.testing.assert_close(before["dense"], after["dense"], rtol=1e-4, atol=1e-5)
    assert [v.keys() for v in before["sparse"]] == [v.keys() for v in after["sparse"]]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    (row,) = again.rows(TEXTS[:1], "query")
    assert (
        tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
        == row[len(again.frames["query"].prefix) :][: -len(again.frames["query"].suffix)]
    )
    with torch.no_grad():
        state = model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, -1]
    torch.testing.assert_close(
        after["dense"][0], torch.nn.functional.normalize(state, dim=0), rtol=1e-4, atol=1e-5
    )
    (tmp_path / "promptreps.json").write_text('{"prompt": {"wrong": 1}}')
    with pytest.raises(UserError, match="damaged"):
        load_encoder(tmp_path)
    (tmp_path / "promptreps.json").unlink()
    assert load_encoder(tmp_path, config("model.prompt.lowercase=false")).prompt.lowercase is False
    with pytest.raises(UserError, match="does not exist"):
        load_encoder(tmp_path / "nowhere")


def test_search_over_the_users_files(full_run, tmp_path, capsys):
    """A file is indexed and kept; opened and extended; another prompt is refused; zero-shot
    works."""
    search = index_two_files(build, config, full_run, tmp_path, capsys)
    shown = search("search.alpha=0.0")
    assert shown.split("\n  ")[1].endswith("men at work")  # the only text with the word
    assert shown.count("\n  ") == 3
    with pytest.raises(UserError, match="another encoder or prompt"):
        search("search.zero_shot=true")
    (tmp_path / "index/index.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(UserError, match="not an index for hybrid search"):
        search()
    assert "2 texts indexed" in search(
        "search.zero_shot=true", "search.index=null", f"search.file={tmp_path}/a.txt"
    )


@pytest.mark.parametrize("kind", ["first_token", "multi_token_multi"])
def test_encode_writes_files_in_parts(tmp_path, kind):
    """Shares are joined; the files hold what `encode` gives; a finished part is not computed
    again."""
    (tmp_path / "in").mkdir()
    rows = [{"_id": f"x{i}", "title": "", "text": text} for i, text in enumerate(TEXTS)]
    (tmp_path / "in/corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        f"encode.input={tmp_path}/in",
        f"encode.output={tmp_path}/out",
        "encode.zero_shot=true",
        "encode.pickle=true",
        "task.chunk_size=2",
        "method.supervised=false",
        f"model.representation.kind={kind}",
        "model.representation.max_tokens=2",
        "seed=0",
    ]

    def run(*further):
        torch.manual_seed(0)
        cfg = config(*words, *further)
        return build(cfg).tasks["encode"](Workspace(tmp_path / "task", "promptreps", "smoke"))

    run("task.shard=1/2")
    assert not (tmp_path / "out/rep-0").exists()
    run("task.shard=0/2")
    run()
    encoder = encoder_of(f"model.representation.kind={kind}", "model.representation.max_tokens=2")
    actual = encoder.encode(TEXTS, "passage", batch_size=2)
    first = torch.searchsorted(actual["owner"], torch.arange(4))
    held = load_file(tmp_path / "out/rep-0/dense.safetensors")["vectors"]
    torch.testing.assert_close(held, actual["dense"][first], rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "out/rep-0/ids.json").read_text()) == ["x0", "x1", "x2", "x3"]
    lines = (tmp_path / "out/rep-0/sparse.jsonl").read_text().splitlines()
    names = {i: t for t, i in encoder.lm.tokenizer.get_vocab().items()}
    assert json.loads(lines[2])["vector"].keys() == {names[t] for t in actual["sparse"][first[2]]}
    vectors, ids = pickle.loads((tmp_path / "out/rep-0/dense.pkl").read_bytes())
    assert vectors.dtype == np.float32
    assert ids == ["x0", "x1", "x2", "x3"]
    assert (tmp_path / "out/rep-1").exists() == (int(actual["owner"].bincount().max()) > 1)
    with pytest.raises(UserError, match="encode.input"):
        build(config()).tasks["encode"](Workspace(tmp_path / "t"))


@pytest.mark.parametrize("kind", ["first_token", "multi_token_multi"])
def test_retrieve_ranks_what_encode_wrote_as_the_evaluation_does(tmp_path, kind):
    """Checklist 15: without a model, several representations and queries without tokens included."""
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"x{i}", "title": "", "text": text} for i, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = {"q": "men in the world", "x1": "men at work", "s": "the of"}
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in queries.items())
    )
    (folder / "qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq\tx1\t1\nx1\tx3\t1\ns\tx0\t2\n"
    )
    model = [f"model.representation.kind={kind}", "model.representation.max_tokens=2"]
    words = [f"encode.input={folder}", "encode.zero_shot=true", "method.supervised=false", "seed=0"]
    words += [f"retrieve.passages={tmp_path}/passage", f"retrieve.queries={tmp_path}/query"]

    def run(task, *further):
        torch.manual_seed(0)
        cfg = config(*words, *model, *further)
        return build(cfg).tasks[task](Workspace(tmp_path / task, "promptreps", "smoke"))

    with pytest.raises(UserError, match=r"has no rep-0/sparse\.jsonl"):
        run("retrieve")
    for role in ("passage", "query"):
        run("encode", f"encode.role={role}", f"encode.output={tmp_path}/{role}")
    actual = run("retrieve", f"retrieve.judgements={folder}", "retrieve.alpha=0.3")
    cfg = config("method.supervised=false", *model)
    data = load_set(cfg, str(folder))
    expected = search_set(cfg, encoder_of(*model), data)
    runs = {"dense": expected.dense, "sparse": expected.sparse, "hybrid": expected.fused(0.3)}
    for name, ranking in runs.items():
        scores = run_scores(data, ranking, KS).metrics
        assert {k: actual[f"{name}_{k}"] for k in scores} == pytest.approx(scores), name
        lines = (tmp_path / f"retrieve/{name}.trec").read_text().splitlines()
        written = {(q, d): float(score) for q, _, d, _, score, _ in map(str.split, lines)}
        flat = {(q, d): score for q, hits in ranking.items() for d, score in hits.items()}
        assert written == pytest.approx(flat, abs=1e-4), name
    assert run("retrieve") == {}
    with pytest.raises(UserError, match=r"has no rep-0/queries\.tsv"):
        run("retrieve", f"retrieve.queries={tmp_path}/passage")


def test_encode_reads_the_queries_of_a_folder(tmp_path, seen):
    """Below the data root, for the role of a query; texts in lower case where the evaluation has
    them.
    """
    folder = tmp_path / "root/beir/own"
    folder.mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d", "title": "", "text": "a good house"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "MEN AT WORK"}\n')
    words = [
        f"data.root={tmp_path}/root",
        "encode.input=beir/own",
        f"encode.output={tmp_path}/out",
        "encode.role=query",
        "encode.zero_shot=true",
        "method.supervised=false",
        "instruct.steps=0",
    ]

    def run(*further):
        torch.manual_seed(0)
        build(config(*words, *further)).tasks["encode"](Workspace(tmp_path / "task"))
        return load_file(tmp_path / "out/rep-0/dense.safetensors")["vectors"]

    actual = run("eval.lower_case=true")
    assert seen == ["men at work"]
    assert json.loads((tmp_path / "out/rep-0/ids.json").read_text()) == ["q"]
    assert (tmp_path / "out/rep-0/queries.tsv").read_text().startswith("q\t")
    expected = encoder_of().encode("men at work", "query")["dense"]
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="another lower_case"):
        run()
    passages = run("encode.role=passage", f"encode.output={tmp_path}/p")
    assert json.loads((tmp_path / "p/rep-0/ids.json").read_text()) == ["d"]
    assert len(passages) == 1


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "has no query"),
        ([{"_id": "q", "text": None}], "'q' is not a text"),
        ([{"_id": 1, "text": "a"}, {"_id": "1", "text": "b"}], "two queries have the id '1'"),
    ],
)
def test_queries_without_text_or_of_one_id_are_told(rows, told, tmp_path):
    """They were a traceback, the word None, and the last of them alone."""
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "title": "", "text": "a good house"}\n')
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        f"encode.input={tmp_path}",
        f"encode.output={tmp_path}/out",
        "encode.role=query",
        "encode.zero_shot=true",
        "method.supervised=false",
        "instruct.steps=0",
    ]
    with pytest.raises(UserError, match=told):
        build(config(*words)).tasks["encode"](Workspace(tmp_path / "task"))


def test_encode_keeps_the_texts_that_it_numbers(tmp_path, seen):
    """Of a text file the numbers once named nothing: blank lines and places in a folder are not
    counted.
    """
    (tmp_path / "a.txt").write_text("men at work\n\n\na good house\n")
    words = [
        f"encode.input={tmp_path}/a.txt",
        f"encode.output={tmp_path}/out",
        "encode.zero_shot=true",
        "method.supervised=false",
    ]
    build(config(*words)).tasks["encode"](Workspace(tmp_path / "task"))
    ids = json.loads((tmp_path / "out/rep-0/ids.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out/texts.jsonl").read_text().splitlines()]
    assert [row["_id"] for row in rows] == ids
    assert [row["text"] for row in rows] == ["men at work", "a good house"]


def test_queries_that_a_file_lacks_are_counted(tmp_path):
    """A searcher's mean over such a file is over fewer queries, once without a word."""
    rows = [[{"dense": "AACAPw==", "sparse": sparse}] for sparse in ([[3, 2]], [], [[4, 0]])]
    (note,) = tasks._write("query", ["a", "b", "c"], rows, encoder_of(), tmp_path, False)
    assert "queries.tsv: 2 queries" in note
    assert (tmp_path / "rep-0/queries.tsv").read_text().startswith("a\t")


def test_ids_beyond_the_vocabulary_have_a_name_in_files(tmp_path):
    """A head may be wider than the tokenizer, and a text of stop words has the best ids of all."""
    encoder = encoder_of()
    beyond = len(encoder.lm.tokenizer.get_vocab()) + 3
    encoder.lm.vocab_size = beyond + 1
    row = [{"dense": "AACAPw==", "sparse": [[beyond, 7]]}]
    tasks._write("passage", ["x"], [row], encoder, tmp_path, False)
    assert json.loads((tmp_path / "rep-0/sparse.jsonl").read_text())["vector"] == {f"<{beyond}>": 7}


def test_search_prepares_texts_as_the_evaluation_does(tmp_path, capsys, seen):
    """Capitals find what they spell; the kept index says how its texts were prepared."""
    (tmp_path / "a.txt").write_text("people and houses\nmen at work\n")
    (tmp_path / "q.txt").write_text("MEN AT WORK\n")
    words = [
        "search.zero_shot=true",
        f"search.file={tmp_path}/a.txt",
        f"search.queries={tmp_path}/q.txt",
        f"search.index={tmp_path}/index",
    ]
    build(config(*words, "eval.lower_case=true")).tasks["search"](Workspace(tmp_path / "task"))
    assert seen == ["people and houses", "men at work", "men at work"]
    assert "MEN AT WORK" in capsys.readouterr().out  # shown as it was asked
    with pytest.raises(UserError, match="another encoder or prompt"):
        build(config(*words)).tasks["search"](Workspace(tmp_path / "task"))


def test_averages_over_sets_are_columns_of_the_table():
    actual = {
        f"{row}{name}_ndcg_at_10": v
        for row in ("", "bm25_")
        for name, v in (("a", 0.1), ("b", 0.3), ("average", 0.2))
    }
    shown = table(actual, ["", "bm25_"], ["a", "b", "average"])
    assert "| row | a_ndcg_at_10 | b_ndcg_at_10 | average_ndcg_at_10 |" in shown
    assert "| bm25 | 10.00 | 30.00 | 20.00 |" in shown


def test_baselines_score_the_sets_of_the_method(tmp_path):
    actual = {}
    for name in baselines.__all__:
        workspace = Workspace(tmp_path / name)
        actual[name] = getattr(baselines, name)(config(), workspace)["synthetic_ndcg_at_10"]
        assert (tmp_path / name / "items/synthetic_ndcg_at_10.json").is_file()
    assert actual["idf_tokens"] > actual["untrained_hybrid"]


# -- configs -------------------------------------------------------------------------------------


def test_paper_configs_hold_the_published_recipe():
    cfg = config(name="paper")
    own = cfg.model.representation
    assert cfg.model.pretrained == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert (own.kind, own.query_length, own.passage_length, own.most, own.expansion) == (
        "first_token",
        512,
        512,
        128,
        0,
    )
    assert own.normalize
    assert (cfg.eval.alpha, cfg.eval.depth, cfg.eval.batch_size) == (0.5, 1000, 64)
    assert cfg.model.prompt == type(cfg.model.prompt)()
    kinds = {
        n: config(name=f"paper_{n}").model
        for n in ("first_word", "multi_token", "multi_token_multi", "multi_word_multi")
    }
    assert {m.representation.kind for m in kinds.values()} == {
        "first_word",
        "multi_token_single",
        "multi_token_multi",
        "multi_word_multi",
    }
    assert [m.prompt.words for m in kinds.values()] == ["one", "three", "three", "three"]
    tuned = config(name="paper_supervised")
    assert (
        tuned.data.batch_size * tuned.trainer.devices * tuned.trainer.accumulate_grad_batches == 128
    )
    assert (tuned.data.group_size, tuned.data.query_length, tuned.data.passage_length) == (
        16,
        32,
        156,
    )
    assert (tuned.optim.lr, tuned.optim.schedule, tuned.trainer.max_epochs) == (1e-4, "linear", 1)
    assert (tuned.optim.warmup_epochs, tuned.optim.warmup_steps) == (0.1, 0)  # a tenth of one epoch
    assert (tuned.trainer.gradient_clip_val, tuned.optim.weight_decay) == (1.0, 0.0)
    assert cfg.eval.remove_query
    judged = config(name="paper_msmarco").eval
    assert not judged.remove_query
    # MRR@10 is of the 6,980 dev queries; the test part of the archive is TREC DL 2019, with 43
    assert judged.beir == ["beir/msmarco@dev", "trec-dl-2019", "trec-dl-2020"]
    assert tuned.method.temperature == 0.01
    assert tuned.method.hybrid
    assert not config(name="paper_supervised_dense").method.hybrid
    assert config(name="paper_released_prompts").model.prompt.literal_backslash_n
    assert len(config(name="paper_prompts").eval.rows) >= 4
    assert len([name for name in config_names("promptreps") if name.startswith("paper")]) >= 11
