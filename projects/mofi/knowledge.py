"""The knowledge base: entities with names, descriptions, aliases and priors; the files of a set."""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.image_text.drawings import LEXNAMES, words
from common.data.lines import read_lines
from common.data.lookup import bundled
from common.data.splits import stable_fraction
from common.data.tables import read_jsonl

COLUMNS = ("id", "name", "description", "prior", "aliases")
LONGEST = 4  # words of an alias that is looked up
OWN_NAME = 3.0  # odds of an entity whose name is the mention, against one with an alias like it
USUAL = 4.0  # odds of the everyday senses below against others of their words
# four words for each CIFAR-10 class that captions use, by WordNet synset; written for this project
CLASS_ALIASES = {
    "02691156n": ("airplane", "aeroplane", "plane", "jet plane"),
    "02958343n": ("car", "automobile", "auto", "motorcar"),
    "01503061n": ("bird", "songbird", "fledgling", "birdie"),
    "02121620n": ("cat", "kitty", "house cat", "kitten"),
    "02430045n": ("deer", "stag", "fawn", "doe"),
    "02084071n": ("dog", "hound", "puppy", "domestic dog"),
    "01639765n": ("frog", "toad", "bullfrog", "tree frog"),
    "02374451n": ("horse", "pony", "mare", "foal"),
    "04194289n": ("ship", "vessel", "steamer", "ocean liner"),
    "04490091n": ("truck", "lorry", "motortruck", "pickup truck"),
}


class Entity(NamedTuple):
    """One entry."""

    id: str
    name: str
    description: str
    prior: float  # > 0, odds among the entities of an alias
    aliases: tuple[str, ...]  # lower case


@dataclass(frozen=True)
class Knowledge:
    """Entities with an index of their aliases."""

    entities: Sequence[Entity]

    @cached_property
    def by_alias(self) -> Mapping[str, list[int]]:
        """Positions of the entities that an alias may mean."""
        places = defaultdict(list)
        for i, entity in enumerate(self.entities):
            for alias in dict.fromkeys((entity.name.lower(), *entity.aliases)):
                places[" ".join(words(alias))].append(i)
        places.pop("", None)
        return dict(places)

    def candidates(self, mention: str) -> list[int]:
        """Entities that a mention may mean; a plural falls back to its singular."""
        key = " ".join(words(mention))
        places = self.by_alias.get(key)
        return list(places if places is not None else self.by_alias.get(key.removesuffix("s"), []))

    def odds(self, mention: str) -> Tensor:
        """Prior of each candidate; an entity that the mention is the name of is likelier."""
        key = " ".join(words(mention))
        names = {key, key.removesuffix("s")}
        entities = [self.entities[i] for i in self.candidates(mention)]
        return torch.tensor(
            [e.prior * (OWN_NAME if e.name.lower() in names else 1) for e in entities]
        )

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Position of an entity id."""
        return {entity.id: i for i, entity in enumerate(self.entities)}

    def text(self, index: int, with_description: bool = True) -> str:
        """What a text encoder sees of an entity."""
        return entity_text(self.entities[index], with_description)


class NamedKnowledge(Knowledge):
    """As `Knowledge`, but letters of every script, accents and digits of a name count.

    What ``TASK=build`` looks up. The bundled pool keeps to Latin letters, for which its comparison
    was run.
    """

    @cached_property
    def by_alias(self) -> Mapping[str, list[int]]:
        """See `Knowledge.by_alias`."""
        places = defaultdict(list)
        for i, entity in enumerate(self.entities):
            for key in dict.fromkeys(map(name_key, (entity.name, *entity.aliases))):
                places[key].append(i)
        places.pop("", None)
        return dict(places)

    def candidates(self, mention: str) -> list[int]:
        """See `Knowledge.candidates`."""
        key = name_key(mention)
        places = self.by_alias.get(key)
        return list(places if places is not None else self.by_alias.get(key.removesuffix("s"), []))

    def odds(self, mention: str) -> Tensor:
        """See `Knowledge.odds`."""
        key = name_key(mention)
        names = {key, key.removesuffix("s")}
        entities = [self.entities[i] for i in self.candidates(mention)]
        return torch.tensor(
            [e.prior * (OWN_NAME if name_key(e.name) in names else 1) for e in entities]
        )


def name_key(text: str) -> str:
    """A name's lookup key: case and compatible forms folded, blanks for all but letters and digits.

    >>> name_key("BOEING-747")
    'boeing 747'
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text[start:end] for start, end in name_spans(text))


def name_spans(text: str) -> list[tuple[int, int]]:
    """Places of the words of a text: runs of letters, digits and the marks that belong to them.

    >>> name_spans("a 747!")
    [(0, 1), (2, 5)]
    """
    spans: list[tuple[int, int]] = []
    for i, sign in enumerate(text):
        if sign.isalnum() or unicodedata.category(sign).startswith("M"):
            start = spans.pop()[0] if spans and spans[-1][1] == i else i
            spans.append((start, i + 1))
    return spans


def entity_text(entity: Any, with_description: bool = True) -> str:
    """Name, or name and description, of anything that has both.

    >>> entity_text(Entity("Q1", "lark", "a small bird", 1.0, ()))
    'lark, a small bird'
    """
    if with_description and entity.description:
        return f"{entity.name}, {entity.description}"
    return str(entity.name)


def read_knowledge(path: Path | None, root: str | None = None) -> Knowledge:
    """A file of entities, or the bundled WordNet nouns of things that can be drawn.

    Args:
        path: tab-separated with a header of `COLUMNS`; aliases are joined by ``|``.
        root: ``cfg.data.root``.

    Raises:
        UserError: no such file, a column is missing, a prior is not a positive number, or an entity
            without a letter or digit in its names.
    """
    return NamedKnowledge(bundled_knowledge(root).entities if path is None else _read(path))


def _read(path: Path) -> list[Entity]:
    entities = []
    for number, row in enumerate(read_table(path, COLUMNS), 2):
        try:
            prior = float(row["prior"])
        except ValueError:
            prior = math.nan
        if not 0 < prior < math.inf:
            raise UserError(
                f"{path}, line {number}: prior '{row['prior']}' is not a positive number"
            )
        aliases = tuple(a.strip().lower() for a in row["aliases"].split("|") if a.strip())
        entities.append(Entity(row["id"], row["name"], row["description"], prior, aliases))
    if not entities:
        raise UserError(f"{path} has no entity: write one per line below the header")
    nameless = [e.id for e in entities if not any(map(name_key, (e.name, *e.aliases)))]
    if nameless:
        raise UserError(
            f"{path}: {len(nameless)} entities ({', '.join(nameless[:5])}) have no letter or digit"
            " in name and aliases, so that no caption can name them: add an alias or leave"
            " them out"
        )
    return entities


def bundled_knowledge(root: str | None = None) -> Knowledge:
    """WordNet nouns of things that can be drawn; the bundled part has no frequencies."""
    entities = []
    for s in read_jsonl(bundled("wordnet/synsets.jsonl.gz", root)):
        if s["pos"] != "n" or s["lexname"] not in LEXNAMES:
            continue
        description = " ".join(s["definition"].split(";")[0].split()[:12])
        aliases = [lemma.lower() for lemma in s["lemmas"]] + list(CLASS_ALIASES.get(s["id"], ()))
        prior = USUAL if s["id"] in CLASS_ALIASES else 1.0
        entities.append(Entity(s["id"], s["lemmas"][0], description, prior, tuple(aliases)))
    return Knowledge(entities)


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a tab-separated file with a header.

    Raises:
        UserError: no such file, a column is missing, or a row of another length.
    """
    lines = read_lines(path)
    header = lines[0].split("\t") if lines else []
    if missing := [c for c in columns if c not in header]:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)} in its tab-separated header"
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != len(header):
            raise UserError(f"{path}, line {number}: {len(cells)} cells for {len(header)} columns")
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def description_vectors(knowledge: Knowledge, dim: int = 256) -> Tensor:
    """Unit vectors (K, D) of the words of names and descriptions, hashed, rare ones heavier.

    What stands in for entity embeddings that were trained on a graph, where none are given.
    """
    bags = [set(words(entity_text(e))) for e in knowledge.entities]
    times = defaultdict(int)  # type: ignore[var-annotated]
    for bag in bags:
        for word in bag:
            times[word] += 1
    place = {word: int(stable_fraction(word) * 2 * dim) for word in times}
    vectors = np.zeros((len(bags), dim), dtype=np.float32)
    for row, bag in enumerate(bags):
        for word in bag:
            weight = math.log(1 + len(bags) / times[word])
            vectors[row, place[word] % dim] += weight if place[word] < dim else -weight
    return torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)
