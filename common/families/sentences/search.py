"""`make run TASK=search`: nearest sentences of a text file."""

from collections.abc import Iterator
from pathlib import Path

from common.config import UserError
from common.engine.experiment import Experiment
from common.engine.workspace import Workspace
from common.families.sentences.data import first_sts_set
from common.families.sentences.module import SentenceModule
from common.families.sentences.protocol import SentenceExperimentConfig


def search_texts(
    cfg: SentenceExperimentConfig, workspace: Workspace, experiment: Experiment
) -> None:
    """Index a text file with a trained encoder and print the nearest sentences of queries.

    Raises:
        UserError: no trained run, a file that is missing or empty, or no file and no STS set.
    """
    from common.engine.run import trained_module
    from common.evaluation.retrieval.text_index import TextIndex

    options = cfg.search
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    texts = _lines(options.file) if options.file else first_sts_set(cfg).first
    assert isinstance(module, SentenceModule)
    index = TextIndex(module.encoder, texts, progress=workspace.progress)
    print(f"{len(texts)} texts indexed")  # noqa: T201
    for query in _lines(options.queries) if options.queries else _asked():
        print(f"\n{query}")  # noqa: T201
        (hits,) = index.search([query], options.k, options.threshold)
        for hit in hits:
            print(f"  {hit.score:6.3f}  {hit.text}")  # noqa: T201
        if not hits:
            print(f"  no text has a cosine of {options.threshold} or more")  # noqa: T201


def _asked() -> Iterator[str]:
    while True:
        try:
            query = input("\nquery (empty line to end): ").strip()
        except EOFError:
            print()  # noqa: T201
            return
        if not query:
            return
        yield query


def _lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise UserError(f"text file {path} does not exist")
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise UserError(f"{path} holds no text")
    return found
