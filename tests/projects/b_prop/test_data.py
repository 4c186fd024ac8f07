"""Checklist items 2, 4, 5 and 11 on batches; documents that tasks prepared."""

import json

import pytest
import torch

from common.config import UserError
from common.data.samplers import SeededBatchSampler
from common.data.splits import stable_fraction
from common.encoders.text.cross_encoder import pair_ids
from common.engine.workspace import Workspace
from projects.b_prop import build, data
from projects.b_prop.data import finetuning_data, requirements, training_documents
from projects.b_prop.evaluate import evaluation_sets
from projects.b_prop.prepare import Articles
from projects.b_prop.stages import build_ranker, num_documents
from projects.b_prop.word_attention import word_pieces
from tests.projects.b_prop.conftest import config, pairs_of

IGNORED = -100


def originals(batch):
    """Ids as they were before the masking."""
    return torch.where(batch["labels"] != IGNORED, batch["labels"], batch["pairs"]["input_ids"])


def test_item_2_members_of_a_pair_stay_side_by_side():
    """Checklist 2: through shuffling and sharing among ranks; an odd batch is refused."""
    data = pairs_of()
    cls = data.tokenizer.cls_token_id
    for rank in (0, 1):
        sampler = SeededBatchSampler(len(data), 4, 0, rank=rank, world_size=2, num_batches=3)
        for keys in sampler:
            batch = data[keys]
            ids, segments = originals(batch), batch["pairs"]["token_type_ids"]
            assert ids.shape[0] == 8
            for i, (index, epoch) in enumerate(keys):
                _row, sets = data.draw(index, epoch)
                for member, (words, _) in enumerate(sets):
                    own = ids[2 * i + member]
                    first = data.tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
                    first = first[: data.max_length - 4]
                    assert own[0] == cls
                    assert own[1 : 1 + len(first)].tolist() == first
                    tails = [ids[2 * i + m][segments[2 * i + m] == 1] for m in (0, 1)]
                    common = min(map(len, tails)) - 1
                    assert torch.equal(tails[0][:common], tails[1][:common])  # one document
    with pytest.raises(UserError, match="is odd"):
        config("data.batch_size=7")


def test_item_4_only_whole_words_of_the_document_are_masked():
    """Checklist 4: never the word set, [CLS], [SEP] or padding; at most so many; members differ."""
    data = pairs_of("method.mask_prob=0.3")
    batch = data[[(i, 0) for i in range(16)]]
    pairs, labels = batch["pairs"], batch["labels"]
    masked = labels != IGNORED
    ids = originals(batch)
    assert masked.any(1).all()
    assert not (masked & (pairs["token_type_ids"] == 0)).any()
    assert not (masked & (pairs["attention_mask"] == 0)).any()
    assert not (masked & (ids == data.tokenizer.sep_token_id)).any()
    row, _ = data.draw(0, 0)
    document = word_pieces(data.tokenizer, [row["text"]], 40)[0]
    for member in (0, 1):
        start = int(pairs["token_type_ids"][member].argmax())
        own = masked[member, start : start + len(document.ids)].tolist()
        words = [
            {own[i] for i, w in enumerate(document.word_of[: len(own)]) if w == word}
            for word in range(document.word_of[len(own) - 2])
        ]
        assert all(len(states) == 1 for states in words)
        assert 0.15 < sum(own) / len(document.ids) < 0.35
    assert masked[0].tolist() != masked[1].tolist()
    few = pairs_of("method.mask_prob=0.5", "method.max_predictions=3")[[(i, 0) for i in range(8)]]
    counts = (few["labels"] != IGNORED).sum(1)
    assert counts.max() == 3
    assert config(name="paper").method.max_predictions == 60
    assert not (pairs_of("method.mlm=false")[[(0, 0)]]["labels"] != IGNORED).any()


def test_item_5_truncation_takes_from_the_document_alone():
    """Checklist 5: the word set is whole, also where a query would be cut; the last piece is
    [SEP]."""
    data = pairs_of("model.max_length=44", "model.max_first=4", "words.poisson_mean=4")
    batch = data[[(i, 0) for i in range(8)]]
    ids, longest = originals(batch), 0
    for i in range(8):
        for member, (words, _) in enumerate(data.draw(i, 0)[1]):
            first = data.tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
            row = ids[2 * i + member]
            assert row[1 : 1 + len(first)].tolist() == first
            assert row[1 + len(first)] == row[43] == data.tokenizer.sep_token_id
            longest = max(longest, len(first))
    assert longest > 16
    tiny = pairs_of("model.max_length=12", "model.max_first=4", "words.poisson_mean=9")
    row = originals(tiny[[(0, 0)]])[0]  # a set that fills the input leaves the document one piece
    assert row[9] == row[11] == tiny.tokenizer.sep_token_id
    with pytest.raises(ValueError, match="no room"):
        pair_ids(list(range(9)), [1], data.tokenizer, 12)
    with pytest.raises(UserError, match="max_first leaves no room"):
        config("model.max_first=62")


def test_item_11_batches_do_not_depend_on_who_asks():
    """Checklist 11: one at a time or together, the same rows and masks; another epoch, others."""
    data = pairs_of()
    whole = data[[(3, 0), (5, 0)]]
    alone = data[[(5, 0)]]
    width = alone["labels"].shape[1]
    assert torch.equal(whole["labels"][2:, :width], alone["labels"])
    assert torch.equal(whole["pairs"]["input_ids"][2:, :width], alone["pairs"]["input_ids"])
    assert not torch.equal(data[[(5, 1)]]["pairs"]["input_ids"], alone["pairs"]["input_ids"])


# -- tasks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder of a small ranker whose encoder gives the attention."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(1)
    ranker = build_ranker(config())
    ranker.model.save_pretrained(folder)
    ranker.tokenizer.save_pretrained(folder)
    return folder


def articles(folder, count=9):
    words = "people world house state work time year place hand right"
    rows = [
        {"id": f"x{i}", "title": f"Title {i}", "text": f"{words} number{i} {'zone ' * (i % 3)}"}
        for i in range(count)
    ]
    path = folder / "articles.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prepare_gives_what_training_computes_and_goes_on_in_shares(tmp_path, encoder):
    """Shares in any order give the bytes of one process; training reads the folder."""
    path = articles(tmp_path)
    words = [
        f"prepare.input={path}",
        f"words.encoder={encoder}",
        "task.chunk_size=4",
        "data.min_words=2",
    ]

    def run(out, *further):
        cfg = config(*words, f"prepare.output={out}", *further)
        return build(cfg).tasks["prepare"](Workspace(tmp_path / "task", "b_prop", "smoke"))

    assert run(tmp_path / "a") == tmp_path / "a"
    assert run(tmp_path / "b", "task.shard=1/2") is None
    assert run(tmp_path / "b", "task.shard=0/2") == tmp_path / "b"
    for name in ("documents.jsonl", "collection.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    row = json.loads((tmp_path / "a/documents.jsonl").read_text().splitlines()[3])
    assert row["id"] == "x3"
    assert row["text"].startswith("Title 3. people")
    assert len(row["attention"]) == len(row["words"]) == len(row["counts"])
    files = [
        "data.source=files",
        f"data.documents={tmp_path}/a",
        "data.min_words=2",
        f"words.encoder={encoder}",
    ]
    data = pairs_of(*files)
    assert len(data) == 9 * 2
    # item 17: the attention is that of the weights which are trained, unless the config says so
    with pytest.raises(UserError, match=r"encoder=.*the config has random: set words\.encoder"):
        pairs_of(*files[:3])
    with pytest.raises(UserError, match=r"parity_extraction=False, the config has True"):
        pairs_of(*files, "words.parity_extraction=true")
    assert len(pairs_of(*files[:3], "words.distribution=unigram")) == 9 * 2  # reads none
    assert data[[(0, 0)]]["pairs"]["input_ids"].shape[0] == 2
    with pytest.raises(UserError, match="words.saturation_k=0.01, the config has 0.02"):
        pairs_of(*files, "words.saturation_k=0.02")
    for kind in ("entropy", "unigram"):  # what was cut elsewhere is other statistics, counts too
        with pytest.raises(UserError, match=r"max_document=40, the config has 30: .* CONFIG"):
            pairs_of(*files, f"words.distribution={kind}", "data.max_document=30")
    with pytest.raises(UserError, match="another"):
        run(tmp_path / "a", "words.layer=0")
    with pytest.raises(UserError, match="TASK=prepare"):
        pairs_of("data.source=files", f"data.documents={tmp_path}/none")


def test_prepare_reads_tables_and_leaves_attention_out(tmp_path, encoder):
    """MS MARCO's table; counts alone serve a unigram model and nothing else."""
    path = tmp_path / "docs.tsv"
    lines = [f"D{i}\thttp://x\tThe title\tpeople world house state {i}\n" for i in range(4)]
    path.write_text("".join(lines))
    cfg = config(
        f"prepare.input={path}",
        f"prepare.output={tmp_path}/out",
        "prepare.attention=false",
        f"words.encoder={encoder}",
        "prepare.keep_words=4",
    )
    build(cfg).tasks["prepare"](Workspace(tmp_path / "task", "b_prop", "smoke"))
    row = json.loads((tmp_path / "out/documents.jsonl").read_text().splitlines()[0])
    assert row["text"] == "The title. people world"
    assert {"house", "state"} <= {*row["words"]}  # counted before the text is cut
    assert "attention" not in row
    files = ["data.source=files", f"data.documents={tmp_path}/out", "data.min_words=2"]
    assert len(pairs_of(*files, "words.distribution=unigram").draw(0, 0)[1]) == 2
    with pytest.raises(UserError, match="no attention"):
        pairs_of(*files).draw(0, 0)
    path.write_text("D0\tonly two\n")
    with pytest.raises(UserError, match="expected docid, url, title, body"):
        build(
            config(
                f"prepare.input={path}", f"prepare.output={tmp_path}/x", f"words.encoder={encoder}"
            )
        ).tasks["prepare"](Workspace(tmp_path / "t"))
    named = tmp_path / "named.jsonl"
    named.write_text('{"text": null, "title": "people"}\n{"text": ["a"]}\n', "utf-8-sig")
    assert Articles(named)[0]["text"] == "people. "
    with pytest.raises(UserError, match="line 2: title and text have to be texts"):
        Articles(named)[1]
    for text, words in (("prepare.input", []), ("random weights", [f"prepare.input={path}"])):
        with pytest.raises(UserError, match=text):
            build(config(*words)).tasks["prepare"](Workspace(tmp_path / "t"))


def test_word_sets_are_those_of_the_training(tmp_path):
    """The release's layout; pairs of an epoch, the more representative set first."""
    cfg = config(f"prepare.output={tmp_path}", "prepare.epoch=2")
    path = build(cfg).tasks["word_sets"](Workspace(tmp_path / "task", "b_prop", "smoke"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "instances_epoch_2.json"
    assert rows[0].keys() == {"doc_id", "rep_word_sets", "bert_tokenized_content"}
    torch.manual_seed(0)
    data = pairs_of()
    for place in (0, 7):
        for i, pair in enumerate(rows[place]["rep_word_sets"]):
            expected = data.draw(place * 2 + i, 2)[1]
            assert [words for words, _ in pair] == [" ".join(words) for words, _ in expected]
            assert pair[0][1] >= pair[1][1]


def cfg_words(root):
    return ["data.source=bundled", f"data.root={root}", "words.distribution=unigram"]


def test_bundled_documents_come_without_their_titles(tmp_path):
    """The title words of a document are what the word quality is measured by."""
    for name in data.BUNDLED:  # a folder below the data root comes before the bundled one
        folder = tmp_path / name
        folder.mkdir()
        rows = [
            {"_id": f"d{i}", "title": "Editions", "text": f"people world house state {i}"}
            for i in range(3)
        ]
        rows.append({"_id": "none", "title": "Editions", "text": " "})
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "queries.jsonl").write_text('{"_id": "q", "text": "people"}\n')
        (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    cfg = config(*cfg_words(tmp_path))
    documents, collection = training_documents(cfg, build_ranker(cfg))
    assert [row["id"] for row in documents] == [f"{n}/d{i}" for n in data.BUNDLED for i in range(3)]
    assert all(row["text"].startswith("people") for row in documents)
    assert collection.statistics.num_documents == 6
    for judged in ("d1", "d2"):  # an evaluation on fewer documents keeps the judged ones
        for name in data.BUNDLED:
            path = tmp_path / name / "qrels.tsv"
            path.write_text(f"query-id\tcorpus-id\tscore\nq\t{judged}\t1\n")
        few = config(*cfg_words(tmp_path), "eval.max_documents=1")
        assert [*training_documents(few, build_ranker(few))[0]] == [*documents]
        assert num_documents(few) == 6
    part = config(*cfg_words(tmp_path), "data.max_documents=2")
    own = [row["id"] for row in training_documents(part, build_ranker(part))[0]]
    names = [f"{n}/d{i}" for n in data.BUNDLED for i in range(3)]
    kept = [sorted(names[k : k + 3], key=stable_fraction)[:2] for k in (0, 3)]
    assert num_documents(part) == 4
    assert {*own} == {*kept[0], *kept[1]}  # by hash of their names: judgements have no say
    assert own == [name for name in names if name in own]


def test_files_in_another_encoding_are_refused(tmp_path, encoder):
    """Words of prepared documents were cut at lost letters without a word; TASK=rank ended in a
    traceback.
    """
    rows = [
        {"id": "1", "text": "caf\u00e9 people men house"},
        {"id": "2", "text": "people men house"},
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "in.jsonl").write_bytes(lines.encode("latin-1"))
    words = [
        f"prepare.input={tmp_path}/in.jsonl",
        f"prepare.output={tmp_path}/out",
        "prepare.attention=false",
        f"words.encoder={encoder}",
    ]
    with pytest.raises(UserError, match="in.jsonl, line 1: byte 0xe9 is not UTF-8"):
        build(config(*words)).tasks["prepare"](Workspace(tmp_path / "task"))
    files = [f"rank.documents={tmp_path}/in.jsonl", f"rank.queries={tmp_path}/in.jsonl"]
    with pytest.raises(UserError, match="in.jsonl.* not .*UTF-8"):
        build(config(*files)).tasks["rank"](Workspace(tmp_path / "task"))


def test_a_run_file_is_found_as_named_or_below_the_data_root(tmp_path, monkeypatch):
    """In the fine-tuning, in what a config needs and in the evaluation alike."""
    lines = [f"q{i} Q0 d{j} 1 {9 - j}.0 tag\n" for i in range(12) for j in (i, i + 1, i + 2)]
    root, here = tmp_path / "root", tmp_path / "here"
    for number, folder in enumerate((root, here)):
        folder.mkdir()
        (folder / f"{number}.run").write_text("".join(lines))
    monkeypatch.chdir(here)
    for name in ("0.run", "1.run"):
        cfg = config(
            f"data.root={root}",
            f"finetune.candidates={name}",
            f"eval.candidates={{synthetic: {name}}}",
        )
        assert all(need.present for need in requirements(cfg))
        assert len(finetuning_data(cfg, build_ranker(cfg)).train_set) == 8
        assert len(evaluation_sets(cfg)["synthetic"][1]["q0"]) == 3
