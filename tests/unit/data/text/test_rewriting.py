"""The LLM text transform: seeded sampling, batches, restart, settings."""

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.lookup import bundled
from common.data.samplers import sample_rng
from common.data.text.rewriting import (
    Decoding,
    LineGenerator,
    SeededNucleusSampling,
    one_line,
    read_lines,
    transform_lines,
)


def rng(i=0):
    return sample_rng(0, 0, i)


def echo(prompts, rngs):
    """A stand-in generator: a number from the line's own generator, then the prompt."""
    return [f"{int(r.integers(1000))} {p}" for p, r in zip(prompts, rngs, strict=True)]


def run(source, target, generate=echo, batch_size=4, seed=1, **settings):
    return transform_lines(
        read_lines(source),
        target,
        make_prompt=lambda text, r: f"{text} ({int(r.integers(100))})",
        generate=generate,
        parse=lambda completion, text: completion + "\nsecond line",
        batch_size=batch_size,
        seed=seed,
        settings=settings,
    )


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"caption number {i}\n" for i in range(11)), encoding="utf-8")
    return path


def test_one_line_per_line_in_order_without_line_breaks(captions, tmp_path):
    assert run(captions, tmp_path / "out.txt") == 11
    lines = read_lines(tmp_path / "out.txt")
    assert len(lines) == 11
    for i, line in enumerate(lines):
        assert f"caption number {i} (" in line
        assert line.endswith("second line")
    assert one_line(" a\n b\tc ") == "a b c"


def test_lines_depend_on_seed_and_index_not_on_the_batch(captions, tmp_path):
    run(captions, tmp_path / "a.txt", batch_size=4)
    run(captions, tmp_path / "b.txt", batch_size=11)
    run(captions, tmp_path / "c.txt", seed=2)
    a, b, c = (read_lines(tmp_path / f"{n}.txt") for n in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("content", ["", "one line without end", "two\nlines\n", "\n\n"])
def test_number_of_lines_is_kept(tmp_path, content):
    (tmp_path / "in.txt").write_text(content, encoding="utf-8")
    count = len(read_lines(tmp_path / "in.txt"))
    assert run(tmp_path / "in.txt", tmp_path / "out.txt") == count
    assert (tmp_path / "out.txt").read_bytes().count(b"\n") == count


def test_too_many_lines_in_the_target_are_an_error(captions, tmp_path):
    run(captions, tmp_path / "out.txt")
    with (tmp_path / "out.txt").open("a", encoding="utf-8") as file:
        file.write("one more\n")
    with pytest.raises(UserError, match="12 lines, more than the 11 texts"):
        run(captions, tmp_path / "out.txt")


def test_missing_source_and_bad_decoding_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="expected one text a line"):
        run(tmp_path / "none.txt", tmp_path / "out.txt")
    for options in ({"temperature": 0}, {"top_p": 1.5}, {"max_new_tokens": 0}):
        with pytest.raises(UserError, match="decoding needs"):
            Decoding(**options)


def test_a_failing_generator_keeps_what_was_written(captions, tmp_path):
    """Lines before a crash stay, a second start finishes the file."""

    def broken(prompts, rngs):
        if "number 8" in prompts[0]:
            raise RuntimeError("out of memory")
        return echo(prompts, rngs)

    with pytest.raises(RuntimeError):
        run(captions, tmp_path / "out.txt", broken)
    assert len(read_lines(tmp_path / "out.txt")) == 8
    run(captions, tmp_path / "out.txt")
    run(captions, tmp_path / "other.txt")
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "other.txt").read_bytes()


@pytest.mark.parametrize("change", [{"seed": 2}, {"batch_size": 3}, {"model": "another"}])
def test_other_settings_do_not_continue_a_file(captions, tmp_path, change):
    run(captions, tmp_path / "out.txt")
    with pytest.raises(UserError, match="not made with these settings"):
        run(captions, tmp_path / "out.txt", **change)


def test_another_source_does_not_continue_a_file(captions, tmp_path):
    run(captions, tmp_path / "out.txt")
    captions.write_text("something else\n", encoding="utf-8")
    with pytest.raises(UserError, match="not made with these settings"):
        run(captions, tmp_path / "out.txt")


def test_nucleus_draws_follow_the_truncated_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    sampler = SeededNucleusSampling([np.random.default_rng(0)], temperature=1.0, top_p=0.8)
    drawn = [
        int(sampler(torch.zeros(1, 1), probabilities.log()[None]).argmax()) for _ in range(4000)
    ]
    share = np.bincount(drawn, minlength=4) / 4000
    assert share[2] == share[3] == 0  # 0.5 + 0.3 reach the nucleus
    assert abs(share[0] - 0.625) < 0.03


def stories(decoding):
    return LineGenerator.from_pretrained(str(bundled("models/stories260k")), decoding, "cpu")


def test_rows_of_a_batch_do_not_influence_each_other():
    """A line's tokens depend on its own seed only, whatever it is batched with."""
    generate = stories(Decoding(max_new_tokens=12, prompt_budget=64))
    prompts = ["Once upon a time", "The dog saw a big red ball and", "Tom"]
    joint = generate(prompts, [rng(i) for i in range(3)])
    alone = [generate([p], [rng(i)])[0] for i, p in enumerate(prompts)]
    assert joint == alone
    assert joint != generate(prompts, [rng(i + 7) for i in range(3)])
    assert not any("\n" in text.strip() for text in joint)


def test_over_long_prompts_are_cut_and_end_in_the_arrow():
    generate = stories(Decoding(max_new_tokens=4, prompt_budget=50, cut_suffix=" =>"))
    short = "a small cat =>"
    assert generate.fit(short) == short
    cut = generate.fit("once upon a time there was a cat " * 30 + "=>")
    assert cut.endswith(" =>")
    assert len(generate.tokenizer(cut)["input_ids"]) <= 50
    with pytest.raises(UserError, match="context of 512"):
        stories(Decoding(prompt_budget=500, max_new_tokens=77))
