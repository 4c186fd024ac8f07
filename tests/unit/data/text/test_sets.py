"""Text corpora, training rows, NLI and graded pairs."""

import gzip

import pytest

from common.config import UserError
from common.data.lookup import BUNDLED
from common.data.splits import sentence_split
from common.data.tables import read_jsonl, write_jsonl
from common.data.text.sets import (
    SENTEVAL_STS,
    StsSet,
    load_nli_pairs,
    load_nli_triplets,
    load_sentences,
    load_sts,
    load_text_rows,
    senteval_lines,
    stsb_pairs,
)


@pytest.fixture
def root(tmp_path):
    """A data root with a few sentences and graded pairs."""
    for name in ("sentences-en", "stsb", "sts-years", "nli"):
        (tmp_path / name).mkdir()
    rows = [{"text": f"sentence {i}", "source": ("book", "wiki")[i % 2]} for i in range(400)]
    write_jsonl(tmp_path / "sentences-en" / "sentences.jsonl.gz", rows)
    for part, pair in (("train", ("a b", "c")), ("dev", ("d", "e")), ("test", ("f", "g"))):
        write_jsonl(tmp_path / "stsb" / f"en-{part}.jsonl.gz", [graded(*pair, 2.5)])
    years = [graded("c", "a  b", 1, "x"), graded("c", "d", 2, "x"), graded("c", "a", 3, "y")]
    write_jsonl(tmp_path / "sts-years" / "sts13.jsonl.gz", years)
    return str(tmp_path)


def graded(first, second, score, genre=None):
    row = {"sentence1": first, "sentence2": second, "score": score}
    return row if genre is None else row | {"genre": genre}


def test_sentences_are_split_by_hash(root):
    train, test = load_sentences(root), load_sentences(root, split="test")
    assert len(train) + len(test) == 400
    assert 0 < len(test) < 60
    assert {sentence_split(t) for t in test} == {"test"}
    assert not set(train) & set(test)


def test_limit_draws_by_seed_and_keeps_the_order_of_the_file(root):
    train = load_sentences(root)
    drawn = load_sentences(root, limit=20, seed=1)
    assert drawn == load_sentences(root, limit=20, seed=1)
    assert drawn == [text for text in train if text in set(drawn)]
    assert drawn != load_sentences(root, limit=20, seed=2)
    assert drawn != train[:20]


def test_sources_are_filtered_and_checked(root):
    wiki = load_sentences(root, sources=["wiki"])
    assert {int(text.split()[1]) % 2 for text in wiki} == {1}
    with pytest.raises(UserError, match="no source 'wikki'; did you mean 'wiki'"):
        load_sentences(root, sources=["wikki"])
    with pytest.raises(UserError, match="1000 sentences requested"):
        load_sentences(root, limit=1000)
    with pytest.raises(UserError, match="unknown split 'dev'"):
        load_sentences(root, split="dev")


@pytest.mark.slow
def test_bundled_sets_have_the_documented_sizes():
    train, test = (len(load_sentences(None, split=split)) for split in ("train", "test"))
    assert train + test > 250_000
    assert test / (train + test) == pytest.approx(0.05, abs=0.002)
    assert [len(load_nli_triplets(None, s)) for s in ("train", "test")] == [6906, 1200]
    assert [len(load_nli_pairs(None, s)) for s in ("train", "test")] == [25905, 3573]
    assert {row[2] for row in load_nli_pairs(None)} == {"entailment", "neutral", "contradiction"}
    sizes = [len(load_sts(None, f"stsb-{part}")) for part in ("train", "dev", "test")]
    assert sizes == [3749, 1000, 879]
    years = [len(load_sts(None, n, drop_stsb_overlap=False)) for n in ("sts12", "sts13", "sts14")]
    assert years == [1608, 1500, 3750]


def test_nli_triplets_are_in_the_order_of_the_columns():
    row = read_jsonl(BUNDLED / "nli" / "triplets-test.jsonl.gz")[0]
    assert load_nli_triplets(None, "test")[0] == (
        row["premise"],
        row["entailment"],
        row["contradiction"],
    )
    with pytest.raises(UserError, match="triplets-dev"):
        load_nli_triplets(None, "dev")


def test_pairs_of_stsb_are_dropped_in_either_order(root):
    kept = load_sts(root, "sts13")
    assert list(zip(kept.first, kept.second, strict=True)) == [("c", "d"), ("c", "a")]
    assert (kept.scores, kept.subsets) == ([2.0, 3.0], ["x", "y"])
    whole = load_sts(root, "sts13", drop_stsb_overlap=False)
    assert len(whole) == 3
    assert whole.second[0] == "a b"  # white space is normalised


def test_no_bundled_year_shares_a_pair_with_stsb():
    taken = stsb_pairs(None)
    for name in ("sts12", "sts13", "sts14"):
        data = load_sts(None, name)
        assert not taken & {frozenset(p) for p in zip(data.first, data.second, strict=True)}
    assert len(load_sts(None, "sts13")) == 750  # the other half is in STS-B


def test_stsb_parts_have_one_subset(root):
    data = load_sts(root, "stsb-dev")
    assert (data.first, data.second, data.scores) == (["d"], ["e"], [2.5])
    assert data.subsets == ["stsb-dev"]


def test_unknown_set_names_the_nearest():
    with pytest.raises(UserError, match="unknown STS set 'stsb'"):
        load_sts(None, "stsb")
    with pytest.raises(UserError, match="did you mean 'sts12'"):
        load_sts(None, "sts_12")


def test_sts_set_checks_its_lists():
    with pytest.raises(ValueError, match="lists of lengths"):
        StsSet("x", ["a"], ["b"], [1.0, 2.0])
    with pytest.raises(ValueError, match="lists of lengths"):
        StsSet("x", [], [], [])


@pytest.fixture
def senteval(tmp_path):
    """The official layout with two pairs per subset, one of them without a score."""
    folder = tmp_path / "SentEval" / "data" / "downstream"
    years = folder / "STS" / "STS16-en-test"
    years.mkdir(parents=True)
    for number, subset in enumerate(SENTEVAL_STS["STS16"]):
        text = f"{subset}  one\ttwo\t\nthree\tfour\u2028five\nsix\tseven\n"
        (years / f"STS.input.{subset}.txt").write_text(text, encoding="utf-8")
        (years / f"STS.gs.{subset}.txt").write_text(f"{number}\n4.5\n\n")
    (folder / "STS" / "STSBenchmark").mkdir()
    table = 'main-captions\tMSRvid\t2012\t7\t4.2\tA "man.\tA boy.\n'
    for part, copies in (("test", 2), ("dev", 1)):
        (folder / "STS" / "STSBenchmark" / f"sts-{part}.csv").write_text(table * copies)
    (folder / "SICK").mkdir()
    sick = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    (folder / "SICK" / "SICK_test_annotated.txt").write_text(sick + "6\tA dog\tA cat\t3.3\tNO\n")
    return tmp_path


def test_official_years_are_concatenated_without_unscored_pairs(senteval):
    data = load_sts(str(senteval), "senteval:STS16")
    assert len(data) == 10
    assert data.scores == [s for i in range(5) for s in (float(i), 4.5)]
    assert data.first[0] == "answer-answer one"
    assert data.second[:2] == ["two", "four five"]
    assert data.subsets == [s for s in SENTEVAL_STS["STS16"] for _ in range(2)]


def test_official_stsb_and_sick(senteval):
    data = load_sts(str(senteval), "senteval:STSBenchmark")
    assert (data.first, data.second, data.scores) == (['A "man.'] * 2, ["A boy."] * 2, [4.2] * 2)
    assert len(load_sts(str(senteval), "senteval:STSBenchmark-dev")) == 1
    sick = load_sts(str(senteval), "senteval:SICKRelatedness")
    assert (sick.first, sick.second, sick.scores) == (["A dog"], ["A cat"], [3.3])


def test_short_senteval_path_is_found(senteval):
    (senteval / "SentEval" / "data" / "downstream").rename(senteval / "downstream")
    assert len(load_sts(str(senteval), "senteval:SICKRelatedness")) == 1


def test_missing_and_damaged_senteval_files(senteval, root):
    with pytest.raises(UserError, match="SentEval.*get_transfer_data"):
        load_sts(str(senteval), "senteval:STS12")
    (senteval / "SentEval" / "data" / "downstream" / "SICK" / "SICK_test_annotated.txt").write_text(
        "header\n6\ta\tb\tnone\tNO\n"
    )
    with pytest.raises(UserError, match=r"SICKRelatedness are damaged.*none"):
        load_sts(str(senteval), "senteval:SICKRelatedness")


def test_rows_of_text_files(tmp_path):
    (tmp_path / "wiki.txt").write_text("One.\nTwo\u2028still two.\n\nThree.", encoding="utf-8")
    assert load_text_rows(tmp_path / "wiki.txt") == [
        ("One.",),
        ("Two\u2028still two.",),
        (" ",),
        ("Three.",),
    ]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"\xef\xbb\xbfHello\r\nWorld\r\n", ["Hello", "World"]),  # the mark was of the sentence
        (b"one\rstill one\ntwo\n\n", ["one\rstill one", "two", " "]),
        (b"\n", [" "]),
    ],
)
def test_lines_of_text_files_end_at_line_feeds_and_hold_no_mark(tmp_path, content, rows):
    (tmp_path / "a.txt").write_bytes(content)
    assert load_text_rows(tmp_path / "a.txt") == [(row,) for row in rows]


def test_a_text_file_of_another_encoding_is_told(tmp_path):
    """It was a traceback."""
    (tmp_path / "a.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt is not a text file in UTF-8"):
        load_text_rows(tmp_path / "a.txt")


def test_rows_of_tables_and_missing_cells(tmp_path):
    """Checklist 13: missing cells of a training file become a space."""
    path = tmp_path / "nli.csv"
    path.write_text('sent0,sent1,hard_neg\n"a, b",c,d\ne,,f\ng,h\n')
    expected = [("a, b", "c", "d"), ("e", " ", "f"), ("g", "h", " ")]
    assert load_text_rows(path) == expected
    with gzip.open(tmp_path / "nli.csv.gz", "wt") as file:
        file.write(path.read_text())
    assert load_text_rows(tmp_path / "nli.csv.gz") == expected
    (tmp_path / "pairs.tsv").write_text("x\ty\nI, you\tb\n")
    assert load_text_rows(tmp_path / "pairs.tsv") == [("I, you", "b")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b,c,d\n1,2,3,4\n", "has 4 columns"),
        ("a.csv", "a,b\n1,2,3\n", "3 fields, expected 2"),
        ("a.csv", "a,a\n1,2\n", "same name"),
        ("a.csv", "a,b\n", "has no rows"),
        ("a.json", "{}", r"expected a \.txt, \.csv or \.tsv"),
    ],
)
def test_unusable_training_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_text_rows(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        load_text_rows(tmp_path / "absent.txt")


def test_quotes_of_simcse_tables_hold_tabs(tmp_path):
    """As in the authors' reader, whatever the delimiter."""
    (tmp_path / "pairs.tsv").write_text('x\ty\n"I\tyou"\tb\n')
    assert load_text_rows(tmp_path / "pairs.tsv") == [("I\tyou", "b")]


def test_senteval_lines_end_at_line_feeds_only(senteval):
    """A carriage return inside a sentence made two lines of it."""
    folder = senteval / "SentEval" / "data" / "downstream"
    path = folder / "STS/STSBenchmark/sts-test.csv"
    path.write_bytes(b'g\tf\ty\ti\t4.2\tA "man\rhere.\tA boy.\r\n')
    assert senteval_lines(path) == ['g\tf\ty\ti\t4.2\tA "man\rhere.\tA boy.']
    assert load_sts(str(senteval), "senteval:STSBenchmark").first == ['A "man here.']
