"""Runs, evaluation, export, tasks and configs as the commands drive them: items 7 and 14 to 18."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel

from common.config import UserError, config_names
from common.data.code.search_sets import (
    PIECES,
    CodePair,
    CodeSearchSet,
    read_code_search_net,
)
from common.data.code.types import TYPES, TYPES_OF, type_token
from common.data.tables import read_jsonl, write_jsonl
from common.engine import checkpoint as ckpt
from common.engine.check import inspect
from common.engine.comparison.spec import read_comparisons
from common.engine.run import train
from common.engine.sweeps.schema import read_sweep
from common.engine.workspace import Workspace
from projects.cocosoda import baselines, build
from projects.cocosoda.data import CodePairs, synthetic_pairs, typed_pieces
from projects.cocosoda.encoder import build_encoder, load_encoder
from projects.cocosoda.evaluate import (
    evaluate,
    lexical_compare,
    memory,
    score_sets,
    whitened,
)
from projects.cocosoda.ranks import gold_ranks, reciprocal, search_metrics
from tests.cards import at_hand, run_card
from tests.projects.cocosoda.conftest import config, module_of


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    words = [f"runs_dir={folder}", "run_id=full", "trainer.val_every_n_steps=2", "trainer.keep_checkpoints=5"]  # fmt: skip
    return train("cocosoda", "smoke", words)


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


# -- runs ----------------------------------------------------------------------------------------


def test_a_resumed_run_is_bit_identical(tmp_path):
    """Encoder, average, four queues with their pointer, and the next losses."""
    words = [f"runs_dir={tmp_path}", "run_id=r", "finetune.steps=0", "trainer.keep_checkpoints=5", "eval.untrained=false",
             "eval.lexical=false", "eval.whitened=false"]  # fmt: skip
    run = train("cocosoda", "smoke", words)
    folder = run / "checkpoints/pretrain"
    last = folder / "step-00000004.ckpt"
    state = ckpt.load(last)["state_dict"]
    assert {f"queues.{n}.{b}" for n in ("code", "query", "augmented_code", "augmented_query")
            for b in ("features", "position")} <= state.keys()  # fmt: skip
    assert int(state["queues.code.position"]) == 4 * 8 % 16
    half = ckpt.load(folder / "step-00000002.ckpt")["state_dict"]
    assert not torch.equal(state["queues.code.features"], half["queues.code.features"])
    curve = (run / "metrics.csv").read_text()
    last.unlink()
    (folder / "finished.json").unlink()
    assert train("cocosoda", "smoke", [*words, "resume=r"]) == run
    again = ckpt.load(last)["state_dict"]
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(value, again[name]), name

    def losses(text):
        return [
            line
            for line in text.splitlines()
            if line.startswith("pretrain") and "train/loss," in line
        ]

    assert len(losses(curve)) == 4
    assert losses((run / "metrics.csv").read_text()) == losses(curve)


def test_stages_validate_on_the_mean_over_the_languages(full_run):
    """Pre-training, fine-tuning with its own rate, or one of the two; the monitor is val/mrr."""
    curve = (full_run / "metrics.csv").read_text()
    assert curve.count("val/mrr") == 3  # two in the first stage, one in the second
    assert "train/altered_share" in curve
    tuned = ckpt.load(full_run / "checkpoints/finetune/step-00000002.ckpt")["state_dict"]
    assert not [name for name in tuned if name.startswith(("queues", "momentum"))]
    alone = build(config("method.pretrain=false"))
    (stage,) = list(alone.stages())
    assert (stage.name, stage.module.optim.lr, stage.trainer["max_steps"]) == ("finetune", 1e-3, 2)
    (first,) = list(build(config("finetune.steps=0")).stages())
    assert first.name == "pretrain"
    for wrong, message in ((["method.pretrain=false", "finetune.steps=0"], "needs finetune.steps"),
                           (["finetune.epochs=1"], "both set"),
                           (["data.limit=9"], "limit is for data.source=bundled"),
                           (["model.type_tokens=false"], "needs model.type_tokens"),
                           (["model.max_length=20"], "max_length is below")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            config(*wrong)


def test_fine_tuning_is_validated_after_every_epoch_and_at_least_once(tmp_path):
    """Also where an epoch is shorter than the interval of the pre-training, as for Ruby in `paper_finetune_ruby`."""
    words = ["method.pretrain=false", "trainer.val_every_n_steps=1000"]

    def interval(*further):
        (stage,) = build(config(*words, *further)).stages()
        return stage.trainer["val_every_n_steps"]

    assert interval("finetune.steps=0", "finetune.epochs=5") == 8  # 64 pairs in batches of 8
    assert interval("finetune.steps=0", "finetune.epochs=0.5") == 4
    assert interval() == 2
    assert interval("finetune.steps=5", "trainer.val_every_n_steps=3") == 3
    run = train("cocosoda", "smoke", [*words, f"runs_dir={tmp_path}", "eval.untrained=false", "eval.lexical=false",
                                      "eval.whitened=false"])  # fmt: skip
    assert (run / "metrics.csv").read_text().count("val/mrr") == 1
    assert (run / "checkpoints/finetune/best.ckpt").is_file()


def test_fine_tuning_has_the_rate_of_the_pre_training_unless_it_has_its_own():
    """So that one sweep gives all arms of the comparison the same number of rates."""
    for own, wanted in (("null", 3e-3), ("0.1", 0.1)):
        module = module_of(f"finetune.lr={own}", "optim.lr=0.003", finetune=True)
        assert module.optim.lr == wanted
    sweep, mini = read_sweep("cocosoda"), config(name="mini")
    rates = sweep.space["optim.lr"].values
    assert min(rates) < mini.optim.lr < max(rates)
    assert mini.finetune.lr is None
    assert sweep.arms == read_comparisons("cocosoda")[0].default_arms
    assert sweep.shared["eval.part"] == "valid"


def topics(seed, partners=0):
    """Pairs of one topic each; code and query of a topic have no token in common."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randperm(16, generator=generator)
    rows = {}
    for side, name in enumerate(("query", "code")):
        own = topic.roll(partners * side)
        ids = 20 + 4 * own[:, None] + 2 * side + torch.randint(2, (16, 6), generator=generator)
        rows[name] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return rows | {f"augmented_{name}": rows[name] for name in ("code", "query")}


def test_training_brings_together_what_shares_a_topic_and_no_token():
    """Twenty steps: from chance to almost all; with pairs of changing topics it stays at chance."""

    def accuracy(seeded):
        module = module_of("model.dropout=0", "data.batch_size=16", "method.queue_size=32")
        optimizer = torch.optim.AdamW(module.encoder.parameters(), lr=3e-3)
        for step in range(20):
            optimizer.zero_grad()
            module.losses(topics(step, 0 if seeded else step % 15 + 1))["loss"].backward()
            optimizer.step()
            module.after_optimizer_step()
        module.eval()
        with torch.no_grad():
            query, code = (
                torch.nn.functional.normalize(module.encoder(**topics(99)[k]), dim=1)
                for k in ("query", "code")
            )
        return float((query @ code.T).argmax(1).eq(torch.arange(16)).float().mean())

    assert accuracy(True) > 0.8
    assert accuracy(False) < 0.4


# -- evaluation ----------------------------------------------------------------------------------


def test_item_14_missing_and_late_functions_count_zero_and_identity_is_the_key():
    """Checklist 14: no gold: 0; rank above the limit: 0; the best of several functions of one URL."""
    data = CodeSearchSet("x", ["a", "b", "c"], ["u1", "gone", "u2"], ["s", "t", "s", "v"], ["u1", "u3", "u1", "u2"])  # fmt: skip
    assert data.gold_places == [[0, 2], [], [3]]
    scores = torch.tensor([[0.1, 0.5, 0.9, 0.2], [1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    ranks = gold_ranks(lambda rows: scores[rows], data.gold_places)
    assert ranks.tolist() == [1, 0, 4]  # equal scores: by place
    assert reciprocal(ranks, 3).tolist() == [1.0, 0.0, 0.0]
    assert search_metrics(reciprocal(ranks))["mrr"] == pytest.approx((1 + 0 + 0.25) / 3)
    many = torch.zeros(1, 1200)
    many[0, :1001] = 1.0
    assert reciprocal(gold_ranks(lambda rows: many[rows], [[1150]])).tolist() == [0.0]
    assert reciprocal(gold_ranks(lambda rows: many[rows], [[999]])).tolist() == [1 / 1000]
    with pytest.raises(ValueError, match="no queries"):
        search_metrics([])


def test_item_15_whitening_is_fitted_on_the_whole_code_base():
    """Checklist 15: all code together has identity covariance; a part of it is another map."""
    codes, queries = torch.randn(40, 4) @ torch.randn(4, 4) + 3, torch.randn(5, 4)
    own, code = whitened(queries, codes)
    torch.testing.assert_close(code.norm(dim=1), torch.ones(40))
    part, _ = whitened(queries, codes[:20])
    assert not torch.allclose(own, part, atol=1e-3)
    one, _ = whitened(queries[:1], codes)
    torch.testing.assert_close(one, own[:1])  # not by batch of queries


def test_items_17_and_18_one_table_with_all_rows_and_geometry(full_run):
    """Checklist 17 and 18: untuned, words, the method; before and after; what queries find."""
    found = metrics_of(full_run)
    for row in ("", "untrained_", "whitened_", "tfidf_", "bm25_"):
        for metric in ("mrr", "recall_at_1", "recall_at_5", "recall_at_10"):
            assert 0 <= found[f"{row}synthetic_{metric}"] <= 1
        items = json.loads((full_run / f"items/{row}synthetic_mrr.json").read_text())
        assert sum(items) / 24 == pytest.approx(found[f"{row}synthetic_mrr"])
    for name in ("alignment", "uniformity_code", "uniformity_query"):
        assert found[name] != found[f"untrained_{name}"]
    assert found["key_start_share"] == pytest.approx(0.9**4)
    assert found["queue_age"] == 1.5
    twice = config("trainer.accumulate_grad_batches=2", "trainer.allow_small_negatives=true")
    assert memory(twice)["queue_age"] == 1.0
    assert list((full_run / "gallery").glob("code search *"))
    assert "untrained" in (full_run / "notes.txt").read_text()


def test_item_17_languages_one_by_one_and_their_unweighted_mean(tmp_path):
    """Checklist 17: a set of one query counts as much as one of three; CoSQA is in no mean."""
    for language, count in (("go", 1), ("ruby", 3)):
        folder = tmp_path / "CSN" / language
        folder.mkdir(parents=True)
        rows = [{"url": f"u{i}", "code_tokens": ["readFile", str(10 * i)],
                 "docstring_tokens": ["read", "file" if i else "nothing"]} for i in range(3)]  # fmt: skip
        write_jsonl(folder / "train.jsonl", rows)
        write_jsonl(folder / "codebase.jsonl", rows)
        write_jsonl(folder / "test.jsonl", rows[3 - count :])
    (tmp_path / "cosqa").mkdir()
    write_jsonl(tmp_path / "cosqa/codebase.jsonl", [{"_id": 1, "code": "def a(): pass"}])
    write_jsonl(tmp_path / "cosqa/dev.jsonl", [{"query": "a", "code_id": 1}])
    cfg = config("data.source=csn", "data.folder=CSN", f"data.root={tmp_path}", "data.languages=[go,ruby]",
                 "eval.cosqa=cosqa")  # fmt: skip
    found = score_sets(cfg, lexical_compare("tfidf"), Workspace(tmp_path / "run"), "tfidf_")
    assert found["go_mrr"] == pytest.approx(1 / 3)  # all score alike: by place
    assert found["average_mrr"] == pytest.approx((found["go_mrr"] + found["ruby_mrr"]) / 2)
    assert found["cosqa_mrr"] == 1.0
    items = json.loads((tmp_path / "run/items/tfidf_average_mrr.json").read_text())
    assert items == {"mean_of": ["tfidf_go_mrr", "tfidf_ruby_mrr"]}


def test_baselines_score_the_sets_of_the_method(tmp_path):
    """Equal names; words find made-up functions, which share words with their queries."""
    found = {}
    for name in ("bm25", "tfidf", "untrained", "word_embeddings"):
        workspace = Workspace(tmp_path / name)
        metrics = getattr(baselines, name)(config(), workspace)
        found[name] = metrics["synthetic_mrr"]
        assert ("alignment" in metrics) == (name == "untrained")
        assert (tmp_path / name / "items/synthetic_mrr.json").is_file()
    assert found["tfidf"] > found["untrained"]
    assert found["bm25"] > found["untrained"]


def test_names_are_hidden_and_visible_in_the_bundled_sets(tmp_path):
    """Two sets of the same 895 queries; hiding the name costs words."""
    cfg = config("data.source=bundled", "data.limit=50", "eval.names=[hidden,visible]")
    found = score_sets(cfg, lexical_compare("tfidf"), Workspace(tmp_path))
    assert 0.4 < found["hidden_mrr"] < found["visible_mrr"] - 0.04
    assert len(json.loads((tmp_path / "items/hidden_mrr.json").read_text())) == 895


# -- weights in and out --------------------------------------------------------------------------


def test_export_is_the_encoder_with_its_tokenizer(tmp_path):
    """Equal vectors after reload: identifiers divided, pieces for types, unit length."""
    experiment, module = build(config()), module_of().eval()
    experiment.export(module, tmp_path)
    loaded = experiment.load_export(tmp_path)
    before, after = (experiment.embed(m) for m in (module, loaded))
    assert before.keys() == after.keys() == {"queries", "documents"}
    for name, value in before.items():
        assert torch.equal(value, after[name])
    tokenizer = loaded.encoder.tokenizer
    assert tokenizer.tokenize("readLine_two") == module.encoder.tokenizer.tokenize("read Line two")
    assert {type_token(name) for name in TYPES} <= tokenizer.get_vocab().keys()
    assert (
        json.loads((tmp_path / "config_sentence_transformers.json").read_text())[
            "similarity_fn_name"
        ]
        == "cosine"
    )
    assert list(tmp_path.glob("*_Normalize"))


@pytest.fixture(scope="module")
def unixcoder(tmp_path_factory):
    """A tiny folder in UniXcoder's layout: RoBERTa, byte pairs, <encoder-only> as a plain piece."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    folder = tmp_path_factory.mktemp("unixcoder")
    pieces = ByteLevelBPETokenizer()
    texts = ["def read ( path ) : return open ( path )", "read a file and return the lines of it"]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<encoder-only>", "<mask>"]
    pieces.train_from_iterator(
        texts, 330, min_frequency=1, special_tokens=special, show_progress=False
    )
    pieces.save_model(str(folder))
    tokenizer = RobertaTokenizerFast.from_pretrained(folder, model_max_length=64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = AutoConfig.for_model(
        "roberta", vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=66, pad_token_id=1,
    )  # fmt: skip
    AutoModel.from_config(shape, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_item_7_unixcoder_reads_prefix_and_separator_before_the_text(unixcoder, tmp_path):
    """Checklist 7: <s> <encoder-only> </s> tokens </s>, in training, search, and after an export."""
    words = [f"model.pretrained={unixcoder}", "model.config=null", "model.prefix=<encoder-only>",
             "model.split_identifiers=false"]  # fmt: skip
    cfg = config(*words)
    encoder = build_encoder(cfg.model)
    rows = encoder.tokenize(["read a file"])["input_ids"][0]
    pieces = encoder.tokenizer.convert_ids_to_tokens(rows.tolist())
    assert pieces[:3] == ["<s>", "<encoder-only>", "</s>"]
    assert pieces[-1] == "</s>"
    assert "<encoder-only>" not in pieces[3:]
    data = CodePairs({"python": synthetic_pairs("train", 0)}, encoder.tokenizer, cfg, augment=True)
    batch = data[[(i, 0) for i in range(8)]]
    for side in ("code", "augmented_code", "augmented_query"):
        assert (batch[side]["input_ids"][:, :3] == rows[:3]).all()
    rows_of_types = encoder.tower.model.get_input_embeddings().num_embeddings
    assert rows_of_types == len(encoder.tokenizer)
    experiment = build(cfg)
    module = next(experiment.stages()).module.eval()
    experiment.export(module, tmp_path)
    loaded = experiment.load_export(tmp_path)
    assert loaded.encoder.tokenize(["read a file"])["input_ids"].tolist() == [rows.tolist()]
    assert torch.equal(experiment.embed(module)["queries"], experiment.embed(loaded)["queries"])
    plain = load_encoder(cfg.model, unixcoder)  # as released weights come
    assert plain.tokenize(["read a file"])["input_ids"].tolist() == [rows.tolist()]
    with pytest.raises(UserError, match="is no piece of this tokenizer"):
        build_encoder(config("model.prefix=<encoder-only>").model)


def test_item_9_pieces_with_their_space_in_front_have_the_type_of_their_token(unixcoder):
    """Checklist 9: byte pairs, behind a prefix too, where the tokenizer counts the space to the piece."""
    words = [f"model.pretrained={unixcoder}", "model.config=null", "model.split_identifiers=false"]
    code = "def read ( path ) : return open ( path )"
    found = []
    for prefix in ("null", "<encoder-only>"):
        tokenizer = build_encoder(config(*words, f"model.prefix={prefix}").model).tokenizer
        _, types = typed_pieces(tokenizer, CodePair("q", code, "python", "k"), 50)
        found.append([TYPES[t] if t >= 0 else "other" for t in types])
    assert "other" not in found[0]
    assert found[0] == found[1]
    assert {"keyword", "identifier", "separators"} == set(found[0])


def test_the_example_of_the_card_finds_code(tmp_path, monkeypatch, capsys):
    build(config()).export(module_of().eval(), tmp_path / "export")
    at_hand(tmp_path)
    monkeypatch.chdir(tmp_path)
    run_card("cocosoda", tmp_path / "export")
    assert "lines.py:1" in capsys.readouterr().out


# -- tasks ---------------------------------------------------------------------------------------


def test_search_follows_a_folder_of_code(full_run, tmp_path, capsys):
    """Places of functions; the index forgets what is gone and encodes what is new; other weights: no."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "a.py").write_text("def one():\n    return 1\n\n\ndef two():\n    return one() + 1\n")
    (src / "b.go").write_text("package p\n\nfunc Three(a int) int { return a }\n")
    (tmp_path / "q.txt").write_text("one plus one\n")
    words = [f"runs_dir={full_run.parents[2]}", f"search.index={tmp_path}/index", f"search.queries={tmp_path}/q.txt",
             "search.k=9"]  # fmt: skip

    def search(*further):
        cfg = config(*words, *further)
        build(cfg).tasks["search"](Workspace(tmp_path / "task", "cocosoda", "smoke"))
        return capsys.readouterr().out

    run = "search.run=full"
    shown = search(run, f"search.file={src}")
    assert "3 functions indexed" in shown
    for place in ("a.py:1 one", "a.py:5 two", "b.go:3 Three"):
        assert place in shown
    (src / "b.go").unlink()
    (src / "a.py").write_text("\n\ndef one():\n    return 1\n\n\ndef new():\n    return 3\n")
    shown = search(run, f"search.file={src}")
    assert "opened, 1 functions encoded" in shown
    assert "2 functions indexed" in shown
    assert "a.py:3 one" in shown
    assert "Three" not in shown
    build(config()).export(module_of("seed=5").eval(), tmp_path / "other")
    with pytest.raises(UserError, match="made with another encoder"):
        search(f"search.run={tmp_path}/other", f"search.file={src}")


def test_prepare_joins_archives_and_types_pieces(tmp_path):
    """Rows that training reads; stopped calls go on; stored pieces are those found anew."""
    folder = tmp_path / "raw/go"
    for part in ("train", "valid", "test"):
        own = folder / "final/jsonl" / part
        own.mkdir(parents=True)
        row = {"url": part, "language": "go", "code_tokens": ["func", "Add", "// c", "(", "a", ")"],
               "docstring_tokens": ["adds"], "original_string": "func Add(a)"}  # fmt: skip
        write_jsonl(own / "x.jsonl", [row])
        (folder / f"{part}.txt").write_text(part)
    (folder / "codebase.txt").write_text("valid\ntest\n")
    cfg = config("data.source=csn", "data.folder=x", "data.languages=[go]", f"prepare.input={tmp_path}/raw",
                 f"prepare.output={tmp_path}/CSN")  # fmt: skip
    task = build(cfg).tasks["prepare"]
    task(Workspace(tmp_path / "task"))
    (row,) = read_jsonl(tmp_path / "CSN/go/train.jsonl")
    kinds = [kind for _, kind in row[PIECES]]
    assert (kinds[0], kinds[-1]) == ("keyword", "separators")
    assert set(kinds) <= {*TYPES_OF["go"], "other"}
    assert kinds.count("other") < 4  # the comment
    (pair,) = read_code_search_net(tmp_path / "CSN", "go")
    assert pair.pieces is not None
    assert len(read_jsonl(tmp_path / "CSN/go/codebase.jsonl")) == 2
    parts = sorted((tmp_path / "task/parts/go-train").rglob("*"))
    times = [p.stat().st_mtime_ns for p in parts]
    task(Workspace(tmp_path / "task"))
    assert [p.stat().st_mtime_ns for p in parts] == times  # nothing was computed again
    shorter = config("data.source=csn", "data.folder=x", "data.languages=[go]", f"prepare.input={tmp_path}/raw",
                     "model.code_length=12")  # fmt: skip
    with pytest.raises(UserError, match="length"):  # what was kept has other pieces
        build(shorter).tasks["prepare"](Workspace(tmp_path / "task"))
    with pytest.raises(UserError, match="prepare.input"):
        build(config()).tasks["prepare"](Workspace(tmp_path / "task"))


# -- configs -------------------------------------------------------------------------------------


def test_item_16_the_base_is_one_key_and_its_gain_has_a_config():
    """Checklist 16: any encoder by model.pretrained; the same one fine-tuned without CoCoSoDa."""
    tuned, plain = config(name="paper_finetune"), config(name="paper_baseline")
    assert (tuned.model.pretrained, plain.model.pretrained) == (
        "DeepSoftwareAnalytics/CoCoSoDa", "microsoft/unixcoder-base",
    )  # fmt: skip
    assert tuned.finetune == plain.finetune
    assert not plain.method.pretrain
    assert config(name="paper_graphcodebert").model.prefix is None


def test_paper_configs_hold_the_published_recipe():
    cfg = config(name="paper")
    assert (cfg.method.queue_size, cfg.method.momentum, cfg.method.temperature) == (
        1024,
        0.999,
        0.07,
    )
    assert (cfg.optim.lr, cfg.optim.schedule, cfg.optim.weight_decay) == (2e-5, "linear", 0.01)
    assert (cfg.data.batch_size, cfg.trainer.max_steps, cfg.trainer.val_every_n_steps) == (
        128,
        100000,
        1000,
    )
    assert (cfg.model.code_length, cfg.model.query_length) == (256, 128)
    assert len(cfg.data.languages) == 6
    released = config(name="paper_released")
    assert (released.method.logit_scale, released.method.intra_modal) == (20, False)
    tuned = {n: config(name=n) for n in config_names("cocosoda") if n.startswith("paper_finetune")}
    assert len({own.data.languages[0] for own in tuned.values()}) == 6
    assert all(own.finetune.epochs == own.trainer.max_epochs == 5 for own in tuned.values())


@pytest.mark.parametrize("name", ["paper", "paper_finetune"])
def test_check_builds_the_model_and_names_what_is_missing(name, tmp_path):
    rows = inspect("cocosoda", name, [f"data.root={tmp_path}"])
    assert rows["negatives per query"] == ("1,151" if name == "paper" else "127")
    assert any("MISSING" in value for value in rows.values())


def test_evaluation_without_optional_rows(tmp_path):
    """Rows that the config leaves out are not computed."""
    cfg = config("eval.untrained=false", "eval.lexical=false", "eval.whitened=false")
    found = evaluate(cfg, module_of().eval(), Workspace(tmp_path))
    assert not [
        name for name in found if name.startswith(("untrained", "tfidf", "bm25", "whitened"))
    ]
