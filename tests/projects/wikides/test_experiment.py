"""Through the engine: both phases trained, the table, exports, tasks, resume, configs."""

import csv
import json
import re

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.engine import checkpoint as ckpt
from common.engine.check import inspect
from common.engine.comparison.claims import claims_of
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from common.engine.sweeps.schema import read_sweep, words_of
from common.engine.trained import run_task
from common.engine.workspace import Workspace
from common.evaluation.generation.reference import rouge_f
from projects.wikides import baselines, build, selectors
from projects.wikides.config import MethodConfig
from projects.wikides.data import first_seed, load_rows
from projects.wikides.evaluate import chosen, evaluate_encoder, score_rows, similarities
from projects.wikides.inference import describe, rank
from projects.wikides.sentiment import polarity_table
from tests.projects.wikides.conftest import PARAGRAPH, ROWS, config, describer, ranker
from tests.smoke import metrics_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Phase II, four steps."""
    folder = tmp_path_factory.mktemp("run")
    return train(
        "wikides", "smoke", [f"runs_dir={folder}", "run_id=r", "trainer.keep_checkpoints=5"]
    )


def test_checklist_11_both_families_of_metrics_are_reported(run):
    """Checklist 11: every row has ROUGE against description and paragraph; items are saved."""
    actual = metrics_of(run)
    rows = ["", "sim_", "fusion_", "untrained_", *(f"{name}_" for name in selectors.SELECTORS)]
    for row in rows:
        for family in ("gold", "source"):
            for kind in ("rouge_1", "rouge_2", "rouge_l"):
                assert 0 <= actual[f"{row}{family}_{kind}"] <= 1
    # the same measures of the chosen text, phase I's, the baseline's, and the gold text's with the
    # source
    for name in ("bleu", "bleu_unsmoothed", "meteor", "rouge_l_precision", "rouge_l_recall"):
        for row in ("", "phase1_", "baseline_"):
            assert {f"{row}gold_{name}", f"{row}source_{name}"} <= actual.keys()
        assert f"reference_source_{name}" in actual
    assert not any(name.startswith("reference_gold") for name in actual)
    saved = json.loads((run / "items/gold_rouge_l.json").read_text(encoding="utf-8"))
    assert sum(saved) / len(saved) == pytest.approx(actual["gold_rouge_l"])
    assert actual["oracle_gold_rouge_l"] == max(actual[f"{r}gold_rouge_l"] for r in rows)
    assert actual["rouge_1_source_rouge_1"] >= actual["sim_source_rouge_1"]
    gain = actual["source_rouge_1"] - actual["phase1_source_rouge_1"]
    assert actual["gain_source_rouge_1"] == pytest.approx(gain)
    table = (run / "notes.txt").read_text(encoding="utf-8")
    assert "gold_rouge_l" in table
    assert "reference" in table


def test_checklist_10_the_choice_is_the_highest_score_of_the_row_s_own_candidates():
    """Checklist 10: also where all scores are negative, as a padded place of score 0 would win."""
    scores = [torch.tensor([-0.5, -0.2, -0.9]), torch.tensor([0.1, 0.1]), torch.tensor([-1.0])]
    assert chosen(ROWS[:3], scores) == [["old town"], ["pet"], ["painter of the century"]]
    encoder = ranker().encoder.eval()
    sims = similarities(encoder, ROWS, 3)
    assert [len(own) for own in sims] == [3, 2, 1, 5]
    alone = torch.cat([similarities(encoder, [row], 1)[0] for row in ROWS])
    torch.testing.assert_close(torch.cat(sims), alone, rtol=0, atol=1e-5)
    vectors = encoder.encode([ROWS[0].source, "old town"])
    torch.testing.assert_close(sims[0][1], F.cosine_similarity(*vectors[:, None])[0])
    fused = score_rows(MethodConfig(use_rouge=True), ROWS, sims)
    r = rouge_f("old town", ROWS[0].source)
    assert float(fused[0][1]) == pytest.approx(float(2 * sims[0][1] * r / (sims[0][1] + r)))
    white = torch.cat(similarities(encoder, ROWS, 3, whiten=True))
    assert white.isfinite().all()
    assert not torch.allclose(white, torch.cat(sims), atol=1e-2)


@pytest.mark.slow
def test_checklist_9_a_learning_rate_of_0_leaves_the_weights_and_the_ranking_as_they_were(tmp_path):
    """Checklist 9: bit-identical parameters through the engine, and the figures of the untrained
    model.
    """
    words = [
        f"runs_dir={tmp_path}",
        "optim.lr=0.0",
        "method.loss=official",
        "model.pooling=cls_before_pooler",
        "trainer.max_steps=2",
        "trainer.val_every_n_steps=null",
        "eval.full=false",
    ]
    run = train("wikides", "smoke", [*words, "run_id=z"])
    state = ckpt.load(run / "checkpoints/rank/step-00000002.ckpt")["state_dict"]
    actual = metrics_of(run)
    before = {
        k.removeprefix("untrained_"): v for k, v in actual.items() if k.startswith("untrained_")
    }
    assert before == {name: actual[name] for name in before}
    cls = baselines.untrained_cls(config(*words), Workspace(tmp_path / "b"))
    assert cls["gold_rouge_l"] == actual["gold_rouge_l"]
    from common.encoders.modes import untrained
    from projects.wikides.encoder import build_encoder

    start = untrained(
        lambda: build_encoder(config(*words).model), first_seed(config())
    ).state_dict()
    assert all(torch.equal(state[f"encoder.{name}"], value) for name, value in start.items())
    paper = config(name="paper_official")
    assert (paper.optim.lr, paper.method.loss) == (0, "official")
    assert (paper.data.num_candidates, paper.data.eval_candidates) == (5, 5)  # cut in the test too


def test_validation_follows_the_released_criterion():
    """Sheet, recipe: 1 - the mean of six ROUGE figures, of the chosen and the gold text with the
    source.
    """
    module = ranker().eval()
    from projects.wikides.batches import RankRows, mean_rouge

    data = RankRows(config(), ROWS, module.encoder.encoder.tokenize, training=False)
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    batch = data.collate([0, 1, 2, 3])
    module.validation_step(batch, 0)
    scores, _ = module.scores(batch)
    picked = [data.texts[i][int(scores[i, : len(data.texts[i])].argmax())] for i in range(4)]
    six = [
        (mean_rouge(p, r.source) + mean_rouge(r.target, r.source)) / 2
        for p, r in zip(picked, ROWS, strict=True)
    ]
    assert logged["val/selection_loss"] == pytest.approx(1 - sum(six) / 4, abs=1e-6)
    gold = [mean_rouge(p, r.target) for p, r in zip(picked, ROWS, strict=True)]
    assert logged["val/gold_rouge"] == pytest.approx(sum(gold) / 4, abs=1e-6)


@pytest.mark.parametrize("head", ["null", "7"])
def test_the_ranker_s_export_opens_in_transformers_and_reloads_equal(head, tmp_path):
    """Definition of done: the library's own states give our vectors; a head is a Dense module."""
    words = [f"model.head_dim={head}", "model.pooling=cls_before_pooler"]
    module, experiment = ranker(*words).eval(), build(config(*words))
    experiment.export(module, tmp_path)
    actual = experiment.embed(experiment.load_export(tmp_path))["texts"]
    torch.testing.assert_close(actual, experiment.embed(module)["texts"], rtol=0, atol=1e-6)
    model, tokenizer = (
        AutoModel.from_pretrained(tmp_path).eval(),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    ids = tokenizer([PARAGRAPH], return_tensors="pt", truncation=True, max_length=48)
    state = model(input_ids=ids["input_ids"]).last_hidden_state[:, 0]
    own = module.encoder.encoder.encode([PARAGRAPH])
    torch.testing.assert_close(state.detach(), own, rtol=0, atol=1e-5)
    assert (tmp_path / "2_Dense").exists() == (head != "null")


def test_the_generator_s_export_opens_in_transformers_and_generates_the_same(generator_folder):
    """Definition of done: `AutoModelForSeq2SeqLM` reads it; logits after reloading are equal."""
    experiment = build(config(name="smoke_describe"))
    again = experiment.load_export(generator_folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(generator_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(generator_folder)
    ids = tokenizer([PARAGRAPH], return_tensors="pt", truncation=True, max_length=48)
    start = torch.tensor([[model.config.decoder_start_token_id]])
    expected = model(
        **{k: ids[k] for k in ("input_ids", "attention_mask")}, decoder_input_ids=start
    )
    own = again.model(
        input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], decoder_input_ids=start
    )
    torch.testing.assert_close(own.logits, expected.logits, rtol=0, atol=1e-6)


def test_phase_1_learns_to_describe():
    """Sheet, small real check: the loss falls, and the described text comes near to the gold
    one."""
    from projects.wikides.batches import DescribeRows
    from projects.wikides.describe import describe_rows

    words = ["generator.dropout=0.0", "generator.max_new_tokens=14"]
    module = describer(*words)
    rows = [row for row in ROWS if row.candidates][:2]
    start = module.model.config.decoder_start_token_id
    batch = DescribeRows(config(name="smoke_describe"), rows, module.tokenizer, start).collate(
        [0, 1]
    )
    optim = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optim.zero_grad()
        losses.append(module.losses(batch)["loss"])
        losses[-1].backward()
        optim.step()
    assert losses[-1] < 0.1 * losses[0]
    cfg = config(*words, name="smoke_describe")
    assert describe_rows(cfg, module, rows) == [row.target for row in rows]


def test_tasks_rank_and_describe_texts_of_one_s_own(run, generator_folder, tmp_path):
    """Issue: `make run` on the user's files; the public functions give the same order."""
    given, out = tmp_path / "given.jsonl", tmp_path / "out.jsonl"
    write_jsonl(
        given, [{"source": r.source, "candidate": [*r.candidates, r.candidates[0]]} for r in ROWS]
    )
    runs = f"runs_dir={run.parents[2]}"
    run_task("wikides", "smoke", [runs, f"rank.input={given}", f"rank.output={out}"], "rank")
    rows = read_jsonl(out)
    assert [sorted(r["candidate"]) for r in rows] == [sorted(r.candidates) for r in ROWS]
    assert all(r["scores"] == sorted(r["scores"], reverse=True) for r in rows)
    paragraphs = tmp_path / "paragraphs.txt"
    paragraphs.write_text(f"{PARAGRAPH}\n\nA small cat is a pet.\n", encoding="utf-8")
    words = [
        runs,
        f"describe.input={paragraphs}",
        f"describe.generator={generator_folder}",
        f"describe.output={out}",
        "describe.widths=[1,3]",
        "describe.max_new_tokens=5",
    ]
    run_task("wikides", "smoke", words, "describe")
    assert [row["source"] for row in read_jsonl(out)] == [PARAGRAPH, "A small cat is a pet."]
    from common.decoding.sequence_to_sequence import SequenceToSequence

    model = SequenceToSequence.from_pretrained(str(generator_folder), "cpu")
    encoder = ranker().encoder.eval()
    actual = describe(model, encoder, PARAGRAPH, widths=[1, 3], max_new_tokens=5)
    assert actual == rank(encoder, PARAGRAPH, [text for text, _ in actual])
    with pytest.raises(ValueError, match="candidate"):
        rank(encoder, PARAGRAPH, [])
    with pytest.raises(UserError, match="phase=rank"):
        run_task("wikides", "smoke_describe", [runs, f"rank.input={given}"], "rank")
    write_jsonl(given, [{"source": "a", "candidate": "b"}])
    with pytest.raises(UserError, match="line 1: source is a text"):
        run_task("wikides", "smoke", [runs, f"rank.input={given}"], "rank")


def test_checklist_14_the_form_is_blind_and_choices_are_percent_with_ties(run, tmp_path):
    """Checklist 14: no system's name in the form; shares by hand, a letter of two systems
    shared."""
    given = tmp_path / "texts.jsonl"
    rows = [
        {"source": f"p{i}", "gold": f"gold {i}", "phase1": f"one {i}", "phase2": f"two {i}"}
        for i in range(3)
    ]
    rows.append({"source": "p3", "gold": "same", "phase1": "same", "phase2": "other"})
    write_jsonl(given, rows)
    runs = f"runs_dir={tmp_path / 'runs'}"
    run_task("wikides", "smoke", [runs, f"form.input={given}"], "form")
    (form,) = tmp_path.rglob("form.csv")
    key = form.with_name("key.jsonl")
    assert not re.search("phase|gold,", form.read_text(encoding="utf-8").splitlines()[0])
    lines = list(csv.DictReader(form.open(encoding="utf-8", newline="")))
    letters = {row["item"]: row["systems"] for row in read_jsonl(key)}
    behind = lambda i, name: next(k for k, own in letters[i].items() if name in own)  # noqa: E731
    assert lines[0][behind(0, "phase2")] == "two 0"
    assert lines[3]["C"] == ""
    picks = [
        behind(0, "phase2"),
        "tie",
        f"{behind(2, 'gold')}, {behind(2, 'phase1')}",
        behind(3, "gold"),
    ]
    filled = tmp_path / "filled.csv"
    with filled.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows({**line, "choice": pick} for line, pick in zip(lines, picks, strict=True))
    words = [runs, f"choices.forms=[{filled}]", f"choices.key={key}"]
    run_task("wikides", "smoke", words, "choices")
    (path,) = tmp_path.rglob("choices.json")
    actual = json.loads(path.read_text(encoding="utf-8"))
    assert actual["phase2_percent"] == 25
    assert actual["tie_percent"] == 25
    assert actual["gold_percent"] == actual["phase1_percent"] == 25
    # without a file: the test rows, phase II by the trained ranker
    run_task("wikides", "smoke", [f"runs_dir={run.parents[2]}", "form.items=5"], "form")
    filled.write_text("item,choice\n0,Z\n", encoding="utf-8")
    with pytest.raises(UserError, match="row 2: item 0 with choice 'Z'"):
        run_task("wikides", "smoke", words, "choices")


def test_checklist_15_polarities_and_their_agreement(tmp_path):
    """Checklist 15: by labelled texts and by a sequence classifier of one's own; the table by
    hand."""
    table = polarity_table(
        {"source": ["+", "-", "-"], "gold": ["+", "-", "+"], "phase2": ["-"] * 3}
    )
    assert table["source_agrees_gold"] == pytest.approx(2 / 3)
    assert table["gold_agrees_phase2"] == pytest.approx(1 / 3)
    assert table["phase2_-"] == 1
    given, labelled = tmp_path / "texts.jsonl", tmp_path / "labelled.jsonl"
    write_jsonl(given, [{"source": "a fine good town", "gold": "good town", "phase2": "a bad war"}])
    write_jsonl(
        labelled,
        [{"text": "good fine", "label": "positive"}, {"text": "bad war", "label": "negative"}],
    )
    runs = f"runs_dir={tmp_path / 'runs'}"
    words = [runs, f"sentiment.input={given}"]
    run_task("wikides", "smoke", [*words, f"sentiment.labelled={labelled}"], "sentiment")
    (path,) = tmp_path.rglob("sentiment.json")
    actual = json.loads(path.read_text(encoding="utf-8"))
    assert (actual["source_agrees_gold"], actual["source_agrees_phase2"]) == (1, 0)
    from transformers import AutoModelForSequenceClassification, BertConfig

    from common.encoders.text.tiny_tokenizer import tiny_tokenizer

    tiny = BertConfig(
        vocab_size=400,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
    )
    model = AutoModelForSequenceClassification.from_config(tiny)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-9.0, 9.0]))
    model.save_pretrained(tmp_path / "classifier")
    tiny_tokenizer(400).save_pretrained(tmp_path / "classifier")
    run_task(
        "wikides", "smoke", [*words, f"sentiment.model={tmp_path / 'classifier'}"], "sentiment"
    )
    last = max(tmp_path.rglob("sentiment.json"), key=lambda p: p.stat().st_mtime_ns)
    assert json.loads(last.read_text(encoding="utf-8"))["phase2_positive"] == 1
    with pytest.raises(UserError, match=r"either sentiment\.model"):
        run_task("wikides", "smoke", words, "sentiment")


def test_bert_score_of_an_encoder_is_beside_the_others_if_asked(tmp_path):
    """Sheet, evaluation: BERTScore by a named encoder, 1 for equal texts."""
    from projects.wikides.bert_score import BertScore

    build(config()).export(ranker().eval(), tmp_path)
    score = BertScore(str(tmp_path))
    (precision, recall, f1), (_, _, lower) = score(["old town", "a cat"], ["old town", "old town"])
    assert (precision, recall, f1) == pytest.approx((1, 1, 1), abs=1e-5)
    assert lower < 1
    cfg = config(f"eval.bert_score={tmp_path}", "eval.grid=false")
    actual = evaluate_encoder(cfg, ranker().encoder.eval(), ROWS, Workspace(tmp_path / "w"))
    assert {"gold_bert_score", "source_bert_score_recall"} <= actual.keys()


def test_baselines_have_the_metrics_of_the_method_and_the_row_s_figures(tmp_path):
    """Row of the mini: first, random, shortest, longest, ROUGE-1, TF-IDF, medoid, surface, lead,
    oracle.
    """
    spec = read_comparison("wikides")
    expected = {*selectors.SELECTORS, "surface", "untrained_cls", "untrained_mean"}
    assert set(spec.baselines) == expected
    actual = {n: getattr(baselines, n)(config(), Workspace(tmp_path / n)) for n in spec.baselines}
    keys = {f"{family}_rouge_{n}" for family in ("gold", "source") for n in "12l"} | {"words"}
    assert all(keys <= own.keys() for own in actual.values())
    assert actual["shortest"]["words"] < actual["random"]["words"] < actual["longest"]["words"]
    assert actual["surface"]["gold_rouge_l"] > actual["random"]["gold_rouge_l"]
    rows = load_rows(config(name="mini"), "test")
    figures = {name: selectors.SELECTORS[name](rows) for name in ("longest", "first")}
    for name, wanted_gold in (("longest", 0.423), ("first", 0.370)):
        pairs = zip(rows, figures[name], strict=True)
        gold = [rouge_f(texts[0], row.target, "rouge_l") for row, texts in pairs]
        assert sum(gold) / len(gold) == pytest.approx(wanted_gold, abs=0.003), name


def test_compare_has_the_row_s_arms_at_equal_budget():
    """Row of the mini: SimCLS, the official loss with a learning rate above 0, fusion; equal
    steps."""
    spec = read_comparison("wikides")
    assert {"simcls", "official", "fusion"} <= spec.arms.keys()
    sweep = read_sweep("wikides")
    for arm in spec.arms.values():
        cfg = config(*words_of(arm), name="mini")
        assert cfg.trainer.max_steps == 600
        assert cfg.optim.lr in sweep.space["optim.lr"]
    texts = [claim.text for claim in claims_of(spec)]
    assert any("fusion > random" in text for text in texts)
    assert spec.seeds == [11, 12, 13]
    # the sweep tries rates at the same steps, both margins as one
    assert sweep.space["method.margin"] == [config(name="mini").method.margin]
    for point in sweep.grid():
        cfg = config(*words_of(sweep.shared), *words_of(point), name=sweep.base)
        method = (cfg.method.margin, cfg.method.gold_margin)
        assert (cfg.trainer.max_steps, *method) == (600, point["method.margin"], None)
    assert (
        config(name="mini").trainer.max_steps,
        config(name="mini").trainer.val_every_n_steps,
    ) == (300, 150)


@pytest.mark.parametrize(
    "name",
    [
        "paper",
        "paper_random",
        "paper_official",
        "paper_fusion",
        "paper_rouge",
        "paper_describe",
        "paper_describe_random",
    ],
)
def test_paper_configs_hold_the_recipe_and_say_what_is_missing(name, tmp_path):
    """Sheet, training recipe; `make check` names files and weights."""
    cfg = config(name=name)
    describes = name.startswith("paper_describe")
    assert (cfg.seed, cfg.trainer.gradient_clip_val, cfg.data.source) == (42, 1.0, "released")
    if describes:
        assert (cfg.optim.lr, cfg.optim.schedule, cfg.data.batch_size) == (5e-5, "linear", 8)
        assert (cfg.optim.warmup_epochs, cfg.trainer.max_epochs) == (0.1, 3)
        assert (cfg.generator.max_source, cfg.generator.max_target) == (256, 32)
    else:
        assert (cfg.method.margin, cfg.method.gold_margin, cfg.data.batch_size) == (0.01, 0.01, 2)
        assert cfg.model.pooling == "cls_before_pooler"
        assert cfg.data.split == ("random" if name == "paper_random" else "diff")
        assert cfg.model.max_length == 256
        assert cfg.trainer.max_epochs == (1 if cfg.method.use_rouge else 3)
    if name in ("paper", "paper_describe"):
        rows = inspect("wikides", name, [f"data.root={tmp_path}"])
        assert sum("MISSING" in value for value in rows.values()) >= 3
