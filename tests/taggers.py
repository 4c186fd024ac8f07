"""A token-classification model without training, saved as transformers saves one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast


def save_tagger(
    folder: Path, known: Sequence[str], marked: Sequence[str], positions: int = 512
) -> str:
    """Write a model that marks the words `marked`, each by itself, and knows `known` beside them.

    It reads so many `positions` at a time, which its tokenizer does not know of.

    Returns:
        The folder.
    """
    words = ["[UNK]", "[PAD]", *known, *marked]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.save_pretrained(folder)
    sizes = BertConfig(
        vocab_size=len(words),
        hidden_size=len(words),
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=positions,
        num_labels=2,
        id2label={0: "O", 1: "B-THING"},
    )
    model = BertForTokenClassification(sizes)
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            parameter.zero_()  # what is left is the word's own vector
        for name, norm in model.named_modules():
            if name.endswith("LayerNorm"):
                norm.weight.fill_(1.0)
        embeddings = model.bert.embeddings
        embeddings.word_embeddings.weight.copy_(10 * torch.eye(len(words)))
        embeddings.position_embeddings.weight.zero_()
        embeddings.token_type_embeddings.weight.zero_()
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.weight[1, -len(marked) :] = 1.0
        model.classifier.bias[1] = -0.5
    model.save_pretrained(folder)
    return str(folder)
