"""Encoders in and out: exports, the layout of UniXcoder, the example of the card: items 7 and 9."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel

from common.config import UserError
from projects.cocosoda import build
from projects.cocosoda.code.search_sets import CodePair
from projects.cocosoda.code.types import TYPES, type_token
from projects.cocosoda.data import CodePairs, synthetic_pairs, typed_pieces
from projects.cocosoda.encoder import build_encoder, load_encoder
from tests.projects.cocosoda.conftest import config, module_of


def test_export_is_the_encoder_with_its_tokenizer(tmp_path):
    """Equal vectors after reload: identifiers divided, pieces for types, unit length."""
    experiment, module = build(config()), module_of().eval()
    experiment.export(module, tmp_path)
    loaded = experiment.load_export(tmp_path)
    before, after = (experiment.embed(m) for m in (module, loaded))
    assert before.keys() == after.keys() == {"queries", "documents"}
    for name, value in before.items():
        assert torch.equal(value, after[name])
    tokenizer = loaded.encoder.tokenizer
    assert tokenizer.tokenize("readLine_two") == module.encoder.tokenizer.tokenize("read Line two")
    assert {type_token(name) for name in TYPES} <= tokenizer.get_vocab().keys()
    assert (
        json.loads((tmp_path / "config_sentence_transformers.json").read_text())[
            "similarity_fn_name"
        ]
        == "cosine"
    )
    assert list(tmp_path.glob("*_Normalize"))


@pytest.fixture(scope="module")
def unixcoder(tmp_path_factory):
    """A tiny folder in UniXcoder's layout: RoBERTa, byte pairs, <encoder-only> as a plain piece."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    folder = tmp_path_factory.mktemp("unixcoder")
    pieces = ByteLevelBPETokenizer()
    texts = ["def read ( path ) : return open ( path )", "read a file and return the lines of it"]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<encoder-only>", "<mask>"]
    pieces.train_from_iterator(
        texts, 330, min_frequency=1, special_tokens=special, show_progress=False
    )
    pieces.save_model(str(folder))
    tokenizer = RobertaTokenizerFast.from_pretrained(folder, model_max_length=64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = AutoConfig.for_model(
        "roberta",
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        pad_token_id=1,
    )
    AutoModel.from_config(shape, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_item_7_unixcoder_reads_prefix_and_separator_before_the_text(unixcoder, tmp_path):
    """Checklist 7: <s> <encoder-only> </s> tokens </s>, in training, search, and after an
    export."""
    words = [
        f"model.pretrained={unixcoder}",
        "model.config=null",
        "model.prefix=<encoder-only>",
        "model.split_identifiers=false",
    ]
    cfg = config(*words)
    encoder = build_encoder(cfg.model)
    rows = encoder.tokenize(["read a file"])["input_ids"][0]
    pieces = encoder.tokenizer.convert_ids_to_tokens(rows.tolist())
    assert pieces[:3] == ["<s>", "<encoder-only>", "</s>"]
    assert pieces[-1] == "</s>"
    assert "<encoder-only>" not in pieces[3:]
    data = CodePairs({"python": synthetic_pairs("train", 0)}, encoder.tokenizer, cfg, augment=True)
    batch = data[[(i, 0) for i in range(8)]]
    for side in ("code", "augmented_code", "augmented_query"):
        assert (batch[side]["input_ids"][:, :3] == rows[:3]).all()
    rows_of_types = encoder.tower.model.get_input_embeddings().num_embeddings
    assert rows_of_types == len(encoder.tokenizer)
    experiment = build(cfg)
    module = next(experiment.stages()).module.eval()
    experiment.export(module, tmp_path)
    loaded = experiment.load_export(tmp_path)
    assert loaded.encoder.tokenize(["read a file"])["input_ids"].tolist() == [rows.tolist()]
    assert torch.equal(experiment.embed(module)["queries"], experiment.embed(loaded)["queries"])
    plain = load_encoder(cfg.model, unixcoder)  # as released weights come
    assert plain.tokenize(["read a file"])["input_ids"].tolist() == [rows.tolist()]
    with pytest.raises(UserError, match="is not a piece of this tokenizer"):
        build_encoder(config("model.prefix=<encoder-only>").model)


def test_item_9_pieces_with_their_space_in_front_have_the_type_of_their_token(unixcoder):
    """Checklist 9: byte pairs, behind a prefix too, where the tokenizer counts the space to the
    piece.
    """
    words = [f"model.pretrained={unixcoder}", "model.config=null", "model.split_identifiers=false"]
    code = "def read ( path ) : return open ( path )"
    actual = []
    for prefix in ("null", "<encoder-only>"):
        tokenizer = build_encoder(config(*words, f"model.prefix={prefix}").model).tokenizer
        _, types = typed_pieces(tokenizer, CodePair("q", code, "python", "k"), 50)
        actual.append([TYPES[t] if t >= 0 else "other" for t in types])
    assert "other" not in actual[0]
    assert actual[0] == actual[1]
    assert {"keyword", "identifier", "separators"} == set(actual[0])
