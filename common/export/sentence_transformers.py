"""A sentence encoder as a folder of the sentence-transformers library, and back.

Neither direction needs that library. The files are those that all its versions since 2 read:

| file | module |
|---|---|
| model files, ``sentence_bert_config.json`` | Transformer |
| ``1_Pooling/config.json`` | Pooling: cls, mean, max or last token |
| ``2_Dense/`` | Dense with tanh: the head of pooling "cls", unless it acts in training only |
| ``<n>_Normalize/`` | Normalize, if the encoder normalises |
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file
from common.encoders.text.pooling import Pooling
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tower import TextTower, load_tokenizer, text_tower
from common.export.files import write_files, write_json, write_tensors
from common.export.transformers import save_model

_MODELS = "sentence_transformers.models"
_MODE_OF: dict[Pooling, str] = {
    "cls": "cls",
    "cls_before_pooler": "cls",
    "avg": "mean",
    "last_token": "lasttoken",
    "max": "max",
}
_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_ORDERS = (
    ("Transformer", "Pooling"),
    ("Transformer", "Pooling", "Normalize"),
    ("Transformer", "Pooling", "Dense"),
    ("Transformer", "Pooling", "Dense", "Normalize"),
)
# the name of today, then those that the library wrote by architecture and still reads
_READS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_TANH = "torch.nn.modules.activation.Tanh"


def has_modules(encoder: SentenceEncoder) -> bool:
    """Whether sentence-transformers has modules for all that an encoder does."""
    return encoder.tower.pooling in _MODE_OF and encoder.template is None


def save_sentence_transformers(
    encoder: SentenceEncoder,
    folder: str | Path,
    similarity: Literal["cosine", "dot"] = "cosine",
) -> Path:
    """Write a folder that ``SentenceTransformer(folder)`` loads with the same embeddings.

    A train-only head is left out: there and after `load_sentence_transformers` the pooling is the
    plain [CLS] state.

    Args:
        encoder: its weights are written in their dtype.
        folder: created if needed; other files in it stay.
        similarity: of ``SentenceTransformer.similarity``; "dot" where lengths count.

    Returns:
        The folder.

    Raises:
        UserError: a pooling or a template, which sentence-transformers has no module for.
    """
    tower, folder = encoder.tower, Path(folder)
    if not has_modules(encoder):
        raise UserError(
            f"sentence-transformers has no module for pooling {tower.pooling!r} or a template; use "
            "the plain transformers export (save_transformers), which keeps both"
        )
    width = tower.num_features
    parts = [("Transformer", ""), ("Pooling", "1_Pooling")]
    write_files(folder, lambda new: save_model(encoder, new))
    reads = {"max_seq_length": encoder.max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", reads)
    flags = {flag: mode == _MODE_OF[tower.pooling] for mode, flag in _FLAGS.items()}
    pooled = {"word_embedding_dimension": width, **flags, "include_prompt": True}
    write_json(folder / "1_Pooling" / "config.json", pooled)
    if tower.cls_head is not None and not tower.mlp_only_train:
        parts.append(("Dense", "2_Dense"))
        dense = {"in_features": width, "out_features": width, "bias": True}
        write_json(folder / "2_Dense" / "config.json", dense | {"activation_function": _TANH})
        linear = {f"linear.{k}": v for k, v in tower.cls_head[0].state_dict().items()}
        write_tensors(folder / "2_Dense" / "model.safetensors", linear)
    if encoder.normalize:
        parts.append(("Normalize", f"{len(parts)}_Normalize"))
    write_modules(folder, parts, similarity=similarity)
    return folder


def write_modules(
    folder: Path,
    parts: Sequence[tuple[str, str]],
    *,
    prompts: Mapping[str, str] | None = None,
    similarity: Literal["cosine", "dot"] = "cosine",
) -> None:
    """Write ``modules.json`` and ``config_sentence_transformers.json``.

    Args:
        folder: holds the modules.
        parts: in their order (class, subfolder); a class without a dot is one of the library's
            ``sentence_transformers.models``. Subfolders are created.
        prompts: name -> text that ``encode(texts, prompt_name=name)`` puts before every text.
        similarity: of ``SentenceTransformer.similarity``.
    """
    types = [kind if "." in kind else f"{_MODELS}.{kind}" for kind, _ in parts]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (kind, (_, path)) in enumerate(zip(types, parts, strict=True))
    ]
    for _, path in parts:
        (folder / path).mkdir(parents=True, exist_ok=True)
    names = ("sentence_transformers", "transformers", "torch")
    about = {
        "__version__": {"pytorch" if n == "torch" else n: _version(n) for n in names},
        "prompts": dict(prompts or {}),
        "default_prompt_name": None,
        "similarity_fn_name": similarity,
    }
    write_json(folder / "config_sentence_transformers.json", about)
    write_json(folder / "modules.json", modules)


def load_sentence_transformers(folder: str | Path, *, skip: Sequence[str] = ()) -> SentenceEncoder:
    """Build an encoder from a folder of sentence-transformers, in eval mode and float32.

    Args:
        folder: a text model written by `save_sentence_transformers` or by that library, made of
            Transformer, Pooling (cls, mean, max, last token), for cls a square Dense with tanh, and
            Normalize.
        skip: modules that the caller reads itself: "Dense" of any kind.

    Raises:
        UserError: another kind of folder, other modules, or settings that change the embeddings
            and that an encoder of ours does not have.
    """
    folder = Path(folder)
    parts = {kind: place for kind, place in _parts(folder).items() if kind not in skip}
    pooling = _pooling(folder / parts["Pooling"] / "config.json", head="Dense" in parts)
    root = folder / parts["Transformer"]
    max_length = _max_length(root)
    about = _json(folder / "config_sentence_transformers.json", needed=False)
    if about.get("default_prompt_name"):
        raise UserError(f"{folder} puts a prompt before every text, which is not supported here")
    tokenizer = load_tokenizer(str(root))
    tower = text_tower(str(root), pooling, mask_token_id=tokenizer.mask_token_id)
    if "Dense" in parts:
        _load_head(folder / parts["Dense"], tower)
    return SentenceEncoder(
        tower, tokenizer, max_length=max_length, normalize="Normalize" in parts
    ).eval()


def _parts(folder: Path) -> dict[str, str]:
    """Kind -> subfolder of the modules."""
    path = folder / "modules.json"
    try:
        modules = json.loads(path.read_text("utf-8"))
        listed = [(str(m["type"]), str(m["path"])) for m in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not a folder of sentence-transformers: {error!r}") from error
    kinds = tuple(kind.rpartition(".")[2] for kind, _ in listed)
    if kinds not in _ORDERS or any(not k.startswith("sentence_transformers.") for k, _ in listed):
        raise UserError(
            f"{path} lists {', '.join(kind for kind, _ in listed)}; supported are Transformer, "
            "Pooling, then optionally Dense, then optionally Normalize"
        )
    if any(Path(place).is_absolute() or ".." in Path(place).parts for _, place in listed):
        raise UserError(f"{path} points outside of its folder")
    return dict(zip(kinds, (place for _, place in listed), strict=True))


def _pooling(path: Path, *, head: bool) -> Pooling:
    config = _json(path)
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or [])
    modes = modes or [mode for mode, flag in _FLAGS.items() if config.get(flag)]
    names: dict[str, Pooling] = {
        "cls": "cls" if head else "cls_before_pooler",
        "mean": "avg",
        "lasttoken": "last_token",
        "max": "max",
    }
    if len(modes) != 1 or modes[0] not in names:
        raise UserError(f"{path}: pooling {modes} is not supported; one of {sorted(names)} is")
    if head and modes[0] != "cls":
        raise UserError(f"{path}: a Dense module is supported after cls pooling, not {modes[0]}")
    return names[modes[0]]


def _max_length(root: Path) -> int | None:
    files = [root / f"sentence_{name}_config.json" for name in _READS]
    path = next((path for path in files if path.is_file()), files[0])
    config = _json(path, needed=False)
    if config.get("do_lower_case"):
        raise UserError(f"{root}: do_lower_case is not supported; set it in the tokenizer instead")
    if config.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise UserError(f"{root} is a model for {config['transformer_task']}, not for embeddings")
    if config.get("max_seq_length") is not None:
        return int(config["max_seq_length"])
    return None


def _load_head(folder: Path, tower: TextTower) -> None:
    config = _json(folder / "config.json")
    width = tower.num_features
    expected = {"in_features": width, "out_features": width, "bias": True}
    stored = {"bias": True, **config}
    if any(stored.get(k) != v for k, v in expected.items()) or config.get("use_residual"):
        raise UserError(f"{folder}: the Dense module must map {width} to {width} with a bias")
    if not str(config.get("activation_function", _TANH)).endswith(".Tanh"):
        raise UserError(f"{folder}: activation {config['activation_function']} is not tanh")
    path = folder / "model.safetensors"
    path = path if path.is_file() else folder / "pytorch_model.bin"
    assert tower.cls_head is not None
    load_state_dict_file(path, tower.cls_head[0], prefix="linear.")


def _json(path: Path, *, needed: bool = True) -> Mapping[str, Any]:
    if not needed and not path.is_file():
        return {}
    try:
        content: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return content


def _version(package: str) -> str:
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return "2.0.0"  # the oldest that reads the folder
