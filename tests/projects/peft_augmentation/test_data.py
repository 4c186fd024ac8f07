"""EDA, copies, caches, subsets, readers."""

import itertools
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import UserError
from common.data.row_map.chunks import RowSeed
from common.data.tables import read_jsonl
from common.data.text.labelled.readers import LabelledSet, read_labelled
from common.data.text.labelled.subsets import low_resource
from common.data.text.labelled.tasks import TASKS, own_task
from common.data.text.wordnet import wordnet_synonyms
from common.engine.trained import run_task
from projects.peft_augmentation.augmentation import eda as module
from projects.peft_augmentation.augmentation.copies import cached_copies, eda_copies
from projects.peft_augmentation.classification.evaluation import altered_texts
from projects.peft_augmentation.classification.module import labelled_parts, scored_part
from projects.peft_augmentation.copies import accepted, row_function, settings
from projects.peft_augmentation.stages import copies_of_training
from tests.figures import unrendered
from tests.projects.peft_augmentation.conftest import GOLDEN, config

OUT = GOLDEN["outputs"]


def test_cleaning_swap_and_deletion_reproduce_the_released_texts():
    """Checklist 6: golden strings, draw by draw."""
    assert module.clean_text(GOLDEN["inputs"]["sentence"]) == OUT["clean_text"]
    words = module.clean_text(GOLDEN["inputs"]["sentence"]).split()
    assert words == OUT["words"]
    for case in OUT["eda_cases"]:
        seed = case["python_random_seed"]
        assert " ".join(module.random_swap(words, 2, random.Random(seed))) == case["random_swap_n2"]
        kept = module.random_deletion(words, 0.3, random.Random(seed))
        assert " ".join(kept) == case["random_deletion_p0.3"]


def test_the_four_operations_together():
    """Checklist 6: floor(n / 4) + 1 texts of each, shuffled, the first n kept; synonyms replace
    every
    occurrence, phrases become words; the same seed gives the same texts."""
    synonyms = {"movie": ["motion picture"], "great": ["large"]}
    text = "The movie, the great movie!"
    for copies in (1, 2, 4, 9):
        assert len(module.eda(text, synonyms, random.Random(0), copies=copies)) == copies
    same = [module.eda(text, synonyms, random.Random(3), copies=4) for _ in range(2)]
    assert same[0] == same[1]
    words = ["the", "movie", "the", "movie"]
    actual = module.synonym_replacement(words, 1, random.Random(0), synonyms)
    assert actual == ["the", "motion", "picture", "the", "motion", "picture"]
    inserted = module.random_insertion(["great", "great"], 2, random.Random(0), synonyms)
    assert sorted(inserted) == ["great", "great", "large", "large"]
    assert module.random_insertion(["the"], 1, random.Random(0), synonyms) == ["the"]
    assert len(module.random_deletion(["a", "b"], 1.0, random.Random(0))) == 1
    assert module.eda("10/10", synonyms, random.Random(0)) == []
    assert len(wordnet_synonyms(None, None, hyphens=False)["movie"]) > 0


def test_copies_stay_with_their_example_and_nothing_else_is_altered():
    """Checklist 7: copies are of training examples alone; development and test texts are as
    read."""
    cfg = config()
    train, dev = labelled_parts(cfg.data, 0)
    copies = copies_of_training(cfg, train)
    assert len(copies) == len(train)
    for own, (text,) in zip(copies, train.texts, strict=True):
        for (copy,) in own:  # made of the words of the example and their synonyms
            assert set(text.split()) & set(copy.split())
    pool = read_labelled(TASKS["synthetic"], "train")
    known = set(pool.texts)
    assert set(train.texts) <= known
    assert set(dev.texts) <= known
    assert not {t for own in copies for t in own} & set(dev.texts)
    assert scored_part(cfg).texts == read_labelled(TASKS["synthetic"], "test").texts


def test_one_text_of_an_entailment_pair_is_reworded():
    """Data: both texts of a paraphrase pair, the premise alone where the other follows from it."""
    pair = LabelledSet(
        [("the old dog sleeps again", "a cat sees the new house")], np.array([0]), ("a", "b")
    )
    for name, changed in (("rte", {0}), ("qqp", {0, 1}), ("boolq", {1})):
        (own,) = eda_copies(pair, {}, TASKS[name].reworded, alpha=0.5, copies=8)
        moved = {place for copy in own for place in (0, 1) if copy[place] != pair.texts[0][place]}
        assert moved == changed
        (actual,) = altered_texts(pair, TASKS[name], 0.5)
        assert {place for place in (0, 1) if actual[place] != pair.texts[0][place]} == changed


def test_subsets_are_stratified_seeded_and_the_same_for_all_methods():
    """Checklist 12: shares of the classes, another seed another draw, no row in both sets."""
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    first, dev = low_resource(labels, 20, 20, seed=0)
    assert np.bincount(labels[first]).tolist() == np.bincount(labels[dev]).tolist() == [12, 6, 2]
    assert not set(first) & set(dev)
    assert np.array_equal(first, low_resource(labels, 20, 20, seed=0)[0])
    assert not np.array_equal(first, low_resource(labels, 20, 20, seed=1)[0])
    assert set(first) <= set(low_resource(labels, 40, 20, seed=0)[0])
    equal, _ = low_resource(labels, 15, 0, seed=0, balance="equal")
    assert np.bincount(labels[equal]).tolist() == [5, 5, 5]
    with pytest.raises(UserError, match="data.examples"):
        low_resource(labels, 40, 0, seed=0, balance="equal")
    drawn = {
        tuple(labelled_parts(config(f"tuning.kind={kind}", f"augment.kind={da}").data, 3)[0].texts)
        for kind in ("full", "prefix", "lora")
        for da in ("none", "eda", "mixup")
    }
    assert len(drawn) == 1


def test_a_cache_is_written_offline_and_read_by_id(tmp_path):
    """Checklist 15: ids of the originals, nothing unchanged, and training reads the file alone."""
    cache = tmp_path / "copies.jsonl"
    words = [f"copies.output={cache}", "copies.method=word_dropout", f"runs_dir={tmp_path}"]
    with unrendered():
        run_task("peft_augmentation", "smoke", words, "copies")
    rows = read_jsonl(cache, ("id", "field", "method", "text"))
    train, _ = labelled_parts(config().data, 0)
    by_id = dict(zip(train.ids, train.texts, strict=True))
    assert 0 < len(rows) <= len(train)
    assert all(row["text"] != by_id[row["id"]][row["field"]] for row in rows)
    cfg = config("augment.kind=back_translation", f"augment.cache={cache}")
    copies = copies_of_training(cfg, train)
    told = {row["id"]: row["text"] for row in rows}
    for key, own in zip(train.ids, copies, strict=True):
        assert own == ([(told[key],)] if key in told else [])
    smaller = train.subset(range(5))
    assert cached_copies(smaller, cache, (0,)) == copies[:5]
    # another seed draws other examples: most of them stood beside themselves, in silence
    other, _ = labelled_parts(config().data, 1)
    lacking = [i for i, key in enumerate(other.ids) if key not in told]
    with pytest.raises(
        UserError, match=f"{len(lacking)} of the 48 .*this seed and this data.examples"
    ):
        copies_of_training(cfg, other)
    known = [i for i in range(len(other)) if i not in lacking]
    assert len(known) > 2
    with pytest.warns(UserWarning, match=f"no copy of 1 of the {len(known) + 1} "):
        actual = cached_copies(other.subset([*known, lacking[0]]), cache, (0,))
    assert [len(own) for own in actual] == [1] * len(known) + [0]


def test_a_translation_of_other_settings_is_another_cache():
    """Finished chunks of shorter texts, or of fewer beams on the way there, were taken for new
    ones.
    """
    words = [
        [],
        ["copies.max_new_tokens=9"],
        ["copies.num_beams=2"],
        ["copies.sample=true"],
        ["copies.sample=true", "copies.num_beams=2"],
    ]
    told = [settings(config("copies.method=back_translation", *own).copies) for own in words]
    assert all(one != other for one, other in itertools.combinations(told, 2))


class Echo:
    """In place of an encoder-decoder: writes what it read into its own brackets, and notes how."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def beam_search(self, texts, num_beams, max_new_tokens, *, batch_size):
        self.calls.append((self.name, num_beams, max_new_tokens, batch_size))
        return [f"{self.name}({text})" for text in texts]

    def continuations(self, texts, policy, rngs, max_new_tokens, *, batch_size):
        self.calls.append((self.name, policy.temperature, max_new_tokens, batch_size))
        pairs = zip(texts, rngs, strict=True)
        return [SimpleNamespace(text=f" {self.name}({t}){r.integers(9**9)} ") for t, r in pairs]


@pytest.mark.parametrize("sample", [False, True])
def test_back_translation_goes_there_and_back(sample, monkeypatch):
    """Data, back translation: the second model reads what the first one wrote; either may be a beam
    search, and sampling is of the way back alone, by the row's own stream."""
    calls: list[tuple[object, ...]] = []
    models = SimpleNamespace(from_pretrained=lambda name, device: Echo(f"{name}@{device}", calls))
    monkeypatch.setattr("common.decoding.sequence_to_sequence.SequenceToSequence", models)
    own = config(
        "copies.forward=de",
        "copies.backward=en",
        "copies.device=cpu",
        "copies.num_beams=3",
        "copies.max_new_tokens=9",
        "copies.batch_size=2",
        f"copies.sample={sample}",
    ).copies
    seeds = [RowSeed(0, key) for key in range(2)]
    actual = row_function(own)([{"text": "a cat"}, {"text": "rain"}], seeds)
    drawn = [str(seed.rng(0).integers(9**9)) if sample else "" for seed in seeds]
    assert actual == [f"en@cpu(de@cpu(a cat)){drawn[0]}", f"en@cpu(de@cpu(rain)){drawn[1]}"]
    assert calls == [("de@cpu", 3, 9, 2), ("en@cpu", 0.9 if sample else 3, 9, 2)]


def test_a_paraphrase_is_asked_for_with_the_text(monkeypatch):
    """Data, a local model in place of back translation: a turn for each text, one line back."""
    asked, options = [], {}

    def generator(model, policy, server, **more):
        options.update(more, model=model, temperature=policy.temperature)

        def generate(prompts, rngs, max_new_tokens):
            asked.extend(prompts)
            numbers = [str(rng.integers(9**9)) for rng in rngs]
            return [f" {number} of {max_new_tokens}\n" for number in numbers]

        return generate

    monkeypatch.setattr("projects.peft_augmentation.copies.text_generator", generator)
    own = config(
        "copies.method=paraphrase", "copies.max_new_tokens=9", "copies.batch_size=2"
    ).copies
    seeds = [RowSeed(0, key) for key in range(2)]
    texts = ["the bank {charged} my card", "rain"]
    actual = row_function(own)([{"text": text} for text in texts], seeds)
    assert actual == [f"{seed.rng(0).integers(9**9)} of 9" for seed in seeds]
    assert [prompt.text.partition("\n\n")[2] for prompt in asked] == texts
    assert all(prompt.turn and "Keep its meaning" in prompt.text for prompt in asked)
    expected = {"model": "bundled:causal-lm", "temperature": 0.9, "batch_size": 2, "stop": "\n"}
    assert expected.items() <= options.items()


def test_what_a_rewording_must_be():
    """Checklist 15: identical results are dropped; a paraphrase keeps content and length."""
    own = config("copies.method=paraphrase").copies
    source = "the bank charged my card twice"
    assert accepted(source, "my card was charged by the bank", own)
    assert not accepted(source, "The bank charged my card twice!", own)
    assert not accepted(source, "it rains", own)
    assert not accepted(source, "I cannot rewrite bank charged card text", own)
    assert accepted(source, "it rains", config().copies)  # a translation is taken as it is


def test_official_files_are_read(tmp_path):
    """GLUE's single sentences, SuperGLUE's JSON lines, own tables."""
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2/train.tsv").write_text('sentence\tlabel\na "fine" film \t1\ndull\t0\n')
    data = read_labelled(TASKS["sst2"], "train", str(tmp_path))
    assert (data.texts, data.labels.tolist()) == ([('a "fine" film',), ("dull",)], [1, 0])
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA/train.tsv").write_text("gj04\t1\t\tIt is so.\ngj04\t0\t*\tIt so is.\n")
    assert read_labelled(TASKS["cola"], "train", str(tmp_path)).labels.tolist() == [1, 0]
    for folder, row in (
        ("CB", {"premise": "a", "hypothesis": "b", "label": "neutral"}),
        ("BoolQ", {"question": "a", "passage": "b", "label": True}),
        ("WiC", {"word": "w", "sentence1": "a", "sentence2": "b", "label": False}),
    ):
        (tmp_path / "super_glue" / folder).mkdir(parents=True)
        (tmp_path / "super_glue" / folder / "train.jsonl").write_text(json.dumps(row) + "\n")
        data = read_labelled(TASKS[folder.lower()], "train", str(tmp_path))
        assert data.texts == [("w: a" if folder == "WiC" else "a", "b")]
    assert data.labels.tolist() == [0]
    with pytest.raises(UserError, match="SuperGLUE"):
        read_labelled(TASKS["cb"], "dev", str(tmp_path))
    own = tmp_path / "own.csv"
    own.write_text("text,label\nhello,greeting\nbye,farewell\n")
    words = [
        "data.task=file",
        f"data.train_file={own}",
        f"data.test_file={own}",
        "data.examples=null",
        "data.dev_examples=0",
        "trainer.val_every_n_steps=null",
    ]
    assert labelled_parts(config(*words).data, 0)[0].classes == ("farewell", "greeting")


def test_cells_of_own_tables(tmp_path):
    """White space around a cell is not a part of it; blank ones became a class "" or were trained
    on."""
    own = tmp_path / "own.csv"
    own.write_text('text,label\n"hello ",x\nworld, y\nbye,y \n')
    data = read_labelled(own_task([]), "train", files=[str(own)])
    assert (data.texts, data.classes) == ([("hello",), ("world",), ("bye",)], ("x", "y"))
    for row, lacking in (("world,", "label"), (" ,y", "text"), ("world, ", "label")):
        own.write_text(f"text,label\nhello,x\n{row}\n")
        with pytest.raises(UserError, match=rf"own\.csv, row 2: no {lacking}: write it"):
            read_labelled(own_task([]), "train", files=[str(own)])


def test_damaged_official_files_are_told(tmp_path):
    """Tracebacks before: an empty file, one of another encoding."""
    (tmp_path / "SST-2").mkdir()
    for content, told in ((b"", "is empty"), (b"sentence\tlabel\ncaf\xe9\t1\n", "in UTF-8")):
        (tmp_path / "SST-2/train.tsv").write_bytes(content)
        with pytest.raises(UserError, match=told):
            read_labelled(TASKS["sst2"], "train", str(tmp_path))


@pytest.mark.parametrize("name", ["banking10", "snips"])
def test_bundled_tasks(name):
    """No training text is in the test part (SNIPS repeats some)."""
    train, test = (read_labelled(TASKS[name], part) for part in ("train", "test"))
    assert train.classes == test.classes == TASKS[name].labels
    assert not set(train.texts) & set(test.texts)
    assert np.bincount(test.labels).min() >= 40


def test_shifted_words(monkeypatch):
    """Half of the sentences have two adjacent words swapped; the parts share none."""
    texts = [f"We saw {w} old houses beside the long river today" for w in map(chr, range(97, 123))]
    monkeypatch.setattr("common.data.text.labelled.readers.load_sentences", lambda *_, **__: texts)
    parts = {}
    for part in ("train", "test"):
        data = read_labelled(TASKS["bigram_shift"], part)
        parts[part] = {" ".join(sorted(text.split())) for (text,) in data.texts}
        for (text,), label in zip(data.texts, data.labels, strict=True):
            assert (text in texts) == (label == 0)
            (source,) = [t for t in texts if sorted(t.split()) == sorted(text.split())]
            moved = [a != b for a, b in zip(text.split(), source.split(), strict=True)]
            assert sum(moved) == 2 * label
        assert abs(int(data.labels.sum()) - len(data) / 2) < 1
    assert not parts["train"] & parts["test"]
