"""A trained encoder on disk: one folder of ours, and a plain dense model for each domain.

| place | what | who reads it |
|---|---|---|
| the folder | weights of all, files of transformers, ``mixture.json`` | `load_encoder` |
| ``experts/<domain>`` | the dense model of a domain with its token | sentence-transformers |

Nothing in it is code. Mixed (learned) and gated experts have no dense model: they have the first
only.
"""

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModel

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file
from common.encoders.text.language_models.causal import merge_lora
from common.encoders.text.pooling import Pooling
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.template import general_tokenizer, special_tokens
from common.encoders.text.tower import TextTower, load_tokenizer, quiet
from common.export.files import write_files, write_json, write_tensors
from common.export.sentence_transformers import save_sentence_transformers, write_modules
from projects.moe_embeddings.encoder import (
    ClsPooler,
    DomainEncoder,
    Layout,
    MeanPooler,
    domain_token,
)
from projects.moe_embeddings.mixture_of_experts import MixtureOfExperts, feed_forwards

LAYOUT = "mixture.json"
_TANH = "torch.nn.modules.activation.Tanh"
_IDENTITY = "torch.nn.modules.linear.Identity"


def save_encoder(encoder: DomainEncoder, folder: str | Path) -> Path:
    """Write an encoder; adapters are folded into a copy.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if any("lora_" in name for name, _ in encoder.named_parameters()):
        encoder = copy.deepcopy(encoder)
        merge_lora(encoder.model)
    encoder = encoder if not encoder.training else copy.deepcopy(encoder).eval()
    write_tensors(folder / "model.safetensors", encoder.state_dict())
    write_files(folder, encoder.tokenizer.save_pretrained)
    write_json(folder / "config.json", encoder.model.config.to_dict())
    write_json(folder / LAYOUT, asdict(encoder.layout))
    layout = encoder.layout
    if layout.routing in ("dense", "enforced") and layout.block == "copy":
        for number, domain in enumerate(layout.domains):
            save_domain(encoder, number, folder / "experts" / domain)
    return folder


def load_encoder(folder: str | Path) -> DomainEncoder:
    """The encoder of a folder that `save_encoder` wrote, in evaluation mode and float32.

    Raises:
        UserError: another kind of folder, or weights that do not fill it.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / LAYOUT).read_text("utf-8"))
        layout = Layout(**{**about, "domains": tuple(about["domains"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported mixture of experts: {error!r}") from error
    tokenizer = load_tokenizer(str(folder))
    with quiet():
        model: Any = AutoModel.from_config(
            AutoConfig.from_pretrained(folder, local_files_only=True)
        )
    encoder = DomainEncoder(model, tokenizer, layout)
    load_state_dict_file(folder / "model.safetensors", encoder)
    return encoder.float().eval()


def save_domain(encoder: DomainEncoder, number: int, folder: Path) -> Path:
    """Write what a domain's documents meet as a model that ``SentenceTransformer(folder)`` loads.

    Its tokenizer begins texts with the domain's token, so that nothing has to be said about
    domains.

    Args:
        encoder: see `dense_model`.
        number: of the domain.
        folder: created if needed.
    """
    layout, pooler, width = encoder.layout, encoder.pooler, encoder.num_features
    tokenizer = copy.deepcopy(encoder.tokenizer)
    if layout.domain_tokens:
        begin_with(tokenizer, domain_token(layout.domains[number]))
        tokenizer = general_tokenizer(tokenizer)
    cls = isinstance(pooler, ClsPooler)
    pooling: Pooling = "cls_before_pooler" if cls else "avg"
    tower = TextTower(dense_model(encoder, number), pooling)
    plain = SentenceEncoder(tower, tokenizer, max_length=layout.max_length)
    save_sentence_transformers(plain, folder)
    parts = [("Transformer", ""), ("Pooling", "1_Pooling")]
    layers: list[tuple[str, nn.Module, str]] = []
    if isinstance(pooler, ClsPooler):
        layers = [("Dense", pooler.dense, _TANH)]
    elif isinstance(pooler, MeanPooler):
        layers = [
            ("LayerNorm", pooler.norm, ""),
            ("Dense", pooler.inner, _TANH),
            ("Dense", pooler.outer, _IDENTITY),
        ]
    for kind, module, activation in layers:
        place = f"{len(parts)}_{kind}"
        parts.append((kind, place))
        about: dict[str, Any] = {"dimension": width}
        if kind == "Dense":
            about = {
                "in_features": width,
                "out_features": width,
                "bias": True,
                "activation_function": activation,
            }
        prefix = "linear" if kind == "Dense" else "norm"
        tensors = {f"{prefix}.{k}": v for k, v in module.state_dict().items()}
        write_tensors(folder / place / "model.safetensors", tensors)
        write_json(folder / place / "config.json", about)
    write_modules(folder, parts)
    return folder


def dense_model(encoder: DomainEncoder, domain: int) -> nn.Module:
    """The dense transformer that a document of one domain meets, with weights of its own.

    Args:
        encoder: enforced, its blocks copies of the dense ones; or dense.
        domain: number of the domain.

    Raises:
        UserError: experts that are mixed, or gated: no dense model does the same.
    """
    if encoder.layout.routing not in ("dense", "enforced") or encoder.layout.block != "copy":
        raise UserError("only enforced experts of model.block=copy are dense models of their own")
    old: Any = encoder.model
    dense: nn.Module = type(old)(old.config)
    if getattr(dense, "pooler", None) is not None:
        dense.pooler = None  # type: ignore[assignment]
    missing, _ = dense.load_state_dict(old.state_dict(), strict=False)
    layers = list(zip(feed_forwards(dense), feed_forwards(old), strict=True))
    for new, layer in layers:
        mixture = getattr(layer.block, layer.name)
        mixed = isinstance(mixture, MixtureOfExperts)
        new.module.load_state_dict(
            (mixture.experts[domain] if mixed else layer.module).state_dict()
        )
    inside = {id(p) for new, _ in layers for p in new.module.parameters()}
    left = [k for k in missing if id(dense.get_parameter(k)) not in inside]
    if left:
        raise ValueError(f"{left[0]} of the dense model was not filled")
    return dense.eval()


def begin_with(tokenizer: Any, token: str) -> None:
    """Let a fast tokenizer begin texts with a token of its vocabulary instead of [CLS]."""
    from tokenizers.processors import TemplateProcessing

    _, after = special_tokens(tokenizer)
    ends = tokenizer.convert_ids_to_tokens(after)
    pairs = [
        (name, tokenizer.convert_tokens_to_ids(name)) for name in (token, *dict.fromkeys(ends))
    ]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join([token, "$A", *ends]), special_tokens=pairs
    )
