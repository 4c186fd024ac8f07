"""COCONUT: continual contrastive spoken language understanding (Cappellazzo et al., ACL Findings 2024)."""

from typing import TYPE_CHECKING

from projects.coconut.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan
    from common.engine.workspace import Workspace
    from projects.coconut.module import Coconut

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[Coconut]":
    """The experiment of a config; heavy imports happen here."""
    import dataclasses

    import torch

    from common.engine.experiment import Experiment, Plan
    from common.export.safetensors import load_safetensors, save_safetensors
    from projects.coconut.data import (
        SAMPLE_RATES,
        build_tokenizer,
        data_present,
        num_samples,
        requirements,
    )
    from projects.coconut.evaluate import evaluate
    from projects.coconut.module import Coconut
    from projects.coconut.networks import (
        TOKENIZER,
        Recognizer,
        build_network,
        exported_options,
    )
    from projects.coconut.stages import Task, stages

    def export(module: Coconut, folder: "Path") -> None:
        tokenizer = build_tokenizer(cfg)
        network = module.network
        save_safetensors(network, folder, exported_options(cfg, len(tokenizer), network))
        (folder / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")

    def load_export(folder: "Path") -> Coconut:
        known = Recognizer.load(folder).tokenizer
        network = load_safetensors(folder, build_network)
        shared = Task(cfg)
        module = Coconut(
            cfg, len(known), 0, network, num_test=len(shared.test.spoken), tokenizer=known
        )
        return module.eval()

    def embed(module: Coconut) -> "dict[str, Tensor]":
        network = module.network
        device = next(network.parameters()).device
        time = torch.arange(SAMPLE_RATES[cfg.data.source], device=device) / 40
        waveforms = torch.stack([time.sin(), (2 * time).sin()])
        lengths = torch.tensor([len(time), len(time) // 2], device=device)
        tokens = torch.tensor([[2, 6, 4, 7, 3], [2, 7, 4, 6, 3]], device=device)
        states, mask = network.encode(waveforms, lengths)
        found = {
            "features": module.encode(waveforms, lengths),
            "logits": network.logits(tokens, states, mask),
            "text": network.pooled_text(tokens),
        }
        return {name: x.float().cpu() for name, x in found.items()}

    def bare_module() -> Coconut:
        bare = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, pretrained="random"))
        ready = data_present(cfg)
        size = len(build_tokenizer(cfg)) if ready else cfg.data.vocab_size
        num_test = len(Task(cfg).test.spoken) if ready else 0
        return Coconut(bare, size, cfg.num_tasks - 1, num_test=num_test)

    def forward(module: Coconut, batch_size: int) -> "Tensor":
        network, seconds = module.network, 3
        waveforms = torch.zeros(batch_size, seconds * SAMPLE_RATES[cfg.data.source])
        lengths = torch.full((batch_size,), waveforms.shape[1])
        states, mask = network.encode(waveforms, lengths)
        return network.logits(torch.ones(batch_size, 16).long(), states, mask)

    def plan() -> "Plan[Coconut]":
        return Plan(bare_module, num_samples(cfg), forward, requirements(cfg))

    def run_evaluation(module: Coconut, workspace: "Workspace") -> dict[str, float]:
        return evaluate(cfg, module, workspace)

    return Experiment(lambda: stages(cfg), run_evaluation, export, load_export, embed, plan)
