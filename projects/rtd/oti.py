"""Textual inversion of single images by optimisation (SEARLE's first stage), and its phrases."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.samplers import sample_rng
from common.data.tables import text_of
from common.distributed.process import gather_objects, rank, world_size
from projects.rtd.composer import Composer
from projects.rtd.config import SearleConfig
from projects.rtd.hosts import phrase_loss
from projects.rtd.pseudo_tokens import PLACEHOLDER, without_placeholder

INVERT_STREAM, TOKEN_STD = 81, 0.02
TEMPLATES = ("a photo of {}", "a picture of {}", "an image of {}", "a depiction of {}")
# where no language model has written phrases
SENTENCES = ("{} on a table", "someone looks at {}", "a drawing that shows {}", "this is {}")


class Phrases:
    """Phrases of concepts.

    Args:
        concepts: words or short phrases.
        written: concept -> phrases that hold it; concepts without any have `SENTENCES`.

    Raises:
        UserError: no concept.
    """

    def __init__(
        self, concepts: Sequence[str], written: dict[str, list[str]] | None = None
    ) -> None:
        if not concepts:
            raise UserError("SEARLE needs concepts: phi.searle.vocabulary, one concept per line")
        self.concepts = [without_placeholder(c) for c in concepts]
        self.written = written or {}

    def draw(self, place: int, rng: object) -> tuple[str, str]:
        """A phrase of a concept, and the same with ``$`` in its place."""
        import numpy as np

        assert isinstance(rng, np.random.Generator)
        concept = self.concepts[place]
        phrases = [p for p in self.written.get(concept, ()) if concept in p]
        phrase = (
            phrases[rng.integers(len(phrases))]
            if phrases
            else SENTENCES[rng.integers(len(SENTENCES))].format(concept)
        )
        phrase = without_placeholder(phrase)
        return phrase, phrase.replace(concept, PLACEHOLDER, 1)


def read_phrases(path: str | None) -> dict[str, list[str]]:
    """What ``TASK=phrases`` wrote; nothing without a file.

    Raises:
        UserError: no such file, or another content.
    """
    if path is None:
        return {}
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        return {str(k): [text_of(p) for p in v] for k, v in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} is not JSON of concept -> phrases (TASK=phrases): {error}"
        ) from error


def over_ranks(size: int, batch_size: int, make: Callable[[int], Tensor]) -> Tensor:
    """Rows of blocks, which the ranks share, in the order of the blocks and on every rank.

    Args:
        size: number of rows.
        batch_size: rows of a block; the last one may be smaller.
        make: first row of a block -> its rows, on the CPU.
    """
    starts = range(0, size, batch_size)
    local = {start: make(start) for start in starts[rank() :: world_size()]}
    blocks = {start: rows for part in gather_objects(local) for start, rows in part.items()}
    return torch.cat([blocks[start] for start in starts])


@torch.no_grad()
def nearest_concepts(
    composer: Composer, images: Tensor, phrases: Phrases, count: int, batch_size: int = 256
) -> Tensor:
    """Places (N, count) of the concepts whose sentences are nearest to each image (N, P)."""
    parts = []
    for start in range(0, len(phrases.concepts), batch_size):
        rows = phrases.concepts[start : start + batch_size]
        parts.append(composer.anchor(composer.tokens([TEMPLATES[0].format(c) for c in rows])))
    texts = F.normalize(torch.cat(parts).float(), dim=1)
    scores = F.normalize(images.float(), dim=1).to(texts.device) @ texts.T
    return scores.topk(min(count, texts.shape[0]), dim=1).indices.cpu()


def invert(
    composer: Composer,
    images: Tensor,
    near: Tensor,
    phrases: Phrases,
    options: SearleConfig,
    seed: int,
) -> Tensor:
    """A token for each image whose sentences are near the image, and which stays a word in phrases.

        L = w_c (1 - cos(psi_T("a photo of v"), psi_I(image)))
            + w_p (1 - cos(phrase, phrase with v))

    Source: Baldrati et al. 2023, arXiv 2303.15247 (optimisation-based textual inversion).

    Args:
        composer: frozen.
        images: (N, P) image embeddings.
        near: (N, C) places of near concepts.
        phrases: of the concepts.
        options: steps, weights, learning rate.
        seed: of start, sentences and phrases.

    Returns:
        (N, F) averaged tokens, on the CPU; the ranks share the images.
    """

    def block(start: int) -> Tensor:
        part = images[start : start + options.batch_size].to(composer.device)
        rng = sample_rng(seed, 0, start, INVERT_STREAM)
        drawn_start = rng.standard_normal((len(part), composer.student.width)) * TOKEN_STD
        token = torch.from_numpy(drawn_start).float().to(composer.device).requires_grad_()
        mean = token.detach().clone()
        optimizer = torch.optim.AdamW([token], lr=options.lr, weight_decay=options.weight_decay)
        for _ in range(options.steps):
            sentence = TEMPLATES[rng.integers(len(TEMPLATES))].format(PLACEHOLDER)
            text = composer.anchor(composer.tokens([sentence] * len(part)), token)
            loss = options.image_weight * phrase_loss(part, text)
            choice = rng.integers(near.shape[1], size=len(part))
            drawn = [
                phrases.draw(int(near[start + i, c]), rng) for i, c in enumerate(choice.tolist())
            ]
            with torch.no_grad():
                whole = composer.anchor(composer.tokens([p for p, _ in drawn]))
            replaced = composer.anchor(composer.tokens([h for _, h in drawn]), token)
            loss = loss + options.phrase_weight * phrase_loss(whole, replaced)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            mean.lerp_(token.detach(), 1 - options.ema_decay)
        return mean.cpu()

    return over_ranks(len(images), options.batch_size, block)
