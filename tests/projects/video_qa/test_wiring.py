"""Metrics of a set's protocol, sources and branches: what the config says reaches them."""

from types import SimpleNamespace

import pytest
import torch

from projects.video_qa import data
from projects.video_qa import evaluate as evaluation
from projects.video_qa import module as method
from projects.video_qa.clips.clips import Question
from projects.video_qa.data import judging, layout_of, load_part, main_rows, pretraining_rows
from projects.video_qa.evaluate import Judged, counts, judged_part, metrics_of
from projects.video_qa.module import VideoQA
from tests.projects.video_qa.conftest import batch_of, config, network_of, rows_of

TVQA = ["data.source=tvqa", "model.streams=text"]


def asked(**fields):
    return Question("q", "clip", "where is it", ("a", "b"), 0, **fields)


def test_a_set_has_the_metrics_of_its_protocol_and_others_have_all():
    """TVQA+ has spans, DramaQA levels, TVQA neither; an answer that is wrong has no ASA."""
    questions = (asked(span=(0, 1), level=1), asked(span=(0, 1), level=2))
    judged = Judged([0, 1], [0.9, 0.8], [])
    found = {}
    for source in ("tvqa", "tvqa_plus", "dramaqa", "synthetic"):
        words = [f"data.source={source}", "model.streams=text"]
        metrics = metrics_of(config(*words), questions, judged, None)
        found[source] = ("miou" in metrics, "accuracy_level_1" in metrics)
    assert found == {
        "tvqa": (False, False),
        "tvqa_plus": (True, False),
        "dramaqa": (False, True),
        "synthetic": (True, True),
    }
    assert metrics["asa"] == 0.5


def test_the_split_and_the_arms_questions_are_counted(monkeypatch):
    read = []
    loaded = load_part(config(), "dev")
    monkeypatch.setattr(evaluation, "load_part", lambda cfg, part: read.append(part) or loaded)
    for split in ("dev", "test"):
        judged_part(config(f"eval.split={split}"))
    assert read == ["dev", "test"]
    plain, none = (counts(config(f"pretrain.steps={steps}")) for steps in (2, "null"))
    assert plain["pretraining_questions"] == plain["train_questions"] == len(loaded.questions)
    assert none["pretraining_questions"] == 0


def test_judged_clips_are_the_same_for_every_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(
        "projects.video_qa.simulated.simulated_set",
        lambda root, part, count, seed: seeds.append((part, seed)) or data.synthetic_set("dev", 4),
    )
    cfg = config("data.source=simulated", "seed=7")
    for part in ("train", "test"):
        load_part(cfg, part)
    assert seeds == [("train", 7), ("test", 0)]


def test_features_and_objects_of_another_source_are_those_of_the_command():
    own = config("data.source=tvqa", "data.features=own.h5", "data.objects=own.jsonl")
    for source, features in (("tvqa", "own.h5"), ("dramaqa", "other.h5")):
        command = config(f"data.source={source}", "data.features=other.h5")
        assert judging(command, own).data.features == features


def test_pre_training_is_not_localised_and_draws_as_the_config_says(monkeypatch):
    asked = []
    predict = data.QuestionPrediction
    monkeypatch.setattr(
        data, "QuestionPrediction", lambda *args: asked.append(args[2:5]) or predict(*args)
    )
    words = ["data.localised=true", "method.localisation_weight=0", "pretrain.distractors=show"]
    cfg = config(*words, "pretrain.candidates=3", "method.mask_prob=0.4")
    localised = [layout_of(cfg, pretraining=p).localised for p in (False, True)]
    assert localised == [True, False]
    loaded, rows = load_part(cfg, "train"), rows_of(cfg)
    assert rows.masking.probability == 0.4
    assert not pretraining_rows(cfg, loaded, rows.words).layout.localised
    assert asked == [(3, "show", cfg.pretrain.answer)]
    assert main_rows(cfg, loaded, rows.words, training=False).masking is None


def test_features_are_bounded_and_objects_are_read(monkeypatch, tmp_path):
    made = {}

    class Files:
        def __init__(self, path, fps, dim, *, max_frames):
            made.update(fps=fps, dim=dim, max_frames=max_frames)

        def __contains__(self, name):
            return True

    monkeypatch.setattr(data, "FeatureFiles", Files)
    cfg = config("data.source=tvqa", "data.features=x", "data.max_frames=17", "data.fps=2")
    data._features(cfg, tmp_path, ["clip"])
    assert made == {"fps": 2, "dim": cfg.data.feature_dim, "max_frames": 17}
    read = []
    monkeypatch.setattr(data, "read_objects", lambda path: read.append(path) or {})
    monkeypatch.setattr(data, "with_objects", lambda found, objects: found)
    load_part(config("data.objects=o.jsonl", f"data.root={tmp_path}"), "dev")
    assert read == [tmp_path / "o.jsonl"]


def test_the_contrast_has_the_options_of_the_config(monkeypatch):
    given = {}
    contrast = method.masked_contrast

    def watched(*args, **options):
        given.update(options)
        return contrast(*args, **options)

    monkeypatch.setattr(method, "masked_contrast", watched)
    words = ["method.similarity=cosine", "method.temperature=0.3", "method.stop_gradient=true"]
    cfg = config(*words)
    VideoQA(cfg, network_of(cfg)).losses(batch_of(cfg))
    assert given == {"similarity": "cosine", "temperature": 0.3, "stop_gradient": True}


def test_pre_training_has_no_spans_and_warms_up_by_its_own_length(monkeypatch):
    cfg = config("method.warmup_share=0.5", "optim.warmup_steps=1", "optim.weight_decay=0.2")
    network = network_of(cfg)
    for phase in ("pretrain", "main"):
        module = VideoQA(cfg, network, phase)
        trained = {p.requires_grad for p in network.span_head.parameters()}
        assert trained == {phase == "main"}
    monkeypatch.setattr(method.ContrastiveModule, "configure_optimizers", lambda self: None)
    module._trainer = SimpleNamespace(max_steps=10)
    monkeypatch.setattr(type(module), "trainer", property(lambda self: self._trainer))
    module.configure_optimizers()
    assert module.optim.warmup_steps == 6
    encoder = {id(p) for n, p in module.named_parameters() if n.startswith("network.encoder.")}
    decays = {
        group["weight_decay"]
        for group in module.parameter_groups()
        if encoder & {id(p) for p in group["params"]}
    }
    assert decays == {0.0, 0.2}


def test_attention_of_sentences_without_frames_does_not_count():
    out = SimpleNamespace(looked=torch.tensor([[[[0.5, 0.5], [0.9, 0.1]]]]))
    batch = {
        "frame_spans": torch.tensor([[[True, False], [False, False]]]),
        "sentence_mask": torch.tensor([[True, True]]),
    }
    assert evaluation._own_span(batch, out, torch.tensor([0])) == [0.5]


def test_a_span_ends_with_its_last_sentence(monkeypatch):
    logits = torch.zeros(1, 2, 2)
    logits[0, 0, 0] = logits[0, 1, 1] = 5.0  # first to second sentence
    network = SimpleNamespace(span_head=1, span_logits=lambda out, best: logits)
    batch = {
        "sentence_mask": torch.tensor([[True, True]]),
        "sentence_times": torch.tensor([[[0.0, 1.0], [2.0, 4.0]]]),
        "span_seconds": torch.tensor([[0.0, 4.0]]),
    }
    ious = evaluation._ious(SimpleNamespace(network=network), batch, None, torch.tensor([0]))
    assert ious == [pytest.approx(1.0)]
