"""The arena: contestants, equal search, statistics with their negative twins, a loss of one's own."""

import argparse
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from arena import statistics
from arena.__main__ import main, unpublished
from arena.contestant import FAMILIES, SEARCH_RUNS, read_contestants
from arena.cost import cost
from arena.figures import cliques
from arena.further import further
from arena.losses import LossConfig, build_loss
from arena.mechanisms import MECHANISMS, mechanisms
from arena.page import BEGIN, COST, END, FURTHER, write_page
from arena.statistics import differences, standings
from arena.study import (
    SEARCH_SEED,
    SHARED,
    Attempt,
    publish,
    result_path,
    run,
    search,
    study,
    trial,
)
from common.config import ROOT, UserError, load, to_dict
from common.engine.workspace import write_json
from common.evaluation.resampling import Scores
from common.registry import config_class

ALL = {one.name: one for one in read_contestants()}


@pytest.mark.parametrize("name", sorted(name for name, one in ALL.items() if one.loss))
def test_a_contestant_has_a_gradient_that_lowers_its_loss(name):
    value = ALL[name].values(FAMILIES["images"])[1]
    settings = {"loss.scale": 5.0, **ALL[name].settings_at(value)}
    loss = build_loss(LossConfig(settings["loss.path"], settings["loss.args"]), 8)
    views = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    more = {"labels": torch.arange(16) % 4} if "loss.labels" in ALL[name].settings else {}

    def value(pair):
        out = loss(*pair, settings["loss.scale"], **more)
        return out if isinstance(out, torch.Tensor) else out.loss

    before = value(views)
    (gradient,) = torch.autograd.grad(before, views)
    after = value(views - 1e-3 * gradient / gradient.norm())
    assert torch.isfinite(before)
    assert after < before


class Imagined:
    """A run of the search whose score is known: highest at a rate and a value."""

    path = Path("nowhere")
    diverged = False

    def __init__(self, rate: float, value: float, best: tuple[float, float]) -> None:
        self.distance = abs(math.log(rate / best[0])) + abs(math.log(value / best[1]))

    def score(self, metric: str) -> float:
        """Of any metric."""
        return -self.distance


def imagined_search(monkeypatch, family, best):
    """The search of all contestants whose best rate and value are known."""

    def imagine(family, scale, one, settings, overrides):
        seen = settings[one.searched] if one.project else settings.get("loss.scale")
        value = seen if seen is not None else settings["loss.args"][one.searched]
        return Imagined(settings["optim.lr"], value, best)

    monkeypatch.setattr("arena.study.trial", imagine)
    monkeypatch.setattr("arena.study.run", lambda *args: None)
    return search(family, "mini", read_contestants(family=family), [], 1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_search_is_as_large_for_every_contestant(family, monkeypatch):
    for attempts in imagined_search(monkeypatch, family, (2e-3, 3.0)).values():
        assert len({(one.rate, one.value) for one in attempts}) == SEARCH_RUNS
        assert {one.rate for one in attempts} >= set(FAMILIES[family].rates)


def test_the_search_goes_beyond_an_end_that_is_best(monkeypatch):
    (inside,) = imagined_search(monkeypatch, "images", (3e-3, 5.0))["nt_xent"][-1:]
    assert inside.rate == 3e-3
    assert 2 < inside.value < 10
    (beyond,) = imagined_search(monkeypatch, "images", (1.0, 1e3))["nt_xent"][-1:]
    assert beyond.rate > 1e-2
    assert beyond.value == 20


def test_a_setting_that_is_searched_reaches_the_loss():
    tried = [ALL["triplet"].at(1e-3, value) for value in (0.2, 1.0)]
    losses = [build_loss(LossConfig(s["loss.path"], s["loss.args"]), 8) for s in tried]
    assert [one.loss.margin for one in losses] == [0.2, 1.0]


def test_mechanisms_of_a_batch():
    spread = mechanisms(torch.eye(8), torch.eye(8))
    assert float(spread["alignment"]) == pytest.approx(0)
    assert float(spread["hardest_negative"]) == pytest.approx(0)
    together = mechanisms(torch.ones(8, 8), torch.eye(8))
    assert float(together["effective_rank"]) < float(spread["effective_rank"])
    assert float(together["uniformity"]) > float(spread["uniformity"])
    assert float(together["hardest_negative"]) == pytest.approx(8**-0.5)


def test_a_published_order_holds_or_not():
    rng = np.random.default_rng(0)
    better = {"new": 0.9, "old": 0.5, "same": 0.5}
    items = {name: [Scores((rng.random((4, 80)) < p) * 1.0)] for name, p in better.items()}
    pairs = [("new", "old"), ("old", "new"), ("same", "old")]
    assert [one.verdict for one in differences(items, pairs)] == [
        "holds",
        "reversed",
        "inconclusive",
    ]


@pytest.mark.parametrize("name", sorted(name for name, one in ALL.items() if one.project))
def test_a_project_takes_over_all_shared_settings(name):
    one = ALL[name]
    (family,) = one.families
    about = FAMILIES[family]
    made = trial(family, "mini", one, one.at(about.rates[0], one.values(about)[1]), [])
    own = to_dict(load(config_class(one.project), one.project, made.config, made.words))
    base = to_dict(load(config_class(f"arena_{family}"), f"arena_{family}", "mini"))
    differ = {
        f"{section}.{key}"
        for section in SHARED
        for key in own[section].keys() & base[section].keys()
        if own[section][key] != base[section][key]
    }
    assert differ <= {"optim.lr", "eval.groups", "eval.own_limits"}  # the last two change nothing
    assert made.project == one.project


def test_bars_join_what_is_not_separated():
    rows = [("a", []), ("b", []), ("c", ["a"]), ("d", ["a", "b", "c"])]
    standing = [{"name": name, "worse_than": worse} for name, worse in rows]
    assert cliques(standing) == [(0, 1), (1, 2)]


def test_two_copies_are_inconclusive_and_a_broken_loss_is_last():
    """The negative twin: without the difference the test finds none, with it it does."""
    rng = np.random.default_rng(0)
    hard = rng.random(400)  # items differ more than contestants do

    def seeds(skill):
        right = rng.random((4, 400)) < np.clip(skill + 0.6 * (hard - 0.5), 0, 1)
        return [Scores(right.astype(float))]

    rows = standings({"copy": seeds(0.6), "first": seeds(0.6), "broken": seeds(0.3)})
    by_name = {row.name: row for row in rows}
    assert rows[-1].name == "broken"
    assert set(by_name["broken"].worse_than) == {"copy", "first"}
    assert not by_name["copy"].worse_than
    assert not by_name["first"].worse_than
    assert by_name["broken"].high < 0 < rows[1].high


@pytest.mark.parametrize("contestants", [2, 17, 40])
def test_samples_can_reject_one_of_all_pairs(contestants):
    """With 2,000 samples nothing was worse than anything else among 17."""
    pairs = math.comb(contestants, 2)
    least = statistics._p_value(np.ones(statistics._num_samples(pairs)))
    assert statistics.holm([least, *[1.0] * (pairs - 1)])[0]


def test_odd_contestants_are_refused(tmp_path):
    with pytest.raises(UserError, match="no contestant 'nt_xnet'.*nt_xent"):
        read_contestants(only=["nt_xnet"])
    for text, message in (
        ("loss: a:B\nsource: s\nsearch: {scale: [1, 2]}\n", "three values"),
        ("loss: a:B\nsource: s\nserach: {scale: [1, 2, 3]}\n", "no contestant"),
        ("source: s\n", "has a loss or a project"),
        ("project: dcl\nsource: s\n", "setting of the project"),
    ):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            read_contestants([tmp_path])
    with pytest.raises(UserError, match=r"loss\.path=common\.nothing:X"):
        build_loss(LossConfig("common.nothing:X"), 8)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The two files of the page."""
    page = (ROOT / "docs/arena.md").read_text(encoding="utf-8")
    contestant, code = re.findall(r"```(?:yaml|python)\n# \S+\n(.*?)```", page, re.S)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/cosine_gap.yaml").write_text(contestant)
    (tmp_path / "my_losses.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "mine"


def test_a_loss_of_one_s_own_is_two_files(own_folder, capsys):
    (mine,) = read_contestants([own_folder], ["cosine_gap"])
    settings = mine.settings_at(0.5)
    loss = build_loss(LossConfig(settings["loss.path"], settings["loss.args"]), 4)
    views = torch.eye(4)
    assert float(loss(views, views, 5.0)) == pytest.approx(0.125)  # the diagonal alone
    words = ["images", f"--contestants={own_folder}", "--only=cosine_gap,nt_xent", "--plan"]
    assert main(words) == 0
    assert "14 runs of the search" in capsys.readouterr().out


@pytest.fixture
def two_seeds(monkeypatch):
    """Fewer runs: two seeds, and a search of one setting."""
    monkeypatch.setattr("arena.study.search", search_of_one)
    monkeypatch.setattr("arena.study.SEEDS", (11, 12))
    monkeypatch.setattr("arena.study.COPY_SEEDS", (21, 22))
    monkeypatch.setattr("arena.further.SEEDS", (11, 12))
    monkeypatch.setattr("arena.cost.SEEDS", (11, 12))


def search_of_one(family, scale, contestants, overrides, jobs):
    """The middle of the first rates and values."""
    about, tried = FAMILIES[family], {}
    for one in (one for one in contestants if one.role != "control"):
        pair = about.rates[1], one.values(about)[1]
        settings = {**one.at(*pair), "seed": SEARCH_SEED}
        attempt = Attempt(*pair, trial(family, scale, one, settings, overrides))
        run([attempt.run], jobs, "search")
        tried[one.name] = [attempt]
    return tried


@pytest.mark.slow
def test_a_loss_of_one_s_own_is_ranked_next_to_others(own_folder, tmp_path, capsys):
    """With the whole search."""
    words = ["images", "--scale=smoke", f"--contestants={own_folder}", "--only=cosine_gap,nt_xent"]
    assert main([*words, f"runs_dir={tmp_path / 'runs'}", "trainer.max_steps=1"]) == 0
    printed = capsys.readouterr().out
    assert "| cosine_gap |" in printed
    assert "not published" in printed


STUDIES = {  # a loss, and what no other family has
    "images": ["nt_xent", "supcon", "simsiam", "moco", "nt_xent_again", "mismatched"],
    "sentences": ["nt_xent", "esimcse", "vicreg"],
    "retrieval": ["nt_xent", "info_nce", "contriever"],
    "image_text": ["nt_xent", "info_nce", "one_to_k"],
}
PUBLISHED = {
    "images": [("simsiam", "nt_xent"), ("supcon", "nt_xent")],
    "sentences": [("vicreg", "nt_xent")],
    "retrieval": [("contriever", "info_nce")],
    "image_text": [("one_to_k", "info_nce")],
}


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_study_is_published_and_its_page_written(tmp_path, family, two_seeds):
    """Every contestant trains; a finished study trains nothing anew."""
    overrides = [f"runs_dir={tmp_path / 'runs'}", "trainer.max_steps=1"]
    only = STUDIES[family]
    result = study(family, "smoke", only=only, overrides=overrides)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    again = study(family, "smoke", only=only, overrides=overrides)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.json")} == times
    assert again["standings"] == result["standings"]
    publish(result, tmp_path / "results")
    trials = cost(result, overrides, rounds=1)
    steps = trials["steps"]
    assert steps["nt_xent"]["time"] == 1
    assert all(row["gflop"] > 0 and row["memory_mib"] > 0 for row in steps.values())
    written = result_path(family, "smoke", tmp_path / "results")
    write_json(written.with_suffix(COST), trials)
    if family == "images":
        assert steps["supcon"]["gflop"] == pytest.approx(steps["nt_xent"]["gflop"], rel=0.1)
        in_epochs = [*overrides, "trainer.max_epochs=1", "trainer.max_steps=null"]
        more = further(result, {**steps, "moco": {**steps["moco"], "time": 2}}, overrides=in_epochs)
        assert set(more["batches"]) == {"nt_xent", "supcon", "simsiam"}
        assert set(more["batches"]["nt_xent"]) == {"4", "16", "64"}
        assert more["equal_time"]["moco"]["steps"] < more["equal_time"]["nt_xent"]["steps"]
        write_json(written.with_suffix(FURTHER), more)
    curves = result["contestants"][only[0]]["mechanisms"]
    assert set(curves) == set(MECHANISMS)
    assert all(curves.values())
    reported = [(one["name"], one["other"]) for one in result["published_order"]]
    assert reported == PUBLISHED.get(family, [])
    page = tmp_path / "arena.md"
    (tmp_path / "images").mkdir()
    name = written.stem
    page.write_text(f"before\n{BEGIN.format(name)}\n{END.format(name)}\nafter\n")
    text = write_page(page, tmp_path / "results").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    for one in only:
        assert f"| *{one}* (" in text or f"| {one} |" in text
    assert ("| at equal time |" in text) == (family == "images")
    for figure in ("", "_sensitivity", "_mechanisms", "_cost"):
        assert (tmp_path / f"images/arena_{name}{figure}.svg").is_file()


def test_a_study_of_some_contestants_is_published_until_a_larger_one_is(tmp_path, monkeypatch):
    """Nothing of one's own, no local changes, no smaller study in place of a larger one."""
    asked = argparse.Namespace(family="images", scale="mini", contestants=[], settings=[])
    some = {"contestants": {"dcl": {}, "cacr": {}}, "left_out": ["dclw"]}
    path = tmp_path / "images.json"
    monkeypatch.setattr("arena.__main__.result_path", lambda *_: path)
    monkeypatch.setattr("arena.__main__.code_state", lambda: {"dirty": False})
    assert unpublished(asked, some) == ""
    write_json(path, {"contestants": {"dcl": {}, "cacr": {}, "dclw": {}}})
    assert "has 3 contestants" in unpublished(asked, some)
    assert unpublished(asked, {"contestants": {"dcl": {}}, "left_out": []}) == ""
    asked.settings = ["optim.lr=1"]
    assert "of your own" in unpublished(asked, some)
    asked.settings, asked.scale = [], "smoke"
    assert "smoke" in unpublished(asked, some)
