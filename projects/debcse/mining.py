"""The offline stage: candidates of every sentence with surface and semantic similarity."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.offline import Row, content_digest
from common.data.samplers import sample_rng
from common.data.text.augment import STOP_WORDS, Repetition
from common.data.text.lexical import SurfaceSimilarity
from common.distributed.process import barrier, is_active, is_rank_zero
from common.encoders.state_dict import weights_digest
from common.encoders.text.sentence import SentenceEncoder
from common.engine.progress import track
from common.evaluation.encoding import encode_texts
from common.evaluation.features.postprocessing import fit_whitening
from common.evaluation.retrieval.runs import bm25_index, words_on_disk
from common.evaluation.retrieval.vector_shards import encode_shards
from common.evaluation.search import search
from common.families.sentences.evaluation import encoding
from projects.debcse.config import Config
from projects.debcse.offline_cache import OfflineCache
from projects.debcse.sampling import Pools

REPETITION_STREAM, RANDOM_STREAM, QUANTILE_STREAM, FILL_STREAM = 44, 45, 46, 47
QUANTILE_ANCHORS = 10_000  # anchors whose candidates set the thresholds
DIGITS = 6  # of stored similarities
SHARD = 50_000  # sentences whose embeddings are in a file
LEXICAL_CELLS = 1 << 22  # BM25 scores of one block of queries

RIDGE = 1e-6  # whitening of embeddings that don't span their dimensions

Encode = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Mined:
    """What the offline stage gives.

    Attributes:
        texts: N sentences of the corpus, then the generated variants.
        pools: candidates of the sentences, ids index `texts`.
        surface: surface similarity of pairs of texts.
        folder: the cache.
    """

    texts: list[str]
    pools: Pools
    surface: SurfaceSimilarity
    folder: Path


def offline_folder(cfg: Config) -> Path:
    """Where trained scorers and candidates are kept, for all runs of the project."""
    return Path(cfg.runs_dir) / "debcse" / "offline"


def with_variants(cfg: Config, corpus: Sequence[str]) -> list[str]:
    """The corpus, then one variant of every sentence for each kind in use."""
    texts, pool = list(corpus), cfg.pool
    if pool.repetition:
        repeat = Repetition(level="word")
        texts += [
            " ".join(repeat(text.split(), sample_rng(cfg.seed, 0, i, REPETITION_STREAM)))
            for i, text in enumerate(corpus)
        ]
    if pool.paraphrases is not None:
        cache = OfflineCache(pool.paraphrases, settings=None)
        cached = [text for text in corpus if text in cache]
        if len(cached) < len(corpus):
            warnings.warn(
                f"{len(corpus) - len(cached)} of {len(corpus)} sentences have no paraphrase in"
                f" pool.paraphrases={pool.paraphrases}",
                stacklevel=2,
            )
        variants = dict(zip(cached, (row["text"] for row in cache.rows(cached)), strict=True))
        texts += [variants.get(text, text) for text in corpus]
    return texts


def scorer_pooling(cfg: Config) -> str:
    """How the scorer pools, which its weights do not say."""
    if cfg.scorer.model is not None:
        return cfg.scorer.pooling
    return "cls_before_pooler" if cfg.model.mlp_only_train else cfg.model.pooling


def mine(cfg: Config, corpus: Sequence[str], scorer: SentenceEncoder) -> Mined:
    """Candidates of every sentence, read from the cache as far as it has them; shows progress.

    Args:
        cfg: the experiment's config.
        corpus: N distinct sentences.
        scorer: the frozen encoder g; it is used in evaluation mode and left as it is.

    Returns:
        Texts and pools; on several ranks rank 0 computes and the others read.
    """
    if is_active() and not is_rank_zero():
        barrier()
    texts = with_variants(cfg, corpus)
    surface = SurfaceSimilarity(texts, cfg.surface.kind)
    pool = cfg.pool
    settings = {
        "corpus": content_digest(texts),
        "anchors": len(corpus),
        "seed": cfg.seed,
        "scorer": weights_digest(scorer),
        "scorer_pooling": scorer_pooling(cfg),
        "scorer_template": cfg.model.template if cfg.scorer.model is None else None,
        "scorer_whiten": cfg.scorer.whiten,
        "surface": cfg.surface.kind,
        "pos_k": pool.pos_k,
        "twin": pool.twin,
        "neg_lex": pool.neg_lex,
        "without_common_word": "random",
        "neg_rand": pool.neg_rand,
    }
    key = content_digest([f"{name}={value}" for name, value in settings.items()])[:16]
    cache = OfflineCache(offline_folder(cfg) / f"pools-{key}", settings)
    if cache.missing(corpus):
        compute = Candidates(cfg, len(corpus), texts, surface, scorer, cache.folder)
        cache.fill(
            corpus,
            compute,
            block_size=pool.block_size,
            progress=lambda starts: track(starts, "mine candidates"),
        )
    mined = Mined(texts, read_pools(cfg, cache, corpus), surface, cache.folder)
    if is_active() and is_rank_zero():
        barrier()
    return mined


def encoded(cfg: Config, scorer: SentenceEncoder, texts: Sequence[str], folder: Path) -> Tensor:
    """Embeddings (N, D) of the texts by the scorer, kept in the folder."""
    with encoding(cfg, scorer) as encode:
        shards = encode_shards(
            lambda part: encode_texts(encode, part, batch_size=cfg.eval.batch_size),
            texts,
            folder / "embeddings",
            weights_digest(scorer),
            shard_size=SHARD,
            progress=track,
        )
    assert shards is not None  # it waits
    return shards.whole()


@contextmanager
def scorer_encoding(cfg: Config, scorer: SentenceEncoder, mined: Mined) -> Iterator[Encode]:
    """Texts -> what their cosines are measured on: `scorer.whiten` is fitted on the corpus."""
    transform: Callable[[Tensor], Tensor] = lambda rows: rows  # noqa: E731
    if cfg.scorer.whiten:
        rows = encoded(cfg, scorer, mined.texts, mined.folder)
        transform = fit_whitening(rows[: mined.pools.num_anchors], ridge=RIDGE)
    with encoding(cfg, scorer) as encode:
        yield lambda texts: transform(encode(texts))


class Candidates:
    """Computes the rows of a block of sentences.

    Args:
        cfg: the experiment's config.
        num_anchors: N; the first N texts are the corpus.
        texts: corpus and variants.
        surface: their surface similarity.
        scorer: the frozen encoder.
        folder: where embeddings are kept.
    """

    def __init__(
        self,
        cfg: Config,
        num_anchors: int,
        texts: Sequence[str],
        surface: SurfaceSimilarity,
        scorer: SentenceEncoder,
        folder: Path,
    ) -> None:
        self.cfg, self.num_anchors, self.texts, self.surface = cfg, num_anchors, texts, surface
        embeddings = encoded(cfg, scorer, texts, folder)
        if cfg.scorer.whiten:
            embeddings = fit_whitening(embeddings[:num_anchors], ridge=RIDGE)(embeddings)
        gpu = torch.cuda.is_available() and cfg.trainer.accelerator != "cpu"
        self.embeddings = F.normalize(embeddings, dim=1).to("cuda" if gpu else "cpu")
        self.most = num_anchors - 1
        self.bm25 = None
        if min(cfg.pool.neg_lex, self.most):
            self.bm25 = bm25_index(
                texts[:num_anchors], words_on_disk(cfg.runs_dir), stop_words=STOP_WORDS
            )

    def __call__(self, anchors: list[int]) -> list[Row]:
        """One row per anchor: ``positives`` and ``negatives`` as [id, s, m], number ``lexical``."""
        positives = [self._variants(i) for i in anchors]
        if k := min(self.cfg.pool.pos_k, self.most):
            corpus = self.embeddings[: self.num_anchors]
            neighbours = search(corpus[anchors], corpus, k, exclude=anchors).indices
            positives = [
                [*near, *more] for near, more in zip(neighbours.tolist(), positives, strict=True)
            ]
        lexical = self._lexical(anchors)
        negatives = [
            list(dict.fromkeys([*near, *self._random(i)]))
            for i, near in zip(anchors, lexical, strict=True)
        ]
        rows = zip(
            self._scored(anchors, positives), self._scored(anchors, negatives), lexical, strict=True
        )
        return [{"positives": p, "negatives": n, "lexical": len(near)} for p, n, near in rows]

    def _variants(self, anchor: int) -> list[int]:
        """The sentence itself, and its generated variants that differ from it."""
        made = range(anchor + self.num_anchors, len(self.texts), self.num_anchors)
        new = [i for i in made if self.texts[i] != self.texts[anchor]]
        return [anchor, *new] if self.cfg.pool.twin else new

    def _lexical(self, anchors: list[int]) -> list[list[int]]:
        if self.bm25 is None:
            return [[] for _ in anchors]
        queries, k = [self.texts[i] for i in anchors], min(self.cfg.pool.neg_lex, self.most)
        chunk = max(1, LEXICAL_CELLS // self.num_anchors)
        found = self.bm25.search(queries, k, exclude=anchors, chunk_size=chunk)
        rows = zip(anchors, found.scores.tolist(), found.indices.tolist(), strict=True)
        matches = [
            (anchor, [i for i, score in zip(ids, scores, strict=True) if score > 0])
            for anchor, scores, ids in rows
        ]
        return [[*ids, *self._others(anchor, ids, k - len(ids))] for anchor, ids in matches]

    def _others(self, anchor: int, taken: list[int], count: int) -> list[int]:
        """Random sentences in the places of those that share no word with the anchor."""
        if not count:
            return []
        rng = sample_rng(self.cfg.seed, 0, anchor, FILL_STREAM)
        size = min(self.num_anchors, count + len(taken) + 1)
        drawn = rng.choice(self.num_anchors, size=size, replace=False).tolist()
        return [i for i in drawn if i != anchor and i not in taken][:count]

    def _random(self, anchor: int) -> list[int]:
        rng = sample_rng(self.cfg.seed, 0, anchor, RANDOM_STREAM)
        others = rng.choice(self.most, size=min(self.cfg.pool.neg_rand, self.most), replace=False)
        return [int(i) + (int(i) >= anchor) for i in others]

    def _scored(self, anchors: list[int], ids: list[list[int]]) -> list[list[list[float]]]:
        """[id, s, m] of candidates."""
        left = np.repeat(anchors, [len(row) for row in ids]).astype(np.int64)
        right = np.array([i for row in ids for i in row], dtype=np.int64)
        s = self.surface(left, right).round(DIGITS).tolist()
        m = self._cosine(left, right).double().numpy().round(DIGITS).tolist()
        scored = iter(zip(right.tolist(), s, m, strict=True))
        return [[list(next(scored)) for _ in row] for row in ids]

    def _cosine(self, left: np.ndarray, right: np.ndarray) -> Tensor:
        parts = [
            (self.embeddings[a] * self.embeddings[b]).sum(dim=1).clamp(-1, 1).cpu()
            for a, b in zip(_chunks(left), _chunks(right), strict=True)
        ]
        return torch.cat(parts) if parts else torch.empty(0)


def _chunks(ids: np.ndarray, size: int = 1 << 16) -> list[Tensor]:
    return [torch.from_numpy(ids[i : i + size]) for i in range(0, len(ids), size)]


def read_pools(cfg: Config, cache: OfflineCache, corpus: Sequence[str]) -> Pools:
    """Pools of all sentences as arrays, with the thresholds of the config or by quantile."""
    pool, variants = (
        cfg.pool,
        cfg.pool.twin + cfg.pool.repetition + (cfg.pool.paraphrases is not None),
    )
    sizes = pool.pos_k + variants, pool.neg_lex + pool.neg_rand
    ids = [np.full((len(corpus), size), -1, dtype=np.int32) for size in sizes]
    values = [np.zeros((2, len(corpus), size), dtype=np.float32) for size in sizes]
    rng = sample_rng(cfg.seed, 0, 0, QUANTILE_STREAM)
    sampled = set(rng.permutation(len(corpus))[:QUANTILE_ANCHORS].tolist())
    cosines: tuple[list[float], list[float]] = [], []  # of semantic and of lexical neighbours
    for anchor, row in enumerate(cache.rows(corpus)):
        for side, name in enumerate(("positives", "negatives")):
            if row[name]:
                table = np.array(row[name], dtype=np.float64)
                ids[side][anchor, : len(table)] = table[:, 0]
                values[side][:, anchor, : len(table)] = table[:, 1:].T
        if anchor in sampled:
            near = [m for i, _, m in row["positives"] if i < len(corpus) and i != anchor]
            lexical = row["negatives"][: row["lexical"] or None]
            cosines[0].extend(near)
            cosines[1].extend(m for _, _, m in lexical)
    ipw = cfg.ipw
    return Pools(
        positive_ids=ids[0],
        negative_ids=ids[1],
        surface=(values[0][0], values[1][0]),
        semantic=(values[0][1], values[1][1]),
        theta_pos=_threshold(ipw.theta_pos, cosines[0], ipw.theta_pos_quantile, 1.0),
        theta_neg=_threshold(ipw.theta_neg, cosines[1], ipw.theta_neg_quantile, -1.0),
    )


def _threshold(
    configured: float | None, cosines: list[float], quantile: float, empty: float
) -> float:
    if configured is not None:
        return configured
    return float(np.quantile(cosines, quantile)) if cosines else empty
