"""MTEB tasks on our encoders, with tasks whose data are in memory."""

import json
from itertools import islice

import pytest
import torch

from common.config import UserError
from common.data.lookup import data_root
from common.encoders.text.sentence import sentence_encoder
from common.evaluation.retrieval.beir import RetrievalSet, load_beir
from common.evaluation.retrieval.runs import dense_run, run_scores
from common.evaluation.text.sts import pair_cosine, spearman
from projects.nv_embed.embedding_benchmark.mteb import MtebEncoder, evaluate_mteb

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


def about(name, kind, main_score):
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        dataset={"path": f"local/{name}", "revision": "1"},
        description="made up",
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
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


def local_sts():
    from mteb.abstasks.sts import AbsTaskSTS

    class LocalSTS(AbsTaskSTS):
        metadata = about("LocalSTS", "STS", "cosine_spearman")

        def load_data(self, **kwargs):
            columns = {"sentence1": FIRST, "sentence2": SECOND, "score": GOLD}
            self.dataset = {"test": datasets.Dataset.from_dict(columns)}
            self.data_loaded = True

    return LocalSTS()


def local_retrieval(data):
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    class LocalRetrieval(AbsTaskRetrieval):
        metadata = about("LocalRetrieval", "Retrieval", "ndcg_at_10")

        def load_data(self, **kwargs):
            def rows(texts):
                return datasets.Dataset.from_list([{"id": i, "text": t} for i, t in texts.items()])

            split = {
                "corpus": rows(data.corpus),
                "queries": rows(data.queries),
                "relevant_docs": data.qrels,
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return LocalRetrieval()


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


def test_retrieval_equals_ours(encoder, tmp_path):
    """Fifteen queries and some hundred texts of CISI, all cut short."""
    data = load_beir(data_root() / "retrieval-cisi")
    kept = dict(islice(data.qrels.items(), 15))
    expected = {document for own in kept.values() for document in own}
    rest = [i for i in data.corpus if i not in expected][:100]
    corpus = {i: data.corpus[i][:200] for i in [*sorted(expected)[:300], *rest]}
    # CISI numbers both from 1, and a document of the query's own number is left out by us
    queries = {f"q{i}": data.queries[i][:100] for i in kept}
    qrels = {f"q{q}": {d: g for d, g in own.items() if d in corpus} for q, own in kept.items()}
    small = RetrievalSet(corpus, queries, qrels)
    path = tmp_path / "mteb.json"
    actual = evaluate_mteb(encoder, [local_retrieval(small)], path, name="tiny", batch_size=16)
    run = dense_run(small, encoder.encode, encoder.encode, depth=100)
    ours = run_scores(small, run, (10, 100)).metrics
    theirs = json.loads(path.read_text())["tasks"][0]["scores"]["test"][0]
    assert actual["mteb_LocalRetrieval"] == theirs["ndcg_at_10"]
    assert 0 < ours["ndcg_at_10"] < 1
    for metric in ("ndcg_at_10", "ndcg_at_100", "recall_at_10", "recall_at_100"):
        assert theirs[metric] == pytest.approx(ours[metric], abs=1e-5), metric  # five digits


def test_prompts_reach_the_encoder_and_the_report(encoder, tmp_path):
    seen = []

    def encode(texts: list[str]) -> torch.Tensor:
        seen.extend(texts)
        return encoder.encode(texts)

    prompts = {"STS": "same meaning: ", "Retrieval": "never: "}
    actual = evaluate_mteb(encode, [local_sts()], tmp_path / "m.json", name="f", prompts=prompts)
    assert sorted(set(seen)) == sorted(f"same meaning: {text}" for text in FIRST + SECOND)
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["prompts"] == {"LocalSTS/text": "same meaning: "}
    a, b = (encoder.encode([f"same meaning: {t}" for t in part]) for part in (FIRST, SECOND))
    assert actual["mteb_LocalSTS"] == pytest.approx(spearman(pair_cosine(a, b), GOLD), abs=1e-6)


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

    actual = evaluate_mteb(
        Instructed(), [local_sts()], tmp_path / "m.json", name="i", prompts={"STS": "same meaning"}
    )
    assert {prompt for _, prompt in seen} == {"same meaning"}
    assert all(not text.startswith("same meaning") for texts, _ in seen for text in texts)
    ours = spearman(pair_cosine(encoder.encode(FIRST), encoder.encode(SECOND)), GOLD)
    assert actual["mteb_LocalSTS"] == pytest.approx(ours, abs=1e-6)
