"""An encoder that is trained to embed a definition where its entry is."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.length_groups import in_batches_by_length
from common.encoders.modes import evaluation_mode
from common.encoders.text.sentence import SentenceEncoder
from common.engine.module import compile_called
from common.families.sentences.module import SentenceModule
from projects.defsent_plus.config import Config
from projects.defsent_plus.data import Dictionary, definition_encoder, dictionary_if_here
from projects.defsent_plus.objective import definition_loss
from projects.defsent_plus.pooler import Pooler, activation, norm_eps


def num_samples(cfg: Config) -> int:
    """Pairs of definition and entry, for `make check`; 0 if the dictionary is not here."""
    dictionary = dictionary_if_here(cfg)
    return 0 if dictionary is None else dictionary.num_definitions


class DefSentPlus(SentenceModule):
    """Definitions against the frozen matrix of all entries, of one round.

    The pooler serves training and the reverse dictionary; `encoder` pools without it. Weights of
    the pooler and entries are set by the stages (`fill_pooler`, `set_entries`) or loaded.

    Args:
        cfg: the experiment's config.
        encoder: encoder that is trained; it pools as in inference.
        number: of the round, from 1; None: the last one.
        dictionary: of the config; None: read here, if it is there.

    Distributed: local; every rank holds all entries.
    """

    in_batch_negatives = False
    # entries are the same on all ranks: not sent before every step
    _ddp_params_and_buffers_to_ignore = ("entries", "isotropy")
    entries: Tensor
    isotropy: Tensor

    def __init__(
        self,
        cfg: Config,
        encoder: SentenceEncoder,
        number: int | None = None,
        dictionary: Dictionary | None = None,
    ) -> None:
        number = cfg.rounds if number is None else number
        lr = cfg.train.lr[number - 1] if cfg.train.lr else cfg.optim.lr
        super().__init__(replace(cfg.optim, lr=lr), encoder)
        self.backend, self.to_words = cfg.loss_backend, cfg.entry.targets == "lm_head"
        self.pool, self.activation = cfg.train.pool, activation(cfg, encoder)
        # it shares the transformer, so it is kept out of the module's own parts
        self._definitions = (definition_encoder(cfg, encoder, self.pool),)
        dim = encoder.num_features
        self.pooler = Pooler(dim, self.activation, norm_eps(encoder) if self.to_words else None)
        if self.to_words:
            self.pooler.requires_grad_(False)
        if cfg.train.freeze_embeddings:
            if not isinstance(
                embeddings := getattr(encoder.tower.model, "embeddings", None), nn.Module
            ):
                raise UserError("train.freeze_embeddings is for BERT, RoBERTa and their like")
            embeddings.requires_grad_(False)
        dictionary = dictionary or dictionary_if_here(cfg)
        self.names: list[str] = [] if dictionary is None else dictionary.entries
        self.pieces: list[int] = [] if dictionary is None else list(dictionary.pieces)
        words = int(encoder.tower.model.config.vocab_size)
        shape = (words, dim + 1) if self.to_words else (len(self.names), dim)
        # buffers: saved with the weights, never a parameter (checklist 1)
        self.register_buffer("entries", torch.zeros(shape))
        # mean cosine of the entries of each round, and after ICA
        self.register_buffer("isotropy", torch.full((number, 2), torch.nan, dtype=torch.float64))

    @property
    def definitions(self) -> SentenceEncoder:
        """The encoder as definitions meet it: without a template, pooled as in training."""
        return self._definitions[0]

    def set_entries(self, entries: Tensor) -> None:
        """The frozen targets (n, D), or (V, D + 1) of DefSent."""
        self.entries = entries.to(self.entries)

    def compile_encoders(self) -> None:
        """Also the encoder of definitions, which is none of the module's parts."""
        super().compile_encoders()
        compile_called(self.definitions)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors (B, D) of definitions behind the pooler, at least float32: h."""
        self.definitions.training = self.training  # it belongs to no module that could tell it
        hidden: Tensor = self.pooler(self.definitions(input_ids, attention_mask))
        return hidden

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss, top-1 among all entries and mean cosine of the round's entries."""
        hidden = self.hidden(batch["input_ids"], batch["attention_mask"])
        out = definition_loss(hidden, self.entries, batch["labels"], self.backend)
        assert out.hits is not None
        return {
            "loss": out.loss,
            "top1": out.hits.float().mean(),
            "entry_mean_cosine": self.isotropy[-1].nan_to_num().to(out.loss)[0],
        }

    def negatives_per_query(self, global_batch_size: int) -> int:
        """All other entries."""
        return max(0, len(self.entries) - 1)

    def entry_scores(self, texts: list[str], batch_size: int = 64) -> Tensor:
        """Logits <h, E_e> of the dictionary's n entries for N descriptions, (N, n) on the CPU."""

        def scores_of(rows: list[int]) -> Tensor:
            inputs = self.definitions.tokenize([texts[i] for i in rows])
            inputs = {name: value.to(self.entries.device) for name, value in inputs.items()}
            return self.hidden(**inputs) @ self.entries.T

        with evaluation_mode(self):
            scores = in_batches_by_length(scores_of, [len(text) for text in texts], batch_size)
        return scores[:, self.pieces] if self.to_words else scores

    def lookup(self, texts: list[str], k: int = 10) -> list[list[tuple[str, float]]]:
        """Reverse dictionary: the k entries of the largest logit for each description."""
        top = self.entry_scores(texts).topk(min(k, len(self.names)))
        rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [[(self.names[i], s) for i, s in zip(*row, strict=True)] for row in rows]
