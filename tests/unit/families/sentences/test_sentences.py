"""The parts that every sentence experiment shares."""

from types import SimpleNamespace

import pytest
import torch

from common.config import OptimConfig, TrainerConfig, UserError, load
from common.data.text.pairs.tasks import file_task
from common.data.text.sets import load_scored_pairs
from common.encoders.text.sentence import sentence_encoder
from common.engine.workspace import Workspace
from common.families.sentences.data import text_requirements
from common.families.sentences.evaluation import encoding, evaluate_sentences
from common.families.sentences.module import SentenceModule, build_encoder
from projects.dse.pair_classifier import classifier_optim, label_order
from projects.dse.pair_config import ClassifierConfig
from projects.simcse import build
from projects.simcse.config import Config
from projects.simcse.module import SimCSE

ARCHITECTURE = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


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


def test_transfer_tasks_stand_beside_sts(tmp_path):
    """Logistic regression on SentEval's files, for the tasks that the config names."""
    folder = tmp_path / "SentEval/data/downstream/SST/binary"
    folder.mkdir(parents=True)
    for part in ("train", "dev", "test"):
        lines = [f"good nice fine {i}\t1\nbad sad dull {i}\t0" for i in range(12)]
        (folder / f"sentiment-{part}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = [f"data.root={tmp_path}", "eval.transfer=[SST2]", "eval.untrained=false"]
    cfg = load(Config, "simcse", "smoke", words)
    module = SentenceModule(cfg.optim, sentence_encoder("random", "avg", config=ARCHITECTURE))
    metrics = evaluate_sentences(cfg, module, Workspace(tmp_path / "run"))
    assert metrics["sst2_accuracy"] == metrics["transfer_average_accuracy"] > 0.9
    assert metrics["sst2_accuracy_chance"] == 0.5
    assert "stsb_test_spearman" in metrics
    names = [need.name for need in text_requirements(cfg)]
    assert "data: SentEval" in names
    with pytest.raises(UserError, match="no SST; known: MR"):
        load(Config, "simcse", "smoke", ["eval.transfer=[SST]"])


PAIRS = [
    ("a red fox", "a red fox runs", "4.5"),
    ("a blue car", "the car is blue", "4"),
    ("a cat", "stocks fell", "0"),
    ("no score", "here", ""),
]


def test_scored_pairs_of_a_file_are_judged_next_to_baselines(tmp_path, capsys):
    """`eval.sets` knew fixed names only."""
    file = tmp_path / "my-pairs.csv"
    file.write_text("left,right,gold\n" + "".join(f"{a},{b},{s}\n" for a, b, s in PAIRS))
    words = [f"data.root={tmp_path}", "eval.sets=[my-pairs.csv]", "model.pretrained=random"]
    cfg = load(Config, "simcse", "smoke", words)
    cfg.model.config = ARCHITECTURE
    assert any(need.present for need in text_requirements(cfg) if need.location == str(file))
    module = SentenceModule(cfg.optim, build_encoder(cfg.model))
    metrics = evaluate_sentences(cfg, module, Workspace(tmp_path / "run"))
    assert (metrics["my_pairs_num_pairs"], metrics["my_pairs_num_skipped"]) == (3, 1)
    assert "1 of 4 rows have no text or no score" in capsys.readouterr().out
    assert metrics["jaccard_my_pairs_spearman"] > 0.8
    assert {"my_pairs_spearman", "untrained_my_pairs_spearman", "tfidf_my_pairs_spearman"} <= {
        *metrics
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("left,right,gold\na,b,high\nc,d,1\n", "row 1: 'gold' is 'high', give a number"),
        ("left,right,gold\na,b,nan\nc,d,1\n", "row 1: 'gold' is 'nan'"),
        ("left,right,gold\na,b,1\nc,d,1\n", "2 pairs with 1 different scores"),
        ("left,right\na,b\n", "has the columns left, right; expected sentence1"),
    ],
)
def test_bad_scores_of_own_pairs_are_refused(tmp_path, text, said):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        load_scored_pairs(tmp_path / "x.csv")


def test_named_columns_of_own_pairs_may_stand_anywhere(tmp_path):
    row = '{"score": %d, "id": "x", "sentence2": "b%d", "sentence1": "a"}\n'
    (tmp_path / "x.jsonl").write_text(row % (1, 1) + row % (2, 2))
    data = load_scored_pairs(tmp_path / "x.jsonl")
    assert (data.first, data.second, data.scores) == (["a", "a"], ["b1", "b2"], [1.0, 2.0])
    (tmp_path / "x.tsv").write_text("score\tone\ttwo\n1\ta\tb\n2\tc\td\n")
    assert load_scored_pairs(tmp_path / "x.tsv").second == ["b", "d"]


def test_length_groups_of_the_config_reach_the_encoder():
    cfg = load(Config, "simcse", "smoke", ["model.length_groups=4"])
    assert build_encoder(cfg.model).length_groups == 4
    assert build_encoder(load(Config, "simcse", "smoke").model).length_groups is None
    for bad, said in (
        (["model.length_groups=0"], "must be >= 1"),
        (["model.length_groups=2", "model.pooling=avg_all"], "must be 1 with"),
    ):
        with pytest.raises(UserError, match=f"length_groups {said}"):
            load(Config, "simcse", "smoke", [*bad, "model.mlp_only_train=false"])


@pytest.mark.parametrize("pooling", ["avg_first_last", "cls", "avg"])
def test_every_pooling_can_be_exported(pooling, tmp_path):
    """`make export`: a folder of sentence-transformers, or of transformers where that has none."""
    words = [f"model.pooling={pooling}", "method.mlm_weight=0.0", "model.mlp_only_train=false"]
    cfg = load(Config, "simcse", "smoke", words)
    experiment, module = build(cfg), SimCSE(cfg, build_encoder(cfg.model)).eval()
    with torch.no_grad():
        experiment.export(module, tmp_path)
        again = experiment.load_export(tmp_path).eval()
        before, after = experiment.embed(module), experiment.embed(again)
    torch.testing.assert_close(before["embeddings"], after["embeddings"])
    assert (tmp_path / "modules.json").exists() == (pooling != "avg_first_last")


def test_labels_are_compared_as_the_names_of_a_model_are():
    """ENTAILMENT of a model is "Entailment" of a task: its columns were taken in their own
    order."""
    config = SimpleNamespace(label2id={"CONTRADICTION": 0, "Not-Sure": 1, "ENTAILMENT": 2})
    classifier = SimpleNamespace(model=SimpleNamespace(config=config), num_labels=3)
    for labels in (
        ["Entailment", "not-sure", "Contradiction"],
        ["entailment", "not_sure", "contradiction"],
    ):
        assert label_order(classifier, file_task(labels)) == [2, 1, 0]
    assert label_order(classifier, file_task(["x", "y", "z"])) == [0, 1, 2]


def test_the_warm_up_of_a_classifier_is_its_own():
    """Not from where the student's begins, which may be above the classifier's peak."""
    student = OptimConfig(lr=2e-3, warmup_steps=7, warmup_start_lr=1e-3)
    own = classifier_optim(ClassifierConfig(steps=100, lr=2e-5, warmup_share=0.1), student)
    assert (own.lr, own.warmup_steps, own.warmup_start_lr) == (2e-5, 10, 0.0)
