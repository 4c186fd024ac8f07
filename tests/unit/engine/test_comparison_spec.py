"""compare.yaml: what is read, what is refused, which arms and seeds run."""

import subprocess
import sys

import pytest

from common.config import ROOT, UserError
from common.engine.comparison import spec as spec_module
from common.engine.comparison.claims import claims_of
from common.engine.comparison.spec import (
    choose_arms,
    choose_comparisons,
    choose_seeds,
    read_comparison,
    read_comparisons,
)
from common.registry import list_projects


@pytest.fixture
def read(tmp_path, monkeypatch):
    """`read(text)` are the comparisons of a compare.yaml of dcl."""
    monkeypatch.setattr(spec_module, "CONFIG_DIR", tmp_path)
    (tmp_path / "dcl").mkdir()

    def read(text):
        (tmp_path / "dcl/compare.yaml").write_text("metric: m\n" + text)
        return read_comparisons("dcl")

    return read


ARMS = "arms: {a: {}, b: {x.y: 1}, c: {}}\n"


def test_claims_have_fields(read):
    text = (
        ARMS
        + """
shared: {s.t: 2}
seeds: [4, 5]
margin: 0.1
claims:
  - {left: a, right: b, paper: "table 1", metric: recall, at_least: 0.05}
  - {left: a, right: c, margin: 0}
  - {left: a, right: [b, 0.5], direction: min}
appendix:
  - {left: c, right: a, metric: cost, direction: min}
"""
    )
    (spec,) = read(text)
    assert spec.arms["b"] == {"s.t": 2, "x.y": 1}
    first, second, third, fourth = claims_of(spec)
    assert first.text == "a > b in recall by at least 0.05"
    assert (first.metric, first.threshold, first.paper) == ("recall", 0.05, "table 1")
    assert (second.sign, second.threshold, second.maximise) == (1.0, 0.0, True)
    assert (third.text, third.sign, third.threshold) == ("a < b and a < 0.5", -1.0, -0.1)
    assert (third.arms, third.maximise) == (["a", "b"], False)
    assert [claim.appendix for claim in claims_of(spec)] == [False, False, False, True]
    assert fourth.text == "c < a in cost"


def test_a_function_of_the_project_makes_the_sides(read):
    rates = "arms: {dcl@lr1: {}, dcl@lr2: {}, infonce@lr1: {}, infonce@lr2: {}}\n"
    entry = "left: [dcl@lr1, dcl@lr2], right: [infonce@lr1, infonce@lr2], text: rates"
    (spec,) = read(f"{rates}claims: [{{{entry}, function: means}}]")
    (claim,) = claims_of(spec)
    values = {"dcl@lr1": 4.0, "dcl@lr2": 6.0, "infonce@lr1": 1.0, "infonce@lr2": 5.0}
    assert claim.parts(values) == {"rates": (5.0, 3.0)}
    with pytest.raises(UserError, match="no function 'mean' in .*claims.py; did you mean 'means'"):
        read(f"{rates}claims: [{{{entry}, function: mean}}]")


@pytest.mark.parametrize("project", list_projects())
def test_every_comparison_can_be_read(project):
    """Arms are known, claims run by default, functions exist and have a number for each side."""
    for spec in read_comparisons(project):
        assert len(spec.arms) >= 2
        claims = claims_of(spec)
        assert not all(claim.appendix for claim in claims)
        values = {name: 0.1 * i for i, name in enumerate([*spec.arms, *spec.baselines])}
        for claim in claims:
            parts = claim.parts({arm: values[arm] for arm in claim.arms})
            assert all(float(side) == side for sides in parts.values() for side in sides)


def test_further_comparisons_inherit_what_they_do_not_name(read):
    text = (
        ARMS
        + """
seeds: [4, 5]
claims: [{left: a, right: b}]
more:
  transfer: {metric: other, direction: min, arms: {d: {}, e: {}}, claims: [{left: d, right: e}]}
"""
    )
    main, more = read(text)
    assert (more.name, more.metric, more.seeds, list(more.arms)) == (
        "transfer",
        "other",
        [4, 5],
        ["d", "e"],
    )
    assert [c.text for c in claims_of(more)] == ["d < e"]
    assert choose_arms([main, more], []) == [["a", "b", "c"], ["d", "e"]]
    assert choose_arms([main, more], ["e"]) == [[], ["e"]]
    assert choose_arms([main, more], ["full"]) == [list(main.arms), list(more.arms)]
    with pytest.raises(UserError, match="no arm 'f'"):
        choose_arms([main, more], ["f"])


def test_an_arm_of_that_name_goes_before_every_arm(read):
    (spec,) = read("arms: {full: {}, none: {}}\nclaims: [{left: full, right: none}]\n")
    assert choose_arms([spec], ["full"]) == [["full"]]
    assert choose_arms([spec], ["all"]) == [["full", "none"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ARMS + "claims: [{left: a, right: d}]", "claim 'a > d': no arm 'd'"),
        (
            ARMS + "claims: [{left: a, right: b, papr: x}]",
            "unknown key 'papr'; did you mean 'paper'",
        ),
        (ARMS + "claims: [{paper: x}]", "no value for left, right"),
        (ARMS + "claims: [a > b]", "claim 'a > b': write {left: ..., right: ...}"),
        (ARMS + "claims: [{left: [a, b], right: c}]", "several need a function"),
        (
            ARMS + "claims: [{left: a, right: b, function: means}]",
            "function and text come together",
        ),
        (ARMS + "claims: [{left: a, right: b, margin: -1}]", "must be >= 0"),
        (ARMS + "default_arms: [a, d]", "default_arms: no arm 'd'"),
        (ARMS + "default_arms: [a]\nclaims: [{left: a, right: b}]", "'b' does not run by default"),
        (ARMS + "seeds: []", "seeds must be distinct"),
        (ARMS + "seeds: [1, 1]", "seeds must be distinct"),
        (ARMS + "seed: [1]", "unknown key 'seed'; did you mean 'seeds'"),
        ("arms: {'a b': {}}", "'a b' can't be the name"),
        (ARMS + "bounds: [raw_pixels]", "bounds: no baseline 'raw_pixels'"),
        (ARMS + "baselines: [raw_pixel]", "no baseline 'raw_pixel'.*did you mean 'raw_pixels'"),
        ("arms: {chance: {}}\nbaselines: [chance]", "'chance' is an arm and a baseline"),
        (ARMS + "more: {x: {clams: []}}", "more.x: unknown key 'clams'"),
        ("arms: {a: [", "compare.yaml is not valid YAML"),
    ],
)
def test_mistakes_are_named(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text)


def test_optional_arms_may_be_claimed_in_the_appendix(read):
    text = ARMS + "default_arms: [a]\nappendix: [{left: a, right: b}]"
    (claim,) = claims_of(read(text)[0])
    assert claim.appendix


def test_baselines_of_the_project_stand_beside_the_arms(read):
    (spec,) = read(ARMS + "baselines: [raw_pixels, chance]\nclaims: [{left: a, right: raw_pixels}]")
    assert claims_of(spec)[0].arms == ["a", "raw_pixels"]


def test_seeds_are_counted_from_those_of_the_file(read):
    (spec,) = read(ARMS + "seeds: [4, 5, 6]")
    assert choose_seeds(spec, None) == [4, 5, 6]
    assert choose_seeds(spec, "2") == [4, 5]
    assert choose_seeds(spec, "10,11") == [10, 11]
    assert choose_seeds(spec, "10,") == [10]
    for asked in ("0", "4", "x", "1,1", ""):
        with pytest.raises(UserError, match="SEEDS="):
            choose_seeds(spec, asked)


def test_a_project_without_a_file_is_named():
    with pytest.raises(UserError, match="has no compare.yaml"):
        read_comparison("absent")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "infonce@lr9"], "did you mean 'infonce@lr"),
        (["--seeds", "99"], "compare.yaml has the seeds"),
    ],
)
def test_arms_and_seeds_are_refused_before_torch_is_imported(words, message):
    program = (
        "import sys; from common.cli import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "compare", "dcl", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (2, "False")
    assert message in done.stderr


def test_one_of_several_comparisons_is_named(read):
    specs = read(
        ARMS + "claims: [{left: a, right: b}]\n"
        "more: {late: {arms: {a: {}, b: {}}, claims: [{left: b, right: a}]}}"
    )
    assert choose_comparisons(specs, "") == specs
    assert choose_comparisons(specs, "main") == specs[:1]
    assert choose_comparisons(specs, "late") == specs[1:]
    with pytest.raises(UserError, match="ONLY=lata: no such comparison; there are main, late"):
        choose_comparisons(specs, "lata")
