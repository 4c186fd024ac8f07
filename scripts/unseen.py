"""A second set for some projects, which they neither trained nor tuned on: written, judged, shown.

    python -m scripts.unseen contriever          # writes unseen/contriever, judges the last run
    python -m scripts.unseen contriever --card   # and writes the table of the card

The sets are made from ``data/`` and were chosen before any model was judged on them.
"""

import argparse
import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.config import ROOT, UserError
from common.data.lookup import BUNDLED
from common.data.packed import PackedImages
from common.data.tables import read_jsonl
from common.evaluation.tables import four_digits

FOLDER = Path("unseen")
BEGIN, END = "<!-- unseen:begin -->", "<!-- unseen:end -->"
LEAST = 25  # drawings of a class


@dataclass(frozen=True)
class Unseen:
    """A second set.

    Attributes:
        what: of which the set is, for the card.
        write: fills a folder; returns what ``eval.own`` is given.
        metric: that is shown, of the evaluation on the set.
        seen: the same for the project's own test sets: what they are, and the metric.
    """

    what: str
    write: Callable[[Path], Path]
    metric: str
    seen: tuple[str, str]


def descriptions(folder: Path) -> Path:
    """Wikipedia paragraphs, asked for by their short descriptions; in the BEIR layout."""
    rows = read_jsonl(BUNDLED / "wikides" / "test.jsonl.gz")
    place = folder / "descriptions"
    (place / "qrels").mkdir(parents=True)
    texts = [(row["source"], row["target"]) for row in rows]
    files = {
        "corpus.jsonl": [
            {"_id": f"d{i}", "title": "", "text": t} for i, (t, _) in enumerate(texts)
        ],
        "queries.jsonl": [{"_id": f"q{i}", "text": d} for i, (_, d) in enumerate(texts)],
    }
    for name, lines in files.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (place / name).write_text(text, encoding="utf-8")
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(len(texts)))
    (place / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, "utf-8")
    return place


def requests(folder: Path) -> Path:
    """Requests to a voice assistant with seven intents (SNIPS); a CSV of labelled texts."""
    rows = read_jsonl(BUNDLED / "intents" / "snips-test.jsonl.gz")
    file = folder / "requests.csv"
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], row["intent"]] for row in rows)
    return file


def drawings(folder: Path) -> Path:
    """Open Clip Art in one folder for each category of at least `LEAST` drawings."""
    rows = read_jsonl(BUNDLED / "clipart" / "meta.jsonl.gz")
    images = PackedImages(BUNDLED / "clipart" / "images.npz")
    names = [row["category"] for row in rows]
    large = {name for name, count in Counter(names).items() if count >= LEAST}
    for i, name in enumerate(names):
        if name in large:
            place = folder / "drawings" / name
            place.mkdir(parents=True, exist_ok=True)
            images[i].save(place / f"{i}.png")
    return folder / "drawings"


def photographs(folder: Path) -> Path:
    """CIFAR-10's test photographs in one folder for each class."""
    from torchvision.transforms.v2.functional import to_pil_image

    from common.data.image.labelled import load_cifar10

    pixels = load_cifar10(None, "test")
    for i, label in enumerate(pixels.labels.tolist()):
        place = folder / "photographs" / pixels.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        to_pil_image(pixels.images[i]).save(place / f"{i}.png")
    return folder / "photographs"


SETS = {
    "contriever": Unseen(
        "Wikipedia paragraphs by their descriptions, 1,000 queries",
        descriptions,
        "descriptions_ndcg_at_10",
        ("CISI and NPL, whose texts it trains on", "average_ndcg_at_10"),
    ),
    "simcse": Unseen(
        "requests to a voice assistant, seven intents, regression on the embeddings",
        requests,
        "accuracy",
        ("STS-B and STS 2012 to 2014", "sts_average_spearman"),
    ),
    "hydra": Unseen(
        "Open Clip Art by category",
        drawings,
        "linear_probe_top1",
        ("CIFAR-10 photographs, as in training", "linear_probe_top1"),
    ),
    "laclip": Unseen(
        "CIFAR-10 photographs by class name",
        photographs,
        "zeroshot_top1",
        ("scenes of drawings, as in training", "recall_at_1"),
    ),
}


def main() -> None:
    """Write a set, judge a run on it, print its row."""
    parser = argparse.ArgumentParser(prog="python -m scripts.unseen")
    parser.add_argument("project", choices=sorted(SETS))
    parser.add_argument("--run", default="latest", help="run id, 'latest' or a run folder")
    parser.add_argument("--card", action="store_true", help="write the table of the card")
    arguments = parser.parse_args()
    unseen = SETS[arguments.project]
    folder = FOLDER / arguments.project
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = unseen.write(folder)
    table = judged(arguments.project, arguments.run, own, unseen)
    print(table)
    if arguments.card:
        write_card(ROOT / "projects" / arguments.project / "README.md", table)


def judged(project: str, run: str, own: Path, unseen: Unseen) -> str:
    """The table of a project: its own test sets and the second one."""
    from common.engine.comparison.references import (
        BASELINES_FILE,
        comparison_of,
        headline,
        own_rows,
    )
    from common.engine.trained import EVALUATION
    from common.engine.verbs import evaluate
    from common.engine.workspace import read_json

    evaluate(project, None, [f"eval.own={own}"], run, None)
    place = max(Path("runs").glob(f"{project}/*/*/eval-*/{EVALUATION}")).parent
    spec = comparison_of(project, "mini")
    rows = []
    for title, metric, folder, make in (
        (*unseen.seen, place.parent, headline),
        (unseen.what, unseen.metric, place, own_rows),
    ):
        file = folder / BASELINES_FILE
        known = make(
            read_json(folder / "metrics.json"), read_json(file) if file.exists() else {}, spec
        )
        row = next((row for row in known if row.metric == metric), None)
        if row is None:
            raise UserError(f"{folder} has no {metric}")
        best = "" if row.baseline is None else f"{four_digits(row.baseline[1])} {row.baseline[0]}"
        before = "" if row.untrained is None else four_digits(row.untrained)
        rows.append(f"| {title} ({metric}) | {four_digits(row.value)} | {before} | {best} |")
    head = "| judged on | trained | untrained | best training-free |\n|---|--:|--:|---|"
    return "\n".join([head, *rows])


def write_card(card: Path, table: str) -> None:
    """Replace the table between the card's marks."""
    text = card.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{table}\n{END}"
    changed, count = re.subn(f"{BEGIN}.*?{END}", lambda _: block, text, flags=re.DOTALL)
    if count != 1:
        raise UserError(f"{card} has no {BEGIN} and {END}")
    card.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
