"""Through the engine: the table, export, tasks, resume; configs and what they name."""

import json
import re

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.engine.check import inspect
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from common.engine.trained import run_task
from common.engine.workspace import Workspace
from common.export.files import write_tensors
from common.export.sentence_transformers import load_sentence_transformers
from projects.vacancysbert import baselines, build, stages, tasks
from projects.vacancysbert.data import AdPairs, load_data
from projects.vacancysbert.evaluate import (
    encoder_compare,
    gains,
    lexical_compare,
    reference_compare,
    setting_ranks,
    text_compare,
)
from projects.vacancysbert.normalisation import (
    TitleRow,
    rank_metrics,
    title_benchmark,
)
from projects.vacancysbert.objective import Objective
from projects.vacancysbert.places import requirements
from tests.projects.vacancysbert.conftest import SKILLS, TITLES, config, module_of, write_files
from tests.smoke import metrics_of

VECTORS = "3 2\njava 1 0\nbaker 0 1\nnurse 1 1\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four steps with references of the abstract's kinds."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "words.vec").write_text(VECTORS, encoding="utf-8")
    released = folder / "released"
    build(config()).export(module_of().eval(), released)
    names = f"eval.references={{fasttext: {folder / 'words.vec'}, sentence_bert: {released}}}"
    return train("vacancysbert", "smoke", [f"runs_dir={folder}", "run_id=r", names])


def test_checklist_13_16_17_one_call_gives_both_settings_of_all_rows_and_the_gains(run):
    """Checklist 13, 16 and 17: settings, baselines on the same list, absolute and relative gain."""
    metrics = metrics_of(run)
    rows = ("", "untrained_", "tfidf_", "char_ngrams_", "fasttext_", "sentence_bert_")
    for row in rows:
        for setting in ("titles", "with_skills"):
            for name in ("recall_at_1", "recall_at_5", "recall_at_10", "mrr"):
                assert 0 <= metrics[f"{row}{setting}_{name}"] <= 1
    for setting in ("titles", "with_skills"):
        best = max(metrics[f"{row}{setting}_recall_at_10"] for row in rows[1:])
        own = metrics[f"{setting}_recall_at_10"]
        assert metrics[f"{setting}_gain_absolute"] == pytest.approx(own - best)
        assert metrics[f"{setting}_gain_relative"] == pytest.approx(own / best - 1)
    notes = (run / "notes.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"absolute, .* relative", notes)) == 2
    assert "fasttext, with_skills" in notes
    saved = json.loads((run / "items/titles_recall_at_10.all.json").read_text(encoding="utf-8"))
    assert sum(saved) / len(saved) == pytest.approx(metrics["titles_all_recall_at_10"])


def test_checklist_17_gains_are_over_the_best_baseline_by_hand():
    """Checklist 17: 0.6 against 0.5 is +0.1 absolute and +20 % relative."""
    metrics = {
        f"{row}{s}_recall_at_10": v
        for s in ("titles", "with_skills")
        for row, v in (("", 0.6), ("a_", 0.5), ("b_", 0.2))
    }
    actual = gains(metrics, ["a", "b"])
    assert actual["titles_gain_absolute"] == pytest.approx(0.1)
    assert actual["with_skills_gain_relative"] == pytest.approx(0.2)
    assert gains(metrics, []) == {}


def test_checklist_9_and_12_beta_1_is_titles_only_and_no_skills_fall_back_to_the_title():
    """Checklist 9 and 12, in ranks and in vectors; beta below 1 differs (the twin)."""
    cfg = config("model.asymmetric_head=true")
    encoder = module_of("model.asymmetric_head=true").encoder.eval()
    compare = encoder_compare(cfg, encoder)
    rows = [TitleRow(t, TITLES[i - 1], SKILLS[i] if i else ()) for i, t in enumerate(TITLES)]
    data = title_benchmark(rows, TITLES)
    ranks = [setting_ranks(cfg, compare, data, beta) for beta in (1.0, 0.0)]
    assert torch.equal(ranks[0]["titles"], ranks[0]["with_skills"])
    assert ranks[1]["with_skills"][0] == ranks[1]["titles"][0]  # the row without skills
    assert not torch.equal(ranks[1]["titles"], ranks[1]["with_skills"])
    alone = encoder.encode_titles(TITLES)
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(encoder.encode_ads(TITLES, SKILLS, 1.0), alone, **close)
    torch.testing.assert_close(encoder.encode_ads(TITLES, [()] * 4, 0.3), alone, **close)
    half = encoder.encode_ads(TITLES, SKILLS, 0.5)
    expected = F.normalize((alone + encoder.encode_skills(SKILLS)) / 2, dim=1)
    torch.testing.assert_close(half, expected, **close)
    assert not torch.allclose(half, alone, atol=1e-3)
    # the evaluator ranks by the same cosines
    scores = half @ alone.T
    own = scores.gather(1, data.gold[:, None])
    asked = setting_ranks(cfg, compare, data, 0.5)["with_skills"]
    assert torch.equal(asked[1:], (scores >= own - 1e-6).sum(1)[1:])


def test_checklist_11_candidates_are_embedded_once_and_batches_change_nothing():
    """Checklist 11: one pass over the candidates for all settings; batch size 1 gives the same."""
    cfg, encoder = config(), module_of().encoder.eval()
    data = load_data(cfg).test
    seen: list[list[str]] = []
    plain = encoder.encode_title_texts
    encoder.encode_title_texts = lambda texts, size=64: (
        seen.append(list(texts)),
        plain(texts, size),
    )[1]
    compare = encoder_compare(cfg, encoder)
    first = setting_ranks(cfg, compare, data, 0.5)
    setting_ranks(cfg, compare, data, 0.7)
    assert seen.count(data.candidates) == 1
    single = setting_ranks(
        config("eval.batch_size=1"),
        encoder_compare(config("eval.batch_size=1"), encoder),
        data,
        0.5,
    )
    for setting, ranks in first.items():
        assert torch.equal(ranks, single[setting])


def test_concatenated_queries_are_one_text():
    """Sheet, evaluation: the alternative query is "title: skill, skill"."""
    cfg, encoder = config("eval.query=concatenated"), module_of().encoder.eval()
    asked: list[list[str]] = []
    inner = encoder_compare(cfg, encoder)

    def compare(texts, side, candidates):
        asked.append(texts)
        return inner(texts, side, candidates)

    data = title_benchmark(
        [TitleRow("chef", "cook", ("b", "a")), TitleRow("x", "cook")], [*TITLES, "cook"]
    )
    setting_ranks(cfg, compare, data, 0.5)
    assert asked == [["chef", "x"], ["chef: a, b", "x"]]


@pytest.mark.parametrize("query", ["mean", "concatenated"])
def test_all_rows_of_the_table_read_the_same_titles(query, tmp_path):
    """Pitfalls: only our encoder cleaned them, so its gain over the baselines held the cleaning."""
    rows = [
        {"title": "Chef (m/f/d) #12", "skills": ["c# 3"], "normalized_title": "Cook (remote)"},
        {"title": "chef", "skills": [], "normalized_title": "cook"},
    ]
    words = [*write_files(tmp_path, [], rows), "data.clean_titles=true", f"eval.query={query}"]
    data = load_data(config(*words)).test
    assert (data.candidates, [row.title for row in data.rows]) == (["Cook"], ["Chef", "chef"])
    asked: list[list[str]] = []

    def encode(texts, size=64):
        asked.append(list(texts))
        return torch.ones(len(texts), 2)

    encoder = module_of("data.clean_titles=true").encoder.eval()
    encoder._encode = lambda side, texts, size: encode(texts)
    for compare in (encoder_compare(config(), encoder), text_compare(encode)):
        setting_ranks(config(*words), compare, data, 0.5)
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]
    assert asked[-1] == (["c# 3", "chef"] if query == "mean" else ["Chef: c# 3", "chef"])


class WordTable(torch.nn.Module):
    """Mean of trained word vectors: the least encoder that can learn which words go together."""

    def __init__(self, texts):
        super().__init__()
        self.places = {w: i for i, w in enumerate(sorted({w for t in texts for w in t.split()}))}
        self.rows = torch.nn.Embedding(len(self.places), 32)
        torch.nn.init.normal_(self.rows.weight, std=0.1)

    def forward(self, texts):
        rows = [[self.places[w] for w in text.split()] for text in texts]
        starts = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
        flat = torch.tensor([place for row in rows for place in row])
        return F.embedding_bag(flat, self.rows.weight, starts, mode="mean")


def test_titles_of_disjoint_words_meet_through_their_skills_and_skills_help():
    """Sheet, small real check: trained is far above untrained and words; with skills above
    titles."""
    cfg = config("data.occupations=40", "data.limit=1000")
    sets = load_data(cfg)
    data = sets.test
    shown = [(ad.title, " ".join(sorted(ad.skills))) for ad in sets.ads]
    asked = [" ".join(row.skills) for row in data.rows]
    torch.manual_seed(0)
    model = WordTable([t for pair in shown for t in pair] + asked + data.candidates)
    objective, optim = Objective(cfg.method), torch.optim.Adam(model.parameters(), lr=0.03)

    def figures():
        compare = text_compare(lambda texts: model([t.replace(",", "") for t in texts]).detach())
        ranks = setting_ranks(cfg, compare, data, 0.5)
        return [float(ranks[s].eq(1).double().mean()) for s in ("titles", "with_skills")]

    before = figures()
    hashes = AdPairs(sets.ads, None, cfg.data, 0).hashes
    for step in range(120):
        places = torch.randperm(len(shown), generator=torch.Generator().manual_seed(step))[:64]
        titles, skills = zip(*[shown[i] for i in places], strict=True)
        optim.zero_grad()
        objective(model(titles), model(skills), hashes[places]).loss.backward()
        optim.step()
    after = figures()
    words = setting_ranks(cfg, lexical_compare("tfidf"), data, 0.5)["titles"].eq(1).double().mean()
    assert after[0] > max(before[0], float(words)) + 0.3
    assert after[1] > after[0]


@pytest.mark.parametrize("head", [False, True])
def test_export_is_a_folder_of_sentence_transformers_and_reloads_equal(head, tmp_path):
    """Definition of done: equal embeddings of both sides; a folder for each side with heads."""
    words = [f"model.asymmetric_head={head}", "model.head_dim=48"]
    cfg, module = config(*words), module_of(*words).eval()
    experiment = build(cfg)
    experiment.export(module, tmp_path)
    actual = experiment.embed(experiment.load_export(tmp_path))
    for name, value in experiment.embed(module).items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-6)
    for side in ("titles", "skills") if head else (".",):
        modules = json.loads((tmp_path / side / "modules.json").read_text(encoding="utf-8"))
        kinds = [m["type"].rpartition(".")[2] for m in modules]
        dense = ["Dense"] if head else []
        assert kinds == ["Transformer", "Pooling", *dense, "Normalize"]
    if head:
        about = json.loads((tmp_path / "skills/2_Dense/config.json").read_text(encoding="utf-8"))
        assert (about["in_features"], about["out_features"]) == (32, 48)
        with pytest.raises(UserError, match="asymmetric_head"):
            build(config()).load_export(tmp_path / "titles")
    else:
        plain = load_sentence_transformers(tmp_path).encode(TITLES)
        torch.testing.assert_close(plain, module.encoder.encode_titles(TITLES), rtol=0, atol=1e-6)


def test_checklist_15_candidates_are_exchanged_without_training(run, tmp_path, capsys):
    """Checklist 15: a list with titles that no advert had; search and normalisation answer from
    it."""
    listed, ads, out = (tmp_path / n for n in ("list.txt", "ads.jsonl", "out.jsonl"))
    listed.write_text("quantum plumber\nlunar barber\n", encoding="utf-8")
    write_jsonl(
        ads, [{"title": "lunar barber", "skills": []}, {"title": "some plumber", "skills": ["x"]}]
    )
    runs = f"runs_dir={run.parents[2]}"
    words = [f"normalise.input={ads}", f"normalise.candidates={listed}", f"normalise.output={out}"]
    run_task("vacancysbert", "smoke", [runs, *words], "normalise")
    rows = read_jsonl(out)
    assert rows[0]["candidates"][0] == "lunar barber"
    assert rows[0]["scores"][0] == pytest.approx(1, abs=1e-5)
    assert {*rows[1]["candidates"]} == {"quantum plumber", "lunar barber"}
    asked = tmp_path / "asked.txt"
    asked.write_text("quantum plumber\n", encoding="utf-8")
    words = [f"search.file={listed}", f"search.queries={asked}", "search.k=1"]
    run_task("vacancysbert", "smoke", [runs, *words], "search")
    assert "1.000  quantum plumber" in capsys.readouterr().out


def test_normalise_on_files_that_are_not_as_they_should_be(run, tmp_path, capsys):
    """No advert and a folder that is not there were tracebacks; a candidate twice took two of the k
    places.
    """
    listed, ads, out = (tmp_path / n for n in ("list.txt", "ads.jsonl", "new/out.jsonl"))
    listed.write_text("Lunar barber\nquantum plumber\nlunar  barber\n", encoding="utf-8")
    ads.write_text("\n", encoding="utf-8")
    words = [
        f"runs_dir={run.parents[2]}",
        f"normalise.input={ads}",
        f"normalise.candidates={listed}",
        "normalise.k=3",
    ]
    with pytest.raises(UserError, match="has no advert"):
        run_task("vacancysbert", "smoke", words, "normalise")
    write_jsonl(ads, [{"title": "baker", "skills": None, "description": "bakes"}])
    with pytest.raises(UserError, match="a description without skills"):
        run_task("vacancysbert", "smoke", words, "normalise")
    write_jsonl(ads, [{"title": "lunar barber"}])
    for read, told in (
        (ads, "would be written over"),
        (listed, "would be written over"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UserError, match=told):
            run_task("vacancysbert", "smoke", [*words, f"normalise.output={read}"], "normalise")
    run_task("vacancysbert", "smoke", [*words, f"normalise.output={out}"], "normalise")
    assert read_jsonl(out)[0]["candidates"] == ["Lunar barber", "quantum plumber"]
    assert "1 of 3 candidates are others again" in capsys.readouterr().out


def test_checklist_19_the_benchmark_scores_embeddings_of_any_model(tmp_path):
    """Checklist 19: files out, embeddings in, the evaluator's own figures back."""
    words = [f"runs_dir={tmp_path}", "eval.beta=0.4", "data.occupations=6"]
    run_task("vacancysbert", "smoke", words, "benchmark")
    (folder,) = tmp_path.rglob("benchmark/candidates.txt")
    candidates = folder.read_text(encoding="utf-8").splitlines()
    rows = read_jsonl(folder.with_name("test.jsonl"))
    encoder = module_of().encoder.eval()
    tensors = {
        "titles": encoder.encode_titles([r["title"] for r in rows]),
        "candidates": encoder.encode_titles(candidates),
        "skills": encoder.encode_skills([r["skills"] for r in rows]),
    }
    path = tmp_path / "any.safetensors"
    write_tensors(path, tensors)
    cfg = config(*words)
    data = load_data(cfg).test
    run_task("vacancysbert", "smoke", [*words, f"score.embeddings={path}"], "score")
    (notes,) = [p for p in tmp_path.rglob("notes.txt") if "with_skills_mrr" in p.read_text()]
    printed = dict(line.split() for line in notes.read_text(encoding="utf-8").splitlines())
    for setting, ranks in setting_ranks(cfg, encoder_compare(cfg, encoder), data, 0.4).items():
        for name, value in rank_metrics(ranks, data).items():
            assert float(printed[f"{setting}_{name}"]) == pytest.approx(value, abs=1e-4)
    write_tensors(path, {**tensors, "titles": tensors["titles"][1:]})
    with pytest.raises(UserError, match="as many embeddings"):
        run_task("vacancysbert", "smoke", [*words, f"score.embeddings={path}"], "score")


def test_the_tasks_say_which_beta_they_take_and_refuse_what_they_would_pass_over(
    run, tmp_path, capsys
):
    """Half a share was taken for the tuned one, descriptions and eval.query were not read: no
    word."""
    ads, runs = tmp_path / "ads.jsonl", f"runs_dir={run.parents[2]}"
    write_jsonl(ads, [{"title": "baker", "skills": ["x"]}])
    words = [runs, f"normalise.input={ads}", f"normalise.output={tmp_path / 'out.jsonl'}"]
    run_task("vacancysbert", "smoke", words, "normalise")
    assert f"next to skills: {metrics_of(run)['beta']:g} (of " in capsys.readouterr().out
    assert tasks._beta(config("eval.beta=null"), Workspace(tmp_path)) == 0.5
    assert "not tuned" in (tmp_path / "notes.txt").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"eval\.query=mean"):
        run_task("vacancysbert", "smoke", [*words, "eval.query=concatenated"], "normalise")
    with pytest.raises(UserError, match=r"eval\.query=mean"):
        run_task("vacancysbert", "smoke", [*words, "eval.query=concatenated"], "score")
    write_jsonl(ads, [{"title": "baker", "description": "bakes bread"}])
    with pytest.raises(UserError, match=r"ads\.jsonl, row 1: a description without skills"):
        run_task("vacancysbert", "smoke", words, "normalise")


def test_references_are_looked_for_before_the_training(tmp_path):
    """They were opened after it, and word vectors not below the data root as all other files
    are."""
    words = [f"data.root={tmp_path}", "eval.references={fasttext: x/words.vec}"]
    with pytest.raises(UserError, match=r"references\.fasttext: .*x/words\.vec does not exist"):
        next(stages.stages(config(*words)))
    rows = {need.name: need for need in requirements(config(*words))}
    assert not rows["eval.references.fasttext"].present
    (tmp_path / "x").mkdir()
    (tmp_path / "x/words.vec").write_text(VECTORS, encoding="utf-8")
    next(stages.stages(config(*words)))
    with reference_compare(config(*words), "x/words.vec") as compare:
        scores = compare(["java"], "titles", ["java", "baker"])(slice(0, 1))
    assert scores.tolist() == [[1, 0]]
    lacking = config("eval.references={other: ./absent/folder}")
    assert [n.present for n in requirements(lacking)] == [False]
    with pytest.raises(UserError, match="does not exist"):
        next(stages.stages(lacking))


def test_baselines_have_the_metrics_of_the_method(run, tmp_path):
    """Checklist 16: what needs no training is scored by the same function; whitening changes
    ranks."""
    cfg = config("eval.beta=0.5")
    actual = {
        n: getattr(baselines, n)(cfg, Workspace(tmp_path / n))
        for n in ("tfidf", "char_ngrams", "raw", "whitened", "untrained")
    }
    keys = actual["tfidf"].keys()
    assert all(f.keys() == keys for f in actual.values())
    assert keys <= metrics_of(run).keys()
    assert actual["raw"] == actual["untrained"]  # the smoke config starts from random weights
    assert actual["raw"]["titles_mrr"] != actual["whitened"]["titles_mrr"]
    assert metrics_of(run)["tfidf_titles_mrr"] == actual["tfidf"]["titles_mrr"]


@pytest.mark.parametrize("name", ["paper", "paper_asymmetric"])
def test_paper_configs_hold_the_sheet_s_recipe_and_say_what_is_missing(name, tmp_path):
    """Sheet, training recipe; `make check` names files and negatives."""
    cfg = config(name=name)
    assert (cfg.method.temperature, cfg.method.symmetric, cfg.method.mask_duplicates) == (
        0.05,
        True,
        True,
    )
    assert (cfg.data.max_title_len, cfg.data.max_skill_len, cfg.data.max_skills) == (32, 128, 20)
    assert (cfg.optim.weight_decay, cfg.trainer.gradient_clip_val, cfg.seed) == (0.01, 1.0, 42)
    assert (cfg.optim.lr, cfg.optim.warmup_epochs, cfg.trainer.max_epochs) == (2e-5, 0.1, 1)
    other = name == "paper_asymmetric"
    assert cfg.data.batch_size == (2048 if other else 256)
    assert cfg.model.asymmetric_head == other
    assert cfg.data.min_skills == (5 if other else 3)
    assert set(cfg.eval.references) == {"fasttext", "bert", "sentence_bert", "jobbert_2022"}
    assert not config(name="paper_esco").eval.references  # the bundled stand-in needs no files
    rows = inspect("vacancysbert", name, [f"data.root={tmp_path}"])
    assert rows["negatives per query"] == ("2,047" if other else "255")
    assert any("MISSING" in value for value in rows.values())


def test_compare_has_the_default_arms_and_the_abstract_s_figures():
    """Row of the mini: trained, JobBERT-like and the trivial baselines; claims name their
    source."""
    spec = read_comparison("vacancysbert")
    assert {"trained", "jobbert_like"} <= spec.arms.keys()
    assert set(spec.baselines) == {"tfidf", "char_ngrams", "raw", "whitened", "untrained"}
    for arm in spec.arms.values():
        cfg = config(*[f"{k}={'null' if v is None else v}" for k, v in arm.items()], name="mini")
        assert cfg.trainer.max_steps == config(name="mini").trainer.max_steps
