"""Runs, export, tasks and configs as the commands drive them: items 12 and 16."""

import json

import pytest
import torch

from common.config import UserError, config_names
from common.encoders.modes import evaluation_mode
from common.engine import checkpoint as ckpt
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from common.engine.workspace import Workspace
from projects.b_prop import build
from projects.b_prop.stages import at_start, build_ranker, stages
from tests.projects.b_prop.conftest import QUICK, batch_of, config, module_of, pairs_of
from tests.smoke import metrics_of


@pytest.fixture
def full_run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("b_prop")


# -- runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_learns_which_set_is_better():
    """Thirty steps on eight pairs: they are ordered; with labels that change, they are not."""

    def accuracy(labels):
        words = [f"words.labels={labels}", "method.mlm=false", "data.max_document=20"]
        data, module = pairs_of(*words), module_of(*words)
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
        batches = [dict(data[[(i, epoch) for i in range(8)]]) for epoch in range(10)]
        for step in range(30):
            optimizer.zero_grad()
            batch = batches[step % 10 if labels == "random" else 0]
            module.losses(batch)["loss"].backward()
            optimizer.step()
        with evaluation_mode(module):
            return float(module.losses(batches[0])["pair_accuracy"])

    assert accuracy("score") == 1
    assert accuracy("random") < 1


def test_item_16_one_table_holds_all_rows(full_run):
    """Checklist 16: zero-shot, fine-tuned, the curve, without pre-training; BM25 in the same
    table."""
    actual = metrics_of(full_run)
    rows = [
        "",
        "tuned_",
        "tuned_3_",
        "untrained_",
        "untrained_tuned_",
        "untrained_tuned_3_",
        "bm25_",
        "ql_",
        "overlap_",
        "random_",
        "oracle_",
    ]
    for row in rows:
        items = json.loads((full_run / f"items/{row}synthetic_ndcg_at_10.json").read_text())
        assert len(items) == 12
        assert actual[f"{row}synthetic_ndcg_at_10"] == pytest.approx(sum(items) / 12)
        assert f"{row}synthetic_precision_at_20" in actual
    assert actual["oracle_synthetic_ndcg_at_10"] >= max(
        actual[f"{r}synthetic_ndcg_at_10"] for r in rows
    )
    assert "untrained_ql_tau" in actual
    assert [p.name for p in sorted((full_run / "checkpoints").iterdir())] == [
        "finetune",
        "pretrain",
    ]
    curve = (full_run / "metrics.csv").read_text()
    assert "val/ranking_loss" in curve


def test_item_16_the_arms_share_one_path_and_one_budget():
    """Checklist 16: arms differ in how words are drawn and whether their order is trained."""
    spec = read_comparison("b_prop")
    shared = {"trainer.max_steps", "data.batch_size", "eval.tune", "eval.depth"}
    for arm, overrides in spec.arms.items():
        own = {
            k
            for k in overrides
            if (k in shared or k.startswith("eval.tune")) and overrides[k] != spec.shared.get(k)
        }
        assert not own or (arm.endswith("no_pretraining") and own == {"trainer.max_steps"})
    assert spec.shared["trainer.max_steps"] == 800  # before that PROP orders pairs at chance
    assert spec.shared["optim.warmup_steps"] == 80
    named = {"no_pretraining", "mlm_only", "prop", "b_prop"}
    assert named == {*spec.default_arms}
    assert {"subtract", "vanilla"} | {f"curve_{arm}" for arm in named} <= spec.arms.keys()
    assert "bm25" in spec.baselines
    # masked words alone: the inputs of prop, without its term
    only, prop = ({**spec.arms[arm]} for arm in ("mlm_only", "prop"))
    assert only.pop("method.rop") is False
    assert only == prop


@pytest.mark.slow
def test_item_16_without_pre_training_no_weight_moves(tmp_path):
    """The arm's one step leaves what is fine-tuned as training begins with it."""
    own = read_comparison("b_prop").arms["no_pretraining"]
    words = [f"{key}={json.dumps(value)}" for key, value in own.items()]
    run = train("b_prop", "smoke", [*words, f"runs_dir={tmp_path}", "run_id=none", *QUICK])
    actual = ckpt.load(next((run / "checkpoints/pretrain").glob("step-*.ckpt")))["state_dict"]
    for name, value in at_start(config()).state_dict().items():
        torch.testing.assert_close(actual[f"ranker.{name}"], value, rtol=0, atol=1e-11, msg=name)


# -- weights in and out --------------------------------------------------------------------------


def test_export_reloads_with_equal_scores(tmp_path):
    experiment, module = build(config()), module_of().eval()
    experiment.export(module, tmp_path)
    before, after = (experiment.embed(m) for m in (module, experiment.load_export(tmp_path)))
    assert torch.equal(before["scores"], after["scores"])
    assert experiment.load_export(tmp_path).ranker.max_length == 64
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError):
        experiment.load_export(tmp_path)


@pytest.mark.slow
def test_item_12_fine_tuning_goes_on_from_an_export_with_its_head(tmp_path):
    """Checklist 12: head=keep trains the pre-trained head, head=new another; BERT has none to
    keep."""
    build(config()).export(module_of().eval(), tmp_path / "out")
    words = [
        f"runs_dir={tmp_path}",
        "method.pretrain=false",
        f"model.pretrained={tmp_path}/out",
        "model.config=null",
        "eval.sets=[]",
        "eval.query_counts=[]",
    ]
    run = train("b_prop", "smoke", [*words, "model.head=keep", "run_id=keep"])
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["finetune"]
    cfg = config(*words, "model.head=keep")
    head = build_ranker(cfg).model.classifier.weight
    assert torch.equal(head, module_of().ranker.model.classifier.weight)
    assert not torch.equal(
        build_ranker(config(*words, "model.head=new")).model.classifier.weight, head
    )
    with pytest.raises(UserError, match="head=new"):
        build_ranker(
            config("model.pretrained=bundled:text-encoder", "model.config=null", "model.head=keep")
        )
    with pytest.raises(UserError, match="nothing would be trained"):
        config("method.pretrain=false", "finetune.steps=0")


@pytest.mark.parametrize("head", ["keep", "new"])
def test_item_12_the_second_stage_keeps_the_head_or_draws_it_anew(head):
    """Checklist 12: finetune.head was read by nothing; the encoder goes on as it is."""
    steps = stages(config(f"finetune.head={head}"))
    old = {k: v.clone() for k, v in next(steps).module.ranker.state_dict().items()}
    new = next(steps).module.ranker.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved == ({"model.classifier.weight"} if head == "new" else set())


# -- tasks ---------------------------------------------------------------------------------------


def test_rank_takes_given_candidates_and_text_files(full_run, tmp_path):
    """Scores fall; BM25 finds the candidates of a text file; what is wrong is said."""
    words = [
        f"runs_dir={full_run.parents[2]}",
        "rank.run=full",
        f"rank.output={tmp_path}/out.jsonl",
    ]

    def run(*further):
        task = build(config(*words, *further)).tasks["rank"]
        path = task(Workspace(tmp_path / "task", "b_prop", "smoke"))
        return [json.loads(line) for line in path.read_text().splitlines()]

    (tmp_path / "docs.txt").write_text("people and houses\nmen at work\nthe world of work\n")
    (tmp_path / "q.txt").write_text("work\nzebra\n")
    files = [f"rank.documents={tmp_path}/docs.txt", f"rank.queries={tmp_path}/q.txt"]
    actual = run(*files)
    assert sorted(actual[0]["documents"]) == ["men at work", "the world of work"]
    assert actual[0]["scores"] == sorted(actual[0]["scores"], reverse=True)
    assert actual[1] == {"query": "zebra", "documents": [], "scores": []}
    given = {"query": "work", "documents": ["men at work", "people", "the world of work"]}
    (tmp_path / "in.jsonl").write_text(json.dumps(given) + "\n")
    again = run(f"rank.input={tmp_path}/in.jsonl")[0]
    assert {*again["documents"]} == {*given["documents"]}
    scores = dict(zip(again["documents"], again["scores"], strict=True))
    for document, score in zip(actual[0]["documents"], actual[0]["scores"], strict=True):
        assert scores[document] == pytest.approx(score, abs=1e-4)
    (tmp_path / "in.jsonl").write_text('{"query": "work", "documents": "men"}\n')
    with pytest.raises(UserError, match="documents a list of texts"):
        run(f"rank.input={tmp_path}/in.jsonl")
    with pytest.raises(UserError, match=r"rank\.documents and rank\.queries"):
        run()


def test_rank_makes_the_folder_of_its_output_before_it_works(full_run, tmp_path):
    """A folder that was missing cost the whole ranking, in a traceback at its end."""
    (tmp_path / "in.jsonl").write_text('{"query": "work", "documents": ["men at work"]}\n')
    words = [f"runs_dir={full_run.parents[2]}", "rank.run=full", f"rank.input={tmp_path}/in.jsonl"]

    def run(output):
        task = build(config(*words, f"rank.output={output}")).tasks["rank"]
        return task(Workspace(tmp_path / "task", "b_prop", "smoke"))

    assert run(tmp_path / "new/folder/out.jsonl").is_file()
    with pytest.raises(UserError, match="is a folder: give"):
        run(tmp_path / "new")


# -- configs -------------------------------------------------------------------------------------


def test_paper_configs_hold_the_published_recipe():
    entropy, prop, marco = (config(name=n) for n in ("paper", "paper_prop", "paper_finetune_marco"))
    assert (entropy.data.batch_size, entropy.optim.lr, entropy.model.max_length) == (80, 2e-5, 512)
    assert (entropy.words.poisson_mean, entropy.words.softmax_temperature) == (3.0, 1.0)
    assert entropy.words.saturation_k == 0.01
    assert (entropy.data.short_pieces, prop.data.short_pieces) == (200, 100)
    assert (prop.words.vocabulary, prop.words.extra_words, prop.words.min_count) == (500, 100, 10)
    assert config(name="paper_subtract").words.softmax_temperature == 0.1
    groups = marco.finetune.batch_size * marco.trainer.accumulate_grad_batches
    assert marco.finetune.group_size * groups == 144
    assert marco.finetune.loss == "groupwise"
    assert marco.eval.sets == [*marco.eval.candidates] == ["msmarco-doc@dev", "msmarco-doc@dl19"]
    assert entropy.method.score_norm == "softmax"
    assert entropy.eval.tune.folds == 5
    assert len([name for name in config_names("b_prop") if name.startswith("paper")]) == 7
    assert not marco.eval.words  # nothing is drawn there
    for name in config_names("b_prop"):
        if name.startswith("paper"):  # BertAdam clips each gradient itself
            cfg = config(name=name)
            recipe = (cfg.optim.name, cfg.trainer.gradient_clip_val)
            assert recipe == (("bertadam", None) if cfg.method.pretrain else ("adamw", 1.0))
    # a folder that holds attention counts no word beyond its pieces: PROP has one of its own
    assert prop.data.documents != entropy.data.documents
    assert (prop.prepare.keep_words, prop.prepare.attention) == (512, False)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["data.source=files"], "belong together"),
        (["eval.candidates={x: y}"], "is not a set of eval.sets"),
        (["eval.tune.steps=0"], "query_counts needs"),
        (["finetune.set=null"], "needs finetune.set"),
        (["finetune.loss=hinge", "finetune.group_size=3"], "group_size=2"),
        (["finetune.folds=3"], r"finetune\.folds.*eval\.tune\.folds"),
        (["words.poisson_mean=0"], "poisson_mean"),
        (["eval.max_queries=0"], "max_queries"),
    ],
)
def test_wrong_settings_are_refused(words, text):
    with pytest.raises(UserError, match=text):
        config(*words)


def test_validation_logs_the_mean_over_held_out_groups():
    """Groups of held-out queries, none of which is trained on."""
    from projects.b_prop.data import finetuning_data

    module = module_of(finetune=True)
    data = finetuning_data(config(), module.ranker)
    held_out, trained = data.val_sets["ranking"], data.train_set
    queries = [
        {groups.pairs(i, 0)[0][0] for i in range(len(groups))}
        for groups in (held_out.groups, trained)
    ]
    assert len(queries[0]) == 4
    assert not queries[0] & queries[1]
    batch = held_out.collate([held_out[0], held_out[1]])
    module.eval()
    module.validation_step(batch, 0)
    assert module._seen[0].shape == (2,)
    torch.testing.assert_close(module._seen[0].mean(), module.losses(batch)["loss"])
    logged = {}
    module.log = lambda name, value: logged.update({name: value})
    module.on_validation_epoch_end()
    torch.testing.assert_close(logged["val/ranking_loss"], module.losses(batch)["loss"])
    assert batch_of(2)["labels"].shape[0] == 4
