"""Programs pass when they reach their end, as in the official harness."""

import pytest

from projects.contrastive_search.programs import passes

RIGHT = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return x\n"
CHECK = "\nassert f(1) == 2\n"


@pytest.mark.parametrize(
    "ending", ["import sys; sys.exit(0)", "raise SystemExit", "import os; os._exit(0)"]
)
def test_a_program_that_ends_before_its_tests_fails(ending):
    assert not passes(WRONG + ending + CHECK)


def test_no_program_is_the_main_one():
    """What waits for input there does not run."""
    main = 'if __name__ == "__main__":\n    print(f(int(input())))\n'
    assert passes(RIGHT + main + CHECK)
    assert not passes(WRONG + main + CHECK)


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("\x00", False),
        ("\ud800", False),
        ("x = '\xe9'\nassert len(x) == 1", True),
        ("# coding: ascii\nx = '\xe9'", True),
        (f"x = '{'a' * 200_000}'\nassert len(x) == 200_000", True),
    ],
    ids=["nul", "surrogate", "accent", "cookie", "long"],
)
def test_any_text_is_a_program(program, wanted):
    """One that doesn't compile fails, and none is too long."""
    assert passes(program) is wanted


def test_what_a_program_starts_and_prints_is_left_alone():
    """Input is at its end, output goes nowhere, threads don't hold the answer up."""
    wait = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    assert passes(f"print('x' * 5_000_000)\n{wait}assert not open(0).read()")
