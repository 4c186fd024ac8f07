"""The two objectives against sums written out in float64; two processes against one."""

import pytest
import torch
from torch.nn import functional as F

from common.losses.functional.masks import masked_share
from projects.vacancysbert.objective import Objective, SkillPrediction
from tests.projects.vacancysbert.conftest import batch, config, module_of

# 60 degrees between neighbours, so cosines are 1, 1/2, -1/2, -1; rows 0 and 3 share a title, rows 1
# and 3 their skills
ANGLES = torch.tensor([[0, 60, 120, 180], [60, 0, 180, 120]], dtype=torch.float64).deg2rad()
T, S = (
    torch.stack([a.cos(), a.sin()], 1) * torch.tensor([[2.0], [1.0], [0.5], [3.0]]) for a in ANGLES
)
SAME = torch.tensor([[7, 1], [8, 2], [9, 3], [7, 2]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)


def by_hand(titles, skills, keep, scale, symmetric=True):
    """Equation 1 as the sheet writes it."""
    logits = scale * F.normalize(titles, dim=1) @ F.normalize(skills, dim=1).T
    logits = logits.masked_fill(~keep, -torch.inf)
    target = torch.arange(len(titles))
    there, back = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
    return (there + back) / 2 if symmetric else there


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_checklist_3_same_titles_or_same_skills_are_masked_and_the_diagonal_is_not(
    backend, symmetric
):
    """Checklist 3: w_ij = 0 for either kind of duplicate, w_ii = 1, in both directions."""
    words = [f"method.symmetric={symmetric}", f"method.loss_backend={backend}"]
    actual = Objective(config("method.temperature=0.5", *words).method)(T, S, SAME)
    assert float(actual.loss) == pytest.approx(float(by_hand(T, S, MASK, 2, symmetric)), rel=1e-9)
    # the comparison can fail: neither mask alone, nor none, gives this value
    eye = torch.eye(4, dtype=torch.bool)
    only = [(SAME[:, kind : kind + 1] != SAME[:, kind]) | eye for kind in (0, 1)]
    for wrong in (MASK | True, *only):
        assert abs(float(by_hand(T, S, wrong, 2, symmetric)) - float(actual.loss)) > 1e-3
    assert float(masked_share(SAME)) == pytest.approx(4 / 12)


def test_checklist_4_without_duplicates_it_is_symmetric_info_nce_of_scale_20():
    """Checklist 4: scale 20, from a value worked out by hand for two pairs at right angles."""
    objective = Objective(config().method)
    eye = torch.eye(2, dtype=torch.float64)
    distinct = torch.tensor([[0, 0], [1, 1]])
    expected = torch.log1p(torch.tensor(-20.0, dtype=torch.float64).exp())
    assert float(objective(eye, eye, distinct).loss) == pytest.approx(float(expected), rel=1e-6)
    distinct = torch.arange(4)[:, None].expand(4, 2).contiguous()
    plain = by_hand(T, S, MASK | True, 20)
    assert float(objective(T, S, distinct).loss) == pytest.approx(float(plain), rel=1e-9)
    off = Objective(config("method.mask_duplicates=false").method)
    assert float(off(T, S, SAME).loss) == pytest.approx(float(plain), rel=1e-9)


def test_jobbert_like_baseline_predicts_single_skills_by_a_softmax_over_those_of_the_batch():
    """Sheet, baselines: other skills of a title, and a skill's other titles, are no negatives."""
    method = config("method.objective=skills", "method.skill_buckets=5").method
    torch.manual_seed(0)
    objective = SkillPrediction(method, 2).double()
    ids, titles = torch.tensor([[0, 1], [2, 3], [1, 4], [3, 0]]), torch.tensor([7, 8, 9, 7])
    query, flat = T.repeat_interleave(2, 0), ids.flatten()
    owner = titles.repeat_interleave(2)
    keep = (flat[:, None] != flat) & (owner[:, None] != owner) | torch.eye(8).bool()
    expected = by_hand(query, objective.table.weight[flat], keep, 20, symmetric=False)
    assert float(objective(T, ids, titles).loss.detach()) == pytest.approx(float(expected.detach()))


def test_checklist_2_both_towers_share_their_weights_unless_a_head_for_each_is_asked_for():
    """Checklist 2: equal texts have equal embeddings on both sides; with heads they have not."""
    rows = batch()["title"]
    for head, equal in ((False, True), (True, False)):
        encoder = module_of(f"model.asymmetric_head={head}", "model.head_dim=48").encoder.eval()
        titles, skills = encoder.embed_titles(**rows), encoder.embed_skills(**rows)
        assert torch.equal(titles, skills) == equal
        assert titles.shape == (8, 48 if head else 32)


@pytest.mark.parametrize(
    "words", [(), ("model.asymmetric_head=true",), ("method.objective=skills",)]
)
def test_gradient_reaches_every_parameter_through_both_towers(words):
    """Reference procedure: no stop-gradient; the encoder gets one from each side."""
    module = module_of("method.skill_buckets=40", *words)
    module.losses(batch())["loss"].backward()
    lacking = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [n for n in lacking if "token_type" not in n and "position" not in n]
    skills = words == ("method.objective=skills",)
    assert module.negatives_per_query(8) == (28 if skills else 7)
    alone = module_of("method.gather=false", "data.batch_size=4", *words)
    assert alone.negatives_per_query(8) == (12 if skills else 3)  # of one device


def test_a_gradient_cache_changes_nothing_but_memory():
    results = []
    for words in ((), ("method.chunk_size=3",)):
        module = module_of("model.dropout=0.0", *words)
        sizes: list[int] = []

        def note(_, inputs, sizes=sizes):
            sizes.append(len(inputs[0]))

        module.encoder.encoder.register_forward_pre_hook(note)
        loss = module.losses(batch())["loss"]
        loss.backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        results.append((loss.detach(), torch.cat([g.flatten() for g in grads]), max(sizes)))
    (plain, expected, whole), (cached, actual, part) = results
    assert (whole, part) == (8, 3)
    torch.testing.assert_close(cached, plain)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-4)
