"""Configs, encoders, files of pairs for the tests of the experts for domains."""

from pathlib import Path

import torch

from common.data.tables import write_jsonl
from projects.moe_embeddings.config import Config
from projects.moe_embeddings.data import PairBatch, PairTexts, training_pairs
from projects.moe_embeddings.encoder import DomainEncoder, build_encoder
from projects.moe_embeddings.module import MoeEmbeddings
from tests.configs import configs_of
from tests.unit.losses.golden import load as load_golden

GOLDEN = load_golden("moe_embeddings")["outputs"]
MODERNBERT = (
    "model.config={model_type: modernbert, vocab_size: 400, hidden_size: 32, num_hidden_layers: 3,"
    " num_attention_heads: 2, intermediate_size: 48, max_position_embeddings: 64, pad_token_id: 0,"
    " bos_token_id: 2, eos_token_id: 3, cls_token_id: 2, sep_token_id: 3}"
)
ROUTED = {
    "switch": ["model.routing=switch", "method.balance_weight=0.05"],
    "sentence": ["model.routing=sentence", "method.balance_weight=0.05"],
    "token": ["model.routing=token", "method.router_loss=mutual_information"],
}
TEXTS = ["babado kilu", "mona peri soto", "ba", "kilu kilu dodo nape"]

config = configs_of(Config, "moe_embeddings")


def encoder_of(*overrides: str) -> DomainEncoder:
    """An encoder in evaluation mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return build_encoder(cfg.model, cfg.data.domains, cfg.data.max_length).eval()


def module_of(*overrides: str) -> MoeEmbeddings:
    """A module in training mode, equal for equal overrides."""
    return MoeEmbeddings(config(*overrides), encoder_of(*overrides)).train()


def batch_of(module: MoeEmbeddings, cfg: Config, places: list[int], epoch: int = 0) -> PairBatch:
    """Training pairs by their places in the set."""
    data = cfg.data
    rows = PairTexts(training_pairs(cfg), module.encoder, module.experts, data.swap_prob, cfg.seed)
    return rows[[(place, epoch) for place in places]]


def write_pairs(folder: Path, rows: dict[str, list[tuple[str, str, int]]]) -> None:
    """Files of pairs as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, pairs in rows.items():
        write_jsonl(folder / f"{part}.jsonl", [{"a": a, "b": b, "label": y} for a, b, y in pairs])
