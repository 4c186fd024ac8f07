"""F1-max and ROC-AUC of pairs: trained, untrained, TF-IDF, wrong experts.

By domain and on the union.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy.stats import wilcoxon
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.config import UserError
from common.encoders.modes import evaluated, untrained
from common.encoders.text.sentence import sentence_encoder
from common.engine.own_texts import Rows
from common.engine.workspace import Workspace
from common.evaluation.retrieval.runs import tfidf_vectors
from common.evaluation.text.sts_protocol import Encode
from projects.moe_embeddings.cocitation import Pair
from projects.moe_embeddings.config import Config
from projects.moe_embeddings.data import PairTexts, expert_of, load_pairs, texts_by_domain
from projects.moe_embeddings.encoder import DomainEncoder, build_encoder
from projects.moe_embeddings.mixture_of_experts import feed_forwards, mixtures, parameter_counts
from projects.moe_embeddings.module import MoeEmbeddings
from projects.moe_embeddings.pair_classification import pair_metrics, roc_auc_items

TFIDF_FEATURES = 4096
GRADIENT_PAIRS = 32  # of a domain, whose gradient is looked at
MACRO = ("f1", "auc")
Scores = dict[str, np.ndarray]  # domain -> score of each of its pairs
# texts of a domain -> (N, D) unit vectors
Embed = Callable[[list[str], str], Tensor]


def evaluate(cfg: Config, module: MoeEmbeddings, workspace: Workspace) -> dict[str, float]:
    """All rows of the table; metrics are ``<row><domain>_<metric>``.

    Alongside the domains there are "all", their union under one threshold, "macro", their mean, and
    "home", the mean over the domains that were trained on.

    Raises:
        UserError: missing data or weights.
    """
    pairs, encoder = load_pairs(cfg, cfg.eval.part), module.encoder
    with evaluated(encoder, cfg.trainer.accelerator):
        scores = scores_of(encoder_embed(cfg, encoder), pairs)
        metrics = score_row(cfg, scores, pairs, workspace)
        if cfg.eval.wrong_routing and encoder.enforced and encoder.layout.num_experts > 1:
            wrong = scores_of(encoder_embed(cfg, encoder, turn=1), pairs)
            metrics |= _named("wrong_routing", score_row(cfg, wrong, pairs))
    if cfg.eval.untrained:
        before = scores_of_untrained(cfg, pairs, encoder)
        metrics |= _named("untrained", score_row(cfg, before, pairs))
        metrics["untrained_wilcoxon_p"] = paired_p(scores, before, pairs)
    if cfg.eval.lexical:
        metrics |= _named("tfidf", score_row(cfg, tfidf_scores(pairs), pairs))
    for row, place in cfg.eval.references.items():
        try:
            reference = reference_scores(cfg, place, pairs)
        except UserError as error:  # the rows of the trained model are not lost for it
            workspace.say(f"row {row} is left out: {error}")
            continue
        metrics |= _named(row, score_row(cfg, reference, pairs))
    if cfg.eval.gradients and len(cfg.data.domains) > 1:
        metrics |= gradient_cosines(cfg, module)
    total, active = parameter_counts(encoder.model)
    metrics |= {"parameters": float(total), "active_parameters": float(active)}
    workspace.say(table(metrics, cfg))
    return metrics


def score_row(
    cfg: Config,
    scores: Scores,
    pairs: Mapping[str, Sequence[Pair]],
    workspace: Workspace | None = None,
) -> dict[str, float]:
    """Metrics of scored pairs, and with a workspace the AUC items of `make compare`.

    Args:
        cfg: the experiment's config.
        scores: of the pairs.
        pairs: of each domain.
        workspace: of the run.
    """
    labels = {name: [pair.label == 1 for pair in members] for name, members in pairs.items()}
    parts = {name: (scores[name], labels[name]) for name in pairs}
    union = (
        np.concatenate(list(scores.values())),
        [y for targets in labels.values() for y in targets],
    )
    parts["all"] = union
    metrics = {
        f"{name}_{metric}": value
        for name, part in parts.items()
        for metric, value in pair_metrics(*part).items()
    }
    if workspace is not None:
        for name, part in parts.items():
            workspace.items(f"{name}_auc", roc_auc_items(*part))
    for mean, names in (("macro", list(pairs)), ("home", cfg.data.train_domains or list(pairs))):
        for metric in MACRO:
            metrics[f"{mean}_{metric}"] = float(np.mean([metrics[f"{d}_{metric}"] for d in names]))
        if workspace is not None:
            workspace.mean_items(f"{mean}_auc", [f"{d}_auc" for d in names])
    return metrics


def scores_of(embed: Embed, pairs: Mapping[str, Sequence[Pair]]) -> Scores:
    """Cosine of every pair; each document is embedded once.

    Args:
        embed: texts of a domain -> unit vectors.
        pairs: of each domain.
    """
    scores = {}
    for name, texts in texts_by_domain(pairs).items():
        vectors, place = embed(texts, name), {text: i for i, text in enumerate(texts)}
        first = vectors[[place[pair.a] for pair in pairs[name]]].double()
        second = vectors[[place[pair.b] for pair in pairs[name]]].double()
        scores[name] = (first * second).sum(1).numpy()
    return scores


def encoder_embed(cfg: Config, encoder: DomainEncoder, turn: int = 0) -> Embed:
    """Vectors by an encoder, in evaluation mode; experts are turned on by that many numbers."""
    expert, count = expert_of(cfg), encoder.layout.num_experts

    def embed(texts: list[str], domain: str) -> Tensor:
        number = encoder.layout.domains.index(domain)
        experts = [(expert(text, number) + turn) % count for text in texts]
        return encoder.encode(texts, domain, cfg.eval.batch_size, experts=experts)

    return embed


def scores_of_untrained(
    cfg: Config, pairs: Mapping[str, Sequence[Pair]], like: DomainEncoder | None = None
) -> Scores:
    """Scores by the encoder before training."""

    def build() -> DomainEncoder:
        return build_encoder(cfg.model, cfg.data.domains, cfg.data.max_length)

    raw = untrained(build, cfg.seed, like=like)
    with evaluated(raw, cfg.trainer.accelerator):
        return scores_of(encoder_embed(cfg, raw), pairs)


def judge_texts(
    cfg: Config,
    judge: Callable[[Rows, Workspace, Path], dict[str, float]],
    module: MoeEmbeddings,
    workspace: Workspace,
    path: Path,
) -> dict[str, float]:
    """A user's texts, which have no domain: the vectors are means over all domains.

    Args:
        cfg: the experiment's config.
        judge: of `common.engine.own_texts`.
        module: trained.
        workspace: of the evaluation.
        path: of the user's file or folder.
    """

    @contextmanager
    def encoding(encoder: DomainEncoder) -> Iterator[Encode]:
        with evaluated(encoder, cfg.trainer.accelerator):
            yield lambda texts: encoder.encode(texts, batch_size=cfg.eval.batch_size)

    def build() -> DomainEncoder:
        return build_encoder(cfg.model, cfg.data.domains, cfg.data.max_length)

    raw = untrained(build, cfg.seed, like=module.encoder)
    rows = {"": encoding(module.encoder), "untrained_": encoding(raw)}
    return judge(rows, workspace, path)


def tfidf_scores(pairs: Mapping[str, Sequence[Pair]]) -> Scores:
    """Cosines of TF-IDF vectors of words, the 4,096 most frequent ones of each domain's pairs."""

    def embed(texts: list[str], domain: str) -> Tensor:
        rows, _ = tfidf_vectors(texts, max_features=TFIDF_FEATURES)
        return torch.from_numpy(rows.toarray())

    return scores_of(embed, pairs)


def reference_scores(cfg: Config, place: str, pairs: Mapping[str, Sequence[Pair]]) -> Scores:
    """Scores by weights that were trained elsewhere, see ``eval.references``."""
    encoder = sentence_encoder(place, cfg.eval.reference_pooling, max_length=cfg.data.max_length)
    with evaluated(encoder, cfg.trainer.accelerator):
        size = cfg.eval.batch_size
        return scores_of(lambda texts, _: encoder.encode(texts, size, normalize=True), pairs)


def paired_p(first: Scores, second: Scores, pairs: Mapping[str, Sequence[Pair]]) -> float:
    """Wilcoxon's signed-rank test: do positive pairs beat more negative ones in `first`.

    Two-sided p.

    Source: Wilcoxon 1945; what the paper pairs is not said.
    """
    labels = [pair.label == 1 for members in pairs.values() for pair in members]
    items = [roc_auc_items(np.concatenate(list(x.values())), labels) for x in (first, second)]
    if items[0] == items[1]:
        return 1.0
    return float(wilcoxon(*items).pvalue)


@torch.inference_mode(False)
def gradient_cosines(cfg: Config, module: MoeEmbeddings) -> dict[str, float]:
    """Mean cosine between two domains' gradients of the objective: below 0 they pull apart.

    ``gradient_cosine`` over the feed-forward weights of a dense model or of a layer's experts taken
    together (0 for enforced experts, which share none), ``shared_gradient_cosine`` over all others.
    Nothing if fewer than two domains have a validation pair.

    Args:
        cfg: the experiment's config.
        module: trained.
    """
    encoder, grads = module.encoder, []
    inside = {id(p) for m in mixtures(encoder.model) for p in m.experts.parameters()}
    if not inside:
        inside = {id(p) for f in feed_forwards(encoder.model) for p in f.module.parameters()}
    named = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    tensors = normal_tensors(encoder)
    trained = [tensors[name] for name in named]
    was = module.training
    module.eval()
    for members in load_pairs(cfg, "valid").values():
        right = [pair for pair in members if pair.label == 1][:GRADIENT_PAIRS]
        if not right:
            continue
        batch = PairTexts(right, encoder, module.experts, 0.0, 0)[
            [(i, 0) for i in range(len(right))]
        ]
        inputs = {k: batch[k].to(encoder.device) for k in ("input_ids", "attention_mask")}
        with torch.enable_grad():
            rows = functional_call(encoder, tensors, (), {**inputs, "expert": batch["expert"]})
            first, second = rows.chunk(2)
            # the main process evaluates alone: waiting for rows of others would never end
            loss = module.objective(first, second, gather=False).loss
            grads.append(torch.autograd.grad(loss, trained, allow_unused=True))
    module.train(was)
    if len(grads) < 2:
        return {}
    metrics = {}
    for name, feed in (("gradient_cosine", True), ("shared_gradient_cosine", False)):
        places = [i for i, p in enumerate(named.values()) if (id(p) in inside) == feed]
        flat = [
            torch.cat(
                [(torch.zeros_like(trained[i]) if g[i] is None else g[i]).flatten() for i in places]
            )
            for g in grads
        ]
        cosines = [float(F.cosine_similarity(a, b, dim=0)) for a, b in combinations(flat, 2)]
        metrics[name] = float(np.mean(cosines))
    return metrics


def normal_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, copies in the place of inference tensors.

    What `evaluated` has moved to a GPU and back in inference mode are inference tensors, which no
    backward pass can save.

    Args:
        module: any; is not changed.
    """
    return {
        name: x.detach().clone().requires_grad_(x.requires_grad) if x.is_inference() else x
        for name, x in (*module.named_parameters(), *module.named_buffers())
    }


def table(metrics: Mapping[str, float], cfg: Config) -> str:
    """F1-max and AUC of all rows as text."""
    names = [*cfg.data.domains, "all"]
    lines = [f"{'F1-max / AUC':20}" + "".join(f"{name:>15}" for name in names)]
    for row in ("untrained", "tfidf", *cfg.eval.references, "wrong_routing", ""):
        prefix = f"{row}_" if row else ""
        if f"{prefix}all_f1" in metrics:
            cells = [(metrics[f"{prefix}{n}_f1"], metrics[f"{prefix}{n}_auc"]) for n in names]
            shown = "".join(f"{f'{f1:.3f} / {auc:.3f}':>15}" for f1, auc in cells)
            lines.append(f"{row or 'this model':20}{shown}")
    total, active = metrics["parameters"], metrics["active_parameters"]
    lines.append(f"parameters of the transformer: {total:,.0f}, of one document {active:,.0f}")
    return "\n".join(lines)


def _named(row: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{row}_{name}": value for name, value in metrics.items()}
