"""Log-mel, SpecAugment, conv-Transformer, wav2vec 2.0, teacher snapshots."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common.config import UserError
from common.encoders.sinusoidal import sinusoidal_positions
from common.encoders.speech.speech_towers import (
    ConvTransformerEncoder,
    LogMel,
    SpecAugment,
    frame_mask,
    wav2vec2_encoder,
)
from projects.coconut.snapshot import FrozenTeacher
from projects.cwcl.speech.whisper import whisper_tower


def sounds():
    torch.manual_seed(0)
    lengths = torch.tensor([4000, 2500, 100])
    x = torch.randn(3, 4000) * frame_mask(lengths, 4000)
    return x, lengths


def test_log_mel_is_standardised_over_real_frames_only():
    x, lengths = sounds()
    frames, counts = LogMel(8000, 20)(x, lengths)
    assert frames.shape[2] == 20
    assert counts.tolist() == [1 + (4000 - 256) // 80, 1 + (2500 - 256) // 80, 1]
    one = frames[1, : counts[1]]
    assert float(one.mean(0).abs().max()) < 1e-4
    torch.testing.assert_close(one.std(0, correction=0), torch.ones(20), atol=1e-3, rtol=0)
    assert float(frames[1, counts[1] :].abs().max()) == 0
    alone, _ = LogMel(8000, 20)(x[1:2, :2500], lengths[1:2])
    torch.testing.assert_close(alone[0], one, rtol=1e-3, atol=1e-3)


def test_log_mel_tells_tones_apart():
    time = torch.arange(4000) / 8000
    bands = []
    for hertz in (300, 2500):
        mel = LogMel(8000, 20).spectrogram(torch.sin(2 * torch.pi * hertz * time)[None])
        bands.append(int(mel.mean(2).argmax()))
    assert bands[0] < bands[1]


def test_states_of_a_row_do_not_depend_on_its_padding():
    x, lengths = sounds()
    encoder = ConvTransformerEncoder(8000, dim=16, num_heads=2).eval()
    with torch.no_grad():
        together, counts = encoder(x, lengths)
        alone, own = encoder(x[1:2, :2500], lengths[1:2])
    assert own[0] == counts[1]
    torch.testing.assert_close(together[1, : own[0]], alone[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0, : own[0]], alone[0], atol=1e-2)


def test_spec_augment_masks_in_training_only_and_each_row_differently():
    torch.manual_seed(0)
    frames = torch.ones(4, 30, 20)
    augment = SpecAugment(freq_width=6, time_width=8)
    masked = augment.train()(frames)
    assert 0 < float((masked == 0).float().mean()) < 0.9
    assert not torch.equal(masked[0], masked[1])
    assert torch.equal(augment.eval()(frames), frames)


SMALL = {
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
    "feat_extract_norm": "layer",
}


def test_wav2vec_takes_true_lengths():
    encoder = wav2vec2_encoder("random", SMALL).eval()
    assert encoder.masked
    assert encoder.model.config.layerdrop == 0
    x, lengths = sounds()
    with torch.no_grad():
        states, counts = encoder(x[:2], lengths[:2])
        loud, _ = encoder(5 * x[:2], lengths[:2])
    assert states.shape[0] == 2
    assert int(counts[0]) == states.shape[1]
    assert int(counts[1]) < states.shape[1]
    torch.testing.assert_close(states[0], loud[0], rtol=1e-3, atol=1e-3)
    assert not encoder.train().model.feature_extractor.training
    with pytest.raises(UserError, match="needs a folder or an id"):
        wav2vec2_encoder("torchvision:resnet18")


def test_weights_fill_the_encoder_or_are_refused(tmp_path):
    """They began at random where their names or their kind were others, with a table in the log."""
    with pytest.raises(UserError, match="is a model of kind bert; wav2vec2 is needed"):
        wav2vec2_encoder("bundled:text-encoder")
    with pytest.raises(UserError, match="is a model of kind bert; whisper is needed"):
        whisper_tower("bundled:text-encoder")
    model = wav2vec2_encoder("random", SMALL).model.half()
    model.save_pretrained(tmp_path)
    actual = wav2vec2_encoder(str(tmp_path))
    assert actual.model.dtype == torch.float32  # whatever the file has
    assert actual.model.training
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "intermediate_dense.weight" not in k},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(
        UserError,
        match=(
            r"does not fill Wav2Vec2Model: 1 tensors such as .*intermediate_dense.weight would"
            r" start at random"
        ),
    ):
        wav2vec2_encoder(str(tmp_path))


@pytest.mark.parametrize("build", [wav2vec2_encoder, whisper_tower])
def test_sizes_that_have_no_effect_are_refused(build, tmp_path):
    with pytest.raises(UserError, match="'hiden_size' is unknown; did you mean .*hidden_size"):
        build("random", {"hiden_size": 16})
    with pytest.raises(UserError, match="says model_type='bert'"):
        build("random", {"model_type": "bert"})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has its own architecture: leave out num_layers"):
        build(str(tmp_path), {"num_layers": 16})


def test_wrong_sizes_and_stored_ones():
    with pytest.raises(UserError, match="conv"):
        wav2vec2_encoder("random", {**SMALL, "conv_dim": [8]})
    stored = wav2vec2_encoder("random", SMALL).model.config.to_diff_dict()
    assert wav2vec2_encoder("random", {**stored, "left_by_its_authors": 1}).dim == 16


def test_positions_are_sines_and_cosines():
    code = sinusoidal_positions(3, 4, torch.empty(0))
    torch.testing.assert_close(code[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(code[2, 0], torch.tensor(2.0).sin())
    torch.testing.assert_close(code[2, 3], torch.tensor(0.02).cos())


def test_frozen_teacher_is_apart_from_its_origin():
    layer = nn.Linear(2, 2)
    teacher = FrozenTeacher(layer)
    with torch.no_grad():
        layer.weight.zero_()
    assert float(teacher.network.weight.abs().sum()) > 0
    assert not teacher.network(torch.ones(1, 2)).requires_grad
    assert "network.weight" in teacher.state_dict()
