"""Resolve a ``pretrained:`` string of a config to one kind of weights, in one place.

| string                        | meaning                                                    |
|-------------------------------|------------------------------------------------------------|
| ``random``                    | no weights                                                 |
| ``bundled:<name>``            | folder (or file) below ``data/models`` of this repository  |
| ``open_clip:<arch>/<tag>``    | tag of open_clip; instead of a tag also a local file       |
| ``torchvision:<name>``        | default weights of a torchvision model                     |
| ``timm:<name>[.<tag>]``       | weights of a timm model                                    |
| existing file or folder       | local weights                                              |
| ``<name>`` or ``<org>/<name>``| Hugging Face id                                            |
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.config import ROOT, UserError, first_line
from common.damage import remedy

Kind = Literal["random", "file", "folder", "open_clip", "torchvision", "timm", "huggingface"]

BUNDLED = ROOT / "data" / "models"
_HF_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")

_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_BERT: dict[str, Any] = {"model_type": "bert"}
_CASED = {**_BERT, "vocab_size": 28996}
_MULTILINGUAL = {**_BERT, "vocab_size": 119547}
_ROBERTA = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514}
_XLM_ROBERTA = {**_ROBERTA, "model_type": "xlm-roberta", "vocab_size": 250002}
# text encoders by Hugging Face id, for `stand_in`: what differs from the defaults of transformers;
# released models of papers stand alongside what they were fine-tuned from
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert-base-uncased": _BERT,
    "princeton-nlp/unsup-simcse-bert-base-uncased": _BERT,
    "facebook/contriever": _BERT,
    "facebook/contriever-msmarco": _BERT,
    "bert-large-uncased": {**_BERT, **_LARGE},
    "bert-base-cased": _CASED,
    "bert-large-cased": {**_CASED, **_LARGE},
    "bert-base-multilingual-cased": _MULTILINGUAL,
    "facebook/mcontriever": _MULTILINGUAL,
    "facebook/mcontriever-msmarco": _MULTILINGUAL,
    "sentence-transformers/all-mpnet-base-v2": {
        "model_type": "mpnet",
        "vocab_size": 30527,
        "max_position_embeddings": 514,
    },
    "roberta-base": _ROBERTA,
    "princeton-nlp/unsup-simcse-roberta-base": _ROBERTA,
    "cambridgeltl/mirror-roberta-base-sentence-drophead": _ROBERTA,
    "hkust-nlp/SynCSE-partial-RoBERTa-base": _ROBERTA,
    "roberta-large": {**_ROBERTA, **_LARGE},
    "hkust-nlp/SynCSE-partial-RoBERTa-large": {**_ROBERTA, **_LARGE},
    "xlm-roberta-base": _XLM_ROBERTA,
    "xlm-roberta-large": {**_XLM_ROBERTA, **_LARGE},
}
_HUB_WEIGHTS = tuple(
    name + index
    for name in ("model.safetensors", "pytorch_model.bin")
    for index in ("", ".index.json")
)


@dataclass(frozen=True)
class PretrainedRef:
    """Where weights come from.

    Attributes:
        kind: library or place that provides them.
        spec: the string as the user wrote it.
        name: architecture (open_clip, torchvision, timm) or Hugging Face id, else "".
        tag: open_clip tag, else None.
        path: local file or folder, else None.
        present: True if no download is needed.
    """

    kind: Kind
    spec: str
    name: str = ""
    tag: str | None = None
    path: Path | None = None
    present: bool = True


def resolve_pretrained(spec: str, *, require: bool = True) -> PretrainedRef:
    """Turn a ``pretrained:`` string into a reference; checks names, paths and the local caches.

    Args:
        spec: see the table of this module.
        require: False reports weights which are absent by ``present=False`` instead of raising;
            misspelt names raise in both cases.

    Raises:
        UserError: unknown name or tag, missing file or folder, or weights that would have to be
            downloaded while Hugging Face's offline mode is on (of a Hugging Face id of which the
            config is cached, only loading them shows it: the tokenizer may be all that is needed).
    """
    scheme, _, rest = spec.partition(":")
    if spec == "random":
        return PretrainedRef("random", spec)
    if scheme == "bundled":
        ref = _bundled(spec, rest)
    elif scheme == "open_clip":
        ref = _open_clip(spec, rest)
    elif scheme == "torchvision":
        ref = _torchvision(spec, rest)
    elif scheme == "timm":
        ref = _timm(spec, rest)
    else:
        ref = _local_or_hub(spec)
    # a tokenizer or a config is also read where the weights are not
    partly = ref.kind == "huggingface" and _in_hub_cache(ref.name)
    if require and not (ref.present or partly) and (ref.path is not None or is_offline()):
        raise UserError(_how_to_get(ref))
    return ref


def stand_in(pretrained: str, sizes: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Architecture that a dry run builds for weights that are not here; None if they are.

    Args:
        pretrained: see the table of this module.
        sizes: architectures by Hugging Face id, such as `ARCHITECTURES`.

    Raises:
        UserError: absent weights of unknown size.
    """
    if pretrained == "random" or resolve_pretrained(pretrained, require=False).present:
        return None
    if pretrained not in sizes:
        raise UserError(
            f"pretrained={pretrained!r} is not on this machine and its size is not known; "
            f"known: {', '.join(sizes)}"
        )
    return sizes[pretrained]


def load_filled(kind: Any, ref: PretrainedRef, model_type: str) -> Any:
    """A transformers model of one kind in float32 and training mode.

    Refuses weights that do not fill it.

    Args:
        kind: class of the library, such as `transformers.WhisperModel`.
        ref: a folder or a Hugging Face id.
        model_type: what the configuration there has to say.

    Raises:
        UserError: weights that cannot be had, of another kind, or that leave tensors at random.
    """
    import torch
    from transformers import AutoConfig

    place, local = str(ref.path or ref.name), ref.path is not None or is_offline()
    with loading(ref):
        stored_type = AutoConfig.from_pretrained(place, local_files_only=local).model_type
        if stored_type != model_type:
            raise UserError(
                f"pretrained={ref.spec!r} is a model of kind {stored_type}; {model_type} is needed"
            )
        model, info = kind.from_pretrained(
            place, dtype=torch.float32, output_loading_info=True, local_files_only=local
        )
    # the vector of masked frames is random where fine-tuned weights lack it; it is not used
    # here
    lost = [key for key in info["missing_keys"] if not key.endswith("masked_spec_embed")]
    lost += [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
    if lost:
        raise UserError(
            f"pretrained={ref.spec!r} does not fill {kind.__name__}: {len(lost)} tensors such as "
            f"{sorted(lost)[0]} would start at random"
        )
    return model.train()  # from_pretrained switches dropout off, and Lightning keeps modes


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` forbids downloads."""
    return any(os.environ.get(name, "0").lower() not in ("", "0", "false") for name in _OFFLINE)


@contextmanager
def loading(ref: PretrainedRef) -> Iterator[None]:
    """Turn whatever a library raises while it fetches weights into one `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, AttributeError, NotImplementedError):  # a mistake of ours
        raise
    except Exception as error:  # also those that libraries in Rust raise, of no other class
        if ref.present:
            place = f" from {ref.path}" if ref.path is not None else ""
            todo = f" If a file there is damaged, {_restore(ref)}" if ref.path is not None else ""
            raise UserError(
                f"pretrained={ref.spec!r} cannot be loaded{place}: {first_line(error)}.{todo}"
            ) from error
        raise UserError(_how_to_get(ref)) from error


def _restore(ref: PretrainedRef) -> str:
    assert ref.path is not None
    return remedy(ref.path)


def _how_to_get(ref: PretrainedRef) -> str:
    if ref.path is not None:
        return f"pretrained={ref.spec!r}: {ref.path} does not exist{_bundled_names(ref)}"
    return (
        f"pretrained={ref.spec!r} is not in the local cache and cannot be downloaded. Run once "
        "with a network connection (and without HF_HUB_OFFLINE), give a local file or folder "
        "instead, or set pretrained=random to train from scratch."
    )


def _bundled_names(ref: PretrainedRef) -> str:
    if not ref.spec.startswith("bundled:"):
        return ""
    names = sorted(p.name for p in BUNDLED.iterdir()) if BUNDLED.is_dir() else []
    return f"; bundled models: {', '.join(names) or 'none'}"


def _bundled(spec: str, name: str) -> PretrainedRef:
    if not name or ".." in Path(name).parts or Path(name).is_absolute():
        raise UserError(f"pretrained={spec!r}: write bundled:<name of a folder in data/models>")
    return _local(spec, BUNDLED / name)


def _local(spec: str, path: Path) -> PretrainedRef:
    is_file = path.is_file() or (path.suffix and not path.is_dir())
    kind: Kind = "file" if is_file else "folder"
    return PretrainedRef(kind, spec, path=path, present=path.exists())


def _local_or_hub(spec: str) -> PretrainedRef:
    path = Path(spec).expanduser()
    if path.exists():
        return _local(spec, path)
    if _HF_ID.match(spec) and path.suffix not in (".pt", ".pth", ".bin", ".ckpt", ".safetensors"):
        cached = _in_hub_cache(spec) and any(_in_hub_cache(spec, name) for name in _HUB_WEIGHTS)
        return PretrainedRef("huggingface", spec, name=spec, present=cached)
    if ":" in spec and not any(c in spec.partition(":")[0] for c in "/\\."):
        raise UserError(
            f"pretrained={spec!r}: unknown source; use random, bundled:, open_clip:, torchvision:, "
            "timm:, a Hugging Face id, or a local file or folder"
        )
    return _local(spec, path)


def _in_hub_cache(repo: str, filename: str = "config.json") -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repo, filename), str)
    except HFValidationError as error:
        raise UserError(
            f"pretrained={repo!r} is neither a file or folder here nor a Hugging Face id: "
            f"{first_line(error)}"
        ) from error


def _open_clip(spec: str, rest: str) -> PretrainedRef:
    import open_clip

    arch, _, tag = rest.partition("/")
    check_choice(arch, open_clip.list_models(), f"pretrained={spec!r}: open_clip architecture")
    if not tag:
        raise UserError(f"pretrained={spec!r}: write open_clip:<architecture>/<tag or file>")
    path = Path(tag).expanduser()
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        return PretrainedRef("open_clip", spec, arch, path=path, present=path.is_file())
    tags = open_clip.list_pretrained_tags_by_model(arch)
    check_choice(tag, tags, f"pretrained={spec!r}: tag of {arch}")
    cfg = open_clip.pretrained.get_pretrained_cfg(arch, tag)
    return PretrainedRef("open_clip", spec, arch, tag=tag, present=_open_clip_cached(cfg))


def _open_clip_cached(cfg: dict[str, Any]) -> bool:
    repo, _, file = (cfg.get("hf_hub") or "").rpartition("/")  # org/name/ or org/name/file
    file = file or "open_clip_pytorch_model.bin"
    safe = {
        "open_clip_pytorch_model.bin": "open_clip_model.safetensors"
    }  # else only the suffix differs
    names = (safe.get(file, str(Path(file).with_suffix(".safetensors"))), file)
    if repo and any(_in_hub_cache(repo, name) for name in names):
        return True
    url = cfg.get("url") or ""
    return bool(url) and (Path("~/.cache/clip").expanduser() / Path(url).name).is_file()


def _torchvision(spec: str, name: str) -> PretrainedRef:
    import torch
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    check_choice(name, names, f"pretrained={spec!r}: torchvision model")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    return PretrainedRef("torchvision", spec, name, present=cached.is_file())


def _timm(spec: str, name: str) -> PretrainedRef:
    import timm

    arch = name.partition(".")[0]
    check_choice(arch, timm.list_models(), f"pretrained={spec!r}: timm model")
    tagged = [
        checkpoint for checkpoint in timm.list_pretrained() if checkpoint.partition(".")[0] == arch
    ]
    if name != arch or not tagged:
        check_choice(name, tagged, f"pretrained={spec!r}: timm weights")
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    repo = (cfg and cfg.hf_hub_id) or ""
    present = bool(repo) and any(
        _in_hub_cache(repo, file) for file in ("model.safetensors", "pytorch_model.bin")
    )
    return PretrainedRef("timm", spec, name, present=present)


def check_choice(value: str, choices: Iterable[str], what: str) -> None:
    """Refuse a name that is not among the choices, with the nearest ones.

    Raises:
        UserError: unknown name.
    """
    choices = list(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(value, choices, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    if not near and len(choices) <= 20:
        hint = f"; valid: {', '.join(choices) or 'none'}"
    raise UserError(f"{what} {value!r} is unknown{hint}")
