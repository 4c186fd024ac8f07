"""Derive the tracked files under data/ from a folder of larger source sets.

    python scripts/prepare_data.py SOURCE [TARGET]

data/README.md describes what SOURCE holds and where each set comes from. Equal sources give
byte-identical files.
"""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.data.packed import PackedAudio, PackedImages, write_packed  # noqa: E402
from common.data.splits import book_split, stable_fraction  # noqa: E402
from common.data.tables import Row, read_jsonl, write_jsonl  # noqa: E402
from projects.mclrec.interactions import frequent, k_core, read_log  # noqa: E402
from projects.rtd.variants import tone_of  # noqa: E402

SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
EMOJI_COLUMNS = ("emoji", "base", "en", "keywords_en")
LANGUAGES = ("en", "de", "fr", "es", "ru", "zh")  # of the names of the drawings
WORDNET_COLUMNS = ("id", "pos", "lemmas", "definition", "lexname", "pointers")
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
COPIED = (  # sets that are small enough to be taken whole
    "dialog-sgd/train.jsonl.gz",
    "dialog-sgd/dev.jsonl.gz",
    "stsb/en-train.jsonl.gz",
    "stsb/en-dev.jsonl.gz",
    "stsb/en-test.jsonl.gz",
    "sts-years/sts12.jsonl.gz",
    "sts-years/sts13.jsonl.gz",
    "sts-years/sts14.jsonl.gz",
    "nli/pairs-train.jsonl.gz",
    "nli/pairs-test.jsonl.gz",
    "nli/triplets-train.jsonl.gz",
    "nli/triplets-test.jsonl.gz",
    "books-en/chapters.jsonl.gz",
    "esco-occupations/occupations.jsonl.gz",
    "esco-occupations/skills.jsonl.gz",
    "truthfulqa/part.jsonl.gz",
    "videoqa-tvqaplus/val.jsonl.gz",
    "code-python-doc/train.jsonl.gz",
    "code-python-doc/test.jsonl.gz",
    *(
        f"retrieval-{name}/{file}"
        for name in ("cisi", "npl")
        for file in ("corpus.jsonl.gz", "queries.jsonl.gz", "qrels.tsv")
    ),
)
EVALUATION_TEXTS = {  # what no language model of this repository may have been trained on
    "stsb/en-dev.jsonl.gz": ("sentence1", "sentence2"),
    "stsb/en-test.jsonl.gz": ("sentence1", "sentence2"),
    "sts-years/sts12.jsonl.gz": ("sentence1", "sentence2"),
    "sts-years/sts13.jsonl.gz": ("sentence1", "sentence2"),
    "sts-years/sts14.jsonl.gz": ("sentence1", "sentence2"),
    "nli/pairs-test.jsonl.gz": ("premise", "hypothesis"),
}
WIKIDES = {"train": 3000, "test": 1000}  # rows of the topic split
WIKIDES_WORDS = 60  # of a paragraph
# rows with at least two candidates; of the training part those whose description is not among them
WIKIDES_RANKING = {"train": 3000, "dev": None, "test": None}
INTENTS_WHOLE = (
    "clinc150-train",
    "clinc150-val",
    "clinc150-test",
    "slurp-devel",
    "slurp-test",
    "restaurant8k-train",
    "restaurant8k-test",
)
CLINC_ROWS = 40  # of each intent
RESTAURANT_ROWS, RESTAURANT_WORDS = {"train": 800, "test": 400}, 4
QNLI_ROWS, QNLI_WORDS = 1200, 41  # question and sentence together
CHOICES = (
    ("openbookqa", "qa-openbookqa/sample.jsonl.gz", None),
    ("commonsenseqa", "qa-commonsenseqa/dev-part.jsonl.gz", 400),
)
INTENTS = ("banking77-train", "banking77-test", "snips-train", "snips-valid", "snips-test")
LICENCES = {
    "noto-emoji.txt": "noto-emoji.txt",
    "unicode-cldr.txt": "unicode-cldr.txt",
    "openclipart.txt": "openclipart.txt",
    "wordnet.txt": "wordnet.txt",
    "llama2.c.txt": "llama2.c.txt",
    "pytorch_resnet_cifar10.txt": "pytorch_resnet_cifar10.txt",
    "truthfulqa-apache-2.0.txt": "apache-2.0.txt",
    "stsb-multi-mt.txt": "stsb-multi-mt.txt",
    "clinc-oos-eval.txt": "cc-by-3.0.txt",
    "slurp.txt": "slurp.txt",
    "wikides.txt": "wikides.txt",
    "python-psf.txt": "python-psf.txt",
    "numpy.txt": "numpy.txt",
    "scipy.txt": "scipy.txt",
    "pandas.txt": "pandas.txt",
    "scikit_learn.txt": "scikit_learn.txt",
    "sympy.txt": "sympy.txt",
    "tvqaplus.txt": "tvqaplus.txt",
}


def prepare_emoji(source: Path, target: Path) -> list[Row]:
    """Drawings without skin-tone variants, with English names and keywords only."""
    rows = read_jsonl(source / "captions.jsonl.gz", EMOJI_COLUMNS)
    images = PackedImages(source / "images.npz")
    kept = [i for i, row in enumerate(rows) if not SKIN_TONES.search(row["emoji"])]
    target.mkdir(parents=True, exist_ok=True)
    write_packed(target / "images.npz", [images.item(i).tobytes() for i in kept])
    slim = [{name: rows[i][name] for name in EMOJI_COLUMNS} for i in kept]
    write_jsonl(target / "captions.jsonl.gz", slim)
    return slim


def prepare_names(source: Path, target: Path) -> None:
    """Names of the drawings of `prepare_emoji` in six languages, row by row.

    Sark has English only.
    """
    rows = read_jsonl(source / "captions.jsonl.gz", ("emoji", "captions"))
    kept = [row for row in rows if not SKIN_TONES.search(row["emoji"])]
    slim = [
        {
            "emoji": row["emoji"],
            **{x: row["captions"][x] for x in LANGUAGES if x in row["captions"]},
        }
        for row in kept
    ]
    write_jsonl(target / "names.jsonl.gz", slim)


def prepare_tones(source: Path, target: Path) -> None:
    """Drawings with exactly one skin tone, which their name ends with."""
    rows = read_jsonl(source / "captions.jsonl.gz", EMOJI_COLUMNS)
    images = PackedImages(source / "images.npz")
    kept = [
        i
        for i, row in enumerate(rows)
        if len(SKIN_TONES.findall(row["emoji"])) == 1 and tone_of(row["en"])
    ]
    target.mkdir(parents=True, exist_ok=True)
    write_packed(target / "images.npz", [images.item(i).tobytes() for i in kept])
    slim = [{name: rows[i][name] for name in ("emoji", "base", "en")} for i in kept]
    write_jsonl(target / "captions.jsonl.gz", slim)


def prepare_clipart(source: Path, target: Path) -> list[Row]:
    """Everything, unchanged."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("images.npz", "meta.jsonl.gz"):
        shutil.copyfile(source / name, target / name)
    return read_jsonl(target / "meta.jsonl.gz", ("title",))


def prepare_wordnet(source: Path, target: Path, vocabulary: set[str]) -> None:
    """Synsets with a lemma among the words of the captions, and what is directly above the nouns."""
    synsets = read_jsonl(source / "synsets.jsonl.gz", WORDNET_COLUMNS)
    chosen = {s["id"] for s in synsets if vocabulary & {lemma.lower() for lemma in s["lemmas"]}}
    above = {
        other
        for s in synsets
        if s["id"] in chosen and s["pos"] == "n"
        for kind, other in s["pointers"]
        if kind in ("@", "@i")
    }
    chosen |= above
    kept = [s for s in synsets if s["id"] in chosen]
    target.mkdir(parents=True, exist_ok=True)
    slim = [{name: s[name] for name in WORDNET_COLUMNS} for s in kept]
    write_jsonl(target / "synsets.jsonl.gz", slim)


def prepare_cifar10(source: Path, target: Path) -> None:
    """The images of smallest hash of split and row: 1,000 a class for training, 200 for test."""
    target.mkdir(parents=True, exist_ok=True)
    for split, per_class in (("train", 1000), ("test", 200)):
        images = PackedImages(source / f"{split}.npz")
        labels = images.array("labels")
        chosen: list[int] = []
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label).tolist()
            chosen += sorted(members, key=lambda i: stable_fraction(f"{split} {i}"))[:per_class]
        chosen.sort()
        write_packed(
            target / f"{split}.npz",
            [images.item(i).tobytes() for i in chosen],
            labels=labels[chosen],
            class_names=images.array("class_names"),
        )


def prepare_sentences(source: Path, target: Path) -> None:
    """Without the sentences of evaluation sets and of the held-back chapters of the novels."""
    rows = read_jsonl(source / "sentences-en" / "sentences.jsonl.gz", ("source", "text"))
    banned = {
        normal(row[column])
        for name, columns in EVALUATION_TEXTS.items()
        for row in read_jsonl(source / name, columns)
        for column in columns
    }
    chapters = read_jsonl(source / "books-en" / "chapters.jsonl.gz", ("book", "paragraphs"))
    splits = book_split([chapter["book"] for chapter in chapters])
    held_back = normal(
        " ".join(
            paragraph
            for chapter, split in zip(chapters, splits, strict=True)
            if split == "test"
            for paragraph in chapter["paragraphs"]
        )
    )
    words = held_back.split()
    starts = set(zip(words, words[1:], words[2:], strict=False))

    def kept(row: Row) -> bool:
        text = normal(row["text"])
        head = tuple(text.split()[:3])
        if row["source"] == "book" and (len(head) < 3 or head in starts):
            return text not in banned and f" {text} " not in f" {held_back} "
        return text not in banned

    target.mkdir(parents=True, exist_ok=True)
    write_jsonl(target / "sentences.jsonl.gz", [row for row in rows if kept(row)])


def prepare_spoken_digits(source: Path, target: Path) -> None:
    """The takes 0 to 29 of every speaker and digit."""
    audio = PackedAudio(source / "audio.npz")
    kept = np.flatnonzero(audio.array("take") < 30).tolist()
    clips = [audio.item(i) for i in kept]
    target.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        target / "audio.npz",
        data=np.concatenate(clips),
        offsets=np.concatenate([[0], np.cumsum([len(clip) for clip in clips])]).astype(np.int64),
        sample_rate=audio.array("sample_rate"),
        **{name: audio.array(name)[kept] for name in ("labels", "speakers", "take")},
    )


def prepare_wikides(source: Path, target: Path) -> None:
    """Rows of smallest hash of the paragraph, in their order.

    Paragraphs cut to their first words.
    """
    target.mkdir(parents=True, exist_ok=True)
    for split, count in WIKIDES.items():
        path = source / f"topic-split-{split}.jsonl.gz"
        rows = read_jsonl(path, ("source", "candidate", "target"))
        order = sorted(range(len(rows)), key=lambda i: stable_fraction(rows[i]["source"]))
        kept = [rows[i] for i in sorted(order[:count])]
        for row in kept:
            row["source"] = " ".join(row["source"].split()[:WIKIDES_WORDS])
        write_jsonl(target / f"{split}.jsonl.gz", kept)


def prepare_wikides_ranking(source: Path, target: Path) -> None:
    """Whole paragraphs with at least two different candidates.

    Training without the gold text among them.
    """
    target.mkdir(parents=True, exist_ok=True)
    for split, count in WIKIDES_RANKING.items():
        path = source / f"topic-split-{split}.jsonl.gz"
        rows = read_jsonl(path, ("source", "candidate", "target"))
        rows = [row for row in rows if len({text.strip() for text in row["candidate"]} - {""}) > 1]
        if split == "train":
            rows = [row for row in rows if row["target"] not in row["candidate"]]
        order = sorted(range(len(rows)), key=lambda i: stable_fraction(rows[i]["source"]))
        write_jsonl(target / f"{split}.jsonl.gz", [rows[i] for i in sorted(order[:count])])


def prepare_intents(source: Path, target: Path) -> None:
    """Utterances and intents only; SNIPS with the tags of its slots as well, the others whole."""
    target.mkdir(parents=True, exist_ok=True)
    for name in INTENTS:
        rows = read_jsonl(source / f"{name}.jsonl.gz", ("text", "intent"))
        slim = [{"text": row["text"], "intent": row["intent"]} for row in rows]
        write_jsonl(target / f"{name}.jsonl.gz", slim)
    for name in INTENTS_WHOLE:  # with domains, spans, tags
        shutil.copyfile(source / f"{name}.jsonl.gz", target / f"{name}.jsonl.gz")
    for part in ("train", "valid", "test"):
        shutil.copyfile(source / f"snips-{part}.jsonl.gz", target / f"snips-slots-{part}.jsonl.gz")


def prepare_demonstrations(source: Path, target: Path) -> None:
    """Parts of five small tasks in rows of one form a task; data/README.md has the rules."""
    target.mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    requests = []
    for row in read_jsonl(source / "intents/clinc150-train.jsonl.gz", ("text", "intent", "domain")):
        seen[row["intent"]] += 1
        if seen[row["intent"]] <= CLINC_ROWS:
            requests.append(row)
    write_jsonl(target / "clinc150-train.jsonl.gz", requests)
    for split, count in RESTAURANT_ROWS.items():
        rows = read_jsonl(source / f"intents/restaurant8k-{split}.jsonl.gz", ("userInput",))
        slots = [slot for row in rows for slot in _slots(row)]
        write_jsonl(target / f"restaurant8k-{split}.jsonl.gz", slots[:count])
    pairs = [
        {"question": r["premise"], "sentence": r["hypothesis"], "label": r["label"]}
        for r in read_jsonl(source / "glue-small/qnli-dev.jsonl.gz", ("premise", "hypothesis"))
        if len(f"{r['premise']} {r['hypothesis']}".split()) <= QNLI_WORDS
    ]
    write_jsonl(target / "qnli.jsonl.gz", pairs[:QNLI_ROWS])
    choices: list[Row] = []
    for name, file, count in CHOICES:
        rows = read_jsonl(source / file, ("id", "question", "choices", "answer"))[:count]
        kept = ("id", "question", "choices", "answer")
        choices += [{**{key: row[key] for key in kept}, "source": name} for row in rows]
    write_jsonl(target / "multiple-choice.jsonl.gz", choices)


def _slots(row: Row) -> list[Row]:
    """A row for every span of a text of at least four words; an offset that is left out is 0."""
    text = row["userInput"]["text"]
    if len(text.split()) < RESTAURANT_WORDS:
        return []
    found = []
    for label in row.get("labels", []):
        span = label["valueSpan"]
        value = text[span.get("startIndex", 0) : span["endIndex"]]
        found.append({"text": text, "slot": label["slot"], "value": value})
    return found


def prepare_beauty(source: Path, target: Path) -> None:
    """Keep the items with at least 15 actions, then the 5-core of what is left."""
    histories = read_log(source / "beauty-sequences.jsonl.gz")
    rows = k_core(frequent(histories, users=5, items=15), users=5, items=5)
    target.mkdir(parents=True, exist_ok=True)
    write_jsonl(
        target / "beauty-frequent.jsonl.gz",
        [{"user": int(user), "items": [int(item) for item in items]} for user, items in rows],
    )


def prepare_lidar(source: Path, target: Path) -> None:
    """The drive's scans within 26 m, every second return of them; poses as they are."""
    with np.load(source / "drive0005.npz", allow_pickle=False) as drive:
        xyz, intensity, offsets = drive["xyz_cm"], drive["intensity"], drive["offsets"]
        poses = drive["poses_est"]
    near = (np.abs(xyz[:, :2].astype(np.int32)) < 2600).all(axis=1)
    scan = np.repeat(np.arange(len(poses)), np.diff(offsets))
    rows = np.flatnonzero(near)[::2]
    counts = np.bincount(scan[rows], minlength=len(poses))
    target.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        target / "drive0005.npz",
        xyz_cm=xyz[rows],
        intensity=intensity[rows],
        offsets=np.concatenate([[0], counts.cumsum()]),
        poses_est=poses,
        interval=np.float64(0.1),
    )


def normal(text: str) -> str:
    """Lower-case words without punctuation: what two copies of a sentence share."""
    return " ".join(re.findall(r"\w+", text.lower()))


def spans(texts: Iterable[str]) -> set[str]:
    """Words and neighbouring pairs of words of the texts, also without a plural s."""
    found: set[str] = set()
    for text in texts:
        words = re.findall(r"[a-z]+", text.lower())
        found.update(words, (" ".join(pair) for pair in pairwise(words)))
    return {span for span in found | {span.removesuffix("s") for span in found} if len(span) > 2}


def main(source: Path, target: Path) -> None:
    """Write the tracked sets; data/README.md says what is made elsewhere."""
    emoji = prepare_emoji(source / "emoji-captions", target / "emoji-captions")
    prepare_names(source / "emoji-captions", target / "emoji-captions")
    prepare_tones(source / "emoji-captions", target / "emoji-tones")
    clipart = prepare_clipart(source / "clipart", target / "clipart")
    texts = [r["en"] for r in emoji] + [k for r in emoji for k in r["keywords_en"]]
    vocabulary = spans(texts + [r["title"] for r in clipart])
    prepare_wordnet(source / "wordnet", target / "wordnet", vocabulary)
    prepare_cifar10(source / "cifar10", target / "cifar10")
    prepare_sentences(source, target / "sentences-en")
    prepare_spoken_digits(source / "spoken-digits", target / "spoken-digits")
    prepare_wikides(source / "wikides", target / "wikides")
    prepare_wikides_ranking(source / "wikides", target / "wikides-ranking")
    prepare_intents(source / "intents", target / "intents")
    prepare_demonstrations(source, target / "demonstrations")
    prepare_beauty(source / "rec-amazon", target / "rec-amazon")
    prepare_lidar(source / "lidar-kitti", target / "lidar-kitti")
    for name in COPIED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    (target / "sst2-sentences").mkdir(parents=True, exist_ok=True)
    for part in ("train", "dev", "test"):
        name = f"glue-small/sst2-{part}.jsonl.gz"
        shutil.copyfile(source / name, target / "sst2-sentences" / f"{part}.jsonl.gz")
    model = target / "models" / "stories260k"
    model.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(source / "models" / "stories260k" / name, model / name)
    tower = target / "models" / "cifar-resnet20" / "model.safetensors"
    tower.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "models" / "cifar-resnet" / "resnet20.safetensors", tower)
    licences = target / "licences"
    licences.mkdir(parents=True, exist_ok=True)
    for name, new in LICENCES.items():
        shutil.copyfile(source / "licences" / name, licences / new)
    shutil.copyfile(licences / "cc-by-3.0.txt", licences / "clinc-oos-eval.txt")
    for path in sorted(p for p in target.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size:>9}  {path.relative_to(target)}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else ROOT / "data")
