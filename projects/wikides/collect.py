"""From item records to the files of phase I: filters, source texts, and both splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from common.config import UserError
from common.data.lines import one_line
from common.data.tables import read_jsonl, write_jsonl
from common.engine.workspace import Workspace
from projects.wikides.beam_sweep import distinct
from projects.wikides.config import CollectConfig, Config

Item = Mapping[str, Any]
Records = list[dict[str, Any]]
COLUMNS = ("wikidata_id", "label", "description", "instances", "first_paragraph")
# common ones, which Punkt would take for the end of a sentence without its trained file
_ABBREVIATIONS = {
    "st",
    "mt",
    "dr",
    "mr",
    "mrs",
    "ms",
    "jr",
    "sr",
    "no",
    "vs",
    "ca",
    "c",
    "b",
    "d",
    "e.g",
    "i.e",
    "u.s",
    "lit",
    "r",
    "born",
    "prof",
    "gen",
    "col",
    "lt",
    "sgt",
    "rev",
    "inc",
    "ltd",
    "co",
    "jan",
    "feb",
    "mar",
    "apr",
    "jun",
    "jul",
    "aug",
    "sep",
    "sept",
    "oct",
    "nov",
    "dec",
}


class Split(NamedTuple):
    """Records of phase I in three parts."""

    training: Records
    validation: Records
    test: Records


def collect(cfg: Config, workspace: Workspace) -> Path:
    """Write both splits of a file of items (``TASK=collect``) as ``data.source=released``.

    Raises:
        UserError: no input, damaged rows, or too few items for three parts.
    """
    settings = cfg.collect
    if settings.input is None:
        raise UserError(
            f"give a file of items in collect.input: JSON lines of {', '.join(COLUMNS)}"
        )
    items = read_items(Path(settings.input).expanduser())
    folder = Path(settings.output).expanduser() if settings.output else workspace.folder(".")
    for name, split in (
        ("diff", topic_split(items, settings)),
        ("random", random_split(items, settings)),
    ):
        place = folder / "phase1" / name
        place.mkdir(parents=True, exist_ok=True)
        for part, records in split._asdict().items():
            write_jsonl(place / f"{part}_{settings.kind}_{settings.max_words}.json", records)
        sizes = " / ".join(str(len(records)) for records in split)
        workspace.say(f"{name}: {sizes} of {len(items)} items in training / validation / test")
    workspace.say(f"written: {folder}")
    return folder


def read_items(path: Path) -> list[Item]:
    """Items with ``first_sentence`` and ``subclasses`` filled in, white space collapsed.

    Raises:
        UserError: missing file or column, a value of another kind, or no item.
    """
    items: list[Item] = []
    for number, row in enumerate(read_jsonl(path, COLUMNS), start=1):
        _check_item(row, f"{path}, line {number}")
        paragraph = one_line(row["first_paragraph"])
        sentence = row.get("first_sentence")
        sentence = first_sentence(paragraph) if sentence is None else one_line(sentence)
        items.append(
            {"subclasses": [], **row, "first_paragraph": paragraph, "first_sentence": sentence}
        )
    if not items:
        raise UserError(f"{path} has no item")
    return items


def _check_item(row: Item, where: str) -> None:
    for name in ("label", "description", "first_paragraph"):
        if not isinstance(row[name], str):
            raise UserError(
                f'{where}: {name} is a text; write "" for none, and the item is dropped'
            )
    if not isinstance(row.get("first_sentence"), str | None):
        raise UserError(f"{where}: first_sentence is a text; leave it out to have it found")
    for claims in (row["instances"], row.get("subclasses", [])):
        pairs = claims if isinstance(claims, list) else [claims]
        if not all(isinstance(p, list) and len(p) == 2 and isinstance(p[1], str) for p in pairs):
            raise UserError(f"{where}: instances and subclasses are lists of [id, name] pairs")


def kept(item: Item, options: CollectConfig, *, instances: bool = True) -> bool:
    """Whether an item passes the filters: no Wikimedia item, a first sentence, an instance.

    Args:
        item: see `read_items`.
        options: section of the config.
        instances: items without an instance are dropped.
    """
    wiki = "wiki" in item["label"].lower() or "wiki" in item["description"].lower()
    words = len(item["first_sentence"].split())
    texts = item["label"].strip() and item["description"].strip() and item["first_paragraph"]
    long_enough = words >= max(1, options.min_sentence_words)
    return bool(not wiki and texts and long_enough and (item["instances"] or not instances))


def record(item: Item, options: CollectConfig, *, subclasses: bool = False) -> dict[str, Any]:
    """Record of phase I of an item.

    Args:
        item: see `read_items`.
        options: section of the config.
        subclasses: their names are candidates too (random split).
    """
    names = _names(item, "instances")
    listed = names + (_names(item, "subclasses") if subclasses else [])
    return {
        "wikidata_id": item["wikidata_id"],
        "label": item["label"],
        "source": source_text(item, options),
        "target": one_line(item["description"]),
        "baseline_candidates": distinct(listed),
    }


def source_text(item: Item, options: CollectConfig) -> str:
    """The first words of paragraph or sentence with a period at the end.

    With ``_wd`` the instances after it.
    """
    kind = options.kind
    text = item["first_paragraph"] if kind.startswith("para") else item["first_sentence"]
    names = _names(item, "instances")
    added = ""
    if kind.endswith("_wd") and names:
        label = item["label"][:1].upper() + item["label"][1:]
        joined = (
            " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])}, and {names[-1]}"
        )
        added = f"{label} is a {joined}."
    room = options.max_words - len(added.split())
    if room <= 0:
        added, room = "", options.max_words
    text = " ".join(text.split()[:room])
    text = text if text.endswith(".") else f"{text}."
    return f"{text} {added}".strip()


def training_topics(items: Sequence[Item], share: float) -> set[str]:
    """The most frequent instance names, until their occurrences make up a share of the items.

    As the release counts: over all items before the filters, an item of two instances twice; of
    equally frequent names the one that was seen first.

    Args:
        items: all of them.
        share: of the number of items, in [0, 1].
    """
    counts = Counter(name for item in items for _, name in item["instances"])
    topics, seen, quota = set[str](), 0, int(len(items) * share)
    for name, count in counts.most_common():
        if seen >= quota:
            break
        seen += count
        topics.add(name)
    return topics


def topic_split(items: Sequence[Item], options: CollectConfig) -> Split:
    """Training items have an instance among the training topics; the others are halved.

    No validation or test item has any of these topics, not even one that has the item's own name.

    Raises:
        UserError: a part without an item.
    """
    topics = training_topics(items, options.train_share)
    training, rest = Records(), Records()
    for item in items:
        if kept(item, options):
            inside = not topics.isdisjoint(name for _, name in item["instances"])
            (training if inside else rest).append(record(item, options))
    half = len(rest) // 10 * 5
    return _checked(Split(training, rest[:half], rest[half:]))


def random_split(items: Sequence[Item], options: CollectConfig) -> Split:
    """80, 10 and 10 percent in the order of the items, which is that of the crawl.

    Raises:
        UserError: a part without an item.
    """
    records = [
        record(item, options, subclasses=True)
        for item in items
        if kept(item, options, instances=not options.keep_without_instances)
    ]
    most = len(records) // 10 * 8
    rest = records[most:]
    half = len(rest) // 10 * 5
    return _checked(Split(records[:most], rest[:half], rest[half:]))


def first_sentence(paragraph: str) -> str:
    """The first sentence by Punkt with a short list of abbreviations, not its trained file."""
    sentences = _punkt().tokenize(paragraph)
    return str(sentences[0]) if sentences else ""


@cache
def _punkt() -> Any:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters: Any = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def _names(item: Item, field: str) -> list[str]:
    """Names of instances or subclasses but the item's own."""
    return [name for _, name in item[field] if name.lower() != item["label"].lower()]


def _checked(split: Split) -> Split:
    if not any(split):
        raise UserError(
            "no item passes the filters; lower collect.min_sentence_words or look at the items"
        )
    if not all(split):
        sizes = " / ".join(str(len(records)) for records in split)
        raise UserError(
            f"{sizes} items in training / validation / test, and every part needs some: give more"
            " items, or, for the split by topic, change collect.train_share"
        )
    return split
