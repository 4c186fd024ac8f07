"""Encoder inputs, batches of corpora, masked values, converters, readers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.text import token_files
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.engine.workspace import Workspace
from projects.space2 import data, tasks
from projects.space2.data import (
    Examples,
    count_examples,
    read_corpora,
    training_data,
    tree_batch,
)
from projects.space2.dialogs import turns as sets
from projects.space2.dialogs.converters import (
    check_frame,
    from_acts,
    from_intent,
    from_spans,
)
from projects.space2.dialogs.encoding import DialogTokenizer
from projects.space2.dialogs.streams import PairedStreams, corpora_stream
from projects.space2.dialogs.tasks import parse_line
from projects.space2.dialogs.trees import combined_matrix, combined_score, is_empty, view_sets
from projects.space2.dialogs.turns import Dialog, Turn, read_corpus
from projects.space2.evaluate import HeldOut, sample, scored_folder, view_scores
from projects.space2.stages import stages
from tests.projects.space2.conftest import FRAMES, config, network_of


def texts(length=64, turns=16):
    return DialogTokenizer(tiny_tokenizer(300), length, turns)


def test_the_front_slot_has_the_token_embedding_alone():
    """Checklist 6: no position, role or turn is added to [CLS], whatever their tables hold."""
    network = network_of().eval()
    own, seen = network.encoder, []
    own.embeddings.LayerNorm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    inputs = network.texts.pad(network.texts.texts(["a cheap hotel", "the bank"]))
    states = own(**inputs)
    word = own.embeddings.word_embeddings.weight[own.cls_id]
    assert states.shape[1] == inputs["input_ids"].shape[1] + 1
    torch.testing.assert_close(seen[0][:, 0], word.expand(2, -1))
    rest = own.embeddings.summed(
        *(inputs[k] for k in ("input_ids", "position_ids", "role_ids", "turn_ids"))
    )
    torch.testing.assert_close(seen[0][:, 1:], rest)
    assert not torch.allclose(
        rest[0, 0], own.embeddings.word_embeddings.weight[inputs["input_ids"][0, 0]]
    )
    for table in (
        own.embeddings.position_embeddings,
        own.embeddings.role_embeddings,
        own.embeddings.turn_embeddings,
    ):
        before = own(**inputs)
        with torch.no_grad():
            table.weight += torch.randn(
                table.weight.shape, generator=torch.Generator().manual_seed(0)
            )
        assert (own(**inputs) - before).abs().max() > 1e-3  # and each of them is read


def test_both_copies_go_through_one_pass_with_their_own_dropout():
    """Checklist 7."""
    network = network_of("model.dropout=0.2")
    inputs = network.texts.pad(network.texts.texts(["a cheap hotel", "the bank", "a taxi"]))
    calls = []
    network.encoder.backbone.register_forward_pre_hook(
        lambda m, args, kwargs: calls.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    one, two = network.twice(inputs).chunk(2)
    assert calls == [6]
    assert (one - two).abs().max() > 1e-3
    one, two = network.eval().twice(inputs).chunk(2)
    torch.testing.assert_close(one, two)


def test_positions_restart_and_turns_count_back():
    """Checklist 12: and roles alternate backwards from the current speaker."""
    own = texts()
    turns = [Turn(True, "one two"), Turn(False, "who"), Turn(True, "a b c")]
    row = own.row(own.utterances(turns), True)
    sizes = [len(u.ids) for u in own.utterances(turns)]
    assert row.positions.tolist() == [p for n in sizes for p in range(n)]
    assert row.turns.tolist() == [
        t for n, t in zip(sizes, (3, 2, 1), strict=True) for _ in range(n)
    ]
    assert row.roles.tolist() == [
        r for n, r in zip(sizes, (0, 1, 0), strict=True) for _ in range(n)
    ]
    marks = [own.tokenizer.convert_ids_to_tokens(int(i)) for i in row.ids[row.marks]]
    assert marks == ["<sos_u>", "<eos_u>", "<sos_r>", "<eos_r>", "<sos_u>", "<eos_u>"]


def test_what_is_too_long_keeps_its_last_tokens():
    """Checklist 12: of an utterance and of the whole, with the positions they had; at most 16
    utterances.
    """
    own = texts(8, 2)
    (long,) = own.utterances([Turn(True, "a b c d e f g h i j")])
    assert own.tokenizer.decode(long.ids[1:-1]).split() == list("efghij")
    actual = own.utterances([Turn(True, "x"), Turn(False, "a b c d e f"), Turn(True, "a b")])
    row = own.row(actual, True)
    assert len(row.ids) == 8
    assert row.turns.tolist() == [2] * 4 + [1] * 4
    assert row.positions.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    batch = own.pad([row, own.texts(["a"])[0]])
    assert all(int(batch[name][1, -1]) == 0 for name in batch)


def test_values_are_always_masked_and_never_with_random_tokens():
    """Checklist 9: exactly the tokens of values by [MASK]; other utterances by chance, never their
    marks.
    """
    own = texts()
    frame = from_spans("a table in the north for two", [("area", 15, 20), ("people", 25, 28)])
    turns = [
        Turn(True, "some words that have no value at all"),
        Turn(False, "and where"),
        Turn(True, "a table in the north for two", frame),
    ]
    row = own.row(own.utterances(turns), True)
    hidden = [own.masked(row, np.random.default_rng(s)) for s in range(40)]
    last = row.turns == 1
    want = own.tokenizer(["north", "two"], add_special_tokens=False)["input_ids"]
    for ids, labels in hidden:
        chosen = labels[last] != -100
        assert row.ids[last][chosen].tolist() == [i for w in want for i in w]
        assert (ids[last][chosen] == own.mask_id).all()
        assert (ids[last][~chosen] == row.ids[last][~chosen]).all()
        assert not (labels != -100)[row.marks].any()
    share = np.mean([(labels != -100)[~last & ~row.marks].mean() for _, labels in hidden])
    assert 0.08 < share < 0.25
    other = [(i[c], row.ids[c]) for i, labels in hidden for c in [(labels != -100) & ~last]]
    masks = np.concatenate([i == own.mask_id for i, _ in other]).mean()
    kept = np.concatenate([i == r for i, r in other]).mean()
    assert 0.6 < masks < 0.95
    assert 0 < kept < 0.3
    changed = np.concatenate([i[(i != own.mask_id) & (i != r)] for i, r in other])
    assert len(set(changed.tolist())) > 3  # random tokens, of which padding is none
    assert changed.min() >= 1
    assert changed.max() < own.vocab_size


def test_a_labelled_batch_never_mixes_corpora():
    """Checklist 8: over epochs, one corpus after the other; a batch put together of two is
    refused."""
    stream = corpora_stream([21, 13], seed=3, global_batch_size=4)
    for epoch in range(3):
        order = stream.order(epoch)
        assert order[:, 0].tolist() == [0] * 20 + [1] * 12
        assert len({tuple(r) for r in order.tolist()}) == 32
    assert stream.order(0).tolist() != stream.order(1).tolist()
    mixed = corpora_stream([21, 13], 3, 4, in_turn=False)
    assert mixed.order(0)[:, 0].tolist() != stream.order(0)[:, 0].tolist()
    assert all(len(set(b)) == 1 for b in mixed.order(0)[:, 0].reshape(-1, 4).tolist())
    two = [Examples(sets.synthetic(p), texts(), "tree", ["D"]) for p in ("train", "test")]
    with pytest.raises(ValueError, match="mixes corpora"):
        tree_batch(two, 0, 1, 1, False, [(0, 1), (1, 1)], 0)
    with pytest.raises(UserError):
        corpora_stream([3], 0, 4)


def test_tokens_of_a_large_corpus_are_read_from_files_that_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "ROWS", 7)
    corpus, other = sets.synthetic("train"), sets.synthetic("test")
    memory = Examples(corpus, texts(), "tree", ["D"], tmp_path)
    assert not list(tmp_path.iterdir())  # it is small
    monkeypatch.setattr(data, "ON_DISK_FROM_TURNS", 0)
    disk = Examples(corpus, texts(), "tree", ["D"], tmp_path)
    assert any(memory.row(i).values.any() for i in range(len(memory)))
    for i in range(len(memory)):
        for expected, actual in zip(memory.row(i), disk.row(i), strict=True):
            np.testing.assert_array_equal(actual, expected)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npy")}
    Examples(corpus, texts(), "tree", ["D"], tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npy")} == before
    Examples(other, texts(), "tree", ["D"], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_turn_without_tokens_is_read_from_files_too():
    empty, said = data.StoredUtterances([[], [5, ~7]])[0:2]
    assert empty.ids.dtype == said.ids.dtype == np.int64
    assert len(empty.ids) == len(empty.values) == 0
    assert said.ids.tolist() == [5, 7]
    assert said.values.tolist() == [False, True]


def test_the_shorter_stream_begins_anew_within_the_epoch():
    """Two loaders: every step has a batch of each, every key its own rows."""
    seen = []
    streams = {"long": corpora_stream([24], 0, 4), "short": corpora_stream([5], 3, 4)}
    data = PairedStreams(streams, {n: lambda places, epoch: (places, epoch) for n in streams})
    assert len(data) == 24
    for step in range(6):
        actual = data[[(4 * step + i, 2) for i in range(4)]]
        seen.append([row for _, row in actual["short"][0]])
        assert len(set(seen[-1])) == 4
    assert seen[0] != seen[1] or seen[1] != seen[2]
    assert len({r for s in seen for r in s}) == 5  # what did not fit waits for the next pass


def test_no_epoch_repeats_an_order_of_another():
    """Pass k of the first epoch had the order of epoch k."""
    streams = {"long": corpora_stream([24], 0, 4), "short": corpora_stream([9], 3, 4)}
    data = PairedStreams(streams, dict.fromkeys(streams, lambda places, epoch: places))
    passes = {
        (epoch, again): data.places("short", [(8 * again + i, epoch) for i in range(8)])
        for epoch in range(3)
        for again in range(3)
    }
    assert len(set(map(tuple, passes.values()))) == len(passes)
    for again in range(3):
        assert passes[0, again] == [tuple(row) for row in streams["short"].order(again)]
    whole = data.places("long", [(i, 2) for i in range(24)])
    assert whole == [tuple(row) for row in streams["long"].order(2)]


def test_words_of_a_parse_may_hold_colons():
    """The word was cut at its first colon, and what followed was its tag."""
    actual = parse_line("at:O 10:30:B-time ::O pm:I-time <=> IN:SET_ALARM")
    assert actual.words == ("at", "10:30", ":", "pm")
    assert actual.tags == ("O", "B-time", "O", "I-time")
    assert actual.intent == "IN:SET_ALARM"
    for line in ("at:O 10 <=> X", "at: <=> X", ":O <=> X", "at:O", "at:O <=> "):
        with pytest.raises(UserError, match="a line of TOP"):
            parse_line(line)


def test_unlabelled_batches_may_be_larger(monkeypatch):
    """`data.most` counts examples; a global batch, which holds one corpus, is that of all devices,
    `auto` too.
    """
    cfg = config("data.batch_size=4", "data.batch_nolabel=8")
    batch = training_data(cfg, texts(32, 4)).train_set[[(i, 0) for i in range(4)]]
    assert len(batch["labelled"]["inputs"]["input_ids"]) == 4
    assert len(batch["unlabelled"]["inputs"]["input_ids"]) == 8
    with pytest.raises(UserError, match="multiple"):
        config("data.batch_size=8", "data.batch_nolabel=12")
    words = ["data.batch_size=4", "data.batch_nolabel=8", "data.most=16"]
    cfg = config(*words, "trainer.devices=auto", "trainer.accelerator=gpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    streams = training_data(cfg, texts(32, 4)).train_set.streams
    assert {s.global_batch_size for s in streams.values()} == {8}
    assert [streams[n].samples for n in ("labelled", "unlabelled")] == [[16, 16], [8]]
    assert count_examples(cfg) == 32


def test_three_kinds_of_annotation_become_the_same_tree():
    """Checklist 13: intents, spans, states with acts; round trip; placeholders leave no element."""
    spans = from_spans("a room in the North", [("area", 14, 19)], "Hotel", "inform")
    acts = from_acts([("hotel", "INFORM", "area")], {"hotel": {"area": "north"}})
    assert view_sets(spans) == view_sets(acts)
    assert spans == {"Hotel": {"inform": {"area": [{"value": "North", "span": [14, 19]}]}}}
    assert acts == {"hotel": {"INFORM": {"area": [{"value": "north", "span": None}]}}}
    intent = from_intent("card_arrival")
    assert {v: e for v, e in view_sets(intent).items() if e} == {"I": {"card_arrival"}}
    assert not is_empty(intent)
    assert is_empty(from_spans("hello", []))
    asked = from_acts(
        [("hotel", "REQUEST", "area"), ("hotel", "BYE", "")], {"hotel": {"area": "north"}}
    )
    assert asked == {"hotel": {"REQUEST": {"area": []}, "BYE": {}}}
    with pytest.raises(UserError, match="not a span"):
        from_spans("abc", [("s", 2, 9)])
    with pytest.raises(UserError, match="a label must be"):
        check_frame({"hotel": {"inform": {"area": "north"}}}, "here")
    for span in ([7], "ab", ["a", 3]):
        with pytest.raises(UserError, match="a label must be"):
            check_frame({"hotel": {"inform": {"area": [{"value": "north", "span": span}]}}}, "here")


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("spans", '{"rows": []}', "not an annotated set of convert.kind=spans"),
        ("spans", '[{"userInput": null}]', "not an annotated set of convert.kind=spans"),
        ("intents", "text,category\nwhere is it,\n", "row 1: no category"),
        ("intents", "text,category\n", "no row below its header"),
    ],
)
def test_annotations_of_another_form_are_told(kind, text, told, tmp_path):
    """They were a traceback, or trees of an intent without a name."""
    (tmp_path / "in").write_text(text)
    words = [f"convert.kind={kind}", f"convert.input={tmp_path}/in", f"convert.output={tmp_path}/x"]
    with pytest.raises(UserError, match=told):
        tasks.convert(config(*words), Workspace(tmp_path / "w"))
    assert not (tmp_path / "x").exists()


def test_spans_may_begin_with_a_byte_order_mark(tmp_path):
    """It was damage, and the file to be got again."""
    (tmp_path / "s.json").write_text('[{"userInput": {"text": "for two"}}]', encoding="utf-8-sig")
    words = [
        "convert.kind=spans",
        f"convert.input={tmp_path}/s.json",
        f"convert.output={tmp_path}/x",
    ]
    tasks.convert(config(*words), Workspace(tmp_path / "w"))
    assert read_corpus(tmp_path / "x", "train").dialogs[0].turns[0].text == "for two"


def test_converted_sets_are_read_as_corpora(tmp_path):
    """Checklist 13: CSV of intents, Restaurants-8k's JSON, TOP's lines and MultiWOZ 2.1 through
    TASK=convert and back.
    """
    (tmp_path / "i.csv").write_text(
        "text,category\nwhere is my card,card_arrival\nstop it,cancel\n"
    )
    rows = [
        {
            "userInput": {"text": "for two at six"},
            "labels": [{"slot": "people", "valueSpan": {"startIndex": 4, "endIndex": 7}}],
        }
    ]
    (tmp_path / "s.json").write_text(json.dumps(rows))
    log = [
        {"text": "a cheap hotel"},
        {
            "text": "which area?",
            "metadata": {
                "hotel": {
                    "semi": {"pricerange": "cheap", "area": "not mentioned"},
                    "book": {"booked": []},
                }
            },
            "dialog_act": {"Hotel-Request": [["Area", "?"]]},
        },
    ]
    (tmp_path / "p.txt").write_text("call:O my:B-who mum:I-who <=> IN_CALL\n")
    (tmp_path / "m.json").write_text(json.dumps({"a.json": {"log": log}}))
    want = {
        "intents": ("i.csv", {"DEFAULT_DOMAIN": {"card_arrival": {}}}),
        "spans": (
            "s.json",
            {"DEFAULT_DOMAIN": {"DEFAULT_INTENT": {"people": [{"value": "two", "span": [4, 7]}]}}},
        ),
        "parses": (
            "p.txt",
            {"DEFAULT_DOMAIN": {"IN_CALL": {"who": [{"value": "my mum", "span": [5, 11]}]}}},
        ),
        "states": (
            "m.json",
            {"hotel": {"inform": {"pricerange": [{"value": "cheap", "span": None}]}}},
        ),
    }
    for kind, (name, frame) in want.items():
        out = tmp_path / "all" / kind
        cfg = config(
            f"convert.kind={kind}", f"convert.input={tmp_path / name}", f"convert.output={out}"
        )
        tasks.convert(cfg, Workspace(tmp_path / "w"))
        corpus = read_corpus(out, "train")
        assert corpus.dialogs[0].turns[0].frame == frame
        with pytest.raises(UserError, match="exists"):
            tasks.convert(cfg, Workspace(tmp_path / "w"))
    own = config(
        "data.source=corpora",
        f"data.root={tmp_path}",
        "data.labelled=all",
        "method.learning=super",
        "data.batch_size=1",
        "data.corpora=[intents,states]",
    )
    data = training_data(own, texts(32, 4)).train_set
    assert len(data) == 3
    for name in ("intents_few", "states_valid"):
        (tmp_path / "all" / name).mkdir()
        content = (tmp_path / "all/states/train.json").read_bytes()
        (tmp_path / "all" / name / "train.json").write_bytes(content)
    with pytest.warns(UserWarning, match="2 folders ending in _few or _valid are left out"):
        whole = read_corpora(own, "all", [])
    assert len(whole) == len(list((tmp_path / "all").iterdir())) - 2
    assert len(read_corpora(own, "all", ["intents_few"])) == 1
    with pytest.raises(UserError, match="AnPreDial"):
        training_data(config("data.source=corpora", f"data.root={tmp_path}"), texts())
    with pytest.raises(UserError, match="convert"):
        tasks.convert(config(), Workspace(tmp_path))
    words = (
        "convert.kind=states",
        f"convert.input={tmp_path}/m.json",
        f"convert.output={tmp_path}/x",
    )
    with pytest.raises(UserError, match=r"convert\.domain"):  # it had no effect, without a word
        tasks.convert(config(*words, "convert.domain=hotel"), Workspace(tmp_path))
    with pytest.raises(UserError, match=r"eval\.corpus"):  # said before the training
        next(stages(own))
    (tmp_path / "all/states/test.json").write_bytes(
        (tmp_path / "all/states/train.json").read_bytes()
    )
    assert scored_folder(own) == (tmp_path / "all/states", "test")
    with pytest.raises(UserError, match="intents"):
        scored_folder(replace(own, eval=replace(own.eval, corpus="intents")))


def test_combined_scores_are_means_over_views_that_have_something():
    matrix = combined_matrix(FRAMES)
    for i, a in enumerate(FRAMES):
        for j, b in enumerate(FRAMES):
            assert matrix[i, j] == pytest.approx(combined_score(a, b), abs=1e-6)
    assert combined_score(FRAMES[4], FRAMES[4]) == 1.0  # an intent alone: one view


def test_scores_of_views_are_those_of_their_own_sub_spaces():
    """Paper's retrieval check: nearest turns of a sub-space share that part of the tree, and no
    other is read.
    """
    frames = [{"hotel": {"inform": {s: []}}} for s in ("area", "price")] + [
        {"taxi": {"inform": {s: []}}} for s in ("area", "price")
    ]
    domain, slot = torch.eye(2)[[0, 0, 1, 1]], torch.eye(2)[[0, 1, 0, 1]]
    held = HeldOut((), [], frames)
    actual = view_scores(held, torch.stack([domain, slot], 1), ["D", "S"])
    swapped = view_scores(held, torch.stack([slot, domain], 1), ["D", "S"])
    for view in ("D", "S"):
        assert actual[f"view_spearman_{view}"] == pytest.approx(1.0)
        assert swapped[f"view_spearman_{view}"] < 0
        assert actual[f"view_neighbour_{view}"] == 1.0
        assert swapped[f"view_neighbour_{view}"] == 0.0
        assert actual[f"view_neighbour_{view}_chance"] == pytest.approx(1 / 3)


def test_dropout_comes_before_the_norm_and_spares_the_front_slot():
    """Sheet, Model: the summed embeddings are dropped out, then normalised; [CLS] is put in front
    after dropout.
    """
    own = network_of("model.dropout=0.5").encoder
    seen, after = [], []
    own.embeddings.LayerNorm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    own.embeddings.LayerNorm.register_forward_hook(lambda m, args, out: after.append(out))
    own.embeddings.register_forward_hook(lambda m, args, out: after.append(out))
    own(**texts().pad(texts().texts(["a cheap hotel", "the bank"])))
    assert torch.equal(*after)  # nothing between the norm and the first layer
    assert 0.3 < (seen[0][:, 1:] == 0).float().mean() < 0.7
    torch.testing.assert_close(
        seen[0][:, 0], own.embeddings.word_embeddings.weight[own.cls_id].expand(2, -1)
    )


def test_bundled_sets_do_not_share_services_or_intents():
    """The scored services and intents are none that was trained on; dev and test share no
    dialogue."""
    seen, new = (sets.clinc("test", seen) for seen in (True, False))
    names = [{d.turns[0].intent for d in c.dialogs} for c in (seen, new)]
    assert [len(n) for n in names] == [100, 50]
    assert not names[0] & names[1]
    dev, test = sets.sgd("dev"), sets.sgd("test")
    assert not {d.name for d in dev.dialogs} & {d.name for d in test.dialogs}
    assert len(dev.dialogs) + len(test.dialogs) == 600
    held = sample(dev, 30)
    assert held.places == sample(dev, 30).places
    assert not any(is_empty(f) for f in held.frames)
    assert all(held.dialogs[d].turns[t].user for d, t in held.places)
    with pytest.raises(UserError, match="no turn"):
        sets.Corpus("x", (Dialog("a", (Turn(False, "hi"),)),))


def test_packed_utterances_are_those_of_the_tokenizer(monkeypatch):
    """In parts of three turns as at once."""
    monkeypatch.setattr(data, "TOKENISED", 3)
    corpus = sets.synthetic("train", 0)
    turns = [turn for dialog in corpus.dialogs[:4] for turn in dialog.turns]
    own = texts()
    packed, expected = data.PackedUtterances(own, turns)[2 : len(turns)], own.utterances(turns)[2:]
    assert len(packed) == len(expected) > 5
    for actual, wanted in zip(packed, expected, strict=True):
        assert actual.ids.dtype == wanted.ids.dtype
        np.testing.assert_array_equal(actual.ids, wanted.ids)
        np.testing.assert_array_equal(actual.values, wanted.values)
