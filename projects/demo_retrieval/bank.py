"""The bank of demonstrations: examples of many tasks, one index, K results per input."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.lines import read_lines
from common.data.shared_files import fill_shards
from common.data.tables import read_jsonl
from common.encoders.state_dict import read_state_dict
from common.evaluation.matrices import blocks
from common.evaluation.retrieval.vector_shards import encode_shards
from common.evaluation.search import search
from common.export.files import write_tensors
from common.files import write_bytes
from projects.demo_retrieval.config import Selection
from projects.demo_retrieval.question_answering import normalize_answer
from projects.demo_retrieval.questions import data_set
from projects.demo_retrieval.retriever import Retriever
from projects.demo_retrieval.template import (
    Example,
    asked,
    copy_keys,
    demonstration_text,
    from_row,
)

SHARD = 50_000  # demonstrations, or inputs, whose vectors or hits are in a file
COPY_RULE = 2  # raised with the rule of what is a copy: kept hits of an older one are not taken


class Hits(NamedTuple):
    """Demonstrations of N inputs."""

    positions: np.ndarray  # (N, K) int64, in the bank
    scores: Tensor  # (N, K) float32


def read_bank(path: Path) -> list[Example]:
    """Demonstrations of a JSONL file: ``question``, ``answer(s)``, ``context``, ``task``.

    Raises:
        UserError: no such file, a row without question or answer, a field of another kind, or an
            empty file.
    """
    examples = []
    for i, row in enumerate(read_jsonl(path)):
        example = from_row(row, f"{path}, row {i + 1}", path.stem, i)
        if example.question and not example.answers:
            raise UserError(f"{path}, row {i + 1} has no answer: a demonstration is labelled")
        examples.append(example)
    if not examples:
        raise UserError(f"{path} has no demonstration")
    return examples


def write_bank(path: Path, bank: Iterable[Example]) -> None:
    """The inverse of `read_bank`."""
    lines = (json.dumps(e._asdict(), ensure_ascii=False) for e in bank)
    write_bytes(path, "".join(line + "\n" for line in lines).encode("utf-8"))


def read_passages(path: Path) -> list[Example]:
    """A passage a line: what stands in for demonstrations in the RAG baseline.

    Raises:
        UserError: no such file, or nothing in it.
    """
    texts = [" ".join(line.split()) for line in read_lines(path) if line.strip()]
    if not texts:
        raise UserError(f"{path} has no passage: expected one per line")
    return [Example("passages", "", (), text, (), str(i)) for i, text in enumerate(texts)]


def query_text(example: Example) -> str:
    """What E_q reads: question and context, never the answer."""
    return f"{example.question} {example.context}".strip()


def twin_keys(example: Example) -> tuple[str, str]:
    """Two keys of an example: data set, question and candidates, with and without a context."""
    query = asked(example)
    parts = [data_set(query.task), *map(normalize_answer, (query.question, *query.options))]
    keys = [json.dumps([*parts, context]) for context in (bool(query.context), not query.context)]
    return keys[0], keys[1]


class Copies:
    """Which of many examples are the same as a given one, by hashed keys.

    Copies have question and start of the context in common, in whatever collection (`copy_keys`).
    UnifiedQA holds some sets twice, with contexts and without: a twin is the same question with the
    same candidates, of the same data set, where one of both has a context.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        self._places: dict[str, list[int]] = defaultdict(list)
        for i, example in enumerate(examples):
            for key in (*copy_keys(example), twin_keys(example)[0]):
                self._places[key].append(i)

    def of(self, example: Example) -> set[int]:
        """Places of its copies and twins."""
        keys = (*copy_keys(example), twin_keys(example)[1])
        return {i for key in keys for i in self._places.get(key, ())}


class Bank:
    """Demonstrations with their vectors.

    Args:
        examples: of many tasks.
        retriever: frozen.
        key: "full" with the answer, "question_context" without.
        cache: folder that keeps vectors under a hash of retriever and texts; None: in memory.
        index: file of `write_index`, whose vectors are taken if they are those of this bank.

    Raises:
        UserError: an empty bank.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        retriever: Retriever,
        key: str,
        cache: str | None = None,
        index: Path | None = None,
    ) -> None:
        if not examples:
            raise UserError(
                "the bank is empty: give tasks in data.bank, a data.bank_file, or set"
                " data.bank_targets"
            )
        self.examples, self.retriever, self.key = list(examples), retriever, key
        self.cache = None if cache is None else Path(cache).expanduser()
        self.vectors = self._vectors(index)
        self.copies = Copies(self.examples)
        self.by_id: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.by_task: dict[str, list[int]] = defaultdict(list)
        for i, example in enumerate(self.examples):
            self.by_task[example.task].append(i)
            if example.id:
                self.by_id[example.task, example.id].append(i)

    def texts(self) -> list[str]:
        """What E_d reads."""
        return key_texts(self.examples, self.key)

    def digest(self) -> str:
        """Hash of retriever and texts."""
        content = json.dumps([self.retriever.fingerprint(), self.key, self.texts()])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def write_index(self, path: Path) -> None:
        """The vectors under their hash: another bank or retriever does not take them."""
        write_tensors(path, {self.digest(): self.vectors})

    def _vectors(self, index: Path | None) -> Tensor:
        if index is not None and index.is_file():
            stored, digest = read_state_dict(index), self.digest()
            if digest in stored:
                return stored[digest]
        if self.cache is None:
            return self.retriever.demonstrations(self.texts())
        texts, digest = self.texts(), self.digest()
        if len(texts) > SHARD:
            shards = encode_shards(
                self.retriever.demonstrations, texts, self.cache / digest, digest, shard_size=SHARD
            )
            assert shards is not None  # it waits
            return shards.whole()
        path = self.cache / f"{digest}.safetensors"
        if not path.is_file():  # another encoder or another bank has another name
            write_tensors(path, {"vectors": self.retriever.demonstrations(texts)})
        return read_state_dict(path)["vectors"]

    def own(self, example: Example) -> list[int]:
        """Places of the example itself, of its copies and of its twins: see `Copies`."""
        same = self.by_id.get((example.task, example.id), []) if example.id else []
        return sorted({*same, *self.copies.of(example)})

    def nearest(self, examples: Sequence[Example], k: int, scale: float = 1.0) -> Hits:
        """The K best of all tasks, without the examples themselves.

        Raises:
            UserError: fewer than K are left.
        """
        excluded = [self.own(e) for e in examples]
        if not 1 <= k <= len(self.examples) - max(map(len, excluded), default=0):
            raise UserError(f"method.k={k}, but the bank holds {len(self.examples)} demonstrations")
        vectors = self.retriever.questions([query_text(e) for e in examples])
        on_gpu = (
            torch.cuda.is_available() and getattr(self.retriever, "accelerator", "cpu") != "cpu"
        )
        device = "cuda" if on_gpu else "cpu"
        hits = search(vectors, self.vectors, k, metric="dot", exclude=excluded, device=device)
        return Hits(hits.indices.cpu().numpy(), hits.scores.float().cpu() * scale)

    def nearest_kept(self, examples: Sequence[Example], k: int, scale: float = 1.0) -> Hits:
        """As `nearest`; the cache keeps what many inputs found, for the next start of a run.

        The processes of a run share out the inputs, and a killed one continues after its last part.

        Raises:
            UserError: see `nearest`.
        """
        if self.cache is None:
            return self.nearest(examples, k, scale)
        name = hashlib.sha256(f"{self.digest()} {k} {scale} {COPY_RULE}".encode())
        for example in (*self.examples, *examples):  # what says which ones are excluded
            name.update(json.dumps([*example, data_set(example.task)]).encode())
        folder = self.cache / f"hits-{name.hexdigest()[:32]}"
        parts = list(blocks(len(examples), SHARD))
        paths = [folder / f"{i:05d}.safetensors" for i in range(len(parts))]

        def write(part: int) -> None:
            hits = self.nearest(examples[parts[part]], k, scale)
            rows = {"positions": torch.from_numpy(hits.positions), "scores": hits.scores}
            write_tensors(paths[part], rows)

        fill_shards(folder, {"hits": name.hexdigest()}, paths, write)
        states = [read_state_dict(path) for path in paths]
        positions, scores = (torch.cat([s[n] for s in states]) for n in ("positions", "scores"))
        return Hits(positions.numpy(), scores)

    def at_random(
        self, example: Example, k: int, rng: np.random.Generator, *, same_task: bool
    ) -> list[int]:
        """K different ones of the bank, or of the example's task.

        Of a question without a task, of the bank.

        Raises:
            UserError: fewer than K are there.
        """
        from_task = same_task and bool(example.task)  # users ask questions of no task
        places = self.by_task.get(example.task, []) if from_task else range(len(self.examples))
        excluded = {
            i for i in self.own(example) if not from_task or self.examples[i].task == example.task
        }
        if len(places) - len(excluded) < k:
            what = f" of {example.task}" if from_task else ""
            raise UserError(f"method.k={k}, but the bank holds {len(places)} demonstrations{what}")
        order = rng.permutation(len(places))[: k + len(excluded)]
        return [places[int(i)] for i in order if places[int(i)] not in excluded][:k]


def key_texts(examples: Sequence[Example], key: str) -> list[str]:
    """What E_d reads of demonstrations."""
    if key == "question_context":
        return [query_text(e) for e in examples]
    return [demonstration_text(e, options=False) for e in examples]


class Demonstrations:
    """Which demonstrations an input gets, by one switch.

    Args:
        bank: see `Bank`; None without demonstrations.
        selection: retrieved (also passages), random_task, random_bank or none.
        k: of an input.
        scale: of dot products.
    """

    def __init__(self, bank: Bank | None, selection: Selection, k: int, scale: float) -> None:
        self.bank, self.selection, self.scale = bank, selection, scale
        self.k = 1 if selection == "none" else k

    @property
    def random(self) -> bool:
        """Whether they are resampled at every access."""
        return self.selection in ("random_task", "random_bank")

    def fixed(self, examples: Sequence[Example], *, kept: bool = False) -> Hits | None:
        """Those that are found once, before training; None: drawn at every access, or none at all.

        Args:
            examples: inputs.
            kept: whether the bank's cache keeps them.
        """
        if self.random or self.bank is None or not examples:
            return None
        find = self.bank.nearest_kept if kept else self.bank.nearest
        return find(examples, self.k, self.scale)

    def drawn(self, example: Example, rng: np.random.Generator) -> list[int]:
        """K at random."""
        assert self.bank is not None
        return self.bank.at_random(example, self.k, rng, same_task=self.selection == "random_task")

    def texts(self, positions: Sequence[int]) -> list[Example | None]:
        """The demonstrations at some places; a single None without a bank."""
        if self.bank is None:
            return [None]
        return [self.bank.examples[int(i)] for i in positions]


def uniform(count: int, k: int) -> Tensor:
    """Scores of random demonstrations: equal, since nothing has compared them."""
    return torch.zeros(count, k)
