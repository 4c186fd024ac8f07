"""Stages, evaluation, resume, export, check and tasks, as the commands drive them."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from common.config import ROOT, UserError
from common.data.row_map.options import RowMapConfig
from common.encoders.modes import untrained
from common.engine import checkpoint as ckpt
from common.engine.callbacks import seed_all, step_seed
from common.engine.check import inspect
from common.engine.comparison.spec import default_arms, read_comparisons
from common.engine.run import prepare, train
from common.engine.sweeps.schema import read_sweep, words_of
from common.engine.trained import evaluate, export
from common.engine.workspace import Workspace
from projects.nv_embed import baselines, build
from projects.nv_embed import tasks as own_tasks
from projects.nv_embed.data.records import read_task
from projects.nv_embed.data.training_sets import described
from projects.nv_embed.embedding_benchmark.sets import Classes
from projects.nv_embed.encoder.exported import load_instructed
from projects.nv_embed.evaluate import class_cosines
from projects.nv_embed.module import NvEmbed
from projects.nv_embed.stages import build_encoder, recipe_of, stage_plans, stages, trained_on
from projects.nv_embed.tasks import english_tasks, mine, mteb
from tests.figures import unrendered
from tests.projects.nv_embed.conftest import batch_of, config, module

FEW = ["eval.tasks=[retrieval,sts]", "eval.primary=[retrieval,sts]", "tracking.wandb=disabled"]


def final(run, stage):
    path = ckpt.finished(run / "checkpoints" / stage)
    assert path is not None
    return ckpt.load(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    words = [f"runs_dir={folder}", "run_id=r", "tracking.wandb=disabled"]
    with unrendered():  # the smoke test renders them
        return train("nv_embed", "smoke", words)


@pytest.fixture(scope="module")
def exported(trained):
    return export("nv_embed", "smoke", [f"runs_dir={trained.parents[2]}"], str(trained), None)


def test_schedules_have_equal_total_steps():
    """Checklist 17: two stages, reversed, single with and without in-batch negatives."""
    actual = {}
    for schedule in ("two_stage", "reversed", "single", "single_in_batch"):
        plans = stage_plans(config(f"method.schedule={schedule}", "method.stage_1_steps=1"))
        assert sum(plan.steps for plan in plans) == 4
        actual[schedule] = [(plan.retrieval_only, plan.in_batch) for plan in plans]
    assert actual == {
        "two_stage": [(True, True), (False, False)],
        "reversed": [(False, False), (True, True)],
        "single": [(False, False)],
        "single_in_batch": [(False, True)],
    }
    with pytest.raises(UserError, match="stage_1_steps"):
        config("method.stage_1_steps=4")


def test_a_stage_without_rate_of_its_own_has_the_other_s():
    """One search serves all arms: method.stage_2_lr=null follows optim.lr."""
    for schedule, rates in (("two_stage", [0.5, 0.5]), ("single", [0.5])):
        cfg = config("optim.lr=0.5", "method.stage_2_lr=null", f"method.schedule={schedule}")
        encoder = build_encoder(cfg.model)
        actual = [NvEmbed(cfg, encoder, in_batch=plan.in_batch) for plan in stage_plans(cfg)]
        assert [module.optim.lr for module in actual] == rates


def test_the_comparison_has_equal_arms_equal_search_and_fresh_seeds():
    """Default arms differ in the objective or the documents alone, and have one search; it reads no
    test part.
    """
    few, whole = read_comparisons("nv_embed")
    sweep = read_sweep("nv_embed")
    shared = {"sets", "steps", "batch", "tasks"}
    for spec in (few, whole):
        arms = {}
        for name in default_arms(spec):
            own = {k: v for k, v in spec.arms[name].items() if k != "optim.lr"}
            cfg = config(*words_of(spec.shared), *words_of(own), name=spec.base)
            own_sets = {k: v.samples for k, v in trained_on(cfg).data.sets.items()}
            arms[name] = {
                "sets": own_sets,
                "steps": cfg.trainer.max_steps,
                "tasks": (cfg.eval.tasks, cfg.eval.primary),
                "batch": (cfg.data.batch_size, cfg.data.num_negatives),
            }
        assert all(arm == next(iter(arms.values())) for arm in arms.values())
        assert set(next(iter(arms.values()))) == shared
        assert sweep.seed not in spec.seeds
        assert not {0, 1, 2} & {*spec.seeds}  # those of the design before
    assert sweep.arms == [*default_arms(few), *default_arms(whole)]
    assert sweep.shared["eval.split"] == "dev"
    assert config(name="mini").method.stage_2_lr is None
    assert config(name="mini").eval.max_items is None
    assert list(few.arms["few_classes"]["method.without"]) == [
        "wikides",
        "nli",
        "banking77",
        "stsb",
    ]


def test_paper_ablations_of_the_data():
    """Checklist 12 and the table S0 to S3: what each adds to the one before."""
    actual = {}
    for name in ("paper_s0", "paper_s1", "paper_s2", "paper"):
        sets = trained_on(config(name=name)).data.sets
        actual[name] = {k: (v.path, v.samples) for k, v in sets.items()}
    assert len(actual["paper"]) == 37
    assert actual["paper"].keys() - actual["paper_s2"].keys() == {"synthetic_pairs"}
    new = {"hover", "scifact", "nfcorpus", "miracl", "mrtydi"}
    assert actual["paper_s2"].keys() - actual["paper_s1"].keys() == new
    assert actual["paper_s0"].keys() == actual["paper_s1"].keys()
    other = {k for k, v in actual["paper_s0"].items() if v != actual["paper_s1"][k]}
    assert other == {k for k, (path, _) in actual["paper_s1"].items() if path.startswith("mined/")}
    assert {
        "sts12",
        "sts22",
        "sts_benchmark",
        "msmarco",
    } <= other  # retrieval sets and STS are mined
    assert all(actual["paper_s0"][k][0].startswith("naive/") for k in other)


@pytest.mark.slow
def test_no_paper_config_trains_on_arguana_s_test_part():
    """BEIR has no other part of it; the original corpus's training part is given as the card
    says."""
    names = [path.stem for path in (ROOT / "configs/nv_embed").glob("paper*.yaml")]
    assert len(names) > 8
    assert not any("arguana" in config(name=name).data.sets for name in names)
    own = "data.sets.arguana={path: mined/arguana.jsonl, layout: records, samples: 4000}"
    for name in ("paper", "paper_s0"):
        cfg = config(own, name=name)
        assert described("arguana", cfg.data.sets["arguana"]).kind == "retrieval"
        assert cfg.data.sets["arguana"].samples == 4000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["chance", "tfidf", "word_vectors", "raw_mean", "whitened_mean", "untrained"]
)
def test_baselines_score_the_sets_of_the_arms(trained, tmp_path, name):
    """Under the names that trained arms have, with items; none of them is the trained encoder."""
    cfg = config(*FEW)
    actual = getattr(baselines, name)(cfg, Workspace(tmp_path))
    assert {"retrieval_ndcg_at_10", "sts_spearman", "primary_average"} <= actual.keys()
    items = json.loads((tmp_path / "items/primary_average.json").read_text())
    assert sum(items) / len(items) == pytest.approx(actual["primary_average"])
    stored = json.loads((trained / "metrics.json").read_text())
    if name == "tfidf":
        assert actual["retrieval_ndcg_at_10"] == stored["tfidf_retrieval_ndcg_at_10"]
    assert actual["retrieval_ndcg_at_10"] != stored["retrieval_ndcg_at_10"]
    if name == "chance":
        assert actual["retrieval_ndcg_at_10"] < 0.3


def test_cosines_within_and_between_classes():
    rows = {"a": [1.0, 0], "b": [0.6, 0.8], "c": [0, 1.0]}
    data = Classes("", [], [], ["a", "b", "c"], [0, 0, 1])
    actual = class_cosines(lambda texts, _: torch.tensor([rows[t] for t in texts]), data)
    assert actual == pytest.approx({"within_cosine": 0.6, "between_cosine": 0.4})


def test_second_stage_goes_on_with_the_weights_and_a_new_optimiser():
    """Checklist 11: one encoder, two modules, each with its own learning rate and steps."""
    cfg = config("optim.lr=0.5", "method.stage_2_lr=0.25")
    first, second = stages(cfg)
    assert first.module is not second.module
    assert first.module.encoder is second.module.encoder
    assert (first.module.optim.lr, second.module.optim.lr) == (0.5, 0.25)
    assert first.trainer == {"max_steps": 2}
    assert {t.kind for t in first.data.train_set.tasks} == {"retrieval"}
    assert len(second.data.train_set.tasks) == 3


@pytest.mark.slow
def test_second_stage_starts_fresh_in_the_fit(trained):
    """Checklist 11: step count, optimiser and schedule begin anew; weights moved in both."""
    one, two = final(trained, "retrieval"), final(trained, "blended")
    assert one["global_step"] == two["global_step"] == 2
    steps = {float(s["step"]) for s in two["optimizer_states"][0]["state"].values()}
    assert steps == {2.0}
    assert two["lr_schedulers"][0]["last_epoch"] == 2
    name = "encoder.pooler.layer.latents"
    assert not torch.equal(one["state_dict"][name], two["state_dict"][name])


def base_weights(state):
    """Those of the language model without adapters."""
    actual = {n: v for n, v in state.items() if n.startswith("encoder.model.") and "lora_" not in n}
    assert len(actual) > 10
    return {n.replace(".base_layer", ""): v for n, v in actual.items()}


def test_base_weights_are_bit_identical_after_training(trained):
    """Checklist 10, through the engine, from the start to the end; adapters and pooler did move."""
    seed_all(step_seed(0, 0, 0, 0))
    start = next(stages(config())).module.state_dict()
    one, two = (final(trained, s)["state_dict"] for s in ("retrieval", "blended"))
    for name, value in base_weights(start).items():
        assert torch.equal(base_weights(one)[name], value), name
        assert torch.equal(base_weights(two)[name], value), name
    adapters = [n for n in two if "lora_B" in n]
    assert all(bool(two[n].abs().sum() > 0) for n in adapters)
    name = "encoder.pooler.layer.latents"
    assert not torch.equal(start[name], one[name])


def test_without_adapters_the_base_weights_are_trained():
    """The negative twin of checklist 10: by a step of the optimiser that the module's groups
    make."""
    model = module("model.lora_rank=null", in_batch=True).train()
    start = {name: value.clone() for name, value in base_weights(model.state_dict()).items()}
    optimizer = torch.optim.SGD(model.parameter_groups(), lr=0.5)
    model.losses(batch_of(8))["loss"].backward()
    optimizer.step()
    after = base_weights(model.state_dict())
    assert not any(torch.equal(start[n], after[n]) for n in after if n.endswith("q_proj.weight"))


def test_what_is_trained_stays_in_float32_beside_a_frozen_model_in_bfloat16():
    """The paper config's precision: a step of its rate, 2e-5, is not rounded away, as it is in
    bfloat16.
    """
    paper = config(name="paper")
    assert paper.trainer.precision == "bf16-mixed"  # bf16-true would round what is trained as well
    model = module(f"model.weights={paper.model.weights}", in_batch=True).train()
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.losses(batch_of(8))["loss"]
    loss.backward()
    torch.optim.AdamW(model.parameter_groups(), lr=paper.optim.lr).step()
    latents = "encoder.pooler.layer.latents"
    for name, before in start.items():
        after = model.get_parameter(name).detach()
        assert after.dtype == torch.float32
        if name == latents or "lora_B" in name:  # A has no gradient while B is zero
            assert float((after - before).abs().max()) == pytest.approx(paper.optim.lr, rel=0.2)
    rounded = start[latents].bfloat16()
    assert (rounded - paper.optim.lr == rounded).float().mean() > 0.9  # but for a few near zero


def test_evaluation_covers_the_seven_types(trained):
    """Checklist 16: one main score per task, averages by type, retrieval apart."""
    metrics = json.loads((trained / "metrics.json").read_text())
    for name in (
        "retrieval_ndcg_at_10",
        "reranking_map",
        "classification_accuracy",
        "clustering_v_measure",
        "pair_classification_average_precision",
        "sts_spearman",
        "summarisation_spearman",
    ):
        assert -1 <= metrics[name] <= 1, name
    assert metrics["retrieval_average"] == metrics["retrieval_ndcg_at_10"]
    assert metrics["classification_accuracy_chance"] == 0.25
    kinds = [v for k, v in metrics.items() if k.endswith("_average") and "primary" not in k]
    assert len(kinds) == 7
    assert metrics["average"] == pytest.approx(sum(kinds) / 7)
    three = [
        metrics[k] for k in ("retrieval_ndcg_at_10", "classification_accuracy", "sts_spearman")
    ]
    assert metrics["primary_average"] == pytest.approx(sum(three) / 3)
    items = json.loads((trained / "items/primary_average.json").read_text())
    assert sum(items) / len(items) == pytest.approx(metrics["primary_average"])
    assert list((trained / "gallery").iterdir())
    # the trivial baseline beside every task: of made-up sets, those that share words are easy
    assert metrics["tfidf_retrieval_ndcg_at_10"] == metrics["tfidf_reranking_map"] == 1.0
    assert metrics["tfidf_primary_average"] < 1
    items = json.loads((trained / "items/tfidf_primary_average.json").read_text())
    assert sum(items) / len(items) == pytest.approx(metrics["tfidf_primary_average"])
    assert 0 <= metrics["own_class_negatives"] <= 1


def test_queries_outside_training_are_instructed_and_documents_are_not():
    cfg = config("eval.instruction=Find a name")
    recipe = recipe_of(cfg)
    encoder, texts = recipe.build().eval(), ["the cat sleeps", "two men"]
    told = encoder.encode(texts, instruction="Find a name")
    plain = encoder.encode(texts)
    assert not torch.allclose(told, plain, atol=1e-3)
    torch.testing.assert_close(recipe.queries(encoder, texts), told)
    torch.testing.assert_close(recipe.documents(encoder, texts), plain)


@pytest.mark.usefixtures("unrendered_figures")
def test_the_encoder_before_training_beside(tmp_path):
    cfg = config("eval.untrained=true", "eval.lexical=false", *FEW)
    experiment = build(cfg)
    module = next(experiment.stages()).module
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.mul_(0.5)
    metrics = experiment.evaluate(module, Workspace(tmp_path))
    raw = build(config(*FEW)).evaluate(
        NvEmbed(cfg, untrained(recipe_of(cfg).build, cfg.seed)), Workspace(tmp_path)
    )
    for name in ("retrieval_ndcg_at_10", "sts_spearman", "primary_average"):
        assert metrics[f"untrained_{name}"] == pytest.approx(raw[name])
    assert metrics["sts_spearman"] != pytest.approx(raw["sts_spearman"])
    assert not any(name.startswith("tfidf_") for name in metrics)


@pytest.mark.usefixtures("unrendered_figures")
def test_export_reloads_with_equal_embeddings(trained, exported, tmp_path):
    """Merged folder: our loader, and plain transformers with the mask still bidirectional."""
    from transformers import AutoModel

    folder = exported
    _, experiment = prepare("nv_embed", "smoke", [])
    module = experiment.plan().module()
    ckpt.load_weights(module, ckpt.finished(trained / "checkpoints/blended"))
    expected, actual = (
        experiment.embed(module.eval()),
        experiment.embed(experiment.load_export(folder)),
    )
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)
    assert AutoModel.from_pretrained(folder).config.is_causal is False
    assert not list(folder.rglob("*.py"))
    _, metrics = evaluate("nv_embed", "smoke", [f"runs_dir={tmp_path}", *FEW], None, str(folder))
    stored = json.loads((trained / "metrics.json").read_text())
    assert metrics["sts_spearman"] == pytest.approx(stored["sts_spearman"], abs=1e-3)
    with pytest.raises(UserError, match="not an exported"):
        load_instructed(tmp_path)


def test_sentence_transformers_gives_equal_embeddings(trained):
    """The class is this repository's; no code lies in the folder."""
    library = pytest.importorskip("sentence_transformers", reason="needs the 'eval' group")
    from projects.nv_embed.encoder.exported import save_instructed
    from projects.nv_embed.encoder.opened import open_in_sentence_transformers

    _, experiment = prepare("nv_embed", "smoke", [])
    module = experiment.plan().module()
    ckpt.load_weights(module, ckpt.finished(trained / "checkpoints/blended"))
    folder = save_instructed(module.encoder, trained / "st", {"titles": "find a title"})
    texts = ["the cat sleeps", "two men", "a long walk in the old town"]
    expected = module.encoder.encode(texts, instruction="find a title")
    plain = module.encoder.encode(texts)
    opened = open_in_sentence_transformers(folder)
    trusted = library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    for model in (opened, trusted):
        actual = torch.from_numpy(model.encode(texts, prompt_name="titles"))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            torch.from_numpy(model.encode(texts)), plain, rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_check_of_the_paper_config_says_what_each_strategy_takes():
    """Parameters as in the release; memory by strategy; what is missing."""
    table = inspect("nv_embed", "paper", [])
    assert table["parameters"].startswith("7,8")  # 7.11 B + 0.74 B pooler + adapters
    trained = float(table["parameters"].split("(")[1].split(" ")[0].replace(",", ""))
    assert 740 < trained < 800
    assert table["negatives per query"] == f"{128 * 8 - 1:,}"
    assert table["steps"] == "38,000"

    def gib(name):
        return [float(part.split(" GiB")[0].split()[-1]) for part in table[name].split(";")]

    alone, eight = gib("memory, one device, or DDP"), gib("memory, FSDP on 8 devices")
    assert alone[1] < alone[0]
    assert eight[1] < alone[1] - 10  # most of 14.6 GiB of weights are elsewhere
    assert "MISSING" in table["weights: mistralai/Mistral-7B-v0.1"]
    assert "MISSING" in table["data: msmarco"]


def test_check_of_weights_that_are_here_builds_their_shapes(exported):
    words = [f"model.pretrained={exported}", "model.config=null"]
    table = inspect("nv_embed", "smoke", words)
    assert table["parameters"] == inspect("nv_embed", "smoke", [])["parameters"]


def test_fsdp_shards_the_blocks():
    from common.engine.sharding import Sharded
    from common.engine.trainer import _strategy

    cfg = config("trainer.strategy=fsdp", "trainer.devices=2", "trainer.precision=bf16-true")
    units = NvEmbed(cfg, build_encoder(cfg.model)).fsdp_units()
    assert [unit.__name__ for unit in units] == ["LlamaDecoderLayer"]
    assert isinstance(_strategy(cfg.trainer), Sharded)


def test_mining_task_writes_records_that_train(exported, tmp_path):
    """Checklist 7, with BM25 and with an exported encoder as the teacher."""
    for teacher in ("bm25", f"encoder data.mining.encoder={exported}"):
        cfg = config(
            *f"data.mining.teacher={teacher}".split(), f"data.mining.output={tmp_path / 'm'}"
        )
        out = mine(cfg, Workspace(tmp_path / "task"), build(cfg))
        if teacher == "bm25":  # an encoder's batches round differently
            at_once = (out / "retrieval.jsonl").read_bytes()
            small = replace(cfg, task=RowMapConfig(chunk_size=5))
            mine(small, Workspace(tmp_path / "chunks"), build(small))
            assert (out / "retrieval.jsonl").read_bytes() == at_once
        task = read_task(out / "retrieval.jsonl")
        assert sum(len(r.negatives) for r in task.records) > len(task.records) / 2
        assert not any(set(r.negatives) & {r.query, *r.positives} for r in task.records)
        assert (out / "sts.jsonl").is_file()
        assert not (out / "classification.jsonl").exists()
    assert "negatives each" in (tmp_path / "task/notes.txt").read_text()
    with pytest.raises(UserError, match="give a teacher"):
        mine(config("data.mining.teacher=none"), Workspace(tmp_path), build(cfg))


def test_mteb_tasks_are_those_of_the_english_benchmark(monkeypatch):
    """Checklist 16: the benchmark's own task (language and split), not all languages of that
    name."""
    task = SimpleNamespace(metadata=SimpleNamespace(name="STS17"), hf_subsets=["en-en"])
    asked = []
    library = SimpleNamespace(
        get_benchmark=lambda name: asked.append(name) or SimpleNamespace(tasks=[task])
    )
    monkeypatch.setitem(sys.modules, "mteb", library)
    assert english_tasks(["STS17", "Other"]) == [task, "Other"]
    assert asked == ["MTEB(eng, v1)"]
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UserError, match="mteb is not installed"):
        english_tasks(["STS17"])


def test_mteb_task(trained, tmp_path, monkeypatch):
    """Checklist 16: instructions reach the encoder apart from the text; averages by type."""
    import projects.nv_embed.embedding_benchmark.mteb as adapter

    seen = {}

    def fake(encoder, names, path, *, name, prompts, batch_size):
        seen.update(names=names, prompts=prompts, rows=encoder.encode_prompted(["a"], "find").shape)
        return {f"mteb_{task}": 0.5 for task in names}

    monkeypatch.setattr(adapter, "evaluate_mteb", fake)
    monkeypatch.setattr(own_tasks, "english_tasks", lambda names: names)
    cfg = config(f"runs_dir={trained.parents[2]}")
    scores = mteb(cfg, Workspace(tmp_path, "nv_embed", "smoke"), build(cfg))
    assert len(seen["names"]) == 56
    assert scores["mteb_average"] == scores["mteb_retrieval_average"] == 0.5
    assert "MSMARCO-query" in seen["prompts"]
    assert "STS12" in seen["prompts"]
    assert seen["rows"] == (1, 32)


@pytest.mark.usefixtures("unrendered_figures")
def test_a_task_takes_the_settings_that_the_run_was_trained_with(trained, tmp_path, monkeypatch):
    """An override that no weight shows, here the length of a text."""
    import json
    import shutil

    from common.engine.trained import trained_module

    run = tmp_path / "nv_embed/smoke/other"
    shutil.copytree(trained, run)
    meta = json.loads((run / "meta.json").read_text())
    meta["resolved"]["model"]["max_length"] = 7
    (run / "meta.json").write_text(
        json.dumps({**meta, "overrides": [*meta["overrides"], "model.max_length=7"]})
    )
    cfg = config(f"runs_dir={tmp_path}")
    workspace = Workspace(tmp_path / "task", "nv_embed", "smoke")
    module, actual = trained_module(build(cfg), workspace, "other", cfg.runs_dir)
    assert (module.encoder.max_length, actual) == (7, run)
    module, actual = trained_module(build(cfg), workspace, str(trained), cfg.runs_dir)
    assert module.encoder.max_length != 7
    build(cfg).export(module, tmp_path / "export")
    exported = str(tmp_path / "export")
    assert trained_module(build(cfg), workspace, exported, cfg.runs_dir)[1] is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert trained_module(build(cfg), workspace, "~/export", cfg.runs_dir)[1] is None
    assert (
        trained_module(build(cfg), workspace, f"~/{run.relative_to(tmp_path)}", "other")[1] == run
    )
