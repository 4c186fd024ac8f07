"""The speech-text pair: frozen text encoder, cache, evaluators, towers, export (checklist 5,
10-17).
"""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from common.config import ROOT, UserError
from common.data.speech.transcripts import SpokenTarget
from common.data.speech.waveforms import pad_waveforms
from common.engine.check import inspect
from common.engine.verbs import smoke_one
from common.engine.workspace import Workspace
from projects.cwcl import build
from projects.cwcl import spoken as spoken_module
from projects.cwcl.spoken import training_data
from projects.cwcl.spoken_sets import held_out_sets, num_recordings, require_sets, training_set
from projects.cwcl.spoken_towers import build_module
from projects.cwcl.structure import linear_cka, structure_spearman
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
        words = (
            []
            if locked
            else [
                "model.locked=false",
                "model.cache=false",
                "model.centred=false",
                "method.weight_mode=binary",
            ]
        )
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
    """Checklist 11, 15, 16: both evaluators, the text ceiling, retrieval, structure; from
    manifests.
    """
    cfg = spoken(
        f"data.root={recorded}",
        "speech.manifest=pairs.jsonl",
        "eval.intents=[pairs.jsonl]",
        "eval.keywords=speech_commands_v0.02",
    )
    torch.manual_seed(0)
    metrics = build(cfg).evaluate(build_module(cfg), Workspace(tmp_path / "run"))
    assert metrics["pairs_intent_top1_chance"] == pytest.approx(1 / 3)
    assert metrics["commands_keyword_top1_chance"] == pytest.approx(1 / 3)
    expected = {"intent_top1_text", "structure_spearman", "structure_cka", "untrained_intent_top1"}
    assert {f"pairs_{name}" for name in expected} <= metrics.keys()
    assert "pairs_speech_to_text_recall_at_1" in metrics
    assert {p.name for p in (tmp_path / "run/items").iterdir()} == {
        "pairs_intent_top1.json",
        "commands_keyword_top1.json",
    }
    assert next(t.transcript for t in training_set(cfg).targets) == "wake me at six"
    shown = tmp_path / "run/gallery/worst recordings pairs/gallery.json"
    assert "0.wav: wake me at six (alarm_set)" in shown.read_text()


def test_items_11_and_16_speech_is_compared_with_its_transcripts(monkeypatch):
    """Checklist 11, 16: recalls of a known order by hand, a recording a text; structure."""
    said = [f"say {word}" for word in ("one", "two", "three", "four", "five", "six")]
    targets = [SpokenTarget(f"intent_{i % 2}", (), text) for i, text in enumerate([*said, said[0]])]
    vectors = dict(zip([*said, "intent 0", "intent 1"], torch.eye(8), strict=True))
    module = SimpleNamespace(encode_texts=lambda texts: torch.stack([vectors[t] for t in texts]))
    speech = torch.eye(8)[[0, 0, 3, 2, 4, 5, 4]]
    speech[1, 1] = 0.75  # text 0 is nearest to it, and it to text 1
    held_out = SimpleNamespace(targets=targets)
    monkeypatch.setattr(spoken_module, "encode_speech", lambda *_: (speech, held_out))
    cfg = spoken("eval.structure_pairs=6")
    actual = spoken_module.zero_shot(cfg, module, held_out)
    assert actual["text_to_speech_recall_at_1"] == pytest.approx(4 / 6)
    assert actual["speech_to_text_recall_at_1"] == pytest.approx(3 / 6)
    names = torch.eye(8)[[6 + i % 2 for i in range(7)]]
    monkeypatch.setattr(spoken_module, "encode_speech", lambda *_: (names, held_out))
    assert spoken_module.zero_shot(cfg, module, held_out)["intent_top1"] == 1.0
    monkeypatch.setattr(spoken_module, "encode_speech", lambda *_: (speech, held_out))
    generator = torch.Generator().manual_seed(0)
    vectors |= {text: torch.randn(8, generator=generator) for text in said}
    speech = torch.randn(7, 8, generator=generator)
    actual = spoken_module.zero_shot(cfg, module, held_out)
    text = module.encode_texts(said)
    want = structure_spearman(text, speech[:6])
    assert actual["structure_spearman"] == want
    assert abs(want) < 0.9
    assert actual["structure_cka"] == linear_cka(text, speech[:6]) < 0.9


def test_item_11_the_untrained_module_subtracts_the_mean_of_the_trained_one(monkeypatch, tmp_path):
    """Both compare the same text vectors, so the difference is the speech encoder alone."""
    seen = []
    fresh, trained = SimpleNamespace(mean=torch.zeros(3)), SimpleNamespace(mean=torch.arange(3.0))
    monkeypatch.setattr(spoken_module, "untrained", lambda *_: fresh)
    monkeypatch.setattr(
        spoken_module,
        "zero_shot",
        lambda cfg, module, *_: seen.append(module.mean.tolist()) or {"intent_top1": 0.5},
    )
    scores = spoken_module.before_and_after(spoken(), trained, None, Workspace(tmp_path / "run"))
    assert seen == [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    assert scores == {"intent_top1": 0.5, "untrained_intent_top1": 0.5}


def manifest(folder, rows):
    lines = [json.dumps({"audio": "0.wav", **row}) for row in rows]
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_item_15_what_is_meant_is_never_trained_on(recorded):
    """Checklist 15: a recording without a word is left out; its intent doesn't stand in."""
    manifest(recorded, [{"text": "play it", "intent": "a"}, {"text": " ... ", "intent": "stop it"}])
    cfg = spoken(f"data.root={recorded}", "speech.manifest=own.jsonl")
    torch.manual_seed(0)
    data = training_data(cfg, build_module(cfg)).train_set
    assert (data.texts, len(data)) == (["play it"], 1)
    manifest(recorded, [{"text": "?!", "intent": "a"}])
    with pytest.raises(UserError, match="no training recording has a transcript"):
        training_set(cfg)


def test_item_15_both_intent_sets_of_the_paper_are_judged_whole(recorded):
    """Checklist 15: SLURP in its own layout beside a manifest; limits hold for training alone."""
    texts = recorded / "slurp/dataset/slurp"
    texts.mkdir(parents=True)
    (recorded / "slurp/audio/slurp_real").mkdir(parents=True)
    row = {"scenario": "alarm", "action": "set", "recordings": [{"file": "x.flac"}]}
    lines = [json.dumps({**row, "sentence": s}) for s in ("wake me", "wake me at six o'clock")]
    (texts / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = [
        f"data.root={recorded}",
        "speech.manifest=pairs.jsonl",
        "eval.intents=[slurp,pairs.jsonl]",
        "speech.max_characters=10",
    ]
    actual = dict(held_out_sets(spoken(*words)))
    assert {name: len(part) for name, part in actual.items()} == {"slurp_": 2, "pairs_": 3}
    assert {t.intent for t in actual["slurp_"].targets} == {"alarm_set"}
    assert [t.transcript for t in training_set(spoken(*words)).targets] == ["stop it"]
    rate = [words[0], words[2]]  # lengths of the source itself are not limited
    with pytest.raises(UserError, match="slurp has 16000 Hz, this model reads 8000 Hz"):
        dict(held_out_sets(spoken(*rate)))
    manifest(recorded, [{"text": "play it"}])
    with pytest.raises(UserError, match="intent"):
        dict(held_out_sets(spoken(*rate[:1], "eval.intents=[own.jsonl]")))


def test_all_recordings_come_at_the_rate_that_the_model_reads(recorded):
    """Speech Commands and manifests have 16 kHz, the towers of the digits 8 kHz."""
    from projects.cwcl.spoken_sets import command_set

    words = [f"data.root={recorded}", "eval.keywords=speech_commands_v0.02"]
    sizes = {len(w) for w in (command_set(spoken(*words)).waveforms[i] for i in range(3))}
    assert sizes == {2000, 2250, 2500}
    own = dict(held_out_sets(spoken(*words, "eval.intents=[pairs.jsonl]")))["pairs_"]
    assert len(own.waveforms[0]) == 2000


def test_named_sets_lie_below_the_root_of_data(tmp_path):
    for part in ("train", "held out"):
        cfg = spoken(f"data.root={tmp_path}", "speech.source=fsc")
        with pytest.raises(UserError, match=str(tmp_path)):
            training_set(cfg) if part == "train" else next(held_out_sets(cfg))
    with pytest.raises(UserError, match=r"speech.root has no effect.*data.root"):
        spoken(f"speech.root={tmp_path}")


def test_unreadable_recordings_are_left_out_of_the_evaluation(recorded):
    """Few are counted and skipped, as in training; many stop it with a sentence."""
    from projects.cwcl.spoken import encode_speech

    rows = [{"text": "play it", "intent": "a"}] * 39 + [
        {"audio": "x.wav", "text": "b", "intent": "b"}
    ]
    manifest(recorded, rows[::-1])
    cfg = spoken(f"data.root={recorded}", "speech.manifest=x", "eval.intents=[own.jsonl]")
    torch.manual_seed(0)
    module = build_module(cfg).eval()
    with torch.no_grad():
        actual, kept = encode_speech(cfg, module, dict(held_out_sets(cfg))["own_"])
    assert actual.shape == (39, 256)
    assert {t.intent for t in kept.targets} == {"a"}
    assert torch.allclose(actual.norm(dim=1), torch.ones(39))
    manifest(recorded, rows[-2:])
    with torch.no_grad(), pytest.raises(UserError, match="1 of 2 samples are corrupt"):
        encode_speech(cfg, module, dict(held_out_sets(cfg))["own_"])


def test_example_utterances_stand_in_for_the_names_of_intents(recorded):
    """The sheet's other reading of an intent's text: the mean of utterances' embeddings."""
    from projects.cwcl.spoken import class_texts

    path = recorded / "examples.json"
    path.write_text(json.dumps({"alarm_set": ["Wake me!", "alarm at six"], "x": ["y"]}), "utf-8")
    cfg = spoken(f"data.root={recorded}", "eval.intent_texts=examples.json")
    assert class_texts(cfg, ["alarm_set"]) == [["wake me", "alarm at six"]]
    assert class_texts(spoken(), ["alarm_set"]) == [["alarm set"]]
    with pytest.raises(UserError, match="no utterance of: alarm_remove"):
        class_texts(cfg, ["alarm_set", "alarm_remove"])
    path.write_text('{"alarm_set": "wake me"}', "utf-8")
    with pytest.raises(UserError, match="must contain"):
        class_texts(cfg, ["alarm_set"])


@pytest.mark.parametrize("encoder", ["whisper", "wav2vec2"])
def test_item_13_speech_towers_can_be_chosen(encoder):
    """Checklist 13: Whisper's encoder and wav2vec 2.0, small and random, from the config alone."""
    sizes = {
        "whisper": WHISPER,
        "wav2vec2": (
            "speech_model.sizes={hidden_size: 16, num_hidden_layers: 1, "
            "num_attention_heads: 2, intermediate_size: 32, conv_dim: [8, 8], conv_stride: [5, 4], "
            "conv_kernel: [10, 4], num_feat_extract_layers: 2, num_conv_pos_embeddings: 16, "
            "num_conv_pos_embedding_groups: 2}"
        ),
    }[encoder]
    words = [f"speech_model.encoder={encoder}", "speech.manifest=x.jsonl", sizes]
    with pytest.raises(UserError, match="field 'num_mels' is unknown"):  # of the small network
        build_module(spoken(*words))
    own = ("num_mels", "dim", "num_convs", "num_layers", "num_heads")
    cfg = spoken(*words, *(f"speech_model.sizes.{name}=null" for name in own))
    torch.manual_seed(0)
    module = build_module(cfg)
    waveforms, lengths = pad_waveforms([torch.randn(9000), torch.randn(16000)])
    actual = module.speech(waveforms, lengths)
    assert actual.shape == (2, 256)
    assert bool(torch.isfinite(actual).all())
    with pytest.raises(UserError, match="reads 16 kHz"):
        built(f"speech_model.encoder={encoder}")


@pytest.mark.slow
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
        training_set(spoken(f"data.root={tmp_path}", "speech.manifest=x.jsonl"))
    for words, message in (
        (["eval.datasets=[imagenet]"], "no meaning with pair=speech_text"),
        (["model.cache_dir=x"], "keeps features of images"),
        (["speech_model.pretrained=openai/whisper-base"], "has no pretrained weights"),
    ):
        with pytest.raises(UserError, match=message):
            spoken(*words)
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": null}\n')
    with pytest.raises(UserError, match="'text' must be a text"):
        training_set(spoken(f"data.root={tmp_path}", "speech.manifest=m.jsonl"))
    with pytest.raises(UserError, match=r"eval: stop/manifests/test.tsv not found"):
        require_sets(spoken(f"data.root={tmp_path}", "eval.intents=[stop/manifests/test.tsv]"))


def test_check_names_what_the_paper_s_config_needs(tmp_path):
    """Item 17: encoders are loaded, never trained from scratch; what is absent is said."""
    assert inspect("cwcl", "mini_speech", [])["negatives per query"] == "99"
    rows = inspect("cwcl", "paper_speech", [f"data.root={tmp_path}"])
    assert rows["negatives per query"] == "799"
    missing = {name for name, value in rows.items() if "MISSING" in value}
    assert {"eval: slurp", "eval: stop/manifests/test.tsv", "eval: Speech Commands"} <= missing
    _, trained = re.findall(r"[\d.]+", rows["parameters"])
    assert float(trained) == pytest.approx(20.2, abs=0.5)  # the encoder of Whisper's base model
    manifest(tmp_path, [{"text": "one"}, {"text": "two"}])
    cfg = spoken(f"data.root={tmp_path}", "speech.manifest=own.jsonl")
    assert num_recordings(cfg) == 2
    assert num_recordings(spoken("speech.manifest=absent.jsonl")) == 1_000_000
