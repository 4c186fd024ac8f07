"""Tasks on a user's own files: checklist items 13, 15 and 16, decoding side by side, bad input."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch

from common.config import UserError
from common.data.row_map.chunks import RowSeed
from common.engine.workspace import Workspace
from projects.contrastive_search import build, human, runners, tasks
from projects.contrastive_search.evaluate import policies
from projects.contrastive_search.programs import passes
from projects.contrastive_search.ratings import CRITERIA
from projects.contrastive_search.stages import build_module
from tests.projects.contrastive_search.conftest import config, tiny_lm

FEW = "eval.methods=[contrastive,greedy]"


def place(tmp_path, name="task"):
    return Workspace(tmp_path / name, "contrastive_search", "smoke")


def test_decode_continues_a_user_s_prompts_and_goes_on_where_it_stopped(
    tmp_path, lm_folder, capsys
):
    """Any model, a text file: texts of all methods, a gallery for the report, an A/B form."""
    (tmp_path / "prompts.txt").write_text("the state of the world\n\nhe was\n", encoding="utf-8")
    words = [f"decode.file={tmp_path}/prompts.txt", f"decode.model={lm_folder}", FEW]
    with pytest.raises(UserError, match=r"decode\.ab_pair: choose two of contrastive, greedy"):
        build(config(*words, "decode.ab_pair=[contrastive,human]")).tasks["decode"](place(tmp_path))
    assert not (tmp_path / "task/decoded").exists()  # refused before anything is decoded
    cfg = config(*words, "decode.ab_pair=[contrastive,greedy]")
    workspace = place(tmp_path)
    actual = build(cfg).tasks["decode"](workspace)
    assert set(actual) == {
        f"{m}_{k}" for m in ("contrastive", "greedy") for k in ("diversity", "words")
    }
    texts = json.loads((tmp_path / "task/continuations.json").read_text())
    assert [row["prompt"] for row in texts] == ["the state of the world", "he was"]
    page = (tmp_path / "task/continuations.md").read_text()
    assert "> he was" in page
    assert "**contrastive:**" in page
    assert (tmp_path / "task/gallery/continuations/gallery.json").is_file()
    form, key = ((tmp_path / f"task/ab_{name}.csv").read_text() for name in ("form", "key"))
    assert "contrastive" not in form
    assert "contrastive,greedy" in key or "greedy,contrastive" in key
    (part,) = (tmp_path / "task/decoded").iterdir()
    kept = sorted(p for p in part.rglob("*") if p.is_file())
    before = [p.stat().st_mtime_ns for p in kept]
    assert build(cfg).tasks["decode"](workspace) == actual
    assert [p.stat().st_mtime_ns for p in kept] == before
    again = tasks.row_function(cfg, tasks.LanguageModel.from_pretrained(lm_folder))
    rows = again(["he was"], [RowSeed(cfg.seed, 1)])
    assert rows[0]["contrastive"] == texts[1]["contrastive"]


def test_other_weights_of_one_name_are_decoded_anew(tmp_path):
    """Guards against old texts of a model that was trained again, or exported again, in its
    folder."""
    (tmp_path / "prompts.txt").write_text("he was\n", encoding="utf-8")
    lm = tiny_lm()
    lm.tokenizer.save_pretrained(tmp_path / "lm")
    words = [
        f"decode.file={tmp_path}/prompts.txt",
        f"decode.model={tmp_path}/lm",
        "eval.methods=[greedy]",
    ]
    cfg, texts = config(*words), []
    for change in (1.0, -1.0):
        lm.model.transformer.wte.weight.data *= change
        lm.model.transformer.wte.weight.data += change
        lm.model.save_pretrained(tmp_path / "lm")
        build(cfg).tasks["decode"](place(tmp_path))
        texts.append(json.loads((tmp_path / "task/continuations.json").read_text())[0]["greedy"])
    assert texts[0] != texts[1]


def test_prompts_that_are_cut_are_counted(tmp_path, lm_folder):
    """Guards against a model that reads a part of a prompt while the whole one is shown."""
    (tmp_path / "prompts.txt").write_text("he was\n" + "the state of the world " * 60)
    words = [
        f"decode.file={tmp_path}/prompts.txt",
        f"decode.model={lm_folder}",
        "eval.methods=[greedy]",
    ]
    build(config(*words, "decode.new_tokens=20")).tasks["decode"](place(tmp_path))
    notes = (tmp_path / "task/notes.txt").read_text()
    assert "1 of 2 prompts are too long: the language model reads their last 140 tokens" in notes


def test_item_13_isotropy_of_any_list_of_models_and_languages_is_one_table(tmp_path, lm_folder):
    """Checklist 13: texts are stripped, those under two characters left out, the rest cut."""
    (tmp_path / "texts.json").write_text(
        json.dumps({"en": ["the state of the world", " a ", "x" * 400], "de": ["die welt und so"]}),
        "utf-8-sig",  # as some editors write it
    )
    words = [f"data.root={tmp_path}", "isotropy.file=texts.json", "isotropy.length=12"]
    models = f"isotropy.models={{en: ['{lm_folder}', 'bundled:stories260k'], de: ['{lm_folder}']}}"
    actual = tasks.isotropy_report(config(*words, models), place(tmp_path))
    assert list(actual) == [f"en_{lm_folder}", "en_bundled:stories260k", f"de_{lm_folder}"]
    assert all(0 < value < 1.5 for value in actual.values())
    table = (tmp_path / "task/isotropy.md").read_text().splitlines()
    assert len(table) == 5
    assert table[2].startswith(f"| en | {lm_folder} | 2 |")
    with pytest.raises(UserError, match="with 'fr'"):
        tasks.isotropy_report(config(*words, f"isotropy.models.fr=[{lm_folder}]"), place(tmp_path))
    with pytest.raises(UserError, match="name texts in 'fr'"):
        tasks.isotropy_report(config(f"isotropy.models.fr=[{lm_folder}]"), place(tmp_path))


def test_a_model_that_fails_loses_none_of_the_other_rows(tmp_path, lm_folder, monkeypatch):
    """The row of a model is written before the next is loaded; the command fails at the end."""
    (tmp_path / "texts.json").write_text(json.dumps({"en": ["the state of the world"]}))
    words = [f"data.root={tmp_path}", "isotropy.file=texts.json", "model.dtype=bfloat16"]
    words += [
        "method.train=false",
        f"isotropy.models.en=[large,'{lm_folder}',nowhere,'{lm_folder}']",
    ]
    load, written = tasks.language_model, []

    def loaded(cfg, name):
        path = tmp_path / "task/isotropy.json"
        written.append(json.loads(path.read_text()) if path.exists() else {})
        if name == "large":
            raise torch.OutOfMemoryError
        return load(cfg, name)

    monkeypatch.setattr(tasks, "language_model", loaded)
    with pytest.raises(UserError, match=r"2 of 4 models .*en large: out of memory.*en nowhere: "):
        tasks.isotropy_report(config(*words), place(tmp_path))
    key = f"en_{lm_folder}"
    assert [list(row) for row in written] == [[], [], [key], [key]]
    assert (tmp_path / "task/isotropy.md").read_text().count(str(lm_folder)) == 2


def test_models_that_are_not_trained_load_in_bfloat16(lm_folder):
    cfg = config("method.train=false", "model.dtype=bfloat16")
    lm = tasks.language_model(cfg, str(lm_folder))
    assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16}
    assert build_module(cfg).model.dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"model\.dtype=float32"):
        config("model.dtype=bfloat16", "method.train=true")


def test_isotropy_reads_a_start_token_and_no_special_tokens_of_bert(lm_folder):
    """As released: <s> before OPT's texts, nothing around those of a BERT tokenizer."""
    lm = tasks.language_model(config(), str(lm_folder))
    plain = lm.token_ids("the state of")
    for bos, expected in ((77, [77, *plain]), (None, plain)):
        lm.tokenizer = SimpleNamespace(bos_token_id=bos)
        lm.token_ids = lambda text, special=False: [77, *plain] if special else plain
        assert tasks._started(lm, "the state of") == expected


def test_isotropy_says_what_is_wrong_with_its_file(tmp_path, lm_folder):
    """A file that is missing, or without a text that is long enough, ended in a traceback."""
    words = [
        f"data.root={tmp_path}",
        "isotropy.file=texts.json",
        f"isotropy.models.de=[{lm_folder}]",
    ]
    with pytest.raises(UserError, match=r"isotropy\.file: .* is not a file"):
        tasks.isotropy_report(config(*words), place(tmp_path))
    (tmp_path / "texts.json").write_text('{"de": [" ", "a"]}')
    with pytest.raises(UserError, match="no text in 'de' has two tokens"):
        tasks.isotropy_report(config(*words), place(tmp_path))


ARTICLES = [
    {"context": "Article: the sea. Summarization: ", "completion": "sea.\n"},
    {"context": "Article: a man. Summarization: ", "completion": "man.\n"},
]


@pytest.fixture
def files(tmp_path):
    """Fixtures in the release's forms."""
    (tmp_path / "items.json").write_text(json.dumps(ARTICLES))
    (tmp_path / "shots.json").write_text(
        json.dumps([{"context": f"c{i}=", "completion": f"{i}."} for i in range(4)])
    )
    problem = {
        "task_id": "T/0",
        "prompt": "def one():\n",
        "entry_point": "one",
        "test": "def check(f):\n    assert f() == 1\n",
    }
    (tmp_path / "code.jsonl").write_text(json.dumps(problem) + "\n")
    return tmp_path


def task_words(files, lm_folder, *further):
    return [
        f"data.root={files}",
        f"model.pretrained={lm_folder}",
        "model.config=null",
        FEW,
        "runner.new_tokens=6",
        "runner.shots_file=shots.json",
        *further,
    ]


@pytest.mark.parametrize(("task", "metric"), [("summarisation", "rougeL"), ("translation", "bleu")])
def test_item_15_few_shot_runners(files, lm_folder, task, metric, monkeypatch):
    """Checklist 15: prompts with shots of the split, answers up to the line's end, metrics."""
    prompts = []

    def answered(cfg, lm, texts, workspace, *, stop):
        prompts.extend(texts)
        assert stop == "\n"
        first = "a Summarization: sea."[13 if task == "translation" else 0 :]
        return {"contrastive": [[first, "man"]]}

    monkeypatch.setattr(runners, "answers", answered)
    words = task_words(
        files, lm_folder, "runner.file=items.json", "runner.num_shots=2", "runner.split=2"
    )
    actual = getattr(runners, task)(config(*words), place(files))
    assert prompts == [f"c2=2.c3=3.{item['context']}" for item in ARTICLES]
    assert f"contrastive_{metric}" in actual
    rows = json.loads((files / "task/2-shot-split-2/predictions_contrastive.json").read_text())
    if task == "summarisation":
        assert [row["prediction"] for row in rows] == ["sea.", "man"]
        assert actual["contrastive_rougeL"] == pytest.approx(100.0)


def test_item_15_splits_and_draws_are_averaged(files, lm_folder, monkeypatch):
    """Guards the paper's means over three draws of shots and of samples; no call overwrites
    another's files.
    """
    prompts = []

    def answered(cfg, lm, texts, workspace, *, stop):
        prompts.append(texts[0])
        drawn = [["sea.", "man."], ["sea.", "x"]] if len(prompts) < 3 else [["x", "x"], ["x", "x"]]
        return {"nucleus": drawn, "greedy": [["sea.", "man."]]}

    monkeypatch.setattr(runners, "answers", answered)
    for i in (1, 2):
        (files / f"one-{i}.json").write_text(
            json.dumps([{"context": f"file{i}=", "completion": "."}])
        )
    words = task_words(files, lm_folder, "runner.file=items.json", "runner.num_shots=1")
    actual = runners.summarisation(
        config(*words, "runner.shots_file=one-{split}.json", "runner.splits=[1,2]"), place(files)
    )
    assert [text.split(".")[0] for text in prompts] == ["file1=", "file2="]
    assert actual["nucleus_rouge1"] == pytest.approx((100 + 50 + 100 + 50) / 4)
    assert actual["nucleus_rouge1_std"] == pytest.approx(50 / 3**0.5)
    assert (actual["greedy_rouge1"], actual["greedy_rouge1_std"]) == (100.0, 0.0)
    folder = files / "task/1-shot-split-1-2"
    rows = json.loads((folder / "predictions_nucleus.json").read_text())
    assert [(row["split"], row["draw"]) for row in rows[::2]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    before = (folder / "metrics.json").read_text()
    runners.summarisation(config(*words, "runner.split=3"), place(files))
    assert (folder / "metrics.json").read_text() == before
    assert (files / "task/1-shot-split-3/metrics.json").read_text() != before


def test_item_15_prompts_begin_with_the_start_token_and_answers_end_at_the_line(monkeypatch):
    """Checklist 15: the start token once; "\\n" ends an answer and is not a part of it."""
    lm, seen = tiny_lm(), []
    lm.tokenizer.bos_token = "[CLS]"

    def decoded(model, rows, methods, budget, **options):
        seen.append((rows, options["stop"]))
        return {"greedy": [[lm.token_ids("yes he") for _ in rows]]}

    monkeypatch.setattr(runners, "decode_side_by_side", decoded)
    actual = runners.answers(
        config("eval.methods=[greedy]"), lm, ["the man"], place_nowhere(), stop="e"
    )
    assert actual == {"greedy": [[" y"]]}
    ((rows, stop),) = seen
    assert rows[0][0] == lm.tokenizer.bos_token_id != rows[0][1]
    assert stop == "e"


def test_item_15_a_cut_prompt_keeps_its_start_token_and_samplers_their_draws(tmp_path, monkeypatch):
    """Guards against shots that push out the start token unseen, and against one draw for three."""
    lm, seen = tiny_lm(), {}
    lm.tokenizer.bos_token = "[CLS]"
    lm.continue_ids = lambda rows, policy, rngs, *a, **k: (
        seen.setdefault(policy.strategy, rows) and [[int(rng.integers(5, 300))] for rng in rngs]
    )
    cfg = config("eval.methods=[greedy,nucleus]", "eval.draws=3", "runner.new_tokens=20")
    actual = runners.answers(cfg, lm, ["the man", "the state of the world " * 60], place(tmp_path))
    assert [len(draws) for draws in actual.values()] == [1, 3]
    assert len({texts[0] for texts in actual["nucleus"]}) > 1
    short, cut = seen["greedy"]
    assert (short[0], cut[0], len(cut)) == (
        lm.tokenizer.bos_token_id,
        lm.tokenizer.bos_token_id,
        140,
    )
    assert "1 of 2 prompts are too long" in (tmp_path / "task/notes.txt").read_text()


def place_nowhere():
    return Workspace(None)  # type: ignore[arg-type]


def test_item_15_code_runner_cuts_runs_and_writes_what_the_harness_reads(
    files, lm_folder, monkeypatch
):
    """Checklist 15: stop rules, pass@1 only where programs may run, samples for the official
    harness.
    """
    monkeypatch.setattr(
        runners,
        "answers",
        lambda *_, **__: {
            "greedy": [["    return 1\n\ndef two(): broken("]],
            "beam": [["    return 2"]],
            "nucleus": [["    return 1"], ["    return 2"], ["    return 3"]],
        },
    )
    words = task_words(files, lm_folder, "runner.file=code.jsonl")
    actual = runners.code(config(*words), place(files))
    assert not any("pass" in name for name in actual)
    (sample,) = (files / "task/samples_greedy.jsonl").read_text().splitlines()
    assert json.loads(sample) == {"task_id": "T/0", "completion": "    return 1"}
    actual = runners.code(config(*words, "runner.execute=true"), place(files))
    assert (actual["greedy_pass_at_1"], actual["beam_pass_at_1"]) == (100.0, 0.0)
    assert actual["nucleus_pass_at_1"] == pytest.approx(100 / 3)
    assert len((files / "task/samples_nucleus.jsonl").read_text().splitlines()) == 3
    assert not passes("while True: pass", timeout=1)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\n\n# b", "a"),
        ("a\n'''b", "a\n"),
        ("a\n\n\nb", "a"),
        ("a\n\ndef b", "a"),
        ("a\n\nb", "a\n\nb"),
    ],
)
def test_item_15_where_a_function_ends(text, kept):
    """Checklist 15: each of the four terminals."""
    assert runners.truncated(text) == kept


def test_item_15_metrics_of_the_runners():
    """Checklist 15: BLEU without tokenisation or smoothing, ROUGE with stemming."""
    assert runners.bleu(["a b c d e"], ["a b c d e"])["bleu"] == pytest.approx(100)
    assert runners.bleu(["a b c"], ["a b c d"])["bleu"] == 0.0  # no 4-gram, nothing smoothed
    assert runners.rouge(["the cats"], ["the cat"])["rouge1"] == pytest.approx(100)


def test_item_16_blind_form_and_paired_scores_by_language(tmp_path):
    """Checklist 16: no system is named, orders differ, the human text is among them; import and
    key.
    """
    cfg = config("human.num_items=6", "eval.methods=[contrastive,nucleus]", "eval.language=de")
    form = human.rating_form(cfg, place(tmp_path, "task-rating_form"))
    text = form.read_text()
    assert not any(name in text for name in ("contrastive", "nucleus", "human"))
    rows = list(csv.DictReader(text.splitlines()))
    key = json.loads((form.parent / "rating_key.json").read_text())
    assert len(rows) == len(key) == 18
    systems = [key[row["Text"]]["system"] for row in rows]
    orders = {tuple(systems[3 * i : 3 * i + 3]) for i in range(6)}
    assert len(orders) > 1
    given = {"human": 4, "contrastive": 3, "nucleus": 1}
    for number, row in enumerate(rows):
        own = key[row["Text"]]
        extra = own["item"].endswith("-0") and own["system"] == "contrastive"
        row |= dict.fromkeys(CRITERIA, str(given[own["system"]] + extra))
        if number == 17:
            row |= dict.fromkeys(CRITERIA, "")  # a rater may leave texts out
    filled = tmp_path / "filled.csv"
    with filled.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    actual = human.ratings(config(f"human.form={filled}"), place(tmp_path, "task-ratings"))
    assert actual["de_human_overall"] == 4
    assert actual["de_nucleus_fluency_minus_human"] == -3
    assert -1 < actual["de_contrastive_coherence_minus_human"] < -0.7
    assert actual["de_contrastive_coherence_minus_human_low"] == -1
    rows[0]["fluency"] = "7"
    with filled.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UserError, match="row 2, fluency: give a number from 1 to 5"):
        human.ratings(config(f"human.form={filled}"), place(tmp_path, "task-ratings"))
    with pytest.raises(UserError, match=r"set human\.form"):
        human.ratings(config(), place(tmp_path))


def test_item_16_forms_of_several_languages_are_one_table_under_one_key(tmp_path, lm_folder):
    """Guards against ratings that a later form's key ascribes to other systems, silently."""
    give = {"human": 5, "contrastive": 1}
    task, filled = place(tmp_path, "task-rating_form"), tmp_path / "filled"
    filled.mkdir()

    def form(language, *words):
        small = ["human.num_items=2", "eval.methods=[contrastive]", "eval.new_tokens=6"]
        lm = [f"model.pretrained={lm_folder}", "model.config=null"]
        return human.rating_form(config(*small, *lm, f"eval.language={language}", *words), task)

    def rate(path):
        key = json.loads((path.parent / "rating_key.json").read_text())
        rows = list(csv.DictReader(path.read_text().splitlines()))
        for row in rows:
            row |= dict.fromkeys(CRITERIA, str(give[key[row["Text"]]["system"]]))
        with (filled / path.name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        return filled / path.name

    english = rate(form("en"))
    german = form("de", "seed=5")  # written before the English one is read
    actual = human.ratings(config(f"human.form={english}"), place(tmp_path, "task-ratings"))
    assert (actual["en_human_overall"], actual["en_contrastive_overall"]) == (5, 1)
    rate(german)
    both = human.ratings(config(f"human.form={filled}"), place(tmp_path, "task-ratings"))
    assert (
        both["de_contrastive_overall_minus_human"]
        == both["en_contrastive_overall_minus_human"]
        == -4
    )
    german.write_text(text := (filled / german.name).read_text())
    form("de", "seed=5")
    assert (
        german.read_text() == text
    )  # filled in where it lies: the same form is not a reason to lose it
    form("de", "seed=6")
    (aside,) = german.parent.glob("rating_form-de-*.csv")
    assert aside.read_text() == text
    assert german.read_text() != text
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="has no text"):
        human.ratings(
            config(f"human.form={english}", f"human.key={tmp_path}/other.json"), place(tmp_path)
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runner.num_shots=0"], r"set runner\.file"),
        (["runner.file=none.json"], "does not exist"),
        (["runner.file=items.json", "runner.num_shots=3", "runner.split=2"], "has 4 shots"),
        (["runner.file=code.jsonl", "runner.num_shots=0"], "needs context, completion"),
    ],
)
def test_bad_files_are_refused(files, lm_folder, words, message):
    with pytest.raises(UserError, match=message):
        runners.summarisation(config(*task_words(files, lm_folder, *words)), place(files))


def test_bad_prompts_and_methods_are_refused(tmp_path, lm_folder):
    (tmp_path / "empty.txt").write_text("\n")
    cfg = config(f"decode.file={tmp_path}/empty.txt")
    with pytest.raises(UserError, match="has no prompt"):
        build(cfg).tasks["decode"](place(tmp_path))
    with pytest.raises(UserError, match=r"eval\.methods: 'beams' is none of"):
        config("eval.methods=[beams]")
    pair = "decode.ab_pair=[greedy,greedy]"  # was refused after all prompts had been continued
    with pytest.raises(UserError, match=r"decode\.ab_pair: choose two of"):
        build(config(f"decode.file={tmp_path}/empty.txt", FEW, pair)).tasks["decode"](
            place(tmp_path)
        )
    cfg.eval.decoders, cfg.eval.methods = {}, []
    with pytest.raises(UserError, match=r"eval\.decoders is empty"):
        policies(cfg)
