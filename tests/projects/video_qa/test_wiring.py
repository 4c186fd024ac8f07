"""Metrics of a set's protocol, sources and branches: what the config says reaches them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.engine.workspace import Workspace
from projects.video_qa import baselines, data
from projects.video_qa import evaluate as evaluation
from projects.video_qa import module as method
from projects.video_qa.clips.batches import Words, _nearest_sentence
from projects.video_qa.clips.clips import Clip, Question, Sentence
from projects.video_qa.data import judging, layout_of, load_part, main_rows, pretraining_rows
from projects.video_qa.evaluate import Judged, counts, judged_part, metrics_of
from projects.video_qa.module import VideoQA
from projects.video_qa.network import build_tokenizer
from projects.video_qa.stages import stages
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
    command = config("data.test_questions=20", "trainer.accelerator=auto", "eval.limit=3")
    asked = judging(command, own)
    assert (asked.data.test_questions, asked.trainer, asked.eval) == (
        20,
        command.trainer,
        command.eval,
    )


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
    words = ["data.source=tvqa", "data.max_frames=17", "data.fps=2"]
    cfg = config(*words, "data.features=x")
    data._features(cfg, tmp_path, ["clip"])
    assert made == {"fps": 2, "dim": cfg.data.feature_dim, "max_frames": 17}
    monkeypatch.setattr(data, "FeatureTable", lambda *_, **__: ["clip"])
    for name in ("x.h5", "x.hdf5"):
        assert data._features(config(*words, f"data.features={name}"), tmp_path, ["clip"]) == [
            "clip"
        ]
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
    groups = module.parameter_groups()
    for encoder in (True, False):
        own = {
            id(p)
            for n, p in module.named_parameters()
            if n.startswith("network.encoder.") == encoder
        }
        decays = {g["weight_decay"] for g in groups if own & {id(p) for p in g["params"]}}
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


def test_accuracy_with_masked_inputs_is_that_of_its_rate_with_one_draw_for_all_seeds(
    monkeypatch, tmp_path
):
    cfg = config("eval.mask_probs=[0.3,1.0]", "eval.limit=4", "eval.figures=0")
    module = VideoQA(cfg, network_of(cfg))
    loaded, words = judged_part(cfg), Words(build_tokenizer(cfg))
    drawn = []
    monkeypatch.setattr(
        evaluation, "masked_ids", lambda ids, *rest: drawn.append(rest[2].initial_seed()) or ids
    )
    for seed in (0, 9):
        evaluation.judge(config(f"seed={seed}"), module.eval(), loaded, words, 0.5)
    assert len(set(drawn)) == 1
    right = [q.answer for q in loaded.questions]
    hits = {0.0: 4, 0.3: 3, 1.0: 1}

    def judge(*args):
        count = hits[args[4] if len(args) > 4 else 0.0]
        return Judged([*right[:count], *([-1] * (4 - count))], [None] * 4)

    monkeypatch.setattr(evaluation, "judge", judge)
    metrics = evaluation.evaluate(cfg, module, Workspace(tmp_path))
    names = ("accuracy", "accuracy_masked_0.3", "accuracy_masked_1")
    assert [metrics[name] for name in names] == [1.0, 0.75, 0.25]


def test_chance_is_that_of_each_question_s_candidates():
    questions = (asked(), Question("r", "clip", "who", ("a", "b", "c", "d"), 0))
    chance = metrics_of(config(), questions, Judged([0, 0], [None] * 2), None)["accuracy_chance"]
    assert chance == (1 / 2 + 1 / 4) / 2


def test_fewer_training_questions_are_drawn_from_all_by_the_seed():
    whole = load_part(config(), "train").questions
    drawn = [
        [
            whole.index(q)
            for q in load_part(config("data.train_questions=10", word), "train").questions
        ]
        for word in ("seed=0", "seed=1")
    ]
    assert drawn[0] != drawn[1]
    for places in drawn:
        assert len(places) == 10
        assert places == sorted(places)
        assert max(places) > 20


def test_parts_of_the_bundled_questions_share_no_clip():
    parts = [data.bundled_questions(None, part) for part in ("train", "dev", "test")]
    clips = [{q.clip for q in part.questions} for part in parts]
    assert sum(map(len, clips)) == len(set.union(*clips))
    assert all(part.clips.keys() == own for part, own in zip(parts, clips, strict=True))


def test_validation_is_on_the_development_part_and_counts_each_time_anew(monkeypatch):
    cfg = config("data.batch_size=2", "eval.batch_size=5")
    main = list(stages(cfg))[-1]
    dev = main.data.val_sets["dev"]
    assert set(dev.clips) == set(load_part(cfg, "dev").clips)
    assert (main.data.eval_batch_size, main.monitor) == (5, "val/accuracy")
    logged, module = [], main.module.eval()
    monkeypatch.setattr(module, "log", lambda name, value: logged.append(float(value)))
    hits = []
    for places in (range(9), range(9, 11), range(11, 16)):
        batch = dev.collate(places)
        module.validation_step(batch, 0)
        hits.append(module.network(batch).scores.argmax(1).eq(batch["labels"]).tolist())
        if len(hits) > 1:
            module.on_validation_epoch_end()
    first, second = [*hits[0], *hits[1]], hits[2]
    assert logged == pytest.approx([sum(first) / 11, sum(second) / 5])


def test_a_frame_of_two_sentences_is_told_the_first():
    spans = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]], dtype=bool)
    assert _nearest_sentence(spans).tolist() == [0, 0, 0, 1, 1]


def chosen_of(baseline, monkeypatch, loaded, *words):
    """What a baseline chooses."""
    told = []
    monkeypatch.setattr(baselines, "judged_part", lambda cfg: loaded)
    monkeypatch.setattr(
        baselines, "metrics_of", lambda cfg, questions, judged, place: told.append(judged.chosen)
    )
    baseline(config(*words), None)
    return told[0]


def test_baselines_of_words_take_the_nearest_sentence_to_question_and_answer(monkeypatch):
    said = ("anna drinks cold tea", "bob drinks warm milk", "milk is here", "milk is there")
    clip = Clip("clip", tuple(Sentence(i, i + 1, text) for i, text in enumerate(said)))
    questions = (
        Question("0", "clip", "who drinks cold tea", ("milk", "anna"), 1),
        Question("1", "clip", "anna drinks", ("warm milk", "tea"), 1),
    )
    loaded = data.Loaded(questions, {"clip": clip}, None)
    assert chosen_of(baselines.subtitle_words, monkeypatch, loaded) == [1, 1]
    assert chosen_of(baselines.longest, monkeypatch, loaded) == [0, 0]
    many = data.Loaded(questions * 20, {"clip": clip}, None)
    drawn = [chosen_of(baselines.chance, monkeypatch, many, f"seed={s}") for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
