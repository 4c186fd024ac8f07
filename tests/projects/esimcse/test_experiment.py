"""The experiment as the commands drive it, the length probe, the shortcut, and the arms."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import ROOT, UserError, load
from common.data.text.augment import Repetition
from common.data.text.repeated_views import RepeatedSubwords
from common.data.text.views import TextViews
from common.engine.comparison.claims import claims_of
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from common.engine.sweeps.schema import read_sweep
from common.evaluation.text.sts import partial_spearman, spearman
from projects.esimcse import build
from projects.esimcse.config import Config
from projects.esimcse.data import training_rows
from projects.esimcse.evaluate import length_bias
from projects.esimcse.length import length_r2, pair_bias, word_counts
from tests.projects.esimcse.conftest import config, module_of

BIAS = {"spearman_similar_length", "length_partial_correlation", "length_probe_r2"}


@pytest.mark.slow
def test_item_14_training_reports_the_length_bias_before_and_after(tmp_path):
    """Checklist 14: of the trained and of the untrained encoder, beside the STS scores."""
    run = train("esimcse", "smoke", [f"runs_dir={tmp_path}"])
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics.keys() >= BIAS
    assert {f"untrained_{name}" for name in BIAS} <= metrics.keys()
    assert metrics["length_probe_r2"] != metrics["untrained_length_probe_r2"]
    assert {"stsb_test_spearman", "untrained_stsb_test_spearman"} <= metrics.keys()
    items = json.loads((run / "items/stsb_test_spearman.json").read_text(encoding="utf-8"))
    assert spearman(items["predicted"], items["gold"]) == pytest.approx(
        metrics["stsb_test_spearman"]
    )


def test_item_14_groups_and_partial_correlation():
    """Checklist 14: by difference <= 3 and > 3; a cosine that follows length alone is found out."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 15, size=(2, 300))
    difference = np.abs(lengths[0] - lengths[1])
    gold = rng.random(300)
    x = torch.tensor([[1.0, 0.0]]).expand(300, 2)

    def pairs(angle):
        return torch.stack([torch.cos(angle), torch.sin(angle)], 1)

    honest = pairs(torch.tensor(1.5 - gold))
    biased = pairs(torch.tensor(0.1 * difference))
    good = pair_bias(x, honest, gold, (lengths[0], lengths[1]))
    bad = pair_bias(x, biased, gold, (lengths[0], lengths[1]))
    assert good["spearman_similar_length"] == pytest.approx(1.0)
    assert good["spearman_different_length"] == pytest.approx(1.0)
    assert abs(good["length_partial_correlation"]) < 0.2
    assert bad["length_partial_correlation"] < -0.99
    near = difference <= 3
    mixed = pairs(torch.tensor(np.where(near, 1.5 - gold, gold)))
    actual = pair_bias(x, mixed, gold, (lengths[0], lengths[1]))
    assert actual["spearman_similar_length"] == pytest.approx(1.0)
    assert actual["spearman_different_length"] == pytest.approx(-1.0)
    equal = pair_bias(x, honest, gold, (lengths[0], lengths[0]))
    assert "spearman_different_length" not in equal


def test_item_14_partial_correlation_equals_that_of_the_residuals():
    """Checklist 14: against regression residuals of the ranks."""
    rng = np.random.default_rng(1)
    z = rng.random(200)
    x, y = z + rng.random(200), z + rng.random(200)
    rank = [np.argsort(np.argsort(v)).astype(float) for v in (x, y, z)]
    left, right = (v - np.polyval(np.polyfit(rank[2], v, 1), rank[2]) for v in (rank[0], rank[1]))
    expected = np.corrcoef(left, right)[0, 1]
    assert partial_spearman(x, y, z) == pytest.approx(expected, abs=1e-9)
    assert abs(spearman(x, y) - expected) > 0.2  # the twin: the plain correlation is another
    assert partial_spearman(z, y, z) == 0.0


def test_item_14_probe_finds_length_where_it_is_and_not_where_it_is_not():
    """Checklist 14: R^2 of the linear probe, on sentences that it was not fitted to."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    angle = 0.5 + 0.5 * torch.rand(400, generator=generator, dtype=torch.float64)
    told = torch.stack([angle.cos(), angle.sin()], 1)
    lengths = (20 * angle).numpy()
    assert length_r2((told[:200], lengths[:200]), (told[200:], lengths[200:])) > 0.98
    assert length_r2((noise[:200], lengths[:200]), (noise[200:], lengths[200:])) < 0.05
    with pytest.raises(ValueError, match="same length"):
        length_r2((noise, lengths), (noise, np.ones(400)))
    assert word_counts(["a b  c", "d"]).tolist() == [3, 1]


def test_item_14_probe_needs_an_sts_set():
    """Checklist 14: said, not skipped."""
    with pytest.raises(UserError, match=r"eval\.sets"):
        length_bias(config("eval.sets=[]"), lambda texts: torch.zeros(len(texts), 2))


def mean_loss(repetition, steps=70):
    """Loss at the end of training on sentences of one word that differ in length alone."""
    module = module_of("queue.size=0", "model.pooling=avg", "model.mlp_only_train=false")
    rows = [(" ".join(["of"] * n),) for n in range(4, 14)]
    augment = RepeatedSubwords(Repetition(0.5), 30) if repetition else None
    data = TextViews(rows, module.encoder.tokenizer, max_length=40, views=2, augment=augment)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for number in range(steps):
        loss = module.losses(data[[(i, number) for i in range(len(rows))]])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[-10:]) / 10


@pytest.mark.slow
def test_repetition_closes_the_length_shortcut():
    """Dropout alone solves the batch from length; with repetition length is no longer enough."""
    plain, repeated = mean_loss(False), mean_loss(True)
    assert plain < 0.5
    assert repeated > plain + 0.7
    assert repeated < np.log(10)


# -- arms, configs, export -----------------------------------------------------------------------


def test_item_15_arms_differ_in_the_two_parts_alone():
    """Checklist 15: four arms from one config, equal steps, data, encoder and optimiser; one search
    of the rate for all.
    """
    spec = read_comparison("esimcse")
    arms = {
        name: load(Config, "esimcse", spec.base, [f"{k}={v}" for k, v in overrides.items()])
        for name, overrides in spec.arms.items()
    }
    parts = {name: (cfg.repetition.level, cfg.queue.size) for name, cfg in arms.items()}
    assert parts == {
        "simcse": ("none", 0),
        "repetition": ("subword", 0),
        "queue": ("none", 160),
        "both": ("subword", 160),
    }
    whole = arms["both"]
    for cfg in arms.values():
        for section in (
            "data",
            "model",
            "method",
            "momentum",
            "optim",
            "trainer",
            "eval",
            "length",
        ):
            own = getattr(cfg, section)
            if section == "optim":
                own = replace(own, lr=whole.optim.lr)
            assert own == getattr(whole, section), section
    sweep = read_sweep("esimcse")
    assert {*sweep.arms} == arms.keys()
    rates = [point["optim.lr"] for point in sweep.grid()]
    assert all(min(rates) < cfg.optim.lr < max(rates) for cfg in arms.values())
    assert not {sweep.seed} & {*spec.seeds}
    assert [claim.text for claim in claims_of(spec)] == ["both > simcse", "repetition > simcse"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["queue.size=0"],
        ["repetition.level=none"],
        ["repetition.level=word"],
        ["repetition.rule=paper", "momentum.order=after_step"],
        ["momentum.decay=0"],
        ["momentum.init=random", "model.pooling=avg", "model.mlp_only_train=false"],
    ],
)
def test_every_switch_trains(tmp_path, overrides):
    words = [f"runs_dir={tmp_path}", "trainer.max_steps=2", "eval.untrained=false"]
    run = train("esimcse", "smoke", [*words, *overrides])
    assert "stsb_test_spearman" in json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_export_keeps_the_embeddings_and_drops_momentum_and_queue(tmp_path):
    cfg = config()
    experiment, module = build(cfg), module_of().eval()
    with torch.no_grad():
        module.momentum_encoder.network.model.embeddings.word_embeddings.weight.zero_()
        experiment.export(module, tmp_path)
        again = experiment.load_export(tmp_path)
        before, after = experiment.embed(module), experiment.embed(again)
    assert torch.equal(before["embeddings"], after["embeddings"])
    names = " ".join(str(path) for path in tmp_path.rglob("*"))
    assert "momentum" not in names
    assert "queue" not in names


def test_the_card_s_command_for_own_text_reads_it(tmp_path):
    """The mini's equal_parts, which draws from the bundled sentences, is off in it."""
    card = (ROOT / "projects/esimcse/README.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"`make train PROJECT=esimcse (data\.source=file [^`]*)`", card)
    (tmp_path / "own.txt").write_text("one line\nanother\n", encoding="utf-8")
    own = words.replace("<.txt>", f"{tmp_path}/own.txt").split()
    assert training_rows(config(*own, name="mini")) == [("one line",), ("another",)]
