"""Text classifiers: which token is the sentence."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel

from common.config import UserError
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tuned.classifier import TextClassifier

XLNET = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "vocab_size": 200}


def test_a_tokenizer_that_ends_in_cls_needs_another_pooling():
    tokenizer = tiny_tokenizer(200)
    ids = [(t, tokenizer.convert_tokens_to_ids(t)) for t in ("[SEP]", "[CLS]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "$A [SEP] [CLS]", special_tokens=ids
    )
    model = AutoModel.from_config(AutoConfig.for_model("xlnet", **XLNET))
    with pytest.raises(UserError, match="use mean"):
        TextClassifier(model, tokenizer, ["a", "b"], pooling="cls")
    mean = TextClassifier(model, tokenizer, ["a", "b"], pooling="mean").eval()
    assert torch.isfinite(mean.score([("the people",), ("a",)])).all()
