"""The rewrite stage: prompts, parser, restart, and a real (tiny) language model."""

from collections import Counter

import pytest

from common.config import UserError
from common.data.samplers import sample_rng
from common.data.text.rewriting import read_lines, transform_lines
from projects.laclip.config import RewriteConfig
from projects.laclip.rewrite import (
    ARROW,
    INSTRUCTION,
    build_prompt,
    demonstrations,
    meta_pairs,
    parse_rewrite,
    rewrite_file,
)

TYPES = ("chatgpt", "bard", "mscoco", "human")


def rng(i=0):
    return sample_rng(0, 0, i)


@pytest.mark.parametrize("source_type", TYPES)
def test_item_11_prompt_has_three_demonstrations_of_one_type(source_type):
    """Item 11: exactly three, of one source type, without replacement, resampled per caption."""
    sentences = {other: {s for entry in meta_pairs()[other] for s in entry} for other in TYPES}
    seen = set()
    for i in range(40):
        lines = build_prompt("a cat\non a  mat", source_type, rng(i)).split("\n")
        assert lines[0] == INSTRUCTION
        assert lines[1:8:2] == [""] * 4
        assert lines[8] == f"a cat on a mat {ARROW}"
        assert len(lines) == 9
        pairs = [line.split(f" {ARROW} ") for line in lines[2:8:2]]
        assert all(len(pair) == 2 and pair[0] != pair[1] for pair in pairs)
        assert {s for pair in pairs for s in pair} <= sentences[source_type]
        assert len({pair[0] for pair in pairs}) == 3
        seen.add(tuple(pair[0] for pair in pairs))
    assert len(seen) > 30
    assert build_prompt("x", source_type, rng()) == build_prompt("x", source_type, rng())


def test_item_11_mscoco_pairs_are_two_captions_of_one_scene():
    """Item 11: source and target of an mscoco demonstration describe the same scene."""
    groups = meta_pairs()["mscoco"]
    for i in range(30):
        for pair in demonstrations("mscoco", rng(i)):
            assert any(set(pair) <= set(group) for group in groups)


def test_item_11_material_has_sixteen_pairs_and_groups_of_five():
    """Item 11: 16 pairs per source type, 18 scenes with five captions, no sentence twice."""
    material = meta_pairs()
    assert {t: len(material[t]) for t in TYPES} == {
        "chatgpt": 16, "bard": 16, "human": 16, "mscoco": 18,
    }  # fmt: skip
    assert {len(group) for group in material["mscoco"]} == {5}
    every = Counter(s for t in TYPES for entry in material[t] for s in entry)
    assert max(every.values()) == 1
    assert not any(ARROW in s or "\n" in s for s in every)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (" a dog runs\nmore => text", "a dog runs"),
        (" a dog runs => a dog", "a dog runs"),
        ("\n a dog runs ", "a dog runs"),
        ("", "the original"),
        (" dog", "the original"),
        (" => a dog runs", "the original"),
    ],
)
def test_item_11_parser_never_returns_prompt_text(completion, expected):
    """Item 11: only what follows the prompt counts; empty or one word falls back to the caption."""
    assert parse_rewrite(completion, "the original") == expected


def test_item_11_arrow_inside_a_caption_does_not_break_the_prompt_or_parser():
    """Item 11: a caption that holds an arrow or line breaks still ends the prompt with one."""
    prompt = build_prompt("left => right\nsign", "bard", rng())
    assert prompt.endswith("left => right sign =>")
    assert parse_rewrite(" a sign", "left => right sign") == "a sign"


def test_item_12_sources_and_alias():
    """Item 12: chatgpt, bard, mscoco, human are selectable, coco is mscoco, others are refused."""
    assert demonstrations("coco", rng()) == demonstrations("mscoco", rng())
    assert len({tuple(demonstrations(t, rng())) for t in TYPES}) == 4
    with pytest.raises(UserError, match="source_type 'llama'"):
        demonstrations("llama", rng())


def echo(prompts, rngs):
    """A stand-in generator: number drawn by the line's own generator, then the caption."""
    captions = [p.rsplit("\n", 1)[-1].removesuffix(f" {ARROW}") for p in prompts]
    return [f" {int(r.integers(1000))} {c}\nrest" for c, r in zip(captions, rngs, strict=True)]


def run(source, target, generate=echo, batch_size=4, seed=1, **settings):
    return transform_lines(
        read_lines(source),
        target,
        make_prompt=lambda text, r: build_prompt(text, "human", r),
        generate=generate,
        parse=parse_rewrite,
        batch_size=batch_size,
        seed=seed,
        settings=settings,
    )


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"caption number {i}\n" for i in range(11)), encoding="utf-8")
    return path


@pytest.mark.parametrize("kept_bytes", [0, 1, 60, 137])
def test_item_13_restart_continues_after_the_last_complete_line(captions, tmp_path, kept_bytes):
    """Item 13: stopped anywhere, half a line included, the final file is the uninterrupted one."""
    assert run(captions, tmp_path / "full.txt") == 11
    full = (tmp_path / "full.txt").read_bytes()
    lines = full.decode().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [f"caption number {i}" for i in range(11)]
    calls = []

    def counted(prompts, rngs):
        calls.append(len(prompts))
        return echo(prompts, rngs)

    run(captions, tmp_path / "part.txt")
    (tmp_path / "part.txt").write_bytes(full[:kept_bytes])
    done = full[:kept_bytes].count(b"\n")
    assert run(captions, tmp_path / "part.txt", counted) == 11 - done
    assert (tmp_path / "part.txt").read_bytes() == full
    assert sum(calls) == 11 - done + done % 4
    assert run(captions, tmp_path / "part.txt", counted) == 0


def test_missing_input_is_named(tmp_path):
    cfg = RewriteConfig(input=str(tmp_path / "none.txt"), output=str(tmp_path / "out.txt"))
    with pytest.raises(UserError, match=r"none\.txt"):
        rewrite_file(cfg)
    with pytest.raises(UserError, match=r"rewrite\.input"):
        rewrite_file(RewriteConfig())
    assert not (tmp_path / "out.txt").exists()


def test_model_that_is_not_there_is_a_user_error(captions, tmp_path):
    cfg = RewriteConfig(
        input=str(captions), output=str(tmp_path / "out.txt"), model=str(tmp_path / "nothing")
    )
    with pytest.raises(UserError):
        rewrite_file(cfg)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="cannot load a causal LM"):
        rewrite_file(cfg)


def test_rewrite_task_end_to_end_and_restarted(captions, tmp_path):
    """Item 13 with a real LM: a stopped file continues to the same bytes; one line per input line."""

    def cfg(name):
        return RewriteConfig(
            input=str(captions), output=str(tmp_path / name), max_new_tokens=8, batch_size=4,
            device="cpu",
        )  # fmt: skip

    assert rewrite_file(cfg("full.txt")) == 11
    full = (tmp_path / "full.txt").read_bytes()
    assert full.count(b"\n") == 11
    assert INSTRUCTION not in full.decode()
    rewrite_file(cfg("part.txt"))
    (tmp_path / "part.txt").write_bytes(full[: full.index(b"\n") + 5])
    assert rewrite_file(cfg("part.txt")) == 10
    assert (tmp_path / "part.txt").read_bytes() == full


def test_captions_of_a_csv_are_rewritten_row_by_row(official, tmp_path):
    """Item 13: a CSV gives one rewrite per image row, so that the file fits the loader."""
    from common.data.image_text.captions import CaptionFiles

    cfg = RewriteConfig(
        input=str(official / "toy/toy.csv"), output=str(official / "toy/toy_new.txt"),
        max_new_tokens=4, device="cpu",
    )  # fmt: skip
    assert rewrite_file(cfg) == 12
    assert len(CaptionFiles(official / "toy/toy.csv", [official / "toy/toy_new.txt"])) == 12
