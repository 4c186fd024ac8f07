"""The trained student: sentences to vectors, vectors to logits of pairs; its folder on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from common.config import UserError
from common.encoders.heads import PairHead
from common.encoders.modes import evaluation_mode
from common.encoders.text.sentence import SentenceEncoder
from common.export.files import write_files, write_json, write_tensors
from common.export.transformers import save_model
from projects.dse.layer_pooling import LayerTower, layer_encoder

CHUNK = 4096  # pairs whose features are held at once
SETTINGS, WEIGHTS = "dse.json", "dse_head.safetensors"
Texts = Sequence[str] | Tensor  # or what `encode` made of them


class PairScorer(nn.Module):
    """One encoder for both sentences and a head on their vectors.

    Args:
        encoder: around a `LayerTower`.
        head: logits of two vectors; the first is the query's.
        labels: names of the classes in the order of the logits.
    """

    def __init__(
        self, encoder: SentenceEncoder, head: PairHead, labels: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.labels = encoder, head, list(labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, C) of 2 B rows: all first sentences, then all second ones."""
        u, v = self.encoder(input_ids, attention_mask).chunk(2)  # the same weights for both
        logits: Tensor = self.head(u, v)
        return logits

    def encode(self, texts: Sequence[str], batch_size: int = 128) -> Tensor:
        """Vectors (N, D) on the CPU; each distinct text is read once."""
        distinct = list(dict.fromkeys(texts))
        rows = {text: i for i, text in enumerate(distinct)}
        vectors = self.encoder.encode(distinct, batch_size)
        return vectors if len(distinct) == len(texts) else vectors[[rows[text] for text in texts]]

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        batch_size: int = 128,
        *,
        both_orders: bool = False,
    ) -> Tensor:
        """Logits (N, C) of N pairs of texts, in evaluation mode; called as a teacher's `score`.

        Args:
            pairs: (first, second).
            batch_size: texts of a pass.
            both_orders: see `score_sides`.
        """
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        return self.score_sides(first, second, both_orders=both_orders, batch_size=batch_size)

    def score_sides(
        self, first: Texts, second: Texts, *, both_orders: bool = False, batch_size: int = 128
    ) -> Tensor:
        """Logits (N, C) of corresponding texts or vectors, in evaluation mode.

        Args:
            first: N texts, or their vectors (N, D).
            second: the same number.
            both_orders: mean of (first, second) and (second, first); the head is not symmetric.
            batch_size: texts of a pass.
        """
        u, v = self._both(first, second, batch_size)
        parts = []
        with evaluation_mode(self):
            for start in range(0, len(u), CHUNK):
                a, b = u[start : start + CHUNK], v[start : start + CHUNK]
                out = self.head(a, b)
                parts.append((out + self.head(b, a)) / 2 if both_orders else out)
        return torch.cat(parts).cpu()

    def score_all(
        self, queries: Texts, candidates: Texts, *, both_orders: bool = False, batch_size: int = 128
    ) -> Tensor:
        """Logits (Q, K, C) of every query with every candidate: no further pass of the encoder."""
        u, v = self._both(queries, candidates, batch_size)
        with evaluation_mode(self):
            logits = self.head.cross(u, v)
            if both_orders:
                logits = (logits + self.head.cross(v, u).transpose(0, 1)) / 2
        return logits.cpu()

    def rank(
        self,
        queries: Texts,
        candidates: Texts,
        k: int = 5,
        label: str | None = None,
        both_orders: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The k best candidates of every query.

        Args:
            queries: Q texts or vectors.
            candidates: K texts or vectors.
            k: at most K.
            label: class whose log-probability ranks; None: "entailment" where there is such a
                class, else the last one. The one logit of two classes belongs to the second: for
                    the first
                it is turned round (QNLI, RTE). A regression is ranked by its score.
            both_orders: see `score_sides`.

        Returns:
            Scores and indices, (Q, k) each.

        Raises:
            UserError: a label that the task has not.
        """
        logits = self.score_all(queries, candidates, both_orders=both_orders)
        if label is not None and label not in self.labels:
            raise UserError(
                f"no class '{label}'; there are {', '.join(self.labels) or 'none, but a score'}"
            )
        name = label or ("entailment" if "entailment" in self.labels else None)
        place = self.labels.index(name) if name else logits.shape[-1] - 1
        if logits.shape[-1] > 1:
            scores = logits.log_softmax(-1)[..., place]
        else:
            scores = -logits[..., 0] if name and place == 0 else logits[..., 0]
        top = scores.topk(min(k, scores.shape[1]), dim=1)
        return top.values, top.indices

    def _both(self, first: Texts, second: Texts, batch_size: int) -> tuple[Tensor, Tensor]:
        parts = [x for x in (first, second) if not isinstance(x, Tensor)]
        texts = list(dict.fromkeys(text for part in parts for text in part))
        vector_of = dict(zip(texts, self.encode(texts, batch_size), strict=True)) if texts else {}
        device = self.encoder.device
        u, v = (
            x if isinstance(x, Tensor) else torch.stack([vector_of[t] for t in x])
            for x in (first, second)
        )
        dtype = next(self.head.parameters(), u).dtype  # "dot" has no weights
        return u.to(device, dtype), v.to(device, dtype)


def save_scorer(scorer: PairScorer, folder: str | Path) -> Path:
    """Write a folder whose encoder ``AutoModel`` and ``AutoTokenizer`` load.

    ``dse.json`` says how states become vectors, ``dse_head.safetensors`` holds the head (and what
    else stands on the transformer).

    Args:
        scorer: its weights are written in their dtype.
        folder: created if needed; other files in it stay.

    Returns:
        The folder.
    """
    folder, tower = Path(folder), layer_tower(scorer.encoder)
    write_files(folder, lambda new: save_model(scorer.encoder, new))
    tensors = {f"tower.{name}": value for name, value in tower.own_state().items()}
    write_tensors(
        folder / WEIGHTS, tensors | {f"head.{k}": v for k, v in scorer.head.state_dict().items()}
    )
    head = scorer.head
    settings = {
        "max_length": scorer.encoder.max_length,
        "tower": tower.settings,
        "labels": scorer.labels,
        "head": {"kind": head.kind, "hidden_dims": head.hidden_dims, "out_dim": head.out_dim},
    }
    write_json(folder / SETTINGS, settings)
    return folder


def load_scorer(folder: str | Path) -> PairScorer:
    """The student that `save_scorer` wrote, in evaluation mode and float32.

    Raises:
        UserError: not such a folder, or weights that do not fit.
    """
    folder = Path(folder)
    try:
        about: dict[str, Any] = json.loads((folder / SETTINGS).read_text("utf-8"))
        tower = dict(about["tower"])
        tower["pool_dropout"] = tower.pop("dropout")
        encoder = layer_encoder(str(folder), max_length=about["max_length"], **tower)
        head = PairHead(encoder.num_features, **about["head"])
        stored = {k: v.float() for k, v in load_file(folder / WEIGHTS).items()}
        parts = {
            name: {k.removeprefix(name): v for k, v in stored.items() if k.startswith(name)}
            for name in ("tower.", "head.")
        }
        head.load_state_dict(parts["head."])
        loaded = layer_tower(encoder)
        if parts["tower."].keys() != loaded.own_state().keys():
            raise KeyError(f"{WEIGHTS} has not all weights of the tower")
        loaded.load_state_dict(parts["tower."], strict=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder} is not an exported DSE student: {error!r}") from error
    return PairScorer(encoder, head, about["labels"]).float().eval()


def layer_tower(encoder: SentenceEncoder) -> LayerTower:
    """The tower of an encoder that `layer_encoder` built."""
    tower = encoder.tower
    assert isinstance(tower, LayerTower)
    return tower
