"""Adverts and the benchmark of a config: from the bundled occupations, from files, or made up."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.module import ContrastiveData
from common.data.padding import TextInputs
from common.data.samplers import Key, sample_rng
from common.data.tables import read_jsonl
from projects.vacancysbert.config import Config, VacancyData
from projects.vacancysbert.encoder import TitleSkillEncoder
from projects.vacancysbert.esco import esco_parts
from projects.vacancysbert.normalisation import (
    TitleBenchmark,
    TitleRow,
    read_candidates,
    read_title_rows,
    strings,
    title_benchmark,
    title_key,
)
from projects.vacancysbert.phrases import without_phrases
from projects.vacancysbert.places import file_path
from projects.vacancysbert.synthetic import synthetic_parts
from projects.vacancysbert.texts import (
    clean_title,
    skill_text,
    skills_hash,
    text_hash,
    title_hash,
    without_title,
)

SHUFFLE_STREAM, LIMIT_STREAM = 71, 2**31 + 71
MIN_TITLE = 3  # characters


@dataclass(frozen=True)
class Ad:
    """One advert: no standard title belongs to it."""

    id: str
    title: str
    skills: tuple[str, ...]


@dataclass(frozen=True)
class VacancySets:
    """All that an experiment reads.

    Attributes:
        ads: training adverts that passed the filters.
        test: the benchmark.
        dev: the same for validation; None where the config has no file.
        counts: adverts kept and dropped, by reason; test rows of a file whose skills named a title,
            which was taken out.
    """

    ads: list[Ad]
    test: TitleBenchmark
    dev: TitleBenchmark | None
    counts: dict[str, int]

    def benchmark(self, part: str) -> TitleBenchmark:
        """Test or development part.

        Raises:
            UserError: there is no development part.
        """
        benchmark = self.test if part == "test" else self.dev
        if benchmark is None:
            raise UserError("this needs a development part: set data.dev")
        return benchmark


class AdBatch(TypedDict, total=False):
    """B adverts."""

    title: TextInputs  # B texts
    skills: TextInputs  # B texts, the skills in an order that is resampled
    skill_ids: Tensor  # (B, S) int64, skills in place of the text above
    duplicates: Tensor  # (B, 2) int64, hashes of title and skill set
    ids: Tensor  # (B,) int64, places in the training set


class AdPairs(Dataset[AdBatch]):
    """Map-style training set that returns whole batches; draws depend on (seed, epoch, index).

    Args:
        ads: training adverts.
        tokenizer: of transformers.
        data: section of the config.
        seed: the experiment's seed.
        draws: single skills, as ids below `buckets`, that an advert gets; None: its skills as a
            text.
        buckets: of skill ids.
    """

    def __init__(
        self,
        ads: Sequence[Ad],
        tokenizer: Any,
        data: VacancyData,
        seed: int,
        draws: int | None = None,
        buckets: int = 1,
    ) -> None:
        if not ads:
            raise UserError("no advert is left to train on: lower data.min_skills")
        self.ads, self.tokenizer, self.data, self.seed = ads, tokenizer, data, seed
        self.draws, self.buckets = draws, buckets
        self.hashes = torch.tensor([(title_hash(a.title), skills_hash(a.skills)) for a in ads])

    def __len__(self) -> int:
        return len(self.ads)

    def skills(self, index: int, epoch: int) -> list[str]:
        """At most `max_skills` skills of an advert, in the order of this draw."""
        skills = self.ads[index].skills
        order = sample_rng(self.seed, epoch, index, SHUFFLE_STREAM).permutation(len(skills))
        return [skills[int(i)] for i in order[: self.data.max_skills]]

    def __getitem__(self, keys: Sequence[Key]) -> AdBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        places = torch.tensor([index for index, _ in keys])
        drawn = [self.skills(index, epoch) for index, epoch in keys]
        batch: AdBatch = {
            "title": self._inputs([self.ads[i].title for i, _ in keys], self.data.max_title_len),
            "duplicates": self.hashes[places],
            "ids": places,
        }
        if self.draws is None:
            texts = [skill_text(skills) for skills in drawn]
            batch["skills"] = self._inputs(texts, self.data.max_skill_len)
        else:
            rows = [[skills[i % len(skills)] for i in range(self.draws)] for skills in drawn]
            ids = [[text_hash(title_key(s)) % self.buckets for s in row] for row in rows]
            batch["skill_ids"] = torch.tensor(ids)
        return batch

    def _inputs(self, texts: list[str], limit: int) -> TextInputs:
        encoding = self.tokenizer(
            texts, truncation=True, max_length=limit, padding=True, return_tensors="pt"
        )
        return {"input_ids": encoding["input_ids"], "attention_mask": encoding["attention_mask"]}


class TitleQueries(Dataset[tuple[str, int]]):
    """Titles of a benchmark with the index of their candidate, for validation."""

    def __init__(self, data: TitleBenchmark) -> None:
        self.data, self.candidates = data, data.candidates

    def __len__(self) -> int:
        return len(self.data.rows)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.data.rows[index].title, int(self.data.gold[index])

    @staticmethod
    def collate(rows: Sequence[tuple[str, int]]) -> tuple[list[str], Tensor]:
        """Titles, and their candidates (B,) int64."""
        titles, gold = zip(*rows, strict=True)
        return list(titles), torch.tensor(gold)


def usable_ads(
    rows: Iterable[Ad], data: VacancyData, tests: Iterable[TitleRow] = (), seed: int = 0
) -> tuple[list[Ad], dict[str, int]]:
    """Adverts that pass the filters, and how many were dropped for which reason.

    The title is taken out of its skills; adverts with a short title, with too few distinct skills,
    beyond the cap of their title, or equal to a test row in title and skills are dropped. With
    ``data.clean_titles`` they are equal if their titles are once these are cleaned.

    Args:
        rows: adverts.
        data: section of the config.
        tests: rows that are kept out.
        seed: of the draw where ``data.limit`` takes a part.

    Raises:
        UserError: fewer adverts are left than ``data.limit``.
    """
    held_out = {(title_hash(_shown(r.title, data)), skills_hash(r.skills)) for r in tests}
    kept: list[Ad] = []
    counts, seen = Counter[str](), Counter[int]()
    for ad in rows:
        title = _shown(ad.title, data)
        plain = list(dict.fromkeys(" ".join(skill.split()) for skill in ad.skills))
        skills, key = without_title(plain, _spellings(data, ad.title)), title_hash(title)
        if len(title) < MIN_TITLE:
            counts["dropped_short_title"] += 1
        elif len({title_key(skill) for skill in skills}) < data.min_skills:
            counts["dropped_few_skills"] += 1
        elif {(key, skills_hash(skills)), (key, skills_hash(plain))} & held_out:
            counts["dropped_test_ads"] += 1
        elif data.max_ads_per_title is not None and seen[key] >= data.max_ads_per_title:
            counts["dropped_title_cap"] += 1
        else:
            seen[key] += 1
            kept.append(replace(ad, title=title, skills=skills))
    if data.limit is not None:
        if data.limit > len(kept):
            raise UserError(f"data.limit={data.limit}, but there are {len(kept)} usable adverts")
        order = sample_rng(seed, 0, 0, LIMIT_STREAM).permutation(len(kept))
        kept = [kept[i] for i in np.sort(order[: data.limit])]
    return kept, {"train_ads": len(kept), **counts}


def _shown(title: str, data: VacancyData) -> str:
    """A title as every model is shown it, in training and in the benchmark."""
    return clean_title(title) if data.clean_titles else " ".join(title.split())


def _spellings(data: VacancyData, *titles: str) -> list[str]:
    """The titles as they stand in a file and as they are shown."""
    return list(
        dict.fromkeys(t for raw in titles for t in (" ".join(raw.split()), _shown(raw, data)))
    )


def _benchmark(
    rows: Sequence[TitleRow], candidates: Sequence[str], data: VacancyData
) -> TitleBenchmark:
    """Queries and candidates as they are shown to all rows of the table, ours and the others."""
    if not data.clean_titles:
        return title_benchmark(rows, candidates)
    shown = [replace(r, title=_shown(r.title, data), gold=_shown(r.gold, data)) for r in rows]
    return title_benchmark(shown, [_shown(title, data) for title in candidates])


def _without_titles(rows: Sequence[TitleRow], data: VacancyData) -> tuple[list[TitleRow], int]:
    """Test rows whose skills name neither their title nor the standard one, and how many did."""
    kept, count = list[TitleRow](), 0
    for row in rows:
        titles = _spellings(data, row.title, row.gold)
        count += any(without_phrases(s, titles) != " ".join(s.split()) for s in row.skills)
        others = {name: without_title(skills, titles) for name, skills in row.others.items()}
        kept.append(replace(row, skills=without_title(row.skills, titles), others=others))
    return kept, count


def load_data(cfg: Config) -> VacancySets:
    """Training adverts and benchmarks of a config.

    Raises:
        UserError: missing or broken files, or nothing that passes the filters.
    """
    data = cfg.data
    if data.source == "files":
        return _from_files(cfg)
    if data.source == "synthetic":
        rows, *parts, candidates = synthetic_parts(data.occupations, cfg.seed)
    else:
        rows, *parts, candidates = esco_parts(data.root)
    test, dev = (_benchmark(part, candidates, data) for part in parts)
    ads, counts = usable_ads((Ad(*row) for row in rows), data, [*test.rows, *dev.rows], cfg.seed)
    return VacancySets(ads, test, dev, counts)


def _from_files(cfg: Config) -> VacancySets:
    data = cfg.data
    assert data.train is not None
    assert data.test is not None
    listed = None if data.candidates is None else read_candidates(file_path(data, data.candidates))
    path = file_path(data, data.train)
    test_path = file_path(data, data.test)
    raw: list[TitleRow] = read_title_rows(test_path)
    listed = [row.gold for row in raw] if listed is None else listed
    rows, naming = _without_titles(raw, data)
    unlisted = 0
    test, dev, held, kept_out = _benchmark(rows, listed, data), None, [test_path], [*raw, *rows]
    if data.dev is not None:
        dev_path = file_path(data, data.dev)
        raw = read_title_rows(dev_path)
        rows = _without_titles(raw, data)[0]
        dev = _benchmark(rows, listed, data)
        unlisted = dev.excluded
        held.append(dev_path)
        kept_out += [*raw, *rows]
    ids = {str(row["id"]) for file in held for row in read_jsonl(file) if "id" in row}
    ads, dropped = [], 0
    for number, row in enumerate(read_jsonl(path, ("title",)), 1):
        if "skills" not in row:
            raise UserError(
                f"{path}, row {number}: an advert without skills; extract them first with "
                "`make run PROJECT=vacancysbert TASK=extract`"
            )
        name = str(row.get("id", f"row {number}"))
        if "id" in row and name in ids:
            dropped += 1
        else:
            place = f"{path}, row {number}"
            (title,) = strings([row["title"]], place)
            ads.append(Ad(name, title, strings(row["skills"], place)))
    kept, counts = usable_ads(ads, data, kept_out, cfg.seed)
    if dropped:
        counts["dropped_test_ads"] = counts.get("dropped_test_ads", 0) + dropped
    counts["test_rows_with_title_in_skills"] = naming
    counts["dev_rows_without_candidate"] = unlisted
    return VacancySets(kept, test, dev, counts)


def training_data(cfg: Config, encoder: TitleSkillEncoder) -> ContrastiveData:
    """Batches of adverts; the development titles if the config validates."""
    sets = load_data(cfg)
    single = cfg.method.objective == "skills"
    train = AdPairs(
        sets.ads,
        encoder.encoder.tokenizer,
        cfg.data,
        cfg.seed,
        cfg.method.skills_per_title if single else None,
        cfg.method.skill_buckets,
    )
    val: dict[str, Dataset[Any]] = {}
    if cfg.trainer.val_every_n_steps is not None:
        val["dev"] = TitleQueries(sets.benchmark("dev"))
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )
