"""Towers that are given: the bundled ResNet-20 has its card's accuracy; Whisper's front end; bag of
words.
"""

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.image.labelled import load_cifar10
from common.data.image.sources import EvalTransform
from common.data.lookup import BUNDLED
from common.encoders.image.cifar_resnet import CifarResNet, EarlyStages, cifar_resnet
from common.encoders.image_text.bag_of_words import BagOfWords
from projects.cwcl.speech.whisper import WhisperLogMel, whisper_tower
from scripts.pretrain.figures import stated

FOLDER = BUNDLED / "models" / "cifar-resnet20"


@torch.inference_mode()
def accuracy(network: CifarResNet, num: int = 2000) -> float:
    test = load_cifar10(None, "test")
    images = EvalTransform(32).batch(test.images[:num])
    actual = torch.cat([network.logits(part) for part in images.split(250)]).argmax(1)
    return float((actual == test.labels[:num]).double().mean())


@pytest.mark.slow
def test_the_bundled_resnet_has_the_accuracy_of_its_card():
    network = cifar_resnet(20, "bundled:cifar-resnet20").eval()
    assert accuracy(network) == pytest.approx(stated(FOLDER)["accuracy"], abs=0.002)
    assert (FOLDER / "model.safetensors").stat().st_size < 2_000_000
    with torch.no_grad():  # the mutant: another shortcut
        network.layer2[0].pad = 0
        with pytest.raises(RuntimeError):
            network.logits(torch.zeros(1, 3, 32, 32))


@torch.inference_mode()
def test_early_stages_are_quarters_of_the_map_that_the_last_stage_reads():
    network = cifar_resnet(20, "bundled:cifar-resnet20").eval()
    early = EarlyStages(network)
    read = []
    network.layer3.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network(images)
    corner = read[0][:, :, :8, 8:].mean((2, 3))  # 16 x 16 places: above, right
    actual = early(images).view(2, 32, 2, 2)
    assert early.num_features == actual[0].numel()
    assert torch.allclose(actual[:, :, 0, 1], corner, atol=1e-6)
    assert not any(name.startswith(("layer3", "linear")) for name in early.state_dict())


def test_weights_of_another_depth_are_refused():
    with pytest.raises(UserError):
        cifar_resnet(32, "bundled:cifar-resnet20")
    with pytest.raises(UserError, match="6n"):
        CifarResNet(21)


def test_bag_of_words_is_the_mean_of_what_stands_between_start_and_end():
    tower = BagOfWords(10, 4)
    tokens = torch.tensor([[8, 3, 5, 9, 0], [8, 9, 0, 0, 0]])
    actual = tower(tokens)
    table = tower.embedding.weight
    assert torch.allclose(actual[0], (table[3] + table[5]) / 2)
    assert not bool(actual[1].any())
    assert torch.allclose(tower(torch.tensor([[8, 5, 3, 9, 7]]))[0], actual[0])


def test_whisper_features_are_those_of_the_library():
    from transformers import WhisperFeatureExtractor

    sound = np.sin(np.arange(7000) / 11).astype(np.float32) * 0.2
    expected = WhisperFeatureExtractor(chunk_length=1)(
        sound, sampling_rate=16000, return_tensors="pt"
    )
    actual = WhisperLogMel(num_frames=100)(torch.from_numpy(sound)[None])
    torch.testing.assert_close(actual, expected["input_features"], atol=1e-4, rtol=1e-4)


def test_whisper_counts_the_states_of_the_recording():
    sizes = {
        "d_model": 8,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
        "vocab_size": 9,
        "max_source_positions": 25,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    tower = whisper_tower("random", sizes).eval()
    states, real = tower(torch.randn(3, 9000), torch.tensor([320, 321, 9000]))
    assert states.shape == (3, 25, 8)
    assert real.tolist() == [1, 2, 25]
    with pytest.raises(UserError, match="whisper needs a folder"):
        whisper_tower("timm:resnet18")
