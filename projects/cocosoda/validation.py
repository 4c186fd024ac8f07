"""Mean MRR over the languages' development queries, of all ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.distributed.collectives import all_gather_no_grad
from common.encoders.text.sentence import SentenceEncoder
from projects.cocosoda.code.search_sets import CodeSearchSet
from projects.cocosoda.config import Config
from projects.cocosoda.encoder import encode_codes, encode_queries
from projects.cocosoda.ranks import Scores, gold_ranks, reciprocal


class MeanMRR:
    """Collects the vectors of queries; the code bases are embedded once, at the end.

    Args:
        cfg: the experiment's config.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.places: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def add(
        self, encoder: SentenceEncoder, number: int, texts: Sequence[str], places: Tensor
    ) -> None:
        """Queries of set `number` with their places (B,) in it."""
        rows = encode_queries(encoder, self.cfg.model, texts, self.cfg.eval.batch_size)
        device = encoder.device
        self.places.setdefault(number, []).append((rows.to(device), places.to(device)))

    def compute(self, encoder: SentenceEncoder, sets: Sequence[CodeSearchSet]) -> Tensor:
        """Unweighted mean over the sets; what was collected is forgotten.

        Distributed: gathers the queries of all ranks.
        """
        values = []
        for number, rows in sorted(self.places.items()):
            vectors, places = (
                all_gather_no_grad(torch.cat(part)).cpu() for part in zip(*rows, strict=True)
            )
            data, every = sets[number], sets[number].gold_places
            codes = encode_codes(encoder, self.cfg.model, data.codes, self.cfg.eval.batch_size)
            ranks = gold_ranks(_cosines(vectors, codes), [every[i] for i in places.tolist()])
            values.append(reciprocal(ranks, self.cfg.eval.max_rank).mean())
        self.places = {}
        return torch.stack(values).mean()


def _cosines(queries: Tensor, codes: Tensor) -> Scores:
    return lambda rows: queries[rows] @ codes.T
