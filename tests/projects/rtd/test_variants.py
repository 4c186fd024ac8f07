"""Families of drawings that differ in tone, gender or colour."""

import pytest

from projects.rtd.variants import family_of, family_split, tone_of


@pytest.mark.parametrize(
    ("name", "tone", "family"),
    [
        ("waving hand: light skin tone", "light", "waving hand"),
        ("waving hand", None, "waving hand"),
        ("woman running: medium-dark skin tone", "medium-dark", "running"),
        ("person running", None, "running"),
        ("blue heart", None, "heart"),
        ("woman", None, "woman"),
        ("man: dark skin tone", "dark", "man"),
    ],
)
def test_name_without_its_attributes(name, tone, family):
    assert (tone_of(name), family_of(name)) == (tone, family)


def test_all_members_of_a_family_are_on_one_side_and_both_sides_occur():
    members = [
        f"{who} running{tone}"
        for who in ("man", "woman", "person")
        for tone in ("", ": dark skin tone", ": light skin tone")
    ]
    assert len({family_split(name) for name in members}) == 1
    assert {family_split(f"thing {i}") for i in range(20)} == {"train", "test"}
