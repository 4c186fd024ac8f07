import torch

from common.config import TrainerConfig
from common.encoders.sentence import sentence_encoder
from common.engine.sentences import encoding
from projects.simcse.config import Config

ARCHITECTURE = {"model_type": "bert", "vocab_size": 400, "hidden_size": 16, "intermediate_size": 32,
                "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip


def test_each_sentence_is_encoded_once_in_a_context(monkeypatch):
    encoder = sentence_encoder("random", "avg", config=ARCHITECTURE)
    want = encoder.encode(["a dog", "it rains", "a dog"])
    seen = []
    plain = encoder.encode

    def counted(texts, **options):
        seen.extend(texts)
        return plain(texts, **options)

    monkeypatch.setattr(encoder, "encode", counted)
    cfg = Config(trainer=TrainerConfig(max_steps=1, accelerator="cpu"))
    with encoding(cfg, encoder) as encode:
        torch.testing.assert_close(encode(["a dog", "it rains", "a dog"]), want)
        torch.testing.assert_close(encode(["it rains"]), want[1:2])
    assert seen == ["a dog", "it rains"]
    with encoding(cfg, encoder) as encode:  # weights may have changed in between
        encode(["a dog"])
    assert seen[2:] == ["a dog"]
    assert encoder.training
