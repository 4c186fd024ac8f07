"""From items to rows: collection with both splits, candidates, files of all kinds."""

from types import SimpleNamespace

import pytest

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.engine.trained import run_task
from projects.wikides import collect as c
from projects.wikides.beam_sweep import beam_sweep, distinct
from projects.wikides.candidates import build_sweep
from projects.wikides.candidates import pool as candidate_pool
from projects.wikides.config import CandidatesConfig, CollectConfig, GeneratorModel
from projects.wikides.data import load_rows, part_path, read_rows, synthetic_rows
from projects.wikides.describe import build_generator
from projects.wikides.inference import describe
from tests.projects.wikides.conftest import PARAGRAPH, config, ranker

LONG = "is one of the many small towns in the north of the country."


def item(number, *topics, **changes):
    """A record of an item that passes all filters."""
    name = f"Place{number}"
    return {
        "wikidata_id": f"Q{number}",
        "label": name,
        "description": f"town {number}",
        "instances": [[f"Q9{i}", topic] for i, topic in enumerate(topics)],
        "subclasses": [],
        "aliases": [],
        "first_paragraph": f"{name}  {LONG} It has a castle",
        "first_sentence": f"{name} {LONG}",
        **changes,
    }


class Widths:
    """In place of a generator: two neighbouring widths write the same."""

    def __init__(self):
        self.asked = []

    def beam_search(self, texts, num_beams, max_new_tokens, *, batch_size):
        self.asked.append((num_beams, batch_size))
        return [f" {text} {num_beams // 2}" for text in texts]


@pytest.fixture(scope="module")
def items():
    """Sixty items of nine topics, some of two."""
    topics = ["town", *["river"] * 2, *["lake"] * 3]
    actual = [item(i, "town", *(["castle"] if i % 9 == 0 else [])) for i in range(30)]
    actual += [item(30 + i, topics[i % 6]) for i in range(12)]
    actual += [item(42 + i, f"rare {i % 5}", *(["lake"] if i == 3 else [])) for i in range(18)]
    return actual


@pytest.mark.slow
def test_checklist_13_items_become_the_released_format_with_all_filters(tmp_path, items):
    """Checklist 13: the task on a file of items; each filter drops its one item."""
    dropped = [
        item(90, "town", label="Wikimedia list"),
        item(91, "town", description="a WIKIpedia page"),
        item(92, "town", first_sentence=""),
        item(93, "town", first_sentence="It is a small town of nine words only."),
    ]
    bare = item(94)  # without an instance: in the random split alone
    path = tmp_path / "items.jsonl"
    without = {name: value for name, value in items[0].items() if name != "first_sentence"}
    write_jsonl(path, [without, *items[1:], *dropped, bare])  # Punkt finds what is not given
    words = [
        f"runs_dir={tmp_path}",
        f"collect.input={path}",
        f"collect.output={tmp_path / 'wikides'}",
    ]
    run_task("wikides", "smoke", words, "collect")
    for split in ("diff", "random"):
        rows = {
            part: read_jsonl(tmp_path / f"wikides/phase1/{split}/{part}_para_256.json")
            for part in ("training", "validation", "test")
        }
        everything = [row for part in rows.values() for row in part]
        actual = {r["wikidata_id"] for r in everything}
        assert len(actual) == len(everything)
        assert actual - {"Q94"} == {r["wikidata_id"] for r in items}
        assert ("Q94" in actual) == (split == "random")
        assert set(everything[0]) == {
            "wikidata_id",
            "label",
            "source",
            "target",
            "baseline_candidates",
        }
        assert everything[0]["source"].endswith("It has a castle.")  # period enforced, one space
        assert "  " not in everything[0]["source"]
    assert [len(part) for part in rows.values()] == [48, 5, 8]  # random: tenths of 61
    assert [row["wikidata_id"] for row in rows["validation"]] == [f"Q{i}" for i in range(48, 53)]
    # the files are what phase I trains from
    cfg = config("data.source=released", f"data.root={tmp_path}", name="smoke_describe")
    assert len(load_rows(cfg, "train")) > 20


def test_checklist_3_no_topic_of_training_is_in_validation_or_test(items):
    """Checklist 3: the deciding topics occur in no other part, and every training item has one."""
    options = CollectConfig()
    items = [*items, item(95, "river", label="River")]  # its own name is a topic all the same
    topics = c.training_topics(items, 0.8)
    split = c.topic_split(items, options)
    own = {i["wikidata_id"]: {name for _, name in i["instances"]} for i in items}
    for part in (split.validation, split.test):
        assert part
        assert not any(topics & own[row["wikidata_id"]] for row in part)
    assert all(topics & own[row["wikidata_id"]] for row in split.training)
    (river,) = (row for row in split.training if row["wikidata_id"] == "Q95")
    assert river["baseline_candidates"] == []
    assert len(split.training) + len(split.validation) + len(split.test) == len(items)
    # the most frequent ones, until their occurrences are 0.8 of the items: 32 + 7 + 5 + 4 >= 48
    assert topics == {"town", "lake", "river", "castle"}
    assert c.training_topics(items, 0.5) == {"town"}
    mixed = next(r for r in [*split.training] if r["wikidata_id"] == "Q45")
    assert mixed["baseline_candidates"] == ["rare 3", "lake"]  # one training topic is enough


def test_the_random_split_has_the_stated_sizes():
    """Sheet, data: 68,296 / 8,540 / 8,542 of 85,378 records."""
    split = c.random_split([item(1, "town")] * 85_378, CollectConfig())
    assert [len(part) for part in split] == [68_296, 8_540, 8_542]


def test_sources_are_cut_and_instances_added_as_the_release_does():
    """Sheet, data: 256 words, trailing period; other kinds append what the item is."""
    one = item(1, "town", "castle", "Place1", first_paragraph=PARAGRAPH, first_sentence="Short one")
    text = c.source_text(one, CollectConfig(max_words=5))
    assert text == "The old town lies in."
    text = c.source_text(one, CollectConfig(kind="sen_wd", max_words=20))
    assert text == "Short one. Place1 is a town and castle."  # its own name is not an instance
    three = item(1, "town", "castle", "fort", first_sentence="Short one")
    text = c.source_text(three, CollectConfig(kind="sen_wd", max_words=20))
    assert text == "Short one. Place1 is a town, castle, and fort."
    assert c.source_text(three, CollectConfig(kind="sen_wd", max_words=4)) == "Short one."
    assert c.first_sentence("St. Mary is a town in the U.S. state. It is old.").endswith("state.")
    assert c.record(one, CollectConfig())["baseline_candidates"] == ["town", "castle"]
    with_class = item(1, "town", subclasses=[["Q5", "place"], ["Q6", "town"]])
    assert c.record(with_class, CollectConfig(), subclasses=True)["baseline_candidates"] == [
        "town",
        "place",
    ]


def test_bad_items_are_refused_with_their_line(tmp_path):
    """Bad input: what is wrong and where."""
    path = tmp_path / "items.jsonl"
    damaged = [("instances", own) for own in (["town"], None, [["Q5", None]], "Q5")]
    damaged += [("subclasses", None), ("description", None), ("label", None)]
    damaged += [("first_paragraph", None), ("first_sentence", 7)]
    for name, value in damaged:
        write_jsonl(path, [item(1, "town"), {**item(2, "town"), name: value}])
        with pytest.raises(UserError, match=f"line 2: .*{name}.* (is a text|are lists of)"):
            c.read_items(path)
    write_jsonl(path, [item(1, "town", label="wiki")])
    with pytest.raises(UserError, match="no item passes"):
        c.random_split(c.read_items(path), CollectConfig())
    few = [item(i, "town") for i in range(15)]
    with pytest.raises(UserError, match=r"^8 / 0 / 7 items in training / validation / test"):
        c.random_split(few, CollectConfig())
    with pytest.raises(UserError, match=r"^15 / 0 / 0 .*train_share"):
        c.topic_split(few, CollectConfig())
    with pytest.raises(UserError, match=r"collect\.input"):
        run_task("wikides", "smoke", [f"runs_dir={tmp_path}"], "collect")


def test_checklist_2_the_pool_is_the_union_of_all_beam_widths_and_the_instance_names(
    tmp_path, generator_folder
):
    """Checklist 2: every width's output is there, in order and once; then the names."""
    model = SequenceToSequence.from_pretrained(str(generator_folder), "cpu")
    texts = [PARAGRAPH, "A small cat is a pet of the house."]
    widths = [1, 2, 3, 5, 8]
    runs = [model.beam_search(texts, width, 6, batch_size=1) for width in widths]
    actual = beam_sweep(model, texts, widths, 6)
    for i, own in enumerate(actual):
        assert own == [run[i] for run in runs]
    stub = Widths()
    outputs = beam_sweep(stub, ["a", "b"], range(1, 26), 6, batch_size=8)[1]
    assert distinct(outputs) == [f"b {i}" for i in range(13)]
    assert stub.asked == [(width, max(1, 8 // width)) for width in range(1, 26)]
    greedy = model.model.generate(
        **model.inputs(texts[:1]), do_sample=False, num_beams=1, max_new_tokens=6
    )
    assert runs[0][0] == model.tokenizer.decode(greedy[0], skip_special_tokens=True).strip()
    with pytest.raises(ValueError, match="at least 1"):
        beam_sweep(model, texts, [0], 6)
    # the task: stage machine, names of instances, the released format; a second call computes
    # nothing
    path, out = tmp_path / "phase1.jsonl", tmp_path / "phase2.jsonl"
    rows = [
        {"source": t, "target": "x", "baseline_candidates": ["town", "pet", "town"]} for t in texts
    ]
    write_jsonl(path, rows)
    words = [
        f"runs_dir={tmp_path}",
        f"candidates.input={path}",
        f"candidates.output={out}",
        f"candidates.generator={generator_folder}",
        "candidates.widths=[1,2,3,5,8]",
        "candidates.max_new_tokens=6",
        "candidates.device=cpu",
    ]
    run_task("wikides", "smoke", words, "candidates")
    made = read_jsonl(out)
    assert [row["candidate"] for row in made] == [[*distinct(own), "town", "pet"] for own in actual]
    assert [row["phase1"] for row in made] == runs[0]  # of the first width
    row, _ = read_rows(out, ranking=True)
    assert (row.phase1, row.baseline) == (runs[0][0], "town")
    for damage in ({"baseline_candidates": "town"}, {"source": 3}):  # no letters as candidates
        write_jsonl(path, [rows[0], {**rows[1], **damage}])
        with pytest.raises(UserError, match="line 2: .*(a list of texts|are texts)"):
            run_task("wikides", "smoke", words, "candidates")
    assert config().candidates.widths == list(range(1, 26))
    assert len(read_rows(out, ranking=True)) == 2
    with pytest.raises(UserError, match="candidates.generator"):
        run_task("wikides", "smoke", words[:2], "candidates")


def test_phase_1_s_text_is_the_first_width_s_even_where_that_writes_nothing(monkeypatch):
    """Sheet, data: what one greedy search writes; the next width's text is a candidate alone."""
    stub = Widths()
    stub.context, stub.model = 99, SimpleNamespace(config=SimpleNamespace())
    search = stub.beam_search
    stub.beam_search = lambda texts, width, *a, **k: (
        search(texts, width, *a, **k) if width > 1 else [" "] * len(texts)
    )
    monkeypatch.setattr(SequenceToSequence, "from_pretrained", lambda *_: stub)
    sweep = build_sweep(CandidatesConfig(generator="x", widths=[1, 2, 4]))
    assert sweep([{"source": "a", "names": ["town"]}], []) == [
        {"candidate": ["a 1", "a 2", "town"], "phase1": ""}
    ]


def test_a_generator_with_few_positions_writes_to_their_end(tmp_path):
    """Sheet, data: 256 new tokens asked of BART, whose positions are learned and may be fewer."""
    size = {
        f"{side}_{name}": 1
        for side in ("encoder", "decoder")
        for name in ("layers", "attention_heads")
    }
    size |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "vocab_size": 400}
    size |= {"model_type": "bart", "max_position_embeddings": 12}
    model, tokenizer = build_generator(GeneratorModel(pretrained="random", config=size))
    model.generation_config.suppress_tokens = list(range(5))  # no end
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    own = CandidatesConfig(generator=str(tmp_path), widths=[1, 2], max_new_tokens=40, device="cpu")
    (actual,) = build_sweep(own)([{"source": PARAGRAPH, "names": []}], [])
    generator = SequenceToSequence.from_pretrained(str(tmp_path), "cpu")
    assert actual["phase1"] == generator.beam_search([PARAGRAPH], 1, 12)[0] != ""
    encoder = ranker().encoder.eval()
    assert (
        describe(generator, encoder, PARAGRAPH, widths=[1], max_new_tokens=40)[0][0]
        == actual["phase1"]
    )
    with pytest.raises(IndexError):  # the twin
        generator.beam_search([PARAGRAPH], 1, 40)


def test_checklist_12_candidates_have_the_order_of_their_making():
    """Checklist 12: no order of strings in a set; eight texts keep theirs."""
    texts = [f"text {i}" for i in (5, 3, 8, 1)]
    names = [f"name {i}" for i in (7, 2, 9, 4)]
    assert candidate_pool([*texts, texts[0]], [*names, texts[1]]) == [*texts, *names]
    first, second = (load_rows(config("data.limit=9"), "train") for _ in range(2))
    assert first == second
    assert len(first) == 9
    assert first != load_rows(config("data.limit=9", "seed=1"), "train")


def test_files_are_read_checked_and_filtered(tmp_path):
    """Data: variable numbers of candidates; copies go; rows without text are dropped and told."""
    rows = [
        {"source": "a town", "target": "town", "candidate": ["town", "town ", "old town"]},
        {"source": "a lake", "target": "lake", "candidate": ["lake"]},
        {"source": "a fort", "target": "fort", "candidate": ["", " "]},
        {"source": "a pond", "target": "small lake", "candidate": ["pond", "lake", "pond"]},
    ]
    for part in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"{part}.jsonl", rows)
    words = ["data.source=files", f"data.root={tmp_path}"]
    words += [f"data.{part}={part}.jsonl" for part in ("train", "dev", "test")]
    sizes = [
        len(load_rows(config(*words, *more), "train"))
        for more in (
            [],
            ["data.min_candidates=2"],
            ["data.min_candidates=2", "data.drop_gold=true"],
        )
    ]
    assert sizes == [3, 2, 1]
    assert load_rows(config(*words), "test")[0].candidates == ("town", "old town")
    assert len(load_rows(config(*words, "data.eval_limit=2", "data.drop_gold=true"), "test")) == 2
    # as released: the first ones in the test as well
    assert load_rows(config(*words, "data.eval_candidates=1"), "test")[0].candidates == ("town",)
    assert len(load_rows(config(*words, "data.eval_candidates=1"), "train")[0].candidates) == 2
    with pytest.raises(UserError, match="min_candidates=7"):
        load_rows(config(*words, "data.min_candidates=7"), "test")
    write_jsonl(tmp_path / "train.jsonl", [{"source": "a", "target": "b", "candidate": "c"}])
    with pytest.raises(UserError, match="line 1: source and target"):
        load_rows(config(*words), "train")
    for more, expected in (
        ({}, (None, None)),
        ({"phase1": "t", "baseline_candidates": []}, ("t", "")),
    ):
        write_jsonl(tmp_path / "train.jsonl", [{**rows[0], **more}])
        (row,) = load_rows(config(*words), "train")
        assert (row.phase1, row.baseline) == expected
    for name in ("phase1", "baseline_candidates"):
        write_jsonl(tmp_path / "train.jsonl", [{**rows[0], name: 5}])
        with pytest.raises(UserError, match=f"line 1: {name} is a"):
            load_rows(config(*words), "train")
    with pytest.raises(UserError, match="declare-lab"):
        load_rows(config("data.source=released", f"data.root={tmp_path}"), "train")
    with pytest.raises(UserError, match=r"data\.train, data\.dev and data\.test"):
        config("data.source=files")


def test_a_part_without_rows_is_told_by_what_the_config_asks_for(tmp_path):
    """Bad input: candidates are named in phase II alone, and the setting that has dropped all
    rows."""
    words = ["data.source=files", f"data.root={tmp_path}"]
    words += [f"data.{part}=rows.jsonl" for part in ("train", "dev", "test")]
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"source": "a town", "target": "town", "candidate": ["town"]}])
    cfg = config(*words, "data.drop_gold=true")
    with pytest.raises(UserError, match=r"train part .* \(data\.drop_gold=true\)"):
        load_rows(cfg, "train")
    assert len(load_rows(cfg, "dev")) == 1
    write_jsonl(path, [{"source": " ", "target": "town"}])
    with pytest.raises(UserError, match="no row with a source and a target") as error:
        load_rows(config(*words, name="smoke_describe"), "train")
    assert "candidates" not in str(error.value)


def test_settings_without_an_effect_are_refused():
    """Finding: an order under the loss that draws it; choices of phase II in phase I."""
    with pytest.raises(UserError, match=r"data\.order=gold_rouge"):
        config("method.loss=official", "data.order=beam")
    for word in ("eval.monitor=gold", "eval.whiten=true"):
        with pytest.raises(UserError, match="for phase=rank alone"):
            config(word, name="smoke_describe")


def test_the_bundled_rows_are_those_of_the_mini():
    """Row of the mini: 3,000 / 985 / 989 paragraphs, no training description among its
    candidates."""
    cfg = config(name="mini")
    parts = {part: load_rows(cfg, part) for part in ("train", "dev", "test")}
    assert [len(rows) for rows in parts.values()] == [3000, 985, 989]
    assert all(len(row.candidates) > 1 for rows in parts.values() for row in rows)
    assert not any(row.target in row.candidates for row in parts["train"])
    held = load_rows(config("data.eval_limit=null", name="mini_describe"), "dev")
    train = load_rows(config(name="mini_describe"), "train")
    assert (len(train), len(held)) == (2700, 300)
    assert not {r.source for r in train} & {r.source for r in held}


def test_every_part_has_its_own_file_and_its_own_made_up_rows(tmp_path):
    """The release's names of both phases and splits; no made-up paragraph is in two parts."""
    names = {"train": "training", "dev": "validation", "test": "test"}
    for split in ("diff", "random"):
        words = ["data.source=released", f"data.root={tmp_path}", f"data.split={split}"]
        for part, name in names.items():
            rank, describe = config(*words), config(*words, name="smoke_describe")
            second = f"{tmp_path}/wikides/phase2/generated_{name}_para_256_{split}.json"
            assert str(part_path(rank, part)) == second
            first = f"{tmp_path}/wikides/phase1/{split}/{name}_para_256.json"
            assert str(part_path(describe, part)) == first
    sources = [{row.source for row in synthetic_rows(part, 0)} for part in names]
    assert len(set.union(*sources)) == sum(map(len, sources))


def test_a_limit_draws_from_all_training_rows_and_leaves_the_others():
    """Rows in the file's order, not the first ones; evaluation has a limit of its own."""
    whole = load_rows(config(), "train")
    few = load_rows(config("data.limit=9"), "train")
    places = [whole.index(row) for row in few]
    assert places == sorted(places)
    assert max(places) > 20
    for part in ("dev", "test"):
        assert load_rows(config("data.limit=2"), part) == load_rows(config(), part)


def test_only_training_drops_rows_that_have_their_description(tmp_path):
    """`data.drop_gold` removes no row of an evaluation; a baseline is the first instance name."""
    rows = [
        {"source": "a town", "target": "town", "candidate": ["town", "old"]},
        {"source": "a lake", "target": "lake", "candidate": ["pond"]},
    ]
    rows[0]["baseline_candidates"] = ["first", "second"]
    for part in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"{part}.jsonl", rows)
    words = ["data.source=files", f"data.root={tmp_path}", "data.drop_gold=true"]
    words += [f"data.{part}={part}.jsonl" for part in ("train", "dev", "test")]
    counts = {part: len(load_rows(config(*words), part)) for part in ("train", "dev", "test")}
    assert counts == {"train": 1, "dev": 2, "test": 2}
    assert load_rows(config(*words), "test")[0].baseline == "first"
