"""Masked language model on bundled English text (Devlin et al., NAACL 2019)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.config import DataConfig, ExperimentConfig


@dataclass
class TextData(DataConfig):
    """Text and masking; a batch is one bin."""

    limit: int | None = None  # sentences, the first ones
    tokens: int = 3072  # positions of a bin
    max_length: int = 128  # tokens of a sequence, special ones included
    vocab_size: int = 8192
    mask_probability: float = 0.2
    whole_words: bool = True  # mask all pieces of a word or none


@dataclass
class ModelConfig:
    """Size of the encoder."""

    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    dropout: float = 0.0  # in pre-training; the shipped config says 0.1, BERT's value
    init: str | None = None  # exported folder to continue from (weights alone); None: at random


@dataclass
class Config(ExperimentConfig):
    """One masked language model."""

    data: TextData = field(default_factory=TextData)
    model: ModelConfig = field(default_factory=ModelConfig)


def build(cfg: Config) -> Any:
    """The experiment of a config."""
    import torch
    from torch import Tensor
    from torch.nn import functional as F
    from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertTokenizerFast

    from common.data.module import ContrastiveData
    from common.data.text.masking import IGNORED, mask_tokens
    from common.engine.experiment import Experiment, Plan, Stage
    from projects.contriever.bins import TokenBins
    from scripts.pretrain import corpus, vocabulary
    from scripts.pretrain.vocabulary import ModuleWithVocabulary, pieces, refuse_other

    def texts(split: Any) -> list[str]:
        found = corpus.sentences(cfg.data.root, split, limit=cfg.data.limit)
        return found + corpus.inference_sentences(cfg.data.root, split, limit=cfg.data.limit)

    def chapters() -> list[str]:
        limit = None if cfg.data.limit is None else 2
        return corpus.chapters(cfg.data.root, "train", limit=limit)

    def train_tokenizer() -> BertTokenizerFast:
        return vocabulary.train_wordpiece(
            [*texts("train"), *chapters()], cfg.data.vocab_size, cfg.data.max_length
        )

    def sequences(tokenizer: BertTokenizerFast, split: str) -> list[list[int]]:
        limit = cfg.data.max_length
        found = tokenizer(texts(split), truncation=True, max_length=limit)["input_ids"]
        if split == "train":
            for ids in tokenizer(chapters(), add_special_tokens=False)["input_ids"]:
                for start in range(0, len(ids), limit - 2):
                    window = ids[start : start + limit - 2]
                    found.append([tokenizer.cls_token_id, *window, tokenizer.sep_token_id])
        return [ids for ids in found if len(ids) > 3]

    def bins(tokenizer: BertTokenizerFast, split: str, seed: int) -> TokenBins:
        specials = np.array([tokenizer.cls_token_id, tokenizer.sep_token_id])
        continues = np.array([piece.startswith("##") for piece in pieces(tokenizer)])

        def prepare(
            ids: np.ndarray, padding: np.ndarray, rng: np.random.Generator
        ) -> dict[str, Tensor]:
            masked, labels = mask_tokens(
                ids,
                padding | np.isin(ids, specials),
                rng,
                mask_id=tokenizer.mask_token_id,
                vocab_size=len(tokenizer),
                probability=cfg.data.mask_probability,
                continues=continues[ids] if cfg.data.whole_words else None,
            )
            return {
                "input_ids": torch.from_numpy(masked),
                "attention_mask": torch.from_numpy((~padding).astype(np.int64)),
                "labels": torch.from_numpy(labels),
            }

        return TokenBins(
            sequences(tokenizer, split),
            tokens=cfg.data.tokens,
            pad_id=tokenizer.pad_token_id,
            prepare=prepare,
            seed=seed,
        )

    def new_model(vocab_size: int) -> BertForMaskedLM:
        model = cfg.model
        settings = BertConfig(
            vocab_size=vocab_size,
            hidden_size=model.hidden_size,
            num_hidden_layers=model.num_hidden_layers,
            num_attention_heads=model.num_attention_heads,
            intermediate_size=model.intermediate_size,
            max_position_embeddings=cfg.data.max_length,
            hidden_dropout_prob=model.dropout,
            attention_probs_dropout_prob=model.dropout,
        )
        # eager attention is the faster one on a CPU at these lengths
        return AutoModelForMaskedLM.from_config(settings, attn_implementation="eager")

    def first_model(tokenizer: BertTokenizerFast) -> BertForMaskedLM:
        """Weights that a run begins with."""
        model = new_model(len(tokenizer))
        if cfg.model.init is not None:
            known = BertTokenizerFast.from_pretrained(cfg.model.init)
            refuse_other(pieces(known), pieces(tokenizer), cfg.model.init)
            given = AutoModelForMaskedLM.from_pretrained(cfg.model.init, dtype=torch.float32)
            model.load_state_dict(given.state_dict())
        return model

    class MaskedLM(ModuleWithVocabulary):
        """Encoder with its prediction head; only masked positions are predicted."""

        in_batch_negatives = False

        def __init__(self, model: BertForMaskedLM, tokenizer: BertTokenizerFast) -> None:
            super().__init__(cfg.optim)
            self.model, self.tokenizer = model, tokenizer

        def predict(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            """Logits (M, V) and labels (M,) of the masked positions."""
            states = self.model.bert(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
            masked = batch["labels"] != IGNORED
            return self.model.cls(states[masked]), batch["labels"][masked]

        def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            """Cross-entropy and accuracy over the masked positions of a bin."""
            logits, labels = self.predict(batch)
            hits = (logits.argmax(1) == labels).float().mean()
            return {"loss": F.cross_entropy(logits.float(), labels), "accuracy": hits}

    def stages() -> Iterator[Stage]:
        tokenizer = train_tokenizer()
        module = MaskedLM(first_model(tokenizer), tokenizer)
        data = ContrastiveData(
            bins(tokenizer, "train", cfg.seed),
            batch_size=1,
            seed=cfg.seed,
            num_workers=cfg.data.num_workers,
        )
        yield Stage("train", module, data)

    def evaluate(module: MaskedLM, workspace: Any) -> dict[str, float]:
        held_out = bins(module.tokenizer, "test", 0)
        loss = hits = count = 0.0
        for i in workspace.progress(range(len(held_out)), "held-out sentences"):
            logits, labels = module.predict(held_out[[(i, 0)]])
            loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            hits += float((logits.argmax(1) == labels).sum())
            count += len(labels)
        return {"masked_lm_loss": loss / count, "masked_lm_accuracy": hits / count}

    def export(module: MaskedLM, folder: Path) -> None:
        model = module.model
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
        model.half().save_pretrained(folder)
        model.float()
        module.tokenizer.save_pretrained(folder)

    def load_export(folder: Path) -> MaskedLM:
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
        return MaskedLM(model, BertTokenizerFast.from_pretrained(folder))

    def embed(module: MaskedLM) -> dict[str, Tensor]:
        inputs = module.tokenizer("the cat sat on the mat.", return_tensors="pt")
        return {"logits": module.model(**inputs).logits}

    def plan() -> Plan:
        tokenizer = train_tokenizer()
        return Plan(
            lambda: MaskedLM(new_model(len(tokenizer)), tokenizer),
            len(texts("train")),
        )

    return Experiment(stages, evaluate, export, load_export, embed, plan)
