"""From publishers' files to what configs read, on files of a few lines."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from common.config import UserError
from common.data.official import converters
from common.data.official.catalogue import SETS
from common.data.official.records import owner_of
from common.evaluation.retrieval.beir import load_beir
from common.evaluation.retrieval.runs import read_run
from projects.cocosoda.code.search_sets import listed_urls


@pytest.fixture
def convert(tmp_path):
    """Runs a converter on files of given content; the set's folder."""

    def run(name: str, **content: bytes) -> Path:
        source, folder = tmp_path / "downloads", tmp_path / "set"
        source.mkdir()
        folder.mkdir()
        for file, data in content.items():
            (source / file).write_bytes(data)
        getattr(converters, name)(sorted(source.iterdir()), folder, tmp_path)
        return folder

    return run


def archive(kind: str, files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as packed:
            for name, data in files.items():
                packed.writestr(name, data)
        return content.getvalue()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def test_archives_inside_an_archive_are_unpacked_too(convert):
    inner = archive("tar", {"101_ObjectCategories/ant/1.jpg": b"x"})
    outer = archive("zip", {"caltech-101/101_ObjectCategories.tar.gz": inner})
    folder = convert("unpack_twice", **{"caltech-101.zip": outer})
    assert [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()] == [
        "101_ObjectCategories/ant/1.jpg"
    ]


@pytest.mark.parametrize("outer", ["", "data/downstream/"])
def test_sentevals_folders_are_at_the_top_wherever_the_archive_has_them(convert, outer):
    files = {f"{outer}STS/STS12-en-test/a.txt": b"x", f"{outer}MR/b.txt": b"y"}
    folder = convert("senteval", **{"senteval.tar": archive("tar", files)})
    assert (folder / "STS/STS12-en-test/a.txt").is_file()
    assert (folder / "MR/b.txt").is_file()


def test_mrpc_is_divided_by_glues_ids(convert):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    train = header + '1\t10\t11\ta "quoted\tb\n0\t20\t21\tc\td\n1\t30\t31\te\tf\n'
    files = {
        "msr_paraphrase_train.txt": train.encode(),
        "msr_paraphrase_test.txt": (header + "0\t40\t41\tg\th\n").encode(),
        "mrpc_dev_ids.tsv": b"20\t21\n",
    }
    folder = convert("mrpc", **files)
    parts = {name: (folder / f"{name}.tsv").read_text() for name in ("train", "dev", "test")}
    assert all(text.startswith("Quality\t#1 ID") for text in parts.values())
    assert [line[:4] for line in parts["train"].splitlines()[1:]] == ["1\t10", "1\t30"]
    assert parts["dev"].splitlines()[1:] == ["0\t20\t21\tc\td"]
    assert parts["test"].splitlines()[1:] == ["0\t40\t41\tg\th"]


def test_mrpc_of_other_ids_is_refused(convert):
    files = {
        "msr_paraphrase_train.txt": b"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\ta\tb\n",
        "msr_paraphrase_test.txt": b"Quality\n",
        "mrpc_dev_ids.tsv": b"20\t21\n",
    }
    with pytest.raises(UserError, match="0 of 1 development pairs"):
        convert("mrpc", **files)


def test_ms_marco_documents_have_the_beir_layout_and_official_runs(convert):
    files = {
        "msmarco-docs.tsv.gz": gzip.compress(b'D1\thttp://a\tTitle\ta "fox\nD2\thttp://b\t\tb\rc\n')
    }
    for name in ("train", "dev", "dl19"):
        files[f"{name}.queries.gz"] = gzip.compress(b"7\twhat fox\n")
        judged = b"7 Q0 D1 3\n"
        files[f"{name}.qrels"] = judged
        files[f"{name}.run.gz"] = gzip.compress(b"7 Q0 D1 1 -5.5 tag\n")
    for name in ("train", "dev"):
        files[f"{name}.qrels.gz"] = gzip.compress(files.pop(f"{name}.qrels"))
    folder = convert("msmarco_documents", **files)
    for name in ("train", "dev", "dl19"):
        data = load_beir(folder, name, f"queries.{name}.jsonl")
        assert data.corpus == {"D1": 'Title a "fox', "D2": "b\rc"}
        assert data.queries == {"7": "what fox"}
        assert data.qrels == {"7": {"D1": 3}}
        assert read_run(folder / f"{name}.run") == {"7": {"D1": -5.5}}
    assert (folder / "msmarco-docs.tsv").is_file()


def test_functions_of_code_search_net_are_next_to_their_lists(convert):
    """As `TASK=prepare` reads them; pickles stay in the archive."""
    row = gzip.compress(json.dumps({"url": "http://a/1", "code": "x"}).encode() + b"\n")
    files = {
        "ruby/final/jsonl/train/ruby_train_0.jsonl.gz": row,
        "ruby_licenses.pkl": b"never opened",
        "ruby_dedupe_definitions_v2.pkl": b"never opened",
    }
    lists = {f"{part}.txt": b"http://a/1\n" for part in ("train", "valid", "test", "codebase")}
    folder = convert("code_search_net", **{"ruby.zip": archive("zip", files)}, **lists)
    stored = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert stored == sorted([*lists, "final/jsonl/train/ruby_train_0.jsonl.gz"])
    assert listed_urls(folder, "train") == ["http://a/1"]


def test_functions_elsewhere_in_the_archive_are_refused(convert):
    files = {"../final/jsonl/train/a.jsonl.gz": b"x"}
    with pytest.raises(
        UserError, match=r"ruby\.zip holds \.\./final/jsonl/train/a\.jsonl\.gz, not"
    ):
        convert("code_search_net", **{"ruby.zip": archive("zip", files), "train.txt": b""})


def test_wikides_has_both_phases(convert):
    files = {f"{part}_para_256.json": b"{}\n" for part in ("training", "validation", "test")}
    folder = convert(
        "wikides",
        **{
            "generated_test_para_256_diff.json": b"{}\n",
            "diff_256.zip": archive("zip", {f"diff/{name}": data for name, data in files.items()}),
            "random_256.zip": archive("zip", files),
        },
    )
    for split in ("diff", "random"):
        assert all((folder / "phase1" / split / name).is_file() for name in files)
    assert (folder / "phase2/generated_test_para_256_diff.json").is_file()


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("interactions", "log.csv", b"u,i,5.0,20\nu,j,3.0,10\n"),
        (
            "movielens",
            "log.zip",
            archive("zip", {"log/ratings.dat": b"u::i::5.0::20\nu::j::3.0::10\n"}),
        ),
    ],
)
def test_ratings_become_recboles_layout(convert, name, file, content):
    path = convert(name, **{file: content}) / "log.inter"
    assert path.read_text().splitlines()[0].split("\t") == [
        "user_id:token",
        "item_id:token",
        "rating:float",
        "timestamp:float",
    ]
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    assert rows == [["u", "i", "5.0", "20"], ["u", "j", "3.0", "10"]]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("SentEval/data/downstream", "senteval"),
        ("glue_data/MRPC/train.tsv", "glue/MRPC"),
        ("dpr/nq-train.json", "dpr/nq-train"),
        ("dpr/nq/questions.jsonl", "dpr/nq"),
        ("msmarco-doc/dl19.run", "msmarco-doc"),
        ("Amazon_Beauty/Amazon_Beauty.inter", "amazon/Beauty"),
        ("GPR1200/images", "gpr1200"),
        ("cifar-10-batches-py", "cifar10"),
        ("TruthfulQA.csv", "truthfulqa"),
        ("grade_school_math/data/test.jsonl", "gsm8k"),
        ("UnPreDial", "space2/UnPreDial"),
        ("CSN/ruby", "csn"),
        ("cosqa", "cosqa"),
        ("coco/dataset_coco.json", "coco/karpathy"),
        ("coco/val2014", "coco/val2014"),
        ("coco/val2017", "coco/val2017"),
        ("flickr30k-images", "flickr30k"),
        ("fluent_speech_commands_dataset", "fsc"),
        ("imagenet22k/train", "imagenet22k"),
        ("mrtydi/train.jsonl", "mrtydi/questions"),
        ("mrtydi/ar/corpus.jsonl", "mrtydi/ar"),
        ("redcaps/redcaps_bard.txt", "redcaps"),
        ("style.txt", "close/style"),
        ("trec-dl-2019", "trec-dl-2019"),
        ("vacancysbert/crawl-300d-2M.vec", "fasttext"),
        ("vacancysbert/train.jsonl", "vacancysbert"),
        ("wikides/phase1/diff/test_para_256.json", "wikides"),
        ("wikitext-103-raw/wiki.valid.raw", "wikitext-103"),
        ("wit", "iglue/wit"),
        ("wit/wit_test_set.json", "contrastive_search/wit"),
        ("wordnet/dict", "wordnet"),
    ],
)
def test_what_configs_name_has_a_record(place, name):
    assert owner_of(place, SETS).name == name
