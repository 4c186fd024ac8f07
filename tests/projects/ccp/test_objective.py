"""Golden values; checklist items 2 to 7, 9, 13, 15 on head, bank, losses and module."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.evaluation.retrieval.ranking import ranking_metrics
from projects.ccp.calibration import fit_shift_and_scale
from projects.ccp.finetune import DPRLoss
from projects.ccp.head import PairHead
from projects.ccp.module import CENTER, CONTEXT
from projects.ccp.monitors import batch_hits, leakage, other_language_share, separation
from projects.ccp.objective import Objective
from projects.ccp.shared_bank import SharedBank
from tests.projects.ccp.conftest import (
    GOLDEN,
    golden_head,
    module_of,
    pairs_of,
    training_set,
    tuned_module,
)
from tests.projects.ccp.workers import steps
from tests.unit.losses.golden import assert_close, fill

# -- golden values -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["ccp_loss"])
@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_both_directions_with_asymmetric_norm_and_bank_equal_the_golden_values(case, backend):
    """Equations 1 and 2: losses and gradients; centres with batch, contexts with running
    moments."""
    center, context = fill((4, 6), 1.7), fill((4, 6), 0.7)
    bank = F.normalize(fill((5, 4), 2.5).detach(), dim=1)
    every = torch.ones(5, dtype=torch.bool)
    terms = Objective(case["tau"], in_batch=False, backend=backend)(
        *golden_head()(center, context),
        context_bank=bank,
        center_bank=bank,
        context_valid=every,
        center_valid=every,
    )
    terms.loss.backward()
    assert_close(terms.center_to_context.loss, case["loss_center_to_context"])
    assert_close(terms.context_to_center.loss, case["loss_context_to_center"])
    assert_close(terms.loss, case["total"])
    assert_close(center.grad.norm(), case["grad_norm_center"])
    assert_close(context.grad.norm(), case["grad_norm_context"])


@pytest.mark.parametrize("case", GOLDEN["family_loss"])
def test_symmetric_mode_and_masks_equal_the_golden_values(case):
    """Checklist 2: batch mates of both sides, the bank's own language, random rows until it is
    full.
    """
    ids = torch.tensor(case["bank_language_ids"])
    bank = SharedBank(6, 4, ["language"], initial="random").double()
    bank.features = fill((6, 4), 2.5).detach()
    bank.label_language = ids
    valid = bank.valid(language=0)
    banks = {
        "context_bank": bank.features,
        "center_bank": bank.features,
        "context_valid": valid,
        "center_valid": valid,
    }
    for name, in_batch in (("symmetric", True), ("one_direction_bank_only", False)):
        expected = case[name]
        query, key = fill((3, 4), 1.7), fill((3, 4), 0.7)
        terms = Objective(case["tau"], in_batch=in_batch)(query, key, **banks)
        loss = 3 * (terms.loss if in_batch else terms.center_to_context.loss)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(expected["loss_sum"], rel=1e-5)
        assert float(query.grad.norm()) == pytest.approx(expected["grad_norm_query"], rel=1e-5)
        assert float(key.grad.norm()) == pytest.approx(expected["grad_norm_key"], rel=1e-5)


def test_head_equals_the_golden_values():
    """Layers, batch norm in training, the running mean after a step, evaluation."""
    expected = GOLDEN["family_head"]
    head = PairHead(5, norm="plain", eps=1e-12).double().train()
    parts = [head.first.weight, head.second.weight, head.first_norm.weight, head.first_norm.bias]
    assert [list(p.shape) for p in parts] == [shape for _, shape in expected["parameters"]]
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in parts)
    with torch.no_grad():
        for i, matrix in enumerate(parts[:2]):
            matrix.copy_(0.5 * fill((5, 5), 0.1 + i))
        parts[2].copy_(1 + 0.1 * fill((5,), 0.1 + 2))
        parts[3].copy_(0.1 * fill((5,), 0.1 + 3))
    x = fill((4, 5), 0.7)
    assert_close(head.project(x, batch_statistics=True).flatten()[:6], expected["train_first6"])
    assert_close(head.first_norm.running_mean, expected["running_mean_after_one_step"])
    assert_close(head.eval().project(x).flatten()[:6], expected["eval_first6"])


@pytest.mark.parametrize("case", GOLDEN["dpr_loss"])
def test_item_13_dpr_loss_equals_the_golden_values(case):
    """Checklist 13: hard negatives of all questions are candidates for all questions."""
    rows, hard, dim = case["B"], case["hard_negatives_per_question"], case["d"]
    question, passages = fill((rows, dim), 0.2), fill((rows * (1 + hard), dim), 1.2)
    order = [i * (1 + hard) for i in range(rows)]
    order += [i * (1 + hard) + 1 + j for i in range(rows) for j in range(hard)]
    out = DPRLoss()(question, passages[order])
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(question.grad.norm(), case["grad_norm_q"])
    assert_close(passages.grad.norm(), case["grad_norm_ctx"])
    assert int(out.hits.sum()) == case["correct"]
    own = [(question[i] @ passages[order[i]]) for i in range(rows)]
    hardest = [
        (question[i] @ passages[order[rows + i * hard : rows + (i + 1) * hard]].T)
        for i in range(rows)
    ]
    alone = sum(torch.cat([o[None], h]).logsumexp(0) - o for o, h in zip(own, hardest, strict=True))
    assert abs(float(alone) / rows - case["loss"]) > 1e-3  # twin: own negatives only


def test_item_17_mrtydi_metrics_equal_the_golden_values():
    """Checklist 17: reciprocal rank of the best document; share of documents found; missing query
    0.
    """
    labels = {"q1": {"d1": 1, "d9": 1}, "q2": {"d3": 1}, "q3": {"d4": 1}}
    ranked = {"q1": ["d5", "d9", "d1"], "q2": ["d3"], "q4": ["d4"]}
    run = {q: {d: -float(i) for i, d in enumerate(own)} for q, own in ranked.items()}
    actual = ranking_metrics(labels, run, (100,))
    assert actual["mrr_at_100"] == pytest.approx(GOLDEN["mrtydi"]["MRR@100"])
    assert actual["recall_at_100"] == pytest.approx(GOLDEN["mrtydi"]["Recall@100"])


def test_item_11_calibration_equals_the_golden_values():
    """Checklist 11: zero mean, unit variance in every dimension."""
    x = fill((6, 3), 0.9).detach()
    assert_close(fit_shift_and_scale(x)(x).flatten(), GOLDEN["calibrated"])


# -- the norm ------------------------------------------------------------------------------------


def test_item_5_the_other_side_does_not_see_its_batch():
    """Checklist 5: one side has batch statistics; a row of the other stays as other rows change."""
    for turn in range(2):
        center, context = pairs_of(6)
        outputs = []
        for change in (0.0, 5.0):
            head = PairHead(6).double().train()
            torch.manual_seed(1)
            for p in head.parameters():
                torch.nn.init.normal_(p)
            head.turn.fill_(turn)
            moved = [x.clone() for x in (center, context)]
            for x in moved:
                x[1:] += change * torch.arange(30.0).view(5, 6).sin()
            outputs.append(head(*moved))
        same = [torch.allclose(a[0], b[0]) for a, b in zip(*outputs, strict=True)]
        assert same == ([False, True] if turn == 0 else [True, False])


def test_item_5_the_running_side_has_the_statistics_of_before_this_step():
    """Checklist 5: what the batch side adds in this step does not reach the other side."""
    head = golden_head()
    center, context = pairs_of(4)
    expected = golden_head().eval().project(context)
    torch.testing.assert_close(head(center, context)[1], expected)
    assert not torch.allclose(head.eval().project(context), expected)  # the step did move them


def test_item_6_sides_alternate_and_only_the_batch_side_moves_the_statistics():
    """Checklist 6: centres, contexts, centres; the running mean follows that side alone."""
    head = golden_head()
    center, context = pairs_of(4)
    for side in (center, context, center, context):
        mean = head.first_norm.running_mean.clone()
        head(center, context)
        expected = torch.lerp(mean, head.first(side).mean(0), 0.1)
        torch.testing.assert_close(head.first_norm.running_mean, expected)
    assert int(head.turn) == 4


def test_item_7_evaluation_uses_running_statistics_on_both_sides():
    """Checklist 7: rows alone and in a batch are equal, nothing moves; so with the plain norm."""
    for norm in ("asymmetric", "plain"):
        head = PairHead(6, norm=norm).double().eval()
        center, context = pairs_of(4)
        before = {k: v.clone() for k, v in head.state_dict().items()}
        both = head(center, context)
        for i in range(4):
            alone = head(center[i : i + 1], context[i : i + 1])
            torch.testing.assert_close(torch.cat(alone), torch.stack([both[0][i], both[1][i]]))
        assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())


def test_item_15_other_norms_are_one_flag():
    """Checklist 15: plain shares statistics of both sides; none has no statistics at all."""
    center, context = pairs_of(4)
    plain = PairHead(6, norm="plain").double().train()
    both = plain.last_norm(
        plain.second(F.relu(plain.first_norm(plain.first(torch.cat([center, context])), True))),
        True,
    )
    torch.testing.assert_close(torch.cat(plain(center, context)), both)
    assert not PairHead(6, norm="none").first_norm
    assert module_of("method.norm=none").head.first_norm is None
    assert module_of().head.norm == "asymmetric"


# -- the loss ------------------------------------------------------------------------------------


def test_settings_of_head_and_bank_reach_them():
    """Sheet, model: eps and momentum of the norms, last norm as a flag, random first entries."""
    module = module_of(
        "method.norm_momentum=0.3",
        "method.norm_eps=0.01",
        "method.last_norm=false",
        "method.bank_initial=random",
    )
    norm, bank = module.head.first_norm, module.bank
    assert (norm.momentum, norm.eps) == (0.3, 0.01)
    assert module.head.last_norm is None
    assert module_of().head.last_norm is not None
    assert bank.valid(language=0).sum() == len(bank) // module.rings > 0
    assert not module_of().bank.valid(language=0).any()


@pytest.mark.parametrize("in_batch", [True, False])
def test_item_9_exchanging_sides_and_banks_exchanges_the_terms(in_batch):
    """Checklist 9: and a bank of the wrong side gives another loss."""
    objective = Objective(0.1, in_batch=in_batch)
    center, context = pairs_of(4, 1)
    first, second = pairs_of(5, 2)
    valid = torch.tensor([True, True, False, True, True])
    other = torch.tensor([True, False, True, True, True])
    there = objective(
        center,
        context,
        context_bank=first,
        center_bank=second,
        context_valid=valid,
        center_valid=other,
    )
    back = objective(
        context,
        center,
        context_bank=second,
        center_bank=first,
        context_valid=other,
        center_valid=valid,
    )
    torch.testing.assert_close(there.center_to_context.loss, back.context_to_center.loss)
    torch.testing.assert_close(there.context_to_center.loss, back.center_to_context.loss)
    twin = objective(
        center,
        context,
        context_bank=second,
        center_bank=first,
        context_valid=valid,
        center_valid=other,
    )
    assert not torch.allclose(there.center_to_context.loss, twin.center_to_context.loss)


@pytest.mark.parametrize("in_batch", [True, False])
def test_an_empty_bank_gives_a_finite_loss_and_gradient(in_batch):
    """The first step of ``bank_initial=masked``; without batch mates nothing is left to tell
    apart."""
    center, context = (x.requires_grad_() for x in pairs_of(3))
    bank, valid = pairs_of(4, 3)[0], torch.zeros(4, dtype=torch.bool)
    terms = Objective(0.1, in_batch=in_batch)(
        center,
        context,
        context_bank=bank,
        center_bank=bank,
        context_valid=valid,
        center_valid=valid,
    )
    terms.loss.backward()
    assert torch.isfinite(center.grad).all()
    assert (float(terms.loss.detach()) > 0) == in_batch


def explicit(query, key, negatives, tau):
    """Cross entropy over own key and negatives, all normalised."""
    q, k, n = (F.normalize(x, dim=1) for x in (query, key, negatives))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ n.T], 1) / tau
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


@pytest.mark.parametrize(
    ("language_bank", "sides"), [(True, "both"), (True, "own"), (False, "both")]
)
def test_items_2_3_and_15_negatives_are_of_the_language_and_of_earlier_steps(language_bank, sides):
    """Checklist 2, 3, 15: the loss equals that over exactly these rows; the bank is written
    later."""
    words = [
        f"method.language_bank={str(language_bank).lower()}",
        f"method.bank_sides={sides}",
        "method.mlm_weight=0",
        "method.in_batch_negatives=false",
        "data.batch_size=4",
        "method.bank_size=64",
    ]
    module, data = module_of(*words).double(), training_set(*words)
    seen = []
    for step in range(6):
        batch = data[[(4 * step + i, 0) for i in range(4)]]
        language = int(batch["language"][0])
        before = module.bank.features.clone()
        terms = module.losses(batch)
        assert torch.equal(module.bank.features, before)
        center, context, _ = module._new[0]
        pools = []
        for side in (CONTEXT, CENTER):
            rows = [
                x
                for own, where, x in seen
                if (own == language or not language_bank) and (sides == "both" or where == side)
            ]
            pools.append(torch.cat(rows) if rows else torch.zeros(0, 32).double())
        if len(pools[0]):
            tau = module.method.temperature
            torch.testing.assert_close(
                terms["center_to_context"], explicit(center, context, pools[0], tau)
            )
            torch.testing.assert_close(
                terms["context_to_center"], explicit(context, center, pools[1], tau)
            )
        module.after_optimizer_step()
        seen += [(language, CENTER, center), (language, CONTEXT, context)]
    assert {language for language, _, _ in seen} == {0, 1}
    assert module.bank.unfilled == 64 - 2 * 4 * 6


def test_item_4_the_bank_has_no_gradient_and_is_in_the_checkpoint():
    """Checklist 4: buffers, in no group of the optimiser; all parameters are trained."""
    module, data = module_of(), training_set()
    for step in range(2):
        terms = module.losses(data[[(8 * step + i, 0) for i in range(8)]])
        terms["loss"].backward()
        module.after_optimizer_step()
    assert not module.bank.features.requires_grad
    names = module.state_dict().keys()
    assert {
        "bank.features",
        "bank.position",
        "bank.label_language",
        "bank.label_side",
        "head.turn",
    } <= names
    trained = {id(p) for group in module.parameter_groups() for p in group["params"]}
    assert id(module.bank.features) not in trained
    lost = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not [n for n in lost if not n.endswith("key.bias")]  # a key's bias moves no softmax


def test_masked_language_model_is_added_with_its_weight():
    """Equation 3: weights of the two losses; 0 builds no head."""
    batch = training_set()[[(i, 0) for i in range(8)]]
    terms = module_of("method.mlm_weight=0.5", "method.cts_weight=2").losses(batch)
    pair = terms["center_to_context"] + terms["context_to_center"]
    torch.testing.assert_close(terms["loss"], 2 * pair + 0.5 * terms["mlm"])
    assert float(terms["mlm"].detach()) == pytest.approx(math.log(800), rel=0.1)
    assert module_of("method.mlm_weight=0").mlm_head is None
    assert module_of().negatives_per_query(8) == 64 // 2 + 14  # the rows of one language
    assert module_of("method.language_bank=false").negatives_per_query(8) == 64 + 14


def test_a_rank_without_masked_tokens_gives_its_head_a_gradient():
    """A batch of short sentences may have none: zero for every parameter, so that DDP does not
    wait.
    """
    module, batch = module_of(), training_set()[[(i, 0) for i in range(8)]]
    batch["labels"].fill_(-100)
    terms = module.losses(batch)
    assert terms["mlm"] == 0
    terms["loss"].backward()
    assert all(p.grad is not None for p in module.mlm_head.parameters())


def test_recomputed_layers_give_equal_gradients():
    """``model.grad_checkpointing``: of both towers; it changes memory alone."""
    actual = []
    for words in ([], ["model.grad_checkpointing=true"]):
        module, batch = module_of(*words), training_set()[[(i, 0) for i in range(8)]]
        assert module.encoder.passage.tower.model.is_gradient_checkpointing == bool(words)
        module.losses(batch)["loss"].backward()
        actual.append({n: p.grad for n, p in module.named_parameters()})
    for name, value in actual[0].items():
        torch.testing.assert_close(actual[1][name], value, rtol=1e-4, atol=1e-6, msg=name)
    split = tuned_module("model.grad_checkpointing=true").encoder
    assert split.question.tower.model.is_gradient_checkpointing


def test_towers_are_two_unless_shared_and_begin_equal():
    """The released fine-tuning; one flag makes them one."""
    two, one = tuned_module(), tuned_module("finetune.share_towers=true")
    assert two.encoder.question is not two.encoder.passage
    assert one.encoder.question is one.encoder.passage
    pairs = zip(two.encoder.question.parameters(), two.encoder.passage.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# -- monitors ------------------------------------------------------------------------------------


def test_item_18_separation_tells_collapse_to_language_identity():
    """Checklist 18: points at the language means against equal spread of both languages."""
    torch.manual_seed(0)
    label = torch.arange(2).repeat_interleave(200)
    mixed = torch.randn(400, 8)
    split = F.one_hot(label, 8).float() + 0.01 * torch.randn(400, 8)
    actual, collapsed = separation(mixed, label), separation(split, label)
    assert collapsed["language_distance"] > 100 * collapsed["within_variance"]
    assert actual["language_distance"] < 0.1 * actual["within_variance"]
    assert other_language_share(mixed.split(200)) == pytest.approx(0.5, abs=0.05)
    assert other_language_share(split.split(200)) == 0.0
    assert separation(mixed, torch.full((400,), -1))["within_variance"] == 0


def test_batch_hits_are_counted_in_float32():
    """Under autocast the cosines were rounded to bfloat16: close neighbours were ties, and hits
    went lost.
    """
    vectors = torch.tensor([[1.0, 0.03], [1.0, 0.0]])  # a cosine of 0.9996
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert batch_hits(vectors, vectors).tolist() == [1.0, 1.0]


def test_item_18_leakage_shows_what_batch_statistics_add():
    """Checklist 18: a shift of each batch is removed by its statistics, not by the running ones."""
    torch.manual_seed(0)
    head = PairHead(8, norm="plain", eps=1e-5)
    center = torch.randn(512, 8)
    context = center + 0.05 * torch.randn(512, 8)
    shift = torch.arange(8).repeat_interleave(64)[:, None] * 40.0
    before = {k: v.clone() for k, v in head.state_dict().items()}
    actual = leakage(head, center + shift, context + shift, 64)
    assert actual["leakage"] == actual["accuracy_batch"] - actual["accuracy_single"] > 0.3
    assert leakage(PairHead(8, norm="none"), center, context, 64)["leakage"] == 0
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())


# -- two processes -------------------------------------------------------------------------------


def test_item_14_twin_statistics_of_one_rank_are_others(two_ranks):
    """The comparison above can fail: without reducing, the running mean of a rank is its own."""
    first, second = two_ranks.run(steps, kind="asymmetric", distributed=True, own_moments=True)
    name = "head.first_norm.running_mean"
    assert not torch.allclose(first[name], second[name])
