"""The bundled models: what they may read, and that their training still runs."""

import importlib
import shutil
from pathlib import Path

import pytest
import torch

import common.config
from common import registry
from common.config import ROOT, UserError
from common.data.splits import book_split, sentence_split
from common.data.tables import read_jsonl
from common.engine import run
from common.engine import trained as trained_runs
from scripts.pretrain import corpus, vocabulary
from scripts.pretrain.vocabulary import pieces, train_wordpiece

pytestmark = pytest.mark.slow


def test_held_out_text_is_not_read():
    train, test = corpus.sentences(None, "train"), corpus.sentences(None, "test")
    assert {sentence_split(text) for text in train} == {"train"}
    assert not set(train) & set(test)
    assert 0.04 < len(test) / (len(train) + len(test)) < 0.06
    book = corpus.sentences(None, "test", sources=["book"])
    assert 0 < len(book) < len(test)
    rows = list(read_jsonl(ROOT / "data/books-en/chapters.jsonl.gz", ("book", "paragraphs")))
    held = [
        " ".join(row["paragraphs"])
        for row, split in zip(rows, book_split([row["book"] for row in rows]), strict=True)
        if split == "test"
    ]
    assert held == corpus.chapters(None, "test")
    assert not set(held) & set(corpus.chapters(None, "train"))


WORDS = {
    "masked_lm": ["data.limit=400", "data.vocab_size=300"],
    "causal_lm": ["data.limit=400"],
    "dual_encoder": ["data.limit=400"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(kind)` is the folder of a short training, made once; the engine knows the kinds."""
    folders: dict[str, Path] = {}

    def of(kind):
        if kind not in folders:
            out = tmp_path_factory.mktemp(kind)
            folders[kind] = run.train(kind, "smoke", [f"runs_dir={out}", *WORDS[kind]])
        return folders[kind]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(common.config, "CONFIG_DIR", ROOT / "scripts/pretrain/configs")
        for place in (registry, run):
            monkeypatch.setattr(
                place,
                "load_project",
                lambda slug: importlib.import_module(f"scripts.pretrain.{slug}"),
            )
        yield of


@pytest.mark.parametrize(
    "kind", ["masked_lm", *(pytest.param(k, marks=pytest.mark.slow) for k in list(WORDS)[1:])]
)
def test_training_runs_and_the_export_reloads(kind, tmp_path, trained):
    """The shipped weights are float16, hence the tolerance."""
    _, experiment = run.prepare(kind, "smoke", WORDS[kind])
    module = trained_runs.module_of_run(experiment, trained(kind)).eval()
    before = experiment.embed(module)
    experiment.export(module, tmp_path / "export")
    after = experiment.embed(experiment.load_export(tmp_path / "export").eval())
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.allclose(value, after[name], atol=5e-3), name
        assert not torch.allclose(value, torch.zeros_like(value), atol=5e-3)


def test_a_vocabulary_is_the_same_in_every_training():
    """The library's own trainer differs from one training to the next, also in one process."""
    texts = corpus.sentences(None, "train", limit=3000)
    first, second = (train_wordpiece(texts, 1000, 64) for _ in range(2))
    assert pieces(first) == pieces(second)
    assert len(first) == 1000
    assert first.tokenize("The cats sat.")[0] == "the"
    marked = first("a ##a [MASK]")["input_ids"]
    assert marked[-2] == first.mask_token_id  # special
    assert first.convert_tokens_to_ids("##a") not in marked  # letters are ordinary pieces


def test_inference_sentences_hold_no_evaluation_text():
    train = corpus.inference_sentences(None, "train")
    rows = read_jsonl(ROOT / "data/stsb/en-test.jsonl.gz", ("sentence1", "sentence2"))
    held = {corpus._words(row[c]) for row in rows for c in ("sentence1", "sentence2")}
    assert len(train) > 30_000
    assert not {corpus._words(t) for t in train} & held


def test_weights_of_another_vocabulary_are_refused(trained, tmp_path, monkeypatch):
    """Pieces exchanged, sizes equal: nothing but the stored vocabulary can tell."""
    words, made = WORDS["masked_lm"], trained("masked_lm")
    folder = shutil.copytree(made, tmp_path / "masked_lm/smoke" / made.name)
    assert (folder / "tokenizer" / "tokenizer.json").exists()
    train_wordpiece = vocabulary.train_wordpiece

    def shifted(texts, size, max_length):
        vocab = train_wordpiece(texts, size, max_length).get_vocab()
        last = max(vocab.values())
        moved = {p: i if i < 50 else 50 + (i - 49) % (last - 49) for p, i in vocab.items()}
        return vocabulary.wordpiece(moved, max_length)

    monkeypatch.setattr(vocabulary, "train_wordpiece", shifted)
    _, experiment = run.prepare("masked_lm", "smoke", words)
    with pytest.raises(UserError, match="another vocabulary"):
        trained_runs.module_of_run(experiment, folder)
    (folder / "checkpoints/train/finished.json").unlink()
    with pytest.raises(UserError, match="another vocabulary"):
        run.train("masked_lm", "smoke", [f"runs_dir={tmp_path}", *words, f"resume={folder.name}"])


def test_variants_of_held_out_drawings_are_not_trained_on():
    """Neither families that attribute queries are asked of, nor variants of the pool's test
    side."""
    from common.data.splits import emoji_split
    from projects.rtd.variants import family_of, family_split, tone_of
    from scripts.pretrain import drawings

    actual = drawings.training_drawings(None, 8)
    toned = [name for name in actual.names if tone_of(name)]
    assert len(actual.images) == len(actual.names) == len(actual.phrasings)
    assert len(toned) > 400
    assert {family_split(name) for name in toned} == {"train"}
    assert "waving hand" in actual.names or family_split("waving hand") == "test"
    bases = {name: base for _, base, name in drawings.tones(None)}
    assert {emoji_split(bases[name]) for name in toned} == {"train"}
    every = [name for *_, name in drawings.tones(None)]
    families = drawings.variant_families(every)
    assert not [n for n in actual.names if family_of(n) in families and family_split(n) == "test"]


def test_a_batch_of_pictures_is_a_function_of_its_key_and_repeats_no_drawing():
    from common.data.image.sources import EvalTransform
    from common.families.image_text.photographs import photographs
    from scripts.pretrain import drawings

    pictures = drawings.training_drawings(None, 8)
    n = 40
    pictures = drawings.Captioned(pictures.images[:n], pictures.names[:n], pictures.phrasings[:n])
    images, labels = photographs(None, "train", 20, 8)
    tokenizer = vocabulary_of(pictures.names)

    class Plain(EvalTransform):
        def batch(self, images, rngs=None):
            return super().batch(images) + rngs[0].random()

    batches = drawings.CaptionBatches(
        pictures, images, labels, Plain(8), tokenizer, counts=(10, 6), name_share=0.5, seed=0
    )
    assert len(batches) == 4
    epoch = [batches[[(i, 0)]] for i in range(4)]
    assert sorted(torch.cat([b["ids"][:10] for b in epoch]).tolist()) == sorted(
        batches.ids[:n].tolist()
    )
    assert all((b["ids"][10:] >= len(set(pictures.names))).all() for b in epoch)
    again, other = batches[[(2, 0)]], batches[[(2, 1)]]
    assert all(torch.equal(epoch[2][name], again[name]) for name in again)
    assert not torch.equal(other["images"], again["images"])


def vocabulary_of(texts):
    from common.data.text.tokenizers import BpeTokenizer

    return BpeTokenizer.train(texts, vocab_size=300, context_length=12)
