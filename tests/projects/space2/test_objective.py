"""Trees, the ten-view contrast, R-Drop: golden values and what each part reads."""

import pytest
import torch
from torch.nn import functional as F

from common.losses.functional.soft import symmetric_kl
from common.losses.functional.two_view import nt_xent
from common.losses.weighted.overlap import SetOverlap
from projects.space2.data import sets_of
from projects.space2.dialogs.trees import (
    VIEWS,
    combined_score,
    is_empty,
    tree_ids,
    view_matrices,
    view_scores,
    view_sets,
    whole_tree_id,
)
from projects.space2.heads import r_drop, state_loss
from projects.space2.objective import multi_view_contrast, soft_contrast
from tests.projects.space2.conftest import (
    FRAMES,
    GOLDEN,
    STILL,
    batch_of,
    module_of,
    network_of,
)
from tests.projects.space2.workers import words_then_task

OUT = GOLDEN["outputs"]
NOTHING = {
    "hotel": {"DEFAULT_INTENT": {}}
}  # a default intent without slots counts as an empty tree


@pytest.mark.parametrize("case", OUT["tree_score_pairs"], ids=lambda c: f"{c['i']}-{c['j']}")
def test_ten_view_scores_are_golden(case):
    """Checklist 1: ten views, lower-casing, placeholders."""
    actual = view_scores(FRAMES[case["i"]], FRAMES[case["j"]])
    assert actual == pytest.approx(case["ten_views"], abs=1e-9)


def test_placeholders_go_by_substring():
    """Checklist 1: a path through a placeholder goes, its other nodes stay; values are compared in
    lower case.
    """
    tree = {"Hotel": {"DEFAULT_INTENT": {"Area": [{"value": " North "}]}}}
    actual = view_sets(tree)
    assert actual["S"] == {"area"}
    assert actual["SV"] == {"area-north"}
    assert actual["D"] == {"hotel"}
    assert not any(actual[v] for v in ("I", "DI", "IS", "DIS", "ISV", "DISV"))
    mine = {"my_default_domain_2": {"ask": {}}}
    assert not view_sets(mine)["D"]  # contains the word


def ids_of(frames, view):
    own = [sets_of(f, "tree", [view])[0] for f in frames]
    return torch.tensor([int(i) for s in own for i in s]), torch.tensor([len(s) for s in own])


def test_score_matrix_is_symmetric_with_ones_on_its_diagonal_and_tiles_agree():
    """Checklist 2: of empty trees too; the weights that training makes in tiles are the same
    matrix.
    """
    frames = [*FRAMES, NOTHING, NOTHING]
    matrix = torch.from_numpy(view_matrices(frames))
    assert torch.equal(matrix, matrix.transpose(1, 2))
    assert torch.equal(matrix.diagonal(dim1=1, dim2=2), torch.ones(10, len(frames)))
    assert (matrix[:, -1, :-1] == 0).all()  # a domain alone makes no pair
    assert not any(len(ids) for ids in tree_ids(NOTHING))
    for k, view in enumerate(VIEWS):
        sets = SetOverlap(*ids_of(frames, view))
        tiles = [sets.rows(a, a + 1, torch.empty(0)) for a in range(len(frames))]
        torch.testing.assert_close(torch.cat(tiles), matrix[k])


@pytest.mark.parametrize("case", OUT["supcon_cases"], ids=lambda c: f"{c['mask']}-{c['T']}")
def test_soft_contrast_is_golden(case):
    """Checklist 3: row sums of the weights, 2B - 1 others in the denominator, self left out."""
    size, dim = case["B"], case["D"]
    f = torch.sin(1 + 0.23 * torch.arange(size * 2 * dim, dtype=torch.float64))
    f = f.view(size, 2, dim).requires_grad_()
    i = torch.arange(size)
    weights = {"none": None, "soft": 1 / (1 + (i[:, None] - i).abs().double())}.get(case["mask"])
    loss = soft_contrast(F.normalize(f, dim=-1), weights, case["T"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
    assert f.grad.norm().item() == pytest.approx(case["grad_norm_f"], rel=1e-6)
    assert f.grad[0, 0, :4].tolist() == pytest.approx(case["grad_f_0_0_first4"], abs=2e-7)


def by_hand(z, weights, tau):
    """The sheet's equation with loops over pairs."""
    n, size = len(z), len(weights)
    total = 0.0
    for a in range(n):
        others = [b for b in range(n) if b != a]
        log_sum = torch.stack([z[a] @ z[b] / tau for b in others]).logsumexp(0)
        w = torch.stack([weights[a % size, b % size] for b in others])
        logp = torch.stack([z[a] @ z[b] / tau - log_sum for b in others])
        total = total - (w * logp).sum() / w.sum() / n
    return total


def test_hard_labels_are_the_equation():
    """Checklist 3: the hard mask, and a factor tau / base_tau alone where it is wanted."""
    z = F.normalize(
        torch.randn(5, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        dim=-1,
    )
    labels = torch.tensor([0, 1, 0, 1, 2])
    hard = (labels[:, None] == labels).double()
    want = by_hand(torch.cat([z[:, 0], z[:, 1]]), hard, 0.2)
    torch.testing.assert_close(soft_contrast(z, hard, 0.2, None), want)
    torch.testing.assert_close(soft_contrast(z, hard, 0.2, 0.1), 2 * want)


def test_identity_weights_are_nt_xent():
    """Checklist 4."""
    z = F.normalize(
        torch.randn(6, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        dim=-1,
    )
    want = nt_xent(z[:, 0], z[:, 1], 1 / 0.07).loss
    torch.testing.assert_close(soft_contrast(z, None), want)
    with pytest.raises(ValueError, match="weights"):
        soft_contrast(z, torch.ones(3, 3))


def test_the_loss_is_the_mean_over_the_triggered_views():
    """Checklist 5: each view in its own sub-space with its own scores."""
    vectors = torch.randn(2 * len(FRAMES), 3, 8, generator=torch.Generator().manual_seed(2))
    views = ("D", "S", "DISV")
    actual = multi_view_contrast(vectors, [ids_of(FRAMES, v) for v in views])
    matrix = torch.from_numpy(view_matrices(FRAMES, views))
    z = F.normalize(vectors, dim=-1)
    want = [soft_contrast(torch.stack(z[:, k].chunk(2), 1), matrix[k]) for k in range(3)]
    torch.testing.assert_close(torch.stack([actual[str(k)] for k in range(3)]), torch.stack(want))
    torch.testing.assert_close(actual["loss"], torch.stack(want).mean())


def test_one_score_a_pair_is_the_mean_over_its_views():
    """Sheet, Tree score: the combined score, on the sentence vectors without projection."""
    frames = [*FRAMES, NOTHING]
    vectors = torch.randn(2 * len(frames), 6, generator=torch.Generator().manual_seed(2))
    sets = [ids_of(frames, v) for v in VIEWS]
    actual = multi_view_contrast(vectors[:, None], sets, combined=True)
    weights = torch.tensor(
        [
            [0.0 if is_empty(a) or is_empty(b) else combined_score(a, b) for a in frames]
            for b in frames
        ]
    )
    want = soft_contrast(torch.stack(F.normalize(vectors, dim=-1).chunk(2), 1), weights)
    torch.testing.assert_close(actual["loss"], want)
    module = module_of("method.score=combined", "method.learning=super")
    assert not module.network.views
    assert not module.network.projection.weight.requires_grad


def test_views_may_share_a_sub_space():
    """Sheet, Ablations: one sub-space for all views, of which the first slice of the matrix is
    read.
    """
    sentence = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    own, shared = (
        network_of(f"model.shared={s}").view_vectors(sentence) for s in ("false", "true")
    )
    assert torch.equal(shared, own[:, :1].expand(-1, 10, -1))
    assert not torch.allclose(own[:, 0], own[:, 1])


def test_the_loss_of_states_by_hand():
    """Checklist 14: ratio * gate + (1 - ratio) / 2 * (span + reference), a sum over slots, a mean
    over examples.
    """
    logits = {
        "gate": torch.zeros(1, 2, 7),
        "refer": torch.zeros(1, 2, 3),
        "start": torch.zeros(1, 2, 4),
        "end": torch.zeros(1, 2, 5),
    }
    labels = {"gate": [[2, 5]], "start": [[1, -100]], "end": [[1, -100]], "refer": [[-100, 0]]}
    actual = state_loss(logits, {k: torch.tensor(v) for k, v in labels.items()}, 0.6)
    log4, log5, log3, log7 = (torch.tensor(float(n)).log() for n in (4, 5, 3, 7))
    torch.testing.assert_close(actual, 2 * 0.6 * log7 + 0.2 * ((log4 + log5) / 2 + log3))


def test_one_view_trains_its_slice_alone():
    """Checklist 5: `views=[I]` leaves the projections of the others without a gradient."""
    words = ["method.views=[I]", "method.mlm_weight=0"]
    module = module_of(*words)
    module.losses(batch_of(module, *words))["loss"].backward()
    grad = module.network.projection.weight.grad.view(10, module.network.dim, -1).abs().sum((1, 2))
    place = VIEWS.index("I")
    assert grad[place] > 0
    assert grad.sum() == grad[place]


def test_hard_scores_are_equal_trees_and_none_is_the_identity():
    """Checklist 15: the same code path, other sets."""
    a = {"hotel": {"inform": {"area": [{"value": "North"}]}}}
    b = {"Hotel": {"inform": {"area": [{"value": "north"}]}}}
    c = {"hotel": {"inform": {"area": [{"value": "south"}]}}}
    keys = [tuple(sets_of(f, "hard", VIEWS)[3]) for f in (a, b, c, {})]
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] == () == tuple(whole_tree_id({"hotel": {"DEFAULT_INTENT": {}}}))
    assert all(len(s) == 0 for s in sets_of(a, "none", VIEWS))
    assert len(sets_of(a, "tree", VIEWS)) == 10


def test_r_drop_is_golden():
    """Checklist 11: symmetric, weight 5, CE over 2B rows."""
    for case in OUT["rdrop_cases"]:
        n = torch.arange(case["B"] * case["C"], dtype=torch.float64)
        p, q = (x.view(case["B"], -1) for x in (n.sin(), (0.7 * n).cos()))
        assert symmetric_kl(p, q).item() == pytest.approx(case["symmetric_kl"], rel=1e-9)
        assert symmetric_kl(q, p).item() == pytest.approx(case["symmetric_kl"], rel=1e-9)
        labels = torch.arange(case["B"]) % 2
        actual = r_drop(torch.cat([p, q]), labels)
        ce = (F.cross_entropy(p, labels) + F.cross_entropy(q, labels)) / 2
        want = ce.item() + 5 * case["symmetric_kl"]
        alone = r_drop(p, labels, 0.0)  # no KL, one copy
        assert alone["loss"].item() == pytest.approx(F.cross_entropy(p, labels).item(), rel=1e-6)
        assert "kl" not in alone
        assert actual["loss"].item() == pytest.approx(want, rel=1e-6)


def test_total_is_the_plain_sum_with_a_tenth_of_masked_prediction():
    """Checklist 10."""
    module = module_of(*STILL)
    actual = module.losses(batch_of(module, *STILL))
    want = sum(
        actual[f"{k}_contrast"] + 0.1 * actual[f"{k}_mlm"] for k in ("labelled", "unlabelled")
    )
    torch.testing.assert_close(actual["loss"], want)
    assert actual["labelled_mlm"] > 1
    # the same texts without their labels have another contrast: trees enter one batch alone
    other = [*STILL, "method.score=none"]
    plain = module.losses(batch_of(module, *other))
    assert plain["labelled_contrast"] != actual["labelled_contrast"]
    torch.testing.assert_close(plain["unlabelled_contrast"], actual["unlabelled_contrast"])


@pytest.mark.slow
def test_two_processes_may_fine_tune_without_masked_prediction_after_it_came_first(two_ranks):
    """The words' head had to have a gradient in a stage that gives it none, which DDP refuses."""
    assert two_ranks.run(words_then_task, distributed=True) == [[True, False]] * 2
