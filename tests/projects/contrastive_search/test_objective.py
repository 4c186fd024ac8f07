"""SimCTG: golden values, checklist items 7 to 10, and two processes."""

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.losses.auxiliary.tokens import token_margin_contrastive
from projects.contrastive_search.data import Lines, training_lines
from projects.contrastive_search.objective import SimCTGObjective
from projects.contrastive_search.token_cosines import TokenCosines
from tests.projects.contrastive_search.conftest import GOLDEN, config, module_of, sines


def mask_of(case):
    return torch.arange(case["S"]) < torch.tensor(case["valid_lengths"])[:, None]


@pytest.mark.parametrize("case", GOLDEN["loss_cases"])
def test_item_10_the_loss_and_its_gradient_equal_the_golden_values(case):
    """Checklist 8, 9, 10: diagonal and padding excluded, pairs counted over the batch, no stop."""
    states = sines(case["B"], case["S"], case["D"]).requires_grad_()
    loss = token_margin_contrastive(states, mask_of(case), case["margin"])
    loss.backward()
    assert float(loss) == pytest.approx(case["loss"], rel=1e-9)
    assert float(states.grad.norm()) == pytest.approx(case["grad_norm_h"], rel=1e-9)
    assert states.grad[0, 0, :4].tolist() == pytest.approx(case["grad_h_0_0_first4"], rel=1e-7)


def test_item_8_margin_zero_is_exactly_zero_and_padding_changes_nothing():
    """Checklist 8: also with equal tokens, whose cosine may round to more than 1."""
    case = GOLDEN["loss_cases"][0]
    states, mask = sines(case["B"], case["S"], case["D"]), mask_of(case)
    assert float(token_margin_contrastive(states[:, :1].expand(-1, 5, -1), mask, 0.0)) == 0.0
    longer = F.pad(states, (0, 0, 0, 2), value=7.0)
    actual = token_margin_contrastive(longer, F.pad(mask, (0, 2)), 0.5)
    assert float(actual) == pytest.approx(case["loss"], rel=1e-9)
    assert float(token_margin_contrastive(states[:, :1], mask[:, :1], 0.5)) == 0.0
    with pytest.raises(ValueError, match="need a mask"):
        token_margin_contrastive(states, mask[:, :2])


def test_item_9_the_total_is_the_sum_of_both_terms_and_so_is_its_gradient():
    """Checklist 9: equal weights; the gradient reaches the states from both terms."""
    states = sines(2, 5, 8).requires_grad_()
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    head = torch.arange(8 * 11, dtype=torch.float64).cos().view(8, 11)
    targets = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, -100, -100]])
    terms = SimCTGObjective(0.5)(states @ head, states, targets, mask)
    expected = F.cross_entropy((states @ head)[mask.bool()], targets[mask.bool()])
    assert float(terms["mle"]) == pytest.approx(float(expected), rel=1e-12)
    assert float(terms["loss"]) == pytest.approx(float(terms["mle"] + terms["contrastive"]))
    parts = [
        torch.autograd.grad(terms[n], states, retain_graph=True)[0]
        for n in ("loss", "mle", "contrastive")
    ]
    torch.testing.assert_close(parts[0], parts[1] + parts[2])
    assert all(float(part.abs().sum()) > 0 for part in parts)


def test_the_module_shifts_and_masks_as_the_equations_say():
    """Targets are the next tokens without padding; states are those of the shifted inputs."""
    module, cfg = module_of(), config()
    batch = Lines(training_lines(cfg), module.tokenizer, 60, 0)[[(0, 0), (1, 0), (2, 0)]]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert int(mask.min()) == 0  # rows of several lengths
    terms = module.losses(batch)
    out = module.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    each = F.cross_entropy(out.logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    expected = (each * mask[:, 1:]).sum() / mask[:, 1:].sum()
    assert float(terms["mle"]) == pytest.approx(float(expected), rel=1e-9)
    states = out.hidden_states[-1][:, :-1]
    near = token_margin_contrastive(states, mask[:, :-1], 0.5)
    assert float(terms["contrastive"]) == pytest.approx(float(near), rel=1e-9)
    terms["loss"].backward()
    for name, parameter in module.model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name
    assert float(module_of("method.margin=0").losses(batch)["contrastive"]) == 0.0


@pytest.mark.parametrize("case", GOLDEN["isotropy_cases"])
def test_item_7_isotropy_equals_the_golden_values(case):
    """Checklist 7 and 10."""
    cosines = TokenCosines()
    cosines.add(sines(1, case["S"], case["D"]))
    assert cosines.self_similarity == pytest.approx(case["self_similarity"], rel=1e-9)
    assert cosines.isotropy == pytest.approx(case["isotropy_unrounded"], rel=1e-9)


def test_item_7_isotropy_is_a_ratio_of_sums_and_padding_changes_nothing():
    """Checklist 7: long texts weigh more than in a mean of means."""
    first, second = sines(1, 6, 8), sines(1, 3, 8).abs()
    cosines, apart = TokenCosines(), [TokenCosines(), TokenCosines()]
    for own, states in zip(apart, (first, second), strict=True):
        own.add(states)
        cosines.add(states)
    expected = (apart[0].self_similarity * 30 + apart[1].self_similarity * 6) / 36
    assert cosines.self_similarity == pytest.approx(expected)
    assert expected != pytest.approx((apart[0].self_similarity + apart[1].self_similarity) / 2)
    batched = TokenCosines()
    both = torch.cat([first, F.pad(second, (0, 0, 0, 3), value=2.0)])
    batched.add(both, torch.tensor([[1] * 6, [1] * 3 + [0] * 3]))
    assert batched.self_similarity == pytest.approx(expected)
    with pytest.raises(ValueError, match="two tokens"):
        _ = TokenCosines().isotropy


def test_lines_are_drawn_anew_at_every_step_without_repetition_in_it():
    """One line an example, cut, none of a single token; a true end of text is not a padding."""
    tokenizer = module_of().tokenizer
    lines = Lines(["the state of the world"] * 3 + ["", *training_lines(config())], tokenizer, 6, 0)
    assert max(map(len, lines.rows)) == 6
    keys = [(i, 0) for i in range(5)]
    draws = [lines[[(i + step, 0) for i, _ in keys]]["ids"].tolist() for step in range(40)]
    assert all(len(set(own)) == 5 for own in draws)
    assert lines[keys]["ids"].tolist() == draws[0]
    counts = torch.bincount(torch.tensor(draws).flatten())
    assert int(counts.max()) > 1  # with replacement from one step to the next
    mask = lines[keys]["attention_mask"]
    assert mask.sum(1).tolist() == [len(lines.rows[i]) for i in draws[0]]
    with pytest.raises(UserError, match="no line of two tokens"):
        Lines([""], tokenizer_without_ends(tokenizer), 6, 0)


def tokenizer_without_ends(tokenizer):
    class Plain:
        pad_token_id, eos_token_id = 0, None

        def __call__(self, texts, **_):
            return {
                "input_ids": [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
            }

    return Plain()


@torch.no_grad()
def test_the_module_reads_the_last_states_and_validates_by_the_mean_over_tokens(monkeypatch):
    """Lines of different lengths in two batches, against the language model's own pass."""
    module = module_of().eval()
    lines = Lines(training_lines(config()), module.tokenizer, 24, 0, shuffled=False)
    total, count, logged = 0.0, 0, {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: float(value)}))
    for start, rows in ((0, 3), (3, 2)):
        batch = lines[[(i, 0) for i in range(start, start + rows)]]
        module.validation_step(batch, 0)
        ids, mask = batch["input_ids"][:, :-1], batch["attention_mask"]
        out = module.model(input_ids=ids, attention_mask=mask[:, :-1], output_hidden_states=True)
        states = out.hidden_states[module.model.config.n_layer]
        kept = mask[:, 1:].bool()
        nll = F.cross_entropy(out.logits[kept], batch["input_ids"][:, 1:][kept], reduction="sum")
        total, count = total + float(nll), count + int(kept.sum())
        terms = module.losses(batch)
        expected = token_margin_contrastive(states, mask[:, :-1], 0.5)
        torch.testing.assert_close(terms["contrastive"], expected)
        assert float(expected) > 0
    module.on_validation_epoch_end()
    assert logged["val/mle"] == pytest.approx(total / count, rel=1e-5)
