"""Time of Q queries against K candidates: teacher on all pairs, student with stored vectors."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.encoders.text.cross_encoder import CrossEncoder
from projects.dse.config import SpeedConfig
from projects.dse.scorer import PairScorer


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        text: the student encodes one text.
        pair: the teacher scores one pair.
        head: the student's head scores one pair of stored vectors.
    """

    text: float
    pair: float
    head: float

    def student(self, queries: int, candidates: int) -> float:
        """Nothing stored before: every text once, then the head on all pairs."""
        return self.text * (queries + candidates) + self.head * queries * candidates

    def teacher(self, queries: int, candidates: int) -> float:
        """One pass a pair."""
        return self.pair * queries * candidates

    def speedup(self, queries: int, candidates: int) -> float:
        """Teacher over student."""
        return self.teacher(queries, candidates) / self.student(queries, candidates)

    @property
    def unique(self) -> float:
        """Speed-up where every pair has two sentences of its own, so that nothing is used twice."""
        return self.pair / (2 * self.text + self.head)

    def break_even(self, queries: int) -> float:
        """Candidates from which the student is faster, encoding included; infinite if it never is.

        text (Q + K) + head Q K = pair Q K   at   K = text Q / (Q (pair - head) - text)
        """
        gain = queries * (self.pair - self.head) - self.text
        return self.text * queries / gain if gain > 0 else math.inf


def measure_costs(
    scorer: PairScorer,
    teacher: CrossEncoder,
    queries: Sequence[str],
    candidates: Sequence[str],
    options: SpeedConfig,
    batch_size: int = 128,
) -> Costs:
    """Time both on the same texts, in turns; the fastest of the repeats counts.

    The teacher is timed on `options.teacher_pairs` pairs of a query and a candidate, spread evenly.

    Args:
        scorer: the student.
        teacher: trained or not, its time does not depend on it.
        queries: Q texts.
        candidates: K texts.
        options: repeats, pairs.
        batch_size: texts or pairs of a pass.
    """
    total = len(queries) * len(candidates)
    count = min(options.teacher_pairs, total)
    places = [i * total // count for i in range(count)]
    pairs = [(queries[i % len(queries)], candidates[i // len(queries)]) for i in places]
    texts = [*queries, *candidates]
    vectors = scorer.encoder.encode(texts, batch_size)
    u, v = vectors[: len(queries)], vectors[len(queries) :]
    work: dict[str, Callable[[], Tensor]] = {
        "text": lambda: scorer.encoder.encode(texts, batch_size),
        "pair": lambda: teacher.score(pairs, batch_size),
        "head": lambda: scorer.score_all(u, v),
    }
    shares = {"text": len(texts), "pair": count, "head": total}
    best = dict.fromkeys(work, math.inf)
    for _ in range(options.repeats):
        for name, run in work.items():
            best[name] = min(best[name], _seconds(run, scorer.encoder.device) / shares[name])
    return Costs(**best)


def speed_metrics(costs: Costs, options: SpeedConfig) -> dict[str, float]:
    """``speedup_<Q>x<K>``, ``speedup_unique`` and ``break_even_*`` (absent where there is none)."""
    q = options.queries
    metrics = {f"speedup_{q}x{k}": costs.speedup(q, k) for k in options.candidates}
    metrics["speedup_unique"] = costs.unique
    for name, count in (("one_query", 1), (f"{q}_queries", q)):
        if math.isfinite(costs.break_even(count)):
            metrics[f"break_even_candidates_{name}"] = costs.break_even(count)
    return metrics


def speed_table(costs: Costs, options: SpeedConfig) -> list[list[str]]:
    """Rows of K, seconds of both and speed-up, under a header."""
    rows = [["Q", "K", "teacher s", "student s", "speed-up"]]
    for k in options.candidates:
        q = options.queries
        numbers = costs.teacher(q, k), costs.student(q, k), costs.speedup(q, k)
        rows.append([str(q), str(k), *(f"{x:.3g}" for x in numbers)])
    return rows


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """CPU time of this process, which other processes don't stretch; wall time on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    run()
    return max(clock() - start, 1e-9)
