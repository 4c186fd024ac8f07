"""An n-gram language model: a scorer of texts that shares nothing with a neural one."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

Gram = tuple[int, ...]


class NgramModel:
    """Interpolated Kneser-Ney smoothing over token ids.

        p(w | c) = max(n(c w) - d, 0) / n(c .) + d N(c .) / n(c .) p(w | c without its first token)

    n counts, below the highest order, the different tokens that stand before; N counts the
    different tokens that follow; the lowest order is mixed with the uniform distribution.

    Source: Kneser & Ney 1995, "Improved backing-off for m-gram language modeling"; Chen & Goodman
    1999, section 4.1.

    Args:
        documents: token ids.
        vocabulary: number of different ids.
        order: longest n-gram.
        discount: d, in (0, 1).

    Raises:
        ValueError: an option out of its range.

    >>> model = NgramModel([[0, 1, 0, 1]], vocabulary=3)
    >>> model.probability((0,), 1) > 0.5 > model.probability((0,), 2) > 0
    True
    """

    def __init__(
        self,
        documents: Iterable[Sequence[int]],
        vocabulary: int,
        order: int = 3,
        discount: float = 0.75,
    ) -> None:
        if order < 1 or not 0 < discount < 1 or vocabulary < 1:
            raise ValueError(
                f"order {order} and vocabulary {vocabulary} >= 1, discount {discount} in (0, 1)"
            )
        self.order, self.discount, self.vocabulary = order, discount, vocabulary
        counts: list[dict[Gram, int]] = [defaultdict(int) for _ in range(order)]  # by length - 1
        for ids in documents:
            for i in range(len(ids)):
                first = max(0, i - order + 1)
                counts[i - first][tuple(ids[first : i + 1])] += 1
        for length in range(order - 1, 0, -1):  # below: how many tokens stand before a gram
            lower: dict[Gram, int] = defaultdict(int)
            for gram in counts[length]:
                lower[gram[1:]] += 1
            counts[length - 1] = lower
        self.counts = [dict(of_order) for of_order in counts]
        self.totals: list[dict[Gram, tuple[int, int]]] = []
        for of_order in self.counts:
            sums: dict[Gram, list[int]] = defaultdict(lambda: [0, 0])
            for gram, count in of_order.items():
                context_total = sums[gram[:-1]]
                context_total[0] += count
                context_total[1] += 1
            self.totals.append(
                {context: (total, kinds) for context, (total, kinds) in sums.items()}
            )

    def probability(self, context: Gram, token: int) -> float:
        """Of a token after a context, of which the last order - 1 tokens count."""
        value = 1 / self.vocabulary
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        for length in range(len(context) + 1):
            suffix = context[len(context) - length :]
            if suffix not in self.totals[length]:
                break  # nor is a longer one known
            total, kinds = self.totals[length][suffix]
            seen = max(self.counts[length].get((*suffix, token), 0) - self.discount, 0)
            value = (seen + self.discount * kinds * value) / total
        return value

    def mean_log_probability(self, prefix: Sequence[int], ids: Sequence[int]) -> float:
        """Mean log-probability of tokens after a prefix, in nats; nan without tokens."""
        if not ids:
            return math.nan
        text, start = [*prefix, *ids], len(prefix)
        first = self.order - 1
        return sum(
            math.log(self.probability(tuple(text[max(0, i - first) : i]), text[i]))
            for i in range(start, len(text))
        ) / len(ids)
