"""Baselines: the most frequent label, votes of neighbours, words, the untrained generator."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.config import UserError
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.demo_retrieval.bank import Bank, key_texts
from projects.demo_retrieval.config import Config
from projects.demo_retrieval.evaluate import Answers, evaluate, score, short
from projects.demo_retrieval.retriever import build_retriever
from projects.demo_retrieval.sources import Task
from projects.demo_retrieval.stages import build_module, make_bank, read_tasks
from projects.demo_retrieval.template import Example

Fit = Callable[[Task], Callable[[Sequence[Example]], list[str]]]  # -> answers of inputs


def majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The first of the commonest labels."""
    return _fitted(
        cfg,
        workspace,
        lambda task: lambda inputs: [_vote(e.answers[0] for e in task.train)] * len(inputs),
    )


def retrieved_label(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The label of the best demonstration of the whole bank, which the generator sees, too."""
    return _neighbours(cfg, workspace, 1)


def retrieved_vote(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The commonest label of the K demonstrations; of equals that of the better one."""
    return _neighbours(cfg, workspace, cfg.method.k)


def word_vote(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The vote of the K nearest training examples of the target alone, by TF-IDF of words."""
    return _fitted(cfg, workspace, lambda task: _knn(task, cfg.method.k, analyzer="word"))


def letter_vote(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same with five neighbours by pieces of two to five letters."""
    return _fitted(
        cfg, workspace, lambda task: _knn(task, 5, analyzer="char_wb", ngram_range=(2, 5))
    )


def word_regression(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Logistic regression on TF-IDF of words, of the target's few examples."""

    def fit(task: Task) -> Callable[[Sequence[Example]], list[str]]:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        table = words.fit_transform([e.context for e in task.train])
        model = LogisticRegression(C=100.0, max_iter=2000).fit(
            table, [e.answers[0] for e in task.train]
        )
        return lambda inputs: [
            str(x) for x in model.predict(words.transform([e.context for e in inputs]))
        ]

    return _fitted(cfg, workspace, fit)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The generator as training begins with it."""
    bank = make_bank(cfg, read_tasks(cfg))
    return evaluate(cfg, as_training_begins(lambda: build_module(cfg, bank), cfg.seed), workspace)


def _fitted(cfg: Config, workspace: Workspace, fit: Fit) -> dict[str, float]:
    metrics: dict[str, float] = {}
    tasks = [t for t in read_tasks(cfg).targets if t.labels]
    if not tasks:
        raise UserError("the baselines are of targets with labels: see data.targets")
    for task in tasks:
        inputs = (task.dev if cfg.eval.split == "dev" else task.test)[: cfg.eval.limit]
        items = score(task, inputs, Answers(fit(task)(inputs), []))["accuracy"]
        metrics[f"{short(task.name)}_accuracy"] = float(np.mean(items))
        workspace.items(f"{short(task.name)}_accuracy", items)
    names = list(metrics)
    workspace.mean_items("accuracy", names)
    return {**metrics, "accuracy": float(np.mean([metrics[n] for n in names]))}


def _neighbours(cfg: Config, workspace: Workspace, k: int) -> dict[str, float]:
    tasks = read_tasks(cfg)
    settings = cfg.retriever
    retriever = build_retriever(
        settings, lambda: key_texts(tasks.bank, settings.key), cfg.trainer.accelerator
    )
    bank = Bank(tasks.bank, retriever, settings.key)

    def fit(task: Task) -> Callable[[Sequence[Example]], list[str]]:
        def predicted(inputs: Sequence[Example]) -> list[str]:
            hits = bank.nearest(inputs, k)
            return [_vote(bank.examples[int(i)].answers[0] for i in row) for row in hits.positions]

        return predicted

    return _fitted(cfg, workspace, fit)


def _knn(task: Task, k: int, **options: Any) -> Callable[[Sequence[Example]], list[str]]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, **options)
    table = words.fit_transform([e.context for e in task.train])

    def predicted(inputs: Sequence[Example]) -> list[str]:
        scores = (words.transform([e.context for e in inputs]) @ table.T).toarray()
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [_vote(task.train[int(i)].answers[0] for i in row) for row in order]

    return predicted


def _vote(labels: Any) -> str:
    """The commonest; of equals the first."""
    return str(Counter(labels).most_common(1)[0][0])
