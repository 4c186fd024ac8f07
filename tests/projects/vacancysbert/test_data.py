"""Adverts: filters, leaks, draws, parts of the bundled occupations, cleaning."""

from dataclasses import replace

import pytest
import torch

from common.config import UserError
from common.data.tables import write_jsonl
from projects.vacancysbert.data import Ad, AdPairs, load_data, training_data, usable_ads
from projects.vacancysbert.encoder import build_encoder
from projects.vacancysbert.normalisation import TitleRow, title_key
from projects.vacancysbert.texts import clean_title, skills_hash, title_hash, without_title
from tests.projects.vacancysbert.conftest import config, write_files

MINI = config(name="mini")
TOKENIZER = build_encoder(config()).encoder.tokenizer


@pytest.fixture(scope="module")
def esco():
    return load_data(MINI)


def words_of(batch, side):
    return TOKENIZER.batch_decode(batch[side]["input_ids"], skip_special_tokens=True)


@pytest.mark.slow
def test_checklist_1_pairs_are_title_and_skills_of_one_advert_and_no_standard_title(esco):
    """Checklist 1 and 18: a training row has no standard title; its loader does not look for
    one."""
    assert [f.name for f in Ad.__dataclass_fields__.values()] == ["id", "title", "skills"]
    cfg = config("data.max_skill_len=128")
    ads = load_data(cfg).ads
    batch = AdPairs(ads, TOKENIZER, cfg.data, 0)[[(3, 0), (9, 0)]]
    assert set(batch) == {"title", "skills", "duplicates", "ids"}
    assert words_of(batch, "title") == [ads[3].title, ads[9].title]
    for text, ad in zip(words_of(batch, "skills"), (ads[3], ads[9]), strict=True):
        assert set(text.split(", ")) <= set(ad.skills)


def test_checklist_1_labels_in_a_training_file_change_nothing(tmp_path):
    """Checklist 1: `normalized_title` in a training row is never read."""
    rows = [{"title": f"title {i}", "skills": ["a b", "c d", f"e {i}"]} for i in range(4)]
    test = [{"title": "asked", "skills": ["x"], "normalized_title": "gold"}]
    words = write_files(tmp_path, rows, test)
    plain = load_data(config(*words)).ads
    write_jsonl(tmp_path / "train.jsonl", [{**row, "normalized_title": "gold"} for row in rows])
    assert load_data(config(*words)).ads == plain


def test_checklist_5_skills_are_shuffled_at_every_draw_and_sorted_in_evaluation():
    """Checklist 5: orders differ between epochs, repeat with the seed, and average out."""
    cfg = config("data.max_skills=4")
    ad = Ad("1", "cook", tuple(f"skill{c}" for c in "abcdef"))
    draws = [AdPairs([ad], TOKENIZER, cfg.data, 5).skills(0, epoch) for epoch in range(300)]
    assert draws == [AdPairs([ad], TOKENIZER, cfg.data, 5).skills(0, e) for e in range(300)]
    assert {len(d) for d in draws} == {4}
    for skill in ad.skills:  # first in a sixth of the draws, shown in two thirds
        assert sum(d[0] == skill for d in draws) / 300 == pytest.approx(1 / 6, abs=0.08)
        assert sum(skill in d for d in draws) / 300 == pytest.approx(2 / 3, abs=0.1)
    encoder = build_encoder(cfg).eval()
    actual = encoder.encode_skills([ad.skills, ad.skills[::-1]])
    assert torch.equal(actual[0], actual[1])


@pytest.mark.slow
def test_checklist_6_the_title_does_not_occur_in_the_skills(esco):
    """Checklist 6: neither an advert's title nor, in the benchmark, the standard title."""
    assert without_title(["repair nurse uniforms", "nurse", "nursery"], ["Nurse"]) == (
        "repair uniforms",
        "nursery",
    )
    for ad in esco.ads[::7]:
        assert not contains(ad.skills, ad.title), ad
    for row in esco.test.rows[::3]:
        assert not contains(row.skills, row.title), row
        assert not contains(row.skills, row.gold), row


def contains(skills, title):
    expected = f" {' '.join(title_key(title).split())} "
    return any(expected in f" {title_key(skill)} " for skill in skills)


def test_checklist_7_adverts_without_enough_skills_are_dropped_and_counted():
    """Checklist 7, and the other filters of the sheet: each has its count."""
    data = replace(config().data, min_skills=2, max_ads_per_title=2)
    ads = [
        Ad("0", "baker", ("dough", "ovens")),
        Ad("1", "ab", ("dough", "ovens")),  # title too short
        Ad("2", "nurse", ("drugs", "Drugs", "nurse")),  # one skill is left
        Ad("3", "Baker", ("dough", "bread")),
        Ad("4", " baker ", ("dough", "cakes")),  # beyond the cap
        Ad("5", "asked", ("x y", "z")),  # a test row
    ]
    kept, counts = usable_ads(ads, data, [TitleRow("Asked", "gold", ("z", "x y"))])
    assert [ad.id for ad in kept] == ["0", "3"]
    assert counts == {
        "train_ads": 2,
        "dropped_short_title": 1,
        "dropped_few_skills": 1,
        "dropped_title_cap": 1,
        "dropped_test_ads": 1,
    }


def test_checklist_10_test_adverts_are_not_trained_on(esco, tmp_path):
    """Checklist 10: by id, and by title with skills; of the occupations no title is in both."""
    train = [{"id": i, "title": f"t{i} x", "skills": ["a", "b", f"c{i}"]} for i in range(5)]
    test = [
        {"id": 3, "title": "other", "skills": ["q"], "normalized_title": "gold"},
        {"id": 99, "title": "T4 X", "skills": ["c4", "b", "a"], "normalized_title": "gold"},
    ]
    sets = load_data(config(*write_files(tmp_path, train, test)))
    assert [ad.id for ad in sets.ads] == ["0", "1", "2"]
    assert sets.counts["dropped_test_ads"] == 2
    trained = {title_hash(ad.title) for ad in esco.ads}
    assert not trained & {title_hash(row.title) for row in (*esco.test.rows, *esco.dev.rows)}
    assert {len(rows) for rows in esco.test.parts.values()} == {2500}
    asked = {title_hash(row.title) for row in esco.test.rows}
    assert len(asked) == 5000
    assert not asked & {title_hash(row.title) for row in esco.dev.rows}


@pytest.mark.parametrize("clean", [False, True])
def test_checklist_10_a_test_row_is_known_again_after_its_title_was_cleaned(clean, tmp_path):
    """Checklist 10: cleaned training titles were compared with raw test titles, and trained on."""
    skills = ["a", "b", "c"]
    train = [{"title": "Nurse (m/f/d)", "skills": skills}, {"title": "baker", "skills": skills}]
    test = [{"title": "Nurse (m/f/d)", "skills": skills, "normalized_title": "gold"}]
    words = [*write_files(tmp_path, train, test), f"data.clean_titles={clean}"]
    sets = load_data(config(*words))
    assert [ad.title for ad in sets.ads] == ["baker"]
    assert sets.counts["dropped_test_ads"] == 1


def test_checklist_8_development_rows_without_a_candidate_are_counted(tmp_path):
    """Checklist 8: without a list the candidates are the test rows' standard titles."""
    train = [{"title": f"t{i} x", "skills": ["a", "b", f"c{i}"]} for i in range(5)]
    test = [{"title": "other", "skills": ["q"], "normalized_title": "gold"}]
    dev = [{"title": "some", "skills": ["q"], "normalized_title": name} for name in ("gold", "tin")]
    words = write_files(tmp_path, train, test)
    write_jsonl(tmp_path / "dev.jsonl", dev)
    assert load_data(config(*words)).counts["dev_rows_without_candidate"] == 0
    sets = load_data(config(*words, "data.dev=dev.jsonl"))
    assert (len(sets.benchmark("dev").rows), sets.counts["dev_rows_without_candidate"]) == (1, 1)


def test_checklist_6_skills_of_a_test_file_do_not_name_its_titles(tmp_path):
    """Checklist 6: only training adverts were cut; a row that named its answer kept it. Counted."""
    rows = [
        {
            "title": "chef (m/f/d)",
            "skills": ["Cook", "assist chefs", "knives"],
            "other_skills": {"sibling_skills": ["cook", "ovens"]},
            "normalized_title": "cook",
        },
        {"title": "clerk", "skills": ["cooking", "files"], "normalized_title": "office clerk"},
    ]
    train = [
        {"title": "chef (m/f/d)", "skills": rows[0]["skills"]},  # the row as its file has it
        {"title": "a title", "skills": ["a", "b", "c"]},
    ]
    words = [*write_files(tmp_path, train, rows), "data.clean_titles=true", "data.min_skills=2"]
    sets = load_data(config(*words))
    assert [row.skills for row in sets.test.rows] == [("assist", "knives"), ("cooking", "files")]
    assert sets.test.rows[0].others == {"sibling_skills": ("ovens",)}
    assert sets.counts["test_rows_with_title_in_skills"] == 1
    assert [ad.title for ad in sets.ads] == ["a title"]


@pytest.mark.slow
def test_bundled_parts_do_not_depend_on_the_seed_but_the_training_draw_does(esco):
    """Design of the mini: test and training skills come from different sentences."""
    a, b = (load_data(config("data.limit=500", f"seed={s}", name="mini")) for s in (1, 2))
    assert a.test.rows == b.test.rows == esco.test.rows
    assert a.ads != b.ads
    assert len(a.ads) == len(b.ads) == 500
    zero = [esco.test.rows[i] for i in esco.test.parts["zero_overlap"]]
    assert not any(set(r.title.lower().split()) & set(r.gold.lower().split()) for r in zero)
    own = {row.title: row for row in zero if row.skills}
    assert all(bool(row.skills) or not row.others["sibling_skills"] for row in zero)
    assert sum(row.others["sibling_skills"] != row.skills for row in own.values()) > 0.95 * len(own)


def test_hashes_are_of_titles_without_case_and_of_sets_of_skills():
    """Checklist 3: lower case and stripped; skills in any order; below 2**62 and equal
    everywhere."""
    assert title_hash(" Data  Engineer") == title_hash("data engineer") != title_hash("engineer")
    assert skills_hash(["b", "A"]) == skills_hash(["a", "B", "b"]) != skills_hash(["ab"])
    assert title_hash("nurse") == 265899382957354748  # the same in every process and version
    ads = [Ad("0", "Baker", ("a", "b")), Ad("1", "baker ", ("c", "d")), Ad("2", "cook", ("b", "a"))]
    rows = AdPairs(ads, TOKENIZER, config().data, 0)[[(0, 0), (1, 0), (2, 0)]]["duplicates"]
    assert rows[0, 0] == rows[1, 0] != rows[2, 0]
    assert rows[0, 1] == rows[2, 1] != rows[1, 1]


@pytest.mark.parametrize(
    ("title", "wanted"),
    [
        ("Java Developer (m/f/d)", "Java Developer"),
        ("Nurse $30 - $40 per hour", "Nurse"),
        ("Cook - San Jose, CA", "Cook"),
        ("Driver #4711 \U0001f69a", "Driver"),
        ("C++ engineer", "C++ engineer"),
        ("Clerk (ref: A-12)", "Clerk"),
        ("#4711", "#4711"),
        ("Cook - San Jose, CA(m/f/d)", "Cook"),
    ],
)
def test_titles_are_cleaned_the_same_in_training_and_after_it(title, wanted):
    """Pitfalls: one function for both; nothing is ever cleaned away altogether."""
    assert clean_title(title) == clean_title(wanted) == wanted
    cfg = config("data.clean_titles=true")
    kept, _ = usable_ads([Ad("0", title, ("a", "b", "c"))], cfg.data)
    assert [ad.title for ad in kept] == [wanted]
    encoder = build_encoder(cfg).eval()
    assert torch.equal(*encoder.encode_titles([title, wanted]))


def test_files_that_lack_something_say_what_to_do(tmp_path):
    rows = [{"title": "a title", "description": "we need SQL"}]
    test = [{"title": "asked", "skills": ["x"], "normalized_title": "gold"}]
    words = write_files(tmp_path, rows, test)
    with pytest.raises(UserError, match="TASK=extract"):
        load_data(config(*words))
    write_jsonl(tmp_path / "train.jsonl", [{"title": "a title", "skills": ["SQL"]}])
    with pytest.raises(UserError, match=r"data\.min_skills"):
        training_data(config(*words), build_encoder(config()))
    for bad in ({"title": "a title", "skills": "SQL"}, {"title": None, "skills": ["SQL"]}):
        write_jsonl(tmp_path / "train.jsonl", [rows[0] | {"skills": ["SQL"]}, bad])
        with pytest.raises(UserError, match=r"train\.jsonl, row 2: titles are strings"):
            load_data(config(*words))
    write_jsonl(tmp_path / "test.jsonl", [test[0] | {"skills": "SQL"}])
    with pytest.raises(UserError, match=r"test\.jsonl, row 1: titles are strings"):
        load_data(config(*words))
    for bad, message in (
        ("data.source=files", r"data\.train"),
        ("data.max_skills=2", "max_skills"),
        ("data.min_skills=0", r"data\.min_skills must be >= 1"),
        ("eval.beta=1.5", r"eval\.beta must be in"),
    ):
        with pytest.raises(UserError, match=message):
            config(bad)
