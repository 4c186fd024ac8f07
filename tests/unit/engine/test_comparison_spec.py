"""compare.yaml: what is read, what is refused, which arms and seeds run."""

import subprocess
import sys

import pytest

from common.config import ROOT, UserError
from common.engine.comparison import spec as spec_module
from common.engine.comparison.spec import (
    choose_arms,
    choose_comparisons,
    choose_seeds,
    claims_of,
    read_comparison,
    read_comparisons,
)


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


def test_the_short_form_still_loads(read):
    """As every compare.yaml was before: chains, own metrics and margins, claims on optional arms."""
    text = ARMS + "default_arms: [a, b]\nclaims: [a > b, 'a > c (recall, margin 0.01)', a > b > c]"
    (spec,) = read(text)
    claims = claims_of(spec)
    assert [c.text for c in claims] == ["a > b", "a > b", "a > c in recall - 0.01", "b > c"]
    assert [c.appendix for c in claims] == [False, False, True, True]
    assert (claims[2].metric, claims[2].threshold) == ("recall", -0.01)
    assert spec.seeds == [0, 1, 2]


def test_the_long_form(read):
    text = (
        ARMS
        + """
shared: {s.t: 2}
seeds: [4, 5]
margin: 0.1
claims:
  - {claim: a > b, paper: "table 1", metric: recall, at_least: 0.05}
  - claim: spread(a, c) < spread(b, c)
  - {claim: a < b, direction: min, margin: 0}
"""
    )
    (spec,) = read(text)
    assert spec.arms["b"] == {"s.t": 2, "x.y": 1}
    first, second, third = claims_of(spec)
    assert (first.metric, first.threshold, first.paper) == ("recall", 0.05, "table 1")
    assert (second.signs, second.threshold) == ((-1.0,), -0.1)
    assert (third.signs, third.threshold, third.maximise) == ((-1.0,), 0.0, False)


def test_further_comparisons_inherit_what_they_do_not_name(read):
    text = (
        ARMS
        + """
seeds: [4, 5]
claims: [{claim: a > b}]
more:
  transfer: {metric: other, direction: min, arms: {d: {}, e: {}}, claims: [{claim: d > e}]}
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
    (spec,) = read("arms: {full: {}, none: {}}\nclaims: [full > none]\n")
    assert choose_arms([spec], ["full"]) == [["full"]]
    assert choose_arms([spec], ["all"]) == [["full", "none"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ARMS + "claims: [a > d]", "claim 'a > d': no arm 'd'"),
        (ARMS + "claims: [{claim: a > b, papr: x}]", "unknown key 'papr'; did you mean 'paper'"),
        (ARMS + "claims: [{paper: x}]", "no value for claim"),
        (ARMS + "claims: [{claim: a > b, margin: -1}]", "must be >= 0"),
        (ARMS + "claims: [{claim: 1 > 2}]", "compares no arms"),
        (ARMS + "default_arms: [a, d]", "default_arms: no arm 'd'"),
        (ARMS + "default_arms: [a]\nclaims: [{claim: a > b}]", "'b' does not run by default"),
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
    text = ARMS + "default_arms: [a]\nappendix: [{claim: a > b}]"
    (claim,) = claims_of(read(text)[0])
    assert claim.appendix


def test_baselines_of_the_project_stand_beside_the_arms(read):
    (spec,) = read(ARMS + "baselines: [raw_pixels, chance]\nclaims: [{claim: a > raw_pixels}]")
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
    specs = read(ARMS + "claims: [a > b]\nmore: {late: {arms: {a: {}, b: {}}, claims: [b > a]}}")
    assert choose_comparisons(specs, "") == specs
    assert choose_comparisons(specs, "main") == specs[:1]
    assert choose_comparisons(specs, "late") == specs[1:]
    with pytest.raises(UserError, match="ONLY=lata: no such comparison; there are main, late"):
        choose_comparisons(specs, "lata")
