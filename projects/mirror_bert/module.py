"""Mirror-BERT: a masked LM contrasted with itself, with no parameters of its own."""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.module import SentenceModule
from common.losses.output import LossOutput
from common.losses.two_view import NTXentLoss
from projects.mirror_bert.config import Config
from projects.mirror_bert.drophead import add_drop_head
from projects.mirror_bert.lexicon import evaluate_titles, title_search

DEV_TITLES = 500  # queries of a validation at lexical level


class MirrorBERT(SentenceModule):
    """Raw strings against their masked twins under NT-Xent.

    Both views pass through the encoder as one batch of 2B rows, in which every row has dropout and
    DropHead masks of its own.

    Source: Liu et al. 2021, section 2 and equation 1, arXiv 2104.08027.

    Args:
        cfg: the experiment's config.
        encoder: transformer, pooler and tokenizer.

    Attributes:
        train_seconds: time of the fit in this process, without validation.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim, encoder)
        self.temperature = cfg.method.temperature
        self.fixed_length = cfg.data.max_length if cfg.model.pooling == "avg_all" else None
        self.loss = NTXentLoss(gather=cfg.method.gather, backend=cfg.method.loss_backend)
        if cfg.model.drop_head:
            add_drop_head(encoder.tower.model, cfg.model.drop_head)
        self.train_seconds = 0.0
        self._started = 0.0
        self._lexical, self._root = cfg.eval.level == "lexical", cfg.data.root

    def contrast(self, view_1: Tensor, view_2: Tensor) -> LossOutput:
        """NT-Xent of embeddings, each (B, D): 2N - 2 negatives for each of the 2B anchors."""
        output: LossOutput = self.loss(view_1, view_2, 1 / self.temperature)  # Eq. 1
        return output

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and in-batch top-1 of one batch of `common.data.text.views`."""
        output = self.contrast(*self.views(self.padded(batch), 2))
        assert output.hits is not None
        return {"loss": output.loss, "top1": output.hits.float().mean()}

    def padded(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The batch at its fixed length, if the pooler averages over padding."""
        if self.fixed_length is None:
            return batch
        room = (0, self.fixed_length - batch["input_ids"].shape[1])
        ids = F.pad(batch["input_ids"], room, value=int(self.encoder.tokenizer.pad_token_id))
        return {**batch, "input_ids": ids, "attention_mask": F.pad(batch["attention_mask"], room)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group: weight decay on all parameters, biases and norms too (official code)."""
        return [{"params": list(self.parameters()), "weight_decay": self.optim.weight_decay}]

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Both views of the other strings."""
        return max(0, 2 * global_batch_size - 2)

    # -- validation and clock ----------------------------------------------------------------------

    def on_validation_epoch_end(self) -> None:
        """STS, and at lexical level Recall@1 of development titles (each rank takes all)."""
        super().on_validation_epoch_end()
        if self._lexical:
            task = title_search(self._root, "dev", DEV_TITLES)
            metrics, _ = evaluate_titles(self.encoder.encode, task)
            self.log("val/esco_recall_at_1", metrics["esco_recall_at_1"], rank_zero_only=True)

    def on_train_start(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_end(self) -> None:
        """Stop the clock."""
        self.train_seconds += time.perf_counter() - self._started

    def on_validation_start(self) -> None:
        """Stop the clock while it validates."""
        self.on_train_end()

    def on_validation_end(self) -> None:
        """Go on."""
        self.on_train_start()
