"""BM25's index built and searched on disk, for collections whose words memory can't hold."""

import json
import mmap
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray

from common.data.retrieval.corpus_file import texts_digest
from common.data.shared_files import fill_shards
from common.evaluation.matrices import blocks
from common.evaluation.retrieval.bm25 import BM25, split_words
from common.evaluation.retrieval.vector_shards import new_array
from common.files import replacing, write_text

CHUNK = 100_000  # documents whose words are counted at a time
PIECE = 5_000  # documents that are split at a time
VOCABULARY, PARAMETERS = "vocab.index.json", "params.index.json"
DATA, INDICES, STARTS = "data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"
ENTRIES, WORDS = "entries-{:05d}.npy", "words-{:05d}.json"


def bm25_on_disk(
    texts: Sequence[str],
    folder: Path,
    *,
    k1: float = 0.9,
    b: float = 0.4,
    stop_words: Collection[str] = (),
) -> BM25:
    """The index of a collection in bm25s' own layout, memory-mapped; built if it is not there.

    Scores are those of `BM25`. While the index is built, memory holds the vocabulary and one chunk
    of documents; a killed build continues after its last chunk. One process builds, others wait.

    Args:
        texts: N documents.
        folder: one for each collection and setting.
        k1: see `BM25`.
        b: see `BM25`.
        stop_words: see `BM25`.

    Raises:
        UserError: the folder belongs to other documents or settings.
        ValueError: no documents, no words in any of them, or ``k1``, ``b`` out of range.
    """
    BM25.check(k1, b)
    settings = {"k1": k1, "b": b, "stop_words": sorted(stop_words)}

    def build(part: int) -> None:
        vocabulary = _count(texts, folder, stop_words)
        if not vocabulary:
            raise ValueError("BM25 needs documents that hold at least one word")
        _score(folder, len(texts), len(vocabulary), k1, b)
        write_text(folder / VOCABULARY, json.dumps(vocabulary, ensure_ascii=False))
        about = {"k1": k1, "b": b, "method": "lucene", "dtype": "float64", "num_docs": len(texts)}
        write_text(folder / PARAMETERS, json.dumps(about))  # last: the index is complete
        for path in [*folder.glob("entries-*.npy"), *folder.glob("words-*.json")]:
            path.unlink()

    fill_shards(folder, {"texts": texts_digest(texts), **settings}, [folder / PARAMETERS], build)
    index = bm25s.BM25.load(folder, mmap=True, load_vocab=False)
    words = json.loads((folder / VOCABULARY).read_text("utf-8"))
    return BM25.of_index(index, words, len(texts), stop_words)


def _count(texts: Sequence[str], folder: Path, stop_words: Collection[str]) -> dict[str, int]:
    """Write word, document, count and length of every chunk, by word; the vocabulary."""
    vocabulary: dict[str, int] = {}
    for number, part in enumerate(blocks(len(texts), CHUNK)):
        new_words = folder / WORDS.format(number)
        if new_words.is_file():
            for word in json.loads(new_words.read_text("utf-8")):
                vocabulary[word] = len(vocabulary)
            continue
        before, ids, lengths = len(vocabulary), [], []
        for piece in blocks(part.stop - part.start, PIECE):
            rows = split_words(
                texts[part.start + piece.start : part.start + piece.stop], stop_words
            )
            lengths += [len(row) for row in rows]
            numbers = [vocabulary.setdefault(w, len(vocabulary)) for row in rows for w in row]
            ids.append(np.array(numbers, np.int64))
        documents = np.repeat(np.arange(part.start, part.stop), lengths)
        keys, counts = np.unique((np.concatenate(ids) << 32) | documents, return_counts=True)
        table = np.empty((4, len(keys)), np.int32)
        table[0], table[1], table[2] = keys >> 32, keys & 0xFFFFFFFF, counts
        table[3] = np.array(lengths)[table[1] - part.start]
        with replacing(folder / ENTRIES.format(number)) as temporary, temporary.open("wb") as file:
            np.save(file, table)
        write_text(new_words, json.dumps(list(islice(vocabulary, before, None))))
    return vocabulary


def _entries(folder: Path) -> Iterator[NDArray[np.int32]]:
    for path in sorted(folder.glob("entries-*.npy")):
        yield np.load(path, allow_pickle=False)


def _score(folder: Path, num_documents: int, num_words: int, k1: float, b: float) -> None:
    """Write the columns of words: documents ascending, with the word's part of their score."""
    frequency, total = np.zeros(num_words, np.int64), 0
    for words, _, counts, _ in _entries(folder):
        frequency += np.bincount(words, minlength=num_words)
        total += int(counts.sum())
    mean_length = total / num_documents
    starts = np.zeros(num_words + 1, np.int64)
    np.cumsum(frequency, out=starts[1:])
    idf = np.log(1 + (num_documents - frequency + 0.5) / (frequency + 0.5))
    with replacing(folder / DATA) as data_file, replacing(folder / INDICES) as indices_file:
        size = (int(starts[-1]),)
        data = new_array(data_file, np.float64, size)
        indices = new_array(indices_file, np.int32, size)
        heads = starts[:-1].copy()
        for words, documents, counts, lengths in _entries(folder):
            used, first, runs = np.unique(words, return_index=True, return_counts=True)
            places = np.repeat(heads[used] - first, runs) + np.arange(len(words))
            norm = k1 * ((1 - b) + b * lengths / mean_length)
            data[places] = idf[words] * (counts / (norm + counts))
            indices[places] = documents
            heads[used] += runs
            _let_go(data)
            _let_go(indices)
        del data, indices
    with replacing(folder / STARTS) as temporary, temporary.open("wb") as file:
        np.save(file, starts)


def _let_go(mapped: Any) -> None:
    """Write a map's pages and give their memory back."""
    mapped.flush()
    mapped._mmap.madvise(mmap.MADV_DONTNEED)
