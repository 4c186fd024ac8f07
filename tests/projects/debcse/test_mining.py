"""The offline stage: candidates, thresholds, cache, variants, frozen scorer, known meanings."""

import json

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.text.lexical import surface_similarity
from common.decoding.language_model import Continuation, LanguageModel
from common.encoders.state_dict import weights_digest
from common.engine.module import freeze
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import fit_whitening
from projects.debcse import tasks
from projects.debcse.config import IpwConfig
from projects.debcse.data import length_difference
from projects.debcse.mining import RIDGE, mine, scorer_encoding, with_variants
from projects.debcse.offline_cache import OfflineCache
from projects.debcse.paraphrase import Made, build_prompt, paraphrase, parse_paraphrase
from projects.debcse.record import SUMMARY, PairRecord, label_shares
from projects.debcse.sampling import PairSampler
from projects.debcse.tasks import write_paraphrases
from tests.projects.debcse.conftest import (
    MeaningScorer,
    config,
    meaning,
    meanings_corpus,
    same_meaning,
)

TEXTS = meanings_corpus()


def mined_with(folder, *overrides, texts=TEXTS, scorer=None):
    cfg = config(
        f"runs_dir={folder}",
        "pool.pos_k=8",
        "pool.neg_lex=12",
        "pool.neg_rand=12",
        "pool.repetition=false",
        *overrides,
    )
    return cfg, mine(cfg, texts, scorer or MeaningScorer())


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    return mined_with(tmp_path_factory.mktemp("runs"))


def test_progress_is_shown(tmp_path, monkeypatch, capsys):
    """Of the embeddings and of the search; a second call reads the cache and shows nothing."""
    monkeypatch.setattr("common.engine.progress.LINE_SECONDS", 0.0)
    mined_with(tmp_path)
    shown = capsys.readouterr().err
    assert "encode 0-200 of 200: 16/16" in shown
    assert "mine candidates: 1/" in shown
    mined_with(tmp_path)
    assert capsys.readouterr().err == ""


def draws_of(mined, **options):
    cfg, actual = mined
    anchors = np.arange(actual.pools.num_anchors)
    own = PairSampler(actual.pools, IpwConfig(**options), cfg.seed)
    return own.draw(anchors, np.zeros_like(anchors))


def test_pools_hold_the_nearest_the_lexical_and_random_sentences(mined):
    _, actual = mined
    pools = actual.pools
    assert pools.positive_ids.shape == (len(TEXTS), 8 + 1)
    assert pools.negative_ids.shape == (len(TEXTS), 24)
    scorer = MeaningScorer()
    z = torch.nn.functional.normalize(scorer.encode(TEXTS), dim=1)
    cosine = (z @ z.T).numpy()
    for anchor in (0, 57, len(TEXTS) - 1):
        near = pools.positive_ids[anchor]
        assert near[8] == anchor  # the twin, after the neighbours
        others = np.delete(cosine[anchor], anchor)
        np.testing.assert_allclose(
            np.sort(pools.semantic[0][anchor][:8]), np.sort(others)[-8:], atol=1e-5
        )
        ids = pools.negative_ids[anchor]
        ids = ids[ids >= 0]
        assert len(set(ids.tolist())) == len(ids)
        assert anchor not in ids
        want = surface_similarity([TEXTS[anchor]] * len(ids), [TEXTS[i] for i in ids])
        np.testing.assert_allclose(pools.surface[1][anchor][: len(ids)], want, atol=1e-5)
        np.testing.assert_allclose(
            pools.semantic[1][anchor][: len(ids)], cosine[anchor, ids], atol=1e-5
        )
    lexical = pools.surface[1][:, :12].mean()
    assert lexical > surface_similarity(TEXTS, TEXTS[::-1]).mean() + 0.05


def test_an_anchor_without_lexical_company_gets_random_sentences(tmp_path):
    """Places without a common word are filled by the seed, not by the first sentences; hits come
    first, and an anchor is never its own candidate."""
    alone = [f"unheard{i} unseen{i}" for i in range(6)]
    texts = [*TEXTS, *alone]
    rows = []
    for seed in (0, 1):
        _, actual = mined_with(tmp_path / str(seed), "pool.neg_rand=0", f"seed={seed}", texts=texts)
        ids = actual.pools.negative_ids
        assert ids.shape == (len(texts), 12)
        assert all(i not in row and len(set(row)) == 12 for i, row in enumerate(ids.tolist()))
        rows.append(ids[len(TEXTS) :])
        hits = ids[:50]
    assert len(np.unique(rows[0])) > 30
    assert (rows[0] != rows[1]).mean() > 0.8
    words = [set(text.lower().split()) for text in texts]
    assert np.mean([bool(words[i] & words[j]) for i, row in enumerate(hits) for j in row]) > 0.9


def test_thresholds_are_quantiles_or_given(tmp_path, mined):
    _, actual = mined
    near = actual.pools.semantic[0][:, :8]
    assert actual.pools.theta_pos == pytest.approx(np.quantile(near, 0.5), abs=1e-5)
    lexical = actual.pools.semantic[1][:, :12]
    assert actual.pools.theta_neg == pytest.approx(np.quantile(lexical, 0.5), abs=1e-5)
    _, given = mined_with(tmp_path, "ipw.theta_pos=0.8", "ipw.theta_neg=0.6")
    assert (given.pools.theta_pos, given.pools.theta_neg) == (0.8, 0.6)
    with pytest.raises(UserError, match="must lie below"):
        mined_with(tmp_path, "ipw.theta_pos=0.5", "ipw.theta_neg=0.6")


def test_second_run_reads_the_cache_and_a_stopped_one_goes_on(tmp_path, monkeypatch):
    _, whole = mined_with(tmp_path / "a")
    scorer = MeaningScorer()
    mined_with(tmp_path / "a", scorer=scorer)
    assert scorer.calls == 0
    import projects.debcse.mining as mining

    compute, blocks = mining.Candidates.__call__, []

    def breaks(self, anchors):
        blocks.append(anchors)
        if len(blocks) == 3:
            raise RuntimeError("power cut")
        return compute(self, anchors)

    monkeypatch.setattr(mining.Candidates, "__call__", breaks)
    small = "pool.block_size=32"
    with pytest.raises(RuntimeError, match="power cut"):
        mined_with(tmp_path / "b", small)
    _, resumed = mined_with(tmp_path / "b", small)
    assert blocks[3] == blocks[2]  # the block that was lost, none before it
    np.testing.assert_array_equal(resumed.pools.positive_ids, whole.pools.positive_ids)
    np.testing.assert_array_equal(resumed.pools.negative_ids, whole.pools.negative_ids)


def test_another_scorer_or_corpus_has_a_cache_of_its_own(tmp_path):
    _, first = mined_with(tmp_path)
    other = MeaningScorer()
    other.weight.data.fill_(2.0)
    _, second = mined_with(tmp_path, scorer=other)
    _, third = mined_with(tmp_path, texts=TEXTS[1:])
    _, fourth = mined_with(tmp_path, "model.pooling=avg", "model.mlp_only_train=false")
    assert len({x.folder for x in (first, second, third, fourth)}) == 4
    assert json.loads((first.folder / "cache.json").read_text())["pos_k"] == 8


def test_cosines_of_a_whitened_scorer_are_those_after_whitening_on_the_corpus(tmp_path):
    """Candidates, their stored similarities, and what other pairs are measured with."""
    scorer = MeaningScorer()
    cfg, actual = mined_with(tmp_path, "scorer.whiten=true", scorer=scorer)
    _, plain = mined_with(tmp_path, scorer=scorer)
    assert actual.folder != plain.folder
    rows = scorer.encode(TEXTS)
    rows = torch.nn.functional.normalize(fit_whitening(rows, ridge=RIDGE)(rows), dim=1)
    ids, cosine = actual.pools.positive_ids[:, :8], (rows @ rows.T).numpy()
    anchors = np.arange(len(TEXTS))[:, None]
    np.testing.assert_allclose(actual.pools.semantic[0][:, :8], cosine[anchors, ids], atol=1e-4)
    assert np.abs(actual.pools.semantic[0][:, :8] - plain.pools.semantic[0][:, :8]).max() > 0.01
    with scorer_encoding(cfg, scorer, actual) as encode:
        others = torch.nn.functional.normalize(encode(TEXTS[:5]), dim=1)
    assert torch.allclose(others, rows[:5], atol=1e-4)


def test_item_7_scorer_is_left_as_it_was(tmp_path):
    """Checklist 7: frozen, evaluation mode, bit-identical weights after mining."""
    from common.families.sentences.module import build_encoder

    cfg = config(f"runs_dir={tmp_path}")
    scorer = freeze(build_encoder(cfg.model))
    before = weights_digest(scorer)
    texts = [f"sentence {i} of {i % 5} words" for i in range(40)]
    mine(cfg, texts, scorer)
    assert weights_digest(scorer) == before
    assert not scorer.training
    assert not any(p.requires_grad or p.grad is not None for p in scorer.parameters())
    next(scorer.parameters()).data.add_(1)  # the twin: the digest sees a change
    assert weights_digest(scorer) != before


@pytest.mark.parametrize("kind", ["word_levenshtein", "char_levenshtein", "jaccard"])
def test_item_11_surface_similarity_of_the_corpus(tmp_path, kind):
    """Checklist 11: symmetric, 1 for equal texts, 0 for word lists with nothing in common."""
    texts = [*TEXTS[:30], "aa bb cc", "dd ee ff", "aa bb"]
    _, actual = mined_with(tmp_path, f"surface.kind={kind}", texts=texts)
    left, right = (i.ravel() for i in np.indices((33, 33)))
    s, back = actual.surface(left, right), actual.surface(right, left)
    np.testing.assert_array_equal(s, back)
    table = s.reshape(33, 33)
    assert (np.diag(table) == 1).all()
    assert 0 <= table.min() < table.max() == 1
    assert 0 < table[30, 32] < 1
    if kind != "char_levenshtein":  # whose words share the spaces between them
        assert table[30, 31] == 0


def test_item_14_surface_similarity_is_bounded_by_the_ratio_of_lengths(mined):
    """Checklist 14: s <= min / max of the lengths in words; the bound is reached and can fail."""
    _, actual = mined
    ids, s, sizes = actual.pools.negative_ids, actual.pools.surface[1], actual.surface.word_counts
    rows, columns = np.nonzero(ids >= 0)
    a, b = sizes[rows], sizes[ids[rows, columns]]
    ratio = np.minimum(a, b) / np.maximum(a, b)
    assert (s[rows, columns] <= ratio + 1e-6).all()
    assert not (actual.surface(ids[rows, columns], ids[rows, columns]) <= ratio).all()


def test_item_14_length_bias(mined):
    """Checklist 14: IPW positives differ more in length than semantic-only ones, twins by 0."""
    _, actual = mined
    sizes = actual.surface.word_counts
    mean = {
        name: length_difference(draws_of(mined, negatives="none", **options), sizes).mean()
        for name, options in {
            "ipw": {},
            "semantic": {"surface": False},
            "twin": {"positives": "self"},
        }.items()
    }
    assert mean["ipw"] > mean["semantic"] > mean["twin"] == 0


def test_item_15_false_negatives(mined):
    """Checklist 15: same-meaning negatives are rarer than random ones; without semantics not."""
    labels, anchors = same_meaning(TEXTS), np.arange(len(TEXTS))
    shares = {
        semantic: label_shares(TEXTS, anchors, draws_of(mined, semantic=semantic).ids, labels)
        for semantic in (True, False)
    }
    full, surface_only = shares[True], shares[False]
    random = full["random_negative_same_meaning_share"]
    assert full["negative_same_meaning_share"] < random
    assert random == pytest.approx(4 / 199, rel=0.1)
    uniform = draws_of(mined, positives="self", negatives="uniform")
    assert label_shares(TEXTS, anchors, uniform.ids, labels)["negative_same_meaning_share"] > random
    assert full["positive_entailment_share"] > 0.9
    assert full["positive_entailment_share"] > surface_only["positive_entailment_share"]


def test_drawn_positives_have_the_meaning_and_other_words(mined):
    """What the paper is about: same meaning, varied wording; other meaning, similar wording."""
    draws, semantic = draws_of(mined), draws_of(mined, surface=False)
    anchors = draws.anchors
    same = [
        meaning(TEXTS[i]) == meaning(TEXTS[j])
        for i, j in zip(anchors, draws.ids[:, 0], strict=True)
    ]
    assert np.mean(same) > 0.9
    assert draws.surface[:, 0].mean() < semantic.surface[:, 0].mean()
    known = ~np.isnan(draws.semantic[:, 1])
    assert draws.surface[known, 1].mean() > np.nanmean(semantic.surface[:, 1])


def test_label_shares_of_a_draw_by_hand():
    """Checklist 15: twins are left out, and the most that a draw could reach stands beside it."""
    texts = ["a", "b", "c", "d", "e"]
    labels = {
        frozenset("ab"): "entailment",
        frozenset("ac"): "contradiction",
        frozenset("cd"): "contradiction",
    }
    ids = np.array([[1, 2], [0, 0], [3, 4], [3, 0], [0, 1]])  # d draws itself, e has no label
    actual = label_shares(texts, np.arange(5), ids, labels)
    assert actual == {
        "positive_entailment_share": pytest.approx(2 / 3),
        "positive_contradiction_share": pytest.approx(1 / 3),
        "positive_entailment_share_most": pytest.approx(2 / 3),  # c has none
        "negative_same_meaning_share": pytest.approx(1 / 2),
        "random_negative_same_meaning_share": pytest.approx(1 / 4),
    }


# -- variants ------------------------------------------------------------------------------------


def test_variants_follow_the_corpus(tmp_path):
    cfg = config(f"runs_dir={tmp_path}", "pool.repetition=true")
    texts = with_variants(cfg, TEXTS)
    assert len(texts) == 2 * len(TEXTS)
    assert texts[: len(TEXTS)] == TEXTS
    copies = texts[len(TEXTS) :]
    assert all(set(a.split()) == set(b.split()) for a, b in zip(TEXTS, copies, strict=True))
    assert any(len(a.split()) < len(b.split()) for a, b in zip(TEXTS, copies, strict=True))
    assert with_variants(cfg, TEXTS) == texts
    actual = mine(cfg, TEXTS, MeaningScorer())
    variant = actual.pools.positive_ids >= len(TEXTS)
    rows, columns = np.nonzero(variant)
    assert len(rows)
    assert (actual.pools.positive_ids[rows, columns] == rows + len(TEXTS)).all()
    assert actual.pools.negative_ids.max() < len(TEXTS)


def test_pool_of_the_twin_alone(tmp_path):
    _, actual = mined_with(tmp_path, "pool.pos_k=0", "pool.neg_lex=0", "pool.neg_rand=0")
    assert actual.pools.positive_ids.tolist() == [[i] for i in range(len(TEXTS))]
    assert actual.pools.negative_ids.shape[1] == 0
    draws = PairSampler(actual.pools, IpwConfig(), 0).draw(np.arange(5), np.zeros(5, dtype=int))
    assert draws.ids[:, 0].tolist() == list(range(5))
    assert draws.fallback.tolist() == [[False, True]] * 5


def test_paraphrases_are_cached_by_sentence_and_become_candidates(tmp_path, monkeypatch):
    """A local LM writes them; a second call computes nothing; the sampler may draw them."""
    overrides = [f"paraphrase.output={tmp_path / 'p'}", "paraphrase.limit=3", "data.limit=64"]
    overrides += ["paraphrase.max_new_tokens=4", f"runs_dir={tmp_path}"]
    cfg = config(*overrides)
    assert paraphrase(cfg).computed == 3
    assert paraphrase(cfg) == Made(0)
    with pytest.raises(UserError, match="made for another temperature"):
        paraphrase(config(*overrides, "paraphrase.temperature=0.5"))
    with pytest.raises(UserError, match="set paraphrase.output"):
        paraphrase(config())
    cache = OfflineCache(tmp_path / "written", {})
    cache.add([TEXTS[0], TEXTS[1]], [{"text": "another wording"}, {"text": TEXTS[1]}])
    cfg = config(
        f"pool.paraphrases={tmp_path / 'written'}", "pool.repetition=false", f"runs_dir={tmp_path}"
    )
    actual = mine(cfg, TEXTS, MeaningScorer())
    assert actual.texts[len(TEXTS)] == "another wording"
    assert len(TEXTS) in actual.pools.positive_ids[0]
    assert actual.pools.positive_ids[1:].max() < len(TEXTS)  # equal texts are no candidates


def test_no_sentence_is_cut_from_its_prompt(tmp_path, monkeypatch, capsys):
    """The prompt's fixed part filled the budget, and the default model read "Two dog" of a
    sentence.
    """
    asked = []

    def continuations(self, prompts, policy, rngs, most, **options):
        asked.extend(prompts)
        return [
            Continuation("on" if i else "a new wording", True, 1) for i, _ in enumerate(prompts)
        ]

    monkeypatch.setattr(LanguageModel, "continuations", continuations)
    texts = ["Two dogs run over a green field.", "It rains.", "so " * 200]
    (tmp_path / "own.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    words = ["data.source=file", f"data.file={tmp_path}/own.txt", "data.limit=null"]
    cfg = config(*words, f"paraphrase.output={tmp_path / 'p'}")
    write_paraphrases(cfg, Workspace(tmp_path / "task"))
    assert asked == [build_prompt(text) for text in texts[:2]]
    said = capsys.readouterr().out
    assert "1 sentences paraphrased" in said
    assert "1 stay as they are: the answer was the same or shorter" in said
    assert "1 stay as they are: they have more than paraphrase.prompt_budget=160" in said


def test_mining_says_how_many_sentences_have_no_paraphrase(tmp_path, monkeypatch, capsys):
    """Paraphrases of another draw or corpus acted as if they were off, without a word."""
    monkeypatch.setattr(tasks, "corpus", lambda cfg: TEXTS)
    monkeypatch.setattr(tasks, "load_scorer", lambda cfg: MeaningScorer())
    cache = OfflineCache(tmp_path / "p", {})
    cfg = config(f"pool.paraphrases={tmp_path / 'p'}", f"runs_dir={tmp_path}", "pool.neg_lex=0")
    cache.add(["of another corpus"], [{"text": "x y"}])
    with pytest.raises(UserError, match=f"of none of the {len(TEXTS)} sentences"):
        tasks.mine_pairs(cfg, Workspace(tmp_path / "task"))
    cache.add([TEXTS[0]], [{"text": "another wording"}])
    tasks.mine_pairs(cfg, Workspace(tmp_path / "task"))
    assert (
        f"{len(TEXTS) - 1} of {len(TEXTS)} sentences have no paraphrase" in capsys.readouterr().out
    )


def test_prompt_and_parser():
    prompt = build_prompt("Two\nlines here.")
    assert prompt.endswith("Two lines here. =>")
    assert prompt.count("=>") == 3
    assert parse_paraphrase(" A new wording. => x\nmore", "old") == "A new wording."
    assert parse_paraphrase("one\n", "the old one") == "the old one"


# -- record --------------------------------------------------------------------------------------


def test_item_13_record_holds_what_was_drawn(mined):
    """Checklist 13: features of drawn and supervised pairs, shares and thresholds."""
    _, actual = mined
    record = PairRecord()
    assert not record.filled
    supervised = np.random.default_rng(0).random((2, 30, 3))
    labels = same_meaning(TEXTS)
    record.fill(actual, PairSampler(actual.pools, IpwConfig(), 0), list(supervised), labels)
    summary = dict(zip(SUMMARY, record.summary.tolist(), strict=True))
    draws = draws_of(mined)
    assert summary["theta_pos"] == pytest.approx(actual.pools.theta_pos)
    assert summary["positive_self_share"] == pytest.approx(
        (draws.ids[:, 0] == draws.anchors).mean()
    )
    assert summary["negative_fallback_rate"] == pytest.approx(draws.fallback[:, 1].mean())
    np.testing.assert_allclose(record.features("supervised", 1), supervised[1], rtol=1e-6)
    others = draws.ids[:, 0] != draws.anchors
    assert record.features("drawn", 0)[:, 0].mean() == pytest.approx(
        draws.surface[others, 0].mean()
    )
    again = PairRecord()
    again.load_state_dict(record.state_dict())
    assert again.filled
    torch.testing.assert_close(again.summary, record.summary, equal_nan=True)
