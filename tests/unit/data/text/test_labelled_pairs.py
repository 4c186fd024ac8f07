"""Labelled pairs: GLUE's layouts, bundled parts, own files, batches."""

import gzip

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.lookup import bundled
from common.data.tables import read_jsonl
from common.data.text.pairs.readers import intent_pairs, limited, read_pairs, synthetic_pairs
from common.data.text.pairs.tasks import TASKS, file_task
from common.encoders.text.cross_encoder import cross_encoder
from common.evaluation.text.pair_baselines import word_overlap
from projects.dse.pair_batches import EvaluationPairs, SequencePairs, TowerPairs, label_tensor

SMALL = {
    "model_type": "bert",
    "vocab_size": 200,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
# header and a row of the official files, with the label that it has
OFFICIAL = {
    "MNLI/train.tsv": (
        "index\tpromptID\tpairID\tg\tsb1\tsb2\ts1\ts2\tsentence1\tsentence2\tlabel1\tgold_label",
        '0\t1\t1n\tgov\t(\t(\t(\t(\tHe said "no.\tHe spoke.\tneutral\tentailment',
    ),
    "SNLI/train.tsv": (
        "index\tcaptionID\tpairID\tsb1\tsb2\ts1\ts2\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\tc\tp\t(\t(\t(\t(\tA man.\tA dog.\tcontradiction\tcontradiction",
    ),
    "QQP/train.tsv": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t2\t3\tWhy?\tHow?\t1",
    ),
    "QNLI/train.tsv": ("index\tquestion\tsentence\tlabel", "0\tWhen?\tIn May.\tnot_entailment"),
    "MRPC/train.tsv": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\tOne.\tTwo."),
    "STS-B/train.tsv": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tm\tf\t2012\t1\tn\tn\tA plane.\tAn air plane.\t4.750",
    ),
    "RTE/train.tsv": ("index\tsentence1\tsentence2\tlabel", "0\tLong.\tShort.\tentailment"),
    "WNLI/train.tsv": ("index\tsentence1\tsentence2\tlabel", "0\tIt.\tThe car.\t0"),
}
WANTED = {"mnli": 1, "snli": 0, "qqp": 1, "qnli": 1, "mrpc": 1, "sts-b": 4.75, "rte": 0, "wnli": 0}


@pytest.fixture
def glue(tmp_path):
    for name, (header, row) in OFFICIAL.items():
        path = tmp_path / "glue_data" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"{header}\n{row}\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", list(WANTED))
def test_official_layouts(glue, name):
    data = read_pairs(TASKS[name], "train", str(glue))
    assert len(data) == 1
    assert data.labels[0] == WANTED[name]
    assert data.labels.dtype == (np.float64 if name == "sts-b" else np.int64)


def test_quotes_are_characters_and_both_nli_sets_have_one_order_of_labels(glue):
    data = read_pairs(TASKS["allnli"], "train", str(glue))
    assert data.pairs == [("A man.", "A dog."), ('He said "no.', "He spoke.")]
    assert data.labels.tolist() == [0, 1]


def test_rows_without_label_are_left_out_and_counted(glue):
    header, row = OFFICIAL["SNLI/train.tsv"]
    path = glue / "glue_data/SNLI/train.tsv"
    unsure = row.rsplit("\t", 1)[0] + "\t-"
    path.write_text("\n".join([header, unsure, row, "0\tc\tp"]) + "\n", encoding="utf-8")
    data = read_pairs(TASKS["snli"], "train", str(glue))
    assert (len(data), data.skipped) == (1, 2)
    path.write_text("\n".join([header, row.replace("contradiction", "maybe")]), encoding="utf-8")
    with pytest.raises(UserError, match="line 2: label 'maybe'"):
        read_pairs(TASKS["snli"], "train", str(glue))
    with pytest.raises(UserError, match="dev_mismatched"):
        read_pairs(TASKS["mnli"], "dev_mm", str(glue))
    with pytest.raises(UserError, match="no part 'tset'"):
        read_pairs(TASKS["snli"], "tset", str(glue))


def test_bundled_parts_share_no_premise():
    parts = {part: read_pairs(TASKS["nli"], part) for part in ("train", "dev", "test")}
    premises = [set(data.first) for data in parts.values()]
    assert not premises[0] & premises[1]
    assert not (premises[0] | premises[1]) & premises[2]
    assert len(parts["test"]) == 3573
    assert 0.08 < len(parts["dev"]) / (len(parts["train"]) + len(parts["dev"])) < 0.12
    binary = read_pairs(TASKS["nli_binary"], "test")
    assert np.array_equal(binary.labels == 1, parts["test"].labels == 1)


def test_the_draw_of_the_training_part_follows_the_seed():
    data = synthetic_pairs(30)
    one, again, other = (limited(data, 10, seed).pairs for seed in (1, 1, 2))
    assert one == again != other
    assert [p for p in data.pairs if p in set(one)] == one or len(set(data.pairs)) < 30
    with pytest.raises(UserError, match=r"data\.limit=31"):
        limited(data, 31, 0)


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_own_files(tmp_path, suffix):
    cut = "\t" if suffix == "tsv" else ","
    path = tmp_path / f"pairs.{suffix}"
    path.write_text(f"first{cut}second{cut}label\na{cut}b{cut}yes\nc{cut}d{cut}no\n", "utf-8")
    task = file_task(["no", "yes"])
    assert (task.kind, task.num_logits, task.num_teacher_logits) == ("binary", 1, 2)
    assert read_pairs(task, "train", files=[str(path)]).labels.tolist() == [1, 0]
    with pytest.raises(UserError, match="is not a score"):
        read_pairs(file_task([]), "train", files=[str(path)])
    with pytest.raises(UserError, match="does not exist"):
        read_pairs(task, "train", files=["nowhere.tsv"])


def test_lines_of_own_tables_are_told_as_they_stand(tmp_path):
    """Blank lines count; a tab too many is told, not cut off; a blank text is none."""
    task, path = file_task(["no", "yes"]), tmp_path / "pairs.tsv"
    head = "label\tfirst\tsecond\n"
    path.write_text(f"{head}yes\ta\tb\n\n\nnever\tc\td\n")
    with pytest.raises(UserError, match=r"pairs\.tsv, line 5: label 'never'"):
        read_pairs(task, "train", files=[str(path)])
    path.write_text(f"{head}yes\ta\tb\n\nno\tc\td\te\n")
    with pytest.raises(UserError, match=r"pairs\.tsv, line 4: 4 fields, expected 3 \(label, first"):
        read_pairs(task, "train", files=[str(path)])
    path.write_text(f"{head}yes\ta\tb\nno\t \td\nno\tc\n \te\tf\n")
    data = read_pairs(task, "train", files=[str(path)])
    assert (data.pairs, data.skipped) == ([("a", "b")], 3)
    path = tmp_path / "pairs.csv"
    path.write_text('label,first,second\nyes,"a\nb",c\n\nnever,d,e\n')
    with pytest.raises(UserError, match=r"pairs\.csv, row 2: label 'never'"):
        read_pairs(task, "train", files=[str(path)])


class _Counted:
    """A tokenizer that writes down how many texts it was given, and what it made of them."""

    def __init__(self, tokenizer, asked):
        self.tokenizer, self.asked = tokenizer, asked

    def __call__(self, texts, **options):
        actual = self.tokenizer(texts, **options)
        self.asked.append((len(texts), set(actual)))
        return actual

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_batches_hold_the_rows_of_their_keys(monkeypatch):
    data = synthetic_pairs(6)
    torch.manual_seed(0)
    own = cross_encoder("random", config=SMALL, num_labels=3, max_length=40, cut="longest")
    logits = torch.arange(18.0).view(6, 3)
    towers = TowerPairs(data, "multiclass", own.tokenizer, max_length=16, teacher=logits)
    batch = towers[[(4, 0), (1, 3)]]
    assert torch.equal(batch["teacher"], logits[[4, 1]])
    assert batch["labels"].tolist() == data.labels[[4, 1]].tolist()
    assert batch["input_ids"].shape[0] == 4
    assert batch["input_ids"].shape[1] <= 16
    whole = SequencePairs(data, "multiclass", own)
    joint = whole[[(4, 0), (1, 3)]]
    for name, value in own.tokenize([data.pairs[4], data.pairs[1]]).items():
        assert torch.equal(joint["pairs"][name], value)
    first, second, labels = EvaluationPairs.collate([EvaluationPairs(data)[i] for i in (4, 1)])
    assert (first[0], second[0]) == data.pairs[4]
    assert labels.tolist() == data.labels[[4, 1]].tolist()
    assert label_tensor([1, 0], "binary").tolist() == [[1.0], [0.0]]
    asked = []
    monkeypatch.setattr("common.encoders.text.template.ROWS", 2)  # a corpus is tokenised in parts
    monkeypatch.setattr(own, "tokenizer", _Counted(own.tokenizer, asked))
    assert SequencePairs(data, "multiclass", own).rows == whole.rows
    assert asked == [(2, {"input_ids"})] * (len({*data.first, *data.second}) // 2)
    with pytest.raises(ValueError, match="5 rows of teacher"):
        TowerPairs(data, "multiclass", own.tokenizer, teacher=logits[:5])


def test_requests_in_pairs():
    """Half of one intent; the parts share no request; half of the negatives are near by words."""
    parts = {part: read_pairs(TASKS["same_intent"], part) for part in ("dev", "test")}
    rows = [
        row
        for name in ("train", "test")
        for row in read_jsonl(bundled("intents") / f"banking77-{name}.jsonl.gz", ("text", "intent"))
    ]
    intents = {row["text"]: row["intent"] for row in rows}
    texts = [set(data.first) | set(data.second) for data in parts.values()]
    assert not texts[0] & texts[1]
    for data in parts.values():
        same = [intents[a] == intents[b] for a, b in data.pairs]
        assert data.labels.tolist() == [int(x) for x in same]
        assert all(a != b for a, b in data.pairs)
        assert data.labels.mean() == pytest.approx(0.5, abs=0.01)
    assert len(parts["test"]) == 2 * 3079  # one request is there twice
    likeness = np.array(word_overlap(parts["dev"].first, parts["dev"].second))
    other = likeness[parts["dev"].labels == 0]
    assert np.quantile(other, 0.75) > 2 * np.quantile(other, 0.25)


def test_own_gzipped_table(tmp_path):
    """It was read as plain text."""
    path, task = tmp_path / "pairs.tsv.gz", file_task(["no", "yes"])
    content = gzip.compress(b'first\tsecond\tlabel\n"a\tb\tyes\n')
    path.write_bytes(content)
    assert read_pairs(task, "train", files=[str(path)]).pairs == [('"a', "b")]
    path.write_bytes(content[:-12])
    with pytest.raises(UserError, match="is not a gzipped table"):
        read_pairs(task, "train", files=[str(path)])


@pytest.mark.slow
def test_no_request_of_the_test_part_is_trained_on():
    """Six of BANKING77's are in both parts, one more but for white space."""
    plain = {
        part: {" ".join(t.lower().split()) for t in (*pairs.first, *pairs.second)}
        for part in ("train", "dev", "test")
        for pairs in [intent_pairs(part)]
    }
    assert not plain["test"] & (plain["train"] | plain["dev"])
    assert not plain["train"] & plain["dev"]
