"""The network with its tokenizer as a folder, read again for evaluation.

The plan of `make check`.
"""

from pathlib import Path

import torch
from torch import Tensor

from common.data.speech.sources import SAMPLE_RATES, num_train
from common.encoders.pretrained import resolve_pretrained
from common.encoders.text.tower import load_config
from common.engine.experiment import Plan
from projects.coconut.config import Config
from projects.coconut.data import build_tokenizer, data_present, requirements
from projects.coconut.module import Coconut
from projects.coconut.network import network_options
from projects.coconut.speech.recognizer import Recognizer, save_recognizer
from projects.coconut.speech.speech_to_text import SpeechToText, build_speech_to_text
from projects.coconut.stages import Task

# CPU-seconds of a loader for a WAV file of 2.3 s, measured by benchmarks/bench_loaders.py
LOADER_SECONDS = 0.19e-3


def export(cfg: Config, module: Coconut, folder: Path) -> None:
    """Write a folder for `projects.coconut.speech.recognizer.Recognizer`."""
    tokenizer = build_tokenizer(cfg)
    save_recognizer(module.network, tokenizer, network_options(cfg, len(tokenizer)), folder)


def load_export(cfg: Config, folder: Path) -> Coconut:
    """A module around an exported network; it has no history."""
    recognizer, num_test = Recognizer.load(folder), len(Task(cfg).test.spoken)
    module = Coconut(cfg, recognizer.network, 0, num_test=num_test, tokenizer=recognizer.tokenizer)
    return module.eval()


def embed(cfg: Config, module: Coconut) -> dict[str, Tensor]:
    """Outputs for made-up sounds and tokens, compared after export and reload."""
    network = module.network
    device = next(network.parameters()).device
    time = torch.arange(SAMPLE_RATES[cfg.data.source], device=device) / 40
    waveforms = torch.stack([time.sin(), (2 * time).sin()])
    lengths = torch.tensor([len(time), len(time) // 2], device=device)
    tokens = torch.tensor([[2, 6, 4, 7, 3], [2, 7, 4, 6, 3]], device=device)
    states, mask = network.encode(waveforms, lengths)
    vectors = {
        "features": network.features(waveforms, lengths),
        "logits": network.logits(tokens, states, mask),
        "text": network.pooled_text(tokens),
    }
    return {name: x.float().cpu() for name, x in vectors.items()}


def bare_network(cfg: Config, vocab_size: int) -> SpeechToText:
    """The network with random weights, in the architecture of its pretrained weights."""
    options, pretrained = network_options(cfg, vocab_size), cfg.model.pretrained
    if pretrained != "random" and resolve_pretrained(pretrained, require=False).present:
        options["wav2vec2"] = load_config(pretrained).to_dict()
    return build_speech_to_text(**options)


def plan(cfg: Config) -> Plan[Coconut]:
    """What `make check` reports on, also without data and weights on disk."""

    def bare_module() -> Coconut:
        ready = data_present(cfg)
        size = len(build_tokenizer(cfg)) if ready else cfg.data.vocab_size
        num_test = len(Task(cfg).test.spoken) if ready else 0
        network = bare_network(cfg, size)
        return Coconut(cfg, network, cfg.num_tasks - 1, num_test=num_test)

    def forward(module: Coconut, batch_size: int) -> Tensor:
        network, seconds = module.network, 3
        waveforms = torch.zeros(batch_size, seconds * SAMPLE_RATES[cfg.data.source])
        lengths = torch.full((batch_size,), waveforms.shape[1])
        states, mask = network.encode(waveforms, lengths)
        return network.logits(torch.ones(batch_size, 16).long(), states, mask)

    count, needs = num_train(cfg.data), requirements(cfg)
    return Plan(bare_module, count, forward, needs, loader_seconds=LOADER_SECONDS)
