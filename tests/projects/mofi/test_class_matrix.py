"""The class matrix: lazy Adam against torch's, sampling, one moment a row."""

import numpy as np
import pytest
import torch

from projects.mofi.class_matrix import ClassMatrix, sample_classes
from projects.mofi.classifier import EntityClassifier
from projects.mofi.data import synthetic_set
from projects.mofi.stages import stages
from tests.projects.mofi.conftest import config, module_of


def test_full_moments_equal_torch_s_sparse_adam():
    """Three steps on changing rows."""
    torch.manual_seed(0)
    matrix = ClassMatrix(8, 3, betas=(0.9, 0.98), eps=1e-14).double()
    table = torch.nn.Embedding(8, 3, sparse=True).double()
    table.weight.data.copy_(matrix.weight)
    other = torch.optim.SparseAdam(table.parameters(), lr=0.1, betas=(0.9, 0.98), eps=1e-14)
    for ids in ([0, 2, 5], [2, 3], [0, 5, 7]):
        rows = torch.tensor(ids)
        factor = torch.arange(3.0).double() + 1
        ((matrix.take(rows) * factor) ** 2).sum().backward()
        matrix.update_(0.1)
        other.zero_grad()
        ((table(rows) * factor) ** 2).sum().backward()
        other.step()
        torch.testing.assert_close(matrix.weight, table.weight.data)


def test_decay_is_on_taken_rows_and_nothing_moves_without_gradient():
    matrix = ClassMatrix(4, 2, weight_decay=0.5)
    before = matrix.weight.clone()
    (0 * matrix.take(torch.tensor([1]))).sum().backward()
    matrix.update_(0.1)
    torch.testing.assert_close(matrix.weight[1], before[1] * 0.95)
    assert torch.equal(matrix.weight[[0, 2, 3]], before[[0, 2, 3]])
    matrix.take(torch.tensor([2]))
    matrix.update_(0.1)
    assert int(matrix.step) == 1
    matrix.eval()
    assert not matrix.take(torch.tensor([2])).requires_grad


def test_row_moments_take_one_number_a_class():
    matrix = ClassMatrix(4, 6, moments="row")
    assert (matrix.first.numel(), matrix.second.numel()) == (0, 4)
    held = sum(b.numel() * b.element_size() for b in (matrix.weight, matrix.first, matrix.second))
    assert held == ClassMatrix.num_bytes(4, 6, "row")
    assert ClassMatrix.num_bytes(5, 6, "full", shards=2) == 4 * 3 * 18


def test_samples_hold_the_labels_and_are_uniform_elsewhere():
    labels, counts = torch.tensor([3, 17, 3]), np.zeros(40)
    for step in range(2000):
        ids, logs = sample_classes(labels, 40, 12, np.random.default_rng(step))
        assert logs is None
        assert len(ids) == 12
        assert {3, 17} <= set(ids.tolist())
        assert torch.equal(ids, ids.unique())
        counts[ids.numpy()] += 1
    others = np.delete(counts, [3, 17]) / 2000
    assert abs(others.mean() - 10 / 38) < 1e-6
    assert others.std() < 0.02
    everything, _ = sample_classes(labels, 40, 40, np.random.default_rng(0))
    assert everything.tolist() == list(range(40))
    assert sample_classes(labels, 40, 1, np.random.default_rng(0))[0].tolist() == [3, 17]


def test_frequent_classes_are_drawn_more_often_and_their_expected_count_is_larger():
    weights = np.array([1.0] * 20 + [9.0] * 20)
    counts = np.zeros(40)
    for step in range(300):
        ids, logs = sample_classes(torch.tensor([0]), 40, 8, np.random.default_rng(step), weights)
        counts[ids.numpy()] += 1
    assert counts[20:].mean() > 3 * counts[1:20].mean()
    place = ids.tolist()
    assert logs[place.index(max(place))] > logs[0]


def test_all_classes_need_no_correction():
    """Each is in S with probability 1, so log Q = 0, however small its odds; one class less is a
    sample.
    """
    labels, weights = torch.tensor([0]), np.array([1e-9, 1.0, 3.0, 6.0])
    for size in (4, 9):
        ids, logs = sample_classes(labels, 4, size, np.random.default_rng(0), weights)
        assert ids.tolist() == [0, 1, 2, 3]
        assert torch.equal(logs, torch.zeros(4))
    _, logs = sample_classes(labels, 4, 3, np.random.default_rng(0), weights)
    assert (logs < 0).all()


def test_settings_reach_the_class_vectors():
    """Their own initialisation, decay and rate; Adam's constants are those of `optim`."""
    words = ["method.class_std=0.5", "method.class_weight_decay=0.3", "method.class_moments=row"]
    words += ["optim.betas=[0.7,0.8]", "optim.eps=1e-5", "optim.weight_decay=0.9"]
    module = module_of(*words, "method.class_lr_scale=3")
    matrix, rates = module.classifier.matrix, []
    assert (matrix.betas, matrix.eps, matrix.weight_decay) == ((0.7, 0.8), 1e-5, 0.3)
    assert matrix.moments == "row"
    assert 0.4 < float(matrix.weight.std()) < 0.6
    module.current_lr, matrix.update_ = lambda: 0.1, rates.append
    module.after_optimizer_step()
    assert rates == [pytest.approx(0.3)]


def test_every_step_and_seed_draws_its_own_classes():
    """Odds are numbers of images to a power; they come with the set of every source."""

    def drawn(seed, step):
        cfg, counts = config("method.sampled=9", "method.sampling=frequency"), torch.arange(1, 201)
        classifier = EntityClassifier(200, 4, cfg.method, cfg.optim, seed, counts)
        assert classifier.odds == pytest.approx(counts.numpy() ** 0.5)
        classifier.matrix.step.fill_(step)
        taken, take = [], classifier.matrix.take
        classifier.matrix.take = lambda ids: taken.append(ids.tolist()) or take(ids)
        classifier(torch.ones(1, 4), torch.tensor([3]), torch.tensor([[3]]))
        return tuple(taken[0])

    assert drawn(0, 0) == drawn(0, 0)
    assert len({drawn(seed, step) for seed in (0, 1) for step in (0, 1)}) == 4
    cfg = config("method.sampling=frequency", "method.frequency_power=1")
    counts = synthetic_set(cfg).counts.tolist()
    assert next(stages(cfg)).module.classifier.odds.tolist() == counts


@pytest.mark.parametrize(
    "options", [{"num_classes": 0}, {"std": 0.0}, {"weight_decay": -1.0}, {"moments": "none"}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=r"need num_classes|moments"):
        ClassMatrix(**{"num_classes": 3, "dim": 2, **options})


def test_resized_matrix_takes_the_state_of_another_size():
    other, matrix = ClassMatrix(5, 2), ClassMatrix(3, 2)
    matrix.resize_(5)
    matrix.load_state_dict(other.state_dict())
    assert torch.equal(matrix.take(torch.tensor([4])), other.weight[4:])
