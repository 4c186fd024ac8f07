"""Through the engine: metrics, export, tasks, card, configs: checklist items 11, 12, 14, 15."""

import json

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.encoders.state_dict import read_state_dict
from common.engine.comparison.spec import read_comparison
from common.engine.trained import export, run_task
from common.engine.workspace import Workspace
from projects.mclrec import baselines, build, tasks
from projects.mclrec import evaluate as evaluation
from projects.mclrec.data import load_sets
from projects.mclrec.evaluate import encoder_score, ranks_of, with_noise
from projects.mclrec.recommender import Recommender, load_recommender
from tests.placed import passes_within_evaluated
from tests.projects.mclrec.conftest import config, module_of
from tests.smoke import metrics_of

pytestmark = pytest.mark.usefixtures("unrendered_figures")


@pytest.fixture
def run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("mclrec")


def test_checklist_11_and_14_full_ranking_of_all_rows_by_one_protocol(run, tmp_path):
    """Checklist 11, 14: method, untrained encoder and counting rows; HR and NDCG at 5, 10, 20."""
    actual = metrics_of(run)
    rows = ("", "untrained_", "popularity_", "markov_", "skip_markov_", "item_knn_")
    for row in rows:
        for k in (5, 10, 20):
            assert 0 <= actual[f"{row}ndcg_at_{k}"] <= actual[f"{row}hr_at_{k}"] <= 1
    cfg = config()
    for name in ("popularity", "markov", "skip_markov", "item_knn", "untrained"):
        own = getattr(baselines, name)(cfg, Workspace(tmp_path / name))
        assert own["ndcg_at_20"] == pytest.approx(actual[f"{name}_ndcg_at_20"]), name
    saved = json.loads((run / "items/ndcg_at_20.json").read_text(encoding="utf-8"))
    assert len(saved) == len(load_sets(cfg).split.users)
    assert sum(saved) / len(saved) == pytest.approx(actual["ndcg_at_20"])
    assert {"z_positive_cosine", "z_negative_spread", "length_low_ndcg_at_20"} <= actual.keys()


def test_checklist_11_the_history_stays_by_default_and_padding_never_counts():
    """Checklist 11: `mask_history` is off; a score that likes the history best shows the
    difference.
    """
    sets = load_sets(config())
    assert not config().eval.mask_history

    def likes_history(histories):
        scores = torch.zeros(len(histories), sets.num_items + 1)
        scores[:, 0] = 100.0
        for row, own in enumerate(histories):
            scores[row, own] = 1.0
        return scores

    kept = ranks_of(config(), sets, likes_history)
    masked = ranks_of(config("eval.mask_history=true"), sets, likes_history)
    fresh = [
        t not in h
        for h, t in zip(sets.split.histories("test"), sets.split.test_target, strict=True)
    ]
    sizes = np.array([len(set(h)) for h in sets.split.histories("test")])
    assert (kept[fresh] == sets.num_items).all()  # all others tie with it or stand before it
    assert (masked[fresh] == sets.num_items - sizes[fresh]).all()


def test_checklist_11_ranks_equal_those_of_sorted_scores():
    """Checklist 11: for every user, the place in the sorted list of all items."""
    cfg, module = config(), module_of().eval()
    sets = load_sets(cfg)
    with torch.no_grad():
        score = encoder_score(module.encoder, cfg.data.max_length)
        ranks = ranks_of(cfg, sets, score)
        scores = score(sets.split.histories("test"))[:, 1:]
    order = scores.argsort(dim=1, descending=True) + 1
    places = (order == torch.from_numpy(sets.split.test_target)[:, None]).nonzero()[:, 1] + 1
    assert ranks.tolist() == places.tolist()


def test_checklist_12_export_holds_the_encoder_alone_and_reloads_equal(run):
    """Checklist 12: no augmenters in the file, equal scores, names as RecBole's SASRec has them."""
    folder = export("mclrec", "smoke", [f"runs_dir={run.parents[2]}"], "latest", None)
    state = read_state_dict(folder / "model.safetensors")
    assert not [name for name in state if "augment" in name]
    layer = "trm_encoder.layer.0"
    attention = [
        f"multi_head_attention.{x}" for x in ("query", "key", "value", "dense", "LayerNorm")
    ]
    feed = [f"feed_forward.{x}" for x in ("dense_1", "dense_2", "LayerNorm")]
    expected = {f"{layer}.{x}.{kind}" for x in (*attention, *feed) for kind in ("weight", "bias")}
    expected |= {
        "item_embedding.weight",
        "position_embedding.weight",
        "LayerNorm.weight",
        "LayerNorm.bias",
    }
    assert state.keys() == expected
    experiment = build(config())
    loaded = experiment.load_export(folder)
    assert loaded.augmenters is None
    recommender = load_recommender(folder)
    known = recommender.known(["0", "unknown", "1"])
    assert len(known) == 2
    listed = recommender(["0", "1"], k=5)
    assert len(listed) == 5
    assert not {"0", "1"} & {item for item, _ in listed}
    assert [s for _, s in listed] == sorted((s for _, s in listed), reverse=True)
    matrix = recommender.user_vectors([known])[0] @ recommender.item_matrix.T
    assert matrix[recommender.ids[listed[0][0]] - 1].item() == pytest.approx(listed[0][1], rel=1e-4)
    with pytest.raises(UserError, match="none of 1 items"):
        recommender(["unknown"])


def test_a_user_s_item_list_becomes_ranked_items(run, tmp_path, capsys):
    """Issue: `make run TASK=recommend`, from a run and from an export; histories masked or not."""
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    write_jsonl(
        asked,
        [{"user": "me", "items": ["3", "?", "4"]}, {"user": "new", "items": ["never seen"]}],
    )
    words = [
        f"runs_dir={run.parents[2]}",
        f"recommend.input={asked}",
        f"recommend.output={out}",
        "recommend.k=40",
    ]
    run_task("mclrec", "smoke", words, "recommend")
    assert "2 of 4 items of the histories are unknown" in capsys.readouterr().out
    me, new = read_jsonl(out)
    assert len(me["items"]) == load_sets(config()).num_items - 2
    assert new["items"] == []
    folder = export("mclrec", "smoke", words[:1], "latest", None)
    run_task(
        "mclrec",
        "smoke",
        [*words, f"recommend.run={folder}", "recommend.mask_history=false"],
        "recommend",
    )
    whole = read_jsonl(out)[0]
    assert [item for item in whole["items"] if item not in ("3", "4")] == me["items"]


def test_weights_never_go_with_the_names_of_other_items(run, tmp_path):
    """Another log, also of equal size, is refused by tasks, export, evaluation and loading."""
    words = [f"runs_dir={run.parents[2]}", f"recommend.output={tmp_path}/x"]
    other = config("seed=1")
    names, module = [load_sets(c).log.items for c in (config(), other)], module_of()
    assert len(names[0]) == len(names[1])
    assert names[0] != names[1]
    for task in ("recommend", "vectors"):
        with pytest.raises(UserError, match="belong to other items"):
            run_task("mclrec", "smoke", [*words, "seed=1"], task)
    with pytest.raises(UserError, match="belong to other items"):
        build(other).export(module, tmp_path)
    with pytest.raises(UserError, match="belong to other items"):
        build(other).evaluate(module, Workspace(tmp_path))
    with pytest.raises(UserError, match="belong to other items"):
        module_of("seed=1").load_state_dict(module.state_dict())
    module_of().load_state_dict(module.state_dict())  # the twin
    folder = export("mclrec", "smoke", words[:1], "latest", None)  # has the names with it
    run_task("mclrec", "smoke", [*words, "seed=1", f"recommend.run={folder}"], "recommend")
    with pytest.raises(UserError, match="belong to other items"):
        build(other).evaluate(build(other).load_export(folder), Workspace(tmp_path))


def test_vectors_and_item_matrix_give_the_scores_back(run, tmp_path):
    """Sheet, inference: user vectors and item matrix for a vector index."""
    words = [f"runs_dir={run.parents[2]}", f"recommend.output={tmp_path}"]
    run_task("mclrec", "smoke", words, "vectors")
    actual = read_state_dict(tmp_path / "vectors.safetensors")
    names = json.loads((tmp_path / "names.json").read_text(encoding="utf-8"))
    assert actual["users"].shape == (len(names["users"]), 16)
    assert actual["items"].shape == (len(names["items"]), 16)
    folder = export("mclrec", "smoke", words[:1], "latest", None)
    recommender = load_recommender(folder)
    own = load_sets(config()).log.sequences[0]
    torch.testing.assert_close(
        actual["users"][0] @ actual["items"].T,
        recommender.scores([own])[0, 1:],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["recommend", "vectors"])
def test_tasks_work_where_the_config_says(name, tmp_path, monkeypatch):
    """They stayed on the CPU beside a GPU; every pass lies within `evaluated`."""
    encoder = module_of().encoder
    seen = passes_within_evaluated(monkeypatch, tasks, lambda part: part.item_embedding)

    recommender = Recommender(encoder, load_sets(config()).log.items)
    monkeypatch.setattr(tasks, "trained_recommender", lambda *_: recommender)
    cfg = config("trainer.accelerator=auto")
    assert getattr(tasks, name)(cfg, Workspace(tmp_path), None).is_file()
    assert set(seen) == {(encoder, "auto")}


def test_vectors_say_whom_they_leave_out(run, tmp_path, capsys):
    """Users without a known item vanished from names.json without a word."""
    asked = tmp_path / "asked.jsonl"
    write_jsonl(asked, [{"user": "me", "items": ["3"]}, {"user": "new", "items": ["?"]}])
    words = [f"runs_dir={run.parents[2]}", f"recommend.output={tmp_path}"]
    run_task("mclrec", "smoke", [*words, f"recommend.input={asked}"], "vectors")
    assert "1 of 2 users have no item that training knew" in capsys.readouterr().out
    assert json.loads((tmp_path / "names.json").read_text(encoding="utf-8"))["users"] == ["me"]


def test_the_order_of_an_own_log_is_not_guessed_silently(tmp_path, capsys):
    """Times under another name were passed over, and two lines of one user became two users."""
    log = tmp_path / "log.csv"
    for header, said in (
        ("user,item,time", True),
        ("item,timestamp,user", False),
        ("user,item", False),
    ):
        log.write_text(f"{header}\n{','.join('1' * (header.count(',') + 1))}\n", encoding="utf-8")
        tasks.own_log(str(log), Workspace(tmp_path))
        actual = capsys.readouterr().out
        assert ("has no column timestamp" in actual and "by one of time" in actual) == said
    for name, lines in (
        ("a.txt", "u 1 2\nu 3\n"),
        ("a.jsonl", '{"user": "u", "items": [1]}\n' * 2),
    ):
        (tmp_path / name).write_text(lines, encoding="utf-8")
        with pytest.raises(UserError, match="several lines: 1, such as u"):
            tasks.prepare(config(f"prepare.input={tmp_path / name}"), Workspace(tmp_path))


def test_files_of_windows_editors_and_of_no_text(tmp_path):
    """A byte order mark became part of the first user; other bytes ended in a traceback."""
    log = tmp_path / "log.txt"
    log.write_text("u 1 2\n", encoding="utf-8-sig")
    assert tasks.own_log(str(log), Workspace(tmp_path)) == [("u", ["1", "2"])]
    log.write_bytes(b"caf\xe9 1 2\n")
    with pytest.raises(UserError, match="not a log in UTF-8"):
        tasks.own_log(str(log), Workspace(tmp_path))


def test_outputs_are_checked_before_the_work(run, tmp_path):
    """Folders that were missing, and names that .inter cannot hold, were found out too late or
    never.
    """
    asked = tmp_path / "asked.jsonl"
    write_jsonl(asked, [{"user": "me", "items": ["3"]}])
    words = [f"runs_dir={run.parents[2]}", f"recommend.input={asked}"]
    out = tmp_path / "new/folder/out.jsonl"
    run_task("mclrec", "smoke", [*words, f"recommend.output={out}"], "recommend")
    assert len(read_jsonl(out)) == 1
    with pytest.raises(UserError, match="is a folder: give a .jsonl file"):
        run_task("mclrec", "smoke", [*words, f"recommend.output={out.parent}"], "recommend")
    raw = tmp_path / "raw.csv"
    raw.write_text('user,item\nu,"a\tb"\n', encoding="utf-8")
    own = [f"runs_dir={tmp_path}", f"prepare.input={raw}", "data.min_user=1", "data.min_item=1"]
    with pytest.raises(UserError, match="a tab or a line break"):
        run_task("mclrec", "smoke", own, "prepare")
    with pytest.raises(UserError, match=r"has to end in \.inter"):
        run_task("mclrec", "smoke", [*own, f"prepare.output={tmp_path}/log.csv"], "prepare")


def test_a_raw_log_is_made_ready_and_trained_on(tmp_path, capsys):
    """Sheet, data: k-core of raw interactions, written in the release's format, read by the
    config."""
    lines = [f"u{u},i{(u + n) % 7},{n}" for u in range(12) for n in range(6)]
    raw, ready = tmp_path / "raw.csv", tmp_path / "log.inter"
    raw.write_text(
        "user,item,timestamp\n" + "\n".join([*lines, "x,rare,1"]) + "\n", encoding="utf-8"
    )
    words = [f"runs_dir={tmp_path}", f"prepare.input={raw}", f"prepare.output={ready}"]
    run_task("mclrec", "smoke", words, "prepare")
    said = capsys.readouterr().out
    assert "12 users, 7 items, 72 interactions" in said
    assert "(removed: 1 users, 1 items, 1 interactions)" in said
    cfg = config("data.source=file", f"data.file={ready}", "data.num_actions=72")
    assert load_sets(cfg).num_items == 7
    with pytest.raises(UserError, match="prepare.input"):
        run_task("mclrec", "smoke", words[:1], "prepare")


def test_groups_are_thirds_of_the_users_by_history_and_by_popularity(tmp_path):
    """Sheet, further figures: NDCG of each group, counted user by user; the largest k is the
    headline.
    """
    cfg = config("eval.ks=[20,5]")  # the largest k is the headline
    sets = load_sets(cfg)
    ranks = np.random.default_rng(0).integers(1, 40, len(sets.split.users))
    actual = evaluation.metrics_of(cfg, sets, ranks, Workspace(tmp_path))
    assert actual["hr_at_20_chance"] == 20 / sets.num_items
    assert "hr_at_5_chance" not in actual
    trained = [item for own in sets.split.train for item in own]
    of = {
        "length": [len(own) - 1 for own in sets.log.sequences],
        "popularity": [trained.count(own[-1]) for own in sets.log.sequences],
    }
    gain = [1 / np.log2(rank + 1) if rank <= 20 else 0.0 for rank in ranks]
    for name, values in of.items():
        first, second = np.quantile(values, [1 / 3, 2 / 3])
        groups = {
            "low": [g for g, v in zip(gain, values, strict=True) if v <= first],
            "middle": [g for g, v in zip(gain, values, strict=True) if first < v <= second],
            "high": [g for g, v in zip(gain, values, strict=True) if v > second],
        }
        for group, own in groups.items():
            assert actual[f"{name}_{group}_ndcg_at_20"] == pytest.approx(np.mean(own)), group


@pytest.mark.parametrize(
    "words",
    [("method.cl2_weight=0", "method.cl1_weight=0"), ("method.cl2_weight=0",), ()],
    ids=["ce", "cl4srec", "full"],
)
def test_every_arm_has_the_cosines_of_its_encoded_views(words):
    """`h_*` of every arm, z_* of those with augmenters, by single pairs."""
    cfg, module = config("data.prefixes=one_pass", *words), module_of(*words).eval()
    sets = load_sets(cfg)
    with torch.no_grad():
        actual = evaluation.view_cosines(cfg, module, sets)
    kinds = ("positive_cosine", "negative_cosine", "negative_spread")
    letters = "h" if words else "hz"
    assert actual.keys() == {f"{letter}_{kind}" for letter in letters for kind in kinds}
    rows = evaluation.training_set(cfg, sets, views=True)[
        [(i, 0) for i in range(len(sets.split.users))]
    ]
    h_1, h_2 = module.encode_views(rows)
    pairs = torch.cosine_similarity(h_1, h_2)
    assert actual["h_positive_cosine"] == pytest.approx(pairs.mean().item(), abs=1e-5)


def test_noise_is_put_into_test_histories_alone():
    """Sheet, further figures: as many random items as the share says, order of the others kept."""
    own = np.array([5, 6, 7, 8])
    noisy = with_noise(own, 0.5, 100, np.random.default_rng(0))
    assert len(noisy) == 6
    kept = iter(noisy.tolist())
    assert all(item in kept for item in own)
    module = module_of().eval()
    with torch.no_grad():
        score = encoder_score(module.encoder, 8)
        first, again, clean = (
            ranks_of(config(f"eval.noise={share}"), load_sets(config()), score)
            for share in (1, 1, 0)
        )
    assert first.tolist() == again.tolist()
    assert first.tolist() != clean.tolist()


PAPER = {  # sheet, training recipe: lambda, beta, dropout, interactions
    "paper": (0.0, 0.05, 0.5, 198502),
    "paper_sports": (0.04, 0.4, 0.5, 296337),
    "paper_yelp": (0.03, 0.1, 0.5, 316354),
    "paper_toys": (0.01, 0.1, 0.5, 167597),
    "paper_ml1m": (0.0, 0.01, 0.1, 0),
}
FILES = {  # as the release spells them; prefixes: interactions less three a user
    "paper": ("Amazon_Beauty", 198502 - 3 * 22363),
    "paper_sports": ("Amazon_Sports_and_Outdoors", 296337 - 3 * 35598),
    "paper_yelp": ("Yelp", 316354 - 3 * 30431),
    "paper_toys": ("Amazon_Toys_and_Games", 167597 - 3 * 19412),
    "paper_ml1m": ("ml-1m", 999611 - 3 * 6040),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_hold_the_sheet_s_recipe(name):
    """Sheet, training recipe."""
    cfg = config(name=name)
    method, model = cfg.method, cfg.model
    actual = (method.cl1_weight, method.cl2_weight, model.hidden_dropout, cfg.data.num_actions)
    assert actual == PAPER[name]
    assert model.attention_dropout == model.hidden_dropout
    assert (method.steps, method.regulariser, method.reg_pairs, method.update) == (
        3,
        "rowwise",
        3,
        "meta",
    )
    assert (cfg.optim.lr, cfg.optim.weight_decay, cfg.optim.schedule) == (1e-3, 0.0, "constant")
    assert (cfg.data.batch_size, cfg.data.max_length, cfg.data.prefixes) == (256, 50, "each")
    assert (cfg.trainer.max_epochs, cfg.eval.patience, cfg.seed) == (100, 11, 2020)
    assert (model.num_layers, model.num_heads, model.dim, model.ffn_dim) == (2, 2, 64, 256)


@pytest.mark.parametrize("name", FILES)
def test_paper_configs_name_the_release_s_files_and_validate_every_epoch(name):
    """File names with the release's capitals, validations an epoch apart."""
    cfg = config(name=name)
    folder, prefixes = FILES[name]
    assert cfg.data.file == f"{folder}/{folder}.inter"
    epoch = prefixes // cfg.data.batch_size
    assert (cfg.trainer.val_every_n_steps, cfg.trainer.checkpoint_every_n_steps) == (epoch, epoch)


def test_checklist_14_15_compare_has_the_arms_and_the_sweeps_at_equal_encoder_updates():
    """Checklist 14, 15: default arms of the row; ablations and sweeps; equal updates of the
    encoder.
    """
    spec = read_comparison("mclrec")
    assert set(spec.default_arms) == {"ce", "cl4srec", "joint", "full", "no_regulariser"}
    assert {
        "no_cl2",
        "shared_augmenter",
        "two_steps",
        "full_b16",
        "ce_b16",
        "full_quarter",
    } <= spec.arms.keys()
    updates, rates = set(), {}
    for name, own in spec.arms.items():
        cfg = config(*[f"{k}={v}" for k, v in own.items()], name="mini")  # with the shared ones
        each = cfg.method.steps - 1 if cfg.method.alternates else 1
        updates.add(cfg.trainer.max_steps * each)
        rates[name] = cfg.optim.lr
    assert updates == {1000}
    for name in spec.arms.keys() - set(spec.default_arms):  # outside the search: as what they vary
        assert rates[name] == rates["ce" if name.startswith("ce_") else "full"], name
