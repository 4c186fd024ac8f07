"""Texts of a training sample: rewrites of the caption, or the caption altered word by word."""

from collections.abc import Callable
from dataclasses import dataclass

from common.data.lookup import bundled
from common.data.module import ContrastiveData
from common.data.samplers import Rng
from common.data.tables import read_jsonl
from common.data.text.augment import Eda, WordDropout, synonyms_from_synsets
from common.data.text.tokenizers import ClipTokenizer
from common.families.image_text.data import image_text_data
from projects.laclip.config import Config, LaclipData

REWRITES_FROM = "https://github.com/LijieFan/LaCLIP, or write them with TASK=rewrite"


@dataclass(frozen=True)
class Sometimes:
    """Alters a text with a probability; a result of fewer than two words is not used."""

    augment: Callable[[str, Rng], str]
    prob: float

    def __call__(self, text: str, rng: Rng) -> str:
        """The altered or the given text."""
        if rng.random() >= self.prob:
            return text
        altered = self.augment(text, rng)
        return altered if len(altered.split()) >= 2 else text


def text_augmentation(data: LaclipData) -> Sometimes | None:
    """EDA or word dropout as configured; back-translation is a rewrite file, hence None."""
    if data.augmentation == "eda":
        synsets = read_jsonl(bundled("wordnet/synsets.jsonl.gz", data.root), ["lemmas"])
        return Sometimes(
            Eda(synonyms_from_synsets(synsets), data.augment_strength), data.augment_prob
        )
    if data.augmentation == "word_dropout":
        return Sometimes(WordDropout(data.augment_strength), data.augment_prob)
    return None


def build_data(cfg: Config, tokenizer: ClipTokenizer) -> ContrastiveData:
    """Pairs whose text is drawn at every access; with multi-text the original and others."""
    return image_text_data(
        cfg,
        tokenizer,
        text_policy="multi" if cfg.method.num_texts > 1 else "random",
        num_texts=cfg.method.num_texts,
        augment_text=text_augmentation(cfg.data),
        texts_from=REWRITES_FROM,
    )
