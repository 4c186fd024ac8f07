"""What can be set for the tasks of `make run`."""

from dataclasses import dataclass

from common.ranges import Count, Whole


@dataclass
class PrepareConfig:
    """`make run TASK=prepare` and `TASK=word_sets`."""

    input: str | None = None  # .jsonl (title, text), .tsv (docid, url, title, body), or BEIR folder
    output: str | None = None  # folder; None: the task's
    attention: bool = True  # False: words and counts alone, for words.distribution=unigram
    keep_words: Count | None = None  # white-space words of a text that are kept; None: all
    batch_size: Count = 32
    epoch: Whole = 0  # word_sets: epoch of the data


@dataclass
class RankConfig:
    """`make run TASK=rank`: candidates of the user's own queries in a ranker's order."""

    input: str | None = None  # .jsonl of query and documents
    documents: str | None = None  # or a text file, one document a line, with queries
    queries: str | None = None  # text file, one a line
    depth: Count = 100  # BM25 candidates of a query
    output: str | None = None  # .jsonl; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder of a ranker
