"""Text towers: a transformer of Hugging Face's library with a pooler, (B, L) ids -> (B, D)."""

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from common.config import UserError
from common.damage import remedy
from common.encoders.pretrained import (
    PretrainedRef,
    check_choice,
    is_offline,
    loading,
    resolve_pretrained,
)
from common.encoders.text.experts import expert_modules, quantise_experts
from common.encoders.text.pooling import LAYER_POOLINGS, POOLINGS, Pooling, pool

Attention = Literal["auto", "eager", "sdpa"]

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "dropout_rate",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "emb_pdrop",
    "hidden_dropout",
    "activation_dropout",
    "residual_dropout",
    "resid_dropout",
    "embed_dropout",
    "pooler_dropout",
    # before the layers of a task
    "classifier_dropout",
    "classifier_dropout_prob",
    "seq_classif_dropout",
    "summary_first_dropout",
    "summary_last_dropout",
)  # of units alone: layerdrop and drop_path_rate leave out whole layers


class TextTower(nn.Module):
    """A transformer without task head, and a pooler.

    Args:
        model: encoder or decoder of transformers (from `AutoModel`); its own pooler is removed.
        pooling: see `common.encoders.text.pooling.pool`; "cls" adds a new dense layer with tanh,
            weights N(0, initializer_range) and no bias to begin with.
        mlp_only_train: that head acts in training mode only (unsupervised SimCSE).
        mask_token_id: id of the tokenizer's mask token, for pooling "mask".

    Raises:
        ValueError: unknown pooling, or an option that this pooling does not have or lacks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pooling: Pooling = "avg",
        *,
        mlp_only_train: bool = False,
        mask_token_id: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
        if mlp_only_train and pooling != "cls":
            raise ValueError(f"mlp_only_train is for pooling 'cls'; {pooling!r} has no head")
        if pooling == "mask" and mask_token_id is None:
            raise ValueError("pooling 'mask' needs the mask_token_id of a tokenizer that has one")
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        self.model, self.pooling = model, pooling
        self.mlp_only_train, self.mask_token_id = mlp_only_train, mask_token_id
        self.num_features = int(model.config.hidden_size)
        self.max_tokens = learnt_positions(model)
        self.cls_head: nn.Sequential | None = None
        if pooling == "cls":
            dense = nn.Linear(self.num_features, self.num_features)
            nn.init.normal_(dense.weight, std=getattr(model.config, "initializer_range", 0.02))
            nn.init.zeros_(dense.bias)
            self.cls_head = nn.Sequential(dense, nn.Tanh())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass to save memory."""
        if enable:
            self.model.gradient_checkpointing_enable()
        else:
            self.model.gradient_checkpointing_disable()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Tensor
    ) -> Tensor:
        """Pooled features.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 at real tokens; None derives it from the padding id.
            inputs: further inputs of the model, e.g. ``token_type_ids``.

        Returns:
            (B, D), not normalised.

        Raises:
            ValueError: no mask for a model without padding id.
            UserError: more tokens than the model has positions.
        """
        if self.max_tokens is not None and input_ids.shape[1] > self.max_tokens:
            raise UserError(
                f"a text has {input_ids.shape[1]} tokens, and the encoder has {self.max_tokens}"
                " positions: lower the largest length in the config"
            )
        if attention_mask is None:
            pad = self.model.config.pad_token_id
            if pad is None:
                raise ValueError("this model has no padding id: pass attention_mask")
            attention_mask = input_ids.ne(pad).long()
        layers = self.pooling in LAYER_POOLINGS
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=layers,
            **inputs,
        )
        states = output.hidden_states if layers else (output.last_hidden_state,)
        mask_tokens = None
        if self.mask_token_id is not None and self.pooling == "mask":
            mask_tokens = input_ids.eq(self.mask_token_id)
        features = pool(states, attention_mask, self.pooling, mask_tokens=mask_tokens)
        if self.cls_head is not None and (self.training or not self.mlp_only_train):
            features = self.cls_head(features)
        return features


def text_tower(
    pretrained: str,
    pooling: Pooling = "avg",
    *,
    config: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    mlp_only_train: bool = False,
    mask_token_id: int | None = None,
    attention: Attention = "auto",
) -> TextTower:
    """Build a text tower from a ``pretrained:`` string.

    Args:
        pretrained: Hugging Face id, folder, ``bundled:<name>`` or ``random``.
        pooling: see `common.encoders.text.pooling.pool`.
        config: with "random": the architecture, ``model_type`` and its fields, e.g.
            ``{"model_type": "bert", "hidden_size": 256, ...}``.
        dropout: overrides every dropout probability of units; None keeps them.
        mlp_only_train: see `TextTower`.
        mask_token_id: see `TextTower`.
        attention: see `load_transformer`.

    Raises:
        UserError: unknown or absent weights, weights of another architecture, wrong `config`.
        ValueError: see `TextTower`.
    """
    model = load_transformer(pretrained, config=config, dropout=dropout, attention=attention)
    return TextTower(model, pooling, mlp_only_train=mlp_only_train, mask_token_id=mask_token_id)


def load_transformer(
    pretrained: str,
    *,
    config: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    attention: Attention = "auto",
    auto_class: Any = AutoModel,
    dtype: torch.dtype = torch.float32,
    num_labels: int | None = None,
    new_head: bool = False,
    pooler: bool = False,
    spread: bool = False,
    four_bit: bool = False,
) -> PreTrainedModel:
    """A transformers model in training mode; refuses weights that do not fill it.

    Args:
        pretrained: see `text_tower`.
        config: see `text_tower`.
        dropout: see `text_tower`.
        attention: "sdpa" (PyTorch's fused attention), "eager" (plain matrix products: the faster
            one in training on a CPU with short texts) or "auto", the library's choice. Dropout acts
            in all.
        auto_class: e.g. `transformers.AutoModelForCausalLM` for a model with its head.
        dtype: of the weights.
        num_labels: of a sequence classifier; None: what the configuration says.
        new_head: what stands on the transformer is drawn from the global random state, whatever the
            checkpoint holds for it; a pooler only if the checkpoint has none.
        pooler: the model's own pooler is wanted, so weights without one do not fill it.
        spread: the layers are put on all GPUs that this process sees, and what is left on the CPU.
            Such a model stays where it is, see `evaluated`.
        four_bit: weights of linear layers in four bits (NF4, Dettmers et al. 2023, arXiv
            2305.14314), computed in `dtype`; for frozen models on a GPU. A mixture of experts is
            read to the CPU in `dtype` first.

    Raises:
        UserError: see `text_tower`, attention that the architecture does not have, or a library
            that is missing.
    """
    ref = resolve_pretrained(pretrained)
    if (ref.kind == "random") != (config is not None):
        raise UserError("a text tower needs either pretrained weights, or random and a `config`")
    settings = architecture(config) if config is not None else _stored_config(ref)
    if dropout is not None:
        _set_dropout(settings, dropout)
    if num_labels is not None:
        settings.num_labels = num_labels
    if attention not in get_args(Attention):
        raise UserError(f"attention must be one of {get_args(Attention)}, got {attention!r}")
    chosen: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    if ref.kind == "random" or torch.get_default_device().type == "meta":  # shapes alone
        with loading(ref):
            model: PreTrainedModel = auto_class.from_config(settings, **chosen).to(dtype)
        return model
    if spread:
        _need("accelerate", "a model that is spread over devices")
        chosen["device_map"] = "auto"
    mixture = False
    if four_bit:
        _need("bitsandbytes", "a model in four bits")
        chosen["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        with torch.device("meta"):
            mixture = bool(expert_modules(AutoModel.from_config(settings)))
        if mixture:
            chosen["device_map"] = {"": "cpu"}
    with loading(ref), quiet():
        model, info = auto_class.from_pretrained(
            _source(ref),
            config=settings,
            dtype=dtype,
            output_loading_info=True,
            local_files_only=ref.path is not None or is_offline(),
            ignore_mismatched_sizes=new_head,
            **chosen,
        )
    lost = [k for k in info["missing_keys"] if pooler or not k.startswith("pooler.")]
    lost += [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
    if new_head:
        prefix = f"{model.base_model_prefix}."
        _draw_head(model, prefix)
        lost = [key for key in lost if key.startswith(prefix) and ".pooler." not in key]
    if lost:
        raise UserError(
            f"pretrained={pretrained!r} does not fill {type(model).__name__}: "
            f"{len(lost)} tensors such as {sorted(lost)[0]} would start at random"
        )
    if mixture:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        quantise_experts(model, device)
        model.to(device)
    model.train()  # from_pretrained switches dropout off, and Lightning keeps modes
    return model


def _need(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{what} needs '{package}' of the extra 'large': pip install -e '.[large]'")


def _draw_head(model: PreTrainedModel, prefix: str) -> None:
    """Draw what does not belong to the transformer, which has this prefix, as a new model would."""
    for name, module in model.named_modules():
        parameters = list(module.parameters(recurse=False))
        if parameters and not f"{name}.".startswith(prefix):
            for parameter in parameters:
                parameter._is_hf_initialized = False
            module._is_hf_initialized = False
            model._init_weights(module)


def load_config(pretrained: str) -> Any:
    """The configuration alongside the weights of a Hugging Face id, a folder or ``bundled:<name>``.

    Raises:
        UserError: unknown place or no configuration there.
    """
    return _stored_config(resolve_pretrained(pretrained))


def load_tokenizer(pretrained: str) -> Any:
    """The tokenizer alongside the weights of a Hugging Face id, a folder or ``bundled:<name>``.

    Raises:
        UserError: unknown place or no tokenizer there.
    """
    ref = resolve_pretrained(pretrained)
    with loading(ref):
        tokenizer = AutoTokenizer.from_pretrained(
            _source(ref), local_files_only=ref.path is not None or is_offline()
        )
    # without its vocabulary a tokenizer is made all the same, and reads every text as unknown words
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        place = ref.path if ref.path is not None else ref.name
        todo = remedy(place / "tokenizer.json") if isinstance(place, Path) else "get it again"
        raise UserError(
            f"{place} has no vocabulary (tokenizer.json, or a file such as vocab.txt): {todo}"
        )
    return tokenizer


def architecture(config: Mapping[str, Any], what: str = "a text tower") -> Any:
    """A configuration of transformers from its fields.

    One that the library wrote names its ``transformers_version`` and is taken as it is: released
    checkpoints leave fields in it that no version of the library knows.

    Args:
        config: ``model_type`` and fields of its kind; others may be None, as an override of a
            config sets them to null that can't take them away.
        what: has this configuration, for messages.

    Raises:
        UserError: unknown kind, a field that the kind does not have, or a wrong value.
    """
    options = dict(config)
    kind = options.pop("model_type", None)
    what = f"config of {what}, model_type={kind!r}"
    if kind not in CONFIG_MAPPING:  # transformers would name all of its hundreds
        near = get_close_matches(str(kind or "bert"), CONFIG_MAPPING.keys())
        names = " or ".join(near or ["bert"])
        raise UserError(f"{what}: transformers has no such kind of model; try {names}")
    try:
        settings = AutoConfig.for_model(kind, **options)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise UserError(f"{what}: {error}") from error
    if "transformers_version" not in options:
        _check_fields(settings, options, what)
    return settings


def _check_fields(settings: Any, options: Mapping[str, Any], what: str) -> None:
    """Refuse fields that have become attributes of a configuration and that nothing reads.

    Drop null.
    """
    names = {field.name for field in fields(settings)} | settings.attribute_map.keys()
    # a pair of other models has no defaults
    with suppress(TypeError, ValueError, StrictDataclassError):
        names |= vars(type(settings)()).keys()
    generation = GenerationConfig()
    others = names | vars(generation).keys()
    loose = [name for name in options if name in vars(settings) and name not in others]
    if not loose:
        return
    # some are read without being declared, such as DeBERTa's share_att_key
    files = Path(inspect.getfile(type(settings))).parent.glob("*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    for name in loose:
        if re.search(rf"""config\.{re.escape(name)}\b|["']{re.escape(name)}["']""", source):
            continue
        if options[name] is not None:
            check_choice(name, sorted(names), f"{what} (null takes a field back): field")
        delattr(settings, name)


def first_position(model: nn.Module) -> int:
    """Where positions of a text begin: behind the padding's, as RoBERTa and its kin count.

    Else 0.
    """
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0


def learnt_positions(model: PreTrainedModel) -> int | None:
    """Tokens for which a model has learnt positions; None: positions are not a table."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            return part.num_embeddings - first_position(model)
    return None


def length_limit(model: PreTrainedModel, tokenizer: Any) -> int | None:
    """Tokens that tokenizer and positions allow; None: any number."""
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    limits = [int(tokenizer.model_max_length), positions - first_position(model)]
    limits = [limit for limit in limits if 0 < limit < 10**9]
    return min(limits) if limits else None


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and load reports of transformers, whose findings are checked here."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _source(ref: PretrainedRef) -> str:
    if ref.kind not in ("huggingface", "folder"):
        raise UserError(
            f"a text tower cannot take pretrained={ref.spec!r}; give a Hugging Face id, a folder "
            "or bundled:<name>"
        )
    return str(ref.path) if ref.path is not None else ref.name


def _stored_config(ref: PretrainedRef) -> Any:
    source = _source(ref)
    with loading(ref):
        return AutoConfig.from_pretrained(
            source, local_files_only=ref.path is not None or is_offline()
        )


def _set_dropout(config: Any, dropout: float) -> None:
    # None, as BERT's classifier_dropout, follows another field
    names = [name for name in _DROPOUTS if getattr(config, name, None) is not None]
    if not names:
        raise UserError(f"{config.model_type} models have no dropout to set; leave it out")
    for name in names:
        setattr(config, name, dropout)
