"""Lexers, functions of files, augmentations, readers of search sets."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest

from common.config import UserError
from common.data.tables import write_jsonl
from projects.cocosoda.code.functions import read_functions
from projects.cocosoda.code.lexer import piece_types, plain_code, split_identifiers, token_spans
from projects.cocosoda.code.search_sets import (
    bundled_docstrings,
    code_search_net_set,
    cosqa_pairs,
    joined_rows,
    listed_urls,
    read_cosqa,
    set_of_pairs,
    without_name,
)
from projects.cocosoda.code.soda import SoftAugmentation
from projects.cocosoda.code.types import LANGUAGES, TYPES, TYPES_OF

SOURCES = {
    "go": "func (s *S) Add(a int) int { return a+1 } // c",
    "java": 'int add(int a) { /* c */ return a + "x\\n"; }',
    "javascript": "function add(a) { return `x${a}` + 'y'; } // c",
    "php": "function add($a) { return $a + 'x'; } // c",
    "python": "def add(a):  # c\n    return f'{a}' + None + 1.5\n",
    "ruby": "def add(a) # c\n  @b + :sym + 'x'\nend",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_tokens_cover_all_but_white_space_in_their_order(language):
    code = SOURCES[language]
    spans = token_spans(code, language)
    assert "".join(code[s.start : s.end] for s in spans).replace(" ", "") == "".join(code.split())
    assert all(a.end <= b.start for a, b in pairwise(spans))
    types = {code[s.start : s.end]: s.type for s in spans}
    assert types["return" if "return" in code else "def"] == "keyword"
    assert types["Add" if language == "go" else "add"] in ("identifier", "field_identifier")
    assert types["("] == "separators"
    kinds = {s.type for s in spans}
    assert "comment" in kinds
    assert "operator" in kinds
    assert kinds <= {*TYPES_OF[language], "comment", "other"}
    assert "c" not in plain_code(code, language).split()
    assert set(TYPES_OF[language]) <= set(TYPES)


def test_special_kinds_of_tokens():
    def kind(code, language, text):
        (actual,) = {s.type for s in token_spans(code, language) if code[s.start : s.end] == text}
        return actual

    assert kind("x = None", "python", "None") == "literal"
    assert kind(SOURCES["ruby"], "ruby", "@b") == "variable"
    assert kind(SOURCES["ruby"], "ruby", ":sym") == "symbol"
    assert kind(SOURCES["php"], "php", "$a") == "variable"
    assert kind(SOURCES["java"], "java", '"x\\n"') == "string"  # one token, as in CodeSearchNet
    assert kind("var x = /ab/g;", "javascript", "/ab/g") == "regex"
    assert kind("x := 0x1f", "go", "0x1f") == "number"
    joined = (  # on one line, as in CodeSearchNet
        "func f ( ) { x , e := g ( ) if e != nil { return } for { x ( ) } }"
    )
    assert {kind(joined, "go", word) for word in ("func", "if", "return", "for")} == {"keyword"}
    assert kind(joined, "go", "e") == "identifier"


def test_mistakes_and_characters_of_several_bytes_do_not_move_tokens():
    broken = "def f ( a : return ' $ x"
    spans = token_spans(broken, "python")
    assert [broken[s.start : s.end] for s in spans][:6] == ["def", "f", "(", "a", ":", "return"]
    assert spans[-1].type == "identifier"
    wide = "return '\u00e9\u4e2d' + abc"
    for language in ("javascript", "python"):
        last = token_spans(wide, language)[-1]
        assert wide[last.start : last.end] == "abc"
    assert token_spans("", "go") == token_spans("", "python") == []
    with pytest.raises(UserError, match="no grammar for language 'c'"):
        token_spans("int x;", "c")


def test_pieces_have_the_type_of_the_token_that_holds_their_first_character():
    code = "return ab + 1"
    offsets = [(0, 3), (3, 6), (7, 8), (8, 9), (9, 10), (10, 11), (12, 13)]
    actual = piece_types(token_spans(code, "python"), offsets)
    names = [TYPES[t] if t >= 0 else None for t in actual]
    assert names == ["keyword"] * 2 + ["identifier"] * 2 + [None, "operator", "number"]
    assert piece_types([], offsets).tolist() == [-1] * 7
    assert split_identifiers("readHTTPLine_2x") == "read HTTPLine 2x"


IDS = np.arange(10, 10 + 4000)
KINDS = np.tile([0, 1, 2, -1], 1000)
SODA = SoftAugmentation(5, np.arange(100_000, 100_000 + len(TYPES)), 50_000, (12, 13), ratio=0.2)


def test_masking_alters_nine_tenths_of_the_chosen_tokens():
    new = SODA.code("mask", IDS, KINDS, np.random.default_rng(0), 0)
    free = ~np.isin(IDS, SODA.special)
    assert (new != IDS)[free].mean() == pytest.approx(0.2 * 0.9, abs=0.02)
    assert (new == 5)[free].mean() == pytest.approx(0.2 * 0.8, abs=0.02)
    assert (new[~free] == IDS[~free]).all()
    assert new.max() < 50_000


def test_replacing_changes_four_fifths_of_the_chosen_tokens_into_their_types():
    new = SODA.code("replace", IDS, KINDS, np.random.default_rng(0), 0)
    typed = (KINDS >= 0) & ~np.isin(IDS, SODA.special)
    changed = new != IDS
    assert changed[typed].mean() == pytest.approx(0.2 * 0.8, abs=0.02)
    assert not changed[~typed].any()
    assert (new[changed] == 100_000 + KINDS[changed]).all()


@pytest.mark.parametrize(("strategy", "wanted"), [("replace_type", 100_001), ("mask_type", 5)])
def test_one_type_is_replaced_or_masked(strategy, wanted):
    new = SODA.code(strategy, IDS, KINDS, np.random.default_rng(0), 1)
    assert ((new != IDS) == (KINDS == 1) & ~np.isin(IDS, SODA.special)).all()
    assert set(new[new != IDS]) == {wanted}
    some = SoftAugmentation(5, SODA.type_ids, 50_000, type_ratio=0.5)
    share = (some.code(strategy, IDS, KINDS, np.random.default_rng(0), 1) != IDS)[KINDS == 1]
    assert share.mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="'shuffle' of"):
        SODA.code("shuffle", IDS, KINDS, np.random.default_rng(0), 1)


def test_functions_of_a_folder_with_their_places(tmp_path):
    (tmp_path / "a.py").write_text(
        'import os\n\n@cache\ndef one(a):\n    """Doc."""\n    return a\n\nclass C:\n    def'
        ' two(self):\n        """Only."""\n'
    )
    (tmp_path / "b.go").write_text("package p\n\nfunc Three(a int) int { return a }\n")
    (tmp_path / "script.rb").write_text("puts 1\n")
    (tmp_path / "c.php").write_text("<?php\nfunction four($a) { return $a; }\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/x.py").write_text("def hidden(): pass\n")
    (tmp_path / "bad.py").write_bytes(b"\xff\xfe")
    actual = read_functions(tmp_path)
    names = [(f.path.name, f.line, f.name) for f in actual]
    assert names == [
        ("a.py", 4, "one"),
        ("a.py", 9, "two"),
        ("b.go", 3, "Three"),
        ("c.php", 2, "four"),
        ("script.rb", 1, "script"),
    ]
    assert actual[0].code == "@cache\ndef one(a):\n    return a"
    assert "Only" in actual[1].code  # a body is left
    assert actual[0].place.endswith("a.py:4")
    with pytest.raises(UserError, match="does not exist"):
        read_functions(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no code"):
        read_functions(tmp_path / "empty")


def functions_in(path, code):
    path.write_text(code)
    return [(function.line, function.name, function.code) for function in read_functions(path)]


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("def f():\n    '''d'''\n    return 1", "def f():\n    return 1"),
        ("def f():\n    '''d\n    e'''  # why\n\n    return 1", "def f():\n\n    return 1"),
        ("def f(): 'd'; return 1", "def f(): return 1"),
        (
            "def f():\n    '''\u00fc\n    e''' ; x = 1\n    return x",
            "def f():\n    x = 1\n    return x",
        ),
        ("def f(): 'd'", "def f(): 'd'"),
    ],
)
def test_docstrings_are_left_out_and_nothing_else(tmp_path, code, wanted):
    """The whole line went, whatever stood beside the docstring."""
    assert functions_in(tmp_path / "a.py", code) == [(1, "f", wanted)]
    method = "class A:\n" + "\n".join(f"    {line}" for line in code.split("\n"))
    assert functions_in(tmp_path / "a.py", method)[0][2] == wanted


def test_functions_of_javascript_are_expressions_as_well(tmp_path):
    """A file with one declared function or method once lost all its arrows and function
    expressions.
    """
    code = (
        "export const load = async (x) => {\n  return x;\n};\n"
        "class A { go() { return 1; } handle = () => 2; }\n"
        "const B = function (y) { return y; };\n"
        "module.exports.run = function own(z) { return z; };\n"
        "const o = { 'key': (a) => a };\n"
        "items.map((x) => x * 2);\n"
        "app.get('/', (req, res) => {\n  res.end();\n});\n"
        "const g = function* () { yield 1; };\n"
    )
    actual = functions_in(tmp_path / "a.js", code)
    assert [(line, name) for line, name, _ in actual] == [
        (1, "load"),
        (4, "handle"),
        (4, "go"),
        (5, "B"),
        (6, "module.exports.run"),
        (7, "key"),
        (9, ""),
        (12, "g"),
    ]
    assert actual[0][2] == "load = async (x) => {\n  return x;\n}"
    php = "<?php\n$f = fn($x) => $x;\nfunction four($a) { return $a; }\n"
    assert functions_in(tmp_path / "a.php", php) == [
        (3, "four", "function four($a) { return $a; }")
    ]


def test_python_that_does_not_parse_keeps_its_functions(tmp_path):
    """A file of Python 2 was one text, named after the file, and cut to the model's length."""
    code = (
        "class C:\n    def f(\n        self,\n    ):\n        print 'f'\n\n        return 1\n\n   "
        " x = 1\n\ndef g(): pass\n"
    )
    assert functions_in(tmp_path / "two.py", code) == [
        (2, "f", "def f(\n    self,\n):\n    print 'f'\n\n    return 1"),
        (11, "g", "def g(): pass"),
    ]
    (tmp_path / "three.py").write_text("def h(): pass\n")
    said = list[str]()
    assert [f.name for f in read_functions(tmp_path, said.append)] == ["h", "f", "g"]
    (told,) = said
    assert told.startswith("1 Python files do not parse")


def test_source_files_in_another_encoding_are_counted(tmp_path):
    """They were left out without a word, and one that was named itself "has no code"."""
    (tmp_path / "a.py").write_text("def one(): pass\n")
    latin = tmp_path / "b.go"
    latin.write_bytes("// caf\u00e9\nfunc Two() {}\n".encode("latin-1"))
    said = list[str]()
    assert [f.name for f in read_functions(tmp_path, said.append)] == ["one"]
    assert "1 files are left out" in said[0]
    assert "b.go" in said[0]
    with pytest.raises(UserError, match="b.go is not a source file in UTF-8"):
        read_functions(latin)


def test_archives_are_joined_with_the_lists_of_urls(tmp_path):
    folder = tmp_path / "go"
    for part, urls in (("train", "abc"), ("valid", "de"), ("test", "fg")):
        own = folder / "final/jsonl" / part
        own.mkdir(parents=True)
        with gzip.open(own / f"go_{part}_0.jsonl.gz", "wt") as file:
            for url in urls:
                file.write(
                    json.dumps(
                        {
                            "url": url,
                            "language": "go",
                            "code_tokens": ["f", url],
                            "original_string": "f",
                            "docstring_tokens": ["d", url],
                            "repo": "r",
                        }
                    )
                    + "\n"
                )
        (folder / f"{part}.txt").write_text("\n".join(reversed(urls[:-1] + "z")))
    (folder / "codebase.txt").write_text("g\ne\nd\n", "utf-8-sig")  # a mark is not a part of a URL
    assert [row["url"] for row in joined_rows(folder, "train")] == ["b", "a"]
    (valid,) = joined_rows(folder, "valid")
    assert (valid["code_tokens"], valid["original_string"]) == ([], "")
    assert valid["docstring_tokens"] == ["d", "d"]
    base = joined_rows(folder, "codebase")
    assert [row["url"] for row in base] == ["g", "e", "d"]
    assert not any(row["docstring_tokens"] for row in base)
    for part in ("valid", "codebase"):
        write_jsonl(folder / f"{part}.jsonl", joined_rows(folder, part))
    data = code_search_net_set(tmp_path, "go", "valid")
    assert (data.queries, data.gold_places, data.codes[2]) == (["d d"], [[2]], "f d")
    file = folder / "valid.jsonl"
    file.write_text(file.read_text(), "utf-8-sig")
    assert code_search_net_set(tmp_path, "go", "valid").queries == ["d d"]
    file.write_text(f"\n{file.read_text('utf-8-sig')}\n")  # empty lines are passed over
    assert code_search_net_set(tmp_path, "go", "valid").gold_places == [[2]]
    write_jsonl(file, [{"url": "e", "code_tokens": [], "docstring_tokens": None}])
    with pytest.raises(UserError, match="line 1: docstring_tokens is neither a list"):
        code_search_net_set(tmp_path, "go", "valid")
    (folder / "test.txt").write_text("nothing\n")
    with pytest.raises(UserError, match="none of the URLs"):
        joined_rows(folder, "test")
    with pytest.raises(UserError, match=r"needs train.txt"):
        joined_rows(tmp_path / "ruby", "train")


def test_a_line_of_a_list_is_a_url_whatever_blanks_it_holds(tmp_path):
    """Some of the released URLs have raw spaces; ends of lines and blanks around a URL are no part
    of it.
    """
    spaced = "https://github.com/a/b/blob/c/simple example/index.js#L1-L2"
    (tmp_path / "train.txt").write_bytes(f"\n{spaced}\r\n  b \n\n \t\nc".encode())
    assert listed_urls(tmp_path, "train") == [spaced, "b", "c"]
    (tmp_path / "final/jsonl/train").mkdir(parents=True)
    rows = [{"url": url, "code_tokens": ["f"], "docstring_tokens": ["d"]} for url in ("c", spaced)]
    write_jsonl(tmp_path / "final/jsonl/train/a.jsonl", rows)
    assert [row["url"] for row in joined_rows(tmp_path, "train")] == [spaced, "c"]


def test_cosqa_is_read_as_released_and_as_rows(tmp_path):
    (tmp_path / "code_idx_map.txt").write_text(
        json.dumps({"def a ( ) :  pass": 0, "def b ( ) : 1": 1})
    )
    rows = [
        {"idx": "1", "doc": "how to b", "retrieval_idx": 1, "label": 1},
        {"idx": "3", "doc": "no answer", "retrieval_idx": 0, "label": 0},
        {"idx": "2", "doc": "gone", "retrieval_idx": 9},
    ]
    (tmp_path / "cosqa-retrieval-dev-500.json").write_text(json.dumps(rows), "utf-8-sig")
    data = read_cosqa(tmp_path)
    assert data.codes == ["def a ( ) : pass", "def b ( ) : 1"]
    assert data.gold_places == [[1], []]
    assert [pair.query for pair in cosqa_pairs(tmp_path, "dev")] == ["how to b"]
    with pytest.raises(UserError, match="cosqa-retrieval-test"):
        read_cosqa(tmp_path, "test")
    plain = tmp_path / "rows"
    plain.mkdir()
    write_jsonl(plain / "codebase.jsonl.gz", [{"_id": 4, "code": "def a():  # c\n    pass"}])
    write_jsonl(plain / "dev.jsonl.gz", [{"query": "a", "code_id": 4}])
    assert read_cosqa(plain).codes == ["def a ( ) : pass"]
    with pytest.raises(UserError, match="neither code_idx_map.txt"):
        read_cosqa(tmp_path / "go")


@pytest.mark.slow
def test_bundled_docstrings_keep_their_parts_apart():
    """No docstring of one part in another; whole modules held out for development; names hidden."""
    actual = bundled_docstrings(None, 50, 0)
    docs = {part: {pair.query for pair in own} for part, own in actual.items()}
    assert {part: len(own) for part, own in actual.items()} == {
        "train": 50,
        "valid": 810,
        "test": 895,
    }
    assert not docs["train"] & docs["valid"]
    assert not docs["train"] & docs["test"]
    assert not docs["valid"] & docs["test"]
    modules = {part: {p.key.split(":")[0] for p in own} for part, own in actual.items()}
    assert not modules["train"] & modules["valid"]
    other = {pair.key for pair in bundled_docstrings(None, 50, 1)["train"]}
    assert other != {pair.key for pair in actual["train"]}
    for pair in actual["test"][:200]:
        name = pair.key.rpartition(":")[2].rpartition(".")[2]
        assert name in pair.code.split()
        assert name not in without_name(pair).code.split() or name == "f"
    data = set_of_pairs("x", actual["test"])
    repeated = [i for i, own in enumerate(data.gold_places) if len(own) > 1]
    assert len(repeated) == 2  # one property and its setter have one name
    with pytest.raises(UserError, match="limit"):
        bundled_docstrings(None, 10**6, 0)
