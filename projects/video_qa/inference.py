"""An exported model: answers to questions about a clip, with their time and frames."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.config import UserError
from common.data.image.sources import EvalTransform
from common.data.image.upright import PICTURES, upright
from common.encoders.image.cifar_resnet import cifar_resnet
from common.encoders.image.towers import torchvision_tower
from common.encoders.modes import evaluation_mode
from projects.video_qa.clips.batches import Choice, ClipView, VideoQARows, clip_end, clip_view
from projects.video_qa.clips.clips import Clip, Sentence, frame_times, ordered, read_subtitles
from projects.video_qa.clips.frames import Frames, FramesInMemory
from projects.video_qa.folder import Exported, read
from projects.video_qa.spans import best_span

Picture = Image.Image | str | Path


class Answer(NamedTuple):
    """What is answered, and why.

    Attributes:
        text: the chosen candidate.
        place: its index.
        probabilities: of all candidates, in their order.
        span: seconds of the part that the answer rests on; None for a model without a head for it.
        looked: (N, F) attention of each sentence to each frame for the chosen candidate; (N, 0)
            without frames.
        view: sentences as they were laid out.
        beyond: sentences of the clip that are not read because the model takes no more
            (``data.max_sentences``).
        after_end: those that are not read because they start after the last frame.
    """

    text: str
    place: int
    probabilities: list[float]
    span: tuple[float, float] | None
    looked: Tensor
    view: ClipView
    beyond: int = 0
    after_end: int = 0


class FrameEncoder:
    """Frozen encoder of frames: ``bundled:cifar-resnet20`` (32 px), ``torchvision:<name>`` (224).

    Raises:
        UserError: another name, or absent weights.
    """

    def __init__(self, name: str) -> None:
        scheme, _, rest = name.partition(":")
        if name.startswith("bundled:cifar-resnet"):
            self.network: nn.Module = cifar_resnet(int(name.rsplit("resnet", 1)[1]), name)
            self.transform = EvalTransform(32)
        elif scheme == "torchvision":
            self.network, self.transform = torchvision_tower(rest, name), EvalTransform(224)
        else:
            raise UserError(
                f"model.image_encoder={name}: use bundled:cifar-resnet20 or torchvision:resnet101"
            )

    def __call__(
        self, pictures: Sequence[Picture], batch_size: int = 32, device: str = "cpu"
    ) -> Tensor:
        """Features (F, D) of pictures.

        Raises:
            UserError: a file that is not a picture.
        """
        parts, network = [], self.network.to(device)
        with evaluation_mode(network):
            for i in range(0, len(pictures), batch_size):
                images = [self.transform.one(opened(p)) for p in pictures[i : i + batch_size]]
                parts.append(network(torch.stack(images).to(device)).cpu())
        return torch.cat(parts) if parts else torch.zeros(0, int(network.num_features))  # type: ignore[arg-type]


class Answerer:
    """Answers by the answering part alone: nothing is masked, nothing contrasted.

    Args:
        model: as `projects.video_qa.folder.read` opens it.
    """

    def __init__(self, model: Exported) -> None:
        self.model = model
        self._encoder: FrameEncoder | None = None

    @classmethod
    def open(cls, folder: str | Path) -> "Answerer":
        """A folder written by `make export`."""
        return cls(read(Path(folder)))

    def __call__(
        self,
        frames: Sequence[Picture] | str | Path,
        subtitles: Sequence[tuple[float, float, str]] | str | Path,
        question: str,
        candidates: Sequence[str],
        *,
        fps: float | None = None,
        objects: Sequence[Sequence[str]] = (),
    ) -> Answer:
        """Choose among candidates.

        Args:
            frames: pictures in their order, or a folder of them; [] for none.
            subtitles: (start, end, text) in seconds, or an .srt or .json file.
            question: of any wording.
            candidates: two or more answers.
            fps: pictures a second; None: as the model was trained.
            objects: labels of what is seen in each picture, for a model that was trained with them.

        Raises:
            UserError: files that cannot be read, fewer than two candidates, or an encoder of other
                features.
        """
        said = (
            read_subtitles(Path(subtitles))
            if isinstance(subtitles, str | Path)
            else ordered([Sentence(*row) for row in subtitles])
        )
        pictures = pictures_of(frames) if isinstance(frames, str | Path) else list(frames)
        clip = Clip("clip", said, objects=tuple(map(tuple, objects)))
        return self.answer(clip, self.frames(pictures, fps), question, candidates, fps)

    def frames(self, pictures: Sequence[Picture], fps: float | None = None) -> Frames | None:
        """Features of pictures; None for a model that looks at none.

        Raises:
            UserError: the encoder's features are not those that the model was trained on.
        """
        model = self.model
        if not model.network.visual:
            return None
        if self._encoder is None:
            encoder, feature_dim = FrameEncoder(model.image_encoder), model.network.feature_dim
            if encoder.network.num_features != feature_dim:
                raise UserError(
                    f"the model was trained on features of {feature_dim} numbers, and"
                    f" model.image_encoder={model.image_encoder} makes"
                    f" {encoder.network.num_features}: export the run with"
                    " model.image_encoder=<encoder of its features, such as"
                    " torchvision:resnet101> and use that folder"
                )
            self._encoder = encoder
        return Frames(self._encoder(pictures), frame_times(len(pictures), fps or model.layout.fps))

    def answer(
        self,
        clip: Clip,
        frames: Frames | None,
        question: str,
        candidates: Sequence[str],
        fps: float | None = None,
    ) -> Answer:
        """As `__call__`, of a clip and the features of its frames."""
        if len(candidates) < 2:
            raise UserError(f"the question '{question}' needs at least two candidates")
        model = self.model
        layout = replace(model.layout, localised=False, fps=fps or model.layout.fps)
        source = (
            None
            if frames is None
            else FramesInMemory({clip.name: frames}, frames.features.shape[1])
        )
        choice = Choice(clip.name, tuple((question, c) for c in candidates), None)
        rows = VideoQARows(lambda i, e: choice, 1, {clip.name: clip}, source, model.words, layout)
        batch = rows.collate([0])
        with evaluation_mode(model.network):
            out = model.network(batch)
            best = int(out.scores[0].argmax())
            span = None
            if model.network.span_head is not None:
                logits = model.network.span_logits(out, torch.tensor([best]))
                first, last = best_span(logits[..., 0], logits[..., 1], batch["sentence_mask"])[
                    0
                ].tolist()
                times = batch["sentence_times"][0]
                span = (float(times[first, 0]), float(times[last, 1]))
        view = clip_view(clip, source, layout, None)
        looked = torch.zeros(len(view.sentences), 0) if out.looked is None else out.looked[0, best]
        end = clip_end(frames.times) if frames is not None and layout.frames else None
        after = 0 if end is None else sum(s.start >= end for s in clip.sentences)
        # a clip without a sentence to read has an empty one
        beyond = sum(s.end >= 0 for s in clip.sentences) - after - len(view.sentences)
        return Answer(
            candidates[best],
            best,
            out.scores[0].softmax(0).tolist(),
            span,
            looked,
            view,
            max(0, beyond),
            after,
        )


def pictures_of(folder: str | Path) -> list[Path]:
    """Pictures of a folder in the order of their names, numbers by value.

    Raises:
        UserError: no such folder, or one without pictures.
    """
    place = Path(folder)
    pictures = in_order(place.iterdir()) if place.is_dir() else []
    if not pictures:
        raise UserError(f"{place} is not a folder with pictures ({', '.join(PICTURES)})")
    return pictures


def in_order(files: Iterable[Path]) -> list[Path]:
    """The pictures among files in the order of their names, numbers by value."""
    pictures = [p for p in files if p.suffix.lower() in PICTURES]
    return sorted(pictures, key=lambda p: (_natural(p.stem), p.name))


def opened(picture: Picture) -> Image.Image:
    """A PIL image, or the picture of a file, turned as its camera says.

    Raises:
        UserError: no such file, or no picture.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    return upright(picture)


def _natural(stem: str) -> list[tuple[str, int]]:
    """Text and number by turns: 10_5fps comes after 2_5fps."""
    parts = re.split(r"(\d+)", stem.lower())
    return [
        (text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "-1"], strict=True)
    ]


def looked_figure(
    answer: Answer, pictures: Sequence[Picture] = (), title: str = "", most: int = 24
) -> object:
    """Where the model looked: attention of each sentence to each frame.

    Args:
        answer: of `Answerer`, about a clip with frames.
        pictures: the frames; () draws the attention alone.
        title: above.
        most: pictures that are shown, evenly chosen.
    """
    from matplotlib.figure import Figure

    n, f = answer.looked.shape
    figure = Figure(figsize=(10, 1.6 + 0.35 * n))
    top, bottom = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1, max(1.0, 0.35 * n)]})
    top.set_title(_plain(title), fontsize=9)
    top.set_axis_off()
    for i in np.unique(np.linspace(0, f - 1, min(f, most)).astype(int)) if len(pictures) else ():
        small = opened(pictures[int(i)]).resize((64, 48))
        top.imshow(np.asarray(small), extent=(i - 0.45, i + 0.45, 0, 1), aspect="auto")
    top.set_xlim(-0.5, f - 0.5)
    top.set_ylim(0, 1)
    bottom.imshow(answer.looked.numpy(), aspect="auto", cmap="magma", vmin=0)
    bottom.set_yticks(range(n), [_plain(s.text[:36]) for s in answer.view.sentences], fontsize=7)
    bottom.set_xlabel("frame")
    if answer.span is not None:
        said = (
            f"answer: {answer.text} ({max(answer.probabilities):.2f}), {answer.span[0]:.1f} to"
            f" {answer.span[1]:.1f} s"
        )
        bottom.set_xlabel(_plain(f"frame; {said}"), fontsize=8)
    return figure


def _plain(text: str) -> str:
    """Dollar signs as they are: between two of them a figure would read a formula."""
    return text.replace("$", r"\$")
