"""COCONUT: rehearsal with two contrastive terms for class-incremental speech understanding."""

from dataclasses import replace

import torch
from torch import Tensor

from common.distributed.collectives import all_gather_no_grad
from common.distributed.differentiable import (
    all_gather_with_grad,
    all_reduce_sum,
    rank_mean_of_sums,
)
from common.encoders.pooling import mean_pool
from common.engine.module import ContrastiveModule
from common.losses.auxiliary.distillation import mixed, rehearsal_weight, softened_divergence
from common.losses.auxiliary.tokens import token_sums
from projects.coconut.config import Config
from projects.coconut.data import SpeechBatch, build_scenario, memory_slots
from projects.coconut.history import History
from projects.coconut.network import rows_embedded
from projects.coconut.objective import mm_loss, nspt_loss, nspt_weight, teacher_rows
from projects.coconut.snapshot import FrozenTeacher
from projects.coconut.speech.error_rates import IntentErrors
from projects.coconut.speech.special_tokens import PAD
from projects.coconut.speech.speech_to_text import SpeechToText
from projects.coconut.speech.tokenizer import TranscriptTokenizer


class Coconut(ContrastiveModule):
    """One task: the network, the frozen network of the previous task, the memory, the history.

        L = L_CE + lambda_MM L_MM + lambda_NSPT (L_NSPT(audio) + L_NSPT(text))

    Source: Cappellazzo et al. 2024, equation 7, arXiv 2310.02699.

    Args:
        cfg: the experiment's config.
        network: new, or taken over from the previous task.
        task: index of the task, from 0.
        num_test: test utterances that the history has places for.
        tokenizer: for validation only.

    Distributed: gathers negatives; contrastive terms are those of the rows of all ranks.
    """

    memory: Tensor
    hypotheses: Tensor

    def __init__(
        self,
        cfg: Config,
        network: SpeechToText,
        task: int,
        *,
        num_test: int = 0,
        tokenizer: TranscriptTokenizer | None = None,
    ) -> None:
        super().__init__(cfg.optim)
        self.cfg, self.method, self.task = cfg, cfg.method, task
        self.network, self.tokenizer = network, tokenizer
        self.teacher: FrozenTeacher[SpeechToText] | None = None
        if task > 0 and cfg.method.uses_teacher:
            self.teacher = FrozenTeacher(self.network)
        slots = memory_slots(cfg, task)
        self.register_buffer("memory", torch.full((slots,), -1))
        width = cfg.eval.max_length + 1 if cfg.method.distillation == "sequence" else 0
        self.register_buffer("hypotheses", torch.full((slots if width else 0, width), PAD))
        self.history = History(cfg.num_tasks, num_test, self.network.decoder.dim)
        scenario = build_scenario(cfg)
        self.num_past = len(scenario.seen(task - 1)) if task else 0
        self.num_seen = len(scenario.seen(task))
        self.in_batch_negatives = cfg.method.contrasts
        self.errors = IntentErrors(slots=cfg.data.slots)

    def losses(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Total loss and its parts of one batch."""
        states, mask = self.network.encode(batch["waveforms"], batch["lengths"])
        logits = self.network.logits(batch["tokens"], states, mask)
        terms = {
            "ce": rank_mean_of_sums(*self.ce_sums(logits, batch["tokens"])),
            "memory_share": batch["is_memory"].float().mean(),
        }
        loss = terms["ce"]
        if self.teacher is not None and self.method.distillation != "none":
            sums = self._distillation_sums(self.teacher.network, batch, states, mask, logits)
            terms["kd"] = rank_mean_of_sums(*sums)
            loss = mixed(terms["kd"], terms["ce"], self._distillation_share(batch["is_memory"]))
        if self.method.contrasts:
            loss = loss + self._contrast(batch, states, mask, terms)  # Eq. 7
        return {"loss": loss, **terms}

    def ce_sums(self, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over the tokens of this rank, and how many count."""
        smoothing, count_pad = self.method.label_smoothing, self.method.count_pad
        sums, counts = token_sums(
            logits, tokens, pad_id=PAD, label_smoothing=smoothing, count_pad=count_pad
        )
        return sums.sum(), counts.sum()

    def _distillation_sums(
        self,
        teacher: SpeechToText,
        batch: SpeechBatch,
        states: Tensor,
        mask: Tensor,
        logits: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """L_KD of the baselines A-KD, S-KD and T-KD: sum over its local items, and their number.

        Source: Cappellazzo et al. 2023, arXiv 2305.13899.

        Args:
            teacher: the network of the previous task.
            batch: B rows.
            states: (B, S, D) of the student.
            mask: (B, S) bool, real states.
            logits: (B, L - 1, V) of the next tokens, the student's.
        """
        kind, is_memory = self.method.distillation, batch["is_memory"]
        rows = torch.ones_like(is_memory) if kind == "token_all" else is_memory
        if not bool(rows.any()):
            return 0.0 * logits.sum(), torch.zeros((), device=logits.device)
        if kind == "sequence":  # S-KD: the teacher's hypothesis instead of the transcript
            tokens = self.hypotheses[batch["slots"][rows]]
            return self.ce_sums(self.network.logits(tokens, states[rows], mask[rows]), tokens)
        with torch.no_grad():
            old_states, old_mask = teacher.encode(batch["waveforms"][rows], batch["lengths"][rows])
        if kind == "audio":  # A-KD
            old = mean_pool(old_states, old_mask)
            distance = (mean_pool(states[rows], mask[rows]) - old).square()
            return distance.sum(), torch.tensor(float(distance.numel()), device=distance.device)
        tokens = batch["tokens"][rows]  # T-KD
        with torch.no_grad():
            old_logits = teacher.logits(tokens, old_states, old_mask)
        real = tokens[:, 1:] != PAD
        divergence = softened_divergence(
            logits[rows][real].float(), old_logits[real].float(), self.method.kd_temperature
        )
        return divergence.sum(), torch.tensor(float(len(divergence)), device=divergence.device)

    def _distillation_share(self, is_memory: Tensor) -> float:
        """Share alpha in ``alpha L_KD + (1 - alpha) L_CE``.

        k / (k + 1) in task k + 1 for distillation on all rows, else sqrt(memory rows / rows) of the
        global batch, which is 0 without memory in it.
        """
        if self.method.distillation == "token_all":
            return self.task / (self.task + 1)
        sizes = torch.stack([is_memory.sum(), torch.tensor(len(is_memory)).to(is_memory.device)])
        num_memory, num_rows = all_reduce_sum(sizes.double()).tolist()
        return rehearsal_weight(num_memory, num_rows)

    def _contrast(
        self, batch: SpeechBatch, states: Tensor, mask: Tensor, terms: dict[str, Tensor]
    ) -> Tensor:
        """lambda_MM L_MM + lambda_NSPT (L_NSPT of audio and of text)."""
        audio = all_gather_with_grad(self.network.embed_audio(states, mask))
        text = all_gather_with_grad(self.network.embed_text(batch["text_tokens"]))
        is_memory = all_gather_no_grad(batch["is_memory"])
        total = 0.0 * (audio.sum() + text.sum())  # both projections are part of every graph
        if self.method.mm_weight > 0 and not (self.method.mm_first_only and self.task > 0):
            rows = ~is_memory if self.method.mm_rows == "current" else torch.ones_like(is_memory)
            terms["mm"] = mm_loss(audio, text, rows, self.method.temperature)
            total = total + self.method.mm_weight * terms["mm"]
        if self.teacher is None or not self.method.uses_nspt:
            return total
        labels = all_gather_no_grad(batch["labels"])
        read = teacher_rows(self.method, batch["is_memory"])
        old = rows_embedded(self.teacher.network, batch, read)
        weight = nspt_weight(self.method, self.num_past, self.num_seen)
        for name, student in (("audio", audio), ("text", text)):
            if name in self.method.nspt_modalities:
                teacher = all_gather_no_grad(old[name])
                term = nspt_loss(self.method, student, teacher, labels, is_memory)
                terms[f"nspt_{name}"], total = term, total + weight * term
        return total

    def validation_step(self, batch: SpeechBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count right intents and word edits of a validation batch."""
        assert self.tokenizer is not None
        search = replace(self.cfg.eval, beam_size=self.cfg.eval.val_beam_size)
        tokens = self.network.transcribe(batch["waveforms"], batch["lengths"], search)
        for row, gold in zip(tokens.tolist(), batch["tokens"].tolist(), strict=True):
            self.errors.add(*(self.tokenizer.decode_target(ids) for ids in (row, gold)))

    def on_validation_epoch_end(self) -> None:
        """Log intent accuracy and WER; val/selection orders by accuracy, ties by WER."""
        accuracy, wer = self.errors.over_ranks(self.device)
        self.errors.reset()
        self.log_dict({"val/intent_accuracy": accuracy, "val/wer": wer})
        # epochs before `method.select_from_epoch` cannot be selected in tasks >= 2
        epoch = self.global_step / max(1.0, self.warmup_epoch_steps)
        early = self.task > 0 and epoch < self.method.select_from_epoch
        selection = accuracy - 1e-6 * wer - (10.0 if early else 0.0)
        # as float64: the WER would be lost in the float32 that a number is logged as
        self.log("val/selection", torch.tensor(selection, dtype=torch.float64))

    def adapt_to(self, state: dict[str, Tensor]) -> None:
        """The settings of a checkpoint from before the history recorded them are unknown."""
        state.setdefault("history.settings", torch.full_like(self.history.settings, torch.nan))
