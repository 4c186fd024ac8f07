"""Search in a folder of code, and the preparation of CodeSearchNet's rows, as the commands drive
them.
"""

import pytest

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.engine.workspace import Workspace
from projects.cocosoda import build
from projects.cocosoda.code.search_sets import PIECES, read_code_search_net
from projects.cocosoda.code.types import TYPES_OF
from tests.projects.cocosoda.conftest import config, module_of


@pytest.mark.slow
def test_search_follows_a_folder_of_code(full_run, tmp_path, capsys):
    """Places of functions; the index forgets what is gone and encodes what is new; other weights:
    no.
    """
    src = tmp_path / "src"
    src.mkdir()
    (src / "a.py").write_text("def one():\n    return 1\n\n\ndef two():\n    return one() + 1\n")
    (src / "b.go").write_text("package p\n\nfunc Three(a int) int { return a }\n")
    (tmp_path / "q.txt").write_text("one plus one\n")
    words = [
        f"runs_dir={full_run.parents[2]}",
        f"search.index={tmp_path}/index",
        f"search.queries={tmp_path}/q.txt",
        "search.k=9",
    ]

    def search(*further):
        cfg = config(*words, *further)
        build(cfg).tasks["search"](Workspace(tmp_path / "task", "cocosoda", "smoke"))
        return capsys.readouterr().out

    run = "search.run=full"
    shown = search(run, f"search.file={src}")
    assert "3 functions indexed" in shown
    for place in ("a.py:1 one", "a.py:5 two", "b.go:3 Three"):
        assert place in shown
    (src / "b.go").unlink()
    (src / "a.py").write_text("\n\ndef one():\n    return 1\n\n\ndef new():\n    return 3\n")
    shown = search(run, f"search.file={src}")
    assert "opened, 1 functions encoded" in shown
    assert "2 functions indexed" in shown
    assert "a.py:3 one" in shown
    assert "Three" not in shown
    shown = search(run, "data.source=csn", "data.folder=nowhere")  # the index is all that is needed
    assert "opened, 0 functions encoded" in shown
    assert "2 functions indexed" in shown
    (tmp_path / "only.py").write_text("# nothing but this\n")
    with pytest.raises(UserError, match=r"only.py contains comments alone"):
        search(run, f"search.file={tmp_path}/only.py")
    build(config()).export(module_of("seed=5").eval(), tmp_path / "other")
    with pytest.raises(UserError, match="made with another encoder"):
        search(f"search.run={tmp_path}/other", f"search.file={src}")


def test_prepare_joins_archives_and_types_pieces(tmp_path):
    """Rows that training reads; stopped calls go on; stored pieces are those found anew."""
    folder = tmp_path / "raw/go"
    for part in ("train", "valid", "test"):
        own = folder / "final/jsonl" / part
        own.mkdir(parents=True)
        row = {
            "url": part,
            "language": "go",
            "code_tokens": ["func", "Add", "// c", "(", "a", ")"],
            "docstring_tokens": ["adds"],
            "original_string": "func Add(a)",
        }
        write_jsonl(own / "x.jsonl", [row])
        (folder / f"{part}.txt").write_text(part)
    (folder / "codebase.txt").write_text("valid\ntest\n")
    cfg = config(
        "data.source=csn",
        "data.folder=x",
        "data.languages=[go]",
        f"prepare.input={tmp_path}/raw",
        f"prepare.output={tmp_path}/CSN",
    )
    task = build(cfg).tasks["prepare"]
    task(Workspace(tmp_path / "task"))
    (row,) = read_jsonl(tmp_path / "CSN/go/train.jsonl")
    kinds = [kind for _, kind in row[PIECES]]
    assert (kinds[0], kinds[-1]) == ("keyword", "separators")
    assert set(kinds) <= {*TYPES_OF["go"], "other"}
    assert kinds.count("other") < 4  # the comment
    (pair,) = read_code_search_net(tmp_path / "CSN", "go")
    assert pair.pieces is not None
    assert len(read_jsonl(tmp_path / "CSN/go/codebase.jsonl")) == 2
    parts = sorted((tmp_path / "task/parts/go-train").rglob("*"))
    times = [p.stat().st_mtime_ns for p in parts]
    task(Workspace(tmp_path / "task"))
    assert [p.stat().st_mtime_ns for p in parts] == times  # nothing was computed again
    shorter = config(
        "data.source=csn",
        "data.folder=x",
        "data.languages=[go]",
        f"prepare.input={tmp_path}/raw",
        "model.code_length=12",
    )
    with pytest.raises(UserError, match="length"):  # what was kept has other pieces
        build(shorter).tasks["prepare"](Workspace(tmp_path / "task"))
    with pytest.raises(UserError, match="prepare.input"):
        build(config()).tasks["prepare"](Workspace(tmp_path / "task"))


def go_archives(folder, codebase):
    """Two archives of eleven rows for each part, lists of them and one that is gone, a list of the
    code base.
    """
    for part in ("train", "valid", "test"):
        own = folder / "final/jsonl" / part
        own.mkdir(parents=True)
        rows = [
            {"url": f"{part}{i}", "code_tokens": ["f"], "docstring_tokens": ["d"]}
            for i in range(11)
        ]
        write_jsonl(own / "a.jsonl", rows[:9])
        write_jsonl(own / "b.jsonl", rows[9:])
        (folder / f"{part}.txt").write_text("\n".join([*(row["url"] for row in rows), "gone"]))
    (folder / "codebase.txt").write_text("\n".join(codebase))


def test_prepare_says_what_the_archives_lack_and_refuses_many(tmp_path, capsys):
    """One of twelve listed functions may be gone; where a whole archive is, rows would be missing
    silently.
    """
    folder = tmp_path / "raw/go"
    go_archives(folder, ["valid0", "test0"])
    cfg = config(
        "data.source=csn",
        "data.folder=x",
        "data.languages=[go]",
        f"prepare.input={tmp_path}/raw",
        f"prepare.output={tmp_path}/CSN",
    )
    task = build(cfg).tasks["prepare"]
    task(Workspace(tmp_path / "task"))
    shown = capsys.readouterr().out
    assert shown.count("1 of 12 listed URLs are in no archive") == 3
    assert "0 of 2 listed URLs" in shown
    (folder / "final/jsonl/valid/b.jsonl").unlink()
    with pytest.raises(UserError, match=r"valid.txt: 3 of 12 .* unpack"):
        task(Workspace(tmp_path / "other"))
    assert not list((tmp_path / "other").rglob("*go-valid*"))


def test_prepare_takes_a_code_base_whose_list_names_more_than_the_archives_hold(tmp_path, capsys):
    """The released lists do (JavaScript: half of them is gone); the same share is too much of
    another part.
    """
    folder, gone = tmp_path / "raw/go", [f"gone {i}" for i in range(1500)]
    go_archives(folder, ["test3", *gone, "valid5", "train0"])
    cfg = config(
        "data.source=csn",
        "data.folder=x",
        "data.languages=[go]",
        f"prepare.input={tmp_path}/raw",
        f"prepare.output={tmp_path}/CSN",
    )
    task = build(cfg).tasks["prepare"]
    task(Workspace(tmp_path / "task"))
    said = "1,501 of 1,503 listed URLs are in no archive, 2 are (published code base: 28,120)"
    assert said in capsys.readouterr().out
    rows = read_jsonl(tmp_path / "CSN/go/codebase.jsonl")
    assert [row["url"] for row in rows] == ["test3", "valid5"]  # in the list's order
    (folder / "test.txt").write_text("\n".join(["test3", *gone, "valid5"]))
    with pytest.raises(UserError, match=r"test.txt: 1,501 of 1,502 .* unpack"):
        task(Workspace(tmp_path / "other"))
