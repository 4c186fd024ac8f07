"""Captions, templates, features and recordings of the evaluation, by stand-ins."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from projects.cwcl import evaluate, locked, spoken_sets
from projects.cwcl.evaluate import held_out_pairs, pair_metrics, set_sweep, sweep, training_weights
from projects.cwcl.module import objective_of
from tests.projects.cwcl.conftest import config, module_of

MANIFEST = ("speech.manifest=x.tsv", "speech.sample_rate=16000")


def test_photographs_are_of_the_split_and_their_captions_name_them(monkeypatch):
    asked, kept = [], {}
    part = SimpleNamespace(
        images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        labels=torch.tensor([0, 1]),
        class_names=["a", "b"],
        texts=["x", "y"],
    )

    def captioned(section, split, seed):
        asked.append((section.right_words, section.wrong_words, split))
        return part

    monkeypatch.setattr(evaluate, "captioned_cifar", captioned)
    monkeypatch.setattr(evaluate, "encode_images", lambda *_: torch.eye(2))
    monkeypatch.setattr(evaluate, "encode_texts", lambda *_: torch.eye(2))
    monkeypatch.setattr(evaluate, "class_embeddings", lambda *_: torch.tensor([[1.0, 0], [0.9, 0]]))
    for name in ("zeroshot_accuracy", "sweep", "pair_metrics"):
        monkeypatch.setattr(evaluate, name, lambda *_: {})
    monkeypatch.setattr(evaluate, "retrieval_gallery", lambda *_: None)
    workspace = SimpleNamespace(items=kept.__setitem__, gallery=lambda *_: None)
    words = [
        "data.source=cifar10",
        "eval.split=dev",
        "data.right_words=0.5",
        "data.wrong_words=0.3",
    ]
    evaluate.photographs(config(*words), SimpleNamespace(encode_texts=None), workspace)
    assert asked == [(0.5, 0.3, "dev"), (1.0, 0.0, "dev")]
    assert kept["zeroshot_top1"] == [1, 0]


def test_structure_is_compared_on_the_pairs_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(
        evaluate,
        "image_text_retrieval",
        lambda *_: {
            f"{a}_to_{b}_recall_at_10{end}": 0.5
            for a, b in (("image", "text"), ("text", "image"))
            for end in ("", "_chance")
        },
    )
    for name in ("structure_spearman", "linear_cka"):
        monkeypatch.setattr(evaluate, name, lambda u, v: asked.append((len(u), len(v))))
    pair_metrics(config("eval.structure_pairs=3"), torch.zeros(5, 2), torch.zeros(5, 2))
    assert asked == [(3, 3), (3, 3)]


def test_a_sweep_may_have_all_templates(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "template_sweep", lambda *args: asked.append(args[-1]) or {})
    module = SimpleNamespace(encode_texts=None)
    sweep(config("eval.sweep=[1,2,3]"), module, None, None, [], ["{}", "a {}"])
    assert asked == [[1, 2]]


@pytest.mark.parametrize(
    ("name", "kind", "templates"),
    [
        ("imagenet", "openai", evaluate.OPENAI_TEMPLATES),
        ("imagenet", "simple", evaluate.LACLIP_TEMPLATES),
        ("dtd", "openai", ["own"]),
    ],
)
def test_sets_have_their_own_templates_and_imagenet_those_of_the_config(
    monkeypatch, name, kind, templates
):
    asked = []

    class Pictures(list):
        templates, class_names = ("own",), ("a",)

        @staticmethod
        def collate(rows):
            return {"images": torch.zeros(len(rows), 1), "labels": torch.zeros(len(rows))}

    monkeypatch.setattr(evaluate, "load_image_set", lambda *_: Pictures([0]))
    monkeypatch.setattr(evaluate, "sweep", lambda *args: asked.append(list(args[-1])))
    module = SimpleNamespace(
        logit_scale=SimpleNamespace(log_scale=torch.zeros(1)),
        encoder=SimpleNamespace(encode_image=lambda images: images),
    )
    set_sweep(config("eval.sweep=[1]", f"eval.templates={kind}"), module, name)
    assert asked == [list(templates)]


def test_each_readable_picture_has_its_own_first_caption(monkeypatch):
    captions = SimpleNamespace(texts=lambda i: [f"first of {i}", f"second of {i}"])
    monkeypatch.setattr(evaluate, "official_files", lambda *_: (None, captions))
    monkeypatch.setattr(
        evaluate, "source_features", lambda *_, **__: (torch.ones(2, 2), torch.tensor([0, 2]))
    )
    monkeypatch.setattr(evaluate, "_ImageSide", lambda module: None)
    monkeypatch.setattr(evaluate, "encode_texts", lambda cfg, module, texts: texts)
    assert held_out_pairs(config("eval.pairs=x.csv"), None)[1] == ["first of 0", "first of 2"]


def test_the_untrained_module_subtracts_the_same_mean(monkeypatch):
    asked = []
    fresh = SimpleNamespace(set_mean=asked.append)
    monkeypatch.setattr(evaluate.modes, "untrained", lambda *_: fresh)
    monkeypatch.setattr(evaluate, "given_part", lambda encoder: SimpleNamespace(mean="mean"))
    cfg = config()
    for centred in (True, False):
        cfg.model.centred = centred
        evaluate.untrained(cfg, SimpleNamespace(encoder=None), None)
    assert asked == ["mean"]


@pytest.mark.parametrize(("raw", "value"), [(True, 3), (False, 1)])
def test_targets_are_of_the_features_that_weigh(monkeypatch, raw, value):
    asked = []
    part = SimpleNamespace(images=torch.zeros(2), labels=torch.zeros(2))
    monkeypatch.setattr(evaluate, "captioned_cifar", lambda *_: part)
    monkeypatch.setattr(evaluate, "image_features", lambda *_: torch.tensor([[3.0]]))
    monkeypatch.setattr(evaluate, "weight_statistics", lambda x, labels: asked.append(x.item()))
    mean = SimpleNamespace(mean=torch.tensor([2.0]))
    monkeypatch.setattr(evaluate, "given_part", lambda encoder: mean)
    cfg = config("data.source=cifar10")
    cfg.model.centred = True
    training_weights(cfg, SimpleNamespace(raw_weights=raw, encoder=None))
    assert asked == [value]


def test_the_objective_has_smoothing_and_backend_of_the_config():
    method = config().method
    method.weight_mode, method.smoothing, method.loss_backend = "smoothing", 0.2, "dense"
    objective = objective_of(method)
    assert (objective.smoothing, objective.kernel["backend"]) == (0.2, "dense")


def test_a_locked_tower_has_no_gradient_and_stays_in_evaluation_mode():
    module = module_of("model.locked=true").train()
    assert module.training
    assert not locked.given_part(module.encoder).training
    features, _, _ = module.image_side(torch.zeros(1, 3, 32, 32))
    assert not features.requires_grad


def test_activations_are_recomputed_where_the_config_says(monkeypatch):
    asked = []

    class Encoder(nn.Identity):
        def set_grad_checkpointing(self):
            asked.append(True)

    monkeypatch.setattr(locked, "build_locked", lambda **_: Encoder())
    for on in ("true", "false"):
        locked.build_towers(config(f"model.activation_checkpointing={on}"))
    assert asked == [True]


def test_recordings_of_a_manifest_are_limited_and_those_without_words_left_out(monkeypatch):
    asked = {}

    class Recordings(list):
        targets = tuple(SimpleNamespace(transcript=text) for text in ("one", "", "two"))

        def subset(self, rows):
            return rows

    def load(path, rate, **options):
        asked.update(options)
        return Recordings(range(3))

    monkeypatch.setattr(spoken_sets, "load_manifest", load)
    cfg = config(*MANIFEST, "speech.max_samples=5", "speech.max_characters=9", name="smoke_speech")
    assert spoken_sets.training_set(cfg) == [0, 2]
    assert asked == {"max_samples": 5, "max_characters": 9}


@pytest.mark.parametrize(("source", "words"), [("digits", 3), ("slurp", 1)])
def test_held_out_recordings_are_whole_and_only_the_training_source_has_its_words(
    monkeypatch, source, words
):
    asked = []
    monkeypatch.setattr(spoken_sets, "spoken_part", lambda data, part, seed: asked.append(data))
    cfg = config(name="smoke_speech")
    cfg.speech.source, cfg.speech.command_words, cfg.speech.max_characters = "digits", 3, 9
    cfg.speech.max_samples = 7
    spoken_sets._whole(cfg, source, "test")
    (data,) = asked
    assert (data.command_words, data.max_characters, data.max_samples) == (words, None, None)


def test_commands_are_of_the_split(monkeypatch):
    monkeypatch.setattr(spoken_sets, "load_speech_commands", lambda folder, part, rate: part)
    cfg = config("eval.keywords=x", "eval.split=dev", name="smoke_speech")
    assert spoken_sets.command_set(cfg) == "dev"


def test_example_utterances_are_written_as_transcripts(tmp_path):
    path = tmp_path / "texts.json"
    path.write_text('{"play": ["Play, please!"]}')
    cfg = config(f"eval.intent_texts={path}", name="smoke_speech")
    assert spoken_sets.intent_texts(cfg) == {"play": ["play please"]}
