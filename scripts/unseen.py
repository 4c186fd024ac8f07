"""A second set for some projects, which they neither trained nor tuned on: written, judged, shown.

    python -m scripts.unseen contriever          # writes unseen/contriever, judges the last run
    python -m scripts.unseen contriever --card   # and writes the table of the card
    python -m scripts.unseen                     # tells every card which set there is, or why none,
                                                 # and gathers the tables in docs/your-data.md

The sets are made from ``data/``, two of them from further public files (``--source``, laid out as
``scripts.prepare_data`` expects them), and were chosen before any model was judged on them.
"""

import argparse
import csv
import json
import random
import re
import shutil
import textwrap
import wave
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.config import ROOT, UserError
from common.data.lookup import BUNDLED
from common.data.packed import PackedImages
from common.data.tables import read_jsonl
from common.engine.comparison.references import SMALLER
from common.evaluation.tables import four_digits
from common.registry import list_projects

FOLDER = Path("unseen")
PAGE = ROOT / "docs" / "your-data.md"
BEGIN, END = "<!-- unseen:begin -->", "<!-- unseen:end -->"
HEAD = "| judged on | trained | untrained | best training-free |"
RESULTS = "<!-- results:end -->"
LEAST = 25  # drawings of a class


@dataclass(frozen=True)
class Unseen:
    """A second set.

    Attributes:
        what: of which the set is, for the card.
        write: reads below a data folder and fills another one; returns what ``eval.own`` is given.
        metric: that is shown, of the evaluation on the set, without the set's name before it.
        seen: the same for the project's own test sets: what they are, and the metric.
        shared: the set is not in ``data/``, but in the folder of the option ``--source``.
        config: that is judged.
    """

    what: str
    write: Callable[[Path, Path], Path]
    metric: str
    seen: tuple[str, str]
    shared: bool = False
    config: str = "mini"


def descriptions(data: Path, folder: Path) -> Path:
    """Wikipedia paragraphs, asked for by their short descriptions."""
    rows = read_jsonl(data / "wikides" / "test.jsonl.gz")
    return judged_set(folder / "descriptions", [(row["target"], row["source"]) for row in rows])


def continuations(data: Path, folder: Path) -> Path:
    """Second halves of Wikipedia paragraphs, asked for by the first halves."""
    pairs = []
    for row in read_jsonl(data / "wikides-ranking" / "test.jsonl.gz"):
        words = row["source"].split()
        middle = len(words) // 2
        pairs.append((" ".join(words[:middle]), " ".join(words[middle:])))
    return judged_set(folder / "continuations", pairs)


def occupations(data: Path, folder: Path) -> Path:
    """Descriptions of all occupations of ESCO; 500 are asked for by an alternative title."""
    rows = read_jsonl(data / "esco-occupations" / "occupations.jsonl.gz")
    pairs = [(_other(row["alt_titles"], row["title"]), row["description"]) for row in rows]
    return judged_set(folder / "occupations", pairs, 500)


def cosqa(data: Path, folder: Path) -> Path:
    """CoSQA's code base of 6,266 Python functions, searched by 500 queries of a web search."""
    code = read_jsonl(data / "code-cosqa" / "codebase.jsonl.gz")
    queries = read_jsonl(data / "code-cosqa" / "dev.jsonl.gz")
    place = folder / "cosqa"
    write_beir(
        place,
        {str(row["_id"]): row["code"] for row in code},
        {row["idx"]: row["query"] for row in queries},
        [(row["idx"], str(row["code_id"])) for row in queries],
    )
    return place


def cisi(data: Path, folder: Path) -> Path:
    """CISI: abstracts of library science and judged queries."""
    return data / "retrieval-cisi"


def requests(data: Path, folder: Path) -> Path:
    """Requests to a voice assistant with seven intents (SNIPS); a CSV of labelled texts."""
    rows = read_jsonl(data / "intents" / "snips-test.jsonl.gz")
    return write_csv(
        folder / "requests.csv", ["text", "label"], [(row["text"], row["intent"]) for row in rows]
    )


def same_intent(data: Path, folder: Path) -> Path:
    """1,000 requests of SLURP, each with one of its intent (scored 1) and one of another (0)."""
    draw = random.Random(0)
    rows = read_jsonl(data / "intents" / "slurp-test.jsonl.gz")
    of = {row["text"]: row["intent"] for row in rows}
    pairs: list[tuple[str, str, int]] = []
    for first in draw.sample(sorted(of), len(of)):
        same = [text for text in of if of[text] == of[first] and text != first]
        if same and len(pairs) < 2000:
            others = [text for text in of if of[text] != of[first]]
            pairs += [(first, draw.choice(same), 1), (first, draw.choice(others), 0)]
    return write_csv(folder / "same_intent.csv", ["sentence1", "sentence2", "score"], pairs)


def abstracts(data: Path, folder: Path) -> Path:
    """CISI's abstracts, to be continued."""
    rows = read_jsonl(data / "retrieval-cisi" / "corpus.jsonl.gz")
    return write_lines(folder / "abstracts.jsonl", [{"text": row["text"]} for row in rows])


def truthful(data: Path, folder: Path) -> Path:
    """TruthfulQA's questions."""
    return data / "truthfulqa" / "part.jsonl.gz"


def other_users(data: Path, folder: Path) -> Path:
    """Users of Amazon Beauty whom `data/rec-amazon` leaves out, with the items that it has."""
    known = read_jsonl(BUNDLED / "rec-amazon" / "beauty-frequent.jsonl.gz")
    users = {row["user"] for row in known}
    items = {item for row in known for item in row["items"]}
    rows = [
        {"user": row["user"], "items": [item for item in row["items"] if item in items]}
        for row in read_jsonl(data / "rec-amazon" / "beauty-sequences.jsonl.gz")
        if row["user"] not in users
    ]
    return write_lines(folder / "users.jsonl", [row for row in rows if len(row["items"]) >= 2])


def commands(data: Path, folder: Path) -> Path:
    """Commands of three recorded digits by the speaker of whom no recording is trained on."""
    from common.data.speech.spoken import join_commands, load_spoken_digits

    spoken = join_commands(load_spoken_digits("unseen", str(data)), 3)
    rows = []
    for i, target in enumerate(spoken.targets):
        samples = (spoken.waveforms[i] * 32768).round().short().numpy().tobytes()
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, spoken.sample_rate, 0, "NONE", ""))
            file.writeframes(samples)
        rows.append({"audio": f"{i}.wav", "text": target.transcript, "intent": target.intent})
    return write_lines(folder / "commands.jsonl", rows)


def drive(data: Path, folder: Path) -> Path:
    """Every fifth scan of a drive of KITTI, as in training on simulated drives."""
    from projects.trend.scans.kitti import packed_clip
    from projects.trend.scans.sequences import write_npz_sequence

    clip = packed_clip(data / "lidar-kitti" / "drive0005.npz").sequences[0]
    place = folder / "drive"
    place.mkdir()
    for start in range(5):
        write_npz_sequence(place / f"{start}.npz", clip[start::5])
    return place


def drawings(data: Path, folder: Path) -> Path:
    """Open Clip Art in one folder for each category of at least `LEAST` drawings."""
    rows = read_jsonl(data / "clipart" / "meta.jsonl.gz")
    images = PackedImages(data / "clipart" / "images.npz")
    names = [row["category"] for row in rows]
    large = {name for name, count in Counter(names).items() if count >= LEAST}
    for i, name in enumerate(names):
        if name in large:
            place = folder / "drawings" / name
            place.mkdir(parents=True, exist_ok=True)
            images[i].save(place / f"{i}.png")
    return folder / "drawings"


def photographs(data: Path, folder: Path) -> Path:
    """CIFAR-10's test photographs in one folder for each class."""
    from torchvision.transforms.v2.functional import to_pil_image

    from common.data.image.labelled import load_cifar10

    pixels = load_cifar10(str(data), "test")
    for i, label in enumerate(pixels.labels.tolist()):
        place = folder / "photographs" / pixels.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        to_pil_image(pixels.images[i]).save(place / f"{i}.png")
    return folder / "photographs"


# -- layouts -------------------------------------------------------------------------------------


def judged_set(place: Path, pairs: Sequence[tuple[str, str]], count: int | None = None) -> Path:
    """A folder in the BEIR layout: every document, and queries that have one relevant document.

    Args:
        place: the folder.
        pairs: query (empty where there is none) and document.
        count: queries that are asked, drawn with seed 0; None: all.
    """
    asked = [i for i, (query, _) in enumerate(pairs) if query]
    if count is not None:
        asked = sorted(random.Random(0).sample(asked, count))
    write_beir(
        place,
        {f"d{i}": text for i, (_, text) in enumerate(pairs)},
        {f"q{i}": pairs[i][0] for i in asked},
        [(f"q{i}", f"d{i}") for i in asked],
    )
    return place


def write_beir(
    place: Path,
    corpus: Mapping[str, str],
    queries: Mapping[str, str],
    relevant: Sequence[tuple[str, str]],
) -> None:
    """Texts by id, and the documents that are relevant to a query."""
    (place / "qrels").mkdir(parents=True)
    documents = [{"_id": name, "title": "", "text": text} for name, text in corpus.items()]
    write_lines(place / "corpus.jsonl", documents)
    asked = [{"_id": name, "text": text} for name, text in queries.items()]
    write_lines(place / "queries.jsonl", asked)
    judged = "".join(f"{query}\t{document}\t1\n" for query, document in relevant)
    (place / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, "utf-8")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """JSON lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """A table with a header."""
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _other(names: Sequence[str], name: str) -> str:
    """The first of the alternative names that differs from the name, or an empty text."""
    return next((n for n in names if n.strip() and n.lower() != name.lower()), "")


# -- which project has which set -----------------------------------------------------------------

REQUESTS = (
    "requests to a voice assistant, seven intents, regression on the embeddings",
    requests,
    "accuracy",
)
STS = ("STS-B and STS 2012 to 2014", "sts_average_spearman")
CLIP_ART = ("Open Clip Art by category", drawings, "linear_probe_top1")
CIFAR = ("CIFAR-10 photographs, as in training", "linear_probe_top1")
DESCRIPTIONS = (
    "Wikipedia paragraphs by their descriptions, 1,000 queries",
    descriptions,
    "ndcg_at_10",
)

SETS = {
    "contriever": Unseen(
        *DESCRIPTIONS, ("CISI and NPL, whose texts it trains on", "average_ndcg_at_10")
    ),
    "b_prop": Unseen(
        *DESCRIPTIONS, ("CISI and NPL, whose texts it trains on", "average_ndcg_at_10")
    ),
    "moe_embeddings": Unseen(*DESCRIPTIONS, ("pairs of its three domains", "all_auc")),
    "promptreps": Unseen(
        "descriptions of occupations by an alternative title, 500 queries",
        occupations,
        "ndcg_at_10",
        ("CISI and NPL, whose texts its first stage reads", "average_ndcg_at_10"),
    ),
    "nv_embed": Unseen(
        "CISI, 76 queries",
        cisi,
        "ndcg_at_10",
        ("requests of two training sets", "primary_average"),
    ),
    "rankgen": Unseen(
        "second halves of Wikipedia paragraphs by the first, 989 queries",
        continuations,
        "ndcg_at_10",
        ("held-back chapters of the books it trains on", "inbook_accuracy"),
    ),
    "cocosoda": Unseen(
        "CoSQA: queries of a web search for 6,266 functions, 500 queries",
        cosqa,
        "ndcg_at_10",
        ("other functions of the packages it trains on", "hidden_mrr"),
        shared=True,
    ),
    "dse": Unseen(
        "pairs of requests of SLURP: same intent or not",
        same_intent,
        "spearman",
        ("pairs of other requests of the intents it trains on", "test_accuracy"),
    ),
    **{
        name: Unseen(*REQUESTS, STS)
        for name in ("simcse", "esimcse", "debcse", "whitenedcse", "multicsr", "defsent_plus")
    },
    "mirror_bert": Unseen(*REQUESTS, ("STS-B", "stsb_test_spearman")),
    "ccp": Unseen(*REQUESTS, ("sentences of held-back chapters", "neighbour_hit_at_10")),
    "space2": Unseen(*REQUESTS, ("turns of services it does not train on", "turn_spearman")),
    "hydra": Unseen(*CLIP_ART, CIFAR),
    "dcl": Unseen(*CLIP_ART, CIFAR),
    "cacr": Unseen(*CLIP_ART, CIFAR),
    "laclip": Unseen(
        "CIFAR-10 photographs by class name",
        photographs,
        "zeroshot_top1",
        ("scenes of drawings, as in training", "recall_at_1"),
    ),
    "coconut": Unseen(
        "commands by a speaker of whom it has no recording",
        commands,
        "accuracy",
        ("other takes of the speakers it trains on, after the last task", "last_accuracy"),
    ),
    "mclrec": Unseen(
        "users of the same shop whom training leaves out",
        other_users,
        "ndcg_at_20",
        ("the next item of the users it trains on", "ndcg_at_20"),
        shared=True,
    ),
    "trend": Unseen(
        "scans of a real drive (KITTI)",
        drive,
        "forecast_static_l1",
        ("simulated drives, as in training", "forecast_static_l1"),
        config="mini_simulated",
    ),
    "contrastive_search": Unseen(
        "abstracts of CISI, to be continued",
        abstracts,
        "diversity",
        ("passages of held-back chapters", "diversity"),
    ),
    "lol": Unseen(
        "TruthfulQA", truthful, "mc1", ("nouns of which its amateur knows no myth", "mc1")
    ),
}

# why the others have no second set
WITHOUT = {
    **dict.fromkeys(
        ("clip_baselines", "mofi", "close", "rtd", "cosmo", "one_to_k", "dito"),
        "the project, or the encoder that it starts from, trains on every bundled set of images with names",
    ),
    "cwcl": "the text encoder of `mini` knows the words of its ten classes alone",
    "sepclr": "no other bundled pair of image sets differs in one thing that is added and known",
    "video_qa": "no other clips with questions are available",
    "wikides": "no other descriptions with candidates are available",
    "demo_retrieval": "it answers with the labels of the tasks that it trains on",
    "vacancysbert": "the chosen one, ESCO's skills by alternative labels, was dropped when it was judged: most labels are in the "
    "row of another skill in this copy",
    "peft_augmentation": "its classes are ten intents of bank customers, which no other set has",
    "vega": "no other sentences with positive and negative labels are available",
}


def main() -> None:
    """Write a set, judge a run on it, print its rows; or tell all cards what there is."""
    parser = argparse.ArgumentParser(prog="python -m scripts.unseen")
    parser.add_argument("project", nargs="?", choices=sorted(SETS))
    parser.add_argument("--run", default="latest", help="run id, 'latest' or a run folder")
    parser.add_argument("--card", action="store_true", help="write the table of the card")
    parser.add_argument("--source", type=Path, help="folder of sets that data/ does not have")
    arguments = parser.parse_args()
    if arguments.project is None:
        for project in list_projects():
            tell(project)
        write_page()
        return
    unseen = SETS[arguments.project]
    if unseen.shared and arguments.source is None:
        raise SystemExit(f"the set of {arguments.project} is not in data/: give --source FOLDER")
    folder = FOLDER / arguments.project
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = unseen.write(arguments.source if unseen.shared else BUNDLED, folder)
    table = judged(arguments.project, arguments.run, own, unseen)
    print(table)
    if arguments.card:
        tell(arguments.project, table)
        write_page()


def tell(project: str, table: str | None = None) -> None:
    """Write what a card says on another domain.

    Args:
        project: slug.
        table: of `judged`; None: that of the card stays, or no figure is known.
    """
    card = ROOT / "projects" / project / "README.md"
    if project in WITHOUT:
        write_card(card, f"**Another domain.** No second set: {WITHOUT[project]}.")
        return
    unseen = SETS[project]
    old = block_of(card)
    if table is None:
        table = old[old.index(HEAD) :] if HEAD in old else None
    config = "" if unseen.config == "mini" else f" CONFIG={unseen.config}"
    source = " --source FOLDER" if unseen.shared else ""
    commands = (
        f"`make train PROJECT={project}{config}`, then"
        f" `.venv/bin/python -m scripts.unseen {project}{source}`"
    )
    if table is None:
        text = (
            "**Another domain.** A second set that the project neither trains nor tunes on is chosen"
            f" and not measured yet ({unseen.what}): {commands}."
        )
    else:
        text = (
            "**Another domain.** A second set that the project neither trains nor tunes on, chosen"
            f" before any model was judged on it (one seed of `{unseen.config}`): {commands}.\n\n"
            f"{table}"
        )
    write_card(card, "\n".join(_wrapped(line) for line in text.split("\n")))


def _wrapped(line: str) -> str:
    """A line of at most 148 characters, tables and commands whole."""
    if line.startswith("|"):
        return line
    whole = re.sub(r"`[^`]*`", lambda match: match[0].replace(" ", "\0"), line)
    return textwrap.fill(whole, 148, break_on_hyphens=False).replace("\0", " ")


def judged(project: str, run: str, own: Path, unseen: Unseen) -> str:
    """The table of a project: its own test sets and the second one."""
    from common.engine.trained import EVALUATION
    from common.engine.verbs import evaluate

    evaluate(project, unseen.config, [f"eval.own={own}"], run, None)
    return table_of(
        project, max(Path("runs").glob(f"{project}/*/*/eval-*/{EVALUATION}")).parent, unseen
    )


def table_of(project: str, place: Path, unseen: Unseen) -> str:
    """The table of a project whose evaluation on the second set is in a folder of its run."""
    sets = ((*unseen.seen, place.parent), (unseen.what, unseen.metric, place))
    rows = [row_of(project, title, metric, folder, unseen) for title, metric, folder in sets]
    return "\n".join([HEAD, "|---|--:|--:|---|", *rows])


def row_of(project: str, title: str, metric: str, folder: Path, unseen: Unseen) -> str:
    """A line of the table: the metric, or the first one that ends in it behind a set's name.

    Raises:
        UserError: the folder has no such metric.
    """
    from common.engine.comparison.references import (
        BASELINES_FILE,
        comparison_of,
        headline,
        own_rows,
    )
    from common.engine.workspace import read_json

    spec, file = comparison_of(project, unseen.config), folder / BASELINES_FILE
    metrics = read_json(folder / "metrics.json")
    baselines = read_json(file) if file.exists() else {}
    asked = None if spec is None else replace(spec, also=[metric, *spec.also])
    known = [*headline(metrics, baselines, asked), *own_rows(metrics, baselines, spec)]
    rows = [row for row in known if row.metric == metric]
    rows = rows or [row for row in known if row.metric.endswith(f"_{metric}")]
    if not rows:
        raise UserError(f"{folder} has no {metric}")
    row = next((row for row in rows if row.baseline is not None), rows[0])
    best = "" if row.baseline is None else f"{four_digits(row.baseline[1])} {row.baseline[0]}"
    before = "" if row.untrained is None else four_digits(row.untrained)
    return f"| {title} ({metric}) | {four_digits(row.value)} | {before} | {best} |"


def write_page() -> None:
    """Replace the tables of all cards on the page about a user's own data."""
    cards = {name: ROOT / "projects" / name / "README.md" for name in SETS}
    tables = {name: figures(block_of(card)) for name, card in cards.items()}
    write_card(PAGE, overview({name: rows for name, rows in tables.items() if rows}))


def figures(block: str) -> list[list[str]]:
    """Cells of the two rows of a card's table; none where nothing is measured."""
    lines = block.partition(HEAD)[2].split("\n")[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def overview(tables: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """How far the figures of the cards carry: counts, and two rows for each project.

    Args:
        tables: project -> `figures`, its own test set first.
    """
    lines = ["| project | judged on | trained | untrained | best training-free |"]
    lines.append("|---|---|--:|--:|---|")
    for name, (seen, unseen) in tables.items():
        lines.append(f"| [{name}](../projects/{name}/README.md) | {' | '.join(seen)} |")
        lines.append(f"| | *second set:* {' | '.join(unseen)} |")
    counts = [[_ahead(rows[i], c) for rows in tables.values()] for c in (3, 2) for i in (0, 1)]
    (free, free_second, start, start_second) = (
        f"{sum(c is True for c in column)} of {sum(c is not None for c in column)}"
        for column in counts
    )
    text = (
        f"The trained model is better than the best training-free baseline in {free} projects on"
        f" their own test sets, and in {free_second} on the second ones. It is better than before its"
        f" training in {start} and {start_second}."
    )
    return "\n".join([*_wrapped(text).split("\n"), "", *lines])


def _ahead(row: Sequence[str], column: int) -> bool | None:
    """Whether the trained model's figure is better than that of a column; None where it has none."""
    if not row[column]:
        return None
    value, rival = float(row[1]), float(row[column].split()[0])
    metric = row[0].rpartition("(")[2].strip(")")
    return value < rival if set(metric.split("_")) & SMALLER else value > rival


def block_of(card: Path) -> str:
    """What stands between the card's marks; empty without them."""
    match = re.search(f"{BEGIN}\n(.*?)\n{END}", card.read_text(encoding="utf-8"), re.DOTALL)
    return "" if match is None else match[1]


def write_card(card: Path, content: str) -> None:
    """Replace what stands between the card's marks, which come behind the results."""
    text = card.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{content}\n{END}"
    changed, count = re.subn(f"{BEGIN}.*?{END}", lambda _: block, text, flags=re.DOTALL)
    if count == 0:
        if text.count(RESULTS) != 1:
            raise UserError(f"{card} has no {BEGIN}, and not one {RESULTS}")
        changed = text.replace(RESULTS, f"{RESULTS}\n\n{block}")
    card.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
