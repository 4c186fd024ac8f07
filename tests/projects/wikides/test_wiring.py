"""Parts, options and seeds of the config reach what trains, what is measured and what tasks write."""

from types import SimpleNamespace

import pytest
import torch

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.engine.workspace import Workspace
from projects.wikides import baselines, build, candidates, data, describe, rank, selectors
from projects.wikides.batches import DescribeRows
from projects.wikides.bert_score import BertScore
from projects.wikides.choice import write_choice_form
from projects.wikides.collect import kept
from projects.wikides.config import CandidatesConfig, CollectConfig
from projects.wikides.data import Row, load_rows
from tests.projects.wikides.conftest import ROWS, config, describer, ranker


def test_an_export_is_evaluated_by_the_scores_of_its_training(tmp_path, monkeypatch):
    """The command's settings counted: a fused ranker was judged by similarity alone."""
    words = ["method.use_rouge=true", "method.sim_range=unit"]
    build(config(*words)).export(ranker(*words).eval(), tmp_path / "export")
    asked = []
    monkeypatch.setattr(
        rank, "evaluate_encoder", lambda cfg, *_: asked.append(cfg.method) or {"words": 1.0}
    )
    command = build(config("eval.untrained=false", "eval.grid=false"))
    command.evaluate(command.load_export(tmp_path / "export"), Workspace(tmp_path / "w"))
    assert [(m.use_sim, m.use_rouge, m.sim_range) for m in asked] == [(True, True, "unit")]


def test_surface_features_learn_the_description_on_rows_that_are_not_judged(tmp_path):
    """With `eval.own` it was trained on the judged rows, and stood as the best baseline."""
    rows = [
        Row(f"red lake {i}", f"blue town {i}", ("red lake", f"the blue town {i}"))
        for i in range(40)
    ]
    assert selectors.surface(rows, rows[:3], 0) == [[row.candidates[1]] for row in rows[:3]]
    for name in ("own", "other"):
        write_jsonl(
            tmp_path / f"{name}.jsonl",
            [
                {"source": r.source, "target": r.target, "candidate": list(r.candidates)}
                for r in rows
            ],
        )
    words = ["data.source=files", f"data.root={tmp_path}", "data.dev=own.jsonl"]
    words += ["data.test=own.jsonl"]
    with pytest.raises(UserError, match=r"data\.train is the file that is judged"):
        baselines.surface(config(*words, "data.train=own.jsonl"), Workspace(tmp_path))
    actual = baselines.surface(config(*words, "data.train=other.jsonl"), Workspace(tmp_path))
    assert actual["gold_rouge_l"] > 0.8


def test_the_part_of_the_config_is_measured(tmp_path, monkeypatch):
    asked = []
    for module in (rank, describe, baselines):
        monkeypatch.setattr(module, "load_rows", lambda cfg, part: asked.append(part) or ROWS[:2])
    words = ["eval.part=dev", "eval.untrained=false", "eval.full=false", "eval.grid=false"]
    place = Workspace(tmp_path)
    build(config(*words)).evaluate(ranker().eval(), place)
    cfg = config(*words, "generator.beams=3", "generator.max_new_tokens=2", name="smoke_describe")
    searched = []
    generator = SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace()),
        beam_search=lambda texts, beams, most, batch_size: searched.append((beams, most)) or texts,
    )
    monkeypatch.setattr(describe, "generator_of", lambda *_: generator)
    build(cfg).evaluate(describer().eval(), place)
    assert searched == [(3, 2)]
    baselines.first(config(*words), place)
    poolings = []
    build_encoder = baselines.build_encoder
    monkeypatch.setattr(
        baselines,
        "build_encoder",
        lambda model: poolings.append(model.pooling) or build_encoder(model),
    )
    baselines.untrained_mean(config(*words), place)
    baselines.untrained_cls(config(*words), place)
    assert poolings == ["avg", "cls_before_pooler"]
    assert asked == ["dev"] * 5


@pytest.mark.parametrize("name", ["smoke", "smoke_describe"])
def test_validation_is_on_all_candidates_of_the_development_part(name):
    cfg = config(name=name)
    stage = next(build(cfg).stages())
    rows = stage.data.val_sets["dev"]
    assert [row.source for row in rows.rows] == [row.source for row in load_rows(cfg, "dev")]
    assert getattr(rows, "most", None) is None


def test_the_loss_of_validation_is_a_mean_over_tokens(monkeypatch):
    """Batches count by their tokens, not by their rows."""
    module = describer("generator.dropout=0.0").eval()
    start = int(module.model.config.decoder_start_token_id)
    data_set = DescribeRows(config(name="smoke_describe"), ROWS, module.tokenizer, start)
    logged = []
    monkeypatch.setattr(
        module, "log", lambda name, value, **options: logged.append((value, options["batch_size"]))
    )
    for places in ([0, 1], [2, 3], [0, 1, 2, 3]):
        module.validation_step(data_set.collate(places), 0)
    (first, n), (second, m), (whole, total) = logged
    assert total == n + m > 4
    torch.testing.assert_close((n * first + m * second) / total, whole)


def test_texts_are_encoded_as_in_training():
    """The head maps vectors that are not normalised."""
    encoder = ranker("model.head_dim=7", "model.dropout=0.0").encoder.eval()
    texts = [row.source for row in ROWS]
    expected = encoder(**encoder.encoder.tokenize(texts))
    torch.testing.assert_close(encoder.encode(texts, 2), expected, atol=1e-5, rtol=1e-5)


def test_candidates_of_other_settings_are_not_mixed(tmp_path, monkeypatch):
    made = {"candidate": ["x"], "phase1": ""}
    monkeypatch.setattr(
        candidates, "build_sweep", lambda options: lambda rows, seeds: [made for _ in rows]
    )
    write_jsonl(tmp_path / "in.jsonl", [{"source": "a", "target": "b"}])
    words = [f"candidates.input={tmp_path}/in.jsonl", "candidates.generator=x"]
    candidates.write_candidates(config(*words), Workspace(tmp_path))
    for name, value in (("max_source", 9), ("baselines", "false"), ("widths", "[1]")):
        with pytest.raises(UserError, match=f"made for another {name}"):
            candidates.write_candidates(
                config(*words, f"candidates.{name}={value}"), Workspace(tmp_path)
            )


def test_names_of_instances_are_candidates_if_asked(monkeypatch):
    stub = SimpleNamespace(context=9, model=SimpleNamespace(config=SimpleNamespace()))
    stub.beam_search = lambda texts, *_, **__: texts
    monkeypatch.setattr(candidates.SequenceToSequence, "from_pretrained", lambda *_: stub)
    for asked, expected in ((True, ["a", "town"]), (False, ["a"])):
        sweep = candidates.build_sweep(CandidatesConfig(generator="x", widths=[1], baselines=asked))
        assert sweep([{"source": "a", "names": ["town"]}], [])[0]["candidate"] == expected


def test_items_pass_the_filters_by_their_words_and_without_regard_to_case():
    item = {
        "label": "Place",
        "description": "town",
        "instances": [["Q1", "town"]],
        "first_paragraph": "x",
        "first_sentence": "one two three",
    }
    assert kept(item, CollectConfig(min_sentence_words=3))
    assert not kept(item, CollectConfig(min_sentence_words=4))
    for name in ("label", "description"):
        assert not kept({**item, name: "A WikiProject"}, CollectConfig(min_sentence_words=3))


def test_every_tenth_bundled_training_row_validates(monkeypatch):
    rows = [Row(str(i), "t", ()) for i in range(40)]
    monkeypatch.setattr(data, "read_rows", lambda path, *, ranking: rows)
    cfg = config("data.eval_limit=null", name="mini_describe")
    assert [row.source for row in load_rows(cfg, "dev")] == ["0", "10", "20", "30"]
    assert len(load_rows(cfg, "train")) == 36


def test_each_row_of_a_form_has_an_order_of_its_own(tmp_path):
    systems = {"a": ["a"] * 20, "b": ["b"] * 20, "c": ["c"] * 20}
    form, key = tmp_path / "form.csv", tmp_path / "key.jsonl"
    write_choice_form(form, key, ["s"] * 20, systems, 0)
    assert len({str(row["systems"]) for row in read_jsonl(key)}) > 3


def test_bert_score_is_of_the_layer_that_is_named(tmp_path):
    """Embeddings of equal words at equal places are equal; states of a last layer are not."""
    module = ranker().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 5  # small ones see little of other words
    build(config()).export(module, tmp_path)
    first, last = (BertScore(str(tmp_path), n)(["old"], ["old town"])[0][0] for n in (0, -1))
    assert first == pytest.approx(1.0, abs=1e-5)
    assert last < 1 - 1e-3
