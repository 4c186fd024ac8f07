"""Config sections around retrieval; nothing here imports torch."""

from dataclasses import dataclass

from common.ranges import Count, Real


@dataclass
class SearchConfig:
    """`make run TASK=search`: nearest texts of a collection."""

    # one text per line; or a folder: in the BEIR layout, else the paragraphs of its .txt and .md
    # files; None: texts of the evaluation
    file: str | None = None
    queries: str | None = None  # one query per line; None: ask for them
    # folder where the index is kept: opened if it holds one (texts of `file` that it lacks are
    # added), else written; None: built for this call
    index: str | None = None
    run: str = "latest"  # run of this config, or a folder written by `make export`
    output: str | None = None  # .jsonl file of queries with their hits: ids, score, text
    k: Count = 5
    threshold: Real | None = None  # least score; None: all of the k

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".jsonl"):
            raise ValueError(f"search.output={self.output} must end in .jsonl")
