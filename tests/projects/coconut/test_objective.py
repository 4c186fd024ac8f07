"""The contrastive terms: values, sets, gradients, switches, weights; distillation rules."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.losses.auxiliary.distillation import (
    mixed,
    rehearsal_weight,
    softened_divergence,
    teacher_sup_con,
)
from common.losses.auxiliary.tokens import token_sums
from projects.coconut.config import MethodConfig
from projects.coconut.objective import (
    mm_loss,
    nspt_loss,
    nspt_weight,
    teacher_rows,
)
from tests.projects.coconut.conftest import ER, GOLDEN, batch, config, module_of, unit_rows

LABELS = torch.tensor([0, 1, 0, 2, 2, 3])
MEMORY = torch.tensor([False, False, False, True, True, True])
DENOMINATORS = ("with_positive", "literal", "literal_self")


def loss(method: MethodConfig, student, teacher, labels=LABELS, memory=MEMORY):
    return nspt_loss(method, student, teacher, labels, memory)


def slow_nspt(h, teacher, labels, memory, tau, denominator, design="nspt", anchors="rehearsal"):
    """The equation in loops."""
    rows = [i for i in range(len(h)) if anchors == "all" or memory[i]]
    positives = h if design == "nsps" else teacher
    negatives = teacher if design == "ntpt" else h
    total, count = 0.0, 0
    for i in rows:
        own = [p for p in rows if labels[p] == labels[i] and (design != "nsps" or p != i)]
        others = {a for a in range(len(h)) if a != i or denominator == "literal_self"}
        if not own:
            continue
        count += 1
        for p in own:
            keys = [("n", a) for a in others]
            if denominator == "with_positive":
                keys.append(("p", p))
                if design != "nspt":  # one bank: a union of the positives
                    keys = [("n", a) for a in others | set(own)]
            bank = {"n": negatives, "p": positives}
            parts = [math.exp(float(h[i] @ bank[b][a]) / tau) for b, a in keys]
            score = float(h[i] @ positives[p]) / tau
            total += -(score - math.log(sum(parts))) / len(own)
    return total / count


@pytest.mark.parametrize(
    ("denominator", "value"),
    [("with_positive", 0.3133), ("literal", -1.0), ("literal_self", 0.3133)],
)
def test_item_0_two_sample_sanity_case(denominator, value):
    """Item 0: one rehearsal and one current sample, orthogonal; one modality, and both."""
    h, labels = torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])
    memory = torch.tensor([True, False])
    method = MethodConfig(denominator=denominator, temperature=1.0)
    one = loss(method, h, h, labels, memory)
    assert float(one) == pytest.approx(value, abs=5e-5)
    exact = {"with_positive": 0.6265, "literal": -2.0, "literal_self": 0.6265}[denominator]
    assert 2 * float(one) == pytest.approx(exact, abs=5e-5)


def test_item_0_literal_self_differs_once_the_teacher_differs():
    """Item 0, negative twin: with another teacher vector the two denominators part."""
    h, labels = torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])
    teacher = F.normalize(h + torch.tensor([[0.0, 0.5], [0.0, 0.0]]), dim=1)
    memory = torch.tensor([True, False])
    values = [
        float(loss(MethodConfig(denominator=d, temperature=1.0), h, teacher, labels, memory))
        for d in ("with_positive", "literal_self")
    ]
    assert abs(values[0] - values[1]) > 0.01


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("design", ["nspt", "ntpt", "nsps"])
@pytest.mark.parametrize("anchors", ["rehearsal", "all"])
def test_item_5_and_17_every_design_equals_the_equation_in_loops(denominator, design, anchors):
    """Items 5, 17: positives and negatives come from the bank that the design names."""
    h, teacher = unit_rows(6, 5, 0), unit_rows(6, 5, 1)
    method = MethodConfig(denominator=denominator, design=design, anchors=anchors, temperature=0.5)
    expected = slow_nspt(h, teacher, LABELS, MEMORY, 0.5, denominator, design, anchors)
    assert float(loss(method, h, teacher)) == pytest.approx(expected, rel=1e-9)


def test_item_17_all_six_switches_give_different_values():
    """Item 17: three designs times two anchor sets, on one mixed batch."""
    h, teacher = unit_rows(6, 5, 0), unit_rows(6, 5, 1)
    values = {
        (d, a): float(loss(MethodConfig(design=d, anchors=a), h, teacher))
        for d in ("nspt", "ntpt", "nsps")
        for a in ("rehearsal", "all")
    }
    assert len({round(v, 6) for v in values.values()}) == 6


def test_item_5_swapping_the_banks_of_the_negatives_gives_ntpt():
    """Item 5: NTPT has another value than NSPT unless student and teacher are the same."""
    h, teacher = unit_rows(6, 5, 0), unit_rows(6, 5, 1)
    options = {"positive_bank": "teacher", "denominator": "literal_self"}
    student, swapped = (
        teacher_sup_con(h, teacher, LABELS, MEMORY, 2.0, negative_bank=bank, **options).loss
        for bank in ("student", "teacher")
    )
    assert abs(float(student - swapped)) > 1e-3
    student, swapped = (
        teacher_sup_con(h, h, LABELS, MEMORY, 2.0, negative_bank=bank, **options).loss
        for bank in ("student", "teacher")
    )
    assert float(student - swapped) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_item_4_no_rehearsal_sample_gives_zero_not_nan(denominator):
    """Item 4: value and gradient are 0 in a batch without memory; with memory they are not."""
    h, teacher = unit_rows(6, 5, 0), unit_rows(6, 5, 1)
    method = MethodConfig(denominator=denominator)
    none = loss(method, h, teacher, memory=torch.zeros(6, dtype=torch.bool))
    none.backward()
    assert float(none) == 0
    assert float(h.grad.abs().sum()) == 0
    h.grad = None
    loss(method, h, teacher).backward()
    assert float(h.grad.abs().sum()) > 0
    assert torch.isfinite(h.grad).all()


def test_item_4_single_rehearsal_row_with_current_negatives():
    """Item 4: a batch that is all memory has no current negatives; still finite."""
    h, teacher = unit_rows(6, 5, 0), unit_rows(6, 5, 1)
    everything = torch.ones(6, dtype=torch.bool)
    for denominator in DENOMINATORS:
        method = MethodConfig(denominator=denominator, negatives="current")
        assert torch.isfinite(loss(method, h, teacher, memory=everything))
    a = loss(MethodConfig(negatives="current"), h, teacher)
    assert abs(float(a - loss(MethodConfig(), h, teacher))) > 1e-4


def test_item_6_gradient_reaches_new_samples_but_never_the_teacher():
    """Item 6: current rows are pushed away from anchors through the denominator."""
    h, teacher = unit_rows(6, 5, 0), unit_rows(6, 5, 1)
    loss(MethodConfig(temperature=1.0), h, teacher).backward()
    assert teacher.grad is None
    current = h.grad[~MEMORY]
    assert (current.abs().sum(1) > 0).all()
    # descending lowers the similarity of current rows to the anchors, raises it to teacher
    # positives
    anchors = h.detach()[MEMORY].mean(0)
    assert (current @ anchors).sum() > 0
    own = torch.stack([teacher[3] + teacher[4], teacher[3] + teacher[4], teacher[5]]).detach()
    assert ((h.grad[MEMORY] * own).sum(1) < 0).all()


def test_item_6_teacher_parameters_receive_nothing_in_training():
    """Item 6: through the module; current-class rows carry a gradient of the NSPT term alone."""
    module = module_of("method.mm_weight=0")
    data = batch()
    module.losses(data)["loss"].backward()
    assert all(p.grad is None for p in module.teacher.parameters())
    assert all(p.grad is not None for n, p in module.network.named_parameters() if p.requires_grad)


def test_item_7_mm_is_symmetric_and_pairs_audio_with_its_own_text():
    """Item 7: loops; swapping the modalities changes nothing, breaking the pairs does."""
    a, t = unit_rows(5, 4, 0), unit_rows(5, 4, 1)
    rows = torch.tensor([True, True, False, True, False])
    actual = mm_loss(a, t, rows, 0.5)
    logits = (a[rows] @ t[rows].T) / 0.5
    expected = 0.5 * (
        F.cross_entropy(logits, torch.arange(3)) + F.cross_entropy(logits.T, torch.arange(3))
    )
    assert float(actual) == pytest.approx(float(expected), rel=1e-9)
    assert float(mm_loss(t, a, rows, 0.5)) == pytest.approx(float(actual), rel=1e-9)
    assert abs(float(mm_loss(a, t.flip(0), rows, 0.5) - actual)) > 1e-3
    actual.backward()
    assert float(a.grad[~rows].abs().sum()) == 0
    assert (a.grad[rows].abs().sum(1) > 0).all()
    assert float(mm_loss(a, t, torch.zeros(5, dtype=torch.bool), 0.5)) == 0


def test_item_7_mm_reads_new_rows_unless_told_otherwise():
    """Item 7: memory rows are left out by default; `mm_rows=all` takes them in."""
    data = batch()
    default, everything = (
        module_of("method.nspt_weight=0", f"method.mm_rows={rows}").losses(data)["mm"]
        for rows in ("current", "all")
    )
    assert abs(float(default - everything)) > 1e-4
    module = module_of("method.nspt_weight=0", "method.mm_first_only=true")
    assert "mm" not in module.losses(data)
    assert "mm" in module_of("method.mm_first_only=true", task=0).losses(batch(6, 0))


def test_item_7_the_decoder_s_embeddings_are_the_text_encoder():
    """Item 7: MM alone gives the token embeddings a gradient."""
    module = module_of(task=0)
    data = batch(6, 0)
    states, mask = module.network.encode(data["waveforms"], data["lengths"])
    audio = module.network.embed_audio(states, mask)
    text = module.network.embed_text(data["text_tokens"])
    mm_loss(audio, text, torch.ones(6, dtype=torch.bool), 0.1).backward()
    gradient = module.network.decoder.embedding.weight.grad
    assert (gradient[6:9].abs().sum(1) > 0).all()
    assert float(gradient[:6].abs().sum()) == 0


def test_item_11_weight_follows_past_over_seen_classes():
    """Item 11: 4 past of 8 seen classes in task 2 of the smoke config; off without the ratio."""
    assert nspt_weight(MethodConfig(nspt_weight=1.0), 4, 8) == 0.5
    assert nspt_weight(MethodConfig(nspt_weight=1.0, nspt_ratio=False), 4, 8) == 1.0
    module = module_of("method.mm_weight=0")
    assert (module.num_past, module.num_seen) == (4, 8)
    terms = module.losses(batch())
    nspt = terms["nspt_audio"] + terms["nspt_text"]
    assert float(terms["loss"]) == pytest.approx(float(terms["ce"] + 0.5 * nspt), rel=1e-5)


def test_item_4_nspt_runs_for_audio_and_text_each_against_its_own_teacher():
    """Item 4: two terms; a modality can be left out; inactive in the first task."""
    terms = module_of().losses(batch())
    assert {"nspt_audio", "nspt_text"} <= terms.keys()
    one = module_of("method.nspt_modalities=[audio]").losses(batch())
    assert "nspt_text" not in one
    assert float(one["nspt_audio"]) == pytest.approx(float(terms["nspt_audio"]), rel=1e-5)
    assert "nspt_audio" not in module_of(task=0).losses(batch(6, 0))
    module = module_of()
    with torch.no_grad():  # another text teacher moves the text term only
        module.teacher.network.decoder.embedding.weight.normal_()
    moved = module.losses(batch())
    assert float(moved["nspt_audio"]) == pytest.approx(float(terms["nspt_audio"]), rel=1e-5)
    assert abs(float(moved["nspt_text"] - terms["nspt_text"])) > 1e-4


def test_teacher_runs_on_rehearsal_rows_only_unless_the_design_needs_more():
    memory = torch.tensor([True, False])
    assert teacher_rows(MethodConfig(), memory).tolist() == [True, False]
    assert teacher_rows(MethodConfig(design="ntpt"), memory).tolist() == [True, True]
    assert teacher_rows(MethodConfig(anchors="all"), memory).tolist() == [True, True]


def test_options_that_do_not_exist_are_refused():
    h = torch.eye(2)
    y, rows = torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="denominator must be one of"):
        teacher_sup_con(h, h, y, rows, 1.0, denominator="all")
    with pytest.raises(ValueError, match="one label and one anchor flag"):
        teacher_sup_con(h, h, y[:1], rows, 1.0)
    with pytest.raises(ValueError, match="banks are"):
        teacher_sup_con(h, h, y, rows, 1.0, positive_bank="both")


def test_unknown_method_values_are_user_errors():
    from common.config import UserError

    for words in (
        "method.nspt_modalities=[sound]",
        "method.temperature=0",
        "method.memory_size=-1",
        "method.epochs=[1,2]",
        "data.slots=true",
        "eval.val_share=0",
    ):
        with pytest.raises(UserError):
            config(words)


# -- distillation --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["outputs"]["kd_cases"])
def test_golden_logit_distillation(case):
    """Golden: both mixing rules of the authors' helper, current loss 1."""
    new = torch.sin(torch.arange(case["B"] * case["new_classes"], dtype=torch.float64))
    old = torch.cos(0.6 * torch.arange(case["B"] * case["old_classes"], dtype=torch.float64))
    kd = softened_divergence(
        new.view(case["B"], -1), old.view(case["B"], -1), case["tau"], reduction="element"
    )
    one = torch.ones((), dtype=torch.float64)
    weight = math.log(1 + case["old_classes"] / case["new_classes"])
    assert float(mixed(kd, one, weight)) == pytest.approx(
        case["get_kdloss_with_current_loss_1.0"], rel=1e-6
    )
    assert float(mixed(kd, one, 0.3)) == pytest.approx(
        case["get_kdloss_onlyrehe_alpha_0.3"], rel=1e-6
    )


def test_divergence_is_zero_for_equal_logits_and_carries_no_gradient_to_the_teacher():
    x = torch.randn(3, 4, requires_grad=True)
    assert softened_divergence(x, x.detach()).abs().max() < 1e-6
    y = torch.randn(3, 4, requires_grad=True)
    softened_divergence(x, y, 2.0).sum().backward()
    assert y.grad is None
    assert float(x.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="temperature"):
        softened_divergence(x, y, 0.0)
    with pytest.raises(ValueError, match="C_old <= C"):
        softened_divergence(x, torch.zeros(3, 5))


@pytest.mark.parametrize("kind", ["audio", "sequence", "token"])
@pytest.mark.parametrize("alone", [True, False])
def test_item_18_alpha_rule_alone_and_with_coconut(kind, alone):
    """Item 18: alpha = sqrt(memory / rows); plain cross-entropy without memory; COCONUT adds on
    top.
    """
    own = [*ER] if alone else []
    module = module_of(*own, f"method.distillation={kind}")
    if kind == "sequence":
        module.hypotheses.copy_(torch.tensor([2, 6, 4, 7, 3, 0, 0, 0, 0]))
    with torch.no_grad():  # a student that has moved away from its teacher
        for parameter in module.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    terms = module.losses(batch(6, 3))
    alpha = rehearsal_weight(3, 6)
    assert alpha == pytest.approx(math.sqrt(0.5))
    expected = alpha * terms["kd"] + (1 - alpha) * terms["ce"]
    if not alone:
        expected = expected + 0.1 * terms["mm"] + 0.5 * (terms["nspt_audio"] + terms["nspt_text"])
    assert float(terms["kd"]) > 0
    assert float(terms["loss"]) == pytest.approx(float(expected), rel=1e-5)
    none = module.losses(batch(6, 0))
    assert float(none["kd"]) == 0
    if alone:
        assert float(none["loss"]) == pytest.approx(float(none["ce"]), rel=1e-6)


def test_item_18_token_distillation_on_all_rows_has_the_weight_k_over_k_plus_1():
    """Item 18: T-KD on everything has weight 1/2 in task 2, 2/3 in task 3, memory or not."""
    module = module_of(*ER, "method.distillation=token_all")
    module.task = 2
    assert module._distillation_share(torch.zeros(6, dtype=torch.bool)) == pytest.approx(2 / 3)
    module.task = 1
    with torch.no_grad():
        module.network.decoder.output.weight.add_(0.3)
        module.network.decoder.output.bias.normal_()
    terms = module.losses(batch(6, 0))
    assert float(terms["kd"]) > 0
    expected = 0.5 * terms["kd"] + 0.5 * terms["ce"]
    assert float(terms["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_item_18_student_equal_to_its_teacher_has_no_audio_or_token_distillation():
    """Item 18, negative twin: right after the copy both terms vanish."""
    for kind in ("audio", "token"):
        terms = module_of(*ER, f"method.distillation={kind}").losses(batch())
        assert float(terms["kd"]) == pytest.approx(0, abs=1e-6)


def test_cross_entropy_ignores_padding_unless_told_to_count_it():
    logits = torch.zeros(1, 3, 5)
    tokens = torch.tensor([[2, 4, 3, 0]])
    sums, counts = token_sums(logits, tokens, pad_id=0)
    assert counts.tolist() == [2]
    assert float(sums) == pytest.approx(2 * math.log(5))
    assert token_sums(logits, tokens, pad_id=0, count_pad=True)[1].tolist() == [3]
