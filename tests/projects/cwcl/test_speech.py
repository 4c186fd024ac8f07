"""The speech-text pair: frozen text encoder, cache, evaluators, towers, export (checklist 5, 10-17)."""

import json
import re

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from common.config import ROOT, UserError
from common.data.speech.waveforms import pad_waveforms
from common.engine.check import inspect
from common.engine.verbs import smoke_one
from common.engine.workspace import Workspace
from projects.cwcl import build
from projects.cwcl.spoken import build_module, recordings, training_data
from tests.projects.cwcl.conftest import config

WHISPER = (
    "speech_model.sizes={d_model: 16, encoder_layers: 1, encoder_attention_heads: 2, "
    "encoder_ffn_dim: 32, decoder_layers: 1, decoder_attention_heads: 2, decoder_ffn_dim: 32, "
    "max_source_positions: 50, vocab_size: 40, pad_token_id: 0, bos_token_id: 1, "
    "eos_token_id: 2, decoder_start_token_id: 1}"
)


def spoken(*words):
    return config(*words, name="smoke_speech")


def built(*words):
    torch.manual_seed(0)
    return build_module(spoken(*words))


@pytest.fixture
def recorded(tmp_path):
    """A manifest with intents, and Speech Commands' layout, of short tones."""
    rows = []
    for i, (text, intent) in enumerate(
        [
            ("wake me at six", "alarm_set"),
            ("play a song", "music_play"),
            ("stop it", "alarm_remove"),
        ]
    ):
        time = np.arange(4000 + 500 * i) / 16000
        sound = (0.3 * np.sin(2 * np.pi * (300 + 200 * i) * time) * 32767).astype(np.int16)
        wavfile.write(tmp_path / f"{i}.wav", 16000, sound)
        rows.append(
            json.dumps({"audio": f"{i}.wav", "duration": 0.3, "text": text, "intent": intent})
        )
        folder = tmp_path / "speech_commands_v0.02" / ("yes", "no", "up")[i]
        folder.mkdir(parents=True)
        for take in "abc":
            wavfile.write(folder / f"{take}.wav", 16000, sound)
    (tmp_path / "speech_commands_v0.02/testing_list.txt").write_text(
        "yes/a.wav\nno/a.wav\nup/a.wav\n"
    )
    (tmp_path / "speech_commands_v0.02/validation_list.txt").write_text("yes/b.wav\nno/b.wav\n")
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_items_5_and_14_the_text_encoder_stays_as_it_is_or_trains():
    """Checklist 5, 14: locked: no gradient, eval mode; unlocked (CLIP): both sides train."""
    for locked in (True, False):
        words = [] if locked else [
            "model.locked=false", "model.cache=false", "model.centred=false",
            "method.weight_mode=binary",
        ]  # fmt: skip
        cfg, module = spoken(*words), built(*words).train()
        batch = training_data(cfg, module).train_set[[(i, 0) for i in range(6)]]
        before = {k: v.clone() for k, v in module.text.state_dict().items()}
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
        module.losses(batch)["loss"].backward()
        optimizer.step()
        moved = [k for k, v in module.text.state_dict().items() if not torch.equal(v, before[k])]
        assert (moved == []) == locked
        assert module.text.training != locked
        assert module.speech.proj.weight.grad is not None


def test_item_10_cached_transcripts_give_the_loss_of_the_encoder():
    """Checklist 10: features of every different transcript, or its tokens through the encoder."""
    losses = []
    for cache in ("true", "false"):
        words = [f"model.cache={cache}", "speech_model.sizes.augment=false"]
        module = built(*words)
        data = training_data(spoken(*words), module)
        batch = data.train_set[[(i, 0) for i in (0, 9, 17, 30)]]
        assert ("frozen" in batch) == (cache == "true")
        losses.append(module.eval().losses(batch)["loss"].item())
        assert bool(module.mean.any())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_items_11_15_16_intents_keywords_and_structure(recorded, tmp_path):
    """Checklist 11, 15, 16: both evaluators, the text ceiling, retrieval, structure; from manifests."""
    cfg = spoken(
        f"data.root={recorded}", "speech.manifest=pairs.jsonl", "eval.intents=pairs.jsonl",
        "eval.keywords=speech_commands_v0.02",
    )  # fmt: skip
    torch.manual_seed(0)
    metrics = build(cfg).evaluate(build_module(cfg), Workspace(tmp_path / "run"))
    assert metrics["intent_top1_chance"] == pytest.approx(1 / 3)
    assert metrics["commands_keyword_top1_chance"] == pytest.approx(1 / 3)
    wanted = {"intent_top1_text", "structure_spearman", "structure_cka", "untrained_intent_top1"}
    assert wanted <= metrics.keys()
    assert "speech_to_text_recall_at_1" in metrics
    assert next(t.transcript for t in recordings(cfg, "train").targets) == "wake me at six"


@pytest.mark.parametrize("encoder", ["whisper", "wav2vec2"])
def test_item_13_speech_towers_can_be_chosen(encoder):
    """Checklist 13: Whisper's encoder and wav2vec 2.0, small and random, from the config alone."""
    sizes = {
        "whisper": WHISPER,
        "wav2vec2": "speech_model.sizes={hidden_size: 16, num_hidden_layers: 1, "
        "num_attention_heads: 2, intermediate_size: 32, conv_dim: [8, 8], conv_stride: [5, 4], "
        "conv_kernel: [10, 4], num_feat_extract_layers: 2, num_conv_pos_embeddings: 16, "
        "num_conv_pos_embedding_groups: 2}",
    }[encoder]
    cfg = spoken(f"speech_model.encoder={encoder}", "speech.manifest=x.jsonl", sizes)
    torch.manual_seed(0)
    module = build_module(cfg)
    waveforms, lengths = pad_waveforms([torch.randn(9000), torch.randn(16000)])
    found = module.speech(waveforms, lengths)
    assert found.shape == (2, 256)
    assert bool(torch.isfinite(found).all())
    with pytest.raises(UserError, match="reads 16 kHz"):
        built(f"speech_model.encoder={encoder}")


@pytest.mark.usefixtures("unrendered_figures")
def test_training_export_and_snippet(tmp_path, recorded):
    """Train, evaluate, export, reload with equal outputs; the card's five lines on a recording."""
    assert smoke_one("cwcl", tmp_path / "runs", config="smoke_speech") <= 1e-5
    card = (ROOT / "projects/cwcl/README.md").read_text(encoding="utf-8")
    snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1]
    (export,) = (tmp_path / "runs").glob("cwcl/smoke_speech/*/export")
    place = "runs/cwcl/mini_speech/<id>/export"
    assert place in snippet
    names: dict[str, torch.Tensor] = {}
    text = snippet.replace(place, str(export)).replace("one.wav", str(recorded / "0.wav"))
    exec(text, names)
    assert names["probabilities"].shape == (1, 2)


def test_wrong_settings_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="can't be locked"):
        built("speech_model.text=random")
    with pytest.raises(UserError, match="speech manifest"):
        recordings(spoken(f"data.root={tmp_path}", "speech.manifest=x.jsonl"), "train")


def test_check_names_what_the_paper_s_config_needs(tmp_path):
    """Item 17: encoders are loaded, never trained from scratch; what is absent is said."""
    assert inspect("cwcl", "mini_speech", [])["negatives per query"] == "99"
    rows = inspect("cwcl", "paper_speech", [f"data.root={tmp_path}"])
    assert rows["negatives per query"] == "799"
    assert any("MISSING" in value for value in rows.values())
