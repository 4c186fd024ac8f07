"""Caption metrics by hand, answers of VQA, the modality gap's report."""

import math

import pytest

from common.evaluation.generation import captions
from common.evaluation.generation.vqa import CONTRACTIONS, vqa_preprocess, vqa_score


def test_cider_by_hand():
    """Two images; every n-gram of the text but those of "b" is in one image's references, weight
    log 2.
    """
    references = [["a b c"], ["b d"]]
    cider = captions.Cider(references)
    actual = cider.scores(["a b", "b d"])
    w = math.log(2)
    penalty = math.exp(-1 / 72)  # one bigram against two
    # unigrams: a shared (w), b everywhere (0); bigrams: "a b" of "a b", "b c"
    one = w * w / (w * (w * math.sqrt(2)))
    two = w * w / (w * (w * math.sqrt(2)))
    assert actual[0] == pytest.approx(10 / 4 * penalty * (one + two))
    # no trigram in "b d": these orders count 0
    assert actual[1] == pytest.approx(10 / 4 * 2)


def test_cider_clips_repetition_and_means_over_references():
    references = [["one two three four", "five six seven eight"], ["x y"]]
    plain, repeated = captions.Cider(references).scores(["one two three four", ""])[0], None
    assert plain == pytest.approx(5.0)
    repeated = captions.Cider(references).scores(["one one one one", ""])[0]
    assert repeated < plain / 4
    with pytest.raises(ValueError, match="reference"):
        captions.Cider([["a"], []])


def test_bleu_takes_the_closest_reference_and_no_smoothing():
    texts, references = (
        ["a red bus", "the cat"],
        [["a red bus", "one bus"], ["the cat sat on a mat", "a cat"]],
    )
    assert captions.corpus_bleu(texts, references, 1) == pytest.approx(1.0)
    assert captions.corpus_bleu(["a red"], [["the red bus"]], 2) == 0.0
    short = captions.corpus_bleu(["a red"], [["a red bus x"]], 1)
    assert short == pytest.approx(math.exp(1 - 4 / 2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man. A dog.", "a man a dog"),
        ("In 2013. A cat", "in 2013 a cat"),
        ("It is 3.5 m. A $5.50 toy.", "it is 3.5 m a $ 5.50 toy"),
        ('It says "stop." A car', "it says stop a car"),
        ("a man.. a dog... a cat..", "a man a dog a cat"),
        ("the dog's. a cat", "the dog 's a cat"),
        (".5 litres of www.x.org", ".5 litres of www.x.org"),
    ],
)
def test_caption_words_are_those_of_the_official_tokenizer(text, words):
    """The words that Stanford's tokenizer 3.4.1 gives, called as the COCO evaluation calls it."""
    assert captions.caption_words(text) == words.split()


def test_abbreviations_and_brackets_are_the_same_wherever_they_stand():
    """Where the official tokenizer gives "u.s." and "-lrb-"."""
    assert captions.caption_words("U.S. flag (red) of the U.S.") == [
        "u.s",
        "flag",
        "red",
        "of",
        "the",
        "u.s",
    ]


def test_rouge_takes_precision_and_recall_from_different_references():
    """P = 3 / 4 of the second reference, R = 2 / 2 of the first, with b = 1.2; one reference alone
    has less.
    """
    words, references = list("abcd"), [list("ab"), list("axbycz")]
    expected = 2.44 * 0.75 / (1 + 1.44 * 0.75)
    assert captions.coco_rouge_l(words, references) == pytest.approx(expected)
    assert captions.coco_rouge_l(words, references[:1]) == pytest.approx(2.44 * 0.5 / 1.72)
    _, items = captions.caption_metrics(["A, b c d."], [["A b.", "a x b y c z"]])
    assert items["rouge_l"] == pytest.approx([expected])


def test_rouge_counts_words_in_order():
    assert captions.coco_rouge_l(["b", "a"], [["a", "b"]]) == pytest.approx(0.5)
    assert captions.coco_rouge_l(["a"], [["b"]]) == captions.coco_rouge_l([], [["a"], []]) == 0


def test_meteor_sees_the_same_words_of_captions_and_references():
    """Two matches in one piece: 1 - 0.5 (1 / 2)^3; the full stops of references had counted as
    misses.
    """
    items = captions.caption_metrics(["a dog."], [["A dog.", "cats."]])[1]
    assert items["meteor"] == pytest.approx([1 - 0.5 / 8])


def test_all_metrics_have_items_of_the_same_mean():
    means, items = captions.caption_metrics(
        ["a dog.", "two cats"], [["A dog", "the dog"], ["Cats"]]
    )
    assert set(means) == {"cider", "rouge_l", "meteor", "bleu_1", "bleu_2", "bleu_3", "bleu_4"}
    for name, values in items.items():
        assert means[name] == pytest.approx(sum(values) / 2)
    assert items["rouge_l"][0] == 1.0


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("a - b", "b"),
        ("well-known", "well known"),
        ("ten apples, 1,000", "10 apples 1000"),
        ("yall'll go", "y'all'll go"),
        ("3 p.m.", "3 pm"),
        ("", ""),
    ],
)
def test_answers_are_normalised_by_the_published_rules(text, want):
    assert vqa_preprocess(text) == want


def test_contractions_lack_one_apostrophe():
    assert CONTRACTIONS["dont"] == "don't"
    assert CONTRACTIONS["'ow'sat"] == "'ow's'at"
    assert "don't" not in CONTRACTIONS


def test_scores_saturate_at_three_annotators():
    assert vqa_score("two", {"2": 1, "two": 1}) == pytest.approx(2 / 3)
    assert vqa_score("2", {"2": 2, "two": 2}) == 1
