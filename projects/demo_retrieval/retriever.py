"""Frozen retrievers: DPR's two encoders, any dense encoder, or TF-IDF with an SVD.

Never trained with the generator.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.length_groups import in_batches_by_length
from common.encoders.modes import evaluation_mode
from common.encoders.state_dict import read_state_dict, weights_digest
from common.encoders.text.tower import load_tokenizer, load_transformer, text_tower
from common.engine.module import freeze
from common.export.files import write_json, write_tensors
from projects.demo_retrieval.config import RetrieverConfig

VECTORS, TERMS = "retriever.safetensors", "retriever.json"


class Retriever(Protocol):
    """Two encoders with a dot product."""

    def questions(self, texts: Sequence[str]) -> Tensor:
        """E_q of N texts, (N, D) float32 on the CPU."""

    def demonstrations(self, texts: Sequence[str]) -> Tensor:
        """E_d of N texts, (N, D) float32 on the CPU."""

    def fingerprint(self) -> str:
        """Hash of everything that the vectors depend on, besides the texts."""

    def save(self, folder: Path) -> None:
        """Write what `load_retriever` needs besides the config."""


class TfidfSvd:
    """Words weighted by TF-IDF, reduced by an SVD, unit length: a retriever without a network.

    Source: Deerwester et al. 1990, "Indexing by latent semantic analysis".

    Args:
        terms: the vocabulary, in the order of `idf`.
        idf: (W,).
        components: (D, W) of the SVD.
    """

    def __init__(self, terms: Sequence[str], idf: Tensor, components: Tensor) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.terms, self.idf, self.components = list(terms), idf.float(), components.float()
        self._words = TfidfVectorizer(
            sublinear_tf=True, vocabulary={t: i for i, t in enumerate(self.terms)}
        )
        self._words.idf_ = self.idf.numpy().astype(np.float64)

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int) -> "TfidfSvd":
        """Fitted to the texts of a bank, once; afterwards frozen like the others.

        Raises:
            UserError: texts without words.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(sublinear_tf=True)
        try:
            table = words.fit_transform(texts)
        except ValueError as error:
            raise UserError(f"the retriever cannot be fitted to the bank: {error}") from error
        rank = min(dim, min(table.shape) - 1)
        if rank < 1:
            raise UserError("the retriever needs a bank of at least two different texts")
        svd = TruncatedSVD(rank, n_iter=3, random_state=0).fit(table)
        terms = [str(t) for t in words.get_feature_names_out()]
        return cls(
            terms, torch.from_numpy(words.idf_.copy()), torch.from_numpy(svd.components_.copy())
        )

    def questions(self, texts: Sequence[str]) -> Tensor:
        """As `demonstrations`."""
        return self.demonstrations(texts)

    def demonstrations(self, texts: Sequence[str]) -> Tensor:
        """(N, D), unit rows; zeros for a text without a known word."""
        table = self._words.transform(list(texts)) @ self.components.numpy().astype(np.float64).T
        return nn.functional.normalize(torch.from_numpy(np.asarray(table)), dim=1).float()

    def knows(self, texts: Sequence[str]) -> list[bool]:
        """Whether a text has a known word.

        The vectors of those without are alike whatever they say.
        """
        return [bool(count) for count in self._words.transform(list(texts)).getnnz(1)]

    def fingerprint(self) -> str:
        """Of terms, weights and components."""
        digest = hashlib.sha256(json.dumps(self.terms).encode())
        for part in (self.idf, self.components):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Terms as JSON, numbers as safetensors."""
        write_json(folder / TERMS, {"terms": self.terms})
        write_tensors(folder / VECTORS, {"idf": self.idf, "components": self.components})


class DenseRetriever:
    """Two frozen text encoders, with gradients off and dropout off.

    Args:
        question: (ids, mask) -> (B, D).
        context: of the demonstrations.
        tokenizers: of both.
        max_length: tokens of a text; longer ones are cut on their right.
        form: kind and pooling, which the weights don't tell.
        accelerator: ``cfg.trainer.accelerator``; "cpu" leaves the encoders where they are.
    """

    def __init__(
        self,
        question: nn.Module,
        context: nn.Module,
        tokenizers: tuple[Any, Any],
        max_length: int,
        form: str = "dpr",
        accelerator: str = "auto",
    ) -> None:
        self.question, self.context = freeze(question), freeze(context)
        self.tokenizers, self.max_length, self.form = tokenizers, max_length, form
        self.accelerator = accelerator

    def questions(self, texts: Sequence[str]) -> Tensor:
        """E_q."""
        return self._encode(self.question, self.tokenizers[0], texts)

    def demonstrations(self, texts: Sequence[str]) -> Tensor:
        """E_d."""
        return self._encode(self.context, self.tokenizers[1], texts)

    def fingerprint(self) -> str:
        """Of kind and pooling, weights and tokenizers of both encoders, and the length of texts."""
        parts = [self.form, str(self.max_length)]
        parts += [weights_digest(encoder) for encoder in (self.question, self.context)]
        parts += [tokenizer_digest(tokenizer) for tokenizer in self.tokenizers]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Nothing: the config names the weights."""

    def _encode(
        self, encoder: nn.Module, tokenizer: Any, texts: Sequence[str], batch_size: int = 64
    ) -> Tensor:
        device = next(encoder.parameters()).device
        if torch.cuda.is_available() and device.type == "cpu" and self.accelerator != "cpu":
            encoder.to("cuda")
            device = torch.device("cuda")

        def vectors(rows: list[int]) -> Tensor:
            batch = tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
            embeddings: Tensor = encoder(ids, mask)
            return embeddings.float()

        with evaluation_mode(encoder):
            return in_batches_by_length(vectors, [len(text) for text in texts], batch_size)


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of a tokenizer: the whole pipeline of a fast one, else the vocabulary."""
    if hasattr(tokenizer, "backend_tokenizer"):
        about = json.loads(tokenizer.backend_tokenizer.to_str())
        for call in ("truncation", "padding"):  # what the last call asked for
            about.pop(call, None)
    else:
        about = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class _Pooled(nn.Module):
    """A DPR encoder as ids -> vectors.

    Args:
        model: whose `pooler_output` is the vector of its first token.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, D), not normalised."""
        pooled: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask
        ).pooler_output
        return pooled


def build_retriever(
    cfg: RetrieverConfig, texts: Callable[[], Sequence[str]], accelerator: str = "auto"
) -> Retriever:
    """The retriever of a config.

    Args:
        cfg: its section.
        texts: of the bank, which TF-IDF is fitted to.
        accelerator: see `DenseRetriever`.

    Raises:
        UserError: absent or unfitting weights.
    """
    if cfg.kind == "tfidf_svd":
        return TfidfSvd.fit(texts(), cfg.dim)
    assert cfg.question is not None
    names = (cfg.question, cfg.context or cfg.question)
    if cfg.kind == "dpr":
        from transformers import DPRContextEncoder, DPRQuestionEncoder

        if cfg.context is None:
            raise UserError("retriever.kind=dpr needs retriever.context, DPR's second encoder")
        kinds = (DPRQuestionEncoder, DPRContextEncoder)
        sides: list[nn.Module] = [
            _Pooled(load_transformer(name, auto_class=kind))
            for name, kind in zip(names, kinds, strict=True)
        ]
    else:
        sides = [text_tower(name, cfg.pooling) for name in names]
    form = cfg.kind if cfg.kind == "dpr" else f"{cfg.kind} {cfg.pooling}"
    tokenizers = load_tokenizer(names[0]), load_tokenizer(names[1])
    return DenseRetriever(sides[0], sides[1], tokenizers, cfg.max_length, form, accelerator)


def load_retriever(cfg: RetrieverConfig, folder: Path, accelerator: str = "auto") -> Retriever:
    """The retriever of an exported folder.

    Args:
        cfg: the folder's section of the config.
        folder: see `folder.export`.
        accelerator: see `DenseRetriever`.

    Raises:
        UserError: damaged files, or absent weights.
    """
    if cfg.kind != "tfidf_svd":
        return build_retriever(cfg, list, accelerator)
    try:
        about: Mapping[str, Any] = json.loads((folder / TERMS).read_text(encoding="utf-8"))
        terms = list(map(str, about["terms"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / TERMS} is not an exported retriever: {error!r}") from error
    state = read_state_dict(folder / VECTORS)
    return TfidfSvd(terms, state["idf"], state["components"])
