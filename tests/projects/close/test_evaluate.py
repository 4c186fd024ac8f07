"""What is judged, by which measure, and which texts pass the adapter."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from projects.close import data, evaluate
from projects.close.batches import Example
from projects.close.data import epoch_size, load_examples
from projects.close.evaluate import answer_score, gap_metrics, item_score, judged, own_text
from projects.close.modality_gap import TextAdapter
from projects.close.module import CLOSE
from tests.projects.close.conftest import config, sines


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_part_of_the_config_is_judged_up_to_its_limit(monkeypatch, split):
    monkeypatch.setattr(evaluate, "load_examples", lambda cfg, part: [part] * 5)
    assert judged(config(f"eval.split={split}", "eval.limit=3")) == [split] * 3


def test_contexts_are_cut_where_the_training_cuts_them(monkeypatch):
    asked = []

    def words(tokenizer, most):
        asked.append(most)
        return SimpleNamespace(batch=lambda texts: (torch.ones(1, 1), torch.ones(1, 1)))

    monkeypatch.setattr(evaluate, "Words", words)
    monkeypatch.setattr(evaluate, "evaluated", lambda *_: nullcontext())
    module = SimpleNamespace(tokenizer=None, device="cpu", write=lambda *_: ["x"])
    examples = [Example(("a",), "", ("a",))]
    evaluate.written(config("data.max_context=9"), module, torch.zeros(1, 2), examples)
    assert asked == [9]


def test_an_answer_counts_by_its_annotators():
    example = Example(("",), "", ("red",), "what?", ("red",) * 2 + ("dark",) * 8)
    assert answer_score("red", example) == pytest.approx(2 / 3)
    assert answer_score("dark", example) == 1


def test_texts_pass_the_adapter_without_noise():
    adapter = TextAdapter("noise", 0.9).train()
    vectors = F.normalize(sines(3, 4))
    module = SimpleNamespace(adapter=adapter, device="cpu")
    torch.testing.assert_close(evaluate.adapted(module, vectors), vectors)
    assert adapter.training


def test_the_class_of_a_photograph_is_the_first_that_is_named():
    photo = Example(("",), "photo-1", ("",), label="frog")
    items = evaluate.bundled_items([photo] * 2, ["a cat next to a frog", "frog, not a cat"])
    assert items["class_word"] == [0, 1]


def test_the_gap_is_that_of_photographs_with_their_own_captions(monkeypatch):
    seen = []
    monkeypatch.setattr(evaluate, "gap_report", lambda text, image: seen.append(image) or {})
    names = ("drawing-1", "photo-1", "photo-2")
    examples = [Example((n,), n, ("",)) for n in names]
    vectors = sines(3, 4)
    gap_metrics(SimpleNamespace(encode_texts=lambda texts: sines(len(texts), 4)), vectors, examples)
    torch.testing.assert_close(seen[0], vectors[1:])


def test_own_captions_are_drawn_evenly_and_pass_the_adapter(monkeypatch):
    shown = []
    monkeypatch.setattr(evaluate, "adapted", lambda module, vectors: -vectors)
    monkeypatch.setattr(
        evaluate,
        "written",
        lambda cfg, module, vectors, chosen: shown.append(vectors) or [e.label for e in chosen],
    )
    examples = [Example((str(i),), f"photo-{i}", ("",), label="frog") for i in range(7)]
    texts = []
    clip = SimpleNamespace(encode_texts=lambda t: texts.extend(t) or torch.ones(len(t), 1))
    cfg = config("data.source=bundled", "eval.own_text=3")
    assert own_text(cfg, None, clip, examples) == {"own_text_class_word": 1}
    assert texts == ["0", "3", "6"]
    assert shown[0].tolist() == [[-1]] * 3


def test_a_caption_in_the_gallery_is_compared_with_its_nearest_reference():
    example = Example(("",), "", ("something else", "a red ball"))
    assert item_score(config("data.source=official"), example, "a red ball") == 1


def test_sentences_of_a_file_are_written_in_lower_case_with_their_replacements(tmp_path):
    (tmp_path / "texts.txt").write_text("Anna sees A Ball\n")
    words = ["data.source=text", f"data.root={tmp_path}", "data.text_file=texts.txt"]
    cfg = config(*words, "data.replace={Anna: SHE}", "data.min_words=1")
    assert load_examples(cfg, "train") == [Example(("SHE sees A Ball",), "", ("she sees a ball",))]


def test_models_of_a_text_file_are_judged_on_bundled_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(data.bundled, "examples", lambda section, part, seed: [part])
    cfg = config("data.source=text", f"data.root={tmp_path}", "data.text_file=texts.txt")
    assert load_examples(cfg, "dev") == ["dev"]


def test_an_epoch_has_the_share_of_a_small_set_and_the_size_of_a_large_one():
    cfg = config("data.epoch_size=50", "data.epoch_share=0.5")
    assert [epoch_size(cfg, n) for n in (1, 20, 1000)] == [1, 10, 50]


def test_noise_beams_and_the_end_of_a_text_are_those_of_the_config():
    asked = {}

    def generate(vectors, ids, mask, **options):
        asked.update(options)
        return torch.tensor([[5, 9, 7], [5, 6, 7]])

    language = torch.nn.Linear(1, 1)
    language.generate = generate
    tokenizer = SimpleNamespace(
        eos_token_id=9,
        pad_token_id=0,
        batch_decode=lambda rows, skip_special_tokens: [" ".join(map(str, r)) for r in rows],
    )
    module = CLOSE(config("method.noise=0.3", "eval.num_beams=4"), language, tokenizer)
    assert module.adapter.scale == 0.3
    assert module.write(torch.zeros(2, 1)) == ["5", "5 6 7"]
    assert asked["num_beams"] == 4


def test_each_validation_is_a_mean_of_its_own(monkeypatch):
    module, logged = CLOSE(config(), torch.nn.Linear(1, 1), None), []
    monkeypatch.setattr(module, "log", lambda name, value: logged.append(float(value)))
    for total, count in ((6.0, 3.0), (2.0, 4.0)):
        module._seen += torch.tensor([total, count])
        module.on_validation_epoch_end()
    assert logged == [2.0, 0.5]


def test_visual_entailment_counts_the_word_that_is_right():
    cfg = config("data.source=official", "data.task=ve")
    examples = [Example(("a",), "", ("yes", "maybe"))] * 2
    assert evaluate.score(cfg, examples, ["yes", "ye"]) == {"accuracy": 0.5}


@pytest.mark.parametrize("inputs", ["image", "text"])
def test_the_gap_is_measured_where_images_are_judged(monkeypatch, inputs):
    cfg = config("data.source=bundled", f"eval.inputs={inputs}")
    made = SimpleNamespace(is_text=inputs == "text")
    monkeypatch.setattr(evaluate, "clip_of", lambda *_: None)
    monkeypatch.setattr(evaluate, "judged", lambda cfg: [])
    monkeypatch.setattr(evaluate, "make_inputs", lambda *_: made)
    for name in ("unit_vectors", "adapted", "written", "gallery"):
        monkeypatch.setattr(evaluate, name, lambda *_: [])
    monkeypatch.setattr(evaluate, "score", lambda *_: {})
    monkeypatch.setattr(evaluate, "gap_metrics", lambda *_: {"gap": 1.0})
    assert ("gap" in evaluate.evaluate(cfg, None, None)) == (inputs == "image")
