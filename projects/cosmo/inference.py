"""An exported model for use: texts for pictures, continued prompts, vectors of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.image.upright import upright
from common.encoders.modes import evaluation_mode
from projects.cosmo import folder as exported
from projects.cosmo.batches import Pixels, Words
from projects.cosmo.few_shot import Item, Prompt, few_shot_prompt
from projects.cosmo.interleaved.documents import END_OF_CHUNK
from projects.cosmo.module import COSMO


class Embeddings(NamedTuple):
    """Unit vectors of pictures and texts, always in this order; None for what was not given."""

    visual: Tensor | None
    text: Tensor | None


class PictureModel:
    """A module behind prompts of texts and pictures.

    Args:
        module: with its image tower.
        batch_size: pictures or texts of a pass.
    """

    def __init__(self, module: COSMO, batch_size: int = 64) -> None:
        self.module, self.batch_size = module, batch_size
        self.words = Words(module.tokenizer, module.cfg.data)
        self.pixels = Pixels(module.tower, module.cfg.data)

    def __call__(self, images: Sequence[Any], question: str | None = None) -> list[str]:
        """A caption for each picture, or the answer to a question about it.

        Args:
            images: PIL images or files; a list of them is the frames of one clip.
            question: one for all.

        Raises:
            UserError: a file that is not an image.
        """
        if question is None:
            return self.write([Prompt("<visual>", (image,)) for image in images])
        prompts = [few_shot_prompt("vqa", [], Item(image, (), question), 1) for image in images]
        return self.write(prompts, self.module.cfg.eval.vqa_tokens)

    def write(self, prompts: Sequence[Prompt], max_new_tokens: int | None = None) -> list[str]:
        """Continuations of texts with a picture for each ``<visual>``.

        Args:
            prompts: texts and pictures.
            max_new_tokens: None: those of a caption.

        Raises:
            UserError: a prompt whose places and pictures differ in number, or no picture at all.
        """
        most = max_new_tokens or self.module.cfg.eval.max_new_tokens
        texts: list[str] = []
        for start in range(0, len(prompts), self.batch_size):
            part = list(prompts[start : start + self.batch_size])
            for prompt in part:
                if prompt.text.count("<visual>") != len(prompt.pictures):
                    raise UserError(
                        f"{len(prompt.pictures)} pictures for the places in {prompt.text!r}"
                    )
            media = self._media([p.pictures for p in part])
            ids, mask = self._left(part)
            texts += continued(self.module, media, ids, mask, most)
        return texts

    def embed(self, images: Sequence[Any] = (), texts: Sequence[str] = ()) -> Embeddings:
        """Unit vectors (N, E) of pictures and of texts, by the latent heads.

        Raises:
            UserError: a model that was trained without contrastive loss.
        """
        network, device = self.module.network, self.module.device
        visual, text = [], []
        with evaluation_mode(self.module):
            for start in range(0, len(images), self.batch_size):
                patches = self._patches([(i,) for i in images[start : start + self.batch_size]])
                visual.append(F.normalize(network.embed_images(patches), dim=1).cpu())
            for start in range(0, len(texts), self.batch_size):
                ids, mask = text_batch(self.words, texts[start : start + self.batch_size])
                text.append(
                    F.normalize(network.embed_texts(ids.to(device), mask.to(device)), dim=1).cpu()
                )
        return Embeddings(torch.cat(visual) if visual else None, torch.cat(text) if text else None)

    # -- batches ---------------------------------------------------------------------------------

    def _frames(self, picture: Any) -> Tensor:
        frames = picture if isinstance(picture, list | tuple) else [picture]
        return self.pixels([opened(frame) for frame in frames], None)

    def _patches(self, pictures: Sequence[Sequence[Any]]) -> Tensor:
        """(B, T, F, N, D_v), zeros where a row has fewer pictures."""
        tensors = [[self._frames(p) for p in row] for row in pictures]
        places = max(1, *(len(row) for row in tensors))
        shape = next((t.shape for row in tensors for t in row), None)
        if shape is None:
            raise UserError("no text has a picture: give one a <visual> with its picture")
        whole = torch.zeros(len(tensors), places, *shape)
        for line, row in zip(whole, tensors, strict=True):
            for place, tensor in enumerate(row):
                line[place] = tensor
        batch: Any = {"pixels": whole}
        return self.module.patches(batch)

    def _media(self, pictures: Sequence[Sequence[Any]]) -> Tensor:
        with evaluation_mode(self.module):
            return self.module.network.media(self._patches(pictures))[0]

    def _left(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        rows = [self.words(p.text, ended=False) for p in prompts]
        length = max(map(len, rows))
        ids = torch.tensor([[self.words.pad] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        return ids.to(self.module.device), mask.to(self.module.device)


def continued(
    module: COSMO, media: Tensor, ids: Tensor, mask: Tensor, max_new_tokens: int
) -> list[str]:
    """Continuations of prompts up to the end of a chunk, by beam search.

    Args:
        module: with its tokenizer.
        media: (B, T, Q, D_v), see `CosmoNetwork.media`.
        ids: (B, L), padded on the left.
        mask: (B, L).
        max_new_tokens: at most.
    """
    options, tokenizer = module.cfg.eval, module.tokenizer
    ends = [int(tokenizer.convert_tokens_to_ids(END_OF_CHUNK)), int(tokenizer.eos_token_id)]
    beams: dict[str, Any] = (
        {"length_penalty": options.length_penalty} if options.num_beams > 1 else {}
    )
    with evaluation_mode(module):
        out = module.network.language.generate(
            ids,
            mask,
            media,
            num_beams=options.num_beams,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            **beams,
        )
    rows = []
    for row in out.tolist():
        cut = min([row.index(end) for end in ends if end in row], default=len(row))
        rows.append(row[:cut])
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [text.strip() for text in texts]


def text_batch(words: Words, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids (B, L) and mask of texts without pictures.

    L is the longest caption where padding is read too.
    """
    rows = [words.text(text) for text in texts]
    length = max(map(len, rows))
    ids = torch.tensor([row + [words.pad] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask


def opened(image: Any) -> Image.Image:
    """A PIL image or the image of a file as RGB, turned as its camera says.

    Raises:
        UserError: a file that is not an image.
    """
    if isinstance(image, Image.Image):
        return upright(image)
    path = Path(image).expanduser()
    if not path.is_file():
        raise UserError(f"there is no picture {path}")
    return upright(path)


class Cosmo(PictureModel):
    """A folder written by `make export`, with the towers that it names.

    Raises:
        UserError: not such a folder, or absent weights.
    """

    def __init__(self, folder: str | Path) -> None:
        place = Path(folder)
        super().__init__(exported.load(exported.config_of(place), place))
