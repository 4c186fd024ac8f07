"""Parts, shares, skills and lengths: what the config gives the evaluation and the batches."""

from types import SimpleNamespace

import pytest
import torch

from common.engine.workspace import Workspace
from projects.vacancysbert import data, evaluate
from projects.vacancysbert import module as method
from projects.vacancysbert.data import Ad, AdPairs, load_data, usable_ads
from projects.vacancysbert.evaluate import (
    best_beta,
    by_overlap,
    encoder_compare,
    gains,
    score_row,
    setting_ranks,
)
from projects.vacancysbert.normalisation import TitleRow, title_benchmark
from tests.projects.vacancysbert.conftest import batch, config, module_of, write_files


def test_the_share_is_chosen_on_development_rows_and_rows_are_of_the_part(monkeypatch, tmp_path):
    rows = [TitleRow("chef", "cook", ("a",), others={"related": ("b",)})]
    parts = {part: title_benchmark(rows, ["cook", "nurse"]) for part in ("dev", "test")}
    asked = []
    sets = SimpleNamespace(benchmark=lambda part: asked.append(part) or parts[part])
    monkeypatch.setattr(evaluate, "load_data", lambda cfg: sets)
    monkeypatch.setattr(evaluate, "best_beta", lambda cfg, compare, dev: dev is parts["dev"])
    ranks = {"titles": [1], "with_skills": [1], "related": [99]}
    ranks = {name: torch.tensor(values) for name, values in ranks.items()}
    monkeypatch.setattr(evaluate, "setting_ranks", lambda *_: ranks)
    metrics = score_row(config("eval.part=test"), None, Workspace(tmp_path))
    assert metrics["beta"] is True
    assert (metrics["with_skills_minus_titles"], metrics["with_skills_minus_related"]) == (0, 1)
    score_row(config("eval.part=dev", "eval.beta=0.5"), None, Workspace(tmp_path))
    assert asked == ["test", "dev", "dev"]


def test_skills_of_a_query_are_sorted_and_cut():
    asked = []

    def compare(texts, side, candidates):
        asked.append((side, texts))
        return lambda rows: torch.zeros(len(texts), len(candidates))[rows]

    rows = title_benchmark([TitleRow("chef", "cook", ("c", "b", "a"))], ["cook", "nurse"])
    setting_ranks(config("data.max_skills=2", "data.min_skills=2"), compare, rows, 0.5)
    assert asked == [("titles", ["chef"]), ("skills", ["a, b"])]


def test_the_best_share_has_the_highest_recall(monkeypatch):
    monkeypatch.setattr(
        evaluate, "setting_ranks", lambda cfg, once, dev, beta: {"with_skills": beta}
    )
    monkeypatch.setattr(
        evaluate, "rank_metrics", lambda beta, dev: {evaluate.PRIMARY: -abs(beta - 0.7)}
    )
    assert best_beta(config(), None, None) == 0.7


def test_each_side_is_embedded_as_what_it_is():
    encoder = SimpleNamespace(
        encode_title_texts=lambda texts, size: torch.tensor([[1.0, 0.0]] * len(texts)),
        encode_skill_texts=lambda texts, size: torch.tensor([[0.0, 1.0]] * len(texts)),
    )
    compare = encoder_compare(config(), encoder)
    scores = [compare(["x"], side, ["y"])(slice(0, 1)).item() for side in ("titles", "skills")]
    assert scores == [1, 0]


def test_gains_are_differences_and_shares():
    metrics = {
        f"{b}{s}_recall_at_10": v
        for s in ("titles", "with_skills")
        for b, v in (("", 0.6), ("x_", 0.5))
    }
    actual = gains(metrics, ["x"])
    assert actual["titles_gain_absolute"] == pytest.approx(0.1)
    assert actual["titles_gain_relative"] == pytest.approx(0.2)


def test_the_low_third_shares_least_with_its_standard_title():
    """Overlap of the second row: 1 of 5 sets of three characters."""
    rows = [TitleRow("cook", "cook"), TitleRow("cooking", "cook"), TitleRow("abc", "nurse")]
    benchmark = title_benchmark(rows, ["cook", "nurse"])
    actual = by_overlap(torch.tensor([1.0, 0.5, 0.0]), benchmark)
    assert list(actual.values()) == [0, 0.5, 1]
    assert evaluate._overlap("cooking", "cool") == pytest.approx(1 / 6)


class Tokenizer:
    """Records texts and lengths."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts, max_length, **_):
        self.asked.append((texts, max_length))
        return {"input_ids": None, "attention_mask": None}


def test_skills_of_a_batch_are_cut_in_number_and_length():
    tokenizer, section = Tokenizer(), config("data.max_skills=2", "data.min_skills=2").data
    section.max_title_len, section.max_skill_len = 5, 9
    AdPairs([Ad("1", "chef", ("a", "b", "c"))], tokenizer, section, 0)[[(0, 0)]]
    (titles, skills) = tokenizer.asked
    assert titles == (["chef"], 5)
    assert (len(skills[0][0].split(", ")), skills[1]) == (2, 9)


def test_single_skills_are_all_of_an_advert_before_one_repeats():
    ads = [Ad("1", "chef", ("a", "b", "c"))]
    pairs = AdPairs(ads, Tokenizer(), config().data, 0, draws=4, buckets=2**40)
    first = pairs[[(0, 0)]]["skill_ids"][0].tolist()
    assert len(set(first[:3])) == 3
    assert first[3] == first[0]


def test_adverts_of_a_title_are_capped_and_those_of_test_rows_dropped():
    section = config("data.min_skills=1", "data.max_ads_per_title=2", "data.limit=null").data
    ads = [Ad(str(i), "chef", (f"skill {i}",)) for i in range(4)]
    ads.append(Ad("5", "nurse", ("nurse", "drugs")))
    kept, counts = usable_ads(ads, section, [TitleRow("nurse", "nurse", ("nurse", "drugs"))])
    assert [ad.id for ad in kept] == ["0", "1"]
    assert counts["dropped_title_cap"] == 2
    assert counts["dropped_test_ads"] == 1


def test_rows_of_both_parts_are_kept_out_of_the_training(monkeypatch):
    asked = []
    monkeypatch.setattr(
        data, "usable_ads", lambda ads, section, tests, seed: asked.append(len(tests)) or ([], {})
    )
    rows = [TitleRow("chef", "cook", ("a",))]
    monkeypatch.setattr(data, "synthetic_parts", lambda *_: ([], rows, rows * 2, ["cook"]))
    load_data(config("data.source=synthetic"))
    assert asked == [3]


def test_development_rows_of_files_are_kept_out_and_controls_name_no_title(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        data, "usable_ads", lambda ads, section, tests, seed: asked.extend(tests) or ([], {})
    )
    row = {"title": "chef", "skills": ["a"], "normalized_title": "cook"}
    words = write_files(tmp_path, [{"title": "x", "skills": ["y"]}], [row])
    (tmp_path / "dev.jsonl").write_text(
        '{"title": "d", "skills": ["a"], "normalized_title": "cook"}'
    )
    load_data(config(*words, "data.dev=dev.jsonl"))
    assert {r.title for r in asked} == {"chef", "d"}
    row = TitleRow("chef", "cook", ("a",), others={"related": ("chef", "b")})
    kept, _ = data._without_titles([row], config().data)
    assert kept[0].others["related"] == ("b",)


def test_standard_titles_are_cleaned_as_queries_are():
    rows = [TitleRow("Chef (m/f/d)", "Cook (remote)")]
    section = config("data.clean_titles=true").data
    benchmark = data._benchmark(rows, ["Cook (remote)", "nurse"], section)
    assert (benchmark.excluded, benchmark.gold.tolist()) == (0, [0])


def test_single_skills_are_contrasted_with_those_of_other_titles(monkeypatch):
    module = module_of("method.objective=skills")
    asked = []
    out = SimpleNamespace(loss=torch.zeros(()), hits=torch.zeros(1))
    monkeypatch.setattr(
        module.objective, "forward", lambda titles, ids, same: asked.append(same.tolist()) or out
    )
    module.losses(batch(4))
    assert asked == [batch(4)["duplicates"][:, 0].tolist()]


@pytest.mark.parametrize(("gather", "count"), [(True, 15), (False, 7)])
def test_negatives_are_those_of_all_devices_only_if_gathered(gather, count):
    module = module_of(f"method.gather={str(gather).lower()}", "data.batch_size=8")
    assert module.negatives_per_query(16) == count


def test_validation_counts_the_first_ten(monkeypatch):
    module, logged = module_of(), []
    monkeypatch.setattr(module, "log", lambda name, value: logged.append(float(value)))
    monkeypatch.setattr(method, "gold_ranks", lambda *_: torch.tensor([1, 10, 11, 12]))
    monkeypatch.setattr(module.encoder, "encode_titles", lambda *_: torch.zeros(1, 2))
    sets = {"dev": SimpleNamespace(candidates=[])}
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(val_sets=sets))
    module._seen = [(torch.zeros(1, 2), torch.zeros(1))]
    module.on_validation_epoch_end()
    assert logged == [0.5]
