"""SentEval's transfer tasks: official layouts, folds, logistic regression."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from common.config import UserError
from common.evaluation.text import transfer
from common.evaluation.text.transfer import (
    LabelledTexts,
    TransferTask,
    _fit,
    evaluate_transfer,
    load_transfer,
    stratified_folds,
)


@pytest.fixture
def root(tmp_path):
    """The official layout, a few lines per file."""
    folder = tmp_path / "downstream"
    files = {
        "MR/rt-polarity.pos": b"good  film\ncaf\xe9 nice\n",
        "MR/rt-polarity.neg": b"bad film\n",
        "CR/custrev.pos": b"works\n",
        "CR/custrev.neg": b"broke\nfails\n",
        "SUBJ/subj.objective": b"he goes\n",
        "SUBJ/subj.subjective": b"lovely\n",
        "MPQA/mpqa.pos": b"praise\n",
        "MPQA/mpqa.neg": b"blame\n",
        "SST/binary/sentiment-train": b"fine work\t1\ndull\t0\n",
        "SST/binary/sentiment-dev": b"ok\t1\n",
        "SST/binary/sentiment-test": b"no\t0\n",
        "TREC/train_5500.label": b"DESC:manner How is it ?\nNUM:date When : now ?\n",
        "TREC/TREC_10.label": b"HUM:ind Who ?\n",
        "MRPC/msr_paraphrase_train.txt": (
            '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t2\t3\tA "b\tC d\n'.encode()
        ),
        "MRPC/msr_paraphrase_test.txt": (
            b"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t2\t3\te\tf\n"
        ),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(tmp_path)


def test_polarity_layouts(root):
    task = load_transfer(root, "MR")
    assert task.train == LabelledTexts(["good film", "caf\u00e9 nice", "bad film"], [1, 1, 0])
    assert (task.test, task.dev) == (None, None)
    assert load_transfer(root, "CR").train.labels == [1, 0, 0]
    assert load_transfer(root, "SUBJ").train.texts == ["he goes", "lovely"]
    assert load_transfer(root, "MPQA").train.texts == ["praise", "blame"]


def test_split_layouts(root):
    sst = load_transfer(root, "SST2")
    assert sst.train == LabelledTexts(["fine work", "dull"], [1, 0])
    assert (sst.dev, sst.test) == (LabelledTexts(["ok"], [1]), LabelledTexts(["no"], [0]))
    trec = load_transfer(root, "TREC")
    assert trec.train == LabelledTexts(["How is it ?", "When : now ?"], [1, 5])
    assert (trec.test, trec.dev) == (LabelledTexts(["Who ?"], [3]), None)
    mrpc = load_transfer(root, "MRPC")
    assert mrpc.train == LabelledTexts(['A "b'], [1], ["C d"])
    assert mrpc.test == LabelledTexts(["e"], [0], ["f"])


def test_missing_and_damaged_files(root, tmp_path):
    with pytest.raises(UserError, match="unknown transfer task 'MPRC'; did you mean 'MRPC'"):
        load_transfer(root, "MPRC")
    with pytest.raises(UserError, match="SentEval data not found"):
        load_transfer(str(tmp_path / "downstream" / "MR"), "MR")
    (tmp_path / "downstream" / "SST" / "binary" / "sentiment-dev").write_text("ok\tgood\n")
    with pytest.raises(UserError, match="files of SST2 are damaged"):
        load_transfer(root, "SST2")
    (tmp_path / "downstream" / "MRPC" / "msr_paraphrase_test.txt").write_text("head\n1\t2\ta\n")
    with pytest.raises(UserError, match="line 2: 3 fields, expected 5"):
        load_transfer(root, "MRPC")
    (tmp_path / "downstream" / "TREC" / "TREC_10.label").write_text("ODD:x What ?\n")
    with pytest.raises(UserError, match="unknown question classes ODD"):
        load_transfer(root, "TREC")


def test_folds_are_stratified_and_seeded():
    labels = torch.tensor([0] * 23 + [1] * 37)
    folds = stratified_folds(labels, 5, seed=0)
    counts = [[int(((folds == f) & (labels == c)).sum()) for f in range(5)] for c in (0, 1)]
    assert max(counts[0]) - min(counts[0]) <= 1
    assert max(counts[1]) - min(counts[1]) <= 1
    assert sum(map(sum, counts)) == 60
    assert torch.equal(folds, stratified_folds(labels, 5, seed=0))
    assert not torch.equal(folds, stratified_folds(labels, 5, seed=1))
    with pytest.raises(ValueError, match="class 0 has 23 samples for 24 folds"):
        stratified_folds(labels, 24, seed=0)


def vectors(texts):
    """Text "<number>" -> a fixed random direction of that number."""
    rows = [torch.randn(6, generator=torch.Generator().manual_seed(int(t))) for t in texts]
    return torch.stack(rows)


def linear_task(count, test=0, flip=0.0):
    """Labels by the sign of the first coordinate, a share of them flipped."""
    texts = [str(i) for i in range(count + test)]
    labels = (vectors(texts)[:, 0] > 0).long()
    noise = torch.rand(len(labels), generator=torch.Generator().manual_seed(1)) < flip
    labels = torch.where(noise, 1 - labels, labels).tolist()
    held = LabelledTexts(texts[count:], labels[count:]) if test else None
    return TransferTask("t", LabelledTexts(texts[:count], labels[:count]), held)


def test_cross_validation_learns_a_linear_rule_and_nothing_from_noise():
    metrics = evaluate_transfer(vectors, {"MR": linear_task(120)}, folds=3, c_grid=(0.25, 4.0))
    assert metrics["mr_accuracy"] > 0.9
    assert metrics["transfer_average_accuracy"] == metrics["mr_accuracy"]
    assert 0.5 <= metrics["mr_accuracy_chance"] < 0.65
    noise = evaluate_transfer(vectors, {"MR": linear_task(120, flip=0.5)}, folds=3)
    assert noise["mr_accuracy"] < 0.7


@pytest.mark.parametrize("classes", [2, 3])
def test_classifier_equals_scikit_learn_at_the_same_c(classes):
    x = vectors([str(i) for i in range(80)]).double()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 1 if classes == 3 else 0)
    weight, bias = _fit(x, y, 0.25)
    reference = LogisticRegression(C=0.25, tol=1e-10, max_iter=1000).fit(x.numpy(), y.numpy())
    logits = (x @ weight.T + bias).softmax(dim=1)
    assert logits.numpy() == pytest.approx(reference.predict_proba(x.numpy()), abs=1e-3)
    other = LogisticRegression(C=0.5, tol=1e-10).fit(x.numpy(), y.numpy())
    assert logits.numpy() != pytest.approx(other.predict_proba(x.numpy()), abs=1e-2)


def test_test_part_is_scored_by_a_classifier_of_the_train_part():
    metrics = evaluate_transfer(vectors, {"T-1": linear_task(120, test=200)}, folds=4)
    assert metrics["t_1_accuracy"] > 0.9
    task = linear_task(120, test=200, flip=0.5)
    assert evaluate_transfer(vectors, {"t": task}, folds=4)["t_accuracy"] < 0.7


def test_a_task_with_a_test_part_alone_has_a_grid_of_its_own(monkeypatch):
    """SentEval: .25 to 8, but .5 to 32 for TREC and MRPC."""
    asked = []
    choose = transfer._choose_c
    monkeypatch.setattr(transfer, "_choose_c", lambda *own: asked.append(own[4]) or choose(*own))
    whole, part = linear_task(40), linear_task(40, test=20)
    both = TransferTask("b", part.train, part.test, part.test)
    for task in (whole, part, both):
        evaluate_transfer(vectors, {"t": task}, folds=2)
    usual = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    assert asked == [usual, usual, (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), usual]
    asked.clear()
    evaluate_transfer(vectors, {"t": part}, folds=2, c_grid=(1.0,))
    assert asked == [(1.0,)]


def test_development_part_selects_c():
    # Train labels are mostly flipped noise that only a strong penalty resists.
    def encode(texts):
        table = {"p": [1.0, 0.0], "n": [-1.0, 0.0], "p2": [0.1, 9.0], "n2": [-0.1, -9.0]}
        return torch.tensor([table[t] for t in texts])

    train = LabelledTexts(["p", "n", "p2", "n2"] * 3, [1, 0, 0, 1] * 3)
    for dev, expected in ((["p", "n"], 1.0), (["p2", "n2"], 1.0)):
        labels = [1, 0] if dev == ["p", "n"] else [0, 1]
        part = LabelledTexts(dev, labels)
        task = TransferTask("t", train, part, part)
        metrics = evaluate_transfer(encode, {"t": task}, c_grid=(1e-6, 100.0))
        assert metrics["t_accuracy"] == expected


def test_pairs_use_difference_and_product_and_report_f1():
    # A pair is a paraphrase if both texts have the same sign: invisible to u or v alone.
    def encode(texts):
        return torch.tensor([[1.0 if t.startswith("+") else -1.0] for t in texts])

    first, second = ["+a", "-b", "+c", "-d"] * 5, ["+e", "-f", "-g", "+h"] * 5
    part = LabelledTexts(first, [1, 1, 0, 0] * 5, second)
    unbalanced = LabelledTexts(first + ["+a"] * 4, [1, 1, 0, 0] * 5 + [1] * 4, second + ["-x"] * 4)
    metrics = evaluate_transfer(
        encode, {"MRPC": TransferTask("MRPC", part, unbalanced, f1=True)}, folds=5
    )
    assert metrics["mrpc_accuracy"] == pytest.approx(20 / 24)
    assert metrics["mrpc_f1"] == pytest.approx(2 * 10 / (10 + 14))
    assert metrics["mrpc_accuracy_chance"] == pytest.approx(14 / 24)


def test_each_text_is_encoded_once_per_task():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return vectors(texts)

    task = linear_task(40)
    doubled = LabelledTexts(task.train.texts * 2, task.train.labels * 2)
    evaluate_transfer(encode, {"t": TransferTask("t", doubled)}, folds=2, c_grid=(1.0,))
    assert sorted(seen) == sorted(task.train.texts)


def test_refusals():
    with pytest.raises(ValueError, match="needs a task"):
        evaluate_transfer(vectors, {})
    with pytest.raises(ValueError, match="two folds"):
        evaluate_transfer(vectors, {"t": linear_task(20)}, folds=1)
