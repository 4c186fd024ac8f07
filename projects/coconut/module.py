"""COCONUT: rehearsal with two contrastive terms for class-incremental spoken language understanding."""

import torch
from torch import Tensor

from common.data.speech.transcripts import PAD, TranscriptTokenizer, full_text
from common.distributed.collectives import all_gather_no_grad
from common.distributed.differentiable import all_gather_with_grad, all_reduce_sum
from common.encoders.snapshot import FrozenTeacher
from common.encoders.text.pooling import mean_pool
from common.engine.module import ContrastiveModule
from common.evaluation.speech.error_rates import word_edits
from common.losses.functional.knowledge import mixed, rehearsal_weight, softened_divergence
from projects.coconut.config import Config
from projects.coconut.data import SpeechBatch, build_scenario, memory_slots
from projects.coconut.history import History
from projects.coconut.networks import SpeechToIntent, build_network, network_options
from projects.coconut.objective import (
    Embeddings,
    mean_over_ranks,
    mm_loss,
    nspt_loss,
    nspt_weight,
    teacher_rows,
    token_sums,
)


class Coconut(ContrastiveModule):
    """One task: the network, the frozen network of the previous task, the memory, the history.

        L = L_CE + lambda_MM L_MM + lambda_NSPT (L_NSPT(audio) + L_NSPT(text))

    With a distillation baseline L_CE becomes alpha L_KD + (1 - alpha) L_CE.

    Source: Cappellazzo et al. 2024, equation 7, arXiv 2310.02699.

    Args:
        cfg: the experiment's config.
        vocab_size: of the decoder.
        task: index of the task, from 0.
        network: taken over from the previous task; None builds that of the config.
        num_test: test utterances that the history has places for.
        tokenizer: for validation only.

    Distributed: gathers negatives; contrastive terms are those of the rows of all ranks.
    """

    memory: Tensor
    hypotheses: Tensor

    def __init__(
        self,
        cfg: Config,
        vocab_size: int,
        task: int,
        network: SpeechToIntent | None = None,
        *,
        num_test: int = 0,
        tokenizer: TranscriptTokenizer | None = None,
    ) -> None:
        super().__init__(cfg.optim)
        self.cfg, self.method, self.task = cfg, cfg.method, task
        self.tokenizer = tokenizer
        options = network_options(cfg, vocab_size)
        self.network = network or build_network(**options, pretrained=cfg.model.pretrained)
        self.teacher: FrozenTeacher[SpeechToIntent] | None = None
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
        self._validation: list[tuple[int, int, int, int]] = []

    # -- training --------------------------------------------------------------------------------

    def losses(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Total loss and its parts of one batch."""
        states, mask = self.network.encode(batch["waveforms"], batch["lengths"])
        logits = self.network.logits(batch["tokens"], states, mask)
        is_memory = batch["is_memory"]
        ce = mean_over_ranks(*self._ce(logits, batch["tokens"]))
        terms = {"ce": ce, "memory_share": is_memory.float().mean()}
        loss = self._with_distillation(ce, batch, states, mask, logits, terms)
        if self.method.contrasts:
            loss = loss + self._contrast(batch, states, mask, terms)
        return {"loss": loss, **terms}

    def _ce(self, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        sums, counts = token_sums(
            logits,
            tokens,
            label_smoothing=self.method.label_smoothing,
            count_pad=self.method.count_pad,
        )
        return sums.sum(), counts.sum()

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
        old = self._teacher_embeddings(batch)
        weight = nspt_weight(self.method, self.num_past, self.num_seen)
        for name, student in (("audio", audio), ("text", text)):
            if name in self.method.nspt_modalities:
                pair = Embeddings(student, all_gather_no_grad(old[name]))
                terms[f"nspt_{name}"] = nspt_loss(self.method, pair, labels, is_memory)
                total = total + weight * terms[f"nspt_{name}"]
        return total

    @torch.no_grad()
    def _teacher_embeddings(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Teacher's unit embeddings (B, D) by modality; zeros in rows that the loss does not read."""
        assert self.teacher is not None
        teacher = self.teacher.network
        rows = teacher_rows(self.method, batch["is_memory"])
        dim = self.cfg.model.embed_dim
        found = {m: batch["waveforms"].new_zeros(len(rows), dim) for m in ("audio", "text")}
        if bool(rows.any()):
            states, mask = teacher.encode(batch["waveforms"][rows], batch["lengths"][rows])
            found["audio"][rows] = teacher.embed_audio(states, mask).to(found["audio"].dtype)
            text = teacher.embed_text(batch["text_tokens"][rows])
            found["text"][rows] = text.to(found["text"].dtype)
        return found

    # -- distillation baselines ------------------------------------------------------------------

    def _with_distillation(
        self,
        ce: Tensor,
        batch: SpeechBatch,
        states: Tensor,
        mask: Tensor,
        logits: Tensor,
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Mix alpha L_KD + (1 - alpha) L_CE; plain L_CE without teacher or memory in the batch."""
        kind = self.method.distillation
        if self.teacher is None or kind == "none":
            return ce
        is_memory = batch["is_memory"]
        rows = torch.ones_like(is_memory) if kind == "token_all" else is_memory
        total, count = self._distilled(kind, batch, states, mask, logits, rows)
        terms["kd"] = mean_over_ranks(total, count)
        if kind == "token_all":
            return mixed(terms["kd"], ce, self.task / (self.task + 1))
        sizes = torch.stack([is_memory.sum(), torch.tensor(len(is_memory)).to(is_memory.device)])
        num_memory, num_rows = all_reduce_sum(sizes.double()).tolist()
        return mixed(terms["kd"], ce, rehearsal_weight(num_memory, num_rows))

    def _distilled(
        self,
        kind: str,
        batch: SpeechBatch,
        states: Tensor,
        mask: Tensor,
        logits: Tensor,
        rows: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the distillation term over its local items, and their number."""
        assert self.teacher is not None
        if not bool(rows.any()):
            return 0.0 * logits.sum(), torch.zeros((), device=logits.device)
        if kind == "sequence":  # S-KD: the teacher's hypothesis instead of the transcript
            tokens = self.hypotheses[batch["slots"][rows]]
            return self._ce(self.network.logits(tokens, states[rows], mask[rows]), tokens)
        teacher = self.teacher.network
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

    # -- use -------------------------------------------------------------------------------------

    def encode(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Zero-padded waveforms (B, T), lengths (B,) -> features (B, D), mean over real frames."""
        return mean_pool(*self.network.encode(waveforms, lengths))

    def transcribe(self, waveforms: Tensor, lengths: Tensor, beam_size: int) -> Tensor:
        """Generated token sequences (B, L) with the config's length limit and penalty."""
        states, mask = self.network.encode(waveforms, lengths)
        return self.network.generate(
            states,
            mask,
            beam_size=beam_size,
            max_length=self.cfg.eval.max_length,
            power=self.cfg.eval.length_power,
        )

    def validation_step(self, batch: SpeechBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count right intents and word edits of a validation batch."""
        assert self.tokenizer is not None
        tokens = self.transcribe(
            batch["waveforms"], batch["lengths"], self.cfg.eval.val_beam_size
        ).tolist()
        for row, gold in zip(tokens, batch["tokens"].tolist(), strict=True):
            found, wanted = (self.tokenizer.decode_target(ids) for ids in (row, gold))
            texts = [full_text(t, slots=self.cfg.data.slots) for t in (found, wanted)]
            edits, words = word_edits(texts[0], texts[1])
            self._validation.append((1, int(found.intent == wanted.intent), edits, words))

    def on_validation_epoch_end(self) -> None:
        """Log intent accuracy and WER; val/selection orders by accuracy, ties by WER.

        In tasks >= 2 epochs before `method.select_from_epoch` cannot be selected.
        """
        local = torch.tensor(self._validation, dtype=torch.float64).reshape(-1, 4).sum(0)
        self._validation = []
        count, right, edits, words = all_reduce_sum(local.to(self.device)).tolist()
        accuracy, wer = right / max(1.0, count), edits / max(1.0, words)
        self.log("val/intent_accuracy", accuracy)
        self.log("val/wer", wer)
        epoch = self.global_step / max(1.0, self.warmup_epoch_steps)
        early = self.task > 0 and epoch < self.method.select_from_epoch
        self.log("val/selection", accuracy - 1e-6 * wer - (10.0 if early else 0.0))

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Other rows of the batch, where a contrastive term is active."""
        return max(0, global_batch_size - 1) if self.method.contrasts else 0
