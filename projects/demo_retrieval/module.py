"""The generator as a module; retriever and bank are outside and stay as they are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.distributed.collectives import all_gather_no_grad
from common.distributed.differentiable import rank_mean_of_sums
from common.encoders.modes import evaluation_mode
from common.engine.module import ContrastiveModule
from projects.demo_retrieval.bank import Bank
from projects.demo_retrieval.batches import DemoBatch
from projects.demo_retrieval.config import Config
from projects.demo_retrieval.decode import generate, generate_sequence, label_log_likelihoods
from projects.demo_retrieval.network import make_encoder, start_id
from projects.demo_retrieval.objective import IGNORED, rag_sequence_nll, rag_token_nll
from projects.demo_retrieval.question_answering import answer_f1, best_answer
from projects.demo_retrieval.template import parse_answer


class DemoRetrieval(ContrastiveModule):
    """One module for meta-training, fine-tuning and every arm: they differ in their batches alone.

    Source: Mueller et al. 2023, arXiv 2307.00119.

    Args:
        cfg: the experiment's config.
        network: encoder-decoder.
        tokenizer: its tokenizer; None in a dry run.
        bank: of demonstrations, for exports; neither trained nor saved with the weights.

    Distributed: reduces statistics (numbers of tokens or sequences).
    """

    in_batch_negatives = False

    def __init__(self, cfg: Config, network: Any, tokenizer: Any, bank: Bank | None = None) -> None:
        super().__init__(cfg.optim)
        self.cfg, self.network, self.tokenizer, self.bank = cfg, network, tokenizer, bank
        self.start = start_id(network)
        self.encoder = None if tokenizer is None else make_encoder(cfg, network, tokenizer)
        self._seen = torch.zeros(2)

    # -- objective -------------------------------------------------------------------------------

    def logits(self, batch: DemoBatch) -> Tensor:
        """(B K, T, V) under teacher forcing: position j is scored against label j."""
        labels = batch["labels"]
        first = torch.full_like(labels[:, :1], self.start)
        # the only shift: the decoder reads what stands before each label
        inputs = torch.cat([first, labels[:, :-1]], 1).clamp(min=0)
        inputs = inputs.repeat_interleave(batch["scores"].shape[1], 0)
        out = self.network(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=inputs,
        )
        logits: Tensor = out.logits
        return logits

    def losses(self, batch: DemoBatch) -> dict[str, Tensor]:
        """Mean loss of a token, or of a sequence, over the batches of all ranks."""
        labels, scores = batch["labels"], batch["scores"]
        nll = rag_sequence_nll if self.cfg.method.coupling == "sequence" else rag_token_nll
        total = nll(self.logits(batch), scores, labels).sum()
        tokens = self.cfg.method.reduction == "tokens"
        count = labels.ne(IGNORED).sum() if tokens else torch.tensor(len(labels))
        loss = rank_mean_of_sums(total, count.to(total.device, total.dtype))
        return {"loss": loss, "first_weight": scores.softmax(1)[:, 0].mean()}

    # -- answers ---------------------------------------------------------------------------------

    def answers(self, batch: DemoBatch) -> list[str]:
        """Generated answers of B inputs; "" where none was written."""
        settings, encoder = self.cfg.eval, self._encoder()
        head = max(len(encoder.target_head(e)) for e in batch["examples"])
        write = generate_sequence if self.cfg.method.coupling == "sequence" else generate
        with evaluation_mode(self):
            out = write(
                self.network,
                batch["input_ids"],
                batch["attention_mask"],
                batch["scores"],
                start=self.start,
                end=encoder.end,
                pad=int(self.tokenizer.pad_token_id),
                max_new_tokens=head + settings.max_new_tokens,
                num_beams=settings.num_beams,
            )
        rows = [
            row[: row.index(encoder.end)] if encoder.end in row else row for row in out.tolist()
        ]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [parse_answer(text) for text in texts]

    def ranked(self, batch: DemoBatch, labels: Sequence[str]) -> Tensor:
        """Log-likelihoods (B, C) of candidate answers."""
        encoder, k = self._encoder(), batch["scores"].shape[1]
        ids = [[*encoder.ids(f" {label}"), encoder.end] for label in labels]
        heads = [encoder.target_head(e) for e in batch["examples"]]
        same = all(head == heads[0] for head in heads)
        parts = [slice(0, len(heads))] if same else [slice(i, i + 1) for i in range(len(heads))]
        with evaluation_mode(self):
            return torch.cat(
                [
                    label_log_likelihoods(
                        self.network,
                        batch["input_ids"][k * p.start : k * p.stop],
                        batch["attention_mask"][k * p.start : k * p.stop],
                        batch["scores"][p],
                        heads[p.start],
                        ids,
                        start=self.start,
                        sequence=self.cfg.method.coupling == "sequence",
                    )
                    for p in parts
                ]
            )

    def _encoder(self) -> Any:
        assert self.encoder is not None, "a dry run has no tokenizer"
        return self.encoder

    # -- selection -------------------------------------------------------------------------------

    def validation_step(self, batch: DemoBatch, batch_idx: int) -> None:
        """F1 of generated answers, summed."""
        hits = [
            best_answer(answer_f1, text, e.answers)
            for text, e in zip(self.answers(batch), batch["examples"], strict=True)
        ]
        self._seen += torch.tensor([sum(hits), float(len(hits))])

    def on_validation_epoch_end(self) -> None:
        """Log the mean over the inputs of all ranks, as ``val/f1``."""
        total = all_gather_no_grad(self._seen[None].to(self.device)).sum(0)
        self._seen = torch.zeros(2)
        self.log("val/f1", total[0] / total[1].clamp(min=1))
