"""Questions with true and false answers: facts about nouns, TruthfulQA, FACTOR."""

from dataclasses import dataclass
from pathlib import Path

from common.config import UserError
from common.data.lookup import bundled, data_root, require
from common.data.tables import read_csv, read_jsonl
from projects.lol.config import Config
from projects.lol.facts import world_of
from projects.lol.multiple_choice import listed_answers

TRUTHFULQA = (
    "TruthfulQA.csv with Question, Best Answer, Correct Answers, Incorrect Answers",
    "sylinrl/TruthfulQA",
    "0.5 MB",
)
FACTOR = (
    (
        "a CSV such as wiki_factor.csv, or a folder of them: completion, contradiction_0 to _2, "
        "turncated_prefixes (as released), and full_prefix for news"
    ),
    "AI21Labs/factor",
    "20 MB",
)
_WRONG = tuple(f"contradiction_{i}" for i in range(3))


@dataclass(frozen=True)
class Question:
    """A question, or a text to continue, with its answers."""

    text: str
    true: list[str]
    false: list[str]
    best: int  # which of `true` is the best
    groups: tuple[str, ...] = ()  # what it is counted with besides all
    plain: bool = False  # a text that is continued as it stands


def load_questions(cfg: Config) -> list[Question]:
    """The evaluation set of the config.

    Raises:
        UserError: missing or unreadable files, or a set without questions.
    """
    reader = {"truthfulqa": truthfulqa, "factor": factor}.get(cfg.eval.source, facts)
    questions = reader(cfg)[: cfg.eval.limit]
    if not questions:
        raise UserError(f"eval.source={cfg.eval.source} has no question")
    return questions


def facts(cfg: Config) -> list[Question]:
    """Nouns of the part that is asked for; grouped by their share of myths and by register."""
    return [
        Question(
            fact.noun,
            fact.true_answers,
            fact.false_answers,
            0,
            (
                f"share_{round(100 * fact.myth_share)}",
                "verified" if fact.verified else "unverified",
            ),
        )
        for fact in world_of(cfg).parts[cfg.eval.part]
    ]


def truthfulqa(cfg: Config) -> list[Question]:
    """TruthfulQA from its CSV, or the bundled part of it.

    All questions, no shard drops a remainder.

    Raises:
        UserError: a missing column, or a best answer that is none of the correct ones.
    """
    name = cfg.eval.file
    path = bundled("truthfulqa/part.jsonl.gz", cfg.data.root)
    if name is not None:
        layout, source, size = TRUTHFULQA
        path = data_root(cfg.data.root) / name
        require(path, what="TruthfulQA", layout=layout, source=source, size=size)
    if path.suffix == ".csv":
        columns = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
        cells = [
            (row[columns[0]], row[columns[1]], *(listed_answers(row[name]) for name in columns[2:]))
            for row in read_csv(path, columns)
        ]
    else:
        columns = ("question", "best_answer", "correct", "incorrect")
        cells = [
            (
                row[columns[0]],
                row[columns[1]],
                *([_closed(a) for a in row[name]] for name in columns[2:]),
            )
            for row in read_jsonl(path, columns)
        ]
    questions = []
    for number, (question, best, true, false) in enumerate(cells, start=1):
        if _closed(best) not in true or not false:
            raise UserError(
                f"{path}, question {number}: the best answer must be among the correct ones, and"
                " one answer must be incorrect"
            )
        questions.append(Question(question, true, false, true.index(_closed(best))))
    return questions


def _closed(answer: str) -> str:
    """With a final full stop, as all answers of this set."""
    return answer.strip().removesuffix(".") + "."


def factor(cfg: Config) -> list[Question]:
    """FACTOR's completions, grouped by file.

    Raises:
        UserError: no file, or a missing column.
    """
    layout, source, size = FACTOR
    if cfg.eval.file is None:
        raise UserError(f"set eval.file: {layout}; from {source}")
    path = data_root(cfg.data.root) / cfg.eval.file
    require(path, what="FACTOR", layout=layout, source=source, size=size)
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    questions = []
    for file in files:
        prefix = "full_prefix" if "news" in file.stem else "turncated_prefixes"
        for row in read_csv(file, (prefix, "completion", *_WRONG)):
            wrong = [row[name] for name in _WRONG]
            questions.append(
                Question(row[prefix], [row["completion"]], wrong, 0, (_subset(file),), plain=True)
            )
    return questions


def _subset(file: Path) -> str:
    return file.stem.removesuffix("_factor")
