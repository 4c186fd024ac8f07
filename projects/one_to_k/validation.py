"""Validation during training: retrieval of the whole development set, which chooses the weights."""

from typing import Any

from torch.utils.data import Dataset

from projects.one_to_k.config import Config
from projects.one_to_k.data import EvalSet, build_tokenizer
from projects.one_to_k.evaluate import ranks_of, table
from projects.one_to_k.module import OneToK
from projects.one_to_k.network import CrossLingualNetwork


class Whole(Dataset[int]):
    """Stands for a set that is retrieved as a whole.

    An item for each process, or one would not validate.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def __len__(self) -> int:
        return self.processes

    def __getitem__(self, index: int) -> int:
        return index


class ValidatedOneToK(OneToK):
    """`OneToK` with validation by retrieval.

    Distributed: every process retrieves the whole set, so that all log the same value.
    """

    def __init__(self, cfg: Config, network: CrossLingualNetwork | None = None) -> None:
        super().__init__(cfg, network)
        self.cfg = cfg
        self.eval_set: EvalSet | None = None

    def validated_on(self, eval_set: EvalSet) -> None:
        """Set what is retrieved."""
        self.eval_set = eval_set

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: no item can be ranked without the others."""

    def on_validation_epoch_end(self) -> None:
        """Log ``val/recall_mean``: R@1, 5, 10, both directions, all languages."""
        assert self.eval_set is not None
        ranks, _ = ranks_of(self.cfg, self.network, self.eval_set, build_tokenizer(self.cfg.model))
        figures = table(self.cfg.data.source, ranks, self.eval_set)
        self.log("val/recall_mean", figures["recall_mean"], sync_dist=False)
