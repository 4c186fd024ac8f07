"""What NV-Embed has to beat: guessing, words, and the language model that it starts from."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import fit_whitening
from common.families.retrieval.baselines import RIDGE
from projects.nv_embed.config import Config
from projects.nv_embed.embedding_benchmark.sets import (
    Classes,
    Encode,
    EvalSet,
    score_sets,
    set_texts,
    tfidf_of,
)
from projects.nv_embed.encoder.instructed import InstructedEncoder
from projects.nv_embed.eval_sets import build_set
from projects.nv_embed.evaluate import Encoded, class_cosines
from projects.nv_embed.stages import build_encoder

CHANCE_DIM = 256


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Every text has a random vector."""
    vectors: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def encode(texts: Sequence[str], _: str) -> Tensor:
        for text in texts:
            if text not in vectors:
                vectors[text] = torch.randn(CHANCE_DIM, generator=generator)
        return torch.stack([vectors[text] for text in texts])

    return _scored(cfg, workspace, lambda _: encode)


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors, fitted on the texts of each set."""
    return _scored(cfg, workspace, tfidf_of)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training: no causal mask, a pooler of random weights."""
    return _encoded(cfg, workspace, _before(cfg))


def raw_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The language model as it is, causal; mean of its last states without the instruction's."""
    return _encoded(cfg, workspace, _before(cfg, causal=True))


def raw_mean_bidirectional(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same without causal mask."""
    return _encoded(cfg, workspace, _before(cfg, causal=False))


def whitened_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """`raw_mean`, whitened on the texts of each set.

    Source: Su et al. 2021, "Whitening Sentence Representations", arXiv 2103.15316.
    """
    raw = Encoded(_before(cfg, causal=True), cfg.eval.batch_size)

    def whitened(data: EvalSet) -> Encode:
        transform = fit_whitening(raw(set_texts(data), data.instruction), ridge=RIDGE)
        return lambda texts, instruction: transform(raw(texts, instruction))

    return _scored(cfg, workspace, whitened)


def word_vectors(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Mean of the language model's input vectors: words without order or context."""
    encoder = _before(cfg, causal=True)
    table = encoder.model.get_input_embeddings().weight.detach()

    def encode(texts: Sequence[str], _: str) -> Tensor:
        rows = [torch.tensor(ids) for ids, _ in encoder.token_rows(texts)]
        return torch.stack([table[ids].float().mean(dim=0) for ids in rows])

    return _scored(cfg, workspace, lambda _: encode)


def _before(cfg: Config, causal: bool | None = None) -> InstructedEncoder:
    """The encoder before training; with `causal` the bare language model, averaged."""
    model = cfg.model
    if causal is not None:
        model = replace(model, pooling="mean", causal=causal)
    return modes.untrained(lambda: build_encoder(model), cfg.seed)


def _encoded(cfg: Config, workspace: Workspace, encoder: InstructedEncoder) -> dict[str, float]:
    with modes.evaluated(encoder, cfg.trainer.accelerator):
        encode = Encoded(encoder, cfg.eval.batch_size)
        return _scored(cfg, workspace, lambda _: encode)


def _scored(
    cfg: Config, workspace: Workspace, encoder_of: Callable[[EvalSet], Encode]
) -> dict[str, float]:
    sets = {name: build_set(cfg, name) for name in cfg.eval.tasks}
    metrics, items = score_sets(encoder_of, sets, cfg.eval.primary)
    for name, values in items.items():
        workspace.items(name, values)
    for name, data in sets.items():
        if isinstance(data, Classes) and not data.train:
            report = class_cosines(encoder_of(data), data)
            metrics |= {f"{name}_{k}": v for k, v in report.items()}
    return {name: value for name, value in metrics.items() if not name.endswith("_chance")}
