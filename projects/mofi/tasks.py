"""`make run`: build a set, annotate pictures, search among pictures.

And the exported model for use.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.image.upright import PICTURES, upright
from common.data.tables import write_jsonl
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.engine.workspace import Workspace
from common.evaluation.encoding import Progress, encode, no_progress
from common.evaluation.image_text.zeroshot import class_embeddings
from projects.mofi.build_set import build_set
from projects.mofi.config import Config
from projects.mofi.data import EntityName, read_entities
from projects.mofi.knowledge import entity_text
from projects.mofi.released import evaluate_released

ABOUT = "mofi.json"  # of an export: whether its text tower was trained
BATCH = 64  # pictures or texts of a forward pass


def nearest_entities(image: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Top-k cosines of images (B, D) with entity vectors (C, D), class matrix or texts alike.

    Returns:
        Cosines (B, k) and numbers (B, k), best first.

    >>> nearest_entities(torch.eye(2)[:1], torch.eye(2), 1)[1].tolist()
    [[0]]
    """
    scores = F.normalize(image, dim=1) @ F.normalize(vectors, dim=1).T
    best = scores.topk(min(count, len(vectors)), dim=1)
    return best.values, best.indices


class Embedder:
    """An exported folder for use.

    Args:
        folder: as `make export` writes it; any folder in open_clip's format.

    Attributes:
        preprocess: PIL image -> tensor (3, S, S).
        texts_trained: False after a training by classes alone.

    Raises:
        UserError: not such a folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.encoder = OpenClipDualEncoder.from_folder(Path(folder)).eval()
        self.preprocess = self.encoder.preprocess()
        about = Path(folder) / ABOUT
        written = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        self.texts_trained = bool(written.get("texts_trained", True))

    def require_texts(self) -> None:
        """Refuse a model that was trained by classes alone.

        Raises:
            UserError: its text tower is untrained.
        """
        if not self.texts_trained:
            raise UserError(
                "this model was trained by classes alone: its text tower is untrained, and an export"
                " has no class vectors. Take a model of recipe multitask or contrastive;"
                " TASK=search needs no texts"
            )

    @torch.inference_mode()
    def encode_image(
        self, images: Sequence[Image.Image | str | Path], progress: Progress = no_progress
    ) -> Tensor:
        """Unit rows (B, D) of pictures or files; `progress` wraps the loop over batches.

        Raises:
            UserError: a file that is not an image.
        """

        def rows(batch: list[Image.Image | str | Path]) -> Tensor:
            pixels = torch.stack([self.preprocess(upright(image)) for image in batch])
            return self.encoder.encode_image(pixels)

        rows_of_images = encode(
            rows, images, batch_size=BATCH, progress=progress, description="pictures"
        )
        return F.normalize(rows_of_images, dim=1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit rows (B, D) of sentences.

        Raises:
            UserError: the text tower is untrained.
        """
        self.require_texts()
        tokenizer = self.encoder.tokenizer
        assert tokenizer is not None
        rows_of_texts = encode(
            lambda batch: self.encoder.encode_text(tokenizer(batch)), texts, batch_size=BATCH
        )
        return F.normalize(rows_of_texts, dim=1)

    def annotate(
        self, images: Sequence[Image.Image | str | Path], texts: Sequence[str], top: int = 5
    ) -> list[list[tuple[str, float]]]:
        """The nearest texts of each picture, such as names of entities, with their cosines."""
        scores, places = nearest_entities(self.encode_image(images), self.encode_text(texts), top)
        pairs = zip(places.tolist(), scores.tolist(), strict=True)
        return [[(texts[i], s) for i, s in zip(*row, strict=True)] for row in pairs]

    def classify(
        self,
        images: Sequence[Image.Image | str | Path],
        names: Sequence[str],
        templates: Sequence[str] = ("a photo of a {}.",),
    ) -> list[str]:
        """Zero-shot class of each picture, by the mean of several prompts."""
        classes = class_embeddings(lambda texts: self.encode_text(texts), names, templates)
        return [names[i] for i in (self.encode_image(images) @ classes.T).argmax(1).tolist()]


def of(cfg: Config) -> Mapping[str, Callable[[Workspace], object]]:
    """Tasks by name."""
    return {
        "build": lambda workspace: build(cfg, workspace),
        "annotate": lambda workspace: annotate(cfg, workspace),
        "search": lambda workspace: search(cfg, workspace),
        "released": lambda workspace: evaluate_released(cfg, workspace),
    }


def build(cfg: Config, workspace: Workspace) -> None:
    """``TASK=build``."""
    report = build_set(
        cfg.build, cfg.select, cfg.generator, cfg.task, workspace, cfg.data.max_corrupt
    )
    if report is None:
        workspace.say(
            "chunks are left to other shares; when all are done, run with task.shard=join"
        )
        return
    workspace.say(
        f"{cfg.build.output}: {report['num_images']} of {report['num_images_before']} images, "
        f"{report['num_entities']} of {report['num_entities_before']} entities; see report.json"
    )
    if report["num_unreadable"]:
        workspace.say(
            f"{report['num_unreadable']} images could not be read, such as"
            f" {report['unreadable_first'][0]}"
        )


def annotate(cfg: Config, workspace: Workspace) -> None:
    """``TASK=annotate``: entities of pictures, by their texts."""
    options = cfg.annotate
    if options.run is None or options.entities is None or not options.inputs:
        raise UserError("set annotate.run, annotate.entities (an entities.tsv) and annotate.inputs")
    model = Embedder(Path(options.run).expanduser())
    model.require_texts()
    table: list[EntityName] = read_entities(Path(options.entities).expanduser())
    if not table:
        raise UserError(
            f"annotate.entities={options.entities} has a header, and no entity below it"
        )
    texts = [entity_text(entity, options.text == "name_description") for entity in table]
    for name, answers in zip(
        options.inputs, model.annotate(options.inputs, texts, options.top), strict=True
    ):
        workspace.say(f"{name}: " + "; ".join(f"{text} {score:.3f}" for text, score in answers))


def search(cfg: Config, workspace: Workspace) -> None:
    """``TASK=search``: pictures of a folder by likeness, printed and written to ``search.output``."""
    options = cfg.search
    if options.run is None or options.gallery is None or not options.inputs:
        raise UserError("set search.run, search.gallery (a folder) and search.inputs")
    folder = Path(options.gallery).expanduser()
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in PICTURES)
    if not paths:
        raise UserError(f"{options.gallery} has no image ({', '.join(PICTURES)})")
    model = Embedder(Path(options.run).expanduser())
    asked = model.encode_image(options.inputs)  # first: a wrong name is told before the long part
    gallery = model.encode_image(paths, workspace.progress)
    scores, places_of_best = nearest_entities(asked, gallery, options.top)
    answers = []
    for name, values, places in zip(
        options.inputs, scores.tolist(), places_of_best.tolist(), strict=True
    ):
        hits = [
            {"id": paths[i].name, "score": score} for i, score in zip(places, values, strict=True)
        ]
        answers.append({"query": name, "hits": hits})
        workspace.say(f"{name}: " + "; ".join(f"{hit['id']} {hit['score']:.3f}" for hit in hits))
    if options.output is not None:
        output = Path(options.output).expanduser()
        write_jsonl(output, answers)
        workspace.say(str(output))
