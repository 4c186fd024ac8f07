"""Runs, evaluation, tasks, comparison and configs as the commands drive them."""

import json
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.encoders.state_dict import read_state_dict
from common.engine import checkpoint as ckpt
from common.engine.comparison.claims import claims_of
from common.engine.comparison.spec import default_arms, read_comparison
from common.engine.run import train
from common.engine.workspace import Workspace
from projects.moe_embeddings import baselines, build, tasks
from projects.moe_embeddings.cocitation import Pair
from projects.moe_embeddings.data import load_pairs, requirements
from projects.moe_embeddings.evaluate import gradient_cosines, paired_p, score_row, scores_of
from projects.moe_embeddings.validation import PairScores
from tests.projects.moe_embeddings.conftest import ROUTED, config, module_of
from tests.smoke import metrics_of

QUICK = [
    "eval.untrained=false",
    "eval.lexical=false",
    "eval.wrong_routing=false",
    "eval.gradients=false",
]


@pytest.fixture
def full_run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("moe_embeddings")


def test_checklist_9_and_17_f1_max_by_domain_and_on_the_union_for_every_row(full_run):
    """Checklist 9, 17: trained, untrained, TF-IDF, wrong experts; items whose mean is the AUC."""
    actual = metrics_of(full_run)
    for row in ("", "untrained_", "tfidf_", "wrong_routing_"):
        for part in ("red", "green", "blue", "all"):
            for metric in (
                "f1",
                "precision",
                "recall",
                "threshold",
                "auc",
                "accuracy",
                "positive",
                "negative",
            ):
                assert f"{row}{part}_{metric}" in actual
        own = [actual[f"{row}{d}_f1"] for d in ("red", "green", "blue")]
        assert actual[f"{row}macro_f1"] == actual[f"{row}home_f1"] == pytest.approx(np.mean(own))
    items = json.loads((full_run / "items/all_auc.json").read_text())
    assert np.mean(items) == pytest.approx(actual["all_auc"])
    assert actual["gradient_cosine"] == 0.0  # enforced experts share no weight
    assert -1 <= actual["shared_gradient_cosine"] <= 1
    assert actual["parameters"] > actual["active_parameters"]


def test_checklist_9_the_union_has_one_threshold_and_equals_scikit_learn():
    """Checklist 9: F1-max of cosines against the precision-recall curve of scikit-learn."""
    rng = np.random.default_rng(0)
    pairs = {
        d: [Pair(f"{d} a{i}", f"{d} b{i}", i % 2, d) for i in range(30)] for d in ("red", "green")
    }
    scores = {
        d: rng.random(30) + 0.2 * (np.arange(30) % 2) + shift
        for d, shift in (("red", 0), ("green", 0.5))
    }
    cfg = config("data.domains=[red, green]", "data.train_domains=[green]")
    actual = score_row(cfg, scores, pairs)
    for name, values in (*scores.items(), ("all", np.concatenate(list(scores.values())))):
        labels = np.arange(len(values)) % 2
        precision, recall, _ = precision_recall_curve(labels, values)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert actual[f"{name}_f1"] == pytest.approx(f1.max())
    assert actual["all_f1"] < actual["macro_f1"]
    assert actual["home_f1"] == actual["green_f1"]


def test_scores_are_cosines_and_documents_are_embedded_once():
    asked = []

    def embed(texts, domain):
        asked.append((domain, texts))
        return torch.nn.functional.normalize(torch.tensor([[len(t), 1.0] for t in texts]), dim=1)

    actual = scores_of(embed, {"d": [Pair("a", "bb", 1, "d"), Pair("bb", "a", 0, "d")]})
    assert asked == [("d", ["a", "bb"])]
    assert actual["d"] == pytest.approx([3 / (2 * 5) ** 0.5] * 2)
    pairs = {"d": [Pair("a", "b", 1, "d"), Pair("c", "d", 1, "d"), Pair("e", "f", 0, "d")]}
    same = {"d": np.array([0.3, 0.2, 0.1])}
    assert paired_p(same, same, pairs) == 1.0


def test_dense_gradients_of_equal_domains_agree_and_leave_no_trace():
    """Mechanism: feed-forward weights that all domains share have a cosine; modes stay."""
    words = ["model.routing=dense", "model.domain_tokens=false", "model.dropout=0"]
    module, cfg = module_of(*words), config(*words)
    actual = gradient_cosines(cfg, module)
    assert abs(actual["gradient_cosine"]) > 1e-3
    assert module.training
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("words", [[], ["model.routing=dense"], ROUTED["token"]])
def test_gradients_of_an_encoder_that_was_on_a_gpu_in_inference_mode(words):
    """`evaluated` moves it there and back within the evaluation: no backward pass saves what comes
    out.
    """
    module, cfg = module_of(*words), config(*words)
    expected = gradient_cosines(cfg, module)
    with torch.inference_mode():
        tensors = [*module.encoder.parameters(), *module.encoder.buffers()]
        for tensor in tensors:
            tensor.data = tensor.data.clone()
        assert all(tensor.is_inference() for tensor in tensors)
        assert gradient_cosines(cfg, module) == expected


def test_gradients_are_compared_by_one_process_alone(monkeypatch):
    """Only the main process evaluates: a collective would wait for the others for ever."""

    def never(rows):
        raise AssertionError("rows of other processes are asked for")

    monkeypatch.setattr("projects.moe_embeddings.objective.all_gather_with_grad", never)
    module = module_of()
    assert gradient_cosines(config(), module).keys() == {
        "gradient_cosine",
        "shared_gradient_cosine",
    }
    assert gradient_cosines(config("data.domains=[red]"), module) == {}


def test_the_validation_loss_is_a_mean_over_positive_pairs():
    """A batch counts by its positive pairs, not by its size."""
    module = module_of().eval()
    pairs = load_pairs(config(), "valid")["red"]
    right, wrong = ([p for p in pairs if p.label == y] for y in (1, 0))
    batches = [right[:5], [right[5], *wrong[:7]]]
    for batch in batches:
        module.validation.add(batch, module.objective)
    sides = [
        module.encoder.encode([p[i] for p in right[:5]], "red", normalize=False) for i in (0, 1)
    ]
    expected = float(module.objective(*sides).loss) * 5 / 6  # the other one has no negatives: 0
    actual = module.validation.result()
    assert actual["loss"] == pytest.approx(expected, rel=1e-5)
    assert {"f1", "auc"} <= actual.keys()


def test_a_reference_that_is_not_here_costs_its_row_alone(tmp_path):
    """Offline the rows of the trained model are not lost; `make check` names the weights."""
    words = ["eval.references={gone: nobody/nothing}", *QUICK]
    actual = build(config(*words)).evaluate(module_of().eval(), Workspace(tmp_path))
    assert "all_auc" in actual
    assert not any(name.startswith("gone_") for name in actual)
    assert "weights: nobody/nothing" in {r.name for r in requirements(config(*words))}
    assert "weights: bundled:text-encoder" in {r.name for r in requirements(config(name="mini"))}


@pytest.mark.slow
def test_the_control_by_hash_is_neither_exported_nor_searched(tmp_path):
    """Its experts are not those of domains, by which an export routes."""
    words = ["method.assignment=hashed"]
    with pytest.raises(UserError, match="is a control"):
        build(config(*words)).export(module_of(*words).eval(), tmp_path)
    train(
        "moe_embeddings",
        "smoke",
        [f"runs_dir={tmp_path}", "run_id=h", "trainer.max_steps=1", *words, *QUICK],
    )
    with pytest.raises(UserError, match="is a control"):
        build(config(f"runs_dir={tmp_path}", "use.run=h")).tasks["search"](
            Workspace(tmp_path / "t", "moe_embeddings", "smoke")
        )


def test_training_separates_domains_whose_words_mean_different_things():
    """Forty steps on conflicting domains: the loss falls, positive pairs of all find each other."""
    from tests.projects.moe_embeddings.conftest import batch_of

    words = ["model.dropout=0", "model.attention_dropout=0"]
    module, cfg = module_of(*words), config(*words)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    rng, losses = np.random.default_rng(0), []
    for _ in range(40):
        batch = batch_of(module, cfg, [int(i) for i in rng.choice(180, 12, replace=False)])
        optimizer.zero_grad()
        losses.append(module.losses(batch)["loss"])
        losses[-1].backward()
        optimizer.step()
    first, last = (float(torch.stack(part).mean().detach()) for part in (losses[:5], losses[-5:]))
    assert last < 0.8 * first


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["f1", "loss"])
def test_training_stops_early_on_validation_pairs(monitor, tmp_path, monkeypatch):
    """Sheet, recipe: patience on F1 of the validation part, or on its loss; the best step is
    kept."""
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    actual = lambda scores: {"loss": (x := next(losses)), "f1": -x, "auc": 0.5}  # noqa: E731
    monkeypatch.setattr(PairScores, "result", actual)
    words = [
        f"runs_dir={tmp_path}",
        *QUICK,
        "trainer.max_steps=6",
        "trainer.val_every_n_steps=1",
        "method.patience=2",
        f"method.monitor={monitor}",
    ]
    folder = train("moe_embeddings", "smoke", words) / "checkpoints/train"
    assert max(ckpt.validations(folder)) == 4
    assert ckpt.load(folder / "best.ckpt")["global_step"] == 2


@pytest.mark.slow
def test_a_resumed_run_stops_at_the_same_validation(tmp_path):
    """No validation is lost from the count: checkpoints are written before their validation."""
    words = [
        f"runs_dir={tmp_path}",
        "run_id=r",
        *QUICK,
        "trainer.max_steps=12",
        "trainer.val_every_n_steps=1",
        "trainer.checkpoint_every_n_steps=1",
        "trainer.keep_checkpoints=12",
        "optim.lr=1.0e-12",
        "method.patience=1",
    ]
    folder = train("moe_embeddings", "smoke", words) / "checkpoints/train"
    last = max(ckpt.validations(folder))
    assert 2 <= last < 12
    (folder / f"step-{last:08d}.ckpt").unlink()
    (folder / "finished.json").unlink()
    train("moe_embeddings", "smoke", [*words, "resume=r"])
    assert max(ckpt.validations(folder)) == last
    assert ckpt.newest_intact(folder)[0] == folder / f"step-{last:08d}.ckpt"


@pytest.mark.slow
def test_single_domain_models_are_dense_models_of_one_domain(tmp_path):
    """Checklist 17: trained on one domain, measured at home, elsewhere and on the union."""
    words = [
        f"runs_dir={tmp_path}",
        *QUICK,
        "model.routing=dense",
        "data.train_domains=[green]",
        "trainer.max_steps=2",
    ]
    actual = metrics_of(train("moe_embeddings", "smoke", words))
    assert actual["home_auc"] == actual["green_auc"]
    assert {"red_auc", "all_auc"} <= actual.keys()


def test_checklist_18_one_index_holds_all_domains_and_is_searched(full_run, tmp_path, capsys):
    """Checklist 18: vectors with the number of their domain; hits of any domain, or of one."""
    rows = [
        {"text": f"{w} kilu", "domain": d}
        for w in ("babado", "mona", "peri")
        for d in ("red", "blue")
    ]
    write_jsonl(tmp_path / "docs.jsonl", rows)
    words = [f"runs_dir={full_run.parents[2]}", f"use.file={tmp_path}/docs.jsonl", "use.run=full"]

    def run(task, *further):
        cfg = config(*words, *further)
        return build(cfg).tasks[task](Workspace(tmp_path / task, "moe_embeddings", "smoke"))

    folder = run("embed")
    stored = read_state_dict(folder / "embeddings.safetensors")
    assert stored["embeddings"].shape == (6, 32)
    assert stored["domain"].tolist() == [0, 2, 0, 2, 0, 2]
    assert read_jsonl(folder / "documents.jsonl") == rows
    hits = run("search", "use.query=babado kilu", "use.query_domain=red", "use.k=4")
    assert {hit["domain"] for hit in hits} == {"blue", "red"}
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    only = run("search", "use.domain=blue", "use.k=9")
    assert {hit["domain"] for hit in only} == {"blue"}
    run("embed", f"use.output={tmp_path}/new/folder")
    assert (tmp_path / "new/folder/documents.jsonl").is_file()
    write_jsonl(tmp_path / "bad.jsonl", [*rows, {"text": None, "domain": "red"}])
    with pytest.raises(UserError, match="document 7 has no text"):
        run("embed", f"use.file={tmp_path}/bad.jsonl")
    assert "blue: babado kilu" in capsys.readouterr().out
    for wrong, said in (
        ("use.query=x", "use.query_domain"),
        ("use.domain=green", "no document of the domain"),
    ):
        with pytest.raises(UserError, match=said):
            run("search", wrong)


def test_embed_works_in_blocks_that_show_progress(tmp_path, monkeypatch):
    """Documents of hours showed nothing; the vectors stay in the order of the file."""
    module, seen = module_of(), []
    monkeypatch.setattr(tasks, "trained_module", lambda *_: (module, None))
    monkeypatch.setattr(tasks, "BLOCK", 1)
    names = module.encoder.layout.domains
    rows = [{"text": f"{'word ' * (i % 4)}{i}", "domain": names[i % 2]} for i in range(5)]
    write_jsonl(tmp_path / "docs.jsonl", rows)
    place = Workspace(tmp_path / "w")
    place.progress = lambda parts, name, total: seen.append(total) or parts
    folder = tasks.embed(
        config(f"use.file={tmp_path}/docs.jsonl", "eval.batch_size=2"), None, place
    )
    actual = read_state_dict(folder / "embeddings.safetensors")["embeddings"]
    want = module.encoder.encode([r["text"] for r in rows], [r["domain"] for r in rows])
    torch.testing.assert_close(actual, want)
    assert seen == [3]


@pytest.mark.slow
def test_pairs_of_own_citations_train(tmp_path):
    """TASK=pairs writes what data.paths reads; then a run on it."""
    domains = ("soil", "sea")
    docs = [
        {"id": f"{d}{i}", "text": f"{d} words {i} {i % 7}", "domain": d}
        for d in domains
        for i in range(60)
    ]
    write_jsonl(tmp_path / "docs.jsonl", docs)
    lines = [f"r{d}{i % 7},{d}{i}" for d in domains for i in range(60)] + ["soil1,soil1"]
    (tmp_path / "cites.csv").write_text("citing,cited\n" + "\n".join(lines) + "\n")
    words = [
        f"pairs.citations={tmp_path}/cites.csv",
        f"pairs.documents={tmp_path}/docs.jsonl",
        "pairs.most=20",
        "pairs.shares=[0.2, 0.3]",
    ]
    folder = build(config(*words)).tasks["pairs"](Workspace(tmp_path / "task"))
    labels = [row["label"] for row in read_jsonl(folder / "sea/test.jsonl", ("a", "b", "label"))]
    assert labels.count(1) == labels.count(0) > 5
    own = [
        "data.source=files",
        "data.domains=[soil, sea]",
        f"data.root={folder}",
        "data.paths={soil: soil, sea: sea}",
        "trainer.max_steps=2",
        *QUICK,
    ]
    run = train("moe_embeddings", "smoke", [f"runs_dir={tmp_path}", *own])
    assert {"soil_f1", "sea_f1", "all_f1"} <= metrics_of(run).keys()
    with pytest.raises(UserError, match="name pairs.citations"):
        build(config()).tasks["pairs"](Workspace(tmp_path / "task"))
    write_jsonl(tmp_path / "docs.jsonl", [*docs, {"id": "sea1", "text": "other", "domain": "sea"}])
    with pytest.raises(UserError, match="the id 'sea1' and differ"):
        build(config(*words)).tasks["pairs"](Workspace(tmp_path / "task"))
    write_jsonl(
        tmp_path / "docs.jsonl",
        [*docs, *({"id": f"sea{i}", "text": None, "domain": "sea"} for i in range(60, 67))],
    )
    (tmp_path / "cites.csv").write_text(
        "citing,cited\n" + "\n".join([*lines, *(f"q,sea{i}" for i in range(60, 67))]) + "\n"
    )
    folder = build(config(*words)).tasks["pairs"](Workspace(tmp_path / "nulls"))
    assert "None" not in (folder / "sea/train.jsonl").read_text()


@pytest.mark.parametrize(
    ("docs", "cites", "told"),
    [
        ([], ["a,b"], "has no document"),
        ([{"id": "a", "text": ["x"]}], ["a,b"], "document 1: id is a name"),
        ([{"id": None, "text": "x"}], ["a,b"], "document 1: id is a name"),
        ([{"id": "a", "text": "x"}], ["r,a", ",a"], "row 2: nothing stands under 'citing'"),
    ],
)
def test_pairs_of_broken_files_are_told(docs, cites, told, tmp_path):
    """Nothing was written without a word, lists were texts, and rows without a name cited
    together."""
    write_jsonl(tmp_path / "docs.jsonl", docs)
    (tmp_path / "cites.csv").write_text("citing,cited\n" + "\n".join(cites) + "\n")
    words = [f"pairs.citations={tmp_path}/cites.csv", f"pairs.documents={tmp_path}/docs.jsonl"]
    with pytest.raises(UserError, match=told):
        build(config(*words)).tasks["pairs"](Workspace(tmp_path / "task"))


def test_pairs_say_what_they_leave_out(tmp_path, capsys):
    """A domain cut to `pairs.most`, empty and equal documents and unknown ids once left no
    trace."""
    docs = [{"id": f"d{i}", "text": f"words {i}"} for i in range(30)]
    docs += [{"id": "e", "text": " "}, {"id": "f", "text": "words 0"}]
    write_jsonl(tmp_path / "docs.jsonl", docs)
    cites = [f"r{i},d{i + k}" for i in range(28) for k in range(3)] + ["r0,gone", "r1,gone"]
    (tmp_path / "cites.csv").write_text("citing,cited\n" + "\n".join(cites) + "\n")
    words = [
        f"pairs.citations={tmp_path}/cites.csv",
        f"pairs.documents={tmp_path}/docs.jsonl",
        f"pairs.output={tmp_path}/out",
    ]
    words += ["pairs.most=4", "pairs.shares=[0.0, 0.4]"]
    build(config(*words)).tasks["pairs"](Workspace(tmp_path / "task"))
    said = capsys.readouterr().out
    rows = {
        p: read_jsonl(tmp_path / f"out/all/{p}.jsonl", ("a", "b", "label"))
        for p in ("train", "test")
    }
    kept = sum(row["label"] for own in rows.values() for row in own)
    assert "2 of 86 citations name no document" in said
    assert f"all: {kept} of 57 co-cited pairs kept; left out: " in said
    assert "1 documents without text, 1 documents with the text of another one" in said
    counts = {
        what: int(count)
        for count, what in re.findall(r"(\d+) (pairs across parts|pairs above)", said)
    }
    assert kept == 8
    assert counts["pairs across parts"] + counts["pairs above"] == 57 - kept


def test_baselines_have_the_names_of_the_method(tmp_path):
    for name in ("tfidf", "untrained"):
        actual = getattr(baselines, name)(config(), Workspace(tmp_path / name))
        assert {"all_auc", "all_f1", "macro_auc"} <= actual.keys()
        assert (tmp_path / name / "items/all_auc.json").is_file()


def test_the_comparison_has_the_paper_s_arms():
    """Checklist 17: dense and experts by default; single domains, one layer, routers on demand."""
    spec = read_comparison("moe_embeddings")
    assert {"dense", "moe", "wrong_routing"} == set(default_arms(spec))
    assert "moe > untrained and moe > raw" in {claim.text for claim in claims_of(spec)}
    assert {"single@cisi", "single@npl", "single@esco", "one_layer", "sentence"} <= set(spec.arms)


def test_validation_of_a_diverged_encoder_ends_the_run_in_words():
    module = module_of()
    module.validation.seen = [(float("nan"), 1, 0.5), (0.1, 0, float("nan"))]
    with pytest.raises(UserError, match=r"diverged: lower optim\.lr"):
        module.validation.result()
