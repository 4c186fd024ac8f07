"""Documents of made-up shapes, of the bundled drawings, and of tar shards."""

import json
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw
from torchvision.transforms.v2.functional import to_pil_image

from common.config import UserError
from common.data.decode import decode_image
from common.data.image.labelled import LabelledPixels
from common.data.image.upright import upright
from common.data.image_text.captions import CaptionFiles
from common.data.image_text.shards import Sample
from common.data.lookup import bundled, data_root
from common.data.packed import PackedImages
from common.data.samplers import Rng
from common.data.tables import read_jsonl
from common.engine.experiment import Requirement, bundled_requirement
from common.families.image_text.photographs import (
    CLASSES,
    photographs_to_judge,
    photographs_to_train,
)
from projects.cosmo.batches import Rows
from projects.cosmo.config import Config, CosmoData
from projects.cosmo.interleaved.clips import adjacent_clips, clip_seconds
from projects.cosmo.interleaved.documents import (
    END_OF_CHUNK,
    GPT,
    HUMAN,
    VISUAL,
    Document,
    caption_document,
    choose_caption,
    clip_document,
    document_of,
    mmc4_document,
    picture_content,
    plain,
)
from projects.cosmo.interleaved.tar_rows import TarRows
from projects.cosmo.interleaved.video import VideoFile, frame_times

log = logging.getLogger(__name__)
Part = Literal["train", "dev", "test"]
Opened = tuple[Document, Callable[[int], list[Any]]]
POOL, PHOTO_SIZE = "drawings", 48  # pixels
PHOTO_TEXT = "a photo of a {}"
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 220), "black": (0, 0, 0)}
SHAPES = ("ball", "box", "bar")
VIDEO = "mp4|webm|mkv|avi"
ROLES = {"human": (HUMAN, ""), "gpt": (GPT, END_OF_CHUNK)}  # what stands around a turn
NEEDED = {
    "image_text": ("jpg|jpeg|png|webp", "txt"),
    "video_text": (VIDEO, "txt"),
    "interleaved_image": ("json",),
    "interleaved_video": (VIDEO, "json"),
}
LAYOUT = {
    "image_text": "key.jpg + key.txt (caption, or caption<TAB>generated<EOC>generated)",
    "video_text": "key.mp4 + key.txt",
    "interleaved_image": (
        "key.json (MMC4: text_list, image_info, similarity_matrix; OBELICS: texts, image_info,"
        " score)"
    ),
    "interleaved_video": "key.mp4 + key.json (clips)",
    "instruction": "a JSON list: image, conversations",
}


def rows_of(cfg: Config, kind: str, part: Part) -> Rows:
    """Documents of a kind.

    Raises:
        UserError: missing or damaged files.
    """
    data = cfg.data
    if data.source == "synthetic":
        return MadeUp(kind, data)
    if data.source == "bundled":
        return BundledRows(Pictures(cfg, part), kind, data)
    if kind == "instruction":
        return Instructions(data_root(data.root) / str(data.shards[kind]))
    return Shards(kind, data)


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the source needs, for `make check`."""
    data = cfg.data
    if data.source == "synthetic":
        return ()
    if data.source == "bundled":
        source = (
            ("cifar10",)
            if data.pictures == "photographs"
            else ("drawings", "emoji-captions", "clipart")
        )
        return tuple(map(bundled_requirement, source))
    from braceexpand import braceexpand

    needed = []
    for kind in data.kinds:
        source = data.shards[kind]
        patterns = [source] if isinstance(source, str) else list(source)
        paths = [Path(data.root or "data") / name for p in patterns for name in braceexpand(str(p))]
        here = all(path.exists() for path in paths)
        needed.append(Requirement(f"shards: {kind}", str(paths[0]), here, LAYOUT[kind]))
    if {"video_text", "interleaved_video"} & set(data.kinds):
        here = find_spec("av") is not None
        needed.append(
            Requirement("decoder", "PyAV", here, "of videos: pip install av, or -e '.[video]'")
        )
    return tuple(needed)


# -- made up -------------------------------------------------------------------------------------


def draw(colour: str, shape: str, shift: int = 0) -> Image.Image:
    """A shape on white; frames of a clip are shifted."""
    image = Image.new("RGB", (64, 64), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = {
        "ball": (12, 12, 52, 52),
        "box": (14, 14, 50, 50),
        "bar": (8, 26, 56, 38),
    }[shape]
    area = (left + shift, top, right + shift, bottom)
    (pen.ellipse if shape == "ball" else pen.rectangle)(area, fill=COLOURS[colour])
    return image


class MadeUp:
    """Coloured shapes of all kinds."""

    def __init__(self, kind: str, data: CosmoData) -> None:
        self.kind, self.data = kind, data
        self.names = [(c, s) for c in COLOURS for s in SHAPES]

    def __len__(self) -> int:
        return len(self.names)

    def document(self, index: int, rng: Rng) -> Opened:
        """A document of the kind about a shape."""

        def frames(picture: int) -> list[Any]:
            colour, shape = self.names[(index + picture) % len(self.names)]
            video = "video" in self.kind
            return [draw(colour, shape, 2 * i) for i in range(self.data.frames if video else 1)]

        def name(place: int) -> str:
            colour, shape = self.names[(index + place) % len(self.names)]
            return f"a {colour} {shape}"

        if self.kind == "interleaved_image":
            sentences = ["here are two shapes", name(0), "and", name(1)]
            return mmc4_document(sentences, [(0, 1), (1, 3)], self.data.max_document), frames
        if self.kind == "interleaved_video":
            return clip_document([name(i) for i in range(2)]), frames
        if self.kind == "instruction":
            text = f"{VISUAL}{HUMAN}what is it?{GPT}{name(0)}{END_OF_CHUNK}"
            return Document(text, (0,)), frames
        return caption_document(name(0), rng, self.data.blank_prob), frames


# -- bundled -------------------------------------------------------------------------------------


def drawings(root: str | None, part: Part) -> list[tuple[str, list[str]]]:
    """Pictures ``<set>/<row>.jpg`` with their texts; in training also four phrasings."""
    folder = bundled(POOL, root)
    if part == "train":
        further = [folder / f"train_phrasing{i}.txt" for i in range(1, 5)]
        files = CaptionFiles(folder / "train.csv", further, root="")
        return [(str(files.path(i)), files.texts(i)) for i in range(len(files))]
    rows = read_jsonl(folder / "test.jsonl.gz", ["image", "split", "name"])
    return [(row["image"], [row["name"].lower()]) for row in rows if row["split"] == part]


def photographs(cfg: Config, part: Part) -> LabelledPixels:
    """Photographs of a part: the seed draws those of training.

    The others are the same for every seed.
    """
    if part == "train":
        return photographs_to_train(cfg.data.root, cfg.data.photos, cfg.seed, PHOTO_SIZE)
    return photographs_to_judge(cfg.data.root, part, PHOTO_SIZE)


class Pictures:
    """Bundled pictures of a part by row, with their texts.

    Args:
        cfg: the experiment's config.
        part: of the set.

    Attributes:
        texts: of each picture.
        labels: class of each photograph; -1 of a drawing.
    """

    def __init__(self, cfg: Config, part: Part) -> None:
        self.root = cfg.data.root
        if cfg.data.pictures == "photographs":
            labelled = photographs(cfg, part)
            self.pixels, self.names = labelled.images, list[str]()
            self.labels = labelled.labels.tolist()
            self.texts = [[PHOTO_TEXT.format(CLASSES[label])] for label in self.labels]
        else:
            rows = drawings(self.root, part)
            self.names, self.texts = [name for name, _ in rows], [texts for _, texts in rows]
            self.labels = [-1] * len(rows)
        self._sets: dict[str, PackedImages] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> Image.Image:
        """The picture."""
        if not self.names:
            picture: Image.Image = to_pil_image(self.pixels[row])
            return picture
        folder, place = Path(self.names[row]).parent.name, int(Path(self.names[row]).stem)
        if folder not in self._sets:
            self._sets[folder] = PackedImages(bundled(f"{folder}/images.npz", self.root))
        return self._sets[folder][place]


class BundledRows:
    """Bundled pictures with one of their texts, or two of them as a document.

    Args:
        pictures: of a part.
        kind: image_text or interleaved_image.
        data: the config's section.

    Raises:
        UserError: another kind.
    """

    def __init__(self, pictures: Pictures, kind: str, data: CosmoData) -> None:
        if kind not in ("image_text", "interleaved_image"):
            raise UserError(
                f"bundled pictures serve data.kinds image_text and interleaved_image, not {kind}"
            )
        self.pictures, self.kind, self.data = pictures, kind, data

    def __len__(self) -> int:
        return len(self.pictures)

    def document(self, index: int, rng: Rng) -> Opened:
        """A picture with a text, or with a second one that is drawn for it."""

        def text(row: int) -> str:
            texts = self.pictures.texts[row]
            return texts[int(rng.integers(len(texts)))]

        def frames(row: int) -> list[Any]:
            # with a cache of tokens a frame is its row
            return [row] if self.data.cache else [self.pictures[row]]

        if self.kind == "image_text":
            captioned = caption_document(text(index), rng, self.data.blank_prob)
            shown = int(rng.integers(len(self))) if self.data.shuffle_images else index
            return Document(captioned.text, (shown,)), frames
        other = int(rng.integers(len(self)))
        document = mmc4_document(
            [text(index), text(other)], [(index, 0), (other, 1)], self.data.max_document
        )
        return document, frames


# -- shards --------------------------------------------------------------------------------------


def _picture(content: bytes) -> Image.Image:
    return upright(decode_image(content))


def _first(sample: Sample, group: str) -> bytes:
    content: bytes = next(sample[suffix] for suffix in group.split("|") if suffix in sample)
    return content


class Shards:
    """Samples of webdataset shards as documents of a kind."""

    def __init__(self, kind: str, data: CosmoData) -> None:
        shards = data.shards[kind]
        names = [shards] if isinstance(shards, str) else list(shards)
        self.kind, self.data = kind, data
        self.samples = TarRows([str(data_root(data.root) / str(n)) for n in names], NEEDED[kind])

    def __len__(self) -> int:
        return len(self.samples)

    def document(self, index: int, rng: Rng) -> Opened:
        """The document of a sample; its pictures are decoded when they are asked for."""
        sample, data = self.samples[index], self.data
        if self.kind in ("image_text", "video_text"):
            stored = sample["txt"].decode("utf-8")
            document = caption_document(
                choose_caption(stored, data.caption_use, rng), rng, data.blank_prob
            )
            if self.kind == "image_text":
                return document, lambda _: [_picture(_first(sample, NEEDED["image_text"][0]))]
            times = frame_times(0, data.video_seconds, data.frames)
            return document, lambda _: list(VideoFile(_first(sample, VIDEO)).frames(times))
        row = json.loads(sample["json"])
        if self.kind == "interleaved_image":
            document = document_of(row, data.threshold, data.max_document, rng)
            info = row["image_info"]
            return document, lambda i: [_picture(picture_content(info[i]))]
        chosen = adjacent_clips(row["clips"], data.clips, rng)
        video = list[VideoFile]()

        def frames(place: int) -> list[Any]:
            if not video:
                video.append(VideoFile(_first(sample, VIDEO)))
            bounds = clip_seconds(chosen[place]["clip"], data.speed, repair=True)
            return list(video[0].frames(frame_times(*bounds, data.frames)))

        return clip_document([clip["caption"] for clip in chosen]), frames


class Instructions:
    """A JSON list of conversations about one picture each, with ``from`` human and gpt.

    Conversations without a picture are left out and counted.

    Raises:
        UserError: no such file, or turns of others: what they say would be trained as an answer.
    """

    def __init__(self, path: Path) -> None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            self.rows = [row for row in stored if "image" in row]
            roles = {str(turn["from"]) for row in self.rows for turn in row["conversations"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} is not a JSON list of image and conversations (from, value): {error!r}"
            ) from error
        if roles - set(ROLES):
            raise UserError(
                f"{path}: turns are from human or gpt, not {', '.join(sorted(roles - set(ROLES)))};"
                " rename or leave them out"
            )
        if left_out := len(stored) - len(self.rows):
            log.warning(
                "%s: %d of %d conversations have no image and are left out",
                path,
                left_out,
                len(stored),
            )
        self.folder = path.parent

    def __len__(self) -> int:
        return len(self.rows)

    def document(self, index: int, rng: Rng) -> Opened:
        """All turns of a conversation after its picture."""
        row = self.rows[index]
        parts = []
        for turn in row["conversations"]:
            begin, end = ROLES[turn["from"]]
            parts.append(f"{begin}{plain(str(turn['value']).replace('<image>', ''))}{end}")
        document = Document(VISUAL + "".join(parts), (0,))
        return document, lambda _: [_picture((self.folder / row["image"]).read_bytes())]
