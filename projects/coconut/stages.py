"""One stage a task: train, evaluate all classes seen, fill the memory, freeze the teacher."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.speech.sources import spoken_part
from common.data.speech.spoken import SpokenPart
from common.data.speech.transcripts import SpokenTarget
from common.encoders.modes import evaluated
from common.engine.experiment import Stage
from projects.coconut.config import Config
from projects.coconut.data import (
    EvalSpeech,
    Samples,
    TaskData,
    TaskSpeech,
    build_scenario,
    build_tokenizer,
    quota,
)
from projects.coconut.incremental import ClassIncremental, select_memory
from projects.coconut.module import Coconut
from projects.coconut.network import build_network
from projects.coconut.speech.error_rates import word_edits
from projects.coconut.speech.special_tokens import EOS, PAD
from projects.coconut.speech.tokenizer import TranscriptTokenizer, full_text


class Task:
    """What belongs to a config and is shared by all tasks of a run.

    Args:
        cfg: the experiment's config.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.tokenizer: TranscriptTokenizer = build_tokenizer(cfg)
        self.scenario: ClassIncremental = build_scenario(cfg)
        self.train = self.samples("train")
        self.test = self.samples("dev" if cfg.eval.split == "dev" else "test")
        self.test_tasks = self.scenario.tasks(self.test.spoken.labels)
        self.validates = cfg.trainer.val_every_n_steps is not None
        self.longest = max(len(t) for t in self.train.tokens) - 1
        if cfg.eval.max_length < self.longest:
            raise UserError(
                f"eval.max_length={cfg.eval.max_length} is shorter than the longest target of the "
                f"training part, {self.longest} tokens"
            )

    def samples(self, part: SpokenPart) -> Samples:
        """Utterances of a part as rows of tensors."""
        spoken = spoken_part(self.cfg.data, part, self.cfg.seed)
        return Samples(spoken, self.tokenizer, self.cfg.data, self.cfg.method.text)

    @property
    def evaluated_tasks(self) -> Tensor:
        """(N,) task after which a test utterance is first evaluated; all in one offline."""
        offline = self.cfg.method.setting == "offline"
        return torch.zeros_like(self.test_tasks) if offline else self.test_tasks

    def train_rows(self, task: int) -> Tensor:
        """Training utterances of a task."""
        if self.cfg.method.setting == "offline":
            return torch.arange(len(self.train.spoken))
        return self.scenario.rows(self.train.spoken.labels, task)

    def module(
        self, task: int, previous: Coconut | None = None, memory: Tensor | None = None
    ) -> Coconut:
        """Module of a task that continues another one's network, history and memory."""
        if previous is None:
            network = build_network(self.cfg, len(self.tokenizer))
        else:
            network = previous.network
        num_test = len(self.test.spoken)
        module = Coconut(self.cfg, network, task, num_test=num_test, tokenizer=self.tokenizer)
        if previous is not None:
            module.history.copy_from(previous.history)
        if memory is not None and len(module.memory):
            module.memory.copy_(memory)
        return module

    def data(self, task: int, module: Coconut) -> TaskData:
        """Training stream of the task's utterances and the memory; validation if asked for."""
        cfg, val = self.cfg, dict[str, Dataset[Any]]()
        if self.validates:
            held_out = self.samples("dev")
            tasks = self.scenario.tasks(held_out.spoken.labels)
            last = cfg.data.num_tasks if cfg.method.setting == "offline" else task
            rows = (tasks <= last).nonzero().flatten().tolist()
            val["dev"] = EvalSpeech(held_out, spread(rows, cfg.eval.val_share))
        return TaskData(
            TaskSpeech(self.train, self.train_rows(task), module.memory),
            lambda: module.memory,
            batch_size=cfg.data.batch_size,
            seed=cfg.seed,
            num_workers=cfg.data.num_workers,
            val=val,
            eval_batch_size=cfg.eval.batch_size,
        )


def spread(rows: Sequence[int], share: float) -> list[int]:
    """A share of some rows, at least one of them, evenly spaced.

    >>> spread([0, 1, 2, 3, 4], 0.6)
    [0, 1, 3]
    """
    count = max(1, round(share * len(rows)))
    return [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]


def stages(cfg: Config) -> Iterator[Stage]:
    """Every task in turn; the generator continues from the trained (or reloaded) module.

    What is made between tasks, the memory, the teacher and its hypotheses, is a function of the
    trained weights and is part of the next module, so that its checkpoints hold it too.
    """
    shared = Task(cfg)
    module = shared.module(0)
    for task in range(cfg.num_tasks):
        best = cfg.method.select == "best"
        epochs = cfg.method.epochs if cfg.method.setting == "incremental" else []
        yield Stage(
            f"task{task + 1}",
            module,
            shared.data(task, module),
            trainer={"max_epochs": epochs[task]} if epochs else {},
            monitor="val/selection" if best else None,
        )
        if task + 1 == cfg.num_tasks:
            return
        with evaluated(module, cfg.trainer.accelerator):
            evaluate_task(shared, module, task)
            memory = grown_memory(shared, module, task)
        module = shared.module(task + 1, module, memory)
        if len(module.hypotheses):
            with evaluated(module, cfg.trainer.accelerator):
                module.hypotheses.copy_(teacher_hypotheses(shared, module))


# -- after a task --------------------------------------------------------------------------------


def evaluate_task(shared: Task, module: Coconut, task: int) -> list[SpokenTarget]:
    """Decode the test utterances of all classes seen and note the results in the history.

    Args:
        shared: data and tokenizer.
        module: in eval mode.
        task: index of the finished task.

    Returns:
        What was generated, in the order of the rows ``evaluated_tasks <= task``.
    """
    rows = (shared.evaluated_tasks <= task).nonzero().flatten()
    predictions, features = decode(shared, module, shared.test, rows.tolist())
    correct, full, said = scores(shared, shared.test, rows.tolist(), predictions)
    module.history.record(task, rows, correct, full, said)
    module.history.record_settings(task, shared.cfg.eval)
    old = shared.evaluated_tasks[rows] < task
    module.history.record_features(task, rows, features, old)
    return predictions


def decode(
    shared: Task, module: Coconut, samples: Samples, rows: Sequence[int]
) -> tuple[list[SpokenTarget], Tensor]:
    """Generated targets and pooled audio features (K, D) of some rows."""
    cfg, data = shared.cfg, EvalSpeech(samples, rows)
    device = next(module.network.parameters()).device
    predictions: list[SpokenTarget] = []
    features = []
    for start in range(0, len(data), cfg.eval.batch_size):
        batch = data.collate(list(rows[start : start + cfg.eval.batch_size]))
        waveforms, lengths = batch["waveforms"].to(device), batch["lengths"].to(device)
        features.append(module.network.features(waveforms, lengths).float().cpu())
        tokens = module.network.transcribe(waveforms, lengths, cfg.eval)
        predictions += [shared.tokenizer.decode_target(ids) for ids in tokens.tolist()]
    data.counter.finish()  # every test utterance counts
    return predictions, torch.cat(features)


def scores(
    shared: Task, samples: Samples, rows: Sequence[int], predictions: Sequence[SpokenTarget]
) -> tuple[Tensor, Tensor, Tensor]:
    """Right intents (K,) bool, word edits of whole outputs and of transcripts (K,) each."""
    slots = shared.cfg.data.slots
    gold = [samples.spoken.targets[row] for row in rows]
    pairs = list(zip(predictions, gold, strict=True))
    return (
        torch.tensor([f.intent == g.intent for f, g in pairs]),
        torch.tensor(
            [word_edits(full_text(f, slots=slots), full_text(g, slots=slots))[0] for f, g in pairs]
        ),
        torch.tensor([word_edits(f.transcript, g.transcript)[0] for f, g in pairs]),
    )


def grown_memory(shared: Task, module: Coconut, task: int) -> Tensor | None:
    """The memory of the finished tasks: what it held, and the quota of the new classes.

    Args:
        shared: data and tokenizer.
        module: trained on the task, in eval mode.
        task: index of the finished task.

    Returns:
        (slots,) rows of the training set, class by class; None without rehearsal.
    """
    cfg = shared.cfg
    places = quota(cfg)
    if places == 0:
        return None
    rows = shared.train_rows(task)  # the task's own utterances, not the memory
    features = None
    if cfg.method.selection != "random":
        rows, features = pooled_features(shared, module, rows.tolist())
    chosen = select_memory(
        features,
        shared.train.spoken.labels[rows],
        shared.scenario.classes[task],
        places,
        cfg.method.selection,
        cfg.seed,
    )
    new = torch.where(chosen >= 0, rows[chosen.clamp(min=0)], -1)
    return torch.cat([module.memory.cpu(), new])


def pooled_features(shared: Task, module: Coconut, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Readable training utterances (K,) among the rows, and pooled audio features (K, D)."""
    counter = CorruptCounter("training recordings")  # tolerates what training does
    device = next(module.network.parameters()).device
    size, ids, parts = shared.cfg.eval.batch_size, list[Tensor](), list[Tensor]()
    for start in range(0, len(rows), size):
        batch_rows = rows[start : start + size]
        batch = shared.train.batch(batch_rows, [-1] * len(batch_rows), counter)
        waveforms, lengths = batch["waveforms"].to(device), batch["lengths"].to(device)
        ids.append(batch["ids"])
        parts.append(module.network.features(waveforms, lengths))
    return torch.cat(ids), torch.cat(parts).float().cpu()


def teacher_hypotheses(shared: Task, module: Coconut) -> Tensor:
    """S-KD: best beam of the teacher for every place of the memory, once per task.

    Source: Cappellazzo et al. 2023, arXiv 2305.13899; Kim & Rush 2016, arXiv 1606.07947.

    Returns:
        (slots, eval.max_length + 1) token sequences, padded; an unfinished one gets its end token,
        a recording that cannot be read (training leaves it out) none.
    """
    cfg, teacher = shared.cfg, module.teacher
    assert teacher is not None
    out = torch.full_like(module.hypotheses, PAD)
    held = [(slot, row) for slot, row in enumerate(module.memory.tolist()) if row >= 0]
    counter = CorruptCounter("recordings in memory")
    device, search = out.device, replace(cfg.eval, beam_size=cfg.method.kd_beam)
    for start in range(0, len(held), cfg.eval.batch_size):
        part = held[start : start + cfg.eval.batch_size]
        batch = shared.train.batch([row for _, row in part], [slot for slot, _ in part], counter)
        tokens = teacher.network.transcribe(
            batch["waveforms"].to(device), batch["lengths"].to(device), search
        )
        for slot, ids in zip(batch["slots"].tolist(), tokens, strict=True):
            out[slot, : len(ids)] = ids
            if not bool((ids == EOS).any()):
                out[slot, len(ids) - 1] = EOS
    return out
