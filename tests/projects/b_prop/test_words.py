"""Golden values and checklist items 1, 6 to 11, 14 on term distributions and word sets."""

import math

import numpy as np
import pytest
import torch

from common.config import UserError
from common.encoders.text.cross_encoder import cross_encoder
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.b_prop.corpus_statistics import dirichlet, keep_probability
from projects.b_prop.data import analyser, attention_source, kept_documents, training_documents
from projects.b_prop.distribution import (
    Candidates,
    contrastive_distribution,
    contrastive_weights,
    ordered,
    random_distribution,
    sample_word_sets,
    saturate,
    set_lengths,
    term_distribution,
)
from projects.b_prop.documents import Collection
from projects.b_prop.words import WordSampler
from tests.projects.b_prop.conftest import (
    GOLDEN,
    WORDS,
    config,
    counts_collection,
    golden_attention,
    pairs_of,
    row_of,
)

INPUTS, OUTPUTS = GOLDEN["inputs"], GOLDEN["outputs"]


def saturated(document):
    raw = golden_attention(document)
    return dict(zip(raw, saturate(np.array(list(raw.values()))).tolist(), strict=True))


def background():
    totals: dict[str, float] = {}
    for document in range(4):
        for word, value in saturated(document).items():
            totals[word] = totals.get(word, 0.0) + value
    return random_distribution(totals, 4)


# -- golden --------------------------------------------------------------------------------------


def test_item_7_saturation_and_random_distribution_equal_the_golden_values():
    """Checklist 7: the mean over documents counts absent words as 0; both sum to 1."""
    assert saturated(0) == pytest.approx(INPUTS["saturated_doc0"], rel=1e-6)
    actual = background()
    assert actual == pytest.approx(INPUTS["random_distribution"], rel=1e-6)
    assert sum(actual.values()) == pytest.approx(1, abs=1e-12)
    assert term_distribution(np.array(list(saturated(0).values()))).sum() == pytest.approx(1)
    # a word of one document of two has half of the weight of one that is in both
    assert random_distribution({"a": 0.4, "b": 0.8}, 2)["a"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("case", OUTPUTS["contrastive"], ids=lambda c: f"{c['method']}-{c['doc']}")
def test_item_8_contrastive_weights_and_sets_equal_the_golden_values(case):
    """Checklist 8: weights, probabilities, and the very sets that the release draws."""
    weights = {**saturated(case["doc"]), "x1": 0.2}
    gamma, chances = contrastive_distribution(weights, background(), case["method"])
    assert "x1" not in gamma
    assert gamma == pytest.approx(case["contrastive_weight"], rel=1e-6, abs=1e-12)
    assert chances == pytest.approx(case["sampling_prob"], rel=1e-6)
    p = np.array(list(chances.values()))
    candidates = Candidates(list(gamma), p / p.sum(), np.array(list(gamma.values())), False)
    drawn = sample_word_sets(candidates, 3, 3.0, np.random.RandomState(0))
    for pair, expected in zip(drawn, case["word_sets_numpy_seed0"], strict=True):
        for (words, score), (text, value) in zip(pair, expected, strict=True):
            assert " ".join(words) == text
            assert score == pytest.approx(value, rel=1e-6, abs=1e-12)


def test_item_10_dirichlet_and_keep_probability_equal_the_golden_values():
    """Checklist 10: P(w|D) of all words of the vocabulary, summing to 1."""
    back = {w: (k + 1) / 136 for k, w in enumerate(WORDS)}
    counts = {"alpha": 3, "delta": 1, "kernel": 2}
    actual = {w: dirichlet(w, counts, 6, back, 10) for w in WORDS}
    assert actual == pytest.approx(OUTPUTS["prop_dirichlet"], rel=1e-6)
    assert sum(actual.values()) == pytest.approx(1)
    for frequency, expected in OUTPUTS["prop_keep_probability_t1e4"].items():
        assert keep_probability(float(frequency), 1e-4) == pytest.approx(expected, rel=1e-6)


# -- distributions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "wanted"), [("entropy", [0, 100, 1]), ("subtract", [0, 0.5, 0.25])]
)
def test_item_8_words_without_attention_have_no_weight(method, wanted):
    """Checklist 8: also where the collection's attention rounds to 0 too; chances stay numbers."""
    actual = contrastive_weights(np.array([0, 0.5, 0.5]), np.array([0, 0, 0.25]), method)
    assert actual.tolist() == wanted
    words = config().words
    row = row_of({"red": 1, "cow": 1}, attention=[0.0, 0.03])
    candidates = WordSampler(words, Collection.of([row], words)).candidates(row, None)
    assert candidates.scores[0] == 0
    assert candidates.probabilities.sum() == pytest.approx(1)


def test_item_10_prop_scores_use_the_average_length_and_document_frequencies():
    """Checklist 10: mu = average number of non-stop words; P(w|C) from df; rare words have none."""
    words = config("words.distribution=unigram", "words.min_count=2").words
    counts = [{"red": 3, "fox": 1}, {"red": 1, "cow": 5}, {"fox": 1, "one": 1}]
    sampler = WordSampler(words, counts_collection(counts, words))
    assert sampler.mu == 4.0
    assert sampler.background == {"red": 2 / 5, "fox": 2 / 5, "cow": 1 / 5}
    actual = sampler.candidates(
        row_of({"red": 3, "fox": 1, "the": 9, "7": 2}), np.random.default_rng(0)
    )
    assert actual.replace
    assert list(actual.words[:2]) == ["red", "fox"]
    assert {"the", "7", "one"}.isdisjoint(actual.words)  # stop word, no letters, too rare
    scores = dict(zip(actual.words, actual.scores, strict=True))
    assert scores["red"] == pytest.approx(math.log((3 + 4 * 0.4) / (4 + 4)))
    assert scores["cow"] == pytest.approx(math.log(4 * 0.2 / 8))
    # probability: likelihood times what passes the sub-sampling of frequent words
    keep = {
        w: min(1.0, keep_probability(tf / 12)) for w, tf in (("red", 4), ("fox", 2), ("cow", 5))
    }
    product = {w: math.exp(scores[w]) * keep[w] for w in actual.words}
    total = sum(product.values())
    assert actual.probabilities == pytest.approx([product[w] / total for w in actual.words])
    tf = config("words.distribution=unigram", "words.background=tf", "words.min_count=1").words
    assert WordSampler(tf, counts_collection(counts, tf)).background["cow"] == pytest.approx(5 / 12)


def test_item_10_prop_counts_whole_texts_and_trains_on_the_first_512_words():
    """Checklist 10: tf, |D| and mu are of the whole text; what is short is still told by the
    pieces.
    """
    text = "zebra " * 300 + "tiger " * 300
    rows = {}
    for kept in (512, "null"):
        cfg = config(f"prepare.keep_words={kept}", name="paper_prop")
        rows[kept] = analyser(cfg, tiny_tokenizer(), None, 2)([{"id": "a", "text": text}])[0]
    assert dict(zip(rows[512]["words"], rows[512]["counts"], strict=True)) == {
        "zebra": 300,
        "tiger": 300,
    }
    assert rows[512]["text"].split() == text.split()[:512]
    assert rows["null"]["text"] == text
    assert sum(rows["null"]["counts"]) < 300
    assert 500 < rows[512]["pieces"] == rows["null"]["pieces"] <= 510
    short = analyser(cfg, tiny_tokenizer(), None, 2)(
        [{"id": "a", "text": "zebra"}, {"id": "b", "text": ""}]
    )
    assert [row["pieces"] for row in short] == [len(tiny_tokenizer().tokenize("zebra")), 0]


def test_prop_fills_the_vocabulary_from_the_collection():
    """K candidates in all, or a number of draws more where the document has as many already."""
    words = config("words.vocabulary=30", "words.extra_words=5", "words.distribution=unigram").words
    names = [f"q{a}{b}" for a in "bcdfg" for b in "aeiouklmnp"]
    sampler = WordSampler(words, counts_collection([dict.fromkeys(names, 1)] * 2, words))
    few = sampler.candidates(row_of({"qba": 1}), np.random.default_rng(1)).words
    assert 15 < len(few) <= 30
    many = sampler.candidates(row_of(dict.fromkeys(names[:40], 1)), np.random.default_rng(1)).words
    assert 40 < len(many) <= 45
    words.extra_words = 40
    nearly = sampler.candidates(row_of(dict.fromkeys(names[:28], 1)), np.random.default_rng(1))
    assert 28 <= len(nearly.words) <= 30  # up to K, not extra_words more


def test_vanilla_attention_is_the_distribution_without_contrast():
    """P(w|D) of letters-only words, drawn without repetition, scored by its logarithm."""
    words = config("words.distribution=attention").words
    row = row_of({"red": 1, "the": 1, "x1": 1}, attention=[0.03, 0.01, 0.5])
    actual = WordSampler(words, Collection.of([row], words)).candidates(row, None)
    expected = np.array([0.75, 0.5]) / 1.25
    assert actual.words == ["red", "the"]
    assert not actual.replace
    assert actual.probabilities == pytest.approx(expected)
    assert actual.scores == pytest.approx(np.log(expected))


def test_item_7_all_words_take_part_in_the_random_distribution():
    """Checklist 7: P(w|R) sums to 1 over the vocabulary, numbers included; gamma leaves them
    out."""
    words = config().words
    row = row_of({"red": 1, "cow": 1, "7": 1}, attention=[0.01, 0.03, 0.01])
    sampler = WordSampler(words, Collection.of([row, row], words))
    actual = sampler.background
    assert actual == pytest.approx({"red": 0.5 / 1.75, "cow": 0.75 / 1.75, "7": 0.5 / 1.75})
    candidates = sampler.candidates(row, None)
    assert candidates.words == ["red", "cow"]
    assert candidates.scores[0] == pytest.approx(-actual["red"] * math.log2(actual["red"]))


@pytest.mark.parametrize(
    ("kind", "value"),
    [("ratio", 0.75), ("sqrt", 0.03**0.5), ("logistic", 1 / (1 + math.exp(-2))), ("none", 0.03)],
)
def test_saturations(kind, value):
    assert saturate(np.array([0.03]), kind)[0] == pytest.approx(value)


def test_item_8_function_words_fall_by_the_contrast():
    """Checklist 8: with the bundled encoder on abstracts, their mean rank is lower than before."""
    words = [
        "model.pretrained=bundled:text-encoder",
        "model.config=null",
        "data.source=bundled",
        "eval.max_documents=1",
        "data.max_document=48",
        "eval.sets=[]",
    ]
    cfg = config(*words)
    from common.evaluation.retrieval.beir import load_titles
    from common.families.retrieval.sets import set_folder

    bodies = list(load_titles(set_folder("retrieval-cisi", None))[1].values())[:40]
    ranker = cross_encoder("bundled:text-encoder", max_length=99)
    run = analyser(cfg, *attention_source(cfg, ranker), 20)
    rows = run([{"id": i, "text": text} for i, text in enumerate(bodies)])
    again = run([{"id": i, "text": text} for i, text in enumerate(bodies)])
    assert rows == again  # item 6
    ranks = {}
    for kind in ("attention", "entropy", "subtract"):
        own = config(*words, f"words.distribution={kind}").words
        sampler = WordSampler(own, Collection.of(rows, own))
        actual = []
        for row in rows:
            candidates = sampler.candidates(row, None)
            order = [candidates.words[i] for i in np.argsort(-candidates.scores, kind="stable")]
            actual += [
                order.index(w) / len(order) for w in ("the", "of", "and", "in", "a") if w in order
            ]
        ranks[kind] = np.mean(actual)
    assert ranks["entropy"] > ranks["attention"] + 0.05
    assert ranks["subtract"] > ranks["attention"] + 0.05


def test_item_6_extraction_is_frozen_and_repeatable():
    """Checklist 6: twice the same, without gradient or dropout; first pieces, summed over
    places."""
    cfg = config()
    torch.manual_seed(0)
    ranker = cross_encoder("random", config=cfg.model.config, max_length=64).train()
    tokenizer, encoder = attention_source(cfg, ranker)
    assert not any(p.requires_grad for p in encoder.parameters())
    rows = [
        {"id": "a", "text": "The cow and the Zebra"},
        {"id": "b", "text": "people of the world"},
    ]
    run = analyser(cfg, tokenizer, encoder, 2)
    first = run(rows)
    encoder.train()
    assert run(rows) == first
    assert first[0]["words"] == ["the", "cow", "and", "zebra"]
    assert first[0]["counts"] == [2, 1, 1, 1]
    ids = tokenizer(rows[0]["text"], return_tensors="pt")
    encoder.eval()
    with torch.no_grad():
        layer = encoder(input_ids=ids["input_ids"], output_attentions=True).attentions[-1]
    attention = layer[0, :, 0].mean(0)
    owners = ids.word_ids()
    place = {n: owners.index(n) for n in range(5)}
    assert first[0]["attention"][0] == pytest.approx(
        float(attention[place[0]] + attention[place[3]]), rel=1e-4
    )
    assert first[0]["attention"][3] == pytest.approx(float(attention[place[4]]), rel=1e-4)


def test_parity_extraction_hides_later_pieces_and_keeps_the_special_tokens():
    """As released: [CLS] and [SEP] take part in the normalisation and are filtered later."""
    torch.manual_seed(0)
    cfg = config("words.parity_extraction=true")
    ranker = cross_encoder("random", config=cfg.model.config, max_length=64)
    row = analyser(cfg, *attention_source(cfg, ranker), 2)([{"id": "a", "text": "zebra cow"}])[0]
    assert row["words"] == ["[CLS]", "zebra", "cow", "[SEP]"]
    assert sum(row["attention"]) == pytest.approx(1, abs=1e-4)  # nothing is left for later pieces
    sampler = WordSampler(cfg.words, Collection.of([row], cfg.words))
    assert {"[CLS]", "[SEP]"} <= sampler.background.keys()  # of P(w|R) as well
    assert sampler.candidates(row, None).words == ["zebra", "cow"]
    plain = analyser(config(), *attention_source(config(), ranker), 2)(
        [{"id": "a", "text": "zebra cow"}]
    )[0]
    assert sum(plain["attention"]) < 0.9


def test_stems_are_shared_and_become_words_again():
    """Attention and counts are summed over the words of a stem; a drawn stem is one of its
    words."""
    words = config("words.stemming=true").words
    row = row_of({"library": 1, "libraries": 2, "cow": 1}, attention=[0.01, 0.02, 0.01])
    collection = Collection.of([row], words)
    assert collection.surfaces["librari"] == {"library": 1, "libraries": 2}
    assert collection.statistics.term_frequency == {"librari": 3, "cow": 1}
    sampler = WordSampler(words, collection)
    assert sampler.candidates(row, None).words == ["librari", "cow"]
    drawn = [
        w
        for seed in range(30)
        for words, _ in sampler.pair(row, np.random.default_rng(seed))
        for w in words
    ]
    assert {*drawn} == {"library", "libraries", "cow"}


# -- pairs ---------------------------------------------------------------------------------------


def test_item_9_lengths_are_never_zero():
    """Checklist 9: Poisson, redrawn until above 0; one length for both sets of a pair."""
    lengths = set_lengths(4000, 0.7, np.random.default_rng(0))
    assert min(lengths) == 1
    assert np.mean(lengths) == pytest.approx(0.7 / (1 - math.exp(-0.7)), rel=0.05)
    names = [f"w{i}" for i in range(5)]
    candidates = Candidates(names, np.full(5, 0.2), np.arange(5.0), False)
    for first, second in sample_word_sets(candidates, 200, 3.0, np.random.default_rng(0)):
        assert len(first[0]) == len(second[0]) > 0
        assert len({*first[0]}) == min(len(first[0]), 5) or len(first[0]) >= 5
    some = Candidates(names, np.array([0.5, 0.5, 0, 0, 0]), np.arange(5.0), False)
    for pair in sample_word_sets(some, 50, 3.0, np.random.default_rng(0)):  # more than can be drawn
        assert {*pair[0][0], *pair[1][0]} <= {"w0", "w1"}


def test_item_1_the_score_decides_and_ties_are_settled_alike():
    """Checklist 1: higher sum first; equal sums keep the order of drawing; one document, one
    length.
    """
    low, high, other = (["a"], 1.0), (["b"], 2.0), (["c"], 1.0)
    assert ordered((low, high)) == ordered((high, low)) == (high, low)
    assert ordered((low, other)) == (low, other)
    for kind in ("unigram", "entropy"):
        data = pairs_of(f"words.distribution={kind}")
        for index in range(12):
            row, (positive, negative) = data.draw(index, 0)
            assert positive[1] >= negative[1]
            assert len(positive[0]) == len(negative[0])
            candidates = data.sampler.candidates(row, np.random.default_rng(0))
            known = dict(zip(candidates.words, candidates.scores, strict=True))
            if kind == "entropy":
                for words, score in (positive, negative):
                    assert score == pytest.approx(sum(known[w] for w in words))


def test_random_labels_are_a_control():
    """Half of the pairs have the less likely set first."""
    data = pairs_of("words.labels=random", "data.pairs=4")
    first = [p[1] < n[1] for i in range(100) for _, (p, n) in [data.draw(i, 0)] if p[1] != n[1]]
    assert 0.3 < np.mean(first) < 0.7


def test_item_11_sets_are_new_in_every_epoch_and_a_function_of_the_seed():
    """Checklist 11: epochs and seeds differ; the same key gives the same pair in any order."""
    data, other = pairs_of(), pairs_of("seed=1")

    def sets(source, epoch):
        return [source.draw(i, epoch)[1] for i in range(10)]

    assert sets(data, 0) == sets(pairs_of(), 0)
    assert sets(data, 0) != sets(data, 1)
    assert sets(data, 0)[::-1] == [data.draw(i, 0)[1] for i in range(9, -1, -1)]
    assert sets(data, 0) != sets(other, 0)
    neighbours = sets(data, 0)
    assert neighbours[0] != neighbours[1]  # pairs of one document


def test_item_14_short_documents_are_skipped_with_a_probability():
    """Checklist 14: of 0, some, all; documents with few words always."""
    cfg = config()
    torch.manual_seed(0)
    ranker = cross_encoder("random", config=cfg.model.config, max_length=64)
    documents, _ = training_documents(cfg, ranker)
    whole = len(kept_documents(documents, cfg))
    assert whole == 48

    def kept(probability, limit=1000):
        own = config(f"data.short_pieces={limit}", f"data.short_skip_prob={probability}")
        return len(kept_documents(documents, own))

    assert kept(1.0) == 0
    assert kept(0.0) == kept(1.0, limit=0) == whole
    assert 1 < kept(0.8) < 24
    assert config("data.short_pieces=5").data.short_skip_prob == 0.8  # the papers' value
    with pytest.raises(UserError, match="lower data.min_words"):
        pairs_of("data.min_words=900")
