"""Captions, templates, features and recordings of the evaluation, by stand-ins."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.engine.workspace import Workspace
from common.families.image_text.class_captions import CaptionedImages
from projects.cwcl import baselines, evaluate, locked, spoken_sets
from projects.cwcl.evaluate import held_out_pairs, pair_metrics, set_sweep, sweep, training_weights
from projects.cwcl.module import objective_of
from tests.projects.cwcl.conftest import config, module_of

MANIFEST = ("speech.manifest=x.tsv", "speech.sample_rate=16000")


def test_photographs_are_of_the_split_and_their_captions_name_them(monkeypatch):
    asked, kept, templates = [], {}, []
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
    classes = torch.tensor([[1.0, 0], [0.9, 0]])
    monkeypatch.setattr(
        evaluate, "class_embeddings", lambda *args: templates.append(args[-1]) or classes
    )
    monkeypatch.setattr(evaluate, "sweep", lambda *args: templates.append(args[-1]) or {})
    for name in ("zeroshot_accuracy", "pair_metrics"):
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
    assert templates == [evaluate.LACLIP_TEMPLATES] * 2


def test_structure_is_compared_on_the_pairs_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(
        evaluate,
        "image_text_retrieval",
        lambda *_: {
            f"{way}_recall_at_10{end}": value
            for way, value in (("image_to_text", 0.5), ("text_to_image", 0.25))
            for end in ("", "_chance")
        },
    )
    for name in ("structure_spearman", "linear_cka"):
        monkeypatch.setattr(evaluate, name, lambda *args: asked.append([x.tolist() for x in args]))
    rows = torch.arange(5)
    metrics = pair_metrics(config("eval.structure_pairs=3"), rows, 10 + rows)
    assert asked == [[[0, 1, 2], [10, 11, 12]]] * 2
    assert metrics["retrieval_recall_at_10"] == 0.375


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
    images, texts = held_out_pairs(config("eval.pairs=x.csv"), None)
    assert texts == ["first of 0", "first of 2"]
    assert images.norm(dim=1).tolist() == pytest.approx([1, 1])


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
    asked, splits = [], []
    part = SimpleNamespace(images=torch.zeros(2), labels=torch.zeros(2))
    monkeypatch.setattr(
        evaluate, "captioned_cifar", lambda section, split, seed: splits.append(split) or part
    )
    monkeypatch.setattr(evaluate, "image_features", lambda *_: torch.tensor([[3.0]]))
    monkeypatch.setattr(evaluate, "weight_statistics", lambda x, labels: asked.append(x.item()))
    mean = SimpleNamespace(mean=torch.tensor([2.0]))
    monkeypatch.setattr(evaluate, "given_part", lambda encoder: mean)
    cfg = config("data.source=cifar10")
    cfg.model.centred = True
    training_weights(cfg, SimpleNamespace(raw_weights=raw, encoder=None))
    assert asked == [value]
    assert splits == ["train"]


def test_the_objective_has_factor_smoothing_and_backend_of_the_config():
    method = config().method
    method.weight_mode, method.smoothing, method.loss_backend = "smoothing", 0.2, "dense"
    method.reduction_factor = 0.5
    objective = objective_of(method)
    assert objective.factor == 0.5
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


def test_synthetic_scenes_are_named_in_sentences_that_training_has_not(monkeypatch):
    asked = []
    pairs = SimpleNamespace(images=None, texts=[["x"]], labels=None, class_names=[])
    monkeypatch.setattr(evaluate.modes, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluate, "synthetic_set", lambda section: pairs)
    for name in ("encode_images", "encode_texts"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)
    monkeypatch.setattr(evaluate, "pair_metrics", lambda *_: {})
    monkeypatch.setattr(evaluate, "sweep", lambda *args: asked.append(args[-1]) or {})
    cfg = config("data.source=synthetic", "eval.datasets=[]")
    evaluate.evaluate_pairs(cfg, None, None, None)
    assert asked == [evaluate.UNSEEN_TEMPLATES]


def test_the_mean_is_one_of_each_feature_and_augmented_images_are_trained_on(monkeypatch):
    means, trained = [], []
    module = SimpleNamespace(set_mean=lambda mean: means.append(mean.tolist()))
    features = torch.tensor([[0.0, 2.0], [2.0, 4.0]])
    monkeypatch.setattr(locked, "eval_transform", lambda section: "plain")
    monkeypatch.setattr(locked, "train_transform", lambda section: "augmented")
    monkeypatch.setattr(locked, "train_pairs", lambda cfg, transform: (transform, "texts"))
    monkeypatch.setattr(locked, "_features", lambda *_: (features, [0, 1]))
    monkeypatch.setattr(
        locked, "CaptionedImages", lambda images, *_, seed: trained.append((images, seed))
    )
    monkeypatch.setattr(locked, "ContrastiveData", lambda *_, **__: None)
    cfg = config("seed=5")
    cfg.model.cache, cfg.model.centred, cfg.model.augment = False, True, True
    cfg.eval.validate = None
    locked.locked_data(cfg, module, None, {})
    assert means == [[1, 3]]
    assert trained == [("augmented", 5)]


def test_queries_are_centred_as_the_images_that_prototypes_are_made_of(monkeypatch, tmp_path):
    """Both test images are of the second class: their own mean would hide it."""
    features = {"train": torch.eye(2), "dev": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}
    labels = {"train": torch.tensor([0, 1]), "dev": torch.tensor([1, 1])}

    def captioned(section, split, seed):
        return CaptionedImages(features[split], [], labels[split], labels[split], ["a", "b"])

    monkeypatch.setattr(baselines, "_prepared", lambda cfg: nn.Linear(1, 1))
    monkeypatch.setattr(baselines, "captioned_cifar", captioned)
    monkeypatch.setattr(baselines, "image_features", lambda cfg, module, images: images)
    metrics = baselines.noisy_prototype(config("eval.split=dev"), Workspace(tmp_path))
    assert metrics == {"zeroshot_top1": 1}
