"""Evaluation, baselines, runs, export and configs as the commands drive them."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.config import UserError
from common.decoding.language_model import Continuation, LanguageModel
from common.engine.run import prepare, train
from common.engine.trained import load_module, module_of_run
from common.engine.workspace import Workspace
from projects.contrastive_search import baselines, build, runners
from projects.contrastive_search import evaluate as own
from projects.contrastive_search import load as load_model
from projects.contrastive_search.data import Passage, passages
from projects.contrastive_search.evaluate import (
    group_places,
    lm_scorer,
    measure,
    nearest_cosine,
    trigram_scorer,
)
from projects.contrastive_search.ngram_model import NgramModel
from projects.contrastive_search.stages import build_module
from tests.projects.contrastive_search.conftest import config, tiny_lm

QUICK = ["eval.num_prefixes=2", "eval.new_tokens=4", "eval.methods=[contrastive,greedy]"]


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    words = [f"runs_dir={tmp_path_factory.mktemp('full')}", "run_id=r", *QUICK]
    return train("contrastive_search", "smoke", words), words


def test_a_run_measures_the_first_decoder_and_all_of_them(full_run):
    """The loss falls, the checkpoint of the best development loss is kept, untrained stands
    beside."""
    run, _ = full_run
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["diversity"] == metrics["contrastive_diversity"]
    for name in (
        "greedy_coherence",
        "human_coherence",
        "shuffled_human_diversity",
        "isotropy",
        "untrained_isotropy",
        "perplexity",
        "contrastive_nearest_cosine",
    ):
        assert np.isfinite(metrics[name]), name
    assert metrics["perplexity"] != metrics["untrained_perplexity"]
    assert "val/mle" in (run / "metrics.csv").read_text()
    assert (run / "checkpoints/simctg/best.ckpt").exists()
    assert (run / "plots/front.png").exists()
    items = json.loads((run / "items/coherence.json").read_text())
    assert np.mean(items) == pytest.approx(metrics["coherence"])


@pytest.mark.slow
def test_without_training_a_run_is_the_model_off_the_shelf_and_can_be_exported(tmp_path, lm_folder):
    """Nothing is fitted; evaluation, export and reload in transformers as of any other run."""
    words = [
        f"runs_dir={tmp_path}",
        "method.train=false",
        f"model.pretrained={lm_folder}",
        "model.config=null",
        *QUICK,
    ]
    run = train("contrastive_search", "smoke", words)
    assert not (run / "checkpoints/off_the_shelf/step-00000004.ckpt").exists()
    _, experiment = prepare("contrastive_search", "smoke", words)
    module = module_of_run(experiment, run)
    experiment.export(module.eval(), tmp_path / "export")
    ids = AutoTokenizer.from_pretrained(tmp_path / "export")("he was", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    original = AutoModelForCausalLM.from_pretrained(lm_folder)
    torch.testing.assert_close(model(**ids).logits, original(**ids).logits)
    own = experiment.embed(load_module(experiment, tmp_path / "export").eval())
    torch.testing.assert_close(own["logits"], experiment.embed(module)["logits"])
    assert "untrained_isotropy" not in json.loads((run / "metrics.json").read_text())


def test_an_exported_folder_is_opened_on_the_cpu(monkeypatch):
    """As `common.models.load` says, also where there is a GPU."""
    asked = {}
    monkeypatch.setattr(LanguageModel, "from_pretrained", lambda place, **more: asked.update(more))
    load_model(Path("export"))
    assert asked == {"device": "cpu"}


def test_mauve_compares_pairs_of_one_length(monkeypatch):
    """Guards the sheet's rule: human first, both cut to the shorter of a pair, pairs with an empty
    side dropped.

    The end of text of a continuation is not a token of it.
    """
    lm, seen = tiny_lm(eos="[SEP]"), []
    words = [lm.token_ids(text) for text in ("the state of the world", "he was", "a man")]
    lm.features = lambda texts: seen.append(texts) or torch.zeros(len(texts), 2)
    monkeypatch.setattr(
        own.measures, "mauve", lambda human, machine: 0.5 * len(human) / len(machine)
    )
    prefix = lm.token_ids("so")
    texts = [
        Passage("1", prefix, words[0]),
        Passage("1", prefix, words[2]),
        Passage("2", prefix, words[1]),
        Passage("2", prefix, words[1]),
    ]
    new = [[*words[1][:2], lm.eos], [], words[0], [lm.eos]]
    assert own.mauve(config(), lm, texts, new) == 0.5
    text_of = lm.tokenizer.decode
    assert seen == [
        [text_of(words[0][:2]), text_of(words[1])],
        [text_of(words[1][:2]), text_of(words[0][: len(words[1])])],
    ]
    with pytest.raises(UserError, match="needs references"):
        own.mauve(config(), lm, [Passage("1", prefix, [])], [words[0]])


def test_what_judges_is_looked_for_before_the_work(monkeypatch):
    """Guards against judges that are missed only after training and decoding."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "mauve" else real(name, *a)
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    needed = {r.name: r.present for r in build(config(name="paper")).plan().requirements}
    judges = {
        f"weights: {name}" for name in ("facebook/opt-2.7b", "facebook/opt-125m", "gpt2-large")
    }
    assert judges <= needed.keys()
    assert not needed["library: mauve-text"]
    for words, message in (
        (["eval.scorers=[trigram,none/such]"], "none/such"),
        (["eval.mauve=true", "eval.mauve_features=none/such"], "none/such"),
        (["eval.mauve=true"], "needs the package mauve-text"),
    ):
        cfg = config(*words)
        with pytest.raises(UserError, match=message):
            next(iter(build(cfg).stages()))
        with pytest.raises(UserError, match=message):
            own.evaluate_lm(cfg, None, [], None)  # type: ignore[arg-type]


def test_every_decoder_writes_the_least_number_of_tokens(monkeypatch):
    """Short texts repeat less: `eval.min_new_tokens` holds for all of them."""
    seen = {}
    monkeypatch.setattr(
        own, "decode_side_by_side", lambda lm, rows, methods, *_, **__: seen | methods
    )
    cfg = config("eval.min_new_tokens=3")
    actual = own.decode(cfg, tiny_lm(), [], own.policies(cfg), Workspace(None))  # type: ignore[arg-type]
    assert {name: policy.min_new_tokens for name, policy in actual.items()} == dict.fromkeys(
        cfg.eval.methods, 3
    )


def test_chapter_diversity_is_the_mean_over_chapters_of_that_of_all_their_texts(monkeypatch):
    """Chapter a: 7 of 10 bigrams, 6 of 8 trigrams, 5 of 6 four-grams are unique in their text."""
    lm, plain = tiny_lm(), ["x y x y x y", "k l m n o", "p q r s t u"]
    monkeypatch.setattr(own, "nearest_cosine", lambda *_: 0.0)
    lm.finished = lambda prefix, ids: Continuation(plain[ids[0]], False, 1)
    texts = [Passage(group, [5], []) for group in "aba"]
    actual = measure(config(), lm, texts, [[[0], [1], [2]]], {})
    first = 100 * 0.7 * 0.75 * (1 - 0.1667)
    assert actual.items["chapter_diversity"] == pytest.approx([first, 100.0])
    assert actual.metrics["chapter_diversity"] == pytest.approx((first + 100) / 2)


def test_item_15_the_prompt_of_a_program_has_no_start_token(tmp_path, monkeypatch):
    """Checklist 15: HumanEval's prompts are given as they are, also to a model with a start
    token."""
    lm, seen = tiny_lm(), []
    lm.tokenizer.bos_token = "[CLS]"
    monkeypatch.setattr(
        runners, "build_module", lambda cfg: SimpleNamespace(language_model=lambda: lm)
    )
    monkeypatch.setattr(
        runners,
        "decode_side_by_side",
        lambda lm, rows, *_, **__: seen.extend(rows) or {"greedy": [[[5]]]},
    )
    problem = {"task_id": "T/0", "prompt": "def one():"}
    (tmp_path / "code.jsonl").write_text(json.dumps(problem) + "\n")
    cfg = config(f"data.root={tmp_path}", "runner.file=code.jsonl", "runner.num_shots=0")
    runners.code(cfg, Workspace(tmp_path / "task", "contrastive_search", "smoke"))
    assert seen == [lm.token_ids(problem["prompt"])]
    assert lm.tokenizer.bos_token_id not in seen[0]


def test_item_15_open_ended_measures_every_decoder_off_the_shelf(tmp_path, lm_folder):
    """Checklist 15: the fourth runner, no training and no run."""
    cfg = config(f"model.pretrained={lm_folder}", "model.config=null", *QUICK)
    workspace = Workspace(tmp_path / "task", "contrastive_search", "smoke")
    actual = build(cfg).tasks["open_ended"](workspace)
    assert actual["diversity"] == actual["contrastive_diversity"]
    assert {"greedy_coherence", "human_diversity", "isotropy"} <= actual.keys()
    assert json.loads((tmp_path / "task/metrics.json").read_text()) == pytest.approx(actual)
    assert "greedy_coherence" in (tmp_path / "task/metrics.md").read_text()


def test_passages_come_evenly_from_held_back_chapters():
    """As many of each chapter; prefix and reference follow each other in the text."""
    words = ["data.source=books", "eval.source=books", "eval.num_prefixes=8", "eval.per_chapter=2"]
    lm = build_module(
        config(*words, "model.pretrained=bundled:causal-lm", "model.config=null")
    ).language_model()
    actual = passages(config(*words), lm)
    assert [len(own) for own in group_places([p.group for p in actual])] == [2, 2, 2, 2]
    assert {len(p.prefix) for p in actual} == {8}
    assert {len(p.reference) for p in actual} == {12}
    other = passages(config(*words, "eval.part=dev"), lm)
    assert not {p.group for p in other} & {p.group for p in actual}
    with pytest.raises(UserError, match="the dev chapters give"):
        passages(config(*words, "eval.part=dev", "eval.num_prefixes=900"), lm)


def test_official_sets_are_cut_as_published(tmp_path):
    """WebText: only texts that are long enough; WIT: the texts of a language."""
    lm, long = tiny_lm(), " ".join(["the state of the world"] * 8)
    rows = "".join(json.dumps({"text": t}) + "\n" for t in ("short", long, long + " he"))
    (tmp_path / "w.jsonl").write_text(rows)
    words = [f"data.root={tmp_path}", "eval.source=webtext", "eval.file=w.jsonl"]
    actual = passages(config(*words), lm)
    assert [p.group for p in actual] == ["1", "2"]
    ids = lm.token_ids(long, special=True)
    assert (actual[0].prefix, actual[0].reference) == (ids[:8], ids[8:20])
    (tmp_path / "wit.json").write_text(json.dumps({"de": [long]}))
    words = [f"data.root={tmp_path}", "eval.source=wit", "eval.file=wit.json"]
    assert len(passages(config(*words, "eval.language=de"), lm)) == 1
    with pytest.raises(UserError, match="with 'en'"):
        passages(config(*words), lm)
    with pytest.raises(UserError, match=r"lower eval\.prefix_tokens"):
        passages(config(*words, "eval.language=de", "eval.new_tokens=100"), lm)
    with pytest.raises(UserError, match="openai/gpt-2-output-dataset"):
        passages(config(f"data.root={tmp_path}", "eval.source=webtext", "eval.file=none"), lm)


def test_scorers_by_hand():
    """Coherence is the mean over new tokens; a continuation without text has none."""
    lm = tiny_lm(eos="[SEP]")
    texts = [Passage("a", lm.token_ids("the state"), []), Passage("a", lm.token_ids("he was"), [])]
    new = [lm.token_ids("of the"), [lm.eos]]
    model = NgramModel([[5, 6, 7]], 400)
    value = trigram_scorer(model, lm.eos)(texts, new, ["", ""])
    assert value[0] == pytest.approx(model.mean_log_probability(texts[0].prefix, new[0]))
    assert np.isnan(value[1])
    plain = [lm.finished(p.prefix, ids).text for p, ids in zip(texts, new, strict=True)]
    actual = lm_scorer(lm, lm)(texts, new, plain)
    whole = torch.tensor([texts[0].prefix + new[0]])
    logits = lm.model(whole).logits[0].log_softmax(-1)
    start = len(texts[0].prefix)
    each = [float(logits[i - 1, whole[0, i]]) for i in range(start, whole.shape[1])]
    lm.tokenizer.backend_tokenizer.post_processor = None
    actual = lm_scorer(lm, lm)(texts, new, plain)
    assert actual[0] == pytest.approx(np.mean(each), rel=1e-5)
    assert np.isnan(actual[1])
    measured = measure(config(), lm, texts, [new, new], {"trigram": trigram_scorer(model, lm.eos)})
    assert measured.items["coherence"] == [pytest.approx(value[0])]
    states = lm.model(whole, output_hidden_states=True).hidden_states[-1][0]
    unit = torch.nn.functional.normalize(states.float(), dim=-1)
    near = [float((unit[i] @ unit[:i].T).max()) for i in range(start, whole.shape[1])]
    assert nearest_cosine(lm, texts[:1], new[:1]) == pytest.approx(np.mean(near), abs=1e-5)


def test_baselines_save_items_as_the_arms_do(tmp_path):
    workspace = Workspace(tmp_path, "contrastive_search", "smoke")
    for name in ("no_repeat_3", "repetition_penalty", "top_k_5"):
        actual = getattr(baselines, name)(config(*QUICK), workspace)
        assert actual["chapter_diversity"] > 0
        assert len(json.loads((tmp_path / "items/chapter_diversity.json").read_text())) == 2


PAPER = {  # k, alpha, prefix excluded; tokens of a prefix (tasks have prompts) and new ones; items
    "paper": (5, 0.6, False, 40, 200, 1000),
    "paper_mle": (5, 0.6, False, 40, 200, 1000),
    "paper_open_ended": (5, 0.6, False, 40, 200, 1000),
    "paper_multilingual": (4, 0.6, False, 16, 64, 100),
    "paper_summarisation": (5, 0.6, True, None, 128, 1000),
    "paper_translation": (3, 0.4, False, None, 128, 1000),
    "paper_code": (3, 0.4, False, None, 128, 164),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_hold_the_published_decoding(name):
    cfg = config(name=name)
    search, rivals = cfg.eval.decoders["contrastive"], cfg.eval.decoders
    budget = (cfg.eval.prefix_tokens, cfg.eval.new_tokens, cfg.eval.num_prefixes)
    if cfg.runner.file is not None:
        budget = (None, cfg.runner.new_tokens, cfg.runner.limit)
    actual = (search.candidates, search.penalty, search.exclude_prefix, *budget)
    assert actual == PAPER[name]
    assert search.strategy == "contrastive_search"
    assert (rivals["nucleus"].top_p, rivals["top_k"].top_k) == (0.95, 50)
    assert rivals["beam"].num_beams == (5 if name == "paper_code" else 4)
    assert rivals["typical"].typical_p == 0.95
    assert cfg.eval.draws == 3
    judges = ["facebook/opt-2.7b", "facebook/opt-125m"]
    judges += [] if name in ("paper", "paper_mle") else ["facebook/opt-13b"]
    assert cfg.eval.scorers == judges
    assert (cfg.eval.official_ngram_count, cfg.eval.mauve) == (True, True)
    assert cfg.eval.mauve_features == "gpt2-large"
    if name in ("paper_summarisation", "paper_translation"):
        assert (cfg.runner.num_shots, cfg.runner.splits) == (1, [1, 2, 3])
    if name == "paper_code":
        assert cfg.runner.num_shots == 0
    assert cfg.method.train == (name in ("paper", "paper_mle"))
    demo = rivals["contrastive_k4"]
    assert (demo.candidates, demo.penalty) == (4, 0.6)


@pytest.mark.parametrize(("name", "margin"), [("paper", 0.5), ("paper_mle", 0.0)])
def test_paper_configs_hold_the_published_training(name, margin):
    """SimCTG on WikiText-103, and likelihood alone."""
    cfg = config(name=name)
    optim, trainer = cfg.optim, cfg.trainer
    assert (cfg.method.margin, cfg.data.length, cfg.model.pretrained) == (margin, 256, "gpt2")
    assert (optim.name, optim.lr, optim.weight_decay) == ("adamw", 2e-5, 0.0)
    assert (optim.schedule, optim.warmup_steps, trainer.max_steps) == ("linear", 4000, 40000)
    assert (cfg.data.batch_size, trainer.accumulate_grad_batches) == (8, 16)
    assert (trainer.gradient_clip_val, trainer.precision) == (1.0, "32-true")
    assert trainer.val_every_n_steps == 1000


def test_the_paper_s_isotropy_is_measured_on_2000_texts_of_256_tokens():
    own = config(name="paper_isotropy").isotropy
    assert (own.num_texts, own.length) == (2000, 256)
    assert len(own.models["en"]) == 14  # GPT-2 in four sizes, GPT-Neo in three, OPT in seven
    names = [name for models in own.models.values() for name in models]
    assert (len(own.models), len(names), len(set(names))) == (16, 38, 38)


def test_the_tasks_of_the_contract_are_there():
    expected = {
        "decode",
        "evaluate",
        "isotropy",
        "open_ended",
        "summarisation",
        "translation",
        "code",
        "rating_form",
        "ratings",
    }
    assert set(build(config()).tasks) == expected
