"""Contrastive search and the harness: golden values, checklist items 1 to 6, 10 to 12 and 14."""

import pytest
import torch

from common.data.row_map.chunks import RowSeed
from common.decoding.contrastive_search import contrastive_search, rerank
from common.decoding.options import Policy
from projects.contrastive_search.diversity import diversity, repeated_ngrams
from projects.contrastive_search.harness import decode_side_by_side
from tests.projects.contrastive_search.conftest import GOLDEN, ToyLM, sines, tiny_lm

TEXTS = [
    "a b a b a b a b c d",
    "the cat sat on the mat and the cat sat on the hat",
    "x y z x y z x y z w",
]
ROWS = [[5, 9, 30], [7, 80, 81, 82, 83], [11]]


def search(row, steps=16, model=None, **options):
    ids = torch.tensor([row])
    new = contrastive_search(
        model or ToyLM(), ids, max_new_tokens=steps, passes="expanded", **options
    )
    return row + new[0].tolist()


@pytest.mark.parametrize("case", GOLDEN["ranking_cases"])
def test_item_10_the_ranking_equals_the_golden_values(case):
    """Checklist 3, 10: the largest cosine, not the mean; ties and signs as released."""
    candidates, width = case["K"], case["D"]
    count = torch.arange(candidates * width, dtype=torch.float64)
    hidden = (0.5 + 0.91 * count).cos().view(1, candidates, width)
    probability = torch.arange(candidates, dtype=torch.float64).sin().softmax(0)[None]
    actual = rerank(hidden, sines(1, case["S"], width), probability, case["alpha"])
    assert int(actual.best) == case["selected"]
    assert actual.nearest[0].tolist() == pytest.approx(case["penalty"], rel=1e-9)
    assert actual.score[0].tolist() == pytest.approx(case["score"], rel=1e-9)


@pytest.mark.parametrize("case", GOLDEN["decode_cases"])
def test_item_10_decoding_equals_the_golden_sequences(case):
    """Checklist 2, 4, 5, 10 on the toy language model, whose states know their position."""
    options = {"candidates": case["k"], "penalty": case["alpha"]}
    actual = search(case["prefix"], case["new_tokens"], **options)
    assert actual == case["sequence"]
    ids = torch.tensor([case["prefix"]])
    slow = contrastive_search(ToyLM(), ids, max_new_tokens=16, passes="expanded", **options)
    assert slow[0].tolist() == actual[len(case["prefix"]) :]  # checklist 12: nothing is random


def test_items_1_and_4_one_candidate_or_no_penalty_is_greedy_search():
    """Checklist 1, through the harness and its prompts of several lengths."""
    lm = tiny_lm()
    policies = {
        "greedy": Policy("greedy"),
        "one": Policy("contrastive_search", candidates=1),
        "alpha_0": Policy("contrastive_search", penalty=0.0),
        "search": Policy("contrastive_search"),
    }
    actual = decode_side_by_side(lm, ROWS, policies, 12, seeds=[RowSeed(0, i) for i in range(3)])
    assert actual["one"] == actual["greedy"] == actual["alpha_0"] != actual["search"]


def by_definition(row, steps, candidates, alpha, full=True, worst=torch.amax):
    """Without cache; `full` and `worst` make the two mistakes that items 2 and 3 name."""
    model, seen = ToyLM(), list(row)

    def run(ids):
        return model(torch.tensor([ids]), position_ids=torch.arange(len(ids))[None])

    for _ in range(steps):
        logits = run(seen).logits[0, -1]
        top = logits.topk(candidates).indices
        probability = logits.softmax(-1)[top] if full else logits[top].softmax(-1)
        scores = []
        for token, p in zip(top.tolist(), probability, strict=True):
            states = run([*seen, token]).hidden_states[0][0]
            cosine = torch.cosine_similarity(states[-1:], states[:-1])
            scores.append(float((1 - alpha) * p - alpha * worst(cosine, 0)))
        seen.append(int(top[scores.index(max(scores))]))
    return seen


def test_items_2_to_4_full_softmax_largest_cosine_and_no_cache():
    """Checklist 2, 3, 4: equal to the definition, unlike renormalised or mean-penalty variants."""
    wrong_softmax = wrong_penalty = False
    for first in range(11):
        row, options = [first, 2], {"candidates": 4, "penalty": 0.5}
        actual = search(row, 12, **options)
        assert actual == by_definition(row, 12, 4, 0.5)
        wrong_softmax = wrong_softmax or actual != by_definition(row, 12, 4, 0.5, full=False)
        wrong_penalty = wrong_penalty or actual != by_definition(row, 12, 4, 0.5, worst=torch.mean)
    assert wrong_softmax
    assert wrong_penalty


def test_item_5_a_chosen_state_is_that_of_its_candidate():
    """Checklist 5: no token is encoded again, and what is looked back at is what was returned then.

    The model gives every pass a state of its own direction: a recomputed one would differ.
    """

    class Drifting(ToyLM):
        def __init__(self):
            super().__init__()
            self.passes = 0

        def forward(self, input_ids, position_ids=None, **_):
            out = super().forward(input_ids, position_ids=position_ids)
            out.hidden_states = (out.hidden_states[0] + 0.3 * self.passes,)
            self.passes += 1
            return out

    model = Drifting()
    actual = search([1, 2, 3], 10, model, candidates=4, penalty=0.6)
    assert model.passes == 11  # the prompt, then one pass for each new token
    plain, seen = ToyLM(), [1, 2, 3]
    places = torch.arange(14)
    kept = list(plain(torch.tensor([seen]), position_ids=places[None, :3]).hidden_states[0][0])
    for step in range(10):
        logits = plain(torch.tensor([seen]), position_ids=places[None, : len(seen)]).logits[0, -1]
        top = logits.topk(4).indices
        states = plain(top[:, None], position_ids=places[len(seen)].expand(4, 1)).hidden_states[0][
            :, 0
        ] + 0.3 * (step + 1)
        best = int(
            rerank(states[None], torch.stack(kept)[None], logits.softmax(-1)[top][None], 0.6).best
        )
        kept.append(states[best])
        seen.append(int(top[best]))
    assert actual == seen


def test_item_6_padding_on_the_left_never_counts():
    """Checklist 6: a batch gives what its rows give alone, and masked states would matter."""
    rows = [[1, 2, 3], [4], [9, 8, 7, 6, 5]]
    ids = torch.tensor([[3] * (5 - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (5 - len(row)) + [1] * len(row) for row in rows])
    options = {"candidates": 4, "penalty": 0.6}
    both = contrastive_search(
        ToyLM(), ids, attention_mask=mask, max_new_tokens=16, passes="expanded", **options
    )
    assert [row + new for row, new in zip(rows, both.tolist(), strict=True)] == [
        search(row, **options) for row in rows
    ]
    counted = contrastive_search(ToyLM(), ids, max_new_tokens=16, passes="expanded", **options)
    assert counted.tolist() != both.tolist()


@pytest.mark.parametrize(
    ("end", "place", "written"),
    [(113, 0, True), (276, 2, True), (5, 5, False)],
    ids=["first", "between", "last"],
)
def test_item_11_an_end_of_text_in_the_prefix_ends_nothing(end, place, written):
    """Checklist 11; one that is written, if any, ends the row and is part of it."""
    lm = tiny_lm()
    prefix = [*ROWS[1][:place], end, *ROWS[1][place:]]

    def continued(eos):
        lm.eos = eos
        return lm.continue_ids([prefix], Policy("contrastive_search"), [None], 12)[0]

    free = continued(None)
    assert len(free) == 12
    assert (end in free) == written
    cut = free[: free.index(end) + 1] if written else free
    assert 1 < len(cut) <= (11 if written else 12)  # a row that had ended before would have one
    actual = continued(end)
    assert actual == cut
    text = f" {lm.tokenizer.decode(actual)}".replace(" ##", "")  # a piece continues with the prefix
    assert lm.finished(prefix, actual) == (text, written, len(actual))


def test_items_12_and_14_one_harness_for_all_decoders():
    """Checklist 12, 14: the same prompts and budget; draws differ, runs do not, neighbours don't
    matter.
    """
    lm = tiny_lm()
    policies = {
        name: Policy(name)
        for name in ("greedy", "beam_search", "top_k", "nucleus", "typical", "contrastive_search")
    }
    seeds = [RowSeed(3, i) for i in range(3)]
    actual = decode_side_by_side(lm, ROWS, policies, 6, seeds=seeds, draws=2)
    assert actual == decode_side_by_side(lm, ROWS, policies, 6, seeds=seeds, draws=2)
    assert {name: len(draws) for name, draws in actual.items()} == {
        name: 2 if policy.samples else 1 for name, policy in policies.items()
    }
    assert all(len(ids) == 6 for draws in actual.values() for rows in draws for ids in rows)
    assert actual["nucleus"][0] != actual["nucleus"][1]
    alone = decode_side_by_side(lm, ROWS[1:2], policies, 6, seeds=seeds[1:2], draws=2)
    assert {n: [d[1] for d in draws] for n, draws in actual.items()} == {
        n: [d[0] for d in draws] for n, draws in alone.items()
    }


def test_item_10_diversity_equals_the_golden_values():
    """Checklist 10: the released counter; ours also counts the last n-gram."""
    golden = GOLDEN["diversity"]
    actual = [round(repeated_ngrams(TEXTS, n, official_ngram_count=True), 2) for n in (2, 3, 4)]
    assert actual == golden["rep2_rep3_rep4_percent_rounded2"]
    assert diversity(TEXTS, official_ngram_count=True) == pytest.approx(
        golden["diversity"], rel=1e-9
    )
    assert diversity(TEXTS) != pytest.approx(golden["diversity"], rel=1e-3)
    assert diversity(["one two", ""]) == 1.0
