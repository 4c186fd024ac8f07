"""Sentence encoders as folders of sentence-transformers and of transformers, and back."""

import json
import sys

import pytest
import torch
from transformers import AutoModel, DistilBertConfig, DistilBertModel

from common.config import UserError
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import TextTower
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
    write_modules,
)
from common.export.transformers import load_transformers, save_transformers

CONFIG = {
    "model_type": "bert",
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}
TEXTS = ["A man plays.", "Two dogs run through the high grass.", "no", "far too long " * 40]


def build(pooling: str, **options) -> SentenceEncoder:
    torch.manual_seed(0)
    encoder = sentence_encoder("random", pooling, config=CONFIG, **options).eval()
    if encoder.tower.cls_head is not None:
        torch.nn.init.normal_(encoder.tower.cls_head[0].weight)
        torch.nn.init.normal_(encoder.tower.cls_head[0].bias)
    return encoder


CASES = [
    ("cls", {}),
    ("cls", {"normalize": True}),
    ("cls", {"mlp_only_train": True}),
    ("cls_before_pooler", {"normalize": True}),
    ("avg", {}),
    ("avg", {"normalize": True, "max_length": 16}),
    ("last_token", {}),
    ("max", {}),
]


@pytest.mark.parametrize(("pooling", "options"), CASES)
def test_the_library_and_we_load_equal_embeddings(pooling, options, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    encoder = build(pooling, **options)
    expected = encoder.encode(TEXTS)
    save_sentence_transformers(encoder, tmp_path)
    theirs = library.SentenceTransformer(str(tmp_path), device="cpu")
    actual = theirs.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    kinds = [type(module).__name__ for module in theirs]
    assert ("Dense" in kinds) == (pooling == "cls" and "mlp_only_train" not in options)
    assert ("Normalize" in kinds) == bool(options.get("normalize"))
    ours = load_sentence_transformers(tmp_path)
    assert torch.equal(ours.encode(TEXTS), expected)
    assert not ours.training
    assert ours.max_length == encoder.max_length

    again = tmp_path / "again"  # what the library itself writes
    theirs.save(str(again), create_model_card=False)
    torch.testing.assert_close(load_sentence_transformers(again).encode(TEXTS), expected)


def test_files_of_the_sentence_transformers_folder(tmp_path):
    save_sentence_transformers(build("cls", normalize=True), tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [(m["path"], m["type"].rpartition(".")[2]) for m in modules] == [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Dense", "Dense"),
        ("3_Normalize", "Normalize"),
    ]
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_cls_token"]
    assert not pooling["pooling_mode_mean_tokens"]
    assert pooling["word_embedding_dimension"] == 32
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 48
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.bin"))


def test_older_folders_name_their_length_by_architecture(tmp_path):
    save_sentence_transformers(build("avg", max_length=7), tmp_path)
    (tmp_path / "sentence_bert_config.json").rename(tmp_path / "sentence_xlm-roberta_config.json")
    assert load_sentence_transformers(tmp_path).max_length == 7


def test_module_list_of_other_classes(tmp_path):
    """One writer for every encoder: own classes keep their names, subfolders and prompts are
    there."""
    parts = [("here.Module", ""), ("Normalize", "1_Normalize")]
    write_modules(tmp_path, parts, prompts={"titles": "Find: "}, similarity="dot")
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert modules == [
        {"idx": 0, "name": "0", "path": "", "type": "here.Module"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Normalize",
            "type": "sentence_transformers.models.Normalize",
        },
    ]
    about = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert about["prompts"] == {"titles": "Find: "}
    assert about["similarity_fn_name"] == "dot"
    assert set(about["__version__"]) == {"sentence_transformers", "transformers", "pytorch"}
    assert (tmp_path / "1_Normalize").is_dir()


def test_a_changed_head_changes_the_loaded_embeddings(tmp_path):
    """The negative twin: the stored head matters."""
    encoder = build("cls")
    expected = encoder.encode(TEXTS)
    with torch.no_grad():
        encoder.tower.cls_head[0].bias += 0.5
    save_sentence_transformers(encoder, tmp_path)
    assert not torch.allclose(load_sentence_transformers(tmp_path).encode(TEXTS), expected)


def test_weights_may_be_read_by_whoever_may_read_the_other_files(tmp_path):
    save_sentence_transformers(build("avg"), tmp_path)
    modes = {file.stat().st_mode for file in tmp_path.iterdir() if file.is_file()}
    assert (tmp_path / "model.safetensors").is_file()
    assert len(modes) == 1


@pytest.mark.parametrize(
    "pooling", ["avg_all", "avg_first_last", "avg_embedding_last", "avg_top2", "mask"]
)
def test_poolings_that_only_the_plain_export_has(pooling, tmp_path):
    encoder = build(pooling)
    with pytest.raises(UserError, match="plain transformers export"):
        save_sentence_transformers(encoder, tmp_path)
    assert not list(tmp_path.iterdir())
    texts = [f"{text[:20]} [MASK]" for text in TEXTS]
    again = load_transformers(save_transformers(encoder, tmp_path))
    assert torch.equal(again.encode(texts), encoder.encode(texts))


@pytest.mark.parametrize(("pooling", "options"), CASES)
def test_plain_transformers_round_trip(pooling, options, tmp_path):
    encoder = build(pooling, **options)
    again = load_transformers(save_transformers(encoder, tmp_path))
    assert torch.equal(again.encode(TEXTS), encoder.encode(TEXTS))
    inputs = encoder.tokenize(TEXTS)
    torch.testing.assert_close(again.train().eval()(**inputs), encoder(**inputs))
    assert (again.tower.mlp_only_train, again.normalize) == (
        encoder.tower.mlp_only_train,
        encoder.normalize,
    )
    assert encoder.tower.model.pooler is None


def test_the_head_becomes_the_pooler_of_the_plain_model(tmp_path):
    """The always-on head is what AutoModel gives as pooler_output, as in SimCSE's released
    models."""
    encoder = build("cls")
    save_transformers(encoder, tmp_path)
    model = AutoModel.from_pretrained(tmp_path).eval()
    inputs = encoder.tokenize(TEXTS)
    torch.testing.assert_close(model(**inputs).pooler_output, encoder(**inputs))


def test_an_architecture_without_pooler(tmp_path):
    config = DistilBertConfig(vocab_size=256, dim=32, n_layers=1, n_heads=2, hidden_dim=32)
    model = DistilBertModel(config)
    encoder = SentenceEncoder(TextTower(model, "cls"), tiny_tokenizer()).eval()
    with pytest.raises(UserError, match="use the sentence-transformers export"):
        save_transformers(encoder, tmp_path)
    again = load_sentence_transformers(save_sentence_transformers(encoder, tmp_path / "st"))
    assert torch.equal(again.encode(TEXTS), encoder.encode(TEXTS))
    encoder.tower.mlp_only_train = True
    again = load_transformers(save_transformers(encoder, tmp_path / "plain"))
    assert torch.equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_both_ways_work_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # importing it fails
    encoder = build("cls", normalize=True)
    again = load_sentence_transformers(save_sentence_transformers(encoder, tmp_path))
    assert torch.equal(again.encode(TEXTS), encoder.encode(TEXTS))


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(UserError, match="not a folder of sentence-transformers"):
        load_sentence_transformers(tmp_path)
    with pytest.raises(UserError, match="not an exported sentence encoder"):
        load_transformers(tmp_path)

    def fresh():
        return save_sentence_transformers(build("cls"), tmp_path)

    modules = json.loads((fresh() / "modules.json").read_text())
    for kind in ("sentence_transformers.models.LSTM", "other.models.Dense"):
        changed = [*modules[:2], modules[2] | {"type": kind}]
        (tmp_path / "modules.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match="supported are Transformer"):
            load_sentence_transformers(tmp_path)
    changed = [*modules[:2], modules[2] | {"path": "../2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="outside of its folder"):
        load_sentence_transformers(tmp_path)

    edit(fresh() / "1_Pooling" / "config.json", pooling_mode_mean_tokens=True)
    with pytest.raises(UserError, match=r"pooling \['cls', 'mean'\]"):
        load_sentence_transformers(tmp_path)
    edit(tmp_path / "1_Pooling" / "config.json", pooling_mode_cls_token=False)
    with pytest.raises(UserError, match="Dense module is supported after cls"):
        load_sentence_transformers(tmp_path)
    edit(fresh() / "2_Dense" / "config.json", activation_function="torch.nn.GELU")
    with pytest.raises(UserError, match="is not tanh"):
        load_sentence_transformers(tmp_path)
    edit(fresh() / "2_Dense" / "config.json", out_features=16)
    with pytest.raises(UserError, match="must map 32 to 32"):
        load_sentence_transformers(tmp_path)
    edit(fresh() / "sentence_bert_config.json", do_lower_case=True)
    with pytest.raises(UserError, match="do_lower_case"):
        load_sentence_transformers(tmp_path)
    edit(fresh() / "config_sentence_transformers.json", default_prompt_name="query")
    with pytest.raises(UserError, match="prompt"):
        load_sentence_transformers(tmp_path)
