"""Samples streamed from webdataset shards: seeded, resumable, tolerant of bad samples.

The stream is an endless sequence of batches per rank, so a position is one number. With W loader
processes, batch b belongs to lane b mod W; each lane has its own shards and its own order. A loader
takes its processes in turn, hence a stream that starts at batch b gives process w lane (b + w) mod
W and the order of batches is the same as without the interruption. A batch is `batch_size` samples
of a shard stream; the corrupt ones among them are left out, so that skipping ahead decodes nothing.
"""

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import IterableDataset, get_worker_info

from common.config import UserError, without_secrets
from common.data.corrupt import CorruptCounter
from common.data.deferred import finished
from common.data.image.sources import ImageTransform, View, batch_of, read_views
from common.data.image_text.captions import (
    IMAGE_STREAM,
    TEXT_STREAM,
    TextAugment,
    TextPolicy,
    check_policy,
    choose_texts,
    tokenize,
)
from common.data.image_text.shards import (
    Sample,
    expand_shards,
    is_cut_off,
    sample_id,
    sample_image,
    sample_texts,
)
from common.data.samplers import Rng, sample_rng, too_few_samples
from common.data.text.tokenizers import TextTokenizer
from common.distributed.process import rank, world_size

log = logging.getLogger(__name__)
_COUNTERS = 256  # shared slots, one for each loader process
_SHARD_STREAM, _LANE_STREAM = 2, 3  # random streams besides those of an access
_READ_ERRORS = (ValueError, KeyError, TypeError, RecursionError)


class Samples(Protocol):
    """What the samples of a stream become."""

    def row(self, sample: Sample, epoch: int, position: int) -> Any:
        """One decoded sample.

        Args:
            sample: suffix -> undecoded bytes.
            epoch: with `position`, what everything that is drawn depends on.
            position: in the epoch, over all ranks.

        Raises:
            ValueError, KeyError, TypeError: it is corrupt.
        """
        ...

    def batch(self, rows: list[Any]) -> dict[str, Any]:
        """A batch of rows; its images may be unfinished, see `common.data.deferred`."""
        ...


class ShardStream(IterableDataset[Any]):
    """Endless batches of samples from tar shards.

    A batch has what `samples` makes of its rows, and ``ids`` (B,) int64, ``keys`` and ``skipped``.

    Args:
        shards: shard pattern (``{0000..0099}`` braces allowed) or a list of shards; local paths or
            URLs that webdataset opens.
        samples: decodes.
        batch_size: samples per rank and batch, corrupt ones included.
        seed: the experiment's seed.
        num_samples: size of the whole set; with it, shards are redistributed every epoch of
            num_samples // (batch_size * ranks) batches. None: one epoch without end.
        resampled: draw shards with replacement, so that any number of shards serves any number of
            ranks and processes. None: only with more than one rank.
        shuffle_buffer: undecoded samples among which the next one is drawn; 0 keeps shard order.
        num_workers: loader processes per rank, to refuse too few shards before these start.
        max_corrupt: largest tolerated fraction of corrupt samples, and of this rank's shards that
            cannot be read to their end, in [0, 1].

    Raises:
        UserError: no shards, or a missing local shard.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        samples: Samples,
        *,
        batch_size: int,
        seed: int,
        num_samples: int | None = None,
        resampled: bool | None = None,
        shuffle_buffer: int = 1000,
        num_workers: int = 0,
        max_corrupt: float = 0.05,
    ) -> None:
        self.shards = expand_shards(shards)
        self.samples, self.batch_size = samples, batch_size
        self.seed, self.num_samples = seed, num_samples
        self.resampled, self.shuffle_buffer = resampled, shuffle_buffer
        self.num_workers, self.max_corrupt = num_workers, max_corrupt
        self._skipped = torch.zeros(_COUNTERS, dtype=torch.long)
        self._skipped.share_memory_()  # type: ignore[no-untyped-call]
        # of the shards, over all loader processes: which ones this rank has had to read, which
        # could not be
        self._given, self._lost = torch.zeros(2, len(self.shards), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]
        self.first, self.rank, self.world_size = 0, rank(), world_size()

    @property
    def skipped(self) -> int:
        """Corrupt samples left out so far, over all loader processes of this rank."""
        return int(self._skipped.sum())

    @property
    def batches_per_epoch(self) -> int | None:
        """Batches per rank and epoch; None if `num_samples` is not known."""
        if self.num_samples is None:
            return None
        return self.num_samples // (self.batch_size * self.world_size)

    def start_at(self, batch: int) -> None:
        """Make the next iterator begin at this batch of the stream (resume).

        Called in the training process, where the ranks are known.

        Raises:
            UserError: fewer shards than ranks x loader processes, or too few samples for a batch.
        """
        self.first, self.rank, self.world_size = batch, rank(), world_size()
        self._check(max(1, self.num_workers))

    def __iter__(self) -> Iterator[Any]:
        return map(finished, self.deferred())

    def deferred(self) -> Iterator[dict[str, Any]]:
        """The batches, their images unfinished where the transform allows."""
        worker = get_worker_info()
        process, lanes = (worker.id, worker.num_workers) if worker else (0, 1)
        self._check(lanes)
        name = f"shards {without_secrets(self.shards[0])} ..."
        counter = CorruptCounter(name, max_fraction=self.max_corrupt)
        reader = _LaneReader(self, (self.first + process) % lanes, lanes, counter)
        total = self.batches_per_epoch
        batch, before = self.first + process, 0
        while True:
            epoch, within = (0, batch) if total is None else divmod(batch, total)
            reader.seek(epoch, within // lanes)  # batches that this lane had in the epoch before
            skipped = before
            result = self._batch(reader.read(), epoch, within, counter)
            before = counter.skipped + reader.lost_samples
            result["skipped"] = before - skipped
            self._skipped[process % _COUNTERS] += result["skipped"]
            yield result
            batch += lanes

    def _check(self, lanes: int) -> None:
        if not self.uses_resampling and len(self.shards) < self.world_size * lanes:
            raise UserError(
                f"{len(self.shards)} shards cannot be shared by {self.world_size} rank(s) x "
                f"{lanes} loader process(es): lower data.num_workers, write more shards, or draw "
                "them with replacement (resampled)"
            )
        if self.num_samples is not None and self.batches_per_epoch == 0:
            raise too_few_samples(self.num_samples, self.batch_size, self.world_size)

    @property
    def uses_resampling(self) -> bool:
        """Whether shards are drawn with replacement."""
        return self.world_size > 1 if self.resampled is None else self.resampled

    def _batch(
        self, samples: list[Sample], epoch: int, within: int, counter: CorruptCounter
    ) -> dict[str, Any]:
        rows, keys = [], []
        for i, sample in enumerate(samples):
            position = (within * self.world_size + self.rank) * self.batch_size + i
            try:
                row = self.samples.row(sample, epoch, position)
            except _READ_ERRORS as error:
                place = without_secrets(str(sample.get("__url__")))
                counter.bad(f"{place}:{sample.get('__key__')}", error)
                continue
            counter.good()
            rows.append(row)
            keys.append(sample["__key__"])
        if not rows:
            raise UserError(f"all {len(samples)} samples of a batch are corrupt; see the log")
        return {
            **self.samples.batch(rows),
            "ids": torch.tensor([sample_id(key) for key in keys]),
            "skipped": 0,
            "keys": keys,
        }


class CaptionedSamples:
    """Image-text pairs of a stream, batches of `ImageTextBatch`.

    Args:
        transform: training transform of one image.
        tokenizer: texts -> ids.
        seed: the experiment's seed.
        text_keys: where the texts of a sample are, the original first: ``txt`` is a file of the
            sample, ``json.rewrites`` a field (text or list of texts) of its JSON file.
        text_policy: see `common.data.image_text.captions.choose_texts`.
        num_texts: texts per image under policy ``multi``.
        augment_text: applied to every chosen text.

    Raises:
        UserError: `num_texts` without policy ``multi``.
    """

    def __init__(
        self,
        transform: ImageTransform,
        tokenizer: TextTokenizer,
        *,
        seed: int,
        text_keys: Sequence[str] = ("txt",),
        text_policy: TextPolicy = "random",
        num_texts: int = 1,
        augment_text: TextAugment | None = None,
    ) -> None:
        if text_policy != "multi":
            check_policy(text_policy, num_texts, 1)
        self.transform, self.tokenizer, self.seed = transform, tokenizer, seed
        self.text_keys, self.text_policy, self.num_texts = list(text_keys), text_policy, num_texts
        self.augment_text = augment_text

    def row(self, sample: Sample, epoch: int, position: int) -> tuple[View, list[str]]:
        """View and texts."""
        rngs = [sample_rng(self.seed, epoch, position, s) for s in (IMAGE_STREAM, TEXT_STREAM)]
        texts = sample_texts(sample, self.text_keys)
        check_policy(self.text_policy, self.num_texts, len(texts))
        chosen = choose_texts(texts, self.text_policy, rngs[1], self.num_texts)
        if self.augment_text is not None:
            chosen = [self.augment_text(text, rngs[1]) for text in chosen]
        (view,) = read_views(sample_image(sample), [(self.transform, rngs[0])])
        return view, chosen

    def batch(self, rows: list[tuple[View, list[str]]]) -> dict[str, Any]:
        """Images, tokens and texts."""
        views, chosen = zip(*rows, strict=True)
        tokens, texts = tokenize(list(chosen), self.tokenizer, self.text_policy)
        return {"images": batch_of(self.transform, views), "tokens": tokens, "texts": texts}


class _LaneReader:
    """Undecoded samples of one lane; remembers where it is, skips ahead when asked to."""

    def __init__(self, data: ShardStream, lane: int, lanes: int, counter: CorruptCounter) -> None:
        self.data, self.lane, self.lanes, self.counter = data, lane, lanes, counter
        self.epoch, self.position = -1, 0
        self.samples: Iterator[Sample] = iter(())
        self.lost: set[str] = set()  # shards that could not be read to their end
        self.lost_samples = 0  # how many these hold, about

    def seek(self, epoch: int, position: int) -> None:
        """Go forward to batch number `position` of this lane in an epoch."""
        if epoch != self.epoch:
            self.epoch, self.position, self.samples = epoch, 0, self._stream(epoch)
        for _ in islice(self.samples, (position - self.position) * self.data.batch_size):
            pass
        self.position = position

    def read(self) -> list[Sample]:
        """Samples of the next batch."""
        self.position += 1
        return list(islice(self.samples, self.data.batch_size))

    def _stream(self, epoch: int) -> Iterator[Sample]:
        """Endless samples: passes over the lane's shards, each shuffled for itself."""
        from webdataset.filters import _shuffle
        from webdataset.tariterators import tarfile_samples

        place, size = self.data.rank * self.lanes + self.lane, self.data.shuffle_buffer
        draw = sample_rng(self.data.seed, epoch, place, _LANE_STREAM)
        for shards in self._passes(epoch, place, draw):
            samples = tarfile_samples(self._noticed(shards), handler=self._broken)
            if size > 1:
                order = random.Random(int(draw.integers(2**63)))
                samples = _shuffle(samples, bufsize=size, initial=size, rng=order)
            first = next(iter(samples), None)
            if first is None:
                raise UserError(
                    f"no samples in {len(shards)} shards ({shards[0]} ...): are they empty?"
                )
            yield first
            yield from samples

    def _passes(self, epoch: int, place: int, draw: Rng) -> Iterator[list[str]]:
        """Shards of each pass; a lane that reads all its shards within an epoch starts again."""
        shards, places = self.data.shards, self.data.world_size * self.lanes
        while self.data.uses_resampling:
            self.data._given[:] = True
            yield [shards[int(i)] for i in draw.integers(len(shards), size=max(len(shards), 100))]
        order = sample_rng(self.data.seed, epoch, 0, _SHARD_STREAM).permutation(len(shards))
        for lane in range(self.lanes):  # all of the rank, whichever lane comes first
            self.data._given[order[self.data.rank * self.lanes + lane :: places]] = True
        mine = [shards[int(i)] for i in order[place::places]]
        while True:
            yield mine
            mine = [mine[int(i)] for i in draw.permutation(len(mine))]

    def _noticed(self, shards: Iterable[str]) -> Iterator[Sample]:
        """Shards for webdataset, which does not notice one that is cut off between two files."""
        for url in shards:
            if is_cut_off(url):
                self._lose(url, "it has no end")
            yield {"url": url}

    def _broken(self, error: Exception) -> bool:
        """Called for a shard that cannot be read to its end; what follows in it is lost."""
        said = " ".join(map(str, error.args))
        # the longest: one name may be in another
        url = max((url for url in self.data.shards if url in said), key=len, default=None)
        if url is not None:  # else it is a pipe, and webdataset calls again with its name
            self._lose(url, str(error.args[0]).partition(" @ ")[0])
        return True

    def _lose(self, url: str, reason: str) -> None:
        """Count a shard as all of its samples, once.

        Raises:
            UserError: more than `max_corrupt` of the shards of this rank are lost.
        """
        data = self.data
        if url in self.lost:
            return
        self.lost.add(url)
        self.lost_samples += (data.num_samples or 0) // len(data.shards) or 1
        data._lost[data.shards.index(url)] = True
        lost, yielded = int(data._lost.sum()), int(data._given.sum())
        said = (
            f"{lost} of {yielded} shards cannot be read to their end, last "
            f"{without_secrets(f'{url} ({reason})')}"
        )
        if lost > data.max_corrupt * yielded:
            raise UserError(
                f"{said}, more than the tolerated {data.max_corrupt:.1%}: get it again, or leave "
                "it out of data.shards"
            )
        log.warning("%s; it counts as its samples", said)
