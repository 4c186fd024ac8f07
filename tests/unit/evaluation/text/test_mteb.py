"""MTEB tasks on our encoders, with tasks whose data are in memory."""

import json

import pytest
import torch

from common.config import UserError
from common.encoders.text.sentence import sentence_encoder
from common.evaluation.text.mteb import MtebEncoder, evaluate_mteb
from common.evaluation.text.sts import pair_cosine, spearman

mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")

CONFIG = {
    "model_type": "bert",
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
FIRST = ["a dog runs", "two cats sleep", "the sun is far", "he plays the guitar", "no"]
SECOND = ["a dog ran", "the stock fell by ten", "a far sun", "a guitar is played", "not at all"]
GOLD = [4.5, 0.0, 3.0, 4.0, 2.0]


def local_sts():
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    class LocalSTS(AbsTaskSTS):
        metadata = TaskMetadata(
            name="LocalSTS",
            dataset={"path": "local/sts", "revision": "1"},
            description="five pairs",
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
            date=("2024-01-01", "2024-01-02"),
            domains=[],
            task_subtypes=[],
            license="mit",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
            reference="https://example.org",
        )

        def load_data(self, **kwargs):
            columns = {"sentence1": FIRST, "sentence2": SECOND, "score": GOLD}
            self.dataset = {"test": datasets.Dataset.from_dict(columns)}
            self.data_loaded = True

    return LocalSTS()


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return sentence_encoder("random", "avg", config=CONFIG).train()


def test_score_equals_ours_and_is_written_with_its_circumstances(encoder, tmp_path):
    path = tmp_path / "scores" / "mteb.json"
    scores = evaluate_mteb(encoder, [local_sts()], path, name="tiny", batch_size=2)
    ours = spearman(pair_cosine(encoder.encode(FIRST), encoder.encode(SECOND)), GOLD)
    assert scores == {"mteb_LocalSTS": pytest.approx(ours, abs=1e-6)}
    report = json.loads(path.read_text())
    assert (report["model"], report["pooling"], report["max_length"]) == ("tiny", "avg", 128)
    assert report["versions"]["mteb"] == mteb.__version__
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert report["prompts"] == {"LocalSTS/text": ""}
    assert report["tasks"][0]["scores"]["test"][0]["main_score"] == pytest.approx(ours, abs=1e-6)


def test_prompts_reach_the_encoder_and_the_report(encoder, tmp_path):
    seen = []

    def encode(texts: list[str]) -> torch.Tensor:
        seen.extend(texts)
        return encoder.encode(texts)

    prompts = {"STS": "same meaning: ", "Retrieval": "never: "}
    found = evaluate_mteb(encode, [local_sts()], tmp_path / "m.json", name="f", prompts=prompts)
    assert sorted(set(seen)) == sorted(f"same meaning: {text}" for text in FIRST + SECOND)
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["prompts"] == {"LocalSTS/text": "same meaning: "}
    a, b = (encoder.encode([f"same meaning: {t}" for t in part]) for part in (FIRST, SECOND))
    assert found["mteb_LocalSTS"] == pytest.approx(spearman(pair_cosine(a, b), GOLD), abs=1e-6)


def test_adapter_is_an_encoder_of_mteb(encoder):
    model = MtebEncoder(encoder, "tiny")
    assert isinstance(model, mteb.models.EncoderProtocol)
    assert model.mteb_model_meta.name == "local/tiny"
    a, b = encoder.encode(FIRST).numpy(), encoder.encode(SECOND).numpy()
    torch.testing.assert_close(model.similarity(a, b), encoder.similarity(FIRST, SECOND))
    torch.testing.assert_close(model.similarity_pairwise(a, b), model.similarity(a, b).diagonal())


def test_unknown_task(encoder, tmp_path):
    with pytest.raises(UserError, match="unknown MTEB task"):
        evaluate_mteb(encoder, ["NoSuchTask"], tmp_path / "m.json", name="tiny")


def test_an_encoder_that_takes_prompts_apart_gets_texts_without_them(encoder, tmp_path):
    seen = []

    class Instructed:
        def encode_prompted(self, texts, prompt, batch_size):
            seen.append((sorted(texts), prompt))
            return encoder.encode(texts)

    found = evaluate_mteb(
        Instructed(), [local_sts()], tmp_path / "m.json", name="i", prompts={"STS": "same meaning"}
    )
    assert {prompt for _, prompt in seen} == {"same meaning"}
    assert all(not text.startswith("same meaning") for texts, _ in seen for text in texts)
    ours = spearman(pair_cosine(encoder.encode(FIRST), encoder.encode(SECOND)), GOLD)
    assert found["mteb_LocalSTS"] == pytest.approx(ours, abs=1e-6)
