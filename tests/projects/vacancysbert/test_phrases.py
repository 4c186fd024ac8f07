"""Phrases are found as whole words; clauses end at conjunctions."""

from projects.vacancysbert.phrases import PhraseMatcher, clauses, sentences, without_phrases


def test_the_longest_entry_wins_on_whole_words():
    find = PhraseMatcher(
        {"data": "data", "data mining": "mining", "c": "C", "c++": "C++", "--": "x"}
    )
    assert find("Data-mining, DATA; databases in C++ and C") == ["mining", "data", "C++", "C"]
    assert find("mining data mining tool") == ["mining"]  # no word is used twice
    assert find("") == []
    assert PhraseMatcher({})("anything") == []


def test_a_match_does_not_hide_a_shorter_one_that_begins_with_the_same_word():
    find = PhraseMatcher({"sales force": "a", "sales force tools in use": "b"})
    assert find("sales force tools in stock") == ["a"]


def test_phrases_go_in_any_case_with_plural_and_as_whole_words_only():
    assert without_phrases("Nurses care; a NURSE, nursery", ["nurse"]) == "care; a , nursery"
    assert without_phrases("head nurse or nurse", ["nurse", "head nurse"]) == "or"
    assert without_phrases("a+b c", ["a+b"]) == "c"  # no pattern
    assert without_phrases("boxes", ["box", " "]) == ""


def test_clauses_end_at_conjunctions_and_long_ones_go():
    assert clauses("They are able to cut wood, metals (steel) and the glass.") == [
        "able to cut wood",
        "metals",
        "steel",
        "glass",
    ]
    assert clauses("one two three four, five", max_words=3) == ["five"]
    assert clauses("salt, salt") == ["salt"]
    assert clauses("The andirons.") == ["andirons"]
    assert sentences("Ends here. And here? v1.2 does not") == [
        "Ends here.",
        "And here?",
        "v1.2 does not",
    ]
