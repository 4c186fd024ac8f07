"""Official sets from a local server: fetched, broken off, continued; a wrong checksum is refused."""

import gzip
import hashlib
import http.server
import io
import json
import threading
import zipfile
from pathlib import Path

import pytest

from common.config import UserError
from common.data.official import catalogue, fetch
from common.data.official.fetch import download, fetch_set
from common.data.official.records import OfficialSet, RemoteFile, named_set, owner_of
from common.engine.experiment import Requirement
from common.engine.official import record_of
from common.evaluation.retrieval.beir import load_beir

PASSAGES = 'id\ttext\ttitle\n1\t"Paris is ""the"" capital"\tFrance\n2\tA fox\tAnimals\n'
QUESTIONS = "capital of France?\t['Paris', \"Lutetia's\"]\n"


def beir_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("tiny/corpus.jsonl", '{"_id": "d", "text": "red fox"}\n')
        archive.writestr("tiny/queries.jsonl", '{"_id": "q", "text": "fox"}\n')
        archive.writestr("tiny/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n")
        archive.writestr(
            "tiny/padding.bin", b"".join(hashlib.md5(b"%d" % i).digest() for i in range(9000))
        )
    return content.getvalue()


class Server:
    """Serves files; may break a connection off, ignore ranges, or change a file's version."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: int | None = None
        self.version, self.ranges, self.status = '"v1"', True, 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted, content = handler.headers.get("Range"), self.files.get(handler.path)
        self.requests.append((handler.path, wanted))
        if content is None or self.status != 200:
            handler.send_error(404 if content is None else self.status)
            return
        start = 0
        if wanted and self.ranges and handler.headers.get("If-Range") == self.version:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        handler.send_header("ETag", self.version)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = len(content) if self.break_after is None else start + self.break_after
        handler.wfile.write(content[start:end])
        self.break_after = None


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
    server = Server()
    server.files = {
        "/tiny.zip": beir_archive(),
        "/psgs_w100.tsv.gz": gzip.compress(PASSAGES.encode()),
        "/nq-test.qa.csv": QUESTIONS.encode(),
    }
    yield server
    server.http.shutdown()
    server.http.server_close()


def tiny(server: Server, **changes: object) -> OfficialSet:
    digest = f"md5:{hashlib.md5(server.files['/tiny.zip']).hexdigest()}"
    options = {
        "converter": "unpack_inside",
        "files": (RemoteFile(f"{server.url}/tiny.zip", digest),),
    }
    return OfficialSet("beir/tiny", "a tiny set", "CC0", 0.2, **{**options, **changes})


def test_a_set_is_fetched_verified_and_converted_once(server, tmp_path):
    folder = fetch_set(tiny(server), tmp_path)
    assert folder == tmp_path / "beir/tiny"
    assert load_beir(folder, "test").relevant("q") == ["d"]
    about = json.loads((folder / ".source-beir-tiny.json").read_text())
    assert about["sources"] == {f"{server.url}/tiny.zip": tiny(server).files[0].digest}
    assert not list((tmp_path / ".downloads").iterdir())
    fetch_set(tiny(server), tmp_path)
    assert len(server.requests) == 1


def test_a_broken_download_continues(server, tmp_path, monkeypatch):
    """In the same call, and in the next one where all tries are used up."""
    server.break_after = 50_000
    fetch_set(tiny(server), tmp_path / "a")
    assert [wanted for _, wanted in server.requests] == [None, "bytes=50000-"]
    monkeypatch.setattr(fetch, "TRIES", 1)
    server.break_after = 50_000
    with pytest.raises(UserError, match="run the command again, it continues"):
        fetch_set(tiny(server), tmp_path / "b")
    assert not (tmp_path / "b/beir").exists()
    assert fetch_set(tiny(server), tmp_path / "b").is_dir()
    assert server.requests[-1][1] == "bytes=50000-"


@pytest.mark.parametrize("change", ["version", "ranges"])
def test_a_part_of_another_version_or_server_begins_again(server, tmp_path, monkeypatch, change):
    monkeypatch.setattr(fetch, "TRIES", 1)
    server.break_after = 50_000
    with pytest.raises(UserError):
        fetch_set(tiny(server), tmp_path)
    setattr(server, change, '"v2"' if change == "version" else False)
    assert fetch_set(tiny(server), tmp_path).is_dir()


def test_a_wrong_checksum_is_refused_and_deleted(server, tmp_path):
    wrong = RemoteFile(f"{server.url}/tiny.zip", f"sha256:{'0' * 64}")
    with pytest.raises(UserError, match=r"has the checksum sha256:\w+, not sha256:0+: it was"):
        fetch_set(tiny(server, files=(wrong,)), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_published_checksum_is_said(server, tmp_path):
    said = []
    digest = download(RemoteFile(f"{server.url}/tiny.zip"), tmp_path / "x.zip", said.append)
    assert digest == f"sha256:{hashlib.sha256(server.files['/tiny.zip']).hexdigest()}"
    assert said == [f"x.zip: no published checksum; {digest}"]


def test_passages_are_shared_by_their_question_sets(server, tmp_path, monkeypatch):
    passages = OfficialSet(
        "dpr/psgs_w100",
        "passages",
        "CC BY-SA",
        0.1,
        "dpr_passages",
        (RemoteFile(f"{server.url}/psgs_w100.tsv.gz"),),
    )
    monkeypatch.setitem(catalogue.SETS, "dpr/psgs_w100", passages)
    nq = OfficialSet(
        "dpr/nq",
        "questions",
        "CC BY-SA",
        0.1,
        "dpr_questions",
        (RemoteFile(f"{server.url}/nq-test.qa.csv"),),
        holds="questions.jsonl",
        needs=("dpr/psgs_w100",),
    )
    folder = fetch_set(nq, tmp_path)
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    assert rows[0] == {"_id": "1", "title": "France", "text": 'Paris is "the" capital'}
    question = json.loads((folder / "questions.jsonl").read_text())
    assert question == {"question": "capital of France?", "answers": ["Paris", "Lutetia's"]}
    twin = tmp_path / "dpr/psgs_w100/corpus.jsonl"
    assert twin.stat().st_ino == (folder / "corpus.jsonl").stat().st_ino


def test_judged_queries_of_a_trec_track_share_ms_marcos_passages(server, tmp_path):
    """Queries without a judgement are left out."""
    server.files |= {
        "/queries.tsv.gz": gzip.compress(b"1\twhat fox\n2\tnot judged\n"),
        "/qrels.txt": b"1 0 d 3\n1 0 e 0\n",
    }
    passages = tmp_path / "beir/msmarco/corpus.jsonl"
    passages.parent.mkdir(parents=True)
    passages.write_text(
        '{"_id": "d", "title": "", "text": "red fox"}\n{"_id": "e", "title": "", "text": "hen"}\n'
    )
    track = OfficialSet(
        "trec-dl-1",
        "a track",
        "research",
        0.1,
        "trec_passages",
        (
            RemoteFile(f"{server.url}/queries.tsv.gz", name="queries.gz"),
            RemoteFile(f"{server.url}/qrels.txt", name="qrels"),
        ),
    )
    data = load_beir(fetch_set(track, tmp_path), "test")
    assert (data.queries, data.qrels["1"]["d"]) == ({"1": "what fox"}, 3)
    assert (tmp_path / "trec-dl-1/corpus.jsonl").stat().st_ino == passages.stat().st_ino


def test_files_of_a_release_stay_in_their_folders(server, tmp_path):
    server.files |= {"/a/test.json": b"[]", "/a/shots/1.json": b"[1]"}
    shots = OfficialSet(
        "shots",
        "shots",
        "MIT",
        0.1,
        "keep",
        (
            RemoteFile(f"{server.url}/a/test.json", name="test.json"),
            RemoteFile(f"{server.url}/a/shots/1.json", name="shots/1.json"),
        ),
        holds="test.json",
    )
    folder = fetch_set(shots, tmp_path)
    assert (folder / "test.json").read_text() == "[]"
    assert (folder / "shots/1.json").read_text() == "[1]"


def test_refusals(server, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="answers 404"):
        fetch_set(tiny(server, files=(RemoteFile(f"{server.url}/gone"),)), tmp_path)
    with pytest.raises(UserError, match=r"hold no queries\.tsv: their publisher"):
        fetch_set(tiny(server, holds="queries.tsv"), tmp_path)
    with pytest.raises(UserError, match="GB free, and beir/tiny needs about"):
        fetch_set(OfficialSet("beir/tiny", "", "", 1e12, files=tiny(server).files), tmp_path)
    (tmp_path / "beir/tiny").mkdir(parents=True)
    (tmp_path / "beir/tiny/queries.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"queries\.jsonl is in the way"):
        fetch_set(tiny(server), tmp_path)
    assert (tmp_path / "beir/tiny/queries.jsonl").read_text() == "mine"
    server.status = 503
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch_set(tiny(server), tmp_path / "other")
    server.files["/tiny.zip"] = b"not an archive"
    server.status = 200
    with pytest.raises(UserError):
        fetch_set(tiny(server), tmp_path / "third")


def test_an_archive_that_leaves_its_folder_is_refused(server, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../outside.txt", "x")
    server.files["/tiny.zip"] = content.getvalue()
    with pytest.raises(UserError, match=r"holds \.\./\.\./outside\.txt, which leaves its folder"):
        fetch_set(tiny(server), tmp_path)
    assert not list(tmp_path.rglob("outside.txt"))


def test_steps_are_printed_where_a_licence_asks_for_a_person(tmp_path, capsys):
    assert fetch_set(catalogue.SETS["imagenet"], tmp_path) is None
    shown = capsys.readouterr().out
    assert "Register at" in shown
    assert str(tmp_path / "imagenet") in shown


def test_records_are_found_by_name_and_by_path(tmp_path):
    sets = catalogue.SETS
    assert named_set("beir/nq", sets).place == "beir/nq"
    with pytest.raises(UserError, match="did you mean 'beir/scifact'"):
        named_set("beir/scifcat", sets)
    assert owner_of("beir/cqadupstack/android", sets).name == "beir/cqadupstack"
    assert owner_of("glue_data/RTE/train.tsv", sets).name == "glue/RTE"
    assert owner_of("wiki1m_for_simcse.txt", sets).name == "simcse/wiki1m"
    assert owner_of("lvis/lvis_v1_val.json", sets).name == "lvis/val"
    assert owner_of("beirut/x", sets) is None
    need = Requirement("data", str(Path(tmp_path) / "dpr/nq"), False)
    assert record_of(need, tmp_path).name == "dpr/nq"
    assert record_of(need, tmp_path / "elsewhere") is None
