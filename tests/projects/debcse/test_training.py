"""Loss, batches, two processes, resume, and training as the commands drive it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.config import UserError
from common.data.module import ContrastiveData, identity
from common.data.samplers import SeededBatchSampler
from common.encoders.text.template import plain_ids
from common.encoders.text.tower import load_tokenizer
from common.engine import checkpoint as ckpt
from common.engine.comparison.spec import default_arms, read_comparison
from common.engine.run import train
from common.engine.workspace import Workspace
from common.families.sentences.module import build_encoder
from projects.debcse.config import MethodConfig
from projects.debcse.data import corpus, nli_sentences, twin_views
from projects.debcse.evaluate import frequency_cosine
from projects.debcse.module import DebCSE, Objective
from projects.debcse.stages import scorer_module, scorer_path
from projects.debcse.tasks import mine_pairs, report_pairs
from tests.projects.debcse.conftest import config, tiny_scorer
from tests.projects.debcse.workers import triplet_views
from tests.smoke import EVERY_STEP
from tests.unit.losses.golden import assert_close, grad_norm, load, sentence_head, sentences

CASES = load("simcse")["cases"]


def weights(run, stage="train"):
    """State of a finished stage."""
    final = ckpt.finished(run / "checkpoints" / stage)
    assert final is not None
    return ckpt.load(final)["state_dict"]


def same_weights(left, right):
    names = [name for name in left if name.startswith("encoder.")]
    assert names
    return all(torch.equal(left[name], right[name]) for name in names)


# -- loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_item_12_loss_is_simcse_s_on_the_triplets(case):
    """Checklist 12: golden values of SimCSE's released loss, value and gradients, in float64."""
    h = sentences(case["B"], case["S"], case["d"])
    alpha = float(np.exp(case["hard_negative_logit_weight"]))
    objective = Objective(MethodConfig(temperature=case["temperature"], hard_weight=alpha))
    z = sentence_head(case["d"])(h) if case["mlp"] else h
    out = objective(*z.unbind(1))
    out.loss.backward()
    expected = case["outputs"]
    assert_close(out.loss, expected["loss"])
    gradient = h.grad
    assert_close(gradient[:, 0].norm(), expected["grad_norm_anchor"])
    assert_close(gradient[:, 1].norm(), expected["grad_norm_positive"])
    if case["S"] == 3:
        assert_close(gradient[:, 2].norm(), expected["grad_norm_hard_negative"])
    assert float(grad_norm(h)) > 0


def test_loss_by_the_sheet_s_formula():
    """Positive in the denominator, all negatives of the batch; a wrong denominator differs."""
    z = torch.nn.functional.normalize(sentences(5, 3, 8).detach(), dim=2)
    a, p, n = z.unbind(1)
    e_p, e_n = (a @ p.T / 0.5).exp(), (a @ n.T / 0.5).exp()
    expected = -(e_p.diag() / (e_p + e_n).sum(1)).log().mean()
    actual = Objective(MethodConfig(temperature=0.5))(a, p, n).loss
    assert_close(actual, expected)
    without = -(e_p.diag() / (e_p.sum(1) - e_p.diag() + e_n.sum(1))).log().mean()
    assert abs(float(actual - without)) > 1e-3


@pytest.mark.parametrize("alpha", [0.25, 3.0])
def test_hard_weight_multiplies_the_own_hard_negative_s_term(alpha):
    """The weight is a factor of exp(s / tau), so its logarithm is added to the logit."""
    a, p, n = torch.nn.functional.normalize(sentences(5, 3, 8).detach(), dim=2).unbind(1)
    e_p, e_n = (a @ p.T / 0.5).exp(), (a @ n.T / 0.5).exp()
    own = torch.eye(5, dtype=torch.float64)

    def loss(negatives):
        return -(e_p.diag() / (e_p.sum(1) + negatives.sum(1))).log().mean()

    actual = Objective(MethodConfig(temperature=0.5, hard_weight=alpha))(a, p, n).loss
    assert_close(actual, loss(e_n * (1 + (alpha - 1) * own)))
    # twins: the weight left out, added as it is, and given to all hard negatives
    for other in (e_n, e_n * (1 + (np.exp(alpha) - 1) * own), e_n * alpha):
        assert abs(float(actual - loss(other))) > 1e-3


def test_twin_term_adds_half_a_loss():
    a, p, n, t = sentences(5, 4, 8).detach().unbind(1)
    plain, extra = Objective(MethodConfig()), Objective(MethodConfig(twin_weight=0.5))
    expected = plain(a, p, n).loss + 0.5 * plain(a, t, n).loss
    assert_close(extra(a, p, n, t).loss, expected)


def test_gradient_reaches_every_parameter_through_all_views():
    torch.manual_seed(0)
    cfg = config("method.twin_weight=0.5")
    module = DebCSE(cfg, build_encoder(cfg.model))
    views = triplet_views("method.twin_weight=0.5")
    batch = views[[(i, 0) for i in range(6)]]
    assert len(batch["input_ids"]) == 4 * 6
    terms = module.losses(batch)
    terms["loss"].backward()
    assert all(torch.isfinite(v).all() for v in terms.values())
    untouched = {
        n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()
    }
    assert not {n for n in untouched if "token_type" not in n and "position" not in n}
    assert module.negatives_per_query(8) == 15


def test_scorer_of_a_run_with_the_twin_term_is_trained_on_twins_alone():
    """The scorer has no drawn pairs, hence no such term, and equals that of a run without it."""
    states = [
        scorer_module(config(*words)).state_dict() for words in ((), ("method.twin_weight=0.5",))
    ]
    assert same_weights(*states)
    assert scorer_module(config("method.twin_weight=0.5")).objective.twin_weight == 0


# -- batches -------------------------------------------------------------------------------------


def test_batches_are_anchor_positive_negative():
    views = triplet_views()
    keys = [(3, 1), (17, 2), (8, 1)]
    batch = views[keys]
    anchors, epochs = np.array(keys).T
    draws = views.sampler.draw(anchors, epochs)
    places = [*anchors, *draws.ids[:, 0], *draws.ids[:, 1]]
    for row, mask, place in zip(batch["input_ids"], batch["attention_mask"], places, strict=True):
        single = views.tokenizer(views_text(place), max_length=16, truncation=True)["input_ids"]
        assert row[mask.bool()].tolist() == single
    assert batch["ids"].tolist() == anchors.tolist()
    np.testing.assert_allclose(batch["surface"].numpy(), draws.surface, rtol=1e-6)


def views_text(i):
    return f"word{i} and {'so on ' * (i % 4)}"


def test_item_9_batches_do_not_depend_on_workers_or_ranks():
    """Checklist 9: two loader processes, and two ranks together, give the same rows."""
    views = triplet_views()

    def batches(workers, rank=0, world=1):
        sampler = SeededBatchSampler(
            len(views), 8 // world, 0, rank=rank, world_size=world, num_batches=12
        )
        return list(
            DataLoader(
                views, sampler=sampler, batch_size=None, num_workers=workers, collate_fn=identity
            )
        )

    plain, parallel = batches(0), batches(2)
    for a, b in zip(plain, parallel, strict=True):
        assert all(torch.equal(a[k], b[k]) or k in ("surface", "semantic") for k in a)
    halves = [batches(0, rank, 2) for rank in range(2)]
    for whole, *parts in zip(plain, *halves, strict=True):
        assert whole["ids"].tolist() == [i for part in parts for i in part["ids"].tolist()]
        drawn = torch.cat([part["surface"] for part in parts])
        torch.testing.assert_close(drawn, whole["surface"], equal_nan=True)


def test_nli_sentences_come_without_labels(monkeypatch):
    """Checklist 17: other labels, the same corpus."""
    import projects.debcse.data as data

    rows = [(f"premise {i}", f"hypothesis {i}", "entailment") for i in range(20)]
    monkeypatch.setattr(data, "load_nli_pairs", lambda root, split: rows)
    first = nli_sentences(None, 30, 0)
    rows[:] = [(a, b, "contradiction") for a, b, _ in rows]
    assert nli_sentences(None, 30, 0) == first
    assert nli_sentences(None, 30, 1) != first
    assert len(set(first)) == 30
    with pytest.raises(UserError, match="there are 40"):
        nli_sentences(None, 41, 0)


def test_augmented_views_drop_words():
    """Checklist 18: the word-level augmentation baseline."""
    cfg = config("ipw.positives=augmented", "ipw.negatives=none", "ipw.word_drop_prob=0.5")
    tokenizer = build_encoder(cfg.model).tokenizer
    texts = [" ".join(f"w{i}{j}" for j in range(12)) for i in range(8)]
    batch = twin_views(cfg, tokenizer, texts)[[(i, 0) for i in range(8)]]
    plain = twin_views(config("ipw.positives=self", "ipw.negatives=none"), tokenizer, texts)
    whole = plain[[(i, 0) for i in range(8)]]
    lengths = batch["attention_mask"].sum(1), whole["attention_mask"].sum(1)
    assert (lengths[0] <= lengths[1]).all()
    assert lengths[0].sum() < 0.8 * lengths[1].sum()
    assert batch["input_ids"][:8].tolist() != batch["input_ids"][8:].tolist()


# -- training ------------------------------------------------------------------------------------


@pytest.fixture
def full_run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("debcse")


def test_item_13_diagnostics_are_logged(full_run):
    """Checklist 13, 10, 16: per step, in the metrics, as figure and examples."""
    log = (full_run / "metrics.csv").read_text(encoding="utf-8")
    for side in ("positive", "negative"):
        for name in ("surface", "semantic", "fallback", "effective"):
            assert f"train/{side}_{name}" in log
    metrics = json.loads((full_run / "metrics.json").read_text(encoding="utf-8"))
    names = {
        "theta_pos",
        "theta_neg",
        "positive_fallback_rate",
        "negative_fallback_rate",
        "positive_effective",
        "positive_length_difference",
        "frequency_cosine",
        "untrained_frequency_cosine",
        "surface_low_spearman",
        "surface_high_spearman",
        "surface_partial_correlation",
        "positive_surface_distance",
        "negative_semantic_distance",
    }
    assert names <= metrics.keys()
    assert (full_run / "plots/pairs.png").exists()
    rows = json.loads((full_run / "gallery/drawn pairs/gallery.json").read_text(encoding="utf-8"))
    assert rows
    assert "positive (surface" in rows[0]["results"][0]["item"]["text"]


def test_item_7_scorer_is_no_part_of_the_trained_module(full_run):
    """Checklist 7: its weights are those of its own stage; the trained ones differ."""
    scorer, trained = weights(full_run, "scorer"), weights(full_run)
    assert scorer.keys() == trained.keys()
    assert not same_weights(scorer, trained)
    kept = [
        ckpt.load(path)["state_dict"]
        for path in (full_run.parents[1] / "offline").glob("scorer-*.ckpt")
    ]
    assert any(same_weights(state, scorer) for state in kept)


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_scorer_is_the_arm_without_sampling_and_is_reused(full_run, tmp_path):
    """Equal seed and settings: bit-identical; a later run loads it and draws the same."""
    plain = ["ipw.positives=self", "ipw.negatives=none"]
    alone = train("debcse", "smoke", [f"runs_dir={tmp_path}", "run_id=alone", *plain])
    assert same_weights(weights(alone), weights(full_run, "scorer"))
    again = train("debcse", "smoke", [f"runs_dir={tmp_path}", "run_id=again"])
    taken = sorted(path.name for path in (again / "checkpoints/scorer").iterdir())
    assert taken == ["best.ckpt", "finished.json"]  # no step was made
    assert same_weights(weights(again), weights(full_run))
    metrics = json.loads((alone / "metrics.json").read_text(encoding="utf-8"))
    assert "frequency_cosine" in metrics  # checklist 16: SimCSE has the diagnostics too
    assert "positive_surface" not in metrics


def test_scorer_belongs_to_seed_and_training_settings():
    paths = [
        scorer_path(config(*words))
        for words in ([], ["seed=1"], ["optim.lr=0.5"], ["trainer.max_steps=9"], ["data.limit=32"])
    ]
    assert len(set(paths)) == 5
    assert scorer_path(config("ipw.surface=false", "pool.pos_k=3")) == paths[0]


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_item_1_self_pools_without_negatives_are_unsupervised_simcse(tmp_path):
    """Checklist 1: bit-identical training; with neighbours in the pool it is another one."""
    scorer = tiny_scorer(tmp_path / "scorer")
    words = [
        f"runs_dir={tmp_path}",
        f"scorer.model={scorer}",
        "ipw.negatives=none",
        "eval.untrained=false",
    ]
    only_self = ["pool.pos_k=0", "pool.repetition=false"]
    twins = train("debcse", "smoke", [*words, "run_id=simcse", "ipw.positives=self"])
    reduced = train("debcse", "smoke", [*words, "run_id=self", *only_self])
    wider = train("debcse", "smoke", [*words, "run_id=wide"])
    assert same_weights(weights(reduced), weights(twins))
    assert not same_weights(weights(wider), weights(twins))


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_item_18_augmented_baseline_trains_and_paper_reports_seven_sets(tmp_path):
    """Checklist 18: word-level augmentation in the same program; the paper's seven STS sets."""
    words = [f"runs_dir={tmp_path}", "ipw.positives=augmented", "ipw.negatives=none"]
    run = train("debcse", "smoke", [*words, "eval.untrained=false"])
    assert (run / "metrics.json").exists()
    assert len(config(name="paper").eval.sets) == 7


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_states_at_the_mask_of_a_prompt_train_and_are_evaluated(tmp_path):
    """The option against the bias of token frequency; without a template it is refused."""
    template = 'of "{text}" the [MASK] .'
    words = ["model.pooling=mask", "model.mlp_only_train=false"]
    run = train(
        "debcse",
        "smoke",
        [f"runs_dir={tmp_path}", *words, f"model.template='{template}'", "eval.untrained=false"],
    )
    assert "stsb_test_spearman" in json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    with pytest.raises(UserError, match=r"needs a model\.template with one \[MASK\]"):
        config(*words)
    paper = config(name="paper_mask")
    assert paper.model.template.count("[MASK]") == 1
    sides = paper.model.template.split("{text}")
    around = plain_ids(load_tokenizer("bundled:text-encoder"), sides)
    assert paper.data.max_length - sum(len(ids) for ids in around) == 32


@pytest.mark.slow
def test_item_17_report_and_mining_tasks(full_run, tmp_path):
    """Checklist 17: one command each; a missing scorer is said."""
    cfg = config(f"runs_dir={full_run.parents[2]}", *EVERY_STEP)  # the scorer belongs to them
    workspace = Workspace(tmp_path / "pairs", "debcse", "smoke")
    actual = report_pairs(cfg, workspace)
    assert list(actual) == ["uniform", "surface_only", "semantic_only", "ipw"]
    for row in actual.values():
        assert {"positive_surface_distance", "negative_length_ratio_distance"} <= row.keys()
    assert actual["ipw"]["positive_surface"] <= actual["semantic_only"]["positive_surface"]
    assert "| metric | uniform |" in (workspace.path / "pairs.md").read_text(encoding="utf-8")
    assert (workspace.path / "plots/pairs ipw.png").exists()
    path = mine_pairs(cfg, workspace)
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(corpus(cfg))
    assert rows[0].keys() == {"id", "anchor", "positive", "negative"}
    with pytest.raises(UserError, match="no trained scorer"):
        mine_pairs(config(f"runs_dir={tmp_path}"), workspace)
    with pytest.raises(UserError, match="nothing to mine"):
        mine_pairs(config("ipw.positives=self", "ipw.negatives=none"), workspace)


def test_data_module_buckets_by_the_anchor_s_length():
    views = triplet_views()
    assert views.lengths.shape == (40,)
    data = ContrastiveData(views, batch_size=8, seed=0, lengths=views.lengths, bucket_batches=5)
    batch = data.train_set[[(0, 0), (1, 0)]]
    assert batch["ids"].tolist() == [0, 1]


# -- diagnostics ---------------------------------------------------------------------------------


def test_item_16_frequency_cosine_sees_the_bias():
    """Checklist 16: 1 without a bias, lower where rare words have a direction of their own."""
    texts = [f"{'rare' if i < 30 else 'common'} t{i}" for i in range(90)]
    counts = {"rare": 1, "common": 500}
    rng = torch.Generator().manual_seed(0)
    even = torch.ones(90, 4) + 0.01 * torch.randn(90, 4, generator=rng)
    biased = even.clone()
    biased[:30, 0] -= 2
    assert frequency_cosine(even, texts, counts) > 0.99
    assert frequency_cosine(biased, texts, counts) < 0.9


def test_item_16_frequency_of_a_text_is_its_mean_log_count():
    """One very frequent word beside a rare one weighs less than two fairly frequent ones."""
    counts = {"rare": 1, "fair": 100, "common": 1000}
    texts = ["rare rare", "rare common", "fair fair"]
    first, other = torch.eye(2)
    assert frequency_cosine(torch.stack([first, other, first]), texts, counts) > 0.99
    assert frequency_cosine(torch.stack([first, first, other]), texts, counts) < 0.01


def test_required_arms_are_published_and_one_has_equal_encoded_texts():
    """Candidates without weights, and SimCSE with as many encoded texts as the full method, run by
    default.
    """
    spec = read_comparison("debcse")
    assert {"simcse", "simcse_long", "uniform", "semantic_only", "ipw"} <= {*default_arms(spec)}
    loaded = {
        arm: config(*[f"{k}={json.dumps(v)}" for k, v in words.items()], name=spec.base)
        for arm, words in spec.arms.items()
    }
    texts = {"simcse": 2, "simcse_long": 2, "ipw": 3}  # an anchor, its positive, its negative
    encoded = {arm: n * loaded[arm].trainer.max_steps for arm, n in texts.items()}
    assert encoded["simcse_long"] == encoded["ipw"] > encoded["simcse"]
    assert len({cfg.data.batch_size for cfg in loaded.values()}) == 1
