"""Causal language model on bundled English text (Radford et al. 2019, in Llama's architecture)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Tokenizer

from common.config import DataConfig, ExperimentConfig
from common.data.module import ContrastiveData
from common.data.samplers import Key
from common.engine.experiment import Experiment, Plan, Stage
from scripts.pretrain.corpus import chapters, sentences
from scripts.pretrain.vocabulary import ModuleWithVocabulary

END, PAD = "<|endoftext|>", "<|pad|>"


@dataclass
class TextData(DataConfig):
    """Text; a sample is one window of the token stream."""

    limit: int | None = None  # sentences, the first ones; then also at most two chapters
    sources: list[str] = field(default_factory=lambda: ["book", "wiki"])
    chapter_repeats: int = 2  # times that a chapter stands in the stream
    context: int = 256  # tokens of a window
    vocab_size: int = 8192


@dataclass
class ModelConfig:
    """Size of the decoder."""

    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 688


@dataclass
class Config(ExperimentConfig):
    """One causal language model."""

    data: TextData = field(default_factory=TextData)
    model: ModelConfig = field(default_factory=ModelConfig)


class Windows(Dataset[dict[str, Tensor]]):
    """Windows of a token stream in which whole documents follow one another.

    Args:
        documents: token ids of each document, end-of-text included.
        context: tokens of a window; the stream's last, incomplete window is dropped.
        seed: order of the documents.
    """

    def __init__(self, documents: Sequence[Sequence[int]], context: int, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(documents))
        stream = np.concatenate([np.asarray(documents[i], dtype=np.int32) for i in order])
        self.rows = stream[: len(stream) // context * context].reshape(-1, context)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Token ids (B, context) of the windows with these keys."""
        index = np.array([i for i, _ in keys])
        ids = torch.from_numpy(self.rows[index].astype(np.int64))
        return {"input_ids": ids, "ids": torch.from_numpy(index)}


class CausalLM(ModuleWithVocabulary):
    """Decoder trained on the next token."""

    in_batch_negatives = False

    def __init__(self, cfg: Config, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
        super().__init__(cfg.optim)
        self.model, self.tokenizer = model, tokenizer

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean cross-entropy in nats per token."""
        logits = self.model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch["input_ids"][:, 1:].flatten())
        return {"loss": loss}


def train_tokenizer(cfg: Config) -> Tokenizer:
    """Byte-level BPE, end-of-text as start and end."""
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        documents(cfg, "train"),
        vocab_size=cfg.data.vocab_size,
        special_tokens=[END, PAD],
        show_progress=False,
    )
    return Tokenizer(
        tokenizer_object=bpe._tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        model_max_length=cfg.data.context,
    )


def documents(cfg: Config, split: Any) -> list[str]:
    """Chapters, then single sentences."""
    data = cfg.data
    limit = None if data.limit is None else 2
    books = chapters(data.root, split, joint="\n", limit=limit)
    repeats = data.chapter_repeats if split == "train" else 1
    return books * repeats + sentences(data.root, split, sources=data.sources, limit=data.limit)


def windows(cfg: Config, tokenizer: Tokenizer, split: Any) -> Windows:
    """Windows of one side of the split."""
    end = tokenizer.eos_token_id
    ids = tokenizer(documents(cfg, split), verbose=False)["input_ids"]
    return Windows([[*document, end] for document in ids], cfg.data.context, cfg.seed)


def new_model(cfg: Config, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A decoder with random weights."""
    model = cfg.model
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_attention_heads,
        intermediate_size=model.intermediate_size,
        max_position_embeddings=cfg.data.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(settings)


def build(cfg: Config) -> Experiment:
    """The experiment of a config."""

    def stages() -> Iterator[Stage]:
        tokenizer = train_tokenizer(cfg)
        module = CausalLM(cfg, new_model(cfg, tokenizer), tokenizer)
        data = ContrastiveData(
            windows(cfg, tokenizer, "train"),
            batch_size=cfg.data.batch_size,
            seed=cfg.seed,
            num_workers=cfg.data.num_workers,
        )
        yield Stage("train", module, data)

    def evaluate(module: CausalLM, workspace: Any) -> dict[str, float]:
        held_out = windows(cfg, module.tokenizer, "test")
        size, losses = cfg.data.batch_size, []
        for start in workspace.progress(range(0, len(held_out) - size + 1, size), "held-out text"):
            batch = held_out[[(i, 0) for i in range(start, start + size)]]
            losses.append(float(module.losses(batch)["loss"]))
        return {"causal_lm_loss": float(np.mean(losses))}

    def export(module: CausalLM, folder: Path) -> None:
        module.model.half().save_pretrained(folder)
        module.model.float()
        module.tokenizer.save_pretrained(folder)

    def load_export(folder: Path) -> CausalLM:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return CausalLM(cfg, model, Tokenizer.from_pretrained(folder))

    def embed(module: CausalLM) -> dict[str, Tensor]:
        inputs = module.tokenizer("The cat sat on the mat.", return_tensors="pt")
        return {"logits": module.model(input_ids=inputs["input_ids"]).logits}

    def plan() -> Plan:
        tokenizer = train_tokenizer(cfg)
        return Plan(
            lambda: CausalLM(cfg, new_model(cfg, tokenizer), tokenizer),
            len(windows(cfg, tokenizer, "train")),
        )

    return Experiment(stages, evaluate, export, load_export, embed, plan)
