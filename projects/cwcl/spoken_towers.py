"""Text encoder and speech tower of a config, and what is known of them without their weights."""

from typing import Any

from common.config import UserError
from common.encoders.pretrained import resolve_pretrained, stand_in
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from projects.cwcl.config import Config, SpeechTowers
from projects.cwcl.speech.embedder import speech_embedder
from projects.cwcl.spoken_module import SpeechTextCWCL
from projects.cwcl.spoken_sets import sample_rate


def _whisper(width: int, layers: int) -> dict[str, Any]:
    """Sizes of a Whisper model whose encoder is used (Radford et al. 2023, table 1)."""
    return {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": width // 64,
        "encoder_ffn_dim": 4 * width,
        "decoder_layers": 1,
        "decoder_attention_heads": width // 64,
        "decoder_ffn_dim": 4 * width,
    }


ARCHITECTURES = {  # of encoders that may be named, for a dry run without their weights
    "FacebookAI/roberta-base": {
        "model_type": "roberta",
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
    "openai/whisper-tiny": _whisper(384, 4),
    "openai/whisper-base": _whisper(512, 6),
    "openai/whisper-small": _whisper(768, 12),
    "openai/whisper-medium": _whisper(1024, 24),
    "openai/whisper-large-v2": _whisper(1280, 32),
}


def architecture(cfg: Config, embed_dim: int) -> dict[str, Any]:
    """Arguments of `speech_embedder`, without the place of weights."""
    model = cfg.speech_model
    return {
        "encoder": model.encoder,
        "embed_dim": embed_dim,
        "sample_rate": sample_rate(cfg),
        "sizes": dict(model.sizes),
    }


def build_text(cfg: Config) -> SentenceEncoder:
    """The text encoder of the config.

    Raises:
        UserError: a locked encoder without weights.
    """
    model = cfg.speech_model
    if model.text == "random" and cfg.model.locked:
        raise UserError("speech_model.text=random can't be locked: give an encoder with weights")
    return sentence_encoder(model.text, model.text_pooling)


def build_module(cfg: Config) -> SpeechTextCWCL:
    """Both towers of the config under the objective."""
    text = build_text(cfg)
    speech = speech_embedder(
        **architecture(cfg, text.num_features), pretrained=cfg.speech_model.pretrained
    )
    return SpeechTextCWCL(cfg, text, speech)


def tower_sizes(model: SpeechTowers) -> dict[str, Any]:
    """Sizes of the speech tower without its weights; those of named weights, if there are some.

    Raises:
        UserError: absent weights of unknown size.
    """
    if model.pretrained == "random":
        return dict(model.sizes)
    if model.pretrained not in ARCHITECTURES:
        stand_in(model.pretrained, ARCHITECTURES)
        from transformers import AutoConfig

        ref = resolve_pretrained(model.pretrained)
        sizes: dict[str, Any] = AutoConfig.from_pretrained(str(ref.path or ref.name)).to_dict()
        return sizes
    return ARCHITECTURES[model.pretrained]
