"""Results whose code only moved keep counting; anything more is refused."""

import json
from types import SimpleNamespace

import pytest

from scripts import moved_code
from scripts.moved_code import Tree, refusal, statements, uses, was_fresh

DATA = {"data/nli/train.csv": "aa"}
USED = (
    "from common.a import shift\n\ndef loss(x):\n    from common.a import late\n    return"
    " late(shift(x))"
)
SHIFT = "LIMIT = 3\n\ndef shift(x):\n    return x + LIMIT"
LATE = "def late(x):\n    return 2 * x"
OTHER = "def unused():\n    return 0"


def tree(reached, everything=(), **files):
    found = statements(reached)
    return Tree("", {**DATA, **files}, found, found | statements(everything))


BEFORE = tree([USED, SHIFT, LATE], [OTHER])


def test_definitions_may_stand_in_other_files():
    late_elsewhere = USED.replace("from common.a import late", "from common.b import late")
    assert not refusal(BEFORE, tree([late_elsewhere, LATE + "\n" + SHIFT]))


def test_what_the_earlier_tree_had_unreached_may_be_reached_by_the_move():
    assert not refusal(BEFORE, tree([USED, SHIFT, LATE + "\n" + OTHER]))


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ([USED, SHIFT.replace("3", "4"), LATE], "1 statements are gone"),
        ([USED, SHIFT], "1 statements are gone"),
        ([USED.replace("import late", "import later as late"), SHIFT, LATE], "are gone"),
        ([USED, SHIFT, LATE, "def late_too():\n    return 1"], "1 statements are new"),
        (
            [USED.replace("from common.a import late", "from torch import late"), SHIFT, LATE],
            "gone",
        ),
    ],
)
def test_anything_else_is_refused(texts, why):
    assert why in refusal(BEFORE, tree(texts))


def test_other_data_are_refused():
    changed = tree([USED, SHIFT, LATE], **{"data/nli/train.csv": "bb"})
    assert refusal(BEFORE, changed) == "the data differ"


def test_only_results_of_the_earlier_tree_are_renewed():
    """Places that a run of one process on a CPU does not execute apart."""
    files = {"common/a.py": "1", "common/kernels/gpu/launch.py": "2"}
    known = {"files": {**files, "common/kernels/gpu/launch.py": "0"}}
    before = Tree("", files, set(), set())
    assert was_fresh(known, before, ("common/kernels/gpu/",))
    assert not was_fresh(known, before, ())
    assert not was_fresh({"files": {"common/a.py": "0"}}, before, ("common/kernels/gpu/",))
    assert not was_fresh({}, before, ())


@pytest.fixture
def used(tmp_path, monkeypatch):
    """`used(place, files)` is what the names of common/c.py stand for in a tree of these files."""

    def used(place, files):
        root = tmp_path / place
        for name, text in {"c": USED, **files}.items():
            path = root / "common" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(moved_code, "ROOT", root)
        found = statements([USED])
        return found, uses(root / "common/c.py", found)

    return used


def test_a_name_that_moves_stands_for_the_same(used):
    before = used("before", {"a": f"{SHIFT}\n\n{LATE}"})
    assert before[1]
    late = USED.replace("from common.a import late", "from common.b import late")
    moved = used("after", {"a": SHIFT, "b": LATE, "c": late})
    assert before == moved
    passed_on = used("passed_on", {"a": f"{SHIFT}\nfrom common.b import late", "b": LATE})
    assert before == passed_on


def test_two_definitions_of_one_name_are_told_apart(used):
    """The statements alone are equal: both definitions are there, and only an import differs."""
    both = {"a": f"{SHIFT}\n\n{LATE}", "b": LATE.replace("2", "3")}
    first = used("first", both)
    late = USED.replace("from common.a import late", "from common.b import late")
    second = used("second", {**both, "c": late})
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_a_project_that_is_younger_than_the_commit_is_listed_and_the_others_go_on(
    tmp_path, monkeypatch
):
    part = {"code": "before", "files": DATA, "hardware": {"gpu": None}, "arms": {}}
    (tmp_path / "results").mkdir()
    for name in ("old", "young"):
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(part))
    (tmp_path / "projects/old").mkdir(parents=True)
    (tmp_path / "projects/old/__init__.py").touch()
    now = tree([USED])._replace(code="after")
    monkeypatch.setattr(moved_code, "ROOT", tmp_path)
    monkeypatch.setattr(moved_code, "tree_of", lambda project, idle: now)
    monkeypatch.setattr(moved_code, "look", lambda root, *words: moved_code.dump(*words))
    done = SimpleNamespace(returncode=0, stdout="abc\n")
    monkeypatch.setattr(moved_code.subprocess, "run", lambda *words, **options: done)
    lines = moved_code.renew("HEAD")
    assert lines == ["old: the same statements", "young: it is no result of abc"]
    renewed = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "results").glob("*.json")}
    assert (renewed["old"]["code"], renewed["old"]["moved"]) == ("after", "abc")
    assert renewed["young"] == part
