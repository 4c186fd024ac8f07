"""Runs, evaluation, export, tasks and configs as the commands drive them: items 13, 16, 17, 18."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from common.config import UserError, config_names
from common.data.retrieval.passages import read_passages
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.engine.comparison.spec import read_comparisons
from common.engine.run import train
from common.engine.sweeps.schema import arms_of, read_sweep
from common.engine.workspace import Workspace
from common.families.retrieval.evaluation import evaluate_beir
from common.families.retrieval.finetuning import questions
from projects.contriever import baselines, build
from projects.contriever.data import question_data, token_streams
from projects.contriever.evaluate import evaluate
from projects.contriever.stages import recipe_of
from projects.contriever.stream import open_shards
from tests.projects.contriever.conftest import config, module_of
from tests.searching import index_two_files
from tests.smoke import metrics_of

QUICK = [
    "eval.beir=[]",
    "eval.held_out_queries=0",
    "finetune.steps=0",
    "trainer.keep_checkpoints=5",
]


@pytest.fixture
def full_run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("contriever")


# -- runs ----------------------------------------------------------------------------------------


def topics(seed, partners=0):
    """Pairs of one topic each; queries and keys of a topic have no token in common.

    `partners` moves the keys on by that many rows, so that pairs do not belong together.
    """
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randperm(16, generator=generator)
    rows = {}
    for side, name in enumerate(("query", "key")):
        own = topic.roll(partners * side)
        ids = 20 + 4 * own[:, None] + 2 * side + torch.randint(2, (16, 6), generator=generator)
        rows[name] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return rows


@pytest.mark.parametrize("objective", ["moco", "in_batch"])
def test_training_brings_together_what_shares_a_topic_and_no_token(objective):
    """Twenty steps: from chance to almost all; with pairs of changing topics it stays at chance."""

    def accuracy(seeded):
        words = [
            "method.norm_query=true",
            "method.norm_document=true",
            "model.dropout=0",
            "data.batch_size=16",
            f"method.objective={objective}",
        ]
        module = module_of(*words)
        optimizer = torch.optim.AdamW(module.encoder.parameters(), lr=3e-3)
        for step in range(20):
            optimizer.zero_grad()
            module.losses(topics(step, 0 if seeded else step % 15 + 1))["loss"].backward()
            optimizer.step()
            module.after_optimizer_step()
        module.eval()
        with torch.no_grad():
            query, key = (
                module.objective.query(module.encoder(**side)) for side in topics(99).values()
            )
        return float((query @ key.T).argmax(1).eq(torch.arange(16)).float().mean())

    assert accuracy(True) > 0.8
    assert accuracy(False) < 0.4


def test_item_16_one_table_holds_all_methods_and_the_sets_won(full_run):
    """Checklist 16: BM25 in the same evaluator, nDCG@10 and Recall@100 per set, sets won."""
    actual = metrics_of(full_run)
    for row in ("", "untrained_", "bm25_", "tfidf_", "hybrid_", "rrf_"):
        for metric in ("ndcg_at_10", "recall_at_100", "mrr", "map"):
            items = json.loads((full_run / f"items/{row}synthetic_{metric}.json").read_text())
            assert len(items) == 8  # of twelve queries, four are left for the fine-tuning
            assert actual[f"{row}synthetic_{metric}"] == pytest.approx(sum(items) / 8)
    assert actual["num_sets"] == 1
    assert actual["sets_won_ndcg_at_10"] == float(
        actual["synthetic_ndcg_at_10"] > actual["bm25_synthetic_ndcg_at_10"]
    )
    assert actual["key_start_share"] == pytest.approx(0.9**4)
    assert actual["queue_age"] == 4.5
    twice = config("trainer.accumulate_grad_batches=2", "eval.beir=[]", "finetune.steps=0")
    assert evaluate(twice, module_of())["queue_age"] == 2.5  # of optimiser steps


@pytest.mark.slow
def test_item_17_three_regimes_each_also_from_the_start_without_contrast(full_run, tmp_path):
    """Checklist 17: zero-shot, few and many examples; fine-tuning without the pre-training."""
    assert (full_run / "checkpoints/pretrain").is_dir()
    assert (full_run / "checkpoints/finetune").is_dir()
    run = train("contriever", "smoke", [f"runs_dir={tmp_path}", "method.pretrain=false"])
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["finetune"]
    module = module_of(finetune=True)
    assert module.queue is None
    assert module.optim.lr == config().finetune.lr
    assert module.negatives_per_query(4) == 7
    for name, start in (
        ("paper_msmarco", "facebook/contriever"),
        ("paper_msmarco_bert", "bert-base-uncased"),
        ("paper_few_shot", "facebook/contriever-msmarco"),
        ("paper_few_shot_bert", "bert-base-uncased"),
    ):
        cfg = config(name=name)
        assert cfg.model.pretrained == start
        assert cfg.finetune.steps
        assert not cfg.method.pretrain
    with pytest.raises(UserError, match="nothing would be trained"):
        config("method.pretrain=false", "finetune.steps=0")
    with pytest.raises(UserError, match="fine-tuning needs questions"):
        config("eval.held_out_queries=0")


def test_item_18_languages_are_sampled_alike_and_scored_within_and_across(tmp_path):
    """Checklist 18: 29 languages, uniform; a set of one language, and queries in another script."""
    cfg = config(name="paper_multilingual")
    assert len(cfg.data.sources) == 29
    assert cfg.data.sampling_coefficient == 0
    assert len(cfg.eval.beir) == 11
    assert len(config(name="paper_mkqa").eval.answers) == 26
    tuned = config(name="paper_msmarco_multilingual")
    assert (tuned.model.pretrained, tuned.finetune.file) == (
        "facebook/mcontriever",
        "contriever/msmarco.jsonl",
    )
    folder = tmp_path / "toy"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": f"d{i}", "text": f"{word} end"} for i, word in enumerate(["red", "blue", "green"])
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    for language, words in (
        ("en", ["RED", "blue", "green"]),
        ("ru", ["\u043a\u0440", "\u0441\u0438", "\u0437\u0435"]),
    ):
        rows = [{"_id": f"q{i}", "text": word} for i, word in enumerate(words)]
        (folder / f"queries.{language}.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in rows)
        )
        judged = "".join(f"q{i}\td{i}\t1\n" for i in range(3))
        (folder / f"qrels/{language}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
        asked = [
            {"question": word, "answers": [right]}
            for word, right in zip(words, ["red", "blue", "green"], strict=True)
        ]
        (folder / f"questions.{language}.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in asked)
        )
    both = '["toy@en","toy@ru"]'
    cfg = config(
        f"data.root={tmp_path}",
        f"eval.beir={both}",
        f"eval.answers={both}",
        "eval.held_out_queries=0",
        "finetune.steps=0",
        "eval.lower_case=true",
        'eval.groups={across: ["toy@ru"]}',
        "eval.untrained=false",
    )
    actual = evaluate_beir(cfg, recipe_of(cfg), module_of().encoder, Workspace(tmp_path / "run"))
    assert actual["bm25_toy_en_ndcg_at_10"] == actual["bm25_toy_en_answer_recall_at_5"] == 1.0
    assert actual["bm25_toy_ru_ndcg_at_10"] == 0.0  # no word in common across scripts
    assert actual["across_mrr"] == actual["toy_ru_mrr"] > 0  # three documents: all are ranked
    assert actual["average_mrr"] == pytest.approx((actual["toy_en_mrr"] + actual["toy_ru_mrr"]) / 2)
    assert actual["average_answer_recall_at_5"] == 1.0


def test_answers_count_in_the_text_of_a_passage_alone(tmp_path):
    """DPR's rule: passages are found by title and text; numbers of questions are no ids of
    passages.
    """
    folder = tmp_path / "qa"
    folder.mkdir()
    corpus = [
        {"_id": str(i), "title": word, "text": f"text {i}"}
        for i, word in enumerate(["red", "blue"])
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    for part, answers in (("title", ["red"]), ("text", ["text 0"]), ("plain", "0 9")):
        row = {"question": "red", "answers": answers}
        (folder / f"questions.{part}.jsonl").write_text(json.dumps(row) + "\n")
    cfg = config(
        f"data.root={tmp_path}",
        "eval.beir=[]",
        "eval.held_out_queries=0",
        "finetune.steps=0",
        'eval.answers=["qa@title","qa@text","qa@plain"]',
        "eval.untrained=false",
    )
    recipe, encoded = recipe_of(cfg), []

    def documents(encoder, texts):
        encoded.append(list(texts))
        return recipe.documents(encoder, texts)

    module, place = module_of(), Workspace(tmp_path / "run")
    actual = evaluate_beir(cfg, replace(recipe, documents=documents), module.encoder, place)
    assert encoded == [["red text 0", "blue text 1"]]  # once for the three parts
    for row in ("", "bm25_"):
        shares = [
            actual[f"{row}qa_{part}_answer_recall_at_5"] for part in ("title", "text", "plain")
        ]
        assert shares == [0.0, 1.0, 0.0]  # a single string is one answer, not its characters


# -- weights in and out --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_checkpoint_in_the_released_layout_loads(tmp_path, kind):
    """A made-up folder as facebook/contriever has it: BERT without pooler, its own class name."""
    torch.manual_seed(3)
    settings = AutoConfig.for_model(
        "bert",
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    model = AutoModel.from_config(settings, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer(400, max_length=64).save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, "architectures": ["Contriever"]}))
    if kind == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    cfg = config(f"model.pretrained={tmp_path}", "model.config=null", "data.chunk_length=32")
    recipe = recipe_of(cfg)
    loaded = recipe.build()
    text = ["Where was Marie Curie born?"]
    inputs = loaded.tokenize(text)
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state.mean(1)
    torch.testing.assert_close(recipe.queries(loaded, text), expected)
    evaluated = build(cfg).load_export(tmp_path)  # make eval CKPT=<folder>
    torch.testing.assert_close(recipe.documents(evaluated.encoder, text), expected)
    (tmp_path / "config.json").write_text(json.dumps({**about, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match="would start at random"):
        recipe.build()


def test_export_is_the_query_encoder_for_dot_products(tmp_path):
    """Equal vectors after reload; no key encoder and no queue in it."""
    cfg = config()
    experiment, module = build(cfg), module_of().eval()
    with torch.no_grad():
        module.momentum_encoder.network.model.embeddings.word_embeddings.weight.zero_()
    experiment.export(module, tmp_path)
    before, after = (experiment.embed(m) for m in (module, experiment.load_export(tmp_path)))
    assert torch.equal(before["documents"], after["documents"])
    about = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert about["similarity_fn_name"] == "dot"
    assert not list(tmp_path.rglob("*Normalize*"))
    unit = build(config("method.norm_query=true", "method.norm_document=true"))
    unit.export(module, tmp_path / "unit")
    assert list((tmp_path / "unit").glob("*_Normalize"))


# -- tasks ---------------------------------------------------------------------------------------


def test_search_keeps_its_index_and_extends_it(full_run, tmp_path, capsys):
    """Index a file, save; open again and add a folder's texts; another encoder is refused."""
    search = index_two_files(build, config, full_run, tmp_path, capsys)
    shown = search()
    assert "opened, 0 texts added" in shown
    assert shown.count("\n  ") == 3
    assert "men at work" in shown
    build(config()).export(module_of().eval(), tmp_path / "other")
    with pytest.raises(UserError, match="made with another encoder"):
        search(f"search.run={tmp_path}/other")


@pytest.mark.slow
def test_tokenize_writes_shards_that_training_reads(tmp_path):
    """Lines become one row of ids; a finished shard is kept; sources of files train."""
    lines = [f"the people of the world {i}" for i in range(90)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.txt").write_text("\n".join(lines))
    words = [
        f"data.root={tmp_path}",
        f"tokenize.input={tmp_path}/in",
        f"tokenize.output={tmp_path}/x",
        "tokenize.shard_lines=60",
    ]
    task = build(config(*words)).tasks["tokenize"]
    task(Workspace(tmp_path / "task"))
    first, second = open_shards(tmp_path / "x")
    assert first.dtype == np.uint16
    tokenizer = recipe_of(config()).build().tokenizer
    expected = tokenizer(lines[60], add_special_tokens=False)["input_ids"]
    assert second[: len(expected)].tolist() == expected
    (tmp_path / "x/x/ids-00001.npy").unlink()
    with pytest.raises(UserError, match=r"ids-00001\.npy is missing: run TASK=tokenize again"):
        open_shards(tmp_path / "x")
    (tmp_path / "x/x/ids-00000.npy").write_bytes(b"kept")
    with pytest.raises(UserError, match="is not a NumPy array.*delete it and run TASK=tokenize"):
        task(Workspace(tmp_path / "task"))
    assert (tmp_path / "x/x/ids-00000.npy").read_bytes() == b"kept"
    (tmp_path / "x/x/ids-00000.npy").unlink()
    task(Workspace(tmp_path / "task"))
    assert open_shards(tmp_path / "x")[1].tolist() == second.tolist()
    sources = [
        "data.source=files",
        "data.sources={x: x}",
        *QUICK,
        "trainer.max_steps=2",
        "data.batch_size=4",
    ]
    assert train("contriever", "smoke", [f"runs_dir={tmp_path}", f"data.root={tmp_path}", *sources])
    with pytest.raises(UserError, match="TASK=tokenize"):
        open_shards(tmp_path / "nowhere")


def test_tokenize_takes_a_byte_order_mark_for_no_text(tmp_path):
    """Files of Windows editors begin with one, which became part of the first text."""
    written = []
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.txt").write_text("the people\n", encoding=encoding)
        words = [f"tokenize.input={tmp_path}/x.txt", f"tokenize.output={tmp_path}/{encoding}"]
        build(config(*words)).tasks["tokenize"](Workspace(tmp_path / "task"))
        written.append(open_shards(tmp_path / encoding)[0].tolist())
    assert written[0] == written[1]
    assert written[0]


def test_tokenize_refuses_a_text_file_that_has_changed(tmp_path):
    """Guards against shards of old lines: lines added to a short last shard, edited, or taken
    away."""
    text, lines = tmp_path / "x.txt", [f"people of the world {i}" for i in range(7)]
    words = [f"tokenize.input={text}", f"tokenize.output={tmp_path}/x", "tokenize.shard_lines=3"]
    tokenizer = recipe_of(config()).build().tokenizer

    def run(content):
        text.write_text("\n".join(content))
        task = Workspace(tmp_path / "task")
        build(config(*words)).tasks["tokenize"](task)
        return (tmp_path / "task/notes.txt").read_text().splitlines()[-1]

    assert run(lines).endswith("0 shards were there and are kept")
    actual = [i for shard in open_shards(tmp_path / "x") for i in shard.tolist()]
    expected = tokenizer(lines, add_special_tokens=False)["input_ids"]
    assert actual == [i for row in expected for i in row]
    assert run(lines).endswith("3 shards were there and are kept")
    for changed in ([*lines, "one more"], ["other words", *lines[1:]], lines[:6]):
        with pytest.raises(UserError, match="made for another text.*; delete the folder"):
            run(changed)
    assert len(open_shards(tmp_path / "x")) == 3
    (tmp_path / "x/x").rename(tmp_path / "x/y")
    assert "shards of 1 other text files are there" in run(lines)  # training reads them too
    assert len(open_shards(tmp_path / "x")) == 6


def test_shards_of_an_earlier_version_are_refused(tmp_path):
    """They had no folder for each text file; read next to new ones, texts would count twice."""
    (tmp_path / "x.txt").write_text("people of the world\n")
    np.save(tmp_path / "x-00000.npy", np.zeros(3, dtype=np.uint16))
    words = [f"tokenize.input={tmp_path}/x.txt", f"tokenize.output={tmp_path}"]
    for read in (
        lambda: open_shards(tmp_path),
        lambda: build(config(*words)).tasks["tokenize"](Workspace(tmp_path / "task")),
    ):
        with pytest.raises(UserError, match=r"earlier version \(x-00000\.npy\).*TASK=tokenize"):
            read()


def test_questions_without_a_positive_are_counted(full_run, tmp_path):
    """Guards against a file that shrinks without a word, for mining and for fine-tuning."""
    rows = [
        {"question": f"q {i}", "positive_ctxs": [{"text": f"text {i}"}] * (i > 0)} for i in range(4)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = config(
        f"runs_dir={full_run.parents[2]}",
        "mine.run=full",
        f"data.root={tmp_path}",
        "finetune.file=q.jsonl",
        "finetune.num_negatives=1",
    )
    said = "q.jsonl: 1 of 4 questions have no positive passage"
    build(cfg).tasks["mine"](Workspace(tmp_path / "task", "contriever", "smoke"))
    assert said in (tmp_path / "task/notes.txt").read_text()
    with pytest.warns(UserWarning, match=said):
        question_data(cfg, recipe_of(cfg).build())


def test_tokenize_refuses_what_would_lose_or_mix_texts(tmp_path):
    """Names that collide, other settings, another vocabulary, no text, damaged text."""
    source, out = tmp_path / "in", tmp_path / "x"

    def run(*words):
        own = [f"tokenize.input={source}", f"tokenize.output={out}", f"data.root={tmp_path}"]
        build(config(*own, *words)).tasks["tokenize"](Workspace(tmp_path / "task"))

    (source / "a").mkdir(parents=True)
    (source / "a_b.txt").write_text(" \n\n")
    with pytest.raises(UserError, match="has no text"):
        run()
    (source / "a_b.txt").write_text("people of the world\n" * 40)
    run()
    for words, name in (
        (["tokenize.shard_lines=7"], "shard_lines"),
        (["tokenize.normalize_text=true"], "normalize_text"),
        (["model.config.vocab_size=300"], "vocabulary"),
    ):
        with pytest.raises(UserError, match=f"made for another {name}"):
            run(*words)
    files = ["data.source=files", "data.sources={x: x}", f"data.root={tmp_path}"]
    cfg = config(*files)
    assert token_streams(cfg, recipe_of(cfg).build().tokenizer)["x"].num_tokens > 0
    other = recipe_of(config("model.config.vocab_size=300")).build().tokenizer
    with pytest.raises(UserError, match="written with another tokenizer"):
        token_streams(cfg, other)
    (source / "a/b.txt").write_text("state of the world\n")
    with pytest.raises(UserError, match="share shards"):
        run()
    (source / "a/b.txt").rename(source / "z.txt")
    (source / "z.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match="UTF-8"):
        run()


def test_mine_takes_no_positive_under_a_title_and_the_questions_of_the_fine_tuning(
    full_run, tmp_path, monkeypatch
):
    folder = tmp_path / "beir/toy"
    folder.mkdir(parents=True)
    corpus = [{"_id": str(i), "title": "title", "text": f"text {i}"} for i in range(4)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    rows = [{"question": f"text {i}", "positive_ctxs": [{"text": f"text {i}"}]} for i in range(2)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        f"runs_dir={full_run.parents[2]}",
        "mine.run=full",
        f"data.root={tmp_path}",
        f"mine.output={tmp_path}/mined.jsonl",
        "mine.corpus=beir/toy",
    ]

    def mined(*further):
        task = build(config(*words, *further)).tasks["mine"]
        task(Workspace(tmp_path / "task", "contriever", "smoke"))
        return read_passages(tmp_path / "mined.jsonl")

    in_memory = mined("finetune.file=q.jsonl")
    for i, record in enumerate(in_memory):
        assert record.question == f"text {i}"
        others = {f"title text {k}" for k in range(4) if k != i} | {f"text {1 - i}"}
        assert set(record.hard_negatives) == others
    monkeypatch.setattr("common.data.retrieval.corpus_file.ON_DISK_FROM_BYTES", 1)
    assert mined("finetune.file=q.jsonl", "eval.shard_size=2") == in_memory
    assert list((full_run.parents[2] / "embeddings").glob("*/shard-00002.npy"))
    without = ["finetune.steps=0", "eval.held_out_queries=0"]
    assert questions(config(*without, "eval.beir=[]"), None) == []
    with pytest.raises(UserError, match="there is no question"):
        mined(*without, "eval.beir=[]")


def test_mine_takes_no_positive_of_another_record_of_the_question(full_run, tmp_path):
    """Files with one positive per line; their folder is made before the work."""
    rows = [("who", "men at work"), ("who", "people"), ("where", "the world")]
    lines = [json.dumps({"question": q, "positive_ctxs": [{"text": p}]}) + "\n" for q, p in rows]
    (tmp_path / "q.jsonl").write_text("".join(lines))
    output = tmp_path / "new/mined.jsonl"
    words = [f"runs_dir={full_run.parents[2]}", "mine.run=full", f"mine.input={tmp_path}/q.jsonl"]
    workspace = Workspace(tmp_path / "task", "contriever", "smoke")
    build(config(*words, f"mine.output={output}")).tasks["mine"](workspace)
    actual = [record.hard_negatives for record in read_passages(output)]
    assert actual[:2] == [("the world",)] * 2
    assert {*actual[2]} <= {"men at work", "people"}
    with pytest.raises(UserError, match="is a folder: give"):
        build(config(*words, f"mine.output={tmp_path}/new")).tasks["mine"](workspace)


@pytest.mark.slow
def test_mine_writes_hard_negatives_that_fine_tuning_reads(full_run, tmp_path):
    """Phase 1 -> phase 2: nearest passages that are no positives."""
    words = [
        f"runs_dir={full_run.parents[2]}",
        "mine.run=full",
        f"mine.output={tmp_path}/mined.jsonl",
    ]
    task = build(config(*words)).tasks["mine"]
    task(Workspace(tmp_path / "task", "contriever", "smoke"))
    records = read_passages(tmp_path / "mined.jsonl")
    assert len(records) == 4
    for record in records:
        assert len(record.hard_negatives) == 3  # the passages of the other three questions
        assert record.positives[0] not in record.hard_negatives
    again = [
        f"runs_dir={tmp_path}",
        f"finetune.file={tmp_path}/mined.jsonl",
        "method.pretrain=false",
        "finetune.negative_hard_ratio=1.0",
        "finetune.num_negatives=2",
        "eval.lexical=false",
        "eval.hybrid=false",
    ]
    assert train("contriever", "smoke", again)


def test_baselines_score_the_sets_of_the_method(tmp_path):
    """Equal names; LSA and whitening work on few documents."""
    actual = {}
    for name in baselines.__all__:
        workspace = Workspace(tmp_path / name)
        actual[name] = getattr(baselines, name)(config(), workspace)["synthetic_recall_at_10"]
        assert (tmp_path / name / "items/synthetic_recall_at_100.json").is_file()
    assert actual["bm25"] > actual["untrained"]
    assert actual["lsa"] > actual["untrained"]


# -- configs -------------------------------------------------------------------------------------


def test_paper_configs_hold_the_published_recipe():
    english, many = config(name="paper"), config(name="paper_multilingual")
    assert (english.method.queue_size, many.method.queue_size) == (131072, 32768)
    assert (english.method.momentum, many.method.momentum) == (0.9995, 0.999)
    assert (english.data.ratio_min, many.data.ratio_min) == (0.05, 0.1)
    assert (english.data.noise.kind, many.data.noise.kind) == ("delete", "none")
    for cfg in (english, many):
        assert (cfg.optim.lr, cfg.optim.betas, cfg.optim.eps) == (5e-5, (0.9, 0.98), 1e-6)
        assert (cfg.optim.warmup_steps, cfg.trainer.max_steps) == (20000, 500000)
        assert cfg.data.batch_size * cfg.trainer.devices * cfg.trainer.num_nodes == 2048
        assert not cfg.method.norm_query
        assert not cfg.method.norm_document
    assert config(name="paper_msmarco_hard").finetune.negative_hard_ratio == 0.1
    assert english.eval.beir[0] == "beir/msmarco@dev"  # the test part is another task
    papers = [name for name in config_names("contriever") if name.startswith("paper")]
    assert len(papers) == 13
    tuned = [cfg for cfg in (config(name=name) for name in papers) if not cfg.method.pretrain]
    assert len(tuned) == 8
    for cfg in tuned:  # what `make check` counts is what is trained
        assert (cfg.trainer.max_steps, cfg.data.batch_size) == (
            cfg.finetune.steps,
            cfg.finetune.batch_size,
        )
    assert config(name="paper_mrtydi").model.pretrained == "facebook/mcontriever-msmarco"
    assert (
        config(name="paper_msmarco_multilingual_bert").model.pretrained
        == "bert-base-multilingual-cased"
    )


FORUMS = (
    "android",
    "english",
    "gaming",
    "gis",
    "mathematica",
    "physics",
    "programmers",
    "stats",
    "tex",
    "unix",
    "webmasters",
    "wordpress",
)


def test_paper_configs_hold_what_both_pre_trainings_share():
    """Un-normalised dot products over 0.05, crops of chunks of 256, mean pooling; texts of 512 are
    judged.
    """
    english, many = config(name="paper"), config(name="paper_multilingual")
    for cfg in (english, many):
        data, method, optim = cfg.data, cfg.method, cfg.optim
        assert (method.objective, method.temperature, method.label_smoothing) == ("moco", 0.05, 0)
        assert method.key_encoder_dropout
        assert (data.chunk_length, data.ratio_max, data.sampling_coefficient) == (256, 0.5, 0)
        assert (optim.name, optim.weight_decay, optim.schedule) == ("adamw", 0.01, "warmup_linear")
        assert (cfg.model.pooling, cfg.model.max_length, cfg.seed) == ("avg", 512, 0)
        assert (cfg.trainer.precision, cfg.trainer.gradient_clip_val) == ("32-true", None)
    assert english.data.noise.probability == 0.1
    forums = [f"beir/cqadupstack/{name}" for name in FORUMS]
    assert english.eval.groups == {"cqadupstack": forums}
    assert [name for name in english.eval.beir if "cqadupstack" in name] == forums
    assert (many.eval.normalize_text, many.tokenize.normalize_text) == (True, True)
    mkqa = config(name="paper_mkqa").eval
    assert (mkqa.lower_case, mkqa.normalize_text, len(mkqa.answers)) == (True, True, 26)


@pytest.mark.parametrize(
    "name",
    [
        "paper_msmarco",
        "paper_msmarco_hard",
        "paper_msmarco_bert",
        "paper_msmarco_multilingual",
        "paper_msmarco_multilingual_bert",
        "paper_mrtydi",
        "paper_few_shot",
        "paper_few_shot_bert",
    ],
)
def test_item_17_paper_configs_hold_the_fine_tuning_of_the_sheet(name):
    """Checklist 17: 1,024 questions a step with a negative each; few examples: 256 without any."""
    cfg, few = config(name=name), "few_shot" in name
    own, batch = cfg.finetune, 256 if few else 1024
    assert own.batch_size * cfg.trainer.devices * cfg.trainer.num_nodes == batch
    assert own.num_negatives == (0 if few else 1)
    assert (own.lr, own.temperature, own.max_length) == (1e-5, 0.05, 256)
    assert own.normalize_text
    assert own.negative_hard_ratio == (0.1 if name == "paper_msmarco_hard" else 0)


def test_rates_are_searched_alike_for_every_way_of_pre_training():
    sweep = read_sweep("contriever")
    assert sweep.metric.startswith("retrieval-cisi_titles")  # no judged query
    assert list(arms_of("contriever", sweep, [])) == ["cloze", "in_batch", "queue"]
    assert len(sweep.grid()) == 4
    (comparison,) = read_comparisons("contriever")
    assert sweep.seed not in comparison.seeds
