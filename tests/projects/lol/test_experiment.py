"""Training, evaluation, export, runners and tasks as the commands drive them."""

import copy
import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.config import UserError
from common.decoding.language_model import LanguageModel
from common.engine import checkpoint as ckpt
from common.engine.run import prepare, train
from common.engine.trained import load_module, module_of_run
from common.engine.workspace import NOTES, Workspace
from common.losses.auxiliary.tokens import IGNORED
from projects.lol import baselines, build, tasks
from projects.lol.data import (
    Answers,
    Hallucination,
    hallucinations,
    read_hallucinations,
    training_frame,
)
from projects.lol.evaluate import contrasts, evaluate, is_baseline
from projects.lol.facts import Statements, statement, word_tokenizer, world_of
from projects.lol.module import LOL
from projects.lol.prompts import Prompts
from projects.lol.questions import load_questions
from projects.lol.stages import build_decoder, build_original, load, save, stages, with_amateur
from tests.cards import run_card
from tests.projects.lol.conftest import config, models, tiny, tokens, with_adapters

assert models  # a fixture
QUICK = ["eval.methods=[lol,greedy,icd]"]


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    words = [f"runs_dir={tmp_path_factory.mktemp('full')}", "run_id=r", *QUICK]
    return train("lol", "smoke", words), words


@pytest.mark.slow
def test_a_run_trains_both_models_and_measures_every_method(full_run):
    """Checklist 14: MC1 to MC3 in percent, and the claim's statistic: the mean gain over the best
    baseline.
    """
    run, words = full_run
    metrics = json.loads((run / "metrics.json").read_text())
    best = max(metrics["greedy_mc_mean"], metrics["icd_mc_mean"])
    assert metrics["gain_over_best"] == pytest.approx(metrics["lol_mc_mean"] - best, abs=1e-9)
    assert metrics["mc1"] == metrics["lol_mc1"]
    assert metrics["mc1_chance"] == 20.0
    for name in ("mc1", "mc2", "mc3"):
        items = json.loads((run / f"items/{name}.json").read_text())
        assert np.mean(items) == pytest.approx(metrics[name])
    assert metrics["lol_layer_3_percent"] == 100.0
    # another evaluation of the same settings trains nothing
    again = train("lol", "smoke", [*words[:1], "run_id=s", "eval.methods=[icd]"])
    assert not list((again / "checkpoints").glob("*/step-*.ckpt"))
    assert json.loads((again / "metrics.json").read_text())["mc2"] == metrics["icd_mc2"]


def test_the_base_stays_as_it_was_and_only_adapters_learn(full_run):
    """Checklist 11: the original's weights are those of the base stage, bit by bit."""
    run, _ = full_run
    base, amateur = (
        ckpt.load(run / f"checkpoints/{name}/step-00000004.ckpt")["state_dict"]
        for name in ("base", "amateur")
    )
    plain = {key.replace(".base_layer", ""): value for key, value in amateur.items()}
    assert all(torch.equal(value, plain[key]) for key, value in base.items())
    learnt = [value for key, value in amateur.items() if "lora_B" in key]
    assert learnt
    assert all(value.any() for value in learnt)


def test_an_export_is_read_by_the_libraries_of_its_users(full_run, tmp_path):
    """transformers reads the original, peft the amateur on it; both have the module's logits."""
    run, words = full_run
    _, experiment = prepare("lol", "smoke", words)
    module = module_of_run(experiment, run).eval()
    own = experiment.embed(module)
    experiment.export(module, tmp_path / "export")
    again = experiment.embed(load_module(experiment, tmp_path / "export").eval())
    for name, value in own.items():
        torch.testing.assert_close(again[name], value)
    assert not torch.equal(own["original"], own["amateur"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export/original")
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "export/original").eval()
    ids = tokenizer("what is a rose", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        actual = original(ids).logits[:, :-1]
        torch.testing.assert_close(actual, own["original"])
        amateur = PeftModel.from_pretrained(original, str(tmp_path / "export/amateur")).eval()
        torch.testing.assert_close(amateur(ids).logits[:, :-1], own["amateur"])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_adapters_and_whole_amateurs_share_one_loader(kind, tmp_path):
    """Checklist 17: written, read again by `amateur.path`, the same decoder and the same scores."""
    cfg = config(
        "base.steps=0",
        f"amateur.kind={kind}",
        "eval.source=truthfulqa",
        "data.source=file",
        "data.file=none.json",
    )
    lora = kind == "lora"
    model = with_adapters(tiny(1)) if lora else tiny(1)
    module = LOL(cfg, model, tokens(), lora=lora, amateur=None if lora else tiny(2))
    save(cfg, module.float().eval(), tmp_path)
    decoder = build_decoder(cfg, module, "icd")
    expected = decoder.score("who", ["a man", "it is"])
    assert np.abs(expected).max() > 0.1
    again = load(cfg, tmp_path).eval()
    assert build_decoder(cfg, again, "icd").score("who", ["a man", "it is"]) == pytest.approx(
        expected
    )
    cfg.amateur.path = str(tmp_path / "amateur")
    cfg.amateur.kind = "none"
    named = with_amateur(cfg, tiny(1).float(), tokens()).eval()
    assert build_decoder(cfg, named, "icd").score("who", ["a man", "it is"]) == pytest.approx(
        expected
    )
    with pytest.raises(UserError, match="neither original"):
        load(cfg, tmp_path / "amateur")


@pytest.mark.parametrize("kind", ["lora", "full", "none"])
def test_nothing_moves_before_the_trainer_does_it(kind, tmp_path):
    """For its tokenizer's sake the original went to the GPU, in float32 although it is trained in
    bf16.
    """
    words = ["eval.methods=[greedy]", f"amateur.kind={kind}", f"runs_dir={tmp_path}"]
    *_, last = stages(config(*words, "model.device=meta"))  # where decoding would put it
    assert {p.device.type for p in last.module.parameters()} == {"cpu"}
    assert last.module.model.training == (kind == "lora")


def test_an_amateur_of_other_words_is_refused(tmp_path):
    """Checklist 1: original and amateur share the tokenizer."""
    cfg = config(
        "base.steps=0", "eval.source=truthfulqa", "data.source=file", "data.file=none.json"
    )
    tiny(2).save_pretrained(tmp_path)
    word_tokenizer(["<pad>", "<unk>", "<s>", "</s>", "rose"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="another vocabulary"):
        with_amateur(cfg, tiny(1), tokens(), tmp_path)


def test_the_loss_covers_answer_tokens_alone():
    """Checklist 11: labels begin behind the prompt, end with the end token, and the loss is their
    mean.
    """
    lm = LanguageModel(tiny(1), tokens(), "cpu")
    lm.eos = 3
    cfg = config()
    data = Answers(
        [Hallucination("who", "a man"), Hallucination("where", "it")],
        lm,
        lambda question: f"say {question}",
        60,
    )
    batch = data[[(0, 0), (1, 0)]]
    texts = [[int(x) for x in row if x != IGNORED] for row in batch["labels"]]
    assert texts == [[*lm.token_ids("a man"), 3], [*lm.token_ids("it"), 3]]
    module = LOL(cfg, lm.model, lm.tokenizer)
    logits = lm.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    gold = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:])
    torch.testing.assert_close(module.losses(batch)["loss"], gold)
    with pytest.raises(UserError, match=r"data\.length"):
        Answers([Hallucination("who", "a man")], lm, lambda question: f"say {question}", 3)


@pytest.mark.parametrize("chat", [False, True])
def test_the_amateur_is_trained_on_the_bare_question(chat):
    """As ICD: no instruction, no demonstrations; amateur.prompt=scoring keeps them."""
    tokenizer = tokens()
    if chat:
        tokenizer.chat_template = "{% for m in messages %}user : {{ m.content }} end{% endfor %}"
    prompts = Prompts(config("prompt.demonstrations=own", "prompt.instruction=say"), tokenizer)
    bare = training_frame(config("amateur.prompt=question"), prompts)
    assert bare("who?") == ("user : who? end" if chat else "who?")
    scoring = training_frame(config("amateur.prompt=scoring"), prompts)
    assert scoring("who?") == prompts("who?").neutral != bare("who?")


def test_the_stage_trains_behind_the_prompt_of_the_config():
    """Labels begin behind the bare question, or behind the longer prompt of scoring."""
    starts = {}
    for word in ("question", "scoring"):
        (stage,) = stages(config("base.steps=0", f"amateur.prompt={word}"))
        batch = stage.data.train_set[[(0, 0)]]
        starts[word] = int((batch["labels"][0] != IGNORED).nonzero()[0])
    assert starts["question"] < starts["scoring"]


def test_answers_that_do_not_fit_are_counted():
    """Own files: nothing is left out in silence."""
    lm = LanguageModel(tiny(1), tokens(), "cpu")
    rows = [Hallucination("who", "a man"), Hallucination("who", "a man " * 20)]
    with pytest.warns(UserWarning, match="1 of 2 hallucinated answers are left out"):
        assert len(Answers(rows, lm, lambda question: f"say {question}", 20)) == 1


def test_key_words_are_named_before_a_continued_text_too():
    """FACTOR: `keyword_emphasis` names the words of the prefix, as it does those of a question."""
    cfg = config()
    prompts = Prompts(cfg, tokens())
    named = prompts.plain("the old bird", keywords=True)
    assert "old, bird" in named.refocused
    assert named.refocused.endswith("\n\nthe old bird")
    assert named._replace(refocused="") == prompts.plain("the old bird")._replace(refocused="")


def test_nothing_of_the_test_nouns_leaks_into_the_amateur():
    """Parts share no noun; shares and registers hold."""
    cfg = config(
        "data.source=facts",
        "eval.source=facts",
        "facts.amateur=300",
        "facts.dev=100",
        "facts.test=200",
    )
    world = world_of(cfg)
    nouns = {name: {fact.noun for fact in own} for name, own in world.parts.items()}
    assert len(set.union(*nouns.values())) == 600
    learnt = {row.question for row in hallucinations(cfg, world)}
    assert learnt == nouns["amateur"]
    data = Statements(world, word_tokenizer(world.vocabulary), 0.85, 0)
    rng = np.random.default_rng(0)
    test = world.parts["test"]
    said = [(fact, statement(fact, 0.85, rng)) for fact in test for _ in range(40)]
    assert np.mean(["question" in text for _, text in said]) == pytest.approx(1 / 3, abs=0.03)
    assert not any("verified" in text for fact, text in said if not fact.verified)
    assert 0.5 < np.mean([fact.verified for fact in test]) < 0.7
    for share in (0.3, 0.5, 0.7):
        own = [
            fact.myth in text.split()
            for fact, text in said
            if fact.myth_share == share and not {"forum", "verified"} & {*text.split()}
        ]
        assert np.mean(own) == pytest.approx(share, abs=0.07)
    forum = [fact.myth in text.split() for fact, text in said if "forum" in text]
    assert np.mean(forum) == pytest.approx(0.85, abs=0.04)
    assert not any(fact.myth in text.split() for fact, text in said if "verified" in text)
    batch = data[[(i, 0) for i in range(8)]]
    assert int(batch["labels"].max()) < len(world.vocabulary)
    first = data.facts[0].noun
    ids = batch["input_ids"][0].tolist()
    place = ids.index(data.tokenizer.convert_tokens_to_ids(first))
    assert (batch["labels"][0, : place + 1] == IGNORED).all()
    assert (batch["labels"][0, place + 1 : len(ids)] != IGNORED).any()
    other = world_of(
        config(
            "data.source=facts",
            "eval.source=facts",
            "facts.amateur=300",
            "facts.dev=100",
            "facts.test=200",
            "seed=1",
        )
    )
    assert {fact.noun for fact in other.parts["test"]} == nouns["test"]
    assert [fact.myth for fact in other.parts["test"]] != [fact.myth for fact in test]
    with pytest.raises(UserError, match="but there are"):
        world_of(config("data.source=facts", "eval.source=facts", "facts.amateur=9000"))


def test_both_benchmarks_run_on_files(tmp_path):
    """Checklist 14: TruthfulQA's CSV and the bundled part, FACTOR by subset; 817 questions stay
    817.
    """
    words = [
        f"data.root={tmp_path}",
        "base.steps=0",
        "data.source=file",
        "data.file=none.json",
        "amateur.kind=none",
        "eval.methods=[greedy]",
    ]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        rows.writerow(["Who?", "a man", "he; a man.", "it; they; she"])
    cfg = config(*words, "eval.source=truthfulqa", "eval.file=t.csv")
    (question,) = load_questions(cfg)
    assert (question.true, question.best) == (["he.", "a man."], 1)
    assert question.false == ["it.", "they.", "she."]
    assert len(load_questions(config(*words, "eval.source=truthfulqa"))) == 553
    actual = evaluate(
        cfg, with_amateur(cfg, *build_original(cfg)), Workspace(tmp_path / "w", "lol", "smoke")
    )
    assert 0 <= actual["greedy_mc2"] <= 100
    (tmp_path / "f").mkdir()
    for name, prefix in (("news", "full_prefix"), ("wiki", "turncated_prefixes")):
        with (tmp_path / f"f/{name}_factor.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow([prefix, "completion", *(f"contradiction_{i}" for i in range(3))])
            rows.writerow([f"of {name}", "the good", "the old", "the man", "it"])
    cfg = config(*words, "eval.source=factor", "eval.file=f", "eval.methods=[greedy]")
    assert [q.groups for q in load_questions(cfg)] == [("news",), ("wiki",)]
    module = with_amateur(cfg, *build_original(cfg)).eval()
    actual = evaluate(cfg, module, Workspace(tmp_path / "v", "lol", "smoke"))
    decoder = build_decoder(cfg, module, "greedy")
    for q in load_questions(cfg):
        context = decoder.prompts.plain(q.text)
        assert context.neutral == q.text
        scores = decoder.score_rows([(context, a) for a in [*q.true, *q.false]])
        assert actual[f"accuracy_{q.groups[0]}"] == 100 * (scores[0] >= max(scores))
    with pytest.raises(UserError, match="AI21Labs"):
        load_questions(config(*words, "eval.source=factor", "eval.file=none"))
    (tmp_path / "u.csv").write_text((tmp_path / "t.csv").read_text().replace("a man,", "none,"))
    with pytest.raises(UserError, match="question 1"):
        load_questions(config(*words, "eval.source=truthfulqa", "eval.file=u.csv"))


def test_own_questions_that_exceed_the_context_are_left_out_of_all_rows(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [
        {"question": "who " * words, "best_answer": "he", "correct": ["he"], "incorrect": ["it"]}
        for words in (2, 60)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = config(f"eval.own={file}", "base.steps=0")
    module = with_amateur(cfg, *build_original(cfg)).eval()
    workspace = Workspace(tmp_path / "w", "lol", "smoke")
    actual = evaluate(cfg, module, workspace)
    assert (actual["num_questions"], actual["num_skipped"]) == (1, 1)
    assert "are left out: 1 of 2" in (workspace.path / NOTES).read_text()
    assert len(baselines._questions(cfg)) == 1
    with pytest.raises(UserError, match="nouns of eval.source=facts"):
        baselines.most_said(cfg, workspace)


def test_answers_questions_and_reasoning_of_one_s_own(full_run, tmp_path):
    """Tasks on a user's files with a trained run."""
    _, words = full_run
    own = [w for w in words if not w.startswith("run_id")]
    (tmp_path / "q.txt").write_text("babaki\n\nbadoki\n")
    (tmp_path / "s.json").write_text('[{"question": "is babaki bax", "answer": false}]')
    (tmp_path / "g.jsonl").write_text('{"question": "one and one", "answer": "1 + 1 #### 2"}\n')
    base = [*own, f"data.root={tmp_path}", "generate.run=r", "generate.new_tokens=4"]
    for task, file in (
        ("generate", tmp_path / "q.txt"),
        ("strategyqa", "s.json"),
        ("gsm8k", "g.jsonl"),
    ):
        cfg, experiment = prepare("lol", "smoke", [*base, f"generate.file={file}"])
        place = Workspace(tmp_path / task, "lol", "smoke")
        actual = experiment.tasks[task](place)
        assert (tmp_path / task / "answers.jsonl").is_file()
        assert actual
    explained = json.loads((tmp_path / "generate/tokens.json").read_text())
    assert {
        "token",
        "score",
        "layer",
        "divergences",
        "top_original",
        "top_amateur",
        "top_fused",
    } <= set(explained[0]["tokens"][0])
    with pytest.raises(UserError, match=r"generate\.file"):
        tasks.generate(
            cfg.__class__(**{**cfg.__dict__, "generate": config().generate}), place, experiment
        )


def test_rows_of_a_set_that_are_no_objects_are_named(tmp_path):
    """A list of questions alone ended in a traceback."""
    (tmp_path / "s.json").write_text('["is babaki bax"]')
    cfg = config(f"data.root={tmp_path}", "generate.file=s.json")
    with pytest.raises(UserError, match=r"s\.json, row 0: expected a JSON list of \{question"):
        tasks.strategyqa(cfg, Workspace(tmp_path), None)


def test_demonstrations_of_another_set_are_refused(tmp_path):
    """CONFIG=paper_reasoning TASK=gsm8k put StrategyQA's yes and no before GSM8K's questions,
    silently.
    """
    yes = '{"question": "is it", "answer": "It is. So the answer is yes."}\n'
    seven = '{"question": "3 and 4", "answer": "3 + 4 = 7. The answer is 7."}\n'
    (tmp_path / "s.json").write_text('[{"question": "is babaki bax", "answer": false}]')
    (tmp_path / "g.jsonl").write_text('{"question": "one and one", "answer": "1 + 1 #### 2"}\n')
    for task, file, shots in ((tasks.gsm8k, "g.jsonl", yes), (tasks.strategyqa, "s.json", seven)):
        (tmp_path / "shots.jsonl").write_text(shots)
        cfg = config(
            f"data.root={tmp_path}", f"generate.file={file}", "generate.shots_file=shots.jsonl"
        )
        with pytest.raises(UserError, match="row 1: .* another set"):
            task(cfg, Workspace(tmp_path), None)
    names = [config(name=name).generate for name in ("paper_reasoning", "paper_gsm8k")]
    assert not {names[0].file, names[0].shots_file} & {names[1].file, names[1].shots_file}


def test_paper_configs_filter_as_the_released_runners_do():
    """0.1 in generation and for FACTOR, which alone normalises contrasts again; both off for
    TruthfulQA.
    """

    def settings(name, among=None):
        own = {n: m for n, m in config(name=name).methods.items() if among is None or n in among}
        return {(m.alpha_plausibility, m.post_softmax, contrasts(m)) for m in own.values()}

    plain = (0.0, False, False)  # greedy
    assert settings("paper_reasoning") == settings("paper_gsm8k") == {plain, (0.1, False, True)}
    assert settings("paper_factor") == {plain, (0.1, True, True)}
    paper = config(name="paper")
    assert settings("paper", paper.eval.methods) == {plain, (0.0, False, True)}
    judged = [n for n in paper.eval.methods if n not in ("lol", "greedy")]
    writing = {"generation", *(f"generation_{n}" for n in judged)}
    assert settings("paper", writing) == {(0.1, False, True)}
    assert writing == {n for n in paper.methods if n.startswith("generation")}
    for name in judged:
        twin = paper.methods[f"generation_{name}"]
        assert replace(twin, alpha_plausibility=0.0) == paper.methods[name]


def test_writing_by_an_unfiltered_contrast_warns():
    words = ["generate.run=pretrained", "generate.method=dola", "methods.dola.alpha_plausibility=0"]
    with pytest.warns(UserWarning, match=r"methods\.dola\.alpha_plausibility=0"):
        tasks.decoder_of(config(*words), Workspace("."), None)


def test_false_answers_are_written_and_filtered(tmp_path, capsys):
    """Hallucination stage: refused draws are drawn again, what never passes is left out; data.file
    reads it.
    """
    rows = [
        {"question": "who", "answer": "the man"},
        {"question": "where", "answer": "in the world"},
    ]
    asked = []

    def write(prompts, rngs, new_tokens):
        asked.append([p.text for p in prompts])
        return ["The man." if "who" in p.text else f"at sea {len(asked)}" for p in prompts]

    seeds = [tasks.RowSeed(0, i) for i in range(2)]
    assert tasks.false_answers(write, 5, 3, 0.8, rows, seeds) == [None, "at sea 1"]
    assert [len(texts) for texts in asked] == [2, 1, 1]
    assert "Correct answer: the man" in asked[0][0]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = config(
        f"data.root={tmp_path}",
        f"hallucinate.file={tmp_path}/in.jsonl",
        "hallucinate.new_tokens=6",
        "hallucinate.model=bundled:stories260k",
        "data.source=file",
        "data.file=hallucinated.jsonl",
    )
    actual = tasks.hallucinate(cfg, Workspace(tmp_path, "lol", "smoke"))
    assert actual["questions"] == 2
    assert len(read_hallucinations(cfg)) == actual["kept"] > 0
    assert f"{actual['kept']:.0f} of 2 questions" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            '{"question": "when", "answer": 1969}\n',
            "row 1: question, answer and knowledge are texts",
        ),
        ("\n", "has no question"),
    ],
)
def test_questions_for_false_answers_are_checked_first(tmp_path, lines, said):
    """A number as answer ended in a traceback after the first draws; no rows gave an empty file."""
    (tmp_path / "in.jsonl").write_text(lines)
    cfg = config(f"hallucinate.file={tmp_path}/in.jsonl", "hallucinate.model=bundled:stories260k")
    with pytest.raises(UserError, match=said):
        tasks.hallucinate(cfg, Workspace(tmp_path / "task", "lol", "smoke"))


def test_own_files_of_hallucinations(tmp_path):
    """ICD's form and HaluEval's; what is neither is named."""
    (tmp_path / "h.json").write_text('{"question": "who", "hallucinated_answer": " it "}\n' * 2)
    cfg = config(f"data.root={tmp_path}", "data.source=file", "data.file=h.json")
    assert read_hallucinations(cfg) == [Hallucination("who", "it")] * 2
    (tmp_path / "h.json").write_text('[{"question": "who"}]')
    with pytest.raises(UserError, match="row 0"):
        read_hallucinations(cfg)
    (tmp_path / "h.json").unlink()
    with pytest.raises(UserError, match="HaluEval"):
        read_hallucinations(cfg)


def test_baselines_save_items_as_the_arms_do(tmp_path):
    cfg, workspace = config(), Workspace(tmp_path, "lol", "smoke")
    for name in ("commonest", "most_said", "longest", "untrained"):
        actual = getattr(baselines, name)(cfg, workspace)
        assert 0 <= actual["mc_mean"] <= 100
        assert len(json.loads((tmp_path / "items/mc1.json").read_text())) == 6
    assert [
        is_baseline(config().methods[n])
        for n in ("greedy", "dola", "icd", "fused", "lol", "instructed")
    ] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_tasks_and_the_example_of_the_card(full_run):
    run, words = full_run
    _, experiment = prepare("lol", "smoke", words)
    experiment.export(copy.deepcopy(module_of_run(experiment, run)).eval(), run / "export")
    assert len(run_card("lol", run / "export")["scores"]) == 2
    assert set(build(config()).tasks) == {"generate", "strategyqa", "gsm8k", "score", "hallucinate"}
