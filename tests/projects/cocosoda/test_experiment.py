"""Runs, evaluation and configs as the commands drive them: items 14 to 18."""

import json
import math

import pytest
import torch

from common.config import UserError, config_names
from common.data.tables import write_jsonl
from common.engine import checkpoint as ckpt
from common.engine.comparison.spec import read_comparisons
from common.engine.run import train
from common.engine.sweeps.schema import arms_of, read_sweep, words_of
from common.engine.workspace import Workspace
from projects.cocosoda import baselines, build
from projects.cocosoda.code.search_sets import CodeSearchSet
from projects.cocosoda.data import evaluation_sets
from projects.cocosoda.evaluate import (
    encoded,
    evaluate,
    lexical_compare,
    memory,
    score_sets,
    whitened,
)
from projects.cocosoda.ranks import gold_ranks, reciprocal, search_metrics
from projects.cocosoda.validation import MeanMRR
from tests.projects.cocosoda.conftest import config, module_of
from tests.smoke import metrics_of

# -- runs ----------------------------------------------------------------------------------------


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
    for wrong, message in (
        (["method.pretrain=false", "finetune.steps=0"], "needs finetune.steps"),
        (["finetune.epochs=1"], "both set"),
        (["data.limit=9"], "limit is for data.source=bundled"),
        (["model.type_tokens=false"], "needs model.type_tokens"),
        (["model.max_length=20"], "max_length is below"),
    ):
        with pytest.raises(UserError, match=message):
            config(*wrong)


@pytest.mark.slow
def test_fine_tuning_is_validated_after_every_epoch_and_at_least_once(tmp_path):
    """Also where an epoch is shorter than the interval of the pre-training, as for Ruby in
    `paper_finetune_ruby`.
    """
    words = ["method.pretrain=false", "trainer.val_every_n_steps=1000"]

    def interval(*further):
        (stage,) = build(config(*words, *further)).stages()
        return stage.trainer["val_every_n_steps"]

    assert interval("finetune.steps=0", "finetune.epochs=5") == 8  # 64 pairs in batches of 8
    assert interval("finetune.steps=0", "finetune.epochs=0.5") == 4
    assert interval() == 2
    assert interval("finetune.steps=5", "trainer.val_every_n_steps=3") == 3
    run = train(
        "cocosoda",
        "smoke",
        [
            *words,
            f"runs_dir={tmp_path}",
            "eval.untrained=false",
            "eval.lexical=false",
            "eval.whitened=false",
        ],
    )
    assert (run / "metrics.csv").read_text().count("val/mrr") == 1
    assert (run / "checkpoints/finetune/best.ckpt").is_file()


def test_fine_tuning_has_the_rate_of_the_pre_training_unless_it_has_its_own():
    """So that one sweep gives all arms of the comparison the same number of rates."""
    for own, expected in (("null", 3e-3), ("0.1", 0.1)):
        module = module_of(f"finetune.lr={own}", "optim.lr=0.003", finetune=True)
        assert module.optim.lr == expected
    sweep, mini = read_sweep("cocosoda"), config(name="mini")
    rates = sweep.space["optim.lr"]
    assert min(rates) < mini.optim.lr < max(rates)
    assert mini.finetune.lr is None
    assert sweep.arms == read_comparisons("cocosoda")[0].default_arms
    assert sweep.shared["eval.part"] == "valid"


@pytest.mark.parametrize("file", ["compare", "sweep"])
def test_arms_have_equal_steps_or_equal_encoded_texts(file):
    """Code, query, their augmented keys and, by the key encoder, their own: names of arms say what
    is equal.
    """
    spec = read_comparisons("cocosoda")[0]
    arms = spec.arms if file == "compare" else arms_of("cocosoda", read_sweep("cocosoda"), [])
    steps, texts = {}, {}
    for name, own in arms.items():
        cfg = config(*words_of(own), name="mini")
        first = cfg.trainer.max_steps if cfg.method.pretrain else 0
        encoded = 6 if cfg.method.original_keys == "momentum" else 4
        steps[name] = first + cfg.finetune.steps
        texts[name] = encoded * first + 2 * cfg.finetune.steps
    assert {n for n, count in steps.items() if count != 800} == {"finetuned_long"}
    assert texts["finetuned_long"] == texts["full"] > texts["finetuned"]


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
    """Checklist 14: no gold: 0; rank above the limit: 0; the best of several functions of one
    URL."""
    data = CodeSearchSet(
        "x", ["a", "b", "c"], ["u1", "gone", "u2"], ["s", "t", "s", "v"], ["u1", "u3", "u1", "u2"]
    )
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


def test_item_14_validation_is_the_unweighted_mean_over_sets_of_unequal_size():
    """Checklist 14: each set's queries in its own code base, in whatever order they come."""

    class Table:
        device, max_length = torch.device("cpu"), 0

        def encode(self, texts, batch_size, normalize):
            return torch.tensor(
                [[math.sin(ord(t[0]) * int(t[1:]) ** 2 + d) for d in range(4)] for t in texts]
            )

    encoder, sets, mrr = Table(), [], MeanMRR(config())
    for name, size in (("a", 2), ("b", 7)):
        keys = [f"u{i}" for i in range(size)]
        queries, codes = ([f"{side}{i}" for i in range(size)] for side in (name, name.upper()))
        sets.append(CodeSearchSet(name, queries, keys, codes, keys))
    for number, places in ((1, [3, 0, 6, 1]), (0, [1, 0]), (1, [5, 2, 4])):
        mrr.add(encoder, number, [sets[number].queries[i] for i in places], torch.tensor(places))
    expected = []
    for own in sets:
        scores = encoder.encode(own.queries, 1, True) @ encoder.encode(own.codes, 1, True).T
        ranks = gold_ranks(lambda rows, table=scores: table[rows], own.gold_places)
        expected.append(search_metrics(reciprocal(ranks))["mrr"])
    assert abs(expected[0] - expected[1]) > 0.1
    assert float(mrr.compute(encoder, sets)) == pytest.approx(sum(expected) / 2)
    assert not mrr.places


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
    actual = metrics_of(full_run)
    for row in ("", "untrained_", "whitened_", "tfidf_", "bm25_"):
        for metric in ("mrr", "recall_at_1", "recall_at_5", "recall_at_10"):
            assert 0 <= actual[f"{row}synthetic_{metric}"] <= 1
        items = json.loads((full_run / f"items/{row}synthetic_mrr.json").read_text())
        assert sum(items) / 24 == pytest.approx(actual[f"{row}synthetic_mrr"])
    for name in ("alignment", "uniformity_code", "uniformity_query"):
        assert actual[name] != actual[f"untrained_{name}"]
    assert actual["key_start_share"] == pytest.approx(0.9**4)
    assert actual["queue_age"] == 1.5
    twice = config("trainer.accumulate_grad_batches=2", "trainer.allow_small_negatives=true")
    assert memory(twice)["queue_age"] == 1.0
    assert memory(config("trainer.devices=auto"))["queue_age"] == 1.5  # one process on a CPU
    assert "queue_age" not in memory(config("method.queue_size=0"))
    rows = ("", " bm25", " tfidf", " untrained", " whitened")
    shown = {
        row: json.loads((full_run / f"gallery/code search synthetic{row}/gallery.json").read_text())
        for row in rows
    }
    queries = [[actual["query"] for actual in own] for own in shown.values()]
    assert all(own == queries[0] for own in queries)  # side by side
    assert shown[""] != shown[" tfidf"] != shown[" bm25"]
    assert "untrained" in (full_run / "notes.txt").read_text()


def test_item_17_languages_one_by_one_and_their_unweighted_mean(tmp_path):
    """Checklist 17: a set of one query counts as much as one of three; CoSQA is in no mean."""
    for language, count in (("go", 1), ("ruby", 3)):
        folder = tmp_path / "CSN" / language
        folder.mkdir(parents=True)
        rows = [
            {
                "url": f"u{i}",
                "code_tokens": ["readFile", str(10 * i)],
                "docstring_tokens": ["read", "file" if i else "nothing"],
            }
            for i in range(3)
        ]
        write_jsonl(folder / "train.jsonl", rows)
        write_jsonl(folder / "codebase.jsonl", rows)
        write_jsonl(folder / "test.jsonl", rows[3 - count :])
    (tmp_path / "cosqa").mkdir()
    write_jsonl(tmp_path / "cosqa/codebase.jsonl", [{"_id": 1, "code": "def a(): pass"}])
    write_jsonl(tmp_path / "cosqa/dev.jsonl", [{"query": "a", "code_id": 1}])
    cfg = config(
        "data.source=csn",
        "data.folder=CSN",
        f"data.root={tmp_path}",
        "data.languages=[go,ruby]",
        "eval.cosqa=cosqa",
    )
    actual = score_sets(cfg, lexical_compare("tfidf"), Workspace(tmp_path / "run"), "tfidf_")
    assert actual["go_mrr"] == pytest.approx(1 / 3)  # all score alike: by place
    assert actual["average_mrr"] == pytest.approx((actual["go_mrr"] + actual["ruby_mrr"]) / 2)
    assert actual["cosqa_mrr"] == 1.0
    items = json.loads((tmp_path / "run/items/tfidf_average_mrr.json").read_text())
    assert items == {"mean_of": ["tfidf_go_mrr", "tfidf_ruby_mrr"]}


def test_cosqa_beside_itself_is_two_sets(tmp_path):
    """Development queries beside those of the test: each with its own vectors and metrics."""
    folder = tmp_path / "cosqa"
    folder.mkdir()
    rows = [{"_id": i, "code": f"def {name}(): pass"} for i, name in enumerate(("lorem", "ipsum"))]
    write_jsonl(folder / "codebase.jsonl", rows)
    for part, asked in (("dev", ["lorem"]), ("test", ["ipsum", "lorem"])):
        own = [{"query": word, "code_id": int(word == "ipsum")} for word in asked]
        write_jsonl(folder / f"{part}.jsonl", own)
    cfg = config(
        "data.source=cosqa", "data.folder=cosqa", f"data.root={tmp_path}", "eval.cosqa=cosqa"
    )
    test, dev = evaluation_sets(cfg)
    assert (test.name, dev.name) == ("cosqa", "cosqa_dev")
    vectors = encoded(cfg, module_of().eval().encoder)
    assert [len(vectors(data)[0]) for data in (test, dev)] == [2, 1]
    actual = score_sets(cfg, lexical_compare("tfidf"), Workspace(tmp_path / "run"))
    assert (actual["cosqa_mrr"], actual["cosqa_dev_mrr"]) == (1.0, 1.0)
    assert "average_mrr" not in actual


def test_baselines_score_the_sets_of_the_method(tmp_path):
    """Equal names; words find made-up functions, which share words with their queries."""
    actual = {}
    for name in ("bm25", "tfidf", "untrained", "word_embeddings"):
        workspace = Workspace(tmp_path / name)
        metrics = getattr(baselines, name)(config(), workspace)
        actual[name] = metrics["synthetic_mrr"]
        assert ("alignment" in metrics) == (name == "untrained")
        assert (tmp_path / name / "items/synthetic_mrr.json").is_file()
    assert actual["tfidf"] > actual["untrained"]
    assert actual["bm25"] > actual["untrained"]


@pytest.mark.slow
def test_names_are_hidden_and_visible_in_the_bundled_sets(tmp_path):
    """Two sets of the same 895 queries; hiding the name costs words."""
    with pytest.raises(UserError, match=r"eval.names must have at least one entry"):
        config("eval.names=[]")
    cfg = config("data.source=bundled", "data.limit=50", "eval.names=[hidden,visible]")
    actual = score_sets(cfg, lexical_compare("tfidf"), Workspace(tmp_path))
    assert 0.4 < actual["hidden_mrr"] < actual["visible_mrr"] - 0.04
    assert len(json.loads((tmp_path / "items/hidden_mrr.json").read_text())) == 895


# -- configs -------------------------------------------------------------------------------------


def test_item_16_the_base_is_one_key_and_its_gain_has_a_config():
    """Checklist 16: any encoder by model.pretrained; the same one fine-tuned without CoCoSoDa."""
    tuned, plain = config(name="paper_finetune"), config(name="paper_baseline")
    assert (tuned.model.pretrained, plain.model.pretrained) == (
        "DeepSoftwareAnalytics/CoCoSoDa",
        "microsoft/unixcoder-base",
    )
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
    arm = config(*words_of(read_comparisons("cocosoda")[0].arms["released"]), name="mini")
    for own in (released, arm):
        assert (own.method.logit_scale, own.method.intra_modal) == (20, False)
        assert (own.data.typed, own.data.soda.ratio) == (False, 0.1)
    tuned = {n: config(name=n) for n in config_names("cocosoda") if n.startswith("paper_finetune")}
    assert len({own.data.languages[0] for own in tuned.values()}) == 6
    assert all(own.finetune.epochs == own.trainer.max_epochs == 5 for own in tuned.values())


def test_evaluation_without_optional_rows(tmp_path):
    """Rows that the config leaves out are not computed."""
    cfg = config("eval.untrained=false", "eval.lexical=false", "eval.whitened=false")
    actual = evaluate(cfg, module_of().eval(), Workspace(tmp_path))
    assert not [
        name for name in actual if name.startswith(("untrained", "tfidf", "bm25", "whitened"))
    ]
