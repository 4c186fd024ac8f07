"""Captions, triplets by rules and by a language model, the drawings' queries, evaluation,
baselines.
"""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.engine.workspace import Workspace
from projects.rtd import baselines
from projects.rtd import drawings as drawings_module
from projects.rtd.data import HiddenCaptions, tagger_of, triplet_source
from projects.rtd.drawings import (
    CONDITIONS,
    Drawing,
    family_triplets,
    part_of,
    queries,
    read_drawings,
    training_captions,
    unseen,
)
from projects.rtd.evaluate import (
    by_family,
    means_of,
    ranks_of,
    recall_figures,
    reference_first,
    synthetic_task,
)
from projects.rtd.generate import build_prompt, parse, too_long
from projects.rtd.key_phrases import (
    LemmaTagger,
    SpacyTagger,
    hide_key_phrases,
    key_phrase_spans,
)
from projects.rtd.oti import Phrases, read_phrases
from projects.rtd.stages import requirements
from projects.rtd.tasks import make_phrases, make_triplets, table
from projects.rtd.triplets import (
    SWAPS,
    clean,
    key_phrases,
    read_triplets,
    rule_triplet,
    same_text,
)
from projects.rtd.variants import family_of
from tests.projects.rtd.conftest import config

TAGGER = LemmaTagger(["dog", "cat", "red", "tree", "box"])


@pytest.fixture(scope="module")
def drawings():
    return read_drawings()


def test_key_phrases_are_runs_of_nouns_adjectives_and_determiners():
    """LinCIR's captions: commas end a run, determiners alone are none."""
    text = "the red dog, a cat and this runs"
    (spans,) = key_phrase_spans([text], TAGGER)
    assert [text[a:b] for a, b in spans] == ["the red dog", "a cat"]
    assert hide_key_phrases([text, "it runs to them"], TAGGER) == ["$, $ and this runs", None]
    rows = HiddenCaptions(
        ["a red dog", "it runs"], TAGGER, lambda texts: torch.zeros(len(texts), 4), 8, 0
    )
    assert len(rows) == 1
    with pytest.raises(UserError, match="noun"):
        HiddenCaptions(["it runs"], TAGGER, lambda texts: torch.zeros(1), 8, 0)


class Word(str):
    """A token of spaCy as far as it is read."""

    def __new__(cls, text, idx, pos_):
        word = super().__new__(cls, text)
        word.idx, word.pos_ = idx, pos_
        return word


class Doc(list):
    """A text that spaCy has read."""

    def has_annotation(self, name):
        return all(word.pos_ for word in self)


def pipeline_of(parts):
    """A module in the place of spaCy whose pipelines know these words and their parts of speech."""

    def read(captions, batch_size):
        pattern = re.compile(r"\w+|[^\w\s]")
        return (
            Doc(Word(m[0], m.start(), parts.get(m[0], "VERB")) for m in pattern.finditer(caption))
            for caption in captions
        )

    return SimpleNamespace(load=lambda name, exclude: SimpleNamespace(pipe=read))


def test_key_phrases_by_spacy_are_runs_of_four_parts_of_speech(tmp_path, monkeypatch):
    """As LinCIR's release: NOUN, PROPN, ADJ and DET; verbs that a list of nouns knows stay."""
    words = {"a": "DET", "woman": "NOUN", "umbrella": "NOUN", "the": "DET", "red": "ADJ"}
    words |= {"Paris": "PROPN", "-": "PUNCT", "this": "DET"}
    monkeypatch.setattr("projects.rtd.key_phrases.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "spacy", pipeline_of(words))
    tagger = SpacyTagger(str(tmp_path))
    captions = ["a woman holding the red umbrella looks at Paris", "this runs", "red-red woman"]
    assert hide_key_phrases(captions, tagger) == ["$ holding $ looks at $", None, "$-$"]
    assert key_phrases(captions[:1], tagger) == ["Paris", "a woman", "the red umbrella"]
    monkeypatch.setitem(sys.modules, "spacy", pipeline_of({"a": ""}))
    with pytest.raises(UserError, match="no parts of speech"):
        SpacyTagger(str(tmp_path))(["a b"])


def test_the_list_of_lemmas_is_read_only_where_it_is_asked_for(tmp_path):
    (tmp_path / "c.txt").write_text("a dog\n")
    words = ["data.source=files", f"data.root={tmp_path}", "data.captions=c.txt", "data.rules=true"]
    assert isinstance(tagger_of(config(*words, "data.tagger=lemmas")), LemmaTagger)
    for name, missing in (("en_core_web_sm", "pip install spacy|no installed pipeline"),):
        with pytest.raises(UserError, match=missing):
            tagger_of(config(*words, f"data.tagger={name}"))
        needed = {need.name: need for need in requirements(config(*words, f"data.tagger={name}"))}
        assert not needed["data.tagger"].present
    assert "data.tagger" not in {n.name for n in requirements(config(*words, "data.tagger=lemmas"))}


def test_item_6_captions_cannot_contain_the_placeholder(tmp_path):
    """Checklist 6: "$" is stripped, persons are named, case and length as in the release."""
    assert clean("A <PERSON> pays $5  $ now") == "a person pays 5 now"
    assert len(clean("word " * 100).split()) == 75
    path = tmp_path / "t.json"
    row = {"reference_caption": "A $ dog", "conditioning_caption": "is Red", "target_caption": "b"}
    path.write_text(json.dumps([row]))
    assert read_triplets(path)[0] == ("a dog", "is red", "b")
    path.write_text(
        "\n".join([json.dumps(row | {"target_caption": "b\u2028c"}, ensure_ascii=False)] * 2),
        "utf-8-sig",
    )
    assert len(read_triplets(path)) == 2
    path.write_text("[]")
    with pytest.raises(UserError, match="no triplet"):
        read_triplets(path)
    path.write_text('[{"reference_caption": "x"}]')
    with pytest.raises(UserError, match="conditioning_caption"):
        read_triplets(path)
    with pytest.raises(UserError, match="TASK=triplets"):
        read_triplets(tmp_path / "none.json")


def test_item_12_rules_swap_one_key_phrase():
    """Checklist 12: T_t differs from T_r in one phrase, T_c names both by a template."""
    for seed in range(20):
        actual = rule_triplet(
            "a dog under the tree", ["a red box"], TAGGER, np.random.default_rng(seed)
        )
        assert actual.target in ("a red box under the tree", "a dog under a red box")
        old = "a dog" if actual.target.startswith("a red") else "the tree"
        assert actual.condition in [t.format(A=old, B="a red box") for t in SWAPS]
    assert rule_triplet("it runs", ["a cat"], TAGGER, np.random.default_rng(0)) is None
    assert rule_triplet("a cat", ["A cat"], TAGGER, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (" make it blue\nEdited: a blue car\n###\nCaption:", True),
        ("Instruction: make it blue\nEdited: a blue car", True),
        (" make it blue\nEdited: A red CAR.", False),  # the same up to case and final punctuation
        (" make it blue\nEdited:", False),
        ("\nEdited: a blue car", False),
        (" make it blue", False),
        (" make it blue\nEdited: something else entirely", False),  # keeps less than 30 %
        (" make it blue\nEdited: a car " + "x " * 80, False),
        (
            " make it blue\nEdited: a car " + "unbelievability's " * 25,
            False,
        ),  # 27 words, > 77 tokens
        (" make it blue\nEdited: a car " + "and so " * 30, True),
    ],
)
def test_item_12_answers_of_a_language_model_are_parsed_or_refused(answer, kept):
    """Checklist 12: two lines, no copy, at most 77 tokens (not words), enough words in common."""
    assert (parse(answer, "a red car", 0.3) is not None) == kept
    prompt = build_prompt("a red car")
    assert prompt.endswith("Caption: a red car\nInstruction:")
    assert same_text("A dog.", "a  dog")
    assert not too_long("x " * 75)
    assert too_long("x " * 76)


def test_item_12_triplets_come_from_rules_and_from_any_local_model(tmp_path, monkeypatch):
    """Checklist 12: the task writes what data.triplets reads; refused answers are tried again."""
    source, target = tmp_path / "captions.txt", tmp_path / "t.json"
    source.write_text("a red dog\na cat under a tree\n")
    words = [f"triplets.input={source}", f"triplets.output={target}"]
    make_triplets(
        config(*words, "data.source=drawings", "data.tagger=lemmas"), Workspace(tmp_path / "w")
    )
    assert [t.reference for t in read_triplets(target)] == ["a red dog", "a cat under a tree"]
    asked = []

    def generator(*args, **kwargs):
        def write(prompts, rngs, limit):
            asked.append(len(prompts))
            good = " let it fly\nEdited: a red dog that flies"
            return [
                good if "a red dog" in p.text.splitlines()[-2] and len(asked) > 1 else "?"
                for p in prompts
            ]

        return write

    monkeypatch.setattr("common.decoding.generators.text_generator", generator)
    make_triplets(
        config(*words, "triplets.by=lm", f"triplets.output={tmp_path}/lm.json"),
        Workspace(tmp_path / "w"),
    )
    assert asked == [2, 2, 1, 1]  # three retries, of what is still refused
    assert read_triplets(tmp_path / "lm.json") == [
        ("a red dog", "let it fly", "a red dog that flies")
    ]
    with pytest.raises(UserError, match=r"triplets\.input"):
        make_triplets(config(), Workspace(tmp_path / "w"))


def test_item_12_and_14_a_bundled_causal_model_writes_phrases(tmp_path):
    """Checklist 12, 14: SEARLE's phrases from a real local model, begun by the concept."""
    (tmp_path / "c.txt").write_text("dog\n")
    words = [
        f"phrases.concepts={tmp_path}/c.txt",
        f"phrases.output={tmp_path}/p.json",
        "phrases.model=bundled:stories260k",
        "phrases.per_concept=3",
        "phrases.max_new_tokens=6",
    ]
    make_phrases(config(*words), Workspace(tmp_path / "w"))
    actual = json.loads((tmp_path / "p.json").read_text())["dog"]
    assert actual
    assert all(text.startswith("a photo of dog") for text in actual)


def test_item_12_and_14_phrases_of_a_concept_with_capital_letters_reach_searle(tmp_path):
    """Guards against phrases in lower case that are thrown away, or that SEARLE does not find."""
    (tmp_path / "c.txt").write_text("Golden  Retriever\r\ndog\n dog\n")
    words = [
        f"phrases.concepts={tmp_path}/c.txt",
        f"phrases.output={tmp_path}/p.json",
        "phrases.model=bundled:stories260k",
        "phrases.per_concept=4",
        "phrases.max_new_tokens=6",
    ]
    workspace = Workspace(tmp_path / "w")
    make_phrases(config(*words), workspace)
    assert "8 of 8 phrases hold their concept; 0 of 2" in (tmp_path / "w/notes.txt").read_text()
    phrases = Phrases(["Golden  Retriever\r"], read_phrases(f"{tmp_path}/p.json"))
    phrase, hidden = phrases.draw(0, np.random.default_rng(0))
    assert phrase.startswith("a photo of Golden Retriever")
    assert hidden.startswith("a photo of $")
    chat = ["generator.endpoint=http://localhost:1/v1", "generator.api=chat"]
    with pytest.raises(UserError, match="completions"):
        make_phrases(config(*words, *chat), workspace)
    server = [chat[0], f"phrases.output={tmp_path}/q.json"]
    with pytest.raises(
        UserError, match="no_repeat_ngram=0"
    ):  # ours is 2, which no server is asked for
        make_phrases(config(*words, *server), workspace)


def test_item_12_a_caption_that_rules_cannot_change_is_left_out(tmp_path):
    """Guards against a second triplet of another caption in its place, and a count that hides
    it."""
    source, target = tmp_path / "captions.txt", tmp_path / "t.json"
    source.write_text("a red dog\nof with from\na cat under a tree\n")
    words = [
        f"triplets.input={source}",
        f"triplets.output={target}",
        "data.source=drawings",
        "data.tagger=lemmas",
    ]
    make_triplets(config(*words), Workspace(tmp_path / "w"))
    assert [t.reference for t in read_triplets(target)] == ["a red dog", "a cat under a tree"]
    assert "2 triplets of 3 captions" in (tmp_path / "w/notes.txt").read_text()


def test_no_task_replaces_a_file(tmp_path):
    """An output that the task did not make stays as it is."""
    (tmp_path / "c.txt").write_text("a dog\n")
    output = tmp_path / "mine.json"
    output.write_text("mine")
    for task, words in (
        (make_triplets, [f"triplets.input={tmp_path}/c.txt", f"triplets.output={output}"]),
        (
            make_triplets,
            [f"triplets.input={tmp_path}/c.txt", f"triplets.output={output}", "triplets.by=lm"],
        ),
        (make_phrases, [f"phrases.concepts={tmp_path}/c.txt", f"phrases.output={output}"]),
        (table, [f"table.runs=[{tmp_path}]", f"table.output={output}"]),
    ):
        with pytest.raises(UserError, match="exists already"):
            task(config(*words), Workspace(tmp_path / "w"))
    assert output.read_text() == "mine"


def test_paper_searle_reads_the_phrases_it_tells_to_make():
    """Guards against training on the fixed sentences although phrases were written."""
    assert config(name="paper_searle").phi.searle.phrases is not None


@pytest.mark.slow
def test_drawings_of_held_out_families_are_in_no_caption_and_no_triplet(drawings):
    """The small task: families are disjoint, answers unique, one attribute changes."""
    held = unseen(drawings)
    several = {drawings[i].family for i in held}
    assert several.isdisjoint(
        {family_of(c) for t in family_triplets(drawings) for c in (t.reference, t.target)}
    )
    captions = set(training_captions())
    assert not captions & {drawings[i].name for i in held}
    test, dev = queries(drawings, "test"), queries(drawings, "dev")
    assert len(test) > 2000
    assert {q.family for q in test}.isdisjoint({q.family for q in dev})
    assert all(part_of(q.family) == "test" for q in test)
    for q in test[::37]:
        old, new = drawings[q.reference], drawings[q.target]
        differs = [old.tone != new.tone, old.gender != new.gender, old.colour != new.colour]
        assert differs == [q.kind == k for k in ("tone", "gender", "colour")]
        value = {"tone": new.tone, "gender": " ".join(new.gender), "colour": " ".join(new.colour)}
        assert q.condition == CONDITIONS[q.kind][0].format(value[q.kind])
    size, draw = triplet_source(
        config("data.source=drawings", "data.tagger=lemmas", "data.family_share=1.0")
    )
    assert size > 5000
    assert all(draw(i, np.random.default_rng(i)).condition for i in range(5))


def test_figures_are_means_over_families_without_the_reference():
    """A family of many queries counts no more than one of few; the reference is not an answer."""
    task = synthetic_task(config())
    images = F.normalize(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    references = images[[q.reference for q in task.queries]]
    ranks = ranks_of(task, references, images, task.gallery)
    for q, rank in zip(task.queries, ranks.tolist(), strict=True):
        scores = images @ images[q.reference]
        others = [i for i in range(64) if i != q.reference]
        assert rank == sum(float(scores[i]) >= float(scores[q.target]) for i in others)
    assert reference_first(task, references, images) == 1.0
    twice = task._replace(
        queries=[q._replace(family="x") for q in task.queries[:3]] + task.queries[3:4]
    )
    assert by_family(twice, torch.tensor([1.0, 0.0, 0.0, 1.0])) == {"class": [1.0, 1 / 3]}
    figures = recall_figures(twice, torch.tensor([1, 2, 3, 1]), (1,))
    assert figures["recall_at_1"] == pytest.approx(2 / 3)


def test_means_over_categories_are_the_headline_figures():
    """FashionIQ: mean of R@10 and R@50 over the three categories."""
    cats = ("dress", "shirt", "toptee")
    metrics = {
        f"fashioniq_{c}_recall_at_{k}": k / 100 + i for i, c in enumerate(cats) for k in (10, 50)
    }
    assert means_of(metrics)["fashioniq_mean"] == pytest.approx(1.3)
    assert means_of({}) == {}


@pytest.mark.slow
def test_baselines_of_the_small_task(tmp_path):
    """Image alone, text alone, sum, ceiling, chance: all have the primary metric."""
    cfg, workspace = config(), Workspace(tmp_path)
    for name in (
        "image_only",
        "text_only",
        "image_plus_text",
        "caption_oracle",
        "raw_pixels",
        "untrained",
        "chance",
    ):
        actual = getattr(baselines, name)(cfg, workspace)
        assert 0 <= actual["recall_at_1"] <= 1, name
    assert baselines.chance(cfg, workspace)["recall_at_1"] == pytest.approx(1 / 63)


def test_tasks_make_the_folders_that_they_write_to(tmp_path, monkeypatch):
    """Triplets by rules ended in a traceback, and a path with ~ in a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("a red dog\na cat under a tree\n")
    words = [
        "triplets.input=~/c.txt",
        "triplets.output=~/new/t.json",
        "data.source=drawings",
        "data.tagger=lemmas",
    ]
    make_triplets(config(*words), Workspace(tmp_path / "w"))
    assert len(read_triplets(tmp_path / "new/t.json")) == 2
    assert not (tmp_path / "~").exists()


def test_files_without_a_line_are_named(tmp_path):
    """Blank key phrases were swapped in, and no concept was the fault of the model."""
    (tmp_path / "c.txt").write_text("a red dog\n")
    (tmp_path / "blank.txt").write_text(" \n\n")
    words = [
        f"triplets.input={tmp_path}/c.txt",
        f"triplets.output={tmp_path}/t.json",
        "data.source=drawings",
        "data.tagger=lemmas",
        f"triplets.keywords={tmp_path}/blank.txt",
    ]
    with pytest.raises(UserError, match=r"triplets\.keywords=.*blank\.txt has no phrase"):
        make_triplets(config(*words), Workspace(tmp_path / "w"))
    words = [f"phrases.concepts={tmp_path}/blank.txt", f"phrases.output={tmp_path}/p.json"]
    with pytest.raises(UserError, match=r"blank\.txt has no concept"):
        make_phrases(config(*words), Workspace(tmp_path / "w"))


def test_no_phrasing_of_a_held_out_name_is_a_training_caption(monkeypatch):
    """A row is known by its first caption, the name; the others word it differently."""
    families = (f"family {i}" for i in range(10_000))
    held, kept = (
        next(f for f in families if (part_of(f) == "train") == train) for train in (False, True)
    )
    read = [
        Drawing("emoji", i, f"{family} {i}", family, None, (), ())
        for i, family in enumerate((held, held, kept, kept))
    ]
    rows = [(d.name, f"one {d.name}", f"some {d.name}") for d in read]

    class Files:
        def __init__(self, *_, **__):
            pass

        def __len__(self):
            return len(rows)

        def texts(self, index):
            return rows[index]

    monkeypatch.setattr(drawings_module, "read_drawings", lambda root: read)
    monkeypatch.setattr(drawings_module, "variants", lambda drawings: {held: read[:2]})
    monkeypatch.setattr(drawings_module, "CaptionFiles", Files)
    assert training_captions() == sorted(text for row in rows[2:] for text in row)
