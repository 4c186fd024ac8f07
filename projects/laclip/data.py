"""Texts of a training sample: rewrites of the caption, or the caption altered word by word."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.data.image_text.captions import CaptionedImages, TextSource
from common.data.image_text.drawings import FRAMES
from common.data.module import ContrastiveData
from common.data.samplers import Rng, sample_rng
from common.data.text.augment import Eda, WordDropout
from common.data.text.tokenizers import ClipTokenizer
from common.data.text.wordnet import wordnet_synonyms
from common.families.image_text.data import image_text_data
from common.families.image_text.module import build_tokenizer
from common.families.image_text.pairs import read_pairs
from projects.laclip.config import Config, LaclipData

REWRITES_FROM = "https://github.com/LijieFan/LaCLIP, or write them with TASK=rewrite"
TRIES = 10  # draws of an augmentation until it alters the text
VERSION_STREAM, FRAME_STREAM = 13, 14  # independent random streams of one sample
Augment = Callable[[str, Rng], str]


def altered(augment: Augment, text: str, rng: Rng) -> str:
    """What an augmentation makes of a text, drawn again while that is the text itself.

    Two words stay two at least. A text that no draw alters (one word without synonyms) is returned.
    """
    words = text.split()
    for _ in range(TRIES):
        augmented = augment(text, rng)
        if augmented.split() != words and len(augmented.split()) >= min(2, len(words)):
            return augmented
    return text


@dataclass(frozen=True)
class Sometimes:
    """Alters a text with a probability, see `altered`."""

    augment: Augment
    prob: float

    def __call__(self, text: str, rng: Rng) -> str:
        """The altered or the given text."""
        return text if rng.random() >= self.prob else altered(self.augment, text, rng)


@dataclass(frozen=True)
class Versions:
    """A caption and M altered versions of it, which a seed fixes."""

    captions: TextSource
    augment: Augment
    count: int
    seed: int

    def __len__(self) -> int:
        return len(self.captions)

    def texts(self, index: int) -> list[str]:
        """The caption first."""
        caption = self.captions.texts(index)[0]
        rngs = [sample_rng(self.seed, m, index, VERSION_STREAM) for m in range(self.count)]
        return [caption, *(altered(self.augment, caption, rng) for rng in rngs)]


@dataclass(frozen=True)
class Formed:
    """Rewrites in a form of `LaclipData.text_form`."""

    captions: TextSource
    form: str
    seed: int

    def __len__(self) -> int:
        return len(self.captions)

    def texts(self, index: int) -> list[str]:
        """The caption first; of form joined all texts as one."""
        caption, *others = self.captions.texts(index)
        if self.form == "joined":
            return [", ".join(dict.fromkeys([caption, *others]))]
        return [caption, *(self._one(caption, other, index, m) for m, other in enumerate(others))]

    def _one(self, caption: str, other: str, index: int, m: int) -> str:
        if self.form == "framed":
            frames = FRAMES[m % len(FRAMES)]
            rng = sample_rng(self.seed, m, index, FRAME_STREAM)
            return frames[int(rng.integers(len(frames)))].format(caption)
        if other == caption:
            return caption
        return f"{other}, {caption}" if m % 2 else f"{caption}, {other}"


def word_augmentation(data: LaclipData) -> Augment | None:
    """EDA or word dropout; back-translation is a text file, hence None."""
    if data.augmentation == "eda":
        return Eda(wordnet_synonyms(None, data.root), data.augment_strength)
    return WordDropout(data.augment_strength) if data.augmentation == "word_dropout" else None


def build_data(cfg: Config, tokenizer: ClipTokenizer) -> ContrastiveData:
    """Pairs whose text is drawn at every access; with multi-text the original and others."""
    if cfg.eval.pairs is not None:  # refused here rather than after the training
        read_pairs(cfg, cfg.eval.pairs)
    data, augment = cfg.data, word_augmentation(cfg.data)
    anew = augment is not None and data.num_rewrites is None
    built = image_text_data(
        cfg,
        tokenizer,
        text_policy="multi" if cfg.method.num_texts > 1 else "random",
        num_texts=cfg.method.num_texts,
        augment_text=Sometimes(augment, data.augment_prob) if augment and anew else None,
        texts_from=REWRITES_FROM,
    )
    pairs = built.train_set
    if isinstance(pairs, CaptionedImages):  # the config refuses these settings for a stream
        if augment and not anew:
            pairs.captions = Versions(pairs.captions, augment, data.num_rewrites or 0, cfg.seed)
        elif data.text_form != "given":
            pairs.captions = Formed(pairs.captions, data.text_form, cfg.seed)
    return built


def training_pairs(cfg: Config) -> CaptionedImages:
    """The training set of a config that is no stream."""
    pairs = build_data(cfg, build_tokenizer(cfg.model)).train_set
    assert isinstance(pairs, CaptionedImages)
    return pairs


def caption_of(pairs: CaptionedImages, row: int) -> str:
    """The original caption of a training image, whatever its texts are made to be."""
    captions = pairs.captions
    return (captions.captions if isinstance(captions, Formed) else captions).texts(row)[0]


def drawn_texts(pairs: CaptionedImages, epochs: int = 8, step: int = 16) -> dict[str, float]:
    """How varied the texts of training are, over some epochs of every 16th image.

    ``text_altered_share``: drawn texts that are not the caption. ``texts_per_image``: different
    texts of an image in these epochs.
    """
    rows = range(0, len(pairs), step)
    drawn = [pairs[[(i, epoch) for i in rows]]["texts"] for epoch in range(epochs)]
    texts = [[_last(batch[k]) for batch in drawn] for k in range(len(rows))]
    other = [t != caption_of(pairs, i) for i, row in zip(rows, texts, strict=True) for t in row]
    return {
        "text_altered_share": sum(other) / len(other),
        "texts_per_image": sum(len(set(variants)) for variants in texts) / len(texts),
    }


def _last(text: Any) -> str:
    """The text, or the rewrite of multi-text."""
    return str(text if isinstance(text, str) else text[-1])
