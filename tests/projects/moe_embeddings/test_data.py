"""Co-citation on a graph made by hand, splits, batches, readers, bundled domains."""

import itertools

import pytest
import torch

from common.config import UserError
from common.data.tables import write_jsonl
from projects.moe_embeddings.bundled import bundled_pairs
from projects.moe_embeddings.cocitation import PARTS, Collection, cocited, pairs_of, part_of
from projects.moe_embeddings.data import (
    PairTexts,
    expert_of,
    load_pairs,
    read_pairs,
    training_data,
    training_pairs,
)
from projects.moe_embeddings.evaluate import score_row, tfidf_scores
from tests.projects.moe_embeddings.conftest import (
    batch_of,
    config,
    encoder_of,
    module_of,
    write_pairs,
)


def graph(size=40):
    """Papers p0.. in two circles: reviews cite three neighbours of a circle."""
    texts = {f"p{i}": f"text {i}" for i in range(size)}
    citations = []
    for i in range(size):
        citations += [(f"review {i}", f"p{(i + 2 * k) % size}") for k in range(3)]
    return texts, citations


def test_checklist_16_pairs_of_a_small_graph_by_hand():
    """Checklist 16: co-cited pairs, self-citations and empty texts out, unknown papers out."""
    citations = [
        ("x", "a"),
        ("x", "b"),
        ("x", "c"),
        ("a", "a"),
        ("a", "d"),
        ("y", "d"),
        ("y", "b"),
        ("y", "gone"),
        ("z", "c"),
        ("z", "e"),
        ("b", "b"),
    ]
    assert sorted(cocited(citations, "abcde")) == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
        ("b", "d"),
        ("c", "e"),
    ]
    texts = {name: f"text {name}" for name in "abcde"} | {"e": "  "}
    everything = pairs_of(Collection("d", texts, citations), (0.0, 0.0))
    assert {(p.a[-1], p.b[-1]) for p in everything["train"]} == {
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
        ("b", "d"),
    }
    assert all(p.label == 1 and p.domain == "d" for p in everything["train"])
    assert everything["test"] == []


def test_checklist_14_and_16_parts_share_no_document_and_negatives_are_never_cited_together():
    """Checklist 14, 16: splits by document; as many negatives, of documents that are cited too."""
    texts, citations = graph(200)
    parts = pairs_of(Collection("d", texts, citations), (0.2, 0.3), seed=3)
    known = {(texts[a], texts[b]) for a, b in cocited(citations, texts)}
    seen = {part: {t for p in parts[part] for t in (p.a, p.b)} for part in PARTS}
    for one, other in itertools.combinations(PARTS, 2):
        assert seen[one]
        assert not seen[one] & seen[other]
    for part in ("valid", "test"):
        right = [(p.a, p.b) for p in parts[part] if p.label == 1]
        wrong = [(p.a, p.b) for p in parts[part] if p.label == 0]
        assert len(right) == len(wrong)
        assert set(right) <= known
        assert not {(b, a) for a, b in wrong} & known
        assert not set(wrong) & known
        assert {t for pair in wrong for t in pair} <= {t for pair in right for t in pair}
    assert {p.label for p in parts["train"]} == {1}
    assert pairs_of(Collection("d", texts, citations), (0.2, 0.3), seed=3) == parts
    few = pairs_of(Collection("d", texts, citations), (0.2, 0.3), lambda part: 5)
    assert {part: sum(p.label for p in few[part]) for part in PARTS} == dict.fromkeys(PARTS, 5)


def test_checklist_14_equal_texts_and_units_stay_together():
    """Checklist 14: two records of one text, or of one class, never lie in different parts."""
    texts, citations = graph(60)
    texts = {name: f"text {int(name[1:]) // 2}" for name in texts}  # every text twice
    parts = pairs_of(Collection("d", texts, citations), (0.2, 0.3))
    seen = {part: {t for p in parts[part] for t in (p.a, p.b)} for part in PARTS}
    assert not any(seen[a] & seen[b] for a, b in itertools.combinations(PARTS, 2))
    assert all(p.a != p.b for own in parts.values() for p in own)
    texts, _ = graph(60)
    units = {name: str(int(name[1:]) % 12) for name in texts}
    pairs = pairs_of(Collection("d", texts, [(u, n) for n, u in units.items()], units), (0.3, 0.3))
    for part, own in pairs.items():
        for pair in own:
            assert part_of(str(int(pair.a.split()[1]) % 12), (0.3, 0.3)) == part
    with pytest.raises(UserError, match="part 'train'"):
        pairs_of(Collection("d", texts, [("x", "p1")]), (0.0, 0.0))


def test_checklist_7_training_ignores_labels_and_uses_positive_pairs(tmp_path):
    """Checklist 7: negative rows of the training file change nothing; evaluation needs labels."""
    right = [(f"a{i}", f"b{i}", 1) for i in range(6)]
    test = [("x", "y", 1), ("x", "z", 0)]
    words = ["data.source=files", "data.domains=[d]", f"data.root={tmp_path}", "data.paths={d: d}"]
    valid = [("v", "w", 1), ("v", "u", 0)]
    write_pairs(tmp_path / "d", {"train": right, "valid": valid, "test": test})
    plain = training_pairs(config(*words))
    assert [(p.a, p.b) for p in plain] == [(a, b) for a, b, _ in right]  # of the part "train" alone
    write_pairs(tmp_path / "d", {"train": [*right, ("a0", "b3", 0)]})
    assert training_pairs(config(*words)) == plain
    assert [p.label for p in load_pairs(config(*words), "test")["d"]] == [1, 0]
    pairs = load_pairs(config(*words), "test")
    flipped = {"d": [p._replace(label=1 - p.label) for p in pairs["d"]]}
    scores = {"d": torch.tensor([0.9, 0.1]).numpy()}
    actual = [score_row(config(*words), scores, p)["d_auc"] for p in (pairs, flipped)]
    assert actual == [1.0, 0.0]


def test_checklist_8_batches_mix_domains_unless_asked_otherwise():
    """Checklist 8: the default, and batches of one domain."""
    encoder = encoder_of()
    for kind, single in (("mixed", False), ("single_domain", True)):
        data = training_data(config(f"data.batches={kind}"), encoder)
        loader = iter(data.train_dataloader())
        kinds = [set(next(loader)["domain"].tolist()) for _ in range(12)]
        assert all(len(own) == 1 for own in kinds) == single
        assert set.union(*kinds) == {0, 1, 2}


def test_checklist_4_and_15_both_members_have_their_domain_and_change_places_in_training_only():
    """Checklist 4, 15: experts of a and b; a swap by (seed, epoch, index); evaluation untouched."""
    cfg, module = config(), module_of()
    batch = batch_of(module, cfg, [0, 60, 120, 1])
    assert batch["expert"] == 2 * [0, 1, 2, 0]
    assert batch["domain"].tolist() == batch["expert"]
    first = [module.encoder.token_ids[d] for d in batch["expert"]]
    assert batch["input_ids"][:, 0].tolist() == first
    pairs = training_pairs(cfg)
    rows = PairTexts(pairs, module.encoder, module.experts, 0.5, 0)
    drawn = [[rows.sides(i, epoch)[0] == pairs[i].a for i in range(60)] for epoch in range(2)]
    assert all(15 < sum(own) < 45 for own in drawn)
    assert drawn[0] != drawn[1]
    never = PairTexts(pairs, module.encoder, module.experts, 0.0, 0)
    assert [never.sides(i, 0) for i in range(9)] == [(p.a, p.b) for p in pairs[:9]]
    swapped, plain = (load_pairs(config(f"data.swap_prob={p}"), "test") for p in (1.0, 0.0))
    assert swapped == plain


def test_a_seed_draws_another_part_of_the_training_pairs():
    words = ["data.train_pairs=10"]
    first, second = (
        training_pairs(config(*words, f"seed={s}", "data.source=bundled", "data.domains=[esco]"))
        for s in (0, 1)
    )
    assert len(first) == len(second) == 10
    assert first != second
    only = training_pairs(config("data.train_domains=[green]"))
    assert {p.domain for p in only} == {"green"}


def test_the_control_routes_by_the_text_and_not_by_the_domain():
    route = expert_of(config("method.assignment=hashed"))
    actual = [route(f"text {i}", 0) for i in range(60)]
    assert actual == [route(f"text {i}", 2) for i in range(60)]
    assert {actual.count(e) > 10 for e in range(3)} == {True}
    for word in ("hashes=1", "seed=1"):
        other = expert_of(config("method.assignment=hashed", word))
        assert actual != [other(f"text {i}", 0) for i in range(60)]


@pytest.mark.parametrize("end", ["csv", "parquet", "data"])
def test_published_layouts_are_read(tmp_path, end):
    """Columns a, b, label as CSV or parquet; several parquet files of a part below ``data``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in PARTS:
        row = {"a": f"a {part}", "b": f"b {part}", "label": 1}
        if end == "csv":
            (tmp_path / f"{part}.csv").write_text(f"a,b,label\na {part},b {part},1\n")
        elif end == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{part}.parquet")
        else:
            (tmp_path / "data").mkdir(exist_ok=True)
            for i in range(2):
                pq.write_table(
                    pa.Table.from_pylist([row]), tmp_path / f"data/{part}-0000{i}-of-00002.parquet"
                )
    actual = read_pairs(tmp_path, "d")
    assert [len(actual[part]) for part in PARTS] == [2 if end == "data" else 1] * 3
    assert actual["test"][0] == ("a test", "b test", 1, "d")


def test_checklist_14_documents_of_the_test_leave_the_other_parts_of_all_domains(tmp_path):
    """Checklist 14: files made elsewhere; a paper of two domains is tested in one, trained on in
    the other.
    """
    kept = {"train": [("t1", "t2", 1)], "valid": [("v1", "v2", 1), ("v1", "v3", 0)]}
    write_pairs(tmp_path / "x", {**kept, "test": [("a", "b", 1), ("a", "e", 0)]})
    rows = {
        "train": [("t3", "t4", 1), ("b", "t3", 1), ("t4", "v1", 1)],
        "valid": [("w1", "w2", 1), ("w1", "w3", 0), ("w1", "e", 0)],
        "test": [("c", "d", 1), ("c", "t1", 0)],
    }
    write_pairs(tmp_path / "y", rows)
    words = [
        "data.source=files",
        "data.domains=[x, y]",
        f"data.root={tmp_path}",
        "data.paths={x: x, y: y}",
    ]
    with pytest.warns(UserWarning, match="pairs of the part 'train' are left out") as said:
        actual = {part: load_pairs(config(*words), part) for part in PARTS}
    assert "1 pairs of the part 'valid'" in "".join(str(w.message) for w in said)
    assert [(p.a, p.b) for p in actual["train"]["y"]] == [("t3", "t4")]
    assert actual["train"]["x"] == []  # t1 is tested in y
    assert [(p.a, p.b) for p in actual["valid"]["y"]] == [("w1", "w2"), ("w1", "w3")]
    assert [len(own) for own in actual["test"].values()] == [2, 2]  # as they are
    seen = [{t for own in actual[part].values() for p in own for t in (p.a, p.b)} for part in PARTS]
    assert not any(one & other for one, other in itertools.combinations(seen, 2))


def test_files_that_cannot_be_evaluated_are_refused_before_training(tmp_path):
    """One kind of pair, no validation pair, two formats; empty documents go, as in the paper."""
    both = [("x", "y", 1), ("x", "z", 0)]
    valid = [("v", "w", 1), ("v", "u", 0)]
    words = ["data.source=files", "data.domains=[d]", f"data.root={tmp_path}", "data.paths={d: d}"]
    for part, rows, said in (
        ("test", [("x", "y", 1)], "'test' has no negative pair"),
        ("test", [], "'test' has no positive pair"),
        ("valid", [("v", "u", 0)], "'valid' has no positive pair"),
    ):
        write_pairs(
            tmp_path / "d", {"train": [("a", "b", 1)], "valid": valid, "test": both, part: rows}
        )
        with pytest.raises(UserError, match=said):
            training_pairs(config(*words))
    write_pairs(tmp_path / "d", {"train": [("a", "b", 1)], "valid": [], "test": both})
    encoder = encoder_of(*words)
    with pytest.raises(UserError, match="no validation pair"):
        training_data(config(*words), encoder)
    training_data(config(*words, "trainer.val_every_n_steps=null"), encoder)
    rows = [
        {"a": "a", "b": "b", "label": 1},
        {"a": None, "b": "c", "label": 1},
        {"a": "d", "b": " ", "label": 1},
    ]
    write_jsonl(tmp_path / "d/train.jsonl", rows)
    with pytest.warns(UserWarning, match="2 pairs of the part 'train' have an empty document"):
        assert len(training_pairs(config(*words))) == 1
    (tmp_path / "d/train.csv").write_text("a,b,label\na,b,1\n")
    with pytest.raises(UserError, match="two formats"):
        training_pairs(config(*words))


def test_checklist_16_evaluation_parts_stay_balanced_where_negative_pairs_are_few():
    """Checklist 16: F1 of calling all pairs positive is 2/3 for equal numbers alone."""
    texts = {f"p{i}": f"text {i}" for i in range(40)}
    everything = Collection("d", texts, [("x", name) for name in texts])
    with pytest.raises(UserError, match="no negative pair"):
        pairs_of(everything, (0.0, 0.5))
    # but for one document, all of the part are cited together
    held = [name for name, text in texts.items() if part_of(text, (0.0, 0.5)) == "test"]
    cites = [("x", name) for name in texts if name != held[0]] + [("y", name) for name in held[:2]]
    test = pairs_of(Collection("d", texts, cites), (0.0, 0.5))["test"]
    labels = [pair.label for pair in test]
    assert 0 < labels.count(0) == labels.count(1) <= len(held) - 2


def test_files_with_wrong_labels_or_without_a_part_are_refused(tmp_path):
    write_pairs(tmp_path, {"train": [("a", "b", 1)], "valid": [("c", "d", 1)]})
    write_jsonl(tmp_path / "test.jsonl", [{"a": "x", "b": "y", "label": 2}])
    with pytest.raises(UserError, match="labels are 0 or 1"):
        read_pairs(tmp_path, "d")
    (tmp_path / "valid.jsonl").unlink()
    with pytest.raises(UserError, match="needs valid.jsonl"):
        read_pairs(tmp_path, "d")


def test_queries_that_judge_much_of_a_collection_relevant_pair_no_documents():
    """CISI: of two training documents drawn by how often they occur, less than 16 % are a positive
    pair.
    """
    pairs = bundled_pairs("cisi", None, 1000)
    assert [sum(p.label == y for p in pairs["test"]) for y in (0, 1)] == [1000, 1000]
    ends = [t for p in pairs["train"] for t in (p.a, p.b)]
    known = {frozenset((p.a, p.b)) for p in pairs["train"]}
    drawn = torch.randint(len(ends), (4000, 2), generator=torch.Generator().manual_seed(0)).tolist()
    assert sum(frozenset((ends[i], ends[j])) in known for i, j in drawn) / 4000 < 0.16


@pytest.mark.slow
def test_bundled_domains_have_disjoint_parts_and_words_help():
    """The mini's sets: 2,000 balanced test pairs each; TF-IDF is well above chance on ESCO."""
    pairs = {name: bundled_pairs(name, None, 1000) for name in ("npl", "esco")}
    for own in pairs.values():
        assert [sum(p.label == y for p in own["test"]) for y in (0, 1)] == [1000, 1000]
        seen = [{t for p in own[part] for t in (p.a, p.b)} for part in PARTS]
        assert not any(a & b for a, b in itertools.combinations(seen, 2))
    cfg = config("data.source=bundled", "data.domains=[npl, esco]")
    tests = {name: own["test"] for name, own in pairs.items()}
    actual = score_row(cfg, tfidf_scores(tests), tests)
    assert actual["esco_auc"] > 0.8
    assert actual["npl_auc"] > 0.75
