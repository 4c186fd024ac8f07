"""The rewrite stage: prompts, parser, restart, and a real (tiny) language model."""

import multiprocessing as mp
import os
import signal
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from common.config import UserError
from common.data.row_map.chunks import RowSeed
from common.data.row_map.options import RowMapConfig
from common.data.row_map.parts import Parts
from common.data.samplers import sample_rng
from common.decoding.options import Policy, ServerConfig
from common.engine.trained import run_task
from common.engine.workspace import Workspace
from projects.laclip import tasks
from projects.laclip.config import RewriteConfig
from projects.laclip.rewrite import (
    ARROW,
    INSTRUCTION,
    PROMPT_STREAM,
    TOKEN_STREAM,
    build_prompt,
    build_rewriter,
    copies,
    csv_captions,
    demonstrations,
    meta_pairs,
    parse_rewrite,
    rewrite_file,
)
from tests.completion_server import CompletionServer
from tests.projects.laclip.conftest import config

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
        "chatgpt": 16,
        "bard": 16,
        "human": 16,
        "mscoco": 18,
    }
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


def test_an_empty_caption_is_not_rewritten():
    """A blank line of the input stays one: what the model makes up is about nothing."""
    assert parse_rewrite(" a dog runs", "") == ""
    assert parse_rewrite(" a dog runs", "  ") == "  "


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


def run_cfg(source, target, **options):
    options = {"max_new_tokens": 8, "batch_size": 2, "device": "cpu", **options}
    return RewriteConfig(input=str(source), output=str(target), **options)


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"caption number {i}\n" for i in range(11)), encoding="utf-8")
    return path


def test_missing_input_is_named(tmp_path):
    cfg = RewriteConfig(input=str(tmp_path / "none.txt"), output=str(tmp_path / "out.txt"))
    with pytest.raises(UserError, match=r"none\.txt"):
        rewrite_file(cfg)
    with pytest.raises(UserError, match=r"rewrite\.input"):
        rewrite_file(RewriteConfig())
    assert not (tmp_path / "out.txt").exists()


def test_model_that_is_not_there_is_a_user_error(captions, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("nothing", "empty"):
        with pytest.raises(UserError, match=place):
            rewrite_file(run_cfg(captions, tmp_path / f"{place}.txt", model=str(tmp_path / place)))


def test_an_output_of_somebody_else_is_not_overwritten(captions, tmp_path):
    (tmp_path / "out.txt").write_text("precious")
    with pytest.raises(UserError, match="delete it or choose another output"):
        rewrite_file(run_cfg(captions, tmp_path / "out.txt"))
    assert (tmp_path / "out.txt").read_text() == "precious"


def test_a_caption_with_an_unquoted_comma_is_refused(tmp_path):
    """Guards against rewrites of captions that end at their first comma; quoted ones are whole."""
    table = tmp_path / "pairs.csv"
    table.write_text('a.jpg,"A red, round ball"\nb.JPG,A cat\n"c.png","two\nlines, here"\n')
    assert csv_captions(table) == (["A red, round ball", "two\nlines, here"], 1)
    rewrite_file(run_cfg(table, tmp_path / "out.txt"), Workspace(tmp_path / "w"))
    assert "1 of 3 rows" in (tmp_path / "w/notes.txt").read_text()
    table.write_text("a.jpg,A ball\nb.jpg,A red, round ball\n")
    with pytest.raises(UserError, match=r"line 2: 3 cells.*'A red' alone.*quotes"):
        rewrite_file(run_cfg(table, tmp_path / "other.txt"))


def test_copies_among_the_rewrites_are_counted(captions, tmp_path, monkeypatch):
    """Guards against a file of rewrites that are the captions themselves, without a word."""
    answers = iter(["", "some other words"] + [" a rewrite of it"] * 9)
    monkeypatch.setattr(
        "common.decoding.generators.text_generator",
        lambda *args, **options: lambda prompts, rngs, most: [next(answers) for _ in prompts],
    )
    rewrite_file(run_cfg(captions, tmp_path / "out.txt"), Workspace(tmp_path / "w"))
    assert "1 of 11 rewrites are the caption itself" in (tmp_path / "w/notes.txt").read_text()
    assert copies(["a b"] * 10, ["a b"] + ["c d"] * 9) == "1 of 10 rewrites are the caption itself"
    assert "larger rewrite.model" in copies(["a b"] * 9, ["a b"] + ["c d"] * 8)


def test_the_language_model_is_asked_as_the_config_says(captions, tmp_path, monkeypatch):
    """Kind of the demonstrations, policy, budget, the end of an answer; tokens have own draws."""
    asked, draws = {}, []

    def generator(model, policy, server, **options):
        asked.update(options, model=model, policy=policy, server=server)

        def generate(prompts, rngs, most):
            draws.extend(rng.random() for rng in rngs)
            asked.update(prompts=[p.text for p in prompts], most=most)
            return ["some other words"] * len(prompts)

        return generate

    monkeypatch.setattr("common.decoding.generators.text_generator", generator)
    options = {"top_p": 0.7, "temperature": 0.4, "prompt_budget": 99, "source_type": "coco"}
    cfg = run_cfg(captions, tmp_path / "out.txt", batch_size=20, seed=3, **options)
    rewrite = build_rewriter(cfg, ServerConfig())
    seeds = [RowSeed(3, i) for i in range(2)]
    assert rewrite(["one dog", "two cats"], seeds) == ["some other words"] * 2
    assert asked.pop("prompts") == [
        build_prompt(text, "mscoco", seed.rng(PROMPT_STREAM))
        for text, seed in zip(["one dog", "two cats"], seeds, strict=True)
    ]
    assert draws == [seed.rng(TOKEN_STREAM).random() for seed in seeds]
    assert asked == {
        "model": cfg.model,
        "policy": Policy("nucleus", temperature=0.4, top_p=0.7),
        "server": ServerConfig(),
        "batch_size": 20,
        "device": "cpu",
        "stop": "\n",
        "prompt_budget": 99,
        "cut_suffix": f" {ARROW}",
        "most": 8,
    }


def test_what_changes_the_rewrites_is_refused_on_a_restart(captions, tmp_path, monkeypatch):
    """The alias of a kind is the same kind."""
    monkeypatch.setattr(
        "common.decoding.generators.text_generator",
        lambda *_, **__: lambda prompts, rngs, most: ["some other words"] * len(prompts),
    )
    target = tmp_path / "out.txt"
    assert rewrite_file(run_cfg(captions, target, source_type="coco")).computed == 11
    assert rewrite_file(run_cfg(captions, target, source_type="mscoco")).computed == 0
    for change in ({"max_new_tokens": 9}, {"prompt_budget": 99}, {"top_p": 0.5}):
        with pytest.raises(UserError, match="was made for another"):
            rewrite_file(run_cfg(captions, target, source_type="coco", **change))


def test_the_task_takes_shares_and_a_server(captions, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        tasks,
        "rewrite_file",
        lambda cfg, workspace, **options: asked.update(options) or SimpleNamespace(summary=""),
    )
    cfg = config("task.shard=1/2", "generator.endpoint=http://127.0.0.1:1/v1")
    tasks.rewrite(cfg, Workspace(tmp_path / "w"))
    assert asked == {"task": cfg.task, "server": cfg.generator}


def test_item_13_one_line_per_caption_and_other_settings_refused(captions, tmp_path):
    """Item 13 with a real LM: one line per input line, no prompt in it, nothing done twice."""
    cfg = run_cfg(captions, tmp_path / "out.txt")
    assert rewrite_file(cfg).computed == 11
    full = (tmp_path / "out.txt").read_bytes()
    assert full.count(b"\n") == 11
    assert INSTRUCTION not in full.decode()
    assert rewrite_file(cfg).computed == 0
    for change in ({"seed": 2}, {"temperature": 0.5}, {"source_type": "human"}):
        with pytest.raises(UserError, match="was made for another"):
            rewrite_file(run_cfg(captions, tmp_path / "out.txt", **change))
    assert (tmp_path / "out.txt").read_bytes() == full


def kill_after(parts, pid, alive, folder):
    """Kill -9 a process once so many parts are there."""
    while alive() and len(list(folder.glob("part-*.jsonl"))) < parts:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)


def rewrite_and_die(words, parts):
    """`make run PROJECT=laclip CONFIG=smoke TASK=rewrite`, killed when so many parts are there."""
    write = Parts.write

    def watched(self, chunk, content):
        write(self, chunk, content)
        if chunk == parts - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Parts.write = watched
    run_task("laclip", "smoke", words, "rewrite")


def test_item_13_killed_in_the_middle_it_ends_with_the_same_bytes(captions, tmp_path):
    """`make run PROJECT=laclip TASK=rewrite` in a process, kill -9, and the same once more."""
    target = tmp_path / "out.txt"
    words = [
        f"runs_dir={tmp_path}",
        f"rewrite.input={captions}",
        f"rewrite.output={target}",
        "rewrite.max_new_tokens=8",
        "rewrite.batch_size=2",
        "rewrite.device=cpu",
        "task.chunk_size=2",
    ]
    # forked: a new interpreter would spend ten times as long on imports as on the captions
    process = mp.get_context("fork").Process(target=rewrite_and_die, args=(words, 4))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "out.txt.parts").glob("part-*.jsonl"))) == 4
    assert not target.exists()
    again = rewrite_file(run_cfg(captions, target), task=RowMapConfig(chunk_size=2))
    assert again.computed == 11 - 4 * 2
    rewrite_file(run_cfg(captions, tmp_path / "whole.txt"), task=RowMapConfig(chunk_size=2))
    assert target.read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_item_13_the_same_through_an_endpoint(tmp_path):
    """Killed while a server writes; the restart finds it at another address."""
    source = tmp_path / "captions.txt"
    source.write_text("".join(f"caption number {i}\n" for i in range(31)), encoding="utf-8")
    target, parts = tmp_path / "out.txt", tmp_path / "out.txt.parts"

    def answer(prompt, body):
        return f" {prompt.splitlines()[-1].removesuffix(' =>')} said {body['seed']}\nand more"

    def served(path, url):
        server = ServerConfig(url, served_model="big", requests=2, retry_seconds=0.01)
        return rewrite_file(run_cfg(source, path), task=RowMapConfig(chunk_size=2), server=server)

    with CompletionServer(answer, seconds=0.05) as server:
        process = mp.get_context("fork").Process(target=served, args=(target, server.url))
        process.start()
        kill_after(3, process.pid, process.is_alive, parts)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not target.exists()
    with CompletionServer(answer, lambda n: (500, "once") if n == 0 else None) as server:
        again = served(target, server.url)
        assert 0 < again.computed < 31
        served(tmp_path / "whole.txt", server.url)
    assert target.read_bytes() == (tmp_path / "whole.txt").read_bytes()
    lines = target.read_text().splitlines()
    assert len({line.rpartition(" ")[2] for line in lines}) == 31  # a seed of its own for each
    assert [line.rpartition(" said ")[0] for line in lines[:2]] == [
        "caption number 0",
        "caption number 1",
    ]
    with pytest.raises(UserError, match="was made for another model, generator"):
        rewrite_file(run_cfg(source, target), task=RowMapConfig(chunk_size=2))


def test_shares_joined_are_one_process(captions, tmp_path):
    whole = rewrite_file(run_cfg(captions, tmp_path / "whole.txt"), task=RowMapConfig(chunk_size=4))
    assert whole.complete
    for share in ("1/2", "0/2"):
        assert not (tmp_path / "out.txt").exists()
        cfg = run_cfg(captions, tmp_path / "out.txt")
        actual = rewrite_file(cfg, task=RowMapConfig(share, chunk_size=4))
        assert actual.complete == (share == "0/2")
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_ray_workers_are_one_process(captions, tmp_path):
    pytest.importorskip("ray", reason="ray is in the optional group `scale`")
    rewrite_file(run_cfg(captions, tmp_path / "one.txt"), task=RowMapConfig(chunk_size=4))
    two = RowMapConfig(chunk_size=4, engine="ray", workers=2)
    assert rewrite_file(run_cfg(captions, tmp_path / "two.txt"), task=two).computed == 11
    assert (tmp_path / "two.txt").read_bytes() == (tmp_path / "one.txt").read_bytes()


def test_captions_of_a_csv_are_rewritten_row_by_row(official, tmp_path):
    """Item 13: a CSV gives one rewrite per image row, so that the file fits the loader."""
    from common.data.image_text.captions import CaptionFiles

    cfg = run_cfg(official / "toy/toy.csv", official / "toy/toy_new.txt", max_new_tokens=4)
    assert rewrite_file(cfg).computed == 12
    assert len(CaptionFiles(official / "toy/toy.csv", [official / "toy/toy_new.txt"])) == 12
