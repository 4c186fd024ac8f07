"""Interleaved videos and texts (Howto-Interlink7M): shots, descriptions, one caption a clip.

Two mappings, both of which can be stopped, continued and shared out: videos to clips with their
inputs, then clips to captions, each conditioned on the one before. Source: Wang et al. 2024,
"COSMO", arXiv 2401.00849; the authors' prompt is not released, ours is `clip_prompt`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from torch.nn import functional as F

from common.config import UserError
from common.damage import reading
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.data.row_map.parts import MANIFEST
from common.data.tables import read_jsonl
from common.decoding.generators import LocalGenerator, generator_settings, text_generator
from common.decoding.options import Policy
from common.decoding.prompts import Prompt
from common.encoders.image_text.frozen_clip import FrozenClip
from common.engine.workspace import Workspace, write_json
from projects.cosmo.clip_prompt import INPUTS, fitted
from projects.cosmo.config import Config
from projects.cosmo.interleaved.clips import clip_seconds, clip_text
from projects.cosmo.interleaved.video import frame_times, open_video, segment_shots

DRAW_STREAM = 95
CHUNK = 8  # videos in a file
TRIES = 4  # draws of a caption that comes out empty


def write_clips(cfg: Config, workspace: Workspace) -> Path | None:
    """Videos of ``video.inputs`` as ``<video>.json`` with clips and captions.

    A row is ``{"video": place}`` with ``clips`` (``{"clip": "0:00:00 - 0:00:05", "frames":
    [captions], "regions": [...], "asr": "...", "tags": [...]}``) where the user's own tools found
    them; without clips the shots are found here, without tags they are chosen from ``video.tags``.
    Clips are in seconds of the event: those of the stored video times ``video.speed``.

    Returns:
        The folder; None while shares are missing.

    Raises:
        UserError: no rows, videos that cannot be read, clips of which the language model would be
            told nothing, a file that would be replaced, or no caption at all.
    """
    options = cfg.video
    if options.inputs is None:
        raise UserError('set video.inputs, JSON lines such as {"video": "folder of frames"}')
    source = Path(options.inputs).expanduser()
    rows = [
        {**row, "video": str(source.parent / row["video"])} for row in read_jsonl(source, ["video"])
    ]
    names = [Path(row["video"]).stem for row in rows]
    if not rows or len(set(names)) != len(names):
        raise UserError(f"{source} needs videos of different names")
    for row in rows:
        check_row(row, options.tags)
    folder = (
        workspace.folder(".") / Path(options.output).expanduser()
    )  # an absolute one stays as it is
    there = [path for name in names if (path := folder / f"{name}.json").exists()]
    if there and not (workspace.path / "captions" / MANIFEST).is_file():
        raise UserError(f"{there[0]} exists already: choose another folder as video.output")
    settings = {
        name: getattr(options, name)
        for name in ("fps", "speed", "sample_fps", "most_shots", "penalty", "tags", "num_tags")
    }
    step = RowMap(
        "shots", partial(build_shots, cfg), {**settings, "clip": cfg.model.vision}, cfg.seed, CHUNK
    )
    shots = map_rows(step, rows, workspace.folder("shots"), cfg.task, workspace.meter)
    workspace.say(shots.summary)
    if not shots.complete:
        return None
    policy = policy_of(cfg)
    asked = {
        "max_new_tokens": options.max_new_tokens,
        "tries": TRIES,
        **generator_settings(options.model, policy, cfg.generator),
    }
    step = RowMap("captions", partial(build_captions, cfg), asked, cfg.seed, CHUNK)
    mapped = map_rows(
        step, list(shots.rows()), workspace.folder("captions"), cfg.task, workspace.meter
    )
    workspace.say(mapped.summary)
    if not mapped.complete:
        return None
    captioned = list(mapped.rows())
    written = write_captions(folder, names, captioned)
    clips = [clip for own_clips in captioned for clip in own_clips]
    workspace.say(
        f"{sum(clip['shortened'] for clip in clips)} of {len(clips)} clips: inputs shortened to"
        f" what video.model reads; {sum(not clip['caption'] for clip in clips)} clips and"
        f" {len(rows) - written} videos left out, no caption came"
    )
    if not written:
        raise UserError("no caption came for any clip: take another video.model")
    workspace.say(
        f"{folder}: clips of {written} videos; put each next to its video file in a shard of"
        " data.shards (frames of a folder have to become a video file for that), and train with"
        f" data.speed={options.speed:g}, the speed that they are stored at"
    )
    return folder


def write_captions(folder: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """Write ``<name>.json`` of every video that has a caption, without its other clips.

    How many these are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, captioned_clips in zip(names, rows, strict=True):
        clips = [
            {key: clip[key] for key in ("clip", "caption")}
            for clip in captioned_clips
            if clip["caption"]
        ]
        if clips:
            write_json(folder / f"{name}.json", {"clips": clips})
            count += 1
    return count


def policy_of(cfg: Config) -> Policy:
    """How tokens are drawn."""
    return Policy("nucleus", temperature=cfg.video.temperature, top_p=cfg.video.top_p)


def check_row(row: Mapping[str, Any], tags: Sequence[str]) -> None:
    """Refuse a video with unreadable clips, or with clips of which only the time is known.

    Raises:
        UserError: such a video.
    """
    video, clips = row["video"], row.get("clips") or []
    try:
        for entry in clips:
            clip_seconds(entry["clip"])
        described = bool(clips) and all(any(entry.get(name) for name in INPUTS) for entry in clips)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f'{video}: clips are written {{"clip": "0:00:00 - 0:00:05"}} ({error})'
        ) from error
    if not described and not tags:
        raise UserError(
            f"nothing is known of the clips of {video}, their captions would be made up: set"
            " video.tags, words that the pictures are compared with, or give every clip frames,"
            " regions, asr or tags"
        )


# -- shots ---------------------------------------------------------------------------------------


def build_shots(cfg: Config) -> RowFunction:
    """Rows of videos -> lists of clips with their inputs."""
    options, clip = cfg.video, FrozenClip(cfg.model.vision)
    words = F.normalize(clip.encode_texts([f"a photo of {tag}" for tag in options.tags]), dim=1)

    def one(row: Mapping[str, Any]) -> list[dict[str, Any]]:
        video = open_video(row["video"], options.fps)

        def shown(times: Sequence[float]) -> list[Image.Image]:
            with reading(row["video"], "video"):
                return video.frames(times)

        entries = row.get("clips") or []
        if not entries:
            times = frame_times(0, video.seconds, max(1, round(video.seconds * options.sample_fps)))
            starts = segment_shots(
                clip.encode_images(shown(times)).numpy(), options.most_shots, options.penalty
            )
            bounds = [0.0, *((times[i - 1] + times[i]) / 2 for i in starts[1:]), video.seconds]
            entries = [{"clip": c} for c in distinct([options.speed * b for b in bounds])]
        clips, untold = [], list[dict[str, Any]]()  # all clips, and those without words
        moments = list[
            float
        ]()  # three of each of the latter, read at once: a file is decoded from its beginning
        for entry in entries:
            start, end = clip_seconds(entry["clip"], options.speed)
            if 0 < video.seconds <= start:
                raise UserError(
                    f"{row['video']} has {video.seconds * options.speed:g} seconds at"
                    f" video.speed={options.speed:g}, its clip {entry['clip']} begins later: set"
                    " video.speed, or fix the clip"
                )
            description = {name: entry[name] for name in ("clip", *INPUTS) if entry.get(name)}
            if options.tags and "tags" not in description:
                untold.append(description)
                moments += frame_times(start, end, 3)
            clips.append(description)
        pictures = shown(moments) if moments else []
        for i, description in enumerate(untold):
            vectors = F.normalize(clip.encode_images(pictures[3 * i : 3 * i + 3]), dim=1)
            best = (vectors.mean(0) @ words.T).topk(min(options.num_tags, len(words))).indices
            description["tags"] = [options.tags[int(i)] for i in best]
        return clips

    def run(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[Any]:
        return [one(row) for row in rows]

    return run


def distinct(bounds: Sequence[float]) -> list[str]:
    """Clips between ascending points in time, in whole seconds.

    What is shorter than one second joins the next.

    >>> distinct([0.0, 0.3, 4.6, 9.0])
    ['0:00:00 - 0:00:05', '0:00:05 - 0:00:09']
    """
    places = sorted({round(b) for b in bounds})
    if len(places) < 2:
        places = [0, 1]
    return [clip_text(a, b) for a, b in pairwise(places)]


# -- captions ------------------------------------------------------------------------------------


def build_captions(cfg: Config) -> RowFunction:
    """Lists of clips -> lists of ``{"clip", "caption", "shortened"}``.

    The videos of a chunk continue side by side.

    An empty caption is drawn again; one that stays empty is not a sentence before the next clip.
    """
    options = cfg.video
    generate = text_generator(options.model, policy_of(cfg), cfg.generator, stop="\n")
    budget = prompt_budget(cfg) if isinstance(generate, LocalGenerator) else 0

    def fits(text: str) -> bool:
        if not isinstance(generate, LocalGenerator):
            return True  # a server refuses what is too long for it
        return len(generate.model.tokenizer(text, verbose=False)["input_ids"]) <= budget

    def written(prompts: Sequence[str], seeds: Sequence[RowSeed], number: int) -> list[str]:
        texts = [""] * len(prompts)
        for attempt in range(TRIES):
            empty = [i for i, text in enumerate(texts) if not text]
            if not empty:
                break
            rngs = [seeds[i].rng(DRAW_STREAM + attempt, number) for i in empty]
            answers = generate([Prompt(prompts[i]) for i in empty], rngs, options.max_new_tokens)
            for i, text in zip(empty, answers, strict=True):
                texts[i] = first_sentence(text)
        return texts

    def run(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[Any]:
        captioned: list[list[dict[str, Any]]] = [[] for _ in rows]
        for number in range(max((len(clips) for clips in rows), default=0)):
            # videos that have such a clip; every caption is conditioned on the one before it
            here = [i for i, clips in enumerate(rows) if number < len(clips)]
            before = [
                next((c["caption"] for c in reversed(captioned[i]) if c["caption"]), "")
                for i in here
            ]
            asked = [
                fitted(rows[i][number], text, fits) for i, text in zip(here, before, strict=True)
            ]
            texts = written([prompt for prompt, _ in asked], [seeds[i] for i in here], number)
            for i, text, (_, short) in zip(here, texts, asked, strict=True):
                clip = rows[i][number]["clip"]
                captioned[i].append({"clip": clip, "caption": text, "shortened": short})
        return captioned

    return run


def prompt_budget(cfg: Config) -> int:
    """Tokens of a prompt that leave room for the caption in the model's context."""
    from common.encoders.text.tower import load_config

    context = int(getattr(load_config(cfg.video.model), "max_position_embeddings", 2048))
    return max(16, context - cfg.video.max_new_tokens)


def first_sentence(text: str) -> str:
    """The first line, up to its first full stop.

    >>> first_sentence(" He cuts it. Then he eats.")
    'He cuts it.'
    """
    line = next((part for part in text.strip().splitlines() if part.strip()), "").strip()
    head, stop, _ = line.partition(". ")
    return head + stop.strip()
