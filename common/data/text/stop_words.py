"""English function words, and their removal from captions."""

import string
from dataclasses import dataclass

from common.data.samplers import Rng

# Pronouns, auxiliaries, prepositions, conjunctions, adverbs of degree, and contractions with their
# pieces: the classes of words in NLTK's English list.
_PRONOUNS = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her
hers herself it its itself they them their theirs themselves what which who whom this that these
those
"""
_VERBS = """
am is are was were be been being have has had having do does did doing can will should now ain aren
couldn didn doesn don hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren won wouldn
aren't couldn't didn't doesn't don't hadn't hasn't haven't isn't it's mightn't mustn't needn't
shan't she's should've shouldn't that'll wasn't weren't won't wouldn't you'd you'll you're you've
d ll m o re s t ve y
"""
_PARTICLES = """
a an the and but if or because as until while of at by for with about against between into through
during before after above below to from up down in out on off over under again further then once
here there when where why how all any both each few more most other some such no nor not only own
same so than too very just
"""
FUNCTION_WORDS = frozenset(f"{_PRONOUNS} {_VERBS} {_PARTICLES}".split())


@dataclass(frozen=True)
class StopWordFilter:
    """Deletes the function words of a text, with a probability; what would be empty stays.

    A word counts without the punctuation around it, in lower case.

    Source: Fini et al. 2023, arXiv 2305.08675, official code.

    Attributes:
        prob: probability that a text is filtered, in [0, 1].

    >>> import numpy as np
    >>> StopWordFilter(1.0)("A photo of the cat.", np.random.default_rng(0))
    'photo cat.'
    """

    prob: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise ValueError(f"prob must be in [0, 1], got {self.prob}")

    def __call__(self, text: str, rng: Rng) -> str:
        """The filtered or the given text."""
        if rng.random() >= self.prob:
            return text
        words = text.split()
        kept = [w for w in words if w.strip(string.punctuation).lower() not in FUNCTION_WORDS]
        return " ".join(kept) or text
