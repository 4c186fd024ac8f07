"""WNLI: the candidates of a premise compete, in training and in answers."""

import pytest
import torch
from torch.nn import functional as F

from projects.vega.glue.ranking import best_of_premise, premises_of, ranked
from projects.vega.module import FineTune
from projects.vega.network import first_classifier
from projects.vega.stages import training_data, training_part
from tests.projects.vega.conftest import PLAIN, STILL, config

ROWS = [
    ("the man fed the dog because it barked", "the dog barked", 1),
    ("the man fed the dog because it barked", "the man barked", 0),
    ("the cup fell off the table and it broke", "the table broke", 0),
    ("the cup fell off the table and it broke", "the cup broke", 1),
    ("the cup fell off the table and it broke", "the floor broke", 0),
    ("she thanked her friend because she helped", "the friend helped", 1),
]
SOURCE = [*PLAIN, *STILL, "data.task=wnli", "data.source=file", "data.limit=null", "eval.part=dev"]


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "wnli.tsv"
    rows = "".join(f"{a}\t{b}\t{label}\n" for a, b, label in ROWS)
    path.write_text("sentence1\tsentence2\tlabel\n" + rows)
    return [*SOURCE, f"data.train_file={path}", f"data.dev_file={path}"]


def test_shares_of_a_premise_are_the_softmax_over_its_candidates():
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    premises = premises_of([(row[0], row[1]) for row in ROWS])
    assert premises.tolist() == [0, 0, 1, 1, 1, 2]
    score = logits[:, 1] - logits[:, 0]
    shares = ranked(logits, premises).softmax(1)[:, 1]
    expected = torch.cat([score[:2].softmax(0), score[2:5].softmax(0), score[5:].sigmoid()])
    torch.testing.assert_close(shares, expected)
    answers = best_of_premise(logits, premises).argmax(1)
    assert answers[:2].sum() == answers[2:5].sum() == 1
    assert answers[:2].argmax() == score[:2].argmax()
    assert answers[2:5].argmax() == score[2:5].argmax()
    assert answers[5] == (score[5] > 0)


def test_a_step_contrasts_all_candidates_of_its_premises(words):
    """Keys are premises; gradients are finite for a premise with one candidate too."""
    cfg = config(*words)
    module = FineTune(cfg, first_classifier(cfg))
    data = training_data(cfg, module, training_part(cfg)).train_set
    assert len(data) == 3
    batch = data[[(1, 0), (2, 0)]]
    assert batch["labels"].tolist() == [0, 1, 0, 1]
    assert batch["premises"].tolist() == [1, 1, 1, 2]
    logits = module.classifier(**batch["inputs"])
    score = logits[:, 1] - logits[:, 0]
    shares = torch.cat([score[:3].softmax(0), score[3:].sigmoid()])
    expected = F.binary_cross_entropy(shares, batch["labels"].float())
    loss = module.losses(batch)["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_answers_name_one_candidate_of_a_premise_unless_told_otherwise(words):
    texts = [(row[0], row[1]) for row in ROWS]
    for plain in (False, True):
        cfg = config(*words, f"data.wnli_ranked={str(not plain).lower()}")
        module = FineTune(cfg, first_classifier(cfg)).eval()
        raw = module.classifier.score(texts)
        if plain:
            assert torch.equal(module.score(texts), raw)
            assert len(training_data(cfg, module, training_part(cfg)).train_set) == len(ROWS)
        else:
            answers = module.score(texts).argmax(1).tolist()
            assert (sum(answers[:2]), sum(answers[2:5])) == (1, 1)
            torch.testing.assert_close(
                module.score(texts), best_of_premise(raw, premises_of(texts))
            )
    assert config("data.task=rte").data.ranks_candidates is False
