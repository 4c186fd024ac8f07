"""The mechanism: spread and rank of the embeddings, diverse views, whitening as post-processing."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.data.text.options import metric_prefix
from common.data.text.sets import StsSet
from common.encoders.modes import evaluation_mode
from common.engine.workspace import Workspace
from common.evaluation.features import geometry
from common.evaluation.features.geometry import mean_cosine, uniformity
from common.evaluation.features.postprocessing import fit_whitening
from common.evaluation.text.sts import pair_cosine, spearman
from common.evaluation.text.sts_protocol import encode_distinct
from common.families.sentences.data import first_sts_set, text_rows
from common.families.sentences.evaluation import (
    encoding,
    evaluate_sentences,
    sentence_geometry,
    untrained_encoder,
)
from projects.whitenedcse.config import Config
from projects.whitenedcse.module import WhitenedCSE
from projects.whitenedcse.objective import build_whitening

Encode = Callable[[list[str]], Tensor]
RIDGE = 1e-5  # of the offline whitening, where the sentences span too few directions


def evaluate(cfg: Config, module: WhitenedCSE, workspace: Workspace) -> dict[str, float]:
    """The shared STS evaluation and the measures of the mechanism."""
    return evaluate_sentences(cfg, module, workspace) | mechanism(cfg, module)


def mechanism(cfg: Config, module: WhitenedCSE) -> dict[str, float]:
    """Measures on the first STS set, without prefix for the trained encoder.

    - ``effective_rank``, ``participation_ratio``: of the covariance of the embeddings.
    - ``whitened_*``: score and geometry after a whitening that was fitted on training sentences.
    - ``head_*``: score with the trained head (dense layer without whitening) at evaluation.
    - ``sgw_*``: what batch whitening does to the embeddings, see `batch_whitening`.
    - ``untrained_*``: rank and whitened score of the encoder before training.
    """
    sts = first_sts_set(cfg)
    score = f"{metric_prefix(sts.name)}_spearman"
    fit_on = [row[0] for row in text_rows(cfg.data, cfg.seed)[: cfg.eval.whitening_sentences]]
    with encoding(cfg, module.encoder) as encode:
        embedded = _Embedded(encode, sts)
        metrics = embedded.rank() | embedded.whitened(encode(fit_on), score)
        with evaluation_mode(module.head):
            device = module.head.dense.weight.device
            projected = embedded.mapped(lambda x: module.head(x.to(device)[None])[0])
        metrics[f"head_{score}"] = projected.spearman()
        metrics |= batch_whitening(cfg, embedded.everything)
    if cfg.eval.untrained:
        with encoding(cfg, untrained_encoder(cfg, module)) as encode:
            before = _Embedded(encode, sts)
            report = before.rank() | before.whitened(encode(fit_on), score)
        metrics |= {f"untrained_{name}": value for name, value in report.items()}
    return metrics


class _Embedded:
    """Embeddings of the sentences of an STS set, which are pushed through maps and scored."""

    def __init__(self, encode: Encode, sts: StsSet) -> None:
        self.sts = sts
        self.everything, self.row = encode_distinct(encode, sts.first + sts.second)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "_Embedded":
        """The same texts with changed embeddings."""
        return _Embedded(lambda _: function(self.everything), self.sts)

    def look_up(self, texts: list[str]) -> Tensor:
        """Embeddings of texts of the set."""
        return self.everything[[self.row[text] for text in texts]]

    def spearman(self) -> float:
        """Of cosine and gold score."""
        cosine = pair_cosine(self.look_up(self.sts.first), self.look_up(self.sts.second))
        return spearman(cosine.numpy(), self.sts.scores)

    def rank(self) -> dict[str, float]:
        """Effective numbers of dimensions."""
        return {
            "effective_rank": geometry.effective_rank(self.everything),
            "participation_ratio": geometry.participation_ratio(self.everything),
        }

    def whitened(self, fit_on: Tensor, score: str) -> dict[str, float]:
        """Score and geometry after whitening fitted on other embeddings (N, D)."""
        white = self.mapped(fit_whitening(fit_on, ridge=RIDGE))
        geometry = sentence_geometry(white.look_up, self.sts)
        metrics = {score: white.spearman(), **geometry}
        return {f"whitened_{name}": value for name, value in metrics.items()}


def batch_whitening(cfg: Config, x: Tensor) -> dict[str, float]:
    """What the config's whitening does to batches of embeddings, whatever arm they come from.

    Args:
        cfg: the experiment's config; batches have its size, an incomplete last one is left out.
        x: (N, D).

    Returns:
        Mean over batches of ``sgw_uniformity`` and ``sgw_mean_cosine`` after whitening, and of
        ``sgw_view_cosine``: cosine of two whitened versions of one embedding under independent
        permutations, 1 without shuffling. Empty if N is smaller than a batch or a batch is too
        small to be whitened.
    """
    size, layer = cfg.data.batch_size, build_whitening(x.shape[1], cfg.sgw)
    batches = [part for part in torch.split(x, size) if len(part) == size]
    if not batches or size <= x.shape[1] // cfg.sgw.groups:
        return {}
    layer.sync = False
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(cfg.seed)
        first, second = (layer(torch.stack(batches)) for _ in range(2))
    metrics = {
        "sgw_uniformity": [uniformity(y) for y in first],
        "sgw_mean_cosine": [mean_cosine(y) for y in first],
        "sgw_view_cosine": [
            float(pair_cosine(a, b).mean()) for a, b in zip(first, second, strict=True)
        ],
    }
    return {name: sum(values) / len(values) for name, values in metrics.items()}
