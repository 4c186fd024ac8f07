"""Visual question answering: normalised answers, the score of ten annotators, targets.

Source: Antol et al. 2015, "VQA", arXiv 1505.00468; Goyal et al. 2017, arXiv 1612.00837, and the
rules of the official evaluation (https://visualqa.org/evaluation.html).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
ARTICLES = frozenset(["a", "an", "the"])
MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(
    r"(?!<=\d)\.(?!\d)"
)  # the rule as published, whose first group never excludes anything
_PERIODS = 32  # the published call passes a flag where a count is expected
# contractions, from which the spellings with one apostrophe left out follow
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't"
    " haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't"
    " mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've"
    " should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've"
    " someone'll someone's something'd something'd've something'll that's there'd there'd've"
    " there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't"
    " what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's"
    " who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've"
    " you'd you'd've you'll you're you've"
)


def _spellings() -> dict[str, str]:
    spellings = {}
    for word in _CONTRACTIONS.split():
        for place in [i for i, c in enumerate(word) if c == "'"]:
            spellings[word[:place] + word[place + 1 :]] = word
    return spellings | {"somebody'd": "somebodyd"}  # published that way round


CONTRACTIONS = _spellings()


def vqa_preprocess(answer: str) -> str:
    """An answer in the form in which answers are compared.

    Punctuation goes (to nothing beside a space or in a text with a comma between digits, to a space
    otherwise), then periods that no digit follows; number words become digits, articles go,
    contractions get their apostrophe.

    >>> vqa_preprocess("The two dogs, dont know."), vqa_preprocess("10,000")
    ("2 dogs don't know", '10000')
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    cleaned, commas = text, _COMMA.search(text) is not None
    for mark in MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside or commas else " ")
    cleaned = _PERIOD.sub("", cleaned, count=_PERIODS)
    words = [NUMBERS.get(word, word) for word in cleaned.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_score(answer: str, annotations: Mapping[str, int]) -> float:
    """min(n / 3, 1) with n the annotators who gave this answer, all answers in their compared form.

    Args:
        answer: what was predicted.
        annotations: answers of the annotators with their number.

    >>> vqa_score("2", {"two": 2, "three": 8})
    0.6666666666666666
    """
    counts: Counter[str] = Counter()
    for answer_given, count in annotations.items():
        counts[vqa_preprocess(answer_given)] += count
    return min(counts[vqa_preprocess(answer)] / 3, 1)


def vqa_training_targets(annotations: Sequence[str] | Mapping[str, int]) -> list[str]:
    """Answers to train on: the most common, and others that tie or were given three times.

    Args:
        annotations: the annotators' answers, or each with its number.

    Returns:
        By frequency; it ends before the first answer that is rarer than both.

    >>> vqa_training_targets({"yes": 6, "no": 3, "maybe": 1})
    ['yes', 'no']
    """
    ranked = Counter(annotations).most_common()
    targets: list[str] = []
    for answer, count in ranked:
        if count < 3 and count != ranked[0][1]:
            break
        targets.append(answer)
    return targets
