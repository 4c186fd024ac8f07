"""Titles and skill sets as vectors of one space: embedding, queries of adverts, folders on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.encoders.modes import evaluation_mode
from common.encoders.text.sentence import SentenceEncoder
from common.export.projected import load_projected, save_projected
from common.families.retrieval.dense import build_dense, planned_dense
from projects.vacancysbert.config import Config
from projects.vacancysbert.texts import clean_title, skill_text

SIDES = ("titles", "skills")


class TitleSkillEncoder(nn.Module):
    """One text encoder, shared by titles and skill sets, with a linear map for each if asked.

    Args:
        encoder: shared by both.
        head_dim: of the maps; None: none, both towers are the same.
        clean: titles are cleaned before they are embedded, see `clean_title`.
        max_skills: of a set that are read.

    Attributes:
        num_features: D.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        head_dim: int | None = None,
        *,
        clean: bool = False,
        max_skills: int = 20,
    ) -> None:
        super().__init__()
        self.encoder, self.clean, self.max_skills = encoder, clean, max_skills
        self.num_features = head_dim or encoder.num_features
        self.heads = nn.ModuleDict()
        for side in SIDES if head_dim else ():
            self.heads[side] = nn.Linear(encoder.num_features, self.num_features)

    def embed_titles(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, L) -> raw embeddings (B, D)."""
        return self._head("titles", self.encoder(input_ids, attention_mask))

    def embed_skills(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, L) -> raw embeddings (B, D)."""
        return self._head("skills", self.encoder(input_ids, attention_mask))

    def encode_titles(self, titles: Sequence[str], batch_size: int = 64) -> Tensor:
        """N titles -> (N, D) unit vectors on the CPU."""
        texts = [clean_title(t) if self.clean else t for t in titles]
        return self.encode_title_texts(texts, batch_size)

    def encode_title_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """N texts of the titles' side, never cleaned -> (N, D) unit vectors on the CPU."""
        return self._encode("titles", texts, batch_size)

    def encode_skill_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """N texts of skills, as `skill_text` writes them -> (N, D) unit vectors on the CPU."""
        return self._encode("skills", texts, batch_size)

    def encode_skills(self, skills: Sequence[Sequence[str]], batch_size: int = 64) -> Tensor:
        """N sets of skills, in any order -> (N, D) unit vectors on the CPU.

        Raises:
            ValueError: an empty set.
        """
        if not all(skills):
            raise ValueError("a set of skills is empty; `encode_ads` takes the title there")
        return self.encode_skill_texts(
            [skill_text(sorted(names)[: self.max_skills]) for names in skills], batch_size
        )

    def encode_ads(
        self,
        titles: Sequence[str],
        skills: Sequence[Sequence[str]],
        beta: float = 0.5,
        batch_size: int = 64,
    ) -> Tensor:
        """norm(beta * title + (1 - beta) * skills) of N adverts; the title alone without skills.

        Args:
            titles: N titles.
            skills: N sets, some of which may be empty.
            beta: in [0, 1]; 1 gives the titles.
            batch_size: texts per pass.

        Returns:
            (N, D) unit vectors on the CPU.
        """
        alone = self.encode_titles(titles, batch_size)
        both = beta * alone + (1 - beta) * self.skills_or(alone, skills, batch_size)
        return F.normalize(both, dim=1)

    def skills_or(
        self, titles: Tensor, skills: Sequence[Sequence[str]], batch_size: int = 64
    ) -> Tensor:
        """Embeddings of skills (N, D), that of the title where there are none."""
        some = [i for i, names in enumerate(skills) if names]
        vectors = titles.clone()
        if some:
            vectors[some] = self.encode_skills([skills[i] for i in some], batch_size)
        return vectors

    def _head(self, side: str, features: Tensor) -> Tensor:
        if not self.heads:
            return features
        output: Tensor = self.heads[side](features)
        return output

    def _encode(self, side: str, texts: Sequence[str], batch_size: int) -> Tensor:
        vectors = self.encoder.encode(texts, batch_size, normalize=False)
        if self.heads:
            with evaluation_mode(self):
                vectors = self._head(side, vectors.to(self.encoder.device)).cpu()
        return F.normalize(vectors, dim=1)


def build_encoder(
    cfg: Config, make: Callable[..., SentenceEncoder] = build_dense
) -> TitleSkillEncoder:
    """The encoder of a config before training.

    Args:
        cfg: the experiment's config.
        make: of the shared encoder; `planned_dense` for weights that are not here.

    Raises:
        UserError: see `sentence_encoder`.
    """
    return _around(cfg, make(cfg.model))


def planned_encoder(cfg: Config) -> TitleSkillEncoder:
    """As `build_encoder`, of the same shape where the weights are not here."""
    return build_encoder(cfg, planned_dense)


def save_encoder(encoder: TitleSkillEncoder, folder: Path) -> None:
    """Write a folder of sentence-transformers.

    With two maps the folders ``titles`` and ``skills``.
    """
    for side in SIDES if encoder.heads else ("",):
        head = encoder.heads[side] if encoder.heads else None
        assert head is None or isinstance(head, nn.Linear)
        save_projected(encoder.encoder, head, folder / side)


def load_encoder(cfg: Config, folder: Path) -> TitleSkillEncoder:
    """The encoder of such a folder, in evaluation mode; titles are cleaned as the config says.

    Raises:
        UserError: another kind of folder, or one with other maps than the config's.
    """
    if not cfg.model.asymmetric_head:
        return _around(cfg, load_projected(folder, head=False)[0]).eval()
    encoder, _ = load_projected(folder / "titles", head=True)
    loaded = _around(cfg, encoder)
    for side in SIDES:
        head = load_projected(folder / side, head=True)[1]
        with torch.no_grad():
            loaded.heads[side].load_state_dict(head.state_dict())  # type: ignore[union-attr]
    return loaded.eval()


def _around(cfg: Config, encoder: SentenceEncoder) -> TitleSkillEncoder:
    return TitleSkillEncoder(
        encoder,
        cfg.model.head_dim if cfg.model.asymmetric_head else None,
        clean=cfg.data.clean_titles,
        max_skills=cfg.data.max_skills,
    )
