"""Any open_clip model as a dual encoder: by name, by config, by tag or from an exported folder."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import CustomResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from common.config import UserError
from common.encoders.pretrained import PretrainedRef, check_choice, loading, resolve_pretrained
from common.encoders.state_dict import load_state, read_state_dict

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
TRUNK_DIR = "image_trunk"  # timm config of an image tower that open_clip cannot express itself


class OpenClipDualEncoder(nn.Module):
    """An open_clip model behind the interface of `DualEncoder`.

    Its own logit scale (and bias) is frozen, because the loss owns the one that trains; `log_scale`
    gives the stored value.

    Args:
        config: name of a model that open_clip knows, or a config with ``embed_dim``,
            ``vision_cfg`` and ``text_cfg`` (further keys as in open_clip's files).
        pretrained: ``random``, ``open_clip:<name>/<tag>`` with the same name, or a weights file.
        tokenizer: texts -> ids; None takes open_clip's own for this config.

    Raises:
        UserError: unknown name, key or value; absent or ill-fitting weights.
    """

    def __init__(
        self,
        config: str | Mapping[str, Any],
        pretrained: str = "random",
        tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> None:
        super().__init__()
        ref = resolve_pretrained(pretrained)
        self.config = _config(config)
        self.image_mean: tuple[float, ...] = OPENAI_DATASET_MEAN
        self.image_std: tuple[float, ...] = OPENAI_DATASET_STD
        self.interpolation, self.resize_mode = "bicubic", "shortest"
        if ref.tag is not None:
            self.model: Any = self._create_with_tag(config, ref)
        else:
            self.model = _create(self.config)
            if ref.path is not None:
                _load(self.model, ref.path, config, ref)
            elif ref.kind != "random":
                raise UserError(f"an open_clip model cannot take pretrained={pretrained!r}")
        self.model.logit_scale.requires_grad_(False)
        if self.model.logit_bias is not None:
            self.model.logit_bias.requires_grad_(False)
        self.tokenizer = tokenizer or _default_tokenizer(config, self.config)
        self.embed_dim = int(self.config["embed_dim"])
        size = self.model.visual.image_size
        self.image_size = int(size if isinstance(size, int) else size[0])

    @classmethod
    def from_folder(
        cls, folder: str | Path, tokenizer: Callable[[Sequence[str]], Tensor] | None = None
    ) -> "OpenClipDualEncoder":
        """Load a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``.

        Raises:
            UserError: not such a folder, or weights that do not fit its config.
        """
        folder = Path(folder)
        try:
            stored = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
            config = _config(stored["model_cfg"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is not an open_clip folder: {error}") from error
        trunk = config["vision_cfg"].get("timm_model_name", "")
        if trunk.startswith("local-dir:"):  # the stored path is wrong once the folder has moved
            config["vision_cfg"]["timm_model_name"] = f"local-dir:{(folder / TRUNK_DIR).resolve()}"
        tokenizer = tokenizer or open_clip.get_tokenizer(f"local-dir:{folder}")
        encoder = cls(config, str(folder / WEIGHTS_FILE), tokenizer)
        preprocess = stored.get("preprocess_cfg", {})
        encoder.image_mean = tuple(preprocess.get("mean", encoder.image_mean))
        encoder.image_std = tuple(preprocess.get("std", encoder.image_std))
        encoder.interpolation = preprocess.get("interpolation", encoder.interpolation)
        encoder.resize_mode = preprocess.get("resize_mode", encoder.resize_mode)
        return encoder

    def preprocess(self) -> Callable[[Any], Tensor]:
        """open_clip's own PIL image -> (3, S, S) float32, of the model's folder or tag."""
        transform: Callable[[Any], Tensor] = open_clip.image_transform(
            self.image_size,
            is_train=False,
            mean=self.image_mean,
            std=self.image_std,
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
        )
        return transform

    @property
    def log_scale(self) -> float:
        """Logarithm of the stored logit scale: a start value for fine-tuning."""
        return float(self.model.logit_scale)

    def image_features(self, images: Tensor) -> Tensor:
        """Features before the projection, (B, 3, H, W) -> (B, F).

        ViT: pooled, normalised token; timm: trunk output; ModifiedResNet: last feature map,
        averaged over positions (its attention pool and projection are one layer).

        Raises:
            UserError: a tower without such features.
        """
        visual = self.model.visual
        if isinstance(visual, VisionTransformer):
            features: Tensor = visual._pool(visual.transformer(visual._embeds(images)))[0]
            return features
        if isinstance(visual, TimmModel):
            features = visual.trunk(images)
            return features
        if isinstance(visual, ModifiedResNet):
            maps: Tensor = visual.stem(images)
            for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                maps = layer(maps)
            return maps.mean((2, 3))
        raise UserError(f"{type(visual).__name__} has no features before the projection")

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeddings, (B, 3, H, W) -> (B, D), not normalised."""
        embeddings: Tensor = self.model.encode_image(images)
        return embeddings

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embeddings, ids (B, context_length) -> (B, D), not normalised."""
        embeddings: Tensor = self.model.encode_text(tokens)
        return embeddings

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings (B, D), so that one call passes through wrappers such as DDP."""
        return self.encode_image(images), self.encode_text(tokens)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile both towers, as training calls them and not `forward`."""
        text = getattr(self.model, "text", None) or self.model.transformer
        for tower in (self.model.visual, text):
            tower.compile(*args, **kwargs)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the transformer blocks in the backward pass to save memory.

        Raises:
            UserError: open_clip cannot recompute blocks of this kind.
        """
        if enable and any(
            isinstance(m, CustomResidualAttentionBlock) for m in self.model.modules()
        ):
            raise UserError(
                "model.activation_checkpointing=true: open_clip cannot recompute blocks with options"
                " of their own, such as qk_norm; set it to false"
            )
        self.model.set_grad_checkpointing(enable)

    def _create_with_tag(self, config: str | Mapping[str, Any], ref: PretrainedRef) -> Any:
        if config != ref.name:
            raise UserError(f"pretrained={ref.spec!r} needs the open_clip model {ref.name!r}")
        _check_activation(ref, self.config)
        with loading(ref):
            model: Any = open_clip.create_model(ref.name, ref.tag, require_pretrained=True)
        self.image_mean, self.image_std = model.visual.image_mean, model.visual.image_std
        preprocessing = getattr(model.visual, "preprocess_cfg", {})
        self.interpolation = preprocessing.get("interpolation", self.interpolation)
        self.resize_mode = preprocessing.get("resize_mode", self.resize_mode)
        return model


def open_clip_dual_encoder(
    config: str | Mapping[str, Any] | None,
    pretrained: str = "random",
    tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
) -> OpenClipDualEncoder:
    """Like the class, and `pretrained` may be a folder that open_clip exported.

    With a folder or tag the config may be left out; a given one must be equal.

    Raises:
        UserError: no config, or one that contradicts the weights.
    """
    ref = resolve_pretrained(pretrained)
    if ref.kind == "folder" and ref.path is not None:
        encoder = OpenClipDualEncoder.from_folder(ref.path, tokenizer)
        if config is not None and _config(config) != encoder.config:
            raise UserError(
                f"the open_clip config differs from the one in {ref.path}; leave it out"
            )
        return encoder
    if config is None and ref.kind == "open_clip":
        config = ref.name
    if config is None:
        raise UserError("give open_clip (a name or a config), vision, or an exported folder")
    return OpenClipDualEncoder(config, pretrained, tokenizer)


def _config(config: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, str):
        check_choice(config, open_clip.list_models(), "open_clip model")
        return dict(open_clip.get_model_config(config))
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in config:
            raise UserError(f"an open_clip config needs {key}")
    if "multimodal_cfg" in config:
        raise UserError("captioning models (multimodal_cfg) are not dual encoders")
    return copy.deepcopy(dict(config))


def _create(config: Mapping[str, Any]) -> CLIP | CustomTextCLIP:
    """A randomly initialised model, chosen as open_clip's factory does; downloads no weights."""
    fields = copy.deepcopy(dict(config))
    custom_text = fields.pop("custom_text", False) or "hf_model_name" in fields["text_cfg"]
    if "hf_model_name" in fields["text_cfg"]:
        fields["text_cfg"]["hf_model_pretrained"] = False
    if "timm_model_name" in fields["vision_cfg"]:
        fields["vision_cfg"]["timm_model_pretrained"] = False
    try:
        return (CustomTextCLIP if custom_text else CLIP)(**fields)
    except (TypeError, AssertionError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"open_clip cannot build this config: {error}") from error


def _load(
    model: nn.Module, path: Path, config: str | Mapping[str, Any], ref: PretrainedRef
) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder: use OpenClipDualEncoder.from_folder")
    if ref.kind == "open_clip" and config != ref.name:
        raise UserError(f"pretrained={ref.spec!r} needs the open_clip model {ref.name!r}")
    state = read_state_dict(path)
    if isinstance(model, CustomTextCLIP) and "positional_embedding" in state:
        state = convert_to_custom_text_state_dict(state)
    load_state(model, state, source=str(path))


def _default_tokenizer(
    config: str | Mapping[str, Any], fields: Mapping[str, Any]
) -> Callable[[Sequence[str]], Tensor]:
    text = fields["text_cfg"]
    if isinstance(config, str):
        name = str(text.get("hf_tokenizer_name", config))
        with loading(PretrainedRef("huggingface", name, present=False)):
            tokenizer: Callable[[Sequence[str]], Tensor] = open_clip.get_tokenizer(config)
            return tokenizer
    if text.get("hf_tokenizer_name"):
        raise UserError("this open_clip config has a tokenizer of its own: pass `tokenizer`")
    simple: Callable[[Sequence[str]], Tensor] = SimpleTokenizer(
        context_length=text.get("context_length", 77)
    )
    return simple


def _check_activation(ref: PretrainedRef, config: Mapping[str, Any]) -> None:
    """Refuse weights that were trained with the other GELU; open_clip itself only warns."""
    cfg = open_clip.pretrained.get_pretrained_cfg(ref.name, ref.tag)
    stored, used = bool(cfg.get("quick_gelu", False)), bool(config.get("quick_gelu", False))
    if stored != used:
        name = f"{ref.name}-quickgelu" if stored else ref.name.removesuffix("-quickgelu")
        raise UserError(
            f"pretrained={ref.spec!r} was trained with quick_gelu={stored}; use the model {name} "
            f"and open_clip:{name}/{ref.tag}"
        )
