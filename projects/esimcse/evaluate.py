"""The length-bias probe, of the trained encoder and of the same encoder before training."""

from collections.abc import Callable

from torch import Tensor

from common.engine.workspace import Workspace
from common.evaluation.text.sts_protocol import encode_distinct
from common.families.sentences.data import first_sts_set
from common.families.sentences.evaluation import before_and_after, evaluate_sentences
from common.families.sentences.module import SentenceModule
from projects.esimcse.config import Config
from projects.esimcse.data import held_out_sentences
from projects.esimcse.length import length_r2, pair_bias, word_counts


def evaluate(cfg: Config, module: SentenceModule, workspace: Workspace) -> dict[str, float]:
    """STS, then length bias on the first STS set and on held-out sentences; ``untrained_*`` next to them.

    Raises:
        UserError: no STS set.
    """
    metrics = evaluate_sentences(cfg, module, workspace)
    return metrics | before_and_after(cfg, module, lambda encode: length_bias(cfg, encode))


def length_bias(cfg: Config, encode: Callable[[list[str]], Tensor]) -> dict[str, float]:
    """`pair_bias` of the first STS set and ``length_probe_r2`` of a linear probe.

    Args:
        cfg: the experiment's config.
        encode: N texts -> (N, D).

    Raises:
        UserError: no STS set.
    """
    sts = first_sts_set(cfg)
    embeddings, row = encode_distinct(encode, [*sts.first, *sts.second])
    first, second = (embeddings[[row[t] for t in side]] for side in (sts.first, sts.second))
    counts = word_counts(sts.first), word_counts(sts.second)
    metrics = pair_bias(first, second, sts.scores, counts, cfg.length.threshold)
    texts = held_out_sentences(cfg)
    features, lengths = encode(texts), word_counts(texts)
    metrics["length_probe_r2"] = length_r2(
        (features[::2], lengths[::2]), (features[1::2], lengths[1::2])
    )
    return metrics
