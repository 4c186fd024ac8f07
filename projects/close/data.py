"""Examples of a config, whatever their source, and how images are opened by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw

from common.config import UserError
from common.data.lookup import data_root
from common.engine.experiment import Requirement, bundled_requirement
from projects.close import bundled, official
from projects.close.batches import Example
from projects.close.config import Config
from projects.close.texts import read_texts

Part = Literal["train", "dev", "test"]
OpenImage = Callable[[str], Any]
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 220), "black": (0, 0, 0)}
SHAPES = ("ball", "box", "bar")


def load_examples(cfg: Config, part: Part) -> list[Example]:
    """Examples of a part.

    Raises:
        UserError: missing or damaged files, or nothing in them.
    """
    source = cfg.data.source
    if source == "synthetic":
        examples = synthetic(cfg)
    elif source == "bundled" or (source == "text" and part != "train"):
        examples = bundled.examples(
            cfg.data, part, cfg.seed
        )  # a text file has no pictures to be judged on
    elif source == "text":
        path = data_root(cfg.data.root) / str(cfg.data.text_file)
        data = cfg.data
        texts = read_texts(path, data.min_words, data.max_words, data.replace)
        examples = [Example((text,), "", (text.lower(),)) for text in texts]
    else:
        examples = official.examples(cfg.data, part)
    if not examples:
        raise UserError(
            f"data.source={source}, data.task={cfg.data.task}: no example in part '{part}'"
        )
    return examples


def epoch_size(cfg: Config, count: int) -> int:
    """Examples of an epoch of a training set."""
    return max(1, min(cfg.data.epoch_size, int(cfg.data.epoch_share * count)))


def image_opener(cfg: Config) -> OpenImage:
    """From the name of an image to a PIL image."""
    if cfg.data.source == "synthetic":
        return draw
    if cfg.data.source in ("bundled", "text"):
        return bundled.Pictures(cfg.data.root)
    return official.Pictures(data_root(cfg.data.root))


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the source needs, for `make check`."""
    if cfg.data.source == "synthetic":
        return ()
    if cfg.data.source == "official":
        return official.requirements(cfg)
    bundled_sets = tuple(map(bundled_requirement, ("cifar10", "drawings")))
    if cfg.data.text_file is None:
        return bundled_sets
    path = Path(cfg.data.root or "data") / cfg.data.text_file
    hint = "one sentence per line, or make run PROJECT=close TASK=generate"
    return (Requirement("training text", str(path), path.exists(), hint), *bundled_sets)


# -- made up -------------------------------------------------------------------------------------


def draw(name: str) -> Any:
    """The picture of a made-up name, ``colour/shape``."""
    colour, shape = name.split("/")
    image = Image.new("RGB", (64, 64), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    box = {"ball": (12, 12, 52, 52), "box": (14, 14, 50, 50), "bar": (8, 26, 56, 38)}[shape]
    (pen.ellipse if shape == "ball" else pen.rectangle)(box, fill=COLOURS[colour])
    return image


def synthetic(cfg: Config) -> list[Example]:
    """Coloured shapes, for every task."""
    examples: list[Example] = []
    for colour in COLOURS:
        for shape in SHAPES:
            captions = [
                f"a {colour} {shape}",
                f"there is a {colour} {shape}",
                f"one {shape}, {colour}",
            ]
            examples += made_up(cfg.data.task, f"{colour}/{shape}", captions, colour, shape)
    return examples


def made_up(task: str, image: str, captions: list[str], colour: str, shape: str) -> list[Example]:
    """Examples of one made-up picture."""
    if task == "s_cap":
        return [Example((c,), image, (c,), label=shape) for c in captions]
    if task == "m_cap":
        return official.multi_caption(captions, image, label=shape)
    if task == "ve":
        other = next(c for c in COLOURS if c != colour)
        cases = {
            "entailment": f"it is {colour}",
            "contradiction": f"it is {other}",
            "neutral": "it is new",
        }
        return [Example((captions[0],), image, (word,), text) for word, text in cases.items()]
    answers = (colour,) * 8 + ("dark",) * 2
    if task == "vqa":
        return [Example(tuple(captions), image, (colour,), "what colour is it?", answers)]
    if task == "evqa":
        return [
            Example((f"because it is {colour}",), image, (colour,), "what colour is it?", answers)
        ]
    return [Example((captions[0],), image, (captions[0],), f"the {shape} was shown on monday")]
