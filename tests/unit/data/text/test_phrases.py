"""Dictionary matches, clauses, removal of phrases; the bundled occupations."""

from common.data.occupations import load_occupations, load_skill_labels


def test_bundled_occupations_and_skills():
    """2,607 distinct titles; no alternative title repeats its preferred one."""
    actual = load_occupations()
    assert len({o.title.casefold() for o in actual}) == len(actual) == 2607
    assert all(o.title.casefold() not in {t.casefold() for t in o.other_titles} for o in actual)
    labels = load_skill_labels()
    assert len(labels) > 20_000
    assert labels["sport and exercise medicine"] == "sport and exercise medicine"
    # an alternative label in the row of "act as contact person during equipment incident"
    assert labels["inspect offshore constructions"] == "inspect offshore constructions"
