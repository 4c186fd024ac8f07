"""Network, evaluation, export and the commands."""

import json

import pytest
import torch

from common.config import UserError
from common.data.speech.transcripts import SpokenTarget
from common.engine.check import inspect
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from projects.coconut import build, load
from projects.coconut.data import build_tokenizer
from projects.coconut.history import History
from projects.coconut.module import Coconut
from projects.coconut.network import build_network, network_options
from projects.coconut.speech.options import BeamSearch
from projects.coconut.speech.recognizer import Recognizer
from projects.coconut.speech.speech_to_text import build_speech_to_text, exported_options
from projects.coconut.speech.tokenizer import TranscriptTokenizer
from projects.coconut.stages import Task
from tests.cards import exported_by
from tests.projects.coconut.conftest import batch, config, module_of

PAPERS = (
    "paper",
    "paper_fsc3",
    "paper_slurp6",
    "paper_slurp3",
    "paper_slurp6_random_order",
    "paper_fsc6_sequence_kd",
)
TINY_WAV2VEC = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


def train_smoke(folder, *overrides):
    return train("coconut", "smoke", [f"runs_dir={folder}", *overrides])


def test_item_8_and_9_pooling_ignores_padding_and_special_tokens_and_vectors_are_unit():
    """Items 8, 9: longer zero-padding and special tokens around the words change nothing."""
    network, data = module_of().network.eval(), batch(3, 0)
    longer = torch.nn.functional.pad(data["waveforms"], (0, 700))
    for row, length in enumerate(data["lengths"].tolist()):
        longer[row, length:] = 0
        data["waveforms"][row, length:] = 0
    with torch.no_grad():
        one, two = (
            network.embed_audio(*network.encode(w, data["lengths"]))
            for w in (data["waveforms"], longer)
        )
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        bare = network.embed_text(torch.tensor([[7, 8]]))
        dressed = network.embed_text(torch.tensor([[2, 7, 4, 8, 3, 0, 0]]))
        other = network.embed_text(torch.tensor([[7, 9]]))
    torch.testing.assert_close(bare, dressed)
    assert not torch.allclose(bare, other, atol=1e-3)
    for x in (one, bare):
        torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)))


def test_item_8_negative_twin_real_frames_count():
    """Item 8: the padding test can fail: more real frames change the embedding."""
    network, data = module_of().network.eval(), batch(1, 0)
    with torch.no_grad():
        one = network.embed_audio(*network.encode(data["waveforms"], data["lengths"]))
        two = network.embed_audio(*network.encode(data["waveforms"], data["lengths"] - 800))
    assert not torch.allclose(one, two, atol=1e-4)


@pytest.mark.usefixtures("unrendered_figures")
def test_item_10_wav2vec_feature_extractor_is_frozen_the_rest_trains(tmp_path):
    """Item 10: and the exported folder reloads with equal outputs."""
    words = [f"model.wav2vec2={json.dumps(TINY_WAV2VEC)}", "model.encoder=wav2vec2"]
    module = module_of(*words)
    module.losses(batch())["loss"].backward()
    for name, parameter in module.network.named_parameters():
        frozen = "feature_extractor" in name or "masked_spec_embed" in name
        assert parameter.requires_grad is not frozen, name
        assert (parameter.grad is None) is frozen, name
    assert not module.network.encoder.model.feature_extractor.training
    options = exported_options(network_options(config(*words), 12), module.network)
    again = build_speech_to_text(**json.loads(json.dumps(options)))
    again.load_state_dict(module.network.state_dict())
    data = batch(2, 0)
    with torch.no_grad():
        one, two = (
            n.eval().encode(data["waveforms"], data["lengths"])[0] for n in (module.network, again)
        )
    assert torch.equal(one, two)


def test_a_run_from_named_weights_is_opened_in_their_architecture(tmp_path):
    """Of weights that are not wav2vec 2.0's base, it had the base's sizes."""
    encoder = module_of(
        f"model.wav2vec2={json.dumps(TINY_WAV2VEC)}", "model.encoder=wav2vec2"
    ).network.encoder
    encoder.model.save_pretrained(tmp_path)
    words = ["model.encoder=wav2vec2", f"model.pretrained={tmp_path}"]
    trained, opened = module_of(*words), build(config(*words)).plan().module()
    opened.network.encoder.load_state_dict(trained.network.encoder.state_dict())
    assert trained.network.encoder.model.training  # its dropout acts in training


def test_item_15_the_intent_is_generated_text_and_nothing_grows_with_the_tasks():
    """Item 15: the same parameters in every task; the output is a token sequence."""
    sizes = [sum(p.numel() for p in module_of(task=t).network.parameters()) for t in (0, 1, 2)]
    assert len(set(sizes)) == 1
    module, data = module_of(), batch(2, 0)
    with torch.no_grad():
        network, search = module.eval().network, BeamSearch(2, max_length=8)
        tokens = network.transcribe(data["waveforms"], data["lengths"], search)
    assert tokens[:, 0].tolist() == [2, 2]
    assert tokens.shape[1] <= 9


@pytest.mark.slow
def test_smoke_run_reports_accuracy_errors_and_pictures(tmp_path):
    """Item 12: metrics agree with the saved items; heat map and curves exist."""
    run = train_smoke(tmp_path)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    expected = {
        "avg_accuracy",
        "last_accuracy",
        "forgetting",
        "backward_transfer",
        "avg_wer",
        "last_wer",
        "last_cer",
        "avg_transcript_wer",
        "old_class_cosine",
        "unseen_speaker_accuracy",
        "last_accuracy_task3",
        "last_accuracy_chance",
    }
    assert expected <= metrics.keys()
    for name in ("avg_accuracy", "last_accuracy", "unseen_speaker_accuracy"):
        items = json.loads((run / f"items/{name}.json").read_text(encoding="utf-8"))
        assert sum(items) / len(items) == pytest.approx(metrics[name])
    pictures = {p.stem for p in (run / "plots").glob("*.png")}
    assert {"task_accuracy", "accuracy_curves", "wer_curve", "features"} <= pictures
    rows = [json.loads(x) for x in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 48
    assert {"file", "scenario", "action", "entities"} <= rows[0].keys()
    assert len(json.loads((run / "gallery/generated/gallery.json").read_text())) == 12
    log = (run / "metrics.csv").read_text()
    assert all(f"train/{t}" in log for t in ("ce", "mm", "nspt_audio", "nspt_text"))
    assert "val/intent_accuracy" in log


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_best_epoch_is_kept_and_early_ones_cannot_win(tmp_path):
    run = train_smoke(
        tmp_path,
        "method.select=best",
        "method.select_from_epoch=1",
        "trainer.val_every_n_steps=1",
        "data.num_tasks=2",
    )
    assert all((run / f"checkpoints/task{t}/best.ckpt").exists() for t in (1, 2))
    with pytest.raises(UserError, match="needs trainer.val_every_n_steps"):
        config("method.select=best", "trainer.val_every_n_steps=null")


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_offline_arm_is_one_stage_with_all_classes(tmp_path):
    run = train_smoke(
        tmp_path,
        "method.setting=offline",
        "method.mm_weight=0",
        "method.nspt_weight=0",
        "trainer.max_steps=2",
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["avg_accuracy"] == pytest.approx(metrics["last_accuracy"])
    assert "forgetting" not in metrics
    assert "last_accuracy_task3" in metrics


@pytest.mark.parametrize("arm", read_comparison("coconut").arms)
def test_every_arm_of_the_comparison_takes_a_step(arm):
    own = [f"{key}={json.dumps(v)}" for key, v in read_comparison("coconut").arms[arm].items()]
    module = module_of(*own)
    if len(module.hypotheses):
        module.hypotheses.copy_(torch.tensor([2, 6, 4, 7, 3, 0, 0, 0, 0]))
    num_memory = 3 if module.method.rehearses else 0
    terms = module.losses(batch(6, num_memory))
    assert torch.isfinite(terms["loss"])
    assert ("nspt_audio" in terms) == module.method.uses_nspt


def test_export_gives_equal_outputs_and_the_card_s_lines_work(tmp_path):
    cfg = config()
    experiment, shared = build(cfg), Task(cfg)
    torch.manual_seed(0)
    module = shared.module(2).eval()
    with torch.inference_mode():
        experiment.export(module, tmp_path)
        before = experiment.embed(module)
        after = experiment.embed(experiment.load_export(tmp_path))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6)
    recognize = Recognizer.load(tmp_path)
    spoken = shared.test.spoken
    actual = recognize([spoken.waveforms[i] for i in range(3)], BeamSearch(max_length=8))
    assert len(actual) == 3
    assert isinstance(actual[0], SpokenTarget)
    seen, transcribe = [], recognize.network.transcribe
    recognize.network.transcribe = lambda waves, *rest: (
        seen.append(len(waves)),
        transcribe(waves, *rest),
    )[1]
    assert recognize([]) == []
    assert len(recognize([spoken.waveforms[i] for i in range(3)], BeamSearch(max_length=4), 2)) == 3
    assert seen == [2, 1]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer.json"):
        Recognizer.load(tmp_path)


def test_an_exported_model_searches_as_its_run_did(tmp_path):
    """It took five beams and forty tokens, whatever the run had: longer answers were cut."""
    words = ["eval.beam_size=2", "eval.max_length=3", "eval.length_power=0.5"]
    cfg = config(*words)
    network = build_network(cfg, len(build_tokenizer(cfg)))
    build(cfg).export(Coconut(cfg, network, 0).eval(), tmp_path)
    exported_by("coconut", tmp_path, words)
    recognize, seen = load(tmp_path), []
    token = torch.tensor([[2, 6, 4, 6, 3]])
    recognize.network.transcribe = lambda waves, lengths, search: (seen.append(search), token)[1]
    recognize([torch.zeros(4000)])
    recognize([torch.zeros(4000)], BeamSearch(max_length=8))
    assert seen == [BeamSearch(2, 0.5, 3), BeamSearch(max_length=8)]


def test_history_knows_what_was_not_evaluated():
    """Item 12: rates and results of a hand-made history."""
    history = History(2, 3, 2)
    assert not history.complete()
    rows, tasks = torch.arange(3), torch.tensor([0, 0, 1])
    history.record(0, rows[:2], torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([0, 1]))
    history.record(1, rows, torch.tensor([0, 0, 1]), torch.tensor([3, 3, 0]), torch.zeros(3))
    assert history.complete()
    matrix = history.results(tasks).matrix()
    assert matrix[0, 0] == 0.5
    assert matrix[0, 1].isnan()
    assert matrix[1].tolist() == [0.0, 1.0]
    assert history.word_error_rates(history.edits_full, torch.tensor([2, 2, 2])) == [0.5, 1.0]
    history.record_features(0, rows[:2], torch.eye(2), torch.zeros(2, dtype=torch.bool))
    turned = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    history.record_features(1, rows, turned, tasks < 1)
    assert history.cosine[0].isnan()
    assert float(history.cosine[1]) == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_check_builds_the_paper_s_model_and_names_what_is_missing(name, tmp_path):
    rows = inspect("coconut", name, [f"data.root={tmp_path}"])
    assert any("MISSING" in value for value in rows.values())
    assert rows["negatives per query"] == "31"
    assert config(name=name).data.slots == ("slurp" in name)  # entities, for SLU-F1
    assert float(rows["parameters"].split()[0]) > 250  # student and teacher


@pytest.mark.parametrize(
    ("source", "message"),
    [("fsc", "Fluent Speech Commands not found"), ("slurp", "SLURP not found")],
)
def test_missing_data_is_said_before_training(source, message, tmp_path):
    cfg = config(f"data.root={tmp_path}", f"data.source={source}")
    with pytest.raises(UserError, match=message):
        next(build(cfg).stages())


def test_targets_longer_than_the_decoder_may_write_are_refused():
    with pytest.raises(UserError, match="shorter than the longest target"):
        Task(config("eval.max_length=3"))


def test_tokenizers_of_other_kinds_are_refused():
    with pytest.raises(UserError, match="not a tokenizer"):
        TranscriptTokenizer("{}")
