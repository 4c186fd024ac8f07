"""Languages of batches, augmentation of keys, pieces with types: items 6 to 10."""

import collections
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.tables import write_jsonl
from projects.cocosoda.code.search_sets import PIECES, CodePair, read_code_search_net
from projects.cocosoda.code.types import TYPES, TYPES_OF, type_token
from projects.cocosoda.data import (
    CodePairs,
    search_sets,
    training_data,
    training_pairs,
    typed_pieces,
    with_line_breaks,
)
from projects.cocosoda.encoder import build_encoder
from tests.projects.cocosoda.conftest import config

CODE = "def read_lines ( path ) : return [ 'x' , path . open ( 1 ) , None ]"


@pytest.fixture(scope="module")
def tokenizer():
    return build_encoder(config().model).tokenizer


def pairs(language, count):
    code = (
        CODE
        if language == "python"
        else "function readLines ( path ) { return open ( path , 1 ) ; }"
    )
    return [
        CodePair(f"read line {i}", f"{code} {i}", language, f"{language}{i}") for i in range(count)
    ]


def languages(tokenizer, *overrides):
    cfg = config("data.batch_size=4", *overrides)
    sizes = {"ruby": 8, "python": 40, "java": 80}
    return CodePairs(
        {name: pairs(name, n) for name, n in sizes.items()}, tokenizer, cfg, augment=True
    )


def test_item_6_a_batch_has_one_language_drawn_with_exponent_seven_tenths(tokenizer):
    """Checklist 6: over 600 epochs of 32 batches; within a batch nothing occurs twice."""
    data = languages(tokenizer)
    assert len(data) == 128
    drawn = np.concatenate([data.mixture.sets(epoch) for epoch in range(600)])
    share = np.bincount(drawn) / len(drawn)
    expected = np.array([8, 40, 80]) ** 0.7
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.012)
    for epoch in (0, 7):
        rows = data.mixture.order(epoch).reshape(-1, 4, 2)
        assert all(len(set(batch[:, 0])) == 1 for batch in rows)
        assert all(len(set(batch[:, 1])) == 4 for batch in rows)
    proportional = languages(tokenizer, "data.language_exponent=1")  # the twin
    others = np.concatenate([proportional.mixture.sets(epoch) for epoch in range(600)])
    assert abs((others == 0).mean() - share[0]) > 0.03


def test_item_6_a_language_is_gone_through_before_it_repeats(tokenizer):
    """Pairs come equally often, also over the border of epochs (no replay of a cached first
    pass)."""
    data = languages(tokenizer)
    rows = np.concatenate([data.mixture.order(epoch) for epoch in range(40)])
    for language, size in enumerate((8, 40, 80)):
        seen = collections.Counter(rows[rows[:, 0] == language, 1].tolist())
        assert len(seen) == size
        assert max(seen.values()) - min(seen.values()) <= 1
    again = languages(tokenizer)
    assert np.array_equal(again.mixture.order(39), data.mixture.order(39))  # from any position


def test_batches_do_not_depend_on_ranks(tokenizer):
    """Two ranks of two pairs see what one of four does, in the same step with the same
    augmentation.
    """
    whole = languages(tokenizer)
    part = languages(tokenizer, "data.batch_size=2", "trainer.devices=2")
    one = whole[[(i, 3) for i in range(8, 12)]]
    both = [part[[(i, 3) for i in own]] for own in ((8, 9), (10, 11))]
    ids = [row[:9].tolist() for batch in both for row in batch["augmented_code"]["input_ids"]]
    assert ids == [row[:9].tolist() for row in one["augmented_code"]["input_ids"]]
    assert pickle.loads(pickle.dumps(whole))[[(0, 0)]]["ids"] == whole[[(0, 0)]]["ids"]


def test_items_7_and_10_special_tokens_stay_and_queries_change_in_masking_alone(tokenizer):
    """Checklist 7 and 10: [CLS], prefix, [SEP], padding; the query differs in every fourth step."""
    data = languages(tokenizer, "data.soda.ratio=1.0")
    changed = collections.Counter()
    for step in range(40):
        batch = data[[(4 * (step % 32) + i, step // 32) for i in range(4)]]
        for side in ("code", "query"):
            ids, new = batch[side]["input_ids"], batch[f"augmented_{side}"]["input_ids"]
            mask = batch[side]["attention_mask"]
            assert torch.equal(mask, batch[f"augmented_{side}"]["attention_mask"])
            last = mask.sum(1) - 1
            rows = torch.arange(4)
            assert torch.equal(ids[:, 0], new[:, 0])
            assert (new[rows, last] == tokenizer.sep_token_id).all()
            assert (new[mask == 0] == tokenizer.pad_token_id).all()
            changed[side, step % 4] += int((ids != new).any())
    assert [changed["query", s] > 0 for s in range(4)] == [True, False, False, False]
    assert [changed["code", s] > 0 for s in range(4)] == [True, True, True, True]
    always = languages(tokenizer, "data.soda.queries_in=[mask,replace]", "data.soda.ratio=1.0")
    batch = always[[(4 + i, 0) for i in range(4)]]  # the second step
    assert not torch.equal(batch["query"]["input_ids"], batch["augmented_query"]["input_ids"])


def test_item_8_the_same_pair_is_augmented_anew(tokenizer):
    """Checklist 8: another draw at every access, the same for the same key."""
    data = languages(tokenizer, "data.soda.strategies=[mask]", "data.soda.ratio=0.5")
    drawn = data._pieces(1, 0)
    step = data.step(0, 0)
    first, again, later = (data.keys(drawn, step, key)[0] for key in ((0, 0), (0, 0), (0, 1)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    assert np.array_equal(drawn[0], data._pieces(1, 0)[0])  # the original is not touched


def test_item_9_replaced_pieces_have_the_token_of_their_own_type(tokenizer):
    """Checklist 9: DR and DRST introduce right types alone, DRST and DMST change one type."""
    data = languages(tokenizer, "data.soda.ratio=1.0")
    code, types, query = data._pieces(1, 0)
    assert {"keyword", "identifier", "separators", "number"} <= {TYPES[t] for t in types if t >= 0}
    token_of = {TYPES.index(t): tokenizer.convert_tokens_to_ids(type_token(t)) for t in TYPES}
    seen = set()
    for number in range(200):
        index, epoch = 4 * (number % 32), number // 32
        step = data.step(index, epoch)
        if data.languages[data.mixture.order(epoch)[index, 0]] != "python":
            continue
        new, _ = data.keys((code, types, query), step, (index, epoch))
        changed = new != code
        assert TYPES[step.chosen_type] in TYPES_OF["python"]
        if step.strategy in ("replace", "replace_type"):
            assert all(new[i] == token_of[types[i]] for i in np.flatnonzero(changed))
        if step.strategy in ("replace_type", "mask_type"):
            assert set(types[changed]) <= {step.chosen_type}
            assert changed.sum() == (types == step.chosen_type).sum()
            seen.add((step.strategy, step.chosen_type))
        if step.strategy == "mask_type":
            assert set(new[changed]) <= {tokenizer.mask_token_id}
    assert len({t for s, t in seen if s == "mask_type"}) >= 4  # the type is drawn for each step
    off = languages(tokenizer, "data.soda.strategies=[]")
    batch = off[[(i, 0) for i in range(4)]]
    assert torch.equal(batch["code"]["input_ids"], batch["augmented_code"]["input_ids"])
    assert not batch["altered"].any()


@pytest.mark.parametrize("stored", [False, True])
def test_item_9_rows_without_types_are_masked_in_every_fourth_step_alone(tokenizer, stored):
    """Checklist 9: as `paper_released` trains; the other three strategies find no type to work
    on."""
    released = config(name="paper_released").data
    assert released.soda.strategies == ["mask", "replace", "replace_type", "mask_type"]
    for typed in (released.typed, True):  # with types: the twin
        cfg = config("data.batch_size=4", "data.soda.ratio=0.5", f"data.typed={str(typed).lower()}")
        cfg.data.soda.strategies = released.soda.strategies
        own = pairs("python", 8)
        if stored:
            both = [tuple(tokenizer.tokenize(pair.code)) for pair in own]
            own = [
                replace(p, pieces=(b, ("identifier",) * len(b)))
                for p, b in zip(own, both, strict=True)
            ]
        data = CodePairs({"python": own}, tokenizer, cfg, augment=True)
        changed = collections.Counter()
        for step in range(80):
            index, epoch = 4 * (step % (len(data) // 4)), step // (len(data) // 4)
            batch = data[[(index + i, epoch) for i in range(4)]]
            new, old = (batch[name]["input_ids"] for name in ("augmented_code", "code"))
            changed[step % 4] += int((new != old).any())
        assert [changed[s] > 0 for s in range(4)] == [True, typed, typed, typed]


def test_pieces_inherit_the_type_of_their_token_also_when_stored(tokenizer):
    """Parts of a name are identifiers; stored pieces give the same; those of others are refused."""
    pair = CodePair("q", CODE, "python", "k")
    ids, types = typed_pieces(tokenizer, pair, 100)
    names = [TYPES[t] if t >= 0 else "other" for t in types]
    pieces = tokenizer.convert_ids_to_tokens(ids.tolist())
    assert len(ids) == len(types)
    assert names[:2] == ["keyword"] * 2 or names[0] == "keyword"
    start = next(i for i, name in enumerate(names) if name == "identifier")
    stop = next(i for i, name in enumerate(names) if name == "separators")
    assert "".join(pieces[start:stop]).replace("##", "") == "readlines"  # divided at the underscore
    assert set(names[start:stop]) == {"identifier"}
    stored = CodePair("q", "", "python", "k", (tuple(pieces), tuple(names)))
    for actual, expected in zip(typed_pieces(tokenizer, stored, 100), (ids, types), strict=True):
        assert np.array_equal(actual, expected)
    other = CodePair("q", "", "python", "k", (("Ġnot",), ("keyword",)))
    with pytest.raises(UserError, match="not a piece of this tokenizer"):
        typed_pieces(tokenizer, other, 100)
    assert len(typed_pieces(tokenizer, pair, 5)[0]) == 5


@pytest.mark.parametrize(
    ("language", "comment"),
    [
        ("go", "// c"),
        ("java", "// c"),
        ("javascript", "// c"),
        ("php", "# c"),
        ("python", "# c"),
        ("ruby", "# c"),
    ],
)
def test_types_go_on_behind_a_comment_within_the_code(tokenizer, language, comment):
    """Code on one line would be a comment to its end, as it is in rows that were not prepared."""
    code = ["a", "=", "1", comment, "return", "b"]
    lines = with_line_breaks(code, language)
    pair = CodePair("q", " ".join(code), language, "k")
    assert (len(lines), lines.split()) == (len(pair.code), pair.code.split())
    actual = []
    for shown in (lines, None):
        ids, types = typed_pieces(tokenizer, pair, 100, shown)
        pieces = [p.removeprefix("##") for p in tokenizer.convert_ids_to_tokens(ids.tolist())]
        start = len("".join(pieces)) - len("returnb")
        ends = np.cumsum([len(p) for p in pieces])
        actual.append({TYPES[t] if t >= 0 else "other" for t in types[ends > start]})
    assert actual[0] == {"keyword", "identifier"}
    assert actual[1] == {"other"}
    assert with_line_breaks(["#{", "x", "}"], "ruby") == "#{ x }"
    assert with_line_breaks([], language) == ""


def test_stored_pieces_of_a_row_cost_two_pointers_each(tmp_path):
    """A million functions of some hundred pieces fit in memory; names that come again are one
    string.
    """
    (tmp_path / "go").mkdir()
    own = [["func", "keyword"], ["Ġ(", "separators"]] * 500
    row = {"url": "u", "code_tokens": [], "docstring_tokens": [], PIECES: own}
    write_jsonl(tmp_path / "go/train.jsonl", [row, {**row, PIECES: []}])
    full, empty = (pair.pieces for pair in read_code_search_net(tmp_path, "go"))
    assert [list(pair) for pair in zip(*full, strict=True)] == own
    assert empty == ((), ())
    held = {id(x): sys.getsizeof(x) for x in (full, *full, *(y for x in full for y in x))}
    assert sum(held.values()) < 20 * len(own)


def test_lengths_are_those_of_the_config(tokenizer):
    data = languages(tokenizer, "model.code_length=12", "model.query_length=8")
    batch = data[[(i, 0) for i in range(4)]]
    assert batch["code"]["input_ids"].shape == (4, 12)
    assert batch["query"]["input_ids"].shape[1] <= 8


@pytest.mark.parametrize("name", ["normalize_text", "lower_case"])
def test_code_is_read_as_it_is_written(name):
    """The family's switches for texts were accepted and left out."""
    with pytest.raises(
        UserError, match=r"eval\.normalize_text and eval\.lower_case.*prepare queries"
    ):
        config(f"eval.{name}=true")
    assert not getattr(config(f"eval.{name}=false").eval, name)


def test_files_of_code_search_net_train_and_are_searched(tmp_path, tokenizer):
    """Four files a language; identity by URL; missing ones are named with what to do."""
    for language in ("ruby", "go"):
        folder = tmp_path / "CSN" / language
        folder.mkdir(parents=True)
        rows = [
            {
                "url": f"u{i}",
                "code_tokens": ["f", "(", str(i), ")"],
                "docstring_tokens": ["call", str(i)],
            }
            for i in range(9)
        ]
        write_jsonl(folder / "train.jsonl", rows)
        for part in ("valid", "test"):
            write_jsonl(folder / f"{part}.jsonl", [{**r, "code_tokens": []} for r in rows[:3]])
        write_jsonl(folder / "codebase.jsonl", [{**r, "docstring_tokens": []} for r in rows])
    words = [
        "data.source=csn",
        "data.folder=CSN",
        f"data.root={tmp_path}",
        "data.languages=[ruby,go]",
    ]
    cfg = config(*words)
    assert {name: len(own) for name, own in training_pairs(cfg).items()} == {"ruby": 9, "go": 9}
    sets = search_sets(cfg, "test")
    assert [data.name for data in sets] == ["ruby", "go"]
    assert sets[0].gold_places == [[0], [1], [2]]
    assert len(sets[0].codes) == 9
    encoder = build_encoder(cfg.model)
    data = training_data(config(*words, "trainer.val_every_n_steps=2"), encoder, finetune=False)
    assert list(data.val_sets) == ["ruby", "go"]
    with pytest.raises(UserError, match=r"has no train.jsonl.*TASK=prepare"):
        training_pairs(config(*words, "data.languages=[php]"))
    for wrong in (["data.source=csn"], ["data.languages=[go]"], [*words, "data.languages=[go,go]"]):
        with pytest.raises(UserError, match=r"data\.(folder|languages)"):
            config(*wrong)
