"""Phase II's loss and scores: golden values, masks, fusion; phase I's loss; two processes against
one.
"""

import json

import pytest
import torch
from torch.nn import functional as F

from common.config import ROOT
from common.engine.comparison.spec import read_comparison
from common.losses.auxiliary.tokens import IGNORED
from projects.wikides.batches import DescribeRows, RankRows, ranked
from projects.wikides.config import MethodConfig
from projects.wikides.data import Row, synthetic_rows
from projects.wikides.objective import Objective, fused
from tests.projects.wikides.conftest import ROWS, config, describer, ranker
from tests.unit.losses.golden import assert_close

GOLDEN = json.loads((ROOT / "tests/golden/wikides.json").read_text(encoding="utf-8"))["outputs"]


def inputs(case):
    """Scores of a golden case."""
    size = case["B"] * case["n"]
    scores = (0.4 + 0.9 * torch.arange(size, dtype=torch.float64)).sin().view(-1, case["n"])
    gold = (0.3 + 0.8 * torch.arange(case["B"], dtype=torch.float64)).cos()
    return scores.requires_grad_(), gold.requires_grad_(), torch.ones_like(scores).bool()


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.parametrize(("loss", "name"), [("simcls", "simcls"), ("official", "wikides")])
def test_checklist_5_both_modes_equal_the_golden_values(case, loss, name):
    """Checklist 5: value and gradients; the description is pulled up by simcls, down by
    official."""
    method = MethodConfig(loss=loss, margin=case["can_margin"], gold_margin=case["gold_margin"])
    scores, gold, mask = inputs(case)
    out = Objective(method)(scores, gold, mask)
    out.loss.backward()
    assert_close(out.loss, case[f"{name}_loss"])
    assert_close(scores.grad, case[f"{name}_grad_can"])
    assert_close(gold.grad, case[f"{name}_grad_target"])
    assert (gold.grad <= 0).all() if loss == "simcls" else (gold.grad >= 0).all()


def test_checklist_5_the_margin_grows_with_the_distance_of_ranks():
    """Checklist 5: equal scores cost lambda d for each distance d, and lambda_g for the gold
    term."""
    scores, gold = torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    method = MethodConfig(margin=0.1, gold_margin=0.03)
    actual = Objective(method)(scores, gold, torch.ones(1, 4).bool()).loss
    assert float(actual) == pytest.approx(0.03 + 0.1 * (1 + 2 + 3))
    one = MethodConfig(margin=0.1, gold_margin=None)  # lambda for both
    actual = Objective(one)(scores, gold, torch.ones(1, 4).bool()).loss
    assert float(actual) == pytest.approx(0.1 + 0.1 * (1 + 2 + 3))


def test_checklist_6_places_without_a_candidate_count_for_nothing():
    """Checklist 6: a batch of rows of different lengths costs the mean of the rows alone."""
    method, counts = MethodConfig(margin=0.3, gold_margin=0.2), [4, 1, 2]
    scores, gold, _ = inputs({"B": 3, "n": 4})
    mask = torch.arange(4) < torch.tensor(counts)[:, None]
    alone = [
        Objective(method)(scores[i : i + 1, :n], gold[i : i + 1], mask[i : i + 1, :n]).loss
        for i, n in enumerate(counts)
    ]
    padded = scores.detach().masked_fill(~mask, 9.0).requires_grad_()
    out = Objective(method)(padded, gold, mask)
    assert_close(out.loss, torch.stack(alone).mean())
    out.loss.backward()
    assert (padded.grad[~mask] == 0).all()
    unmasked = Objective(method)(padded, gold, torch.ones_like(mask)).loss
    assert abs(float(unmasked) - float(out.loss)) > 0.1  # the twin


def test_checklist_6_repeats_are_in_the_official_batches_alone():
    """Checklist 6: by default candidates are different and masked; official repeats them up to
    five.
    """
    tokenize = ranker().encoder.encoder.tokenize
    default = RankRows(config(), ROWS, tokenize, training=True)
    assert [default.places(i, 0) for i in range(4)] == [[0, 1, 2], [0, 1], [0], [0, 1, 2, 3, 4]]
    batch = default[[(i, 0) for i in range(4)]]
    assert batch["mask"].sum(1).tolist() == [3, 2, 1, 5]
    assert len(batch["texts"]["input_ids"]) == 4 + 11
    official = RankRows(config("method.loss=official"), ROWS, tokenize, training=True)
    batch = official[[(i, 3) for i in range(4)]]
    assert batch["mask"].all()
    assert batch["mask"].shape == (4, 5)
    for i, row in enumerate(ROWS):
        assert set(official.places(i, 3)) == set(range(len(row.candidates)))
    orders = {tuple(official.places(3, epoch)) for epoch in range(4)}
    assert len(orders) > 1
    assert official.places(3, 1) == official.places(3, 1)


def test_better_candidates_come_first_by_the_chosen_measure():
    """Sheet, data: order by ROUGE with the description, by beams, or by ROUGE with the
    paragraph."""
    tokenize = ranker().encoder.encoder.tokenize
    orders = {
        name: RankRows(config(f"data.order={name}"), ROWS[:1], tokenize, training=True).texts[0]
        for name in ("gold_rouge", "beam", "source_rouge")
    }
    assert orders["gold_rouge"][0] == "town in the north of the country"
    assert orders["beam"] == list(ROWS[0].candidates)
    assert orders["gold_rouge"] == ["town in the north of the country", "old town", "church"]
    assert orders["source_rouge"][-1] == "church"
    cut = RankRows(
        config("data.num_candidates=2", "data.order=beam"), ROWS, tokenize, training=True
    )
    assert cut.texts[3] == ["river", "long"]  # the first ones
    whole = RankRows(config("data.num_candidates=2"), ROWS, tokenize, training=False)
    # of the file's order, as in the test: equal scores are no advantage for the nearest to the gold
    assert whole.texts == [list(row.candidates) for row in ROWS]
    cut = config("method.loss=official", "data.num_candidates=2")
    assert RankRows(cut, ROWS, tokenize, training=False).texts == whole.texts


def test_checklist_7_fusion_is_the_harmonic_mean_and_0_where_the_sum_is_not_positive():
    """Checklist 7: by hand; neither values nor gradients are NaN at a sum of 0."""
    sim = torch.tensor([0.5, 0.0, -0.5, -0.2, -0.4], dtype=torch.float64, requires_grad=True)
    rouge = torch.tensor([0.25, 0.0, 0.25, 0.2, 0.6], dtype=torch.float64)
    actual = fused(sim, rouge)
    assert actual.tolist() == pytest.approx([1 / 3, 0, 0, 0, -2.4])
    actual.sum().backward()
    assert sim.grad.isfinite().all()
    assert sim.grad[2] == 0
    assert sim.grad[0] > 0
    sims, half = torch.tensor([-0.5, 0.5]), torch.tensor([0.5, 0.5])
    for name, expected in (("clamp", [0.0, 0.5]), ("unit", [1 / 3, 0.6]), ("raw", [0.0, 0.5])):
        method = MethodConfig(use_rouge=True, sim_range=name)
        assert Objective(method).score(sims, half).tolist() == pytest.approx(expected)
        alone = Objective(MethodConfig(sim_range=name)).score(sims, half)
        assert alone.tolist() == sims.tolist()  # without fusion nothing is cut, nor its gradient


def test_checklist_7_fusion_has_bounded_gradients_by_default_and_in_the_compared_arm():
    """Sheet, pitfalls: similarity -.59 with ROUGE .6 scores -70 with a gradient of thousands as
    released.
    """
    arm = read_comparison("wikides").arms["fusion"]
    paper = config(name="paper_fusion").method
    own = config(*[f"{k}={v}" for k, v in arm.items() if k.startswith("method")]).method
    grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
    for method in (MethodConfig(use_rouge=True), own, paper):
        sim = grid.clone().requires_grad_()
        score = Objective(method).score(sim, torch.full_like(grid, 0.6))
        score.sum().backward()
        assert score.min() >= 0
        assert sim.grad.abs().max() <= 2
    sim = torch.tensor([-0.59], dtype=torch.float64, requires_grad=True)
    raw = Objective(MethodConfig(use_rouge=True, sim_range="raw"))
    score = raw.score(sim, torch.tensor([0.6], dtype=torch.float64))
    score.sum().backward()
    assert float(score) == pytest.approx(-70.8)
    assert float(sim.grad) > 7000  # the twin


def test_checklist_5_ties_are_no_preferences():
    """Finding: equally good candidates have one rank, so that the file's order teaches nothing."""
    row = Row("It is a b c d.", "a b", ("x a", "a b", "y a", "z"))
    texts, ranks = ranked(row, "gold_rouge")
    assert (texts, ranks) == (["a b", "x a", "y a", "z"], [0, 1, 1, 2])
    assert ranked(row, "beam")[1] == [0, 1, 2, 3]
    assert ranked(row, "source_rouge")[1] == [0, 1, 1, 2]
    module = ranker("method.margin=0.5", "model.dropout=0.0")
    tokenize = module.encoder.encoder.tokenize
    turned = row._replace(candidates=row.candidates[::-1])
    batches = {
        order: [
            RankRows(config(f"data.order={order}"), [own], tokenize, training=True)[[(0, 0)]]
            for own in (row, turned)
        ]
        for order in ("gold_rouge", "beam")
    }
    one, other = (module.losses(batch)["loss"] for batch in batches["gold_rouge"])
    torch.testing.assert_close(one, other)
    one, other = (module.losses(batch)["loss"] for batch in batches["beam"])
    assert abs(float(one - other)) > 1e-3  # the twin
    official = RankRows(config("method.loss=official"), [row], tokenize, training=True)
    assert official[[(0, 0)]]["ranks"].tolist() == [[0, 1, 2, 3, 4]]  # the released formula


def test_training_figures_count_what_is_on_top():
    """Finding: ``gold_on_top`` is the description above all candidates, ``top1`` a best one above
    the rest.
    """
    module = ranker()
    data = RankRows(config(), ROWS[:2], module.encoder.encoder.tokenize, training=True)
    batch = data[[(0, 0), (1, 0)]]
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.1, 9.0]])  # the last place is empty
    module.scores = lambda _: (scores, torch.tensor([0.25, 0.9]))
    actual = module.losses(batch)
    assert float(actual["gold_on_top"]) == 0.5
    assert float(actual["top1"]) == 0.5
    module.scores = lambda _: (scores, torch.tensor([0.4, 0.9]))
    assert float(module.losses(batch)["gold_on_top"]) == 1


def test_checklist_8_rouge_is_of_the_source_without_case_and_without_gradient():
    """Checklist 8: ROUGE-1 F1 of candidate and paragraph; the score's gradient leaves it alone."""
    rows = [ROWS[0]._replace(candidates=("OLD Town", "castle castle"))]
    data = RankRows(
        config("data.order=beam"), rows, ranker().encoder.encoder.tokenize, training=True
    )
    words = len(rows[0].source.split())
    expected = [2 * 2 / (2 + words), 2 * 1 / (2 + words)]  # clipped counts
    assert data[[(0, 0)]]["rouge"][0].tolist() == pytest.approx(expected)
    sim, rouge = (torch.tensor([x], requires_grad=True) for x in (0.4, 0.3))
    score = Objective(MethodConfig(use_rouge=True)).score(sim, rouge)
    score.sum().backward()
    assert rouge.grad is None
    assert float(sim.grad) == pytest.approx(2 * 0.3**2 / 0.7**2)
    alone = Objective(MethodConfig(use_rouge=True, use_sim=False)).score(sim, rouge)
    assert alone.tolist() == pytest.approx([0.3])
    with pytest.raises(ValueError, match="use_sim"):
        MethodConfig(use_sim=False)


def test_checklist_4_one_encoder_first_token_and_cosine():
    """Checklist 4: scores are cosines of the first token's last state, of one set of weights."""
    module = ranker("model.pooling=cls_before_pooler", "model.dropout=0.0").eval()
    tower = module.encoder.encoder.tower.model
    data = RankRows(config("data.order=beam"), ROWS, module.encoder.encoder.tokenize, training=True)
    batch = data[[(0, 0), (1, 0)]]

    def vector(text):
        ids = module.encoder.encoder.tokenize([text])["input_ids"]
        return tower(input_ids=ids).last_hidden_state[0, 0]

    scores, gold = module.scores(batch)
    for b, row in enumerate(ROWS[:2]):
        document = vector(row.source)
        for c, text in enumerate(row.candidates):
            expected = F.cosine_similarity(document, vector(text), dim=0)
            torch.testing.assert_close(scores[b, c], expected, rtol=0, atol=1e-6)
        expected = F.cosine_similarity(document, vector(row.target), dim=0)
        torch.testing.assert_close(gold[b], expected, rtol=0, atol=1e-6)
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in tower.parameters())


def test_the_gradient_reaches_every_parameter_and_head_and_mean_pooling_are_options():
    """Sheet, model: the optional head; definition of done: no parameter is left out."""
    module = ranker("model.head_dim=7", "method.margin=0.5", "model.pooling=avg")
    data = RankRows(
        config(), synthetic_rows("train", 0), module.encoder.encoder.tokenize, training=True
    )
    module.losses(data[[(i, 0) for i in range(8)]])["loss"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert module.encoder.encode(["a", "b"]).shape == (2, 7)


def test_checklist_1_padding_of_descriptions_has_no_loss_and_their_length_a_limit():
    """Checklist 1: the loss is the mean over real tokens; at most max_target of them."""
    module = describer("generator.dropout=0.0", "generator.max_target=6")
    start = module.model.config.decoder_start_token_id
    cfg = config("generator.max_target=6", name="smoke_describe")
    rows = [
        ROWS[0]._replace(target="a very long description of the old town in the north"),
        ROWS[1]._replace(target="pet"),
    ]
    batch = DescribeRows(cfg, rows, module.tokenizer, start).collate([0, 1])
    assert batch["labels"].shape == (2, 6)
    assert (batch["labels"][1] == IGNORED).any()
    assert (batch["decoder_input_ids"][:, 0] == start).all()
    real = batch["labels"].ne(IGNORED)
    logits = module.model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=batch["decoder_input_ids"],
    ).logits
    nll = -logits.log_softmax(-1).gather(2, batch["labels"].clamp(min=0)[..., None])[..., 0]
    assert_close(module.losses(batch)["loss"], nll[real].mean().item())
    assert abs(float(nll.mean() - nll[real].mean())) > 1e-4  # the twin
    assert config(name="paper_describe").generator.max_target == 32
