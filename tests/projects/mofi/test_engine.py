"""The data engine: mentions, links, scores, filters, files (checklist items 8, 9, 13)."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from common.config import UserError
from common.data.image.sources import EvalTransform
from common.data.samplers import sample_rng
from common.engine.workspace import Workspace
from projects.mofi.build_set import (
    build_set,
    checked_description,
    first_uses,
    read_input,
    score_rows,
)
from projects.mofi.config import Config
from projects.mofi.extract import (
    checked_mentions,
    dictionary_extractor,
    lm_extractor,
    named_extractor,
    ner_extractor,
)
from projects.mofi.knowledge import Knowledge, description_vectors, read_knowledge
from projects.mofi.linking import lm_linker, picked, probabilities, table_linker
from projects.mofi.select import (
    entity_table,
    frequency_filter,
    hand_check,
    selected,
    split_by_score,
    statistics,
)
from projects.mofi.tasks import build as build_task
from projects.mofi.write_set import check_folder, finish
from tests.projects.mofi.conftest import config, write_knowledge
from tests.taggers import save_tagger

RNGS = [sample_rng(0, 0, i) for i in range(4)]


@pytest.fixture
def known(tmp_path) -> Knowledge:
    return read_knowledge(write_knowledge(tmp_path))


class Scripted:
    """A generator that gives fixed answers and keeps the prompts."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.prompts = answers, []

    def __call__(self, prompts, rngs, max_new_tokens):
        self.prompts += [prompt.text for prompt in prompts]
        return list(self.answers)


def test_item_9_mentions_are_substrings_of_the_alt_text(known):
    """Checklist 9: by dictionary and by language model; what the caption does not say is
    dropped."""
    text = "A SKYLARK and two eagles over a Golden Eagle's tree"
    (actual,) = dictionary_extractor(known, 8)([text], RNGS)
    assert actual == ["SKYLARK", "eagles", "Golden Eagle", "tree"]
    assert named_extractor(known, 8)([text], RNGS) == [actual]  # what TASK=build uses
    generate = Scripted("- skylark\n- a zebra\nthe\nTREE\nskylark\neagles", "NONE")
    actual, nothing = lm_extractor(generate, 2, 64)([text, "a day"], RNGS[:2])
    assert actual == ["SKYLARK", "tree"]  # no zebra, no stop word, each once, two at most
    assert nothing == []
    assert all(mention in text for mention in actual)
    assert "A SKYLARK and" in generate.prompts[0]


def test_item_9_limit_and_empty_mentions():
    """Checklist 9: eight a caption at most; white space and stop words are no mentions."""
    text = " ".join(f"word{i}" for i in range(12))
    assert len(checked_mentions(text.split(), text)) == 8
    assert checked_mentions(["", "  ", "of the"], "of the word") == []


def test_ner_model_gives_spans(tmp_path, known):
    """Any token-classification model of transformers; stop words and repetitions go."""
    model = save_tagger(tmp_path, ["an", "in"], ["eagle", "tree", "a"])
    actual = ner_extractor(model, 8, 2, "cpu")(["an eagle in a tree in a tree"], RNGS)
    assert actual == [["eagle", "tree"]]


def test_links_weigh_prior_and_context(known):
    """Prior alone takes the bird; the context's vectors can overrule it; probabilities add up."""
    names = [e.id for e in known.entities]
    (alone,) = table_linker(known, None)(["x"], [["lark"]], RNGS)
    assert names[alone[0].entity] == "Q1"
    assert alone[0].prob == pytest.approx(3 / 4)
    for mentions in (["skylark", "lark"], ["lark", "skylark"]):
        (twice,) = table_linker(known, None)(["x"], [mentions], RNGS)
        assert [(names[link.entity], link.prob) for link in twice] == [
            ("Q1", 1)
        ]  # its best mention
    vectors = torch.eye(5)
    vectors[1] = vectors[4]  # the other lark is seen with boats
    linked = table_linker(known, vectors)
    (by_boat,) = linked(["x"], [["lark", "boat"]], RNGS)
    odds = [torch.tensor([1.0, 1.0]), torch.tensor([1.0])]
    p = probabilities([[0, 1], [4]], odds, vectors)
    assert p[0].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert by_boat[0].prob == pytest.approx(3 / 5)  # 3 * 1/2 against 1 * 1
    assert all(float(x.sum()) == pytest.approx(1) for x in p)
    assert description_vectors(known).norm(dim=1).tolist() == pytest.approx([1] * 5)


def test_links_by_a_language_model_fall_back_to_the_prior(known):
    """A number picks; 0 is none; anything else falls back to the prior."""
    ids = [e.id for e in known.entities]

    def linked(answer):
        generate = Scripted(answer)
        (actual,) = lm_linker(known, generate, 8)(["a lark"], [["lark"]], RNGS)
        assert "1: lark: a small song bird" in generate.prompts[0]
        assert "0: none of these" in generate.prompts[0]
        return [ids[link.entity] for link in actual]

    assert linked("2") == ["Q2"]
    assert linked("0") == []
    assert linked("the second one") == linked("9") == ["Q1"]
    assert picked("2: lark", 2) is None


def rows_of(*entities, image="{}.png"):
    return [
        {
            "image": image.format(i),
            "alt_text": f"text {i}",
            "entities": [
                {"id": e, "name": e.lower(), "description": "", "link_prob": 1.0, "clip_score": s}
                for e, s in own
            ],
        }
        for i, own in enumerate(entities)
    ]


def test_item_8_threshold_and_slack_are_configurable():
    """Checklist 8: the absolute bound, and the one below the image's best entity."""
    scores = [0.30, 0.26, 0.24, 0.19]
    assert selected(scores, 0.2, 0.05) == [True, True, False, False]
    assert selected(scores, 0.2, 0.2) == [True, True, True, False]
    assert selected(scores, 0.28, 0.2) == [True, False, False, False]
    assert selected([], 0.2, 0.05) == []
    rows = rows_of([("A", 0.3), ("B", 0.1)])
    kept, dropped = split_by_score(rows, config("select.threshold=0.2").select)
    assert [e["id"] for e in kept[0]["entities"]] == ["A"]
    assert [e["id"] for e in dropped[0]["entities"]] == ["B"]
    kept, dropped = split_by_score(rows, config("select.enabled=false").select)
    assert len(kept[0]["entities"]) == 2
    assert dropped[0]["entities"] == []


def test_item_13_frequency_filter_and_numbers_are_deterministic():
    """Checklist 13: rare entities go, images without any too; numbers follow the ids, not the
    order.
    """
    rows = rows_of([("B", 1), ("Z", 1)], [("A", 1)], [("B", 1)], [("A", 1), ("B", 1)], [("Z", 1)])
    actual, numbers = frequency_filter(rows, 2)
    assert numbers == {"A": 0, "B": 1, "Z": 2}
    actual, numbers = frequency_filter(rows, 3)
    assert numbers == {"B": 0}
    assert [row["image"] for row in actual] == ["0.png", "2.png", "3.png"]
    again, same = frequency_filter(list(reversed(rows)), 3)
    assert same == numbers
    assert list(reversed(again)) == actual
    assert entity_table(actual, numbers) == [("B", "b", "", 3)]


def test_item_13_cap_keeps_the_root_of_a_frequent_entity():
    """Checklist 13: of n > cap images about sqrt(cap / n) stay, the same ones each time."""
    rows = rows_of(*[[("A", 1)]] * 1600, *[[("B", 1)]] * 50)
    actual, _ = frequency_filter(rows, 5, cap=100)
    kept = Counter(e["id"] for row in actual for e in row["entities"])
    assert kept["B"] == 50
    assert abs(kept["A"] - 400) < 60  # 1600 * sqrt(100 / 1600)
    assert frequency_filter(rows, 5, cap=100)[0] == actual
    both, _ = frequency_filter(rows_of(*[[("A", 1), ("B", 1)]] * 400), 5, cap=100)
    assert {len(row["entities"]) for row in both} == {1, 2}  # each is thinned by itself


def test_item_8_statistics_of_the_set():
    """Checklist 8: entities per image, tail histogram, scores of kept and dropped, what is
    dropped."""
    linked = rows_of([("A", 0.31), ("B", 0.12)], [("A", 0.22)], [("C", 0.1)])
    kept, dropped = split_by_score(linked, config("select.threshold=0.2").select)
    left, _ = frequency_filter(kept, 1)
    actual = statistics(left, linked, dropped)
    assert (actual["num_images"], actual["num_images_before"]) == (2, 3)
    assert (actual["num_entities"], actual["num_entities_before"]) == (1, 3)
    assert actual["entities_per_image"] == {"1": 2}
    assert actual["images_per_entity_log2"] == {"1": 1}
    assert actual["clip_score_kept"] == {"0.20": 1, "0.30": 1}
    assert actual["clip_score_dropped"] == {"0.10": 2}
    assert actual["dropped_most"] == [
        {"name": "b", "dropped": 1, "of": 1},
        {"name": "c", "dropped": 1, "of": 1},
    ]
    assert len(hand_check(left, 1)) == 1
    assert "a (0." in hand_check(left, 1)[0]


def build_words(captions: Path, exported: Path, *more: str) -> Config:
    folder = captions.parent
    return config(
        f"build.input={captions}",
        f"build.output={folder}/i2e.jsonl",
        f"build.clip={exported}",
        f"build.knowledge={folder}/knowledge.tsv",
        "build.device=cpu",
        "build.chunk_size=5",
        "build.batch_size=4",
        "select.threshold=-1",
        "select.slack=2",
        "select.min_images=2",
        "data.max_corrupt=0.1",
        *more,
    )


def run(cfg: Config):
    return build_set(cfg.build, cfg.select, cfg.generator, cfg.task, None, cfg.data.max_corrupt)


def test_items_8_9_13_the_whole_engine_on_files(captions, exported, tmp_path, capsys):
    """Checklist 8, 9, 13: rows with link probability and CLIP score; the files beside them; a
    restart.
    """
    cfg = build_words(captions, exported)
    build_task(cfg, Workspace(tmp_path / "task"))
    told = capsys.readouterr().out
    assert "8 of 12 images, 4 of 4 entities" in told
    assert "1 images could not be read, such as" in told
    assert "10.png" in told
    actual = json.loads((captions.parent / "report.json").read_text())
    rows = [json.loads(line) for line in Path(cfg.build.output).read_text().splitlines()]
    assert actual["num_images"] == len(rows) == 8  # three say nothing, one is not an image
    assert actual["num_unreadable"] == 1
    for row in rows:
        for entity in row["entities"]:
            assert entity.keys() == {"id", "name", "description", "link_prob", "clip_score"}
            assert 0 < entity["link_prob"] <= 1
            assert -1 <= entity["clip_score"] <= 1
    assert "10.png" not in {row["image"] for row in rows}
    table = (captions.parent / "entities.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["id", "name", "description", "count"]
    assert [line.split("\t")[0] for line in table[1:]] == ["Q1", "Q3", "Q4", "Q5"]
    assert (captions.parent / "hand_check.tsv").exists()
    first = Path(cfg.build.output).read_bytes()
    (captions.parent / "i2e.jsonl.parts/score/part-000001.jsonl").unlink()
    run(cfg)
    assert Path(cfg.build.output).read_bytes() == first


def test_a_finished_set_is_reported_with_what_it_lost(tmp_path):
    """The rows to check by hand are of the set; before the filters, images had the entities that
    unreadable ones lose."""
    linked = rows_of([("A", 0.5)], [("A", 0.5)], [("B", 0.5)], [("C", 0.5), ("A", 0.5)])
    rows = [*linked[:3], {**linked[3], "entities": [], "unreadable": "3.png: broken"}]
    select = config("select.min_images=2").select
    actual = finish(rows, linked, tmp_path / "set.jsonl", select)
    assert (actual["num_images"], actual["num_images_before"]) == (2, 4)
    assert (actual["num_entities"], actual["num_entities_before"]) == (1, 3)
    lines = (tmp_path / "hand_check.tsv").read_text().splitlines()
    assert {line.split("\t")[0] for line in lines} == {"0.png", "1.png"}
    uses = [(use["id"], use["caption"]) for use in first_uses(linked)]
    assert uses == [("A", "text 0"), ("B", "text 2"), ("C", "text 3")]


def test_pictures_are_scored_as_their_tower_takes_them(monkeypatch):
    """Side and statistics are the tower's own, not CLIP's."""
    towers = SimpleNamespace(image_size=24, image_mean=(0.5, 0.4, 0.3), image_std=(0.1, 0.2, 0.3))
    towers.eval, towers.to = lambda: towers, lambda place: None
    monkeypatch.setattr("projects.mofi.build_set.open_clip_dual_encoder", lambda *_: towers)
    seen = []
    monkeypatch.setattr(
        "projects.mofi.build_set.scored", lambda e, transform, *_: seen.append(transform) or []
    )
    score_rows("clip", Path(), 4, "cpu")(rows_of([("A", 0)]), ())
    assert seen == [EvalTransform(24, towers.image_mean, towers.image_std)]


def test_other_vectors_or_pictures_are_another_set(captions, tmp_path, monkeypatch):
    """Finished chunks were taken for those of a new file of vectors, or of another folder of
    images.
    """
    path, actual = tmp_path / "v.safetensors", {}

    def mapped(step, rows, *_):
        actual[step.name] = step.settings
        return SimpleNamespace(complete=step.name != "score", rows=lambda: rows)

    monkeypatch.setattr("projects.mofi.build_set.map_rows", mapped)
    told = []
    for scale, images in ((1, "a"), (2, "a"), (2, "b")):
        save_file({"vectors": scale * torch.eye(5)}, path)
        run(build_words(captions, "clip", f"build.vectors={path}", f"build.images={images}"))
        told.append((actual["link"], actual["score"]))
    assert [a != b for a, b in zip(told[0], told[1], strict=True)] == [True, False]
    assert [a != b for a, b in zip(told[1], told[2], strict=True)] == [False, True]
    with pytest.raises(UserError, match="absent.* cannot be read"):
        run(build_words(captions, "clip", "build.vectors=absent"))


def test_the_engine_with_a_language_model(captions, exported):
    """Extraction, links and descriptions by a local causal model; nonsense changes nothing for the
    worse.
    """
    cfg = build_words(
        captions,
        exported,
        "build.extractor=dictionary",
        "build.linker=lm",
        "build.describe=lm",
        "build.lm=bundled:stories260k",
        "build.max_new_tokens=4",
    )
    rows = run(cfg)
    assert rows["num_images"] == 8
    assert checked_description("x " * 13, "") == ""
    assert checked_description("seen in: A LARK", "a lark") == ""
    assert checked_description("A small bird.", "a lark") == "A small bird"


def test_shares_of_the_work_are_joined(captions, exported):
    """Two shares of each stage, then join."""
    for _ in range(4):
        for share in ("0/2", "1/2"):
            actual = run(build_words(captions, exported, f"task.shard={share}"))
        if actual is not None:
            break
    assert actual is not None
    assert actual["num_images"] == 8


def test_names_keep_digits_accents_and_scripts(tmp_path):
    """Guards against names that are linked by their letters a to z alone: wrong entities, without a
    word.
    """
    names = [
        "Boeing 747",
        "Boeing 737",
        "Boeing",
        "\u00c5land",
        "3M",
        "\u0412\u043b\u0430\u0434\u0438\u043c\u0438\u0440",
        "land",
    ]
    path = tmp_path / "k.tsv"
    rows = [f"Q{i}\t{name}\t\t{1 + (name == 'Boeing')}\t" for i, name in enumerate(names)]
    path.write_text("id\tname\tdescription\tprior\taliases\n" + "\n".join(rows), "utf-8")
    known = read_knowledge(path)
    assert [known.candidates(name) for name in names] == [[i] for i in range(7)]
    text = f"Two Boeing 747s over the land; a Boeing 737 to A\u030aland, {names[5]} at 3M"
    (actual,) = named_extractor(known, 8)([text], RNGS)
    assert actual == ["Boeing 747s", "land", "Boeing 737", "A\u030aland", names[5], "3M"]
    (links,) = table_linker(known, None)([text], [actual], RNGS)
    assert [link.entity for link in links] == [0, 6, 1, 3, 5, 4]
    path.write_text("id\tname\tdescription\tprior\taliases\nQ9\t!!!\t\t1\t\n", "utf-8")
    with pytest.raises(UserError, match="Q9.*no letter or digit"):
        read_knowledge(path)


def test_unreadable_images_are_not_blamed_on_the_threshold(captions, exported):
    """Guards against a wrong folder of images that only looks like a bad threshold; the files are
    named.
    """
    words = [f"build.images={captions.parent}/elsewhere"]
    with pytest.raises(
        UserError, match=r"9 of 12 images cannot be read.*elsewhere/0\.png.*build\.images"
    ):
        run(build_words(captions, exported, *words))
    assert not (captions.parent / "i2e.jsonl").exists()


def test_two_sets_do_not_share_a_folder(tmp_path):
    """Guards against an entities.tsv that a second set of the folder has replaced."""
    check_folder(tmp_path / "a.jsonl")
    row = rows_of([("A", 0.3)])
    for _ in range(2):  # a set may be written again
        check_folder(tmp_path / "a.jsonl")
        finish(row, row, tmp_path / "a.jsonl", config("select.min_images=1").select)
    with pytest.raises(UserError, match="folder of its own"):
        check_folder(tmp_path / "b.jsonl")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/c.jsonl").write_text("mine")
    with pytest.raises(UserError, match="folder of its own"):
        check_folder(tmp_path / "other/c.jsonl")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["build.clip=null"], "build.clip"),
        (["build.extractor=lm"], "build.lm"),
        (["build.extractor=ner"], "build.ner_model"),
        (["select.min_images=99"], "select.min_images"),
        (["build.knowledge=absent.tsv"], "absent.tsv"),
        (["build.input=absent.jsonl"], "absent.jsonl"),
    ],
)
def test_what_is_wrong_is_said(captions, exported, words, told):
    with pytest.raises(UserError, match=told):
        run(build_words(captions, exported, *words))


def test_wrong_files_are_refused(tmp_path, captions, exported):
    bad = tmp_path / "bad.jsonl"
    for line, told in (("{", "image and alt_text"), ('{"image": 3, "alt_text": "x"}', "strings")):
        bad.write_text(line + "\n")
        with pytest.raises(UserError, match=told):
            read_input(bad)
    bad.write_text('{"image": "a.png", "alt_text": "a lark", "title": "Birds"}\n')
    assert read_input(bad)[0]["alt_text"] == "Birds. a lark"
    table = tmp_path / "knowledge.tsv"
    for text, told in (
        ("id\tname\n", "lacks the columns"),
        ("id\tname\tdescription\tprior\taliases\nQ\ta\tb\t0\t\n", "positive"),
        ("id\tname\tdescription\tprior\taliases\nQ\ta\n", "cells"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=told):
            read_knowledge(table)
    write_knowledge(tmp_path)
    save_file({"vectors": torch.eye(4)}, tmp_path / "v.safetensors")
    with pytest.raises(UserError, match="row for each of the 5"):
        run(build_words(captions, exported, f"build.vectors={tmp_path}/v.safetensors"))
