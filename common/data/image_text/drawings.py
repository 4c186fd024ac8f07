"""Texts of the pool of drawings: names, four phrasings each, nouns, and keyword queries.

The pictures are the bundled emoji (without skin-tone variants) and clip art. A drawing's original
caption is its name or title. Its four phrasings share its remaining words between them: human
keywords (emoji), folder names (clip art), WordNet synonyms, hypernyms and gloss of the title's
noun, each put into one of many sentence frames. All choices are hashes of the content.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.lookup import bundled
from common.data.splits import clipart_key, clipart_split, emoji_split, stable_fraction
from common.data.tables import read_jsonl, write_jsonl
from common.files import write_text

NUM_PHRASINGS = 4
MIN_CLASS_SIZE = 4  # training drawings of a zero-shot class
DEV_FRACTION = 0.08  # of all keys, taken from the training side
# WordNet lexicographer files of things that can be drawn, with a word that hints at each
LEXNAMES = {
    5: "animal",
    6: "artifact",
    8: "body",
    10: "sign",
    13: "food",
    15: "place",
    17: "nature",
    18: "person",
    20: "plant",
    25: "shape",
}
CATEGORY_LEXNAMES = {
    "animals": 5,
    "food": 13,
    "plants": 20,
    "people": 18,
    "geography": 15,
    "signs_and_symbols": 10,
}
PRIOR = {18: 0.4, 8: 0.4, 6: 0.3, 13: 0.3}  # which sense of a word drawings tend to mean
NOT_A_NOUN = {
    "with",
    "the",
    "and",
    "for",
    "from",
    "bordered",
    "simple",
    "white",
    "black",
    "red",
    "blue",
    "green",
    "orange",
    "yellow",
    "ornamental",
    "left",
    "right",
    "down",
    "back",
    "open",
    "two",
    "jean",
    "up",
    "off",
    "new",
    "old",
    "big",
    "small",
    "light",
    "dark",
}
NOT_A_TAG = {
    "icons",
    "flat",
    "theme",
    "lemon",
    "action",
    "actions",
    "application",
    "applications",
    "device",
    "devices",
    "filesystem",
    "filesystems",
    "simple",
    "miscellany",
    "special",
    "white",
    "bordered",
    "ornamental",
    "and",
}
FRAMES = (
    (
        "a drawing about {}",
        "think of {}",
        "{} as a small picture",
        "here one sees {}",
        "something to do with {}",
        "this image stands for {}",
    ),
    (
        "an icon that suggests {}",
        "it calls to mind {}",
        "picture tagged {}",
        "{}, sketched in color",
        "the artist wanted to show {}",
        "used when people talk of {}",
    ),
    (
        "this could mean {}",
        "a symbol related to {}",
        "an illustration: {}",
        "whoever sees it says {}",
        "people connect it with {}",
        "shown here is {}",
    ),
    (
        "a little graphic on the theme of {}",
        "{} in cartoon style",
        "one may call it {}",
        "a simple depiction of {}",
        "its subject is {}",
        "clip art in the spirit of {}",
    ),
)


class Drawing(NamedTuple):
    """One picture with its words."""

    image: str  # folder of the packed set and row, "<set>/<row>.jpg"
    name: str
    key: str  # variants of one drawing share it
    split: str  # train, dev or test
    tags: list[str]  # human keywords or folder names that are not in the name
    synonyms: list[str]  # WordNet synonyms and hypernyms of the noun
    gloss: str
    noun: str

    @property
    def query(self) -> str:
        """Keyword query of the evaluation; none of its words is in the name."""
        return ", ".join(list(dict.fromkeys([*self.tags, *self.synonyms]))[:4])


def words(text: str) -> list[str]:
    """Lower-case words of a text, Latin letters only."""
    return re.findall(r"[a-z]+", text.lower())


class WordNet:
    """Noun senses by lemma, restricted to things that can be drawn."""

    def __init__(self, path: Path) -> None:
        synsets = read_jsonl(path, ["id", "pos", "lemmas", "definition", "lexname", "pointers"])
        self.by_id = {s["id"]: s for s in synsets}
        self.by_lemma: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for s in synsets:
            if s["pos"] == "n" and s["lexname"] in LEXNAMES:
                for lemma in s["lemmas"]:
                    self.by_lemma[lemma].append(s)

    def hypernyms(self, synset: dict[str, Any]) -> list[dict[str, Any]]:
        """Direct hypernyms that the file holds."""
        ids = [target for kind, target in synset["pointers"] if kind == "@"]
        return [self.by_id[i] for i in ids if i in self.by_id]

    def sense(self, name: str, tags: Sequence[str], lexname: int | None) -> tuple[str, Any]:
        """The title's first noun and its sense that fits the tags best; ("", None) if none."""
        title = words(name)
        spans = [" ".join(title[i : i + n]) for n in (2, 1) for i in range(len(title) - n + 1)]
        for span in spans:
            lemma = span if span in self.by_lemma else span.removesuffix("s")
            if len(span) > 2 and span not in NOT_A_NOUN and lemma in self.by_lemma:
                context = set(title) | {w for tag in tags for w in words(tag)}
                senses = self.by_lemma[lemma]
                return lemma, max(senses, key=lambda s: self._fit(s, lemma, context, lexname))
        return "", None

    def _fit(self, s: dict[str, Any], lemma: str, context: set[str], lexname: int | None) -> float:
        around = [s, *self.hypernyms(s)]
        text = " ".join([x["definition"] + " " + " ".join(x["lemmas"]) for x in around])
        overlap = len(context & ({*words(text), LEXNAMES[s["lexname"]]} - set(words(lemma))))
        likely = (s["lexname"] == lexname) * 2 + (s["lemmas"][0] == lemma) * 0.5
        common = PRIOR.get(s["lexname"], 0.0) + 0.02 * min(20, len(s["pointers"]))
        return float(overlap + likely + common)


def drawings(root: str | None = None) -> Iterator[Drawing]:
    """All drawings of the pool, in the order of the packed files."""
    wordnet = WordNet(bundled("wordnet/synsets.jsonl.gz", root))
    emoji = read_jsonl(bundled("emoji-captions/captions.jsonl.gz", root), ["en", "keywords_en"])
    for row, e in enumerate(emoji):
        if "skin tone" not in e["en"]:
            tags = [k.lower() for k in e["keywords_en"] if re.fullmatch(r"[A-Za-z' -]+", k)]
            split = emoji_split(e["base"])
            yield _drawing(
                f"emoji-captions/{row}.jpg", e["en"], e["base"], split, tags, None, wordnet
            )
    for row, c in enumerate(read_jsonl(bundled("clipart/meta.jsonl.gz", root), ["path", "title"])):
        tags = [w for part in c["path"] for w in re.split("[_-]+", part) if w not in NOT_A_TAG]
        lexname = CATEGORY_LEXNAMES.get(c["category"])
        key, split = clipart_key(c["title"]), clipart_split(c["title"])
        yield _drawing(f"clipart/{row}.jpg", c["title"], key, split, tags, lexname, wordnet)


def _drawing(
    image: str,
    name: str,
    key: str,
    split: str,
    tags: list[str],
    lexname: int | None,
    wordnet: WordNet,
) -> Drawing:
    noun, sense = wordnet.sense(name, tags, lexname)
    synonyms: list[str] = []
    if sense:
        lemmas = [*sense["lemmas"], *(x for h in wordnet.hypernyms(sense) for x in h["lemmas"][:2])]
        synonyms = [lemma.lower() for lemma in lemmas if len(lemma.split()) <= 2][:6]
    named = set(words(name))

    def fresh(texts: list[str]) -> list[str]:
        return [t for t in dict.fromkeys(texts) if words(t) and not named & set(words(t))]

    if split == "train" and stable_fraction(key) < DEV_FRACTION:
        split = "dev"
    gloss = " ".join(sense["definition"].split(";")[0].split()[:12]) if sense else ""
    return Drawing(image, name, key, split, fresh(tags), fresh(synonyms), gloss, noun)


def phrasings(drawing: Drawing) -> list[str]:
    """Four sentences that share the drawing's words between them; the name where none is left."""
    digest = int(stable_fraction(drawing.image) * 2**32)
    rng = np.random.Generator(np.random.Philox(digest))
    bank = [str(w) for w in rng.permutation([*drawing.tags, *drawing.synonyms])]
    with_gloss = int(rng.integers(NUM_PHRASINGS)) if drawing.gloss else -1
    texts = []
    for i in range(NUM_PHRASINGS):
        share = bank[i::NUM_PHRASINGS][:3] or bank[i % 2 :: 2][:2]
        content = drawing.gloss if i == with_gloss else " and ".join(share)
        frame = FRAMES[i][int(rng.integers(len(FRAMES[i])))]
        texts.append(frame.format(content) if content else drawing.name)
    return texts


def write_pool_texts(folder: Path, root: str | None = None) -> None:
    """Write train.csv, train_phrasing<i>.txt (official formats), test.jsonl.gz, classes.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = list(drawings(root))
    train = [d for d in pool if d.split == "train"]
    captions = [f"{d.image},{_quoted(d.name)}" for d in train]
    columns = {"train.csv": captions}
    for i in range(NUM_PHRASINGS):
        columns[f"train_phrasing{i + 1}.txt"] = [phrasings(d)[i] for d in train]
    for name, lines in columns.items():
        write_text(folder / name, "\n".join(lines) + "\n")
    held_out = [d for d in pool if d.split != "train"]
    rows = [
        {"image": d.image, "split": d.split, "name": d.name, "query": d.query, "noun": d.noun}
        for d in held_out
    ]
    write_jsonl(folder / "test.jsonl.gz", rows)
    counts = Counter(d.noun for d in train if d.noun)
    classes = sorted(noun for noun, count in counts.items() if count >= MIN_CLASS_SIZE)
    write_text(folder / "classes.txt", "\n".join(classes) + "\n")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search('[",]', text) else text
