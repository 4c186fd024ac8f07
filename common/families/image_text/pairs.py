"""Retrieval on a user's held-out pairs: images find their captions, captions their image."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.decode import decode_image
from common.data.image import sources as im
from common.data.image_text.captions import CaptionFiles
from common.data.lookup import data_root, require
from common.data.own_files import readable
from common.engine.workspace import Workspace
from common.evaluation import encoding
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.retrieval.cross_modal import image_text_retrieval, relevant_ranks
from common.families.image_text.data import eval_transform
from common.families.image_text.embedding import encode_texts
from common.families.image_text.module import ImageTextModule
from common.families.image_text.protocol import ImageTextConfig

SHOWN = 96  # pixels of a picture's longer side in the galleries
CUTS = (1, 5, 10)
FEW = 6  # captions of a gallery, and images of each


@dataclass(frozen=True)
class HeldOutPairs:
    """Pictures and captions of a CSV ``path,caption`` without header.

    Attributes:
        paths: I files, each once.
        texts: T captions; a picture has one for each of its rows.
        image_of_text: (T,) int64, the picture that each describes.
    """

    paths: list[Path]
    texts: list[str]
    image_of_text: Tensor


def read_pairs(
    cfg: ImageTextConfig, file: str, say: Callable[[str], None] = lambda line: None
) -> HeldOutPairs:
    """The pairs of a file below `data.root`, without those whose image can't be read.

    Args:
        cfg: the experiment's config.
        file: of the pairs.
        say: takes a line about images that can't be read.

    Raises:
        UserError: the file is missing, no row can be used, or too many images can't be read.
    """
    table = require(
        data_root(cfg.data.root) / file,
        what="held-out pairs",
        size="your own",
        source="your own pairs",
        layout=(
            "a CSV without header, one relative/path.jpg,caption per line; paths are relative to"
            " its folder"
        ),
    )
    files = CaptionFiles(table)
    places: dict[Path, int] = {}
    owners = [places.setdefault(files.path(i), len(places)) for i in range(len(files))]
    paths = list(places)
    kept = {old: new for new, old in enumerate(readable(paths, say))}
    rows = [i for i, owner in enumerate(owners) if owner in kept]
    return HeldOutPairs(
        [paths[old] for old in kept],
        [files.texts(i)[0] for i in rows],
        torch.tensor([kept[owners[i]] for i in rows]),
    )


def evaluate_pairs(
    cfg: ImageTextConfig, module: ImageTextModule, workspace: Workspace, file: str
) -> dict[str, float]:
    """Recall@1, 5 and 10 in both directions with chance, as CLIP's on COCO and Flickr30K.

    Args:
        cfg: the experiment's config.
        module: in evaluation mode.
        workspace: gets galleries, and of every caption whether its picture is among the first ten.
        file: see `read_pairs`.

    Returns:
        ``pairs_{image_to_text,text_to_image}_recall_at_k``, their ``_chance`` and
        ``pairs_recall_mean``.


    Raises:
        UserError: see `read_pairs`.
    """
    pairs = read_pairs(cfg, file, workspace.say)
    images = encode_files(cfg, module, pairs.paths, workspace)
    texts = encode_texts(cfg, module, pairs.texts)
    ranks = relevant_ranks(texts, images, pairs.image_of_text)
    workspace.items("pairs_text_to_image_recall_at_10", (ranks <= CUTS[-1]).double().tolist())
    show(workspace, images, texts, pairs)
    show_extremes(workspace, images, texts, pairs, ranks)
    return recalls(images, texts, pairs)


def recalls(images: Tensor, texts: Tensor, pairs: HeldOutPairs) -> dict[str, float]:
    """The metrics of `evaluate_pairs`, of unit embeddings of images and texts."""
    metrics = image_text_retrieval(images, texts, pairs.image_of_text, CUTS)
    return {f"pairs_{name}": value for name, value in metrics.items()}


def encode_files(
    cfg: ImageTextConfig, module: ImageTextModule, paths: list[Path], workspace: Workspace
) -> Tensor:
    """Unit embeddings (I, D) of picture files, on the CPU."""
    transform, device = eval_transform(cfg.data), module.logit_scale.log_scale.device
    files = im.ImageFiles(paths.__getitem__, len(paths), transform)

    def encode(rows: list[int]) -> Tensor:
        pixels, kept = files.load(rows)
        if len(kept) < len(rows):
            bad = next(row for place, row in enumerate(rows) if place not in kept)
            raise UserError(
                f"{paths[bad]} cannot be read as a picture: fix it or take its rows out"
            )
        return module.encoder.encode_image(pixels.to(device)).float()

    order = list(range(len(paths)))
    features = encoding.encode(
        encode,
        order,
        batch_size=cfg.eval.batch_size,
        progress=workspace.progress,
        description="pictures",
    )
    return F.normalize(features, dim=1)


def show_extremes(
    workspace: Workspace, images: Tensor, texts: Tensor, pairs: HeldOutPairs, ranks: Tensor
) -> None:
    """Galleries of the captions whose image is ranked best and worst."""
    order = ranks.argsort(stable=True).tolist()
    for title, chosen in (("best captions", order[:FEW]), ("worst captions", order[::-1][:FEW])):
        rows = []
        for i in chosen:
            best = (images @ texts[i]).topk(min(FEW, len(images)))
            results = [
                {
                    "item": small(pairs.paths[j]),
                    "score": score,
                    "correct": j == int(pairs.image_of_text[i]),
                }
                for score, j in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            rows.append({"query": f"{pairs.texts[i]} (rank {int(ranks[i])})", "results": results})
        workspace.gallery(title, rows)


def show(workspace: Workspace, images: Tensor, texts: Tensor, pairs: HeldOutPairs) -> None:
    """Galleries in both directions, of the first captions of each picture."""
    first = {image: text for text, image in reversed([*enumerate(pairs.image_of_text.tolist())])}
    chosen = [first[i] for i in range(len(images))]
    pictures: list[Any] = [small(path) for path in pairs.paths[:SHOWN]]
    count = len(pictures)
    captions = [pairs.texts[t] for t in chosen[:count]]
    scores = images[:count] @ texts[chosen[:count]].T
    right = list(range(count))
    workspace.gallery(
        "captions to pictures", retrieval_gallery(scores.T, captions, pictures, right)
    )
    workspace.gallery("pictures to captions", retrieval_gallery(scores, pictures, captions, right))


def small(path: Path) -> Image.Image:
    """A picture for a gallery."""
    small = decode_image(path).convert("RGB")
    small.thumbnail((SHOWN, SHOWN))
    return small
