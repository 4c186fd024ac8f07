"""Training sets of a config, read by their layout or bundled, with mined negatives.

Their batches.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from common.config import UserError
from common.data.lookup import bundled, data_root
from common.data.mixture import TaskMixture
from common.data.module import ContrastiveData
from common.data.retrieval.corpus_file import DistinctTexts
from common.data.retrieval.readers import read_labels, read_records
from common.data.retrieval.records import EmbeddingRecord, nli_records, sts_records
from common.data.splits import stable_fraction
from common.data.tables import Row, read_jsonl
from common.data.text.sets import load_nli_pairs, load_sts
from common.data.text.synthetic import synthetic_sentences
from common.engine.experiment import Requirement, bundled_requirement
from common.engine.trainer import world_size
from common.evaluation.retrieval.runs import words_on_disk
from common.evaluation.retrieval.text_mining import mine_text_negatives
from common.families.retrieval.config import TrainingSet
from common.families.retrieval.protocol import TrainingSetsConfig
from projects.nv_embed.data.batches import InstructionBatches
from projects.nv_embed.data.records import (
    EmbeddingTask,
    class_records,
    limited,
    read_task,
    with_negatives,
)
from projects.nv_embed.data.registry import TRAINING_SETS, KnownSet, known_set
from projects.nv_embed.encoder.instructed import InstructedEncoder

BUNDLED_SETS = ("wikides", "nli", "snips", "banking77", "stsb")
BUNDLED_FOLDERS = {
    "wikides": "wikides",
    "nli": "nli",
    "snips": "intents",
    "banking77": "intents",
    "stsb": "stsb",
}
IntentPart = Literal["train", "dev", "test"]
DEV_SHARE = 0.1  # of the training rows of BANKING77
SYNTHETIC_SETS = ("retrieval", "sts", "classification")
_SYNTHETIC_SIZE, _SYNTHETIC_CLASSES = 96, 4


def training_tasks(cfg: TrainingSetsConfig, *, mine: bool = True) -> list[EmbeddingTask]:
    """The config's sets, with mined negatives if it says so and `mine` does not forbid it.

    Raises:
        UserError: unknown set, missing file, or a set without an example.
    """
    if cfg.data.source == "synthetic":
        tasks = synthetic_tasks(cfg)
    else:
        tasks = [read_set(cfg, name, options) for name, options in cfg.data.sets.items()]
    if mine and cfg.data.mining.teacher == "bm25":
        tasks = [mined(cfg, task) if wants_negatives(cfg, task) else task for task in tasks]
    return tasks


def wants_negatives(cfg: TrainingSetsConfig, task: EmbeddingTask) -> bool:
    """Whether negatives are mined for a set."""
    asked = cfg.data.sets[task.name].mine if task.name in cfg.data.sets else None
    if task.kind not in ("retrieval", "sts"):
        return False
    return not any(record.negatives for record in task.records) if asked is None else asked


def described(name: str, options: TrainingSet) -> KnownSet:
    """Kind, layout and instruction of a set: the registry's, unless the config says otherwise."""
    fields = (options.kind, options.layout, options.instruction)
    unknown = name not in TRAINING_SETS and None not in fields
    described_set = KnownSet(*fields) if unknown else known_set(name)  # type: ignore[arg-type]
    return KnownSet(
        options.kind or described_set.kind,
        options.layout or described_set.layout,
        described_set.instruction if options.instruction is None else options.instruction,
        described_set.symmetric if options.symmetric is None else options.symmetric,
    )


def read_set(cfg: TrainingSetsConfig, name: str, options: TrainingSet) -> EmbeddingTask:
    """One training set."""
    about, is_symmetric = (
        described(name, options),
        options.symmetric,
    )  # a file of records says it itself
    named = cfg.data.class_positives == "label"  # the documents are names of classes
    if options.path is not None:
        path = _place(cfg, options.path)
        if not path.exists():
            raise UserError(
                f"training set '{name}': {path} does not exist. Expected layout "
                f"'{about.layout}' (see common/data/retrieval/readers.py); set data.root or "
                f"data.sets.{name}.path"
            )
        if about.layout == "records":
            task = read_task(path)
            records: Sequence[EmbeddingRecord] = task.records
            is_symmetric = task.symmetric if is_symmetric is None else is_symmetric
        elif about.layout in ("labelled", "clusters"):
            texts, labels = read_labels(path, about.layout)
            records = _by_class(cfg, texts, labels)
            named |= len(set(labels)) == 2
        else:
            records = read_records(path, about.layout)
    elif name in BUNDLED_SETS:
        records = bundled_records(cfg, name)
    else:
        raise UserError(
            f"training set '{name}' is not bundled: give its file in data.sets.{name}.path"
        )
    symmetric = about.symmetric if is_symmetric is None else is_symmetric
    if named and about.layout != "records" and about.kind in ("classification", "clustering"):
        symmetric = bool(options.symmetric)  # names of classes are no texts of the set
    records = limited(records, options.limit, cfg.seed)
    return EmbeddingTask(name, about.kind, about.instruction, records, symmetric)


def _place(cfg: TrainingSetsConfig, named: str) -> Path:
    """Where a file or folder lies: as named, or below the data root."""
    path = Path(named).expanduser()
    return path if path.exists() else data_root(cfg.data.root) / path


def intent_rows(name: str, part: IntentPart, root: str | None = None) -> list[Row]:
    """Requests of a bundled labelled set with their intents, which no part shares with another.

    SNIPS has a development part; that of BANKING77 is a tenth of its training rows, by hash. What
    is also in the test or development part is not a training text.

    Args:
        name: snips or banking77.
        part: train, dev or test.
        root: see `bundled`.
    """
    folder = bundled("intents", root)

    def rows(of: str) -> list[Row]:
        return read_jsonl(folder / f"{name}-{of}.jsonl.gz", ("text", "intent"))

    if part == "test":
        return rows("test")
    train, test = rows("train"), {_plain(row["text"]) for row in rows("test")}
    if name == "snips":
        dev = rows("valid")
    else:
        dev = [row for row in train if stable_fraction(_plain(row["text"])) < DEV_SHARE]
    if part == "dev":
        return [row for row in dev if _plain(row["text"]) not in test]
    taken = test | {_plain(row["text"]) for row in dev}
    return [row for row in train if _plain(row["text"]) not in taken]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def bundled_records(cfg: TrainingSetsConfig, name: str) -> list[EmbeddingRecord]:
    """Training part of a bundled set, without texts of its test and development parts."""
    root = cfg.data.root
    if name == "wikides":
        rows = read_jsonl(bundled("wikides", root) / "train.jsonl.gz", ("source", "target"))
        return [EmbeddingRecord(r["source"], (r["target"],), (), r["target"].lower()) for r in rows]
    if name == "nli":
        return nli_records(load_nli_pairs(root))
    if name == "stsb":
        sts, tested = load_sts(root, "stsb-train"), set[str]()
        for part in ("stsb-dev", "stsb-test"):
            other = load_sts(root, part)
            tested |= {_plain(text) for text in (*other.first, *other.second)}
        kept = [
            (a, b, s)
            for a, b, s in zip(sts.first, sts.second, sts.scores, strict=True)
            if not {_plain(a), _plain(b)} & tested
        ]
        return sts_records(*(list(column) for column in zip(*kept, strict=True)))
    rows = intent_rows(name, "train", root)
    return _by_class(cfg, [r["text"] for r in rows], [r["intent"] for r in rows])


def _by_class(
    cfg: TrainingSetsConfig, texts: Sequence[str], labels: Sequence[str]
) -> list[EmbeddingRecord]:
    return class_records(
        texts, labels, cfg.data.num_negatives, positives=cfg.data.class_positives, seed=cfg.seed
    )


def mined(cfg: TrainingSetsConfig, task: EmbeddingTask) -> EmbeddingTask:
    """The set with BM25 negatives from its own documents after those that it has."""
    options, documents = cfg.data.mining, DistinctTexts(task.documents())
    right = right_places(task, documents)
    negatives = mine_text_negatives(
        [r.query for r in task.records],
        documents,
        right,
        options.num_negatives,
        ratio=options.ratio,
        candidates=options.candidates,
        on_disk=words_on_disk(cfg.runs_dir),
    )
    records = with_negatives(task.records, negatives.texts(documents))
    return EmbeddingTask(task.name, task.kind, task.instruction, records, task.symmetric)


def right_places(task: EmbeddingTask, documents: DistinctTexts) -> list[list[int]]:
    """Documents that are no negatives of a record: positives of its query or its class."""
    by_query: dict[str, set[int]] = {}
    by_class: dict[str, set[int]] = {}
    for record in task.records:
        positives = {documents.place(text) for text in record.positives}
        by_query.setdefault(record.query, set()).update(positives)
        if record.label is not None:
            by_class.setdefault(record.label, set()).update(positives)
    return [
        sorted(
            by_query[r.query]
            | by_class.get(r.label or "", set())
            | ({documents.place(r.query)} if r.query in documents else set())
        )
        for r in task.records
    ]


def synthetic_tasks(cfg: TrainingSetsConfig) -> list[EmbeddingTask]:
    """One small made-up set of each kind: sentences that share words belong together."""
    count = _SYNTHETIC_SIZE
    base = synthetic_sentences(2 * count, seed=cfg.seed)
    pairs = [
        EmbeddingRecord(f"{a} {b}", (a,)) for a, b in zip(base[:count], base[count:], strict=True)
    ]
    labels = [f"class {i % _SYNTHETIC_CLASSES}" for i in range(count)]
    texts = [f"{labels[i][-1]} {text}" for i, text in enumerate(base[:count])]
    graded = sts_records(base[:count], [f"{text} so" for text in base[:count]], [5.0] * count)
    contents: Iterable[tuple[Any, list[EmbeddingRecord]]] = (
        ("retrieval", pairs),
        ("sts", graded),
        ("classification", _by_class(cfg, texts, labels)),
    )
    return [
        EmbeddingTask(name, name, f"Find the {name}", records, name != "retrieval")
        for name, records in contents
    ]


def num_samples(cfg: TrainingSetsConfig, tasks: Sequence[EmbeddingTask]) -> list[int]:
    """Examples of each set in an epoch."""
    sets = cfg.data.sets
    return [sets[t.name].samples if t.name in sets else len(t.records) for t in tasks]


def stage_data(
    cfg: TrainingSetsConfig, encoder: InstructedEncoder, tasks: list[EmbeddingTask]
) -> ContrastiveData:
    """Batches of a stage over some sets."""
    data = cfg.data
    mixture = TaskMixture(
        [len(task.records) for task in tasks],
        num_samples(cfg, tasks),
        cfg.seed,
        data.batch_size * world_size(cfg.trainer),
        homogeneous=data.batches == "homogeneous",
    )
    train = InstructionBatches(
        tasks,
        mixture,
        lambda texts, instruction: encoder.token_rows(texts, instruction, data.max_length),
        encoder.pad,
        num_negatives=data.num_negatives,
        seed=cfg.seed,
    )
    return ContrastiveData(
        train,
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        shuffle=False,
    )


def set_requirements(cfg: TrainingSetsConfig) -> list[Requirement]:
    """Training files that the config needs."""
    needs = []
    for name, options in cfg.data.sets.items() if cfg.data.source == "sets" else ():
        if options.path is None:
            needs.append(bundled_requirement(BUNDLED_FOLDERS.get(name, name), name))
        else:
            path = _place(cfg, options.path)
            needs.append(
                Requirement(f"data: {name}", str(path), path.exists(), "see the card, Data")
            )
    return needs
