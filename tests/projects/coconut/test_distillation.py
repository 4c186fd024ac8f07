"""What the module's MM and distillation terms are, worked out by hand."""

import pytest
import torch
from torch.nn import functional as F

from common.data.corrupt import CorruptCounter
from projects.coconut.objective import mm_loss
from projects.coconut.speech.special_tokens import EOS, PAD, SEP, SOS
from projects.coconut.stages import Task
from tests.projects.coconut.conftest import ER, batch, config, module_of

MEMORY = torch.arange(6) >= 3


def moved(*overrides):
    """A module whose network has moved away from its teacher."""
    module = module_of(*overrides)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def padded_batch():
    """One row of the memory is shorter than the others."""
    data = batch()
    data["tokens"][4, 1:] = torch.tensor([EOS, PAD, PAD, PAD])
    return data


def test_item_7_mm_is_that_of_the_new_rows():
    """Item 7: S is what is not memory."""
    module, data = module_of("method.nspt_weight=0"), batch(6, 2)
    actual = module.losses(data)["mm"]
    states, mask = module.network.encode(data["waveforms"], data["lengths"])
    audio, text = (
        module.network.embed_audio(states, mask),
        module.network.embed_text(data["text_tokens"]),
    )
    expected = mm_loss(audio, text, ~data["is_memory"], module.method.temperature)
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)


def test_item_7_the_text_of_an_utterance_is_its_transcript():
    """Item 7: "please" is said and in no intent."""
    shared = Task(config())
    rows = [0, 71]
    data = shared.train.batch(rows, [-1, -1], CorruptCounter("recordings"))
    for row, ids in zip(rows, data["text_tokens"].tolist(), strict=True):
        said = shared.train.spoken.targets[row].transcript
        assert said.startswith("please ")
        assert ids == shared.tokenizer.encode(said)


def test_item_18_audio_distillation_is_the_mean_squared_error_of_pooled_states():
    """Item 18: over memory rows and dimensions."""
    module, data = moved(*ER, "method.distillation=audio"), batch()
    student, teacher = (
        network.features(data["waveforms"], data["lengths"])[MEMORY]
        for network in (module.network, module.teacher.network)
    )
    expected = F.mse_loss(student, teacher)
    assert float(module.losses(data)["kd"]) == pytest.approx(float(expected), rel=1e-4)


def test_item_18_sequence_distillation_is_the_cross_entropy_on_the_hypotheses():
    """Item 18: the hypothesis of each row's place in memory, not its target."""
    module, data = moved(*ER, "method.distillation=sequence"), batch()
    module.hypotheses[:4, :5] = torch.tensor(
        [
            [SOS, 6, SEP, EOS, PAD],
            [SOS, 7, SEP, 9, EOS],
            [SOS, 8, EOS, PAD, PAD],
            [SOS, 9, SEP, 8, EOS],
        ]
    )
    tokens = module.hypotheses[data["slots"][MEMORY]][:, :5]
    states, mask = module.network.encode(data["waveforms"], data["lengths"])
    logits = module.network.logits(tokens, states[MEMORY], mask[MEMORY])
    expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)
    assert float(module.losses(data)["kd"]) == pytest.approx(float(expected), rel=1e-4)


def test_item_18_token_distillation_is_the_softened_divergence_at_real_tokens():
    """Item 18: tau^2 KL(teacher || student) over the memory's tokens, without padding."""
    module, data = (
        moved(*ER, "method.distillation=token", "method.kd_temperature=3"),
        padded_batch(),
    )
    waves, lengths, tokens = data["waveforms"], data["lengths"], data["tokens"]
    student, teacher = (
        (n.logits(tokens, *n.encode(waves, lengths)) / 3).log_softmax(2)[MEMORY]
        for n in (module.network, module.teacher.network)
    )
    divergence = 9 * (teacher.exp() * (teacher - student)).sum(2)
    expected = divergence[tokens[MEMORY][:, 1:] != PAD].mean()
    assert float(divergence.mean()) != pytest.approx(float(expected), rel=0.01)
    assert float(module.losses(data)["kd"]) == pytest.approx(float(expected), rel=1e-4)
