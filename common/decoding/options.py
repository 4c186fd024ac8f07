"""How text is decoded, and who decodes it: plain options, without torch."""

import re
from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_args

from common.config import UserError
from common.ranges import Count, Inner, NonNegative, Positive, Probability, Share, Whole, between

Strategy = Literal[
    "greedy",
    "beam_search",
    "ancestral",
    "nucleus",
    "top_k",
    "typical",
    "contrastive_search",
    "contrastive_decoding",
]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
SAMPLING: tuple[Strategy, ...] = ("ancestral", "nucleus", "top_k", "typical")


@dataclass(frozen=True)
class Policy:
    """A decoding strategy with its options; an option that the strategy lacks has no effect.

    Sources: nucleus: Holtzman et al. 2020, arXiv 1904.09751; top-k: Fan et al. 2018, arXiv
    1805.04833; typical: Meister et al. 2023, arXiv 2202.00666; contrastive search: Su et al. 2022,
    arXiv 2202.06417; contrastive decoding: Li et al. 2023, arXiv 2210.15097; repetition penalty:
    Keskar et al. 2019, arXiv 1909.05858.
    """

    strategy: Strategy = "nucleus"
    temperature: float = 1.0  # of the sampling strategies, > 0
    top_p: float = 0.9  # nucleus, in (0, 1]
    top_k: int = 40  # top_k
    typical_p: float = 0.9  # typical, in (0, 1)
    candidates: int = 5  # contrastive_search
    penalty: float = 0.6  # contrastive_search, alpha in [0, 1]
    exclude_prefix: bool = False  # contrastive_search: only new tokens are looked back at
    nucleus_tokens: int = 0  # contrastive_search: so many first tokens by nucleus sampling
    num_beams: int = 4  # beam_search
    min_new_tokens: int = 0  # no text ends before, by its end or by a stop character
    # of all strategies but contrastive_search, prompt included
    no_repeat_ngram: int = 0  # n-grams of this length never come twice; 0: off
    repetition_penalty: float = 1.0  # > 0, of tokens that were there before; 1: off
    plausibility: float = 0.1  # contrastive_decoding, alpha in (0, 1]
    amateur_temperature: float = 0.5  # contrastive_decoding, > 0
    amateur_context: int | None = 1  # tokens that the amateur sees; None: all

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"strategy must be one of {STRATEGIES}, got {self.strategy!r}")
        if min(self.temperature, self.amateur_temperature) <= 0 or not 0 < self.top_p <= 1:
            raise UserError("decoding needs temperatures > 0 and top_p in (0, 1]")
        if min(self.top_k, self.candidates) < 1 or not 0 < self.typical_p < 1:
            raise UserError("decoding needs top_k, candidates >= 1 and typical_p in (0, 1)")
        if not 0 <= self.penalty <= 1 or not 0 < self.plausibility <= 1:
            raise UserError("decoding needs penalty in [0, 1] and plausibility in (0, 1]")
        counts = (self.nucleus_tokens, self.no_repeat_ngram, self.min_new_tokens)
        if min(counts) < 0 or self.num_beams < 1:
            raise UserError(
                "decoding needs nucleus_tokens, no_repeat_ngram, min_new_tokens >= 0 and num_beams"
                " >= 1"
            )
        if self.repetition_penalty <= 0:
            raise UserError("decoding needs repetition_penalty > 0")
        if self.exclude_prefix and self.nucleus_tokens:
            raise UserError("exclude_prefix is for contrastive search without nucleus_tokens")

    @property
    def samples(self) -> bool:
        """Whether the result depends on a random stream."""
        opens = self.strategy == "contrastive_search" and self.nucleus_tokens > 0
        return self.strategy in SAMPLING or opens

    @property
    def looks_back(self) -> bool:
        """Whether scores depend on the tokens of the prompt itself, padding included."""
        return self.no_repeat_ngram > 0 or self.repetition_penalty != 1.0


@dataclass
class DecoderConfig:
    """A `Policy` as a section of a config."""

    strategy: Strategy = "greedy"
    temperature: Positive = 1.0
    top_p: Share = 0.95
    top_k: Count = 50
    typical_p: Inner = 0.95
    candidates: Count = 5
    penalty: Probability = 0.6
    exclude_prefix: bool = False
    nucleus_tokens: Whole = 0
    num_beams: Count = 4
    no_repeat_ngram: Whole = 0
    repetition_penalty: Positive = 1.0

    def policy(self) -> Policy:
        """Its policy."""
        return Policy(**{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass
class ServerConfig:
    """A server with OpenAI's interface (vLLM, SGLang, llama.cpp) in place of a local model."""

    endpoint: str | None = (
        None  # base address such as http://localhost:8000/v1; None: a local model
    )
    # completions continues a text, as a local model does; chat answers it, under the model's
    # template
    api: Literal["completions", "chat"] = "completions"
    served_model: str | None = None  # name of the model at the server; None: that of the local one
    api_key_variable: str | None = None  # environment variable whose value is sent as the key
    requests: Annotated[int, between(1, 1024)] = 16  # in flight at a time
    timeout: Positive = 120.0  # seconds for one whole answer
    max_empty: Probability = 0.1  # tolerated share of answers without text
    retries: Whole = 5  # further attempts after a timeout, a refused connection, 429 or 5xx
    retry_seconds: NonNegative = 1.0  # before the first of them; doubled each time

    def __post_init__(self) -> None:
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"generator.endpoint={self.endpoint}: give an address such as "
                "http://localhost:8000/v1"
            )
        if self.endpoint is not None and re.search(
            r"[@?#]", self.endpoint
        ):  # keys are kept in runs
            raise ValueError(
                "generator.endpoint holds a user name, a password or a query: give the bare address,"
                " and the name of the environment variable with the key in"
                " generator.api_key_variable"
            )
