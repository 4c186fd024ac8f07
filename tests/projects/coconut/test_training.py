"""Tasks, memory, teacher, resume, two processes: what a run does between and inside tasks."""

import pytest
import torch

from common.config import UserError
from common.data.speech.sources import NUM_CLASSES, spoken_part
from common.engine import checkpoint as ckpt
from projects.coconut.data import (
    Samples,
    TaskSpeech,
    build_scenario,
    build_tokenizer,
    memory_slots,
    quota,
)
from projects.coconut.incremental import closest_to_mean, herding, select_memory
from projects.coconut.module import Coconut
from projects.coconut.speech.options import BeamSearch
from projects.coconut.stages import Task, grown_memory, stages, teacher_hypotheses
from tests.projects.coconut.conftest import ER, GOLDEN, batch, config, module_of
from tests.projects.coconut.workers import FAST, two_steps


def wave(rows, dim):
    return torch.sin(1 + 0.47 * torch.arange(rows * dim, dtype=torch.float64)).view(rows, dim)


# -- memory and tasks ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["outputs"]["herding_cases"])
def test_golden_item_2_selection_equals_the_authors_index_lists(case):
    """Item 2, golden: herding and closest to mean, class by class."""
    x, labels = wave(case["N"], case["D"]), torch.arange(case["N"]) % case["classes"]
    classes = list(range(case["classes"]))
    for method, key in (
        ("herding", "icarl_barycenter_indices"),
        ("closest", "closest_to_mean_indices"),
    ):
        actual = select_memory(x, labels, classes, case["per_class"], method)
        assert actual.tolist() == case[key]
    pick = {"herding": herding, "closest": closest_to_mean}
    assert pick["herding"](x, 2) != pick["closest"](x, 2) or case["N"] == 12


def test_item_1_tasks_partition_classes_and_samples():
    """Item 1: every class in one task; training rows of a task hold its classes only."""
    for source, tasks in (("digits", 5), ("synthetic", 3)):
        cfg = config(f"data.source={source}", f"data.num_tasks={tasks}")
        shared = Task(cfg)
        classes = shared.scenario.classes
        assert sorted(c for part in classes for c in part) == list(range(NUM_CLASSES[source]))
        seen = []
        for task, part in enumerate(classes):
            rows = shared.train_rows(task)
            assert set(shared.train.spoken.labels[rows].tolist()) == set(part)
            seen += rows.tolist()
        assert sorted(seen) == list(range(len(shared.train.spoken)))


def test_item_1_old_classes_come_back_through_memory_only():
    """Item 1: batches of task 2 hold new classes, and old ones flagged as memory."""
    shared = Task(config())
    memory = torch.tensor([0, 1, -1, 5])
    data = TaskSpeech(shared.train, shared.train_rows(1), memory)
    assert len(data) == len(shared.train_rows(1)) + 3
    whole = data[[(i, 0) for i in range(len(data))]]
    new = set(shared.scenario.classes[1])
    assert set(whole["labels"][~whole["is_memory"]].tolist()) == new
    assert whole["ids"][whole["is_memory"]].tolist() == [0, 1, 5]
    assert whole["slots"][whole["is_memory"]].tolist() == [0, 1, 3]
    assert not new & set(whole["labels"][whole["is_memory"]].tolist())


@pytest.mark.parametrize("selection", ["random", "closest", "herding"])
def test_item_2_memory_keeps_the_quota_of_every_seen_class(selection):
    """Item 2: at most the quota for each class, from the finished task, old ones untouched."""
    cfg = config(f"method.selection={selection}")
    shared = Task(cfg)
    torch.manual_seed(0)
    module = shared.module(0).eval()
    with torch.no_grad():
        first = grown_memory(shared, module, 0)
        second_module = shared.module(1, module, first).eval()
        second = grown_memory(shared, second_module, 1)
    assert second[: len(first)].equal(first)
    labels = shared.train.spoken.labels
    for task, chosen in ((0, first), (1, second[len(first) :])):
        assert len(set(chosen.tolist())) == len(chosen)
        assert set(chosen.tolist()) <= set(shared.train_rows(task).tolist())
        counts = labels[chosen].bincount(minlength=12)
        assert counts[shared.scenario.classes[task]].tolist() == [quota(cfg)] * 4
    assert len(second) == memory_slots(cfg, 2)


def test_item_2_classes_with_too_few_samples_leave_places_empty():
    """Item 2: never more than there are, and no sample twice."""
    x, labels = wave(5, 3), torch.tensor([0, 0, 1, 1, 1])
    for method in ("random", "closest", "herding"):
        actual = select_memory(x, labels, [0, 1], 3, method)
        assert sorted(actual[:3].tolist()) == [-1, 0, 1]
        assert sorted(actual[3:].tolist()) == [2, 3, 4]
    same = torch.ones(4, 3)  # degenerate: herding would choose one sample for ever
    assert sorted(herding(same, 3)) == [0, 1, 2]


def test_item_16_splits_orders_and_a_memory_that_is_too_small():
    """Item 16: official split sizes, a given order, an order by seed, and their errors."""
    for name, tasks, sizes in (
        ("paper", 6, [6, 5, 5, 5, 5, 5]),
        ("paper_fsc3", 3, [11, 10, 10]),
        ("paper_slurp6", 6, [3] * 6),
        ("paper_slurp3", 3, [6] * 3),
    ):
        scenario = build_scenario(config(name=name))
        assert [len(part) for part in scenario.classes] == sizes
        assert scenario.num_tasks == tasks
    assert build_scenario(config(name="paper_slurp6")).classes[0] == [2, 5, 6]
    assert build_scenario(config(name="paper_slurp6_random_order")).classes[0] == [11, 13, 3]
    orders = [build_scenario(config("data.order_by_seed=true", f"seed={s}")).order for s in (0, 1)]
    assert orders[0] != orders[1]
    with pytest.raises(UserError, match="names 2 classes, there are 12"):
        build_scenario(config("data.order=[0,1]"))
    with pytest.raises(UserError, match="must be a permutation"):
        build_scenario(config(f"data.order={[0] * 12}"))
    with pytest.raises(UserError, match="gives none of 12 classes a place"):
        quota(config("method.memory_size=5"))
    with pytest.raises(UserError, match="cannot be split into 13"):
        build_scenario(config("data.num_tasks=13"))


# -- teacher -------------------------------------------------------------------------------------


def test_item_3_teacher_is_a_frozen_copy_that_does_not_follow():
    """Item 3: equal at the start of the task, in eval mode, without gradient, unchanged by
    steps."""
    module = module_of()
    module.train()
    assert not module.teacher.network.training
    assert not any(p.requires_grad for p in module.teacher.parameters())
    before = {k: v.clone() for k, v in module.teacher.network.state_dict().items()}
    own = module.network.state_dict()
    assert all(torch.equal(before[k], own[k]) for k in own)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.losses(batch())["loss"].backward()
    optimizer.step()
    after = module.teacher.network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not all(torch.equal(before[k], module.network.state_dict()[k]) for k in before)


def test_item_3_no_teacher_without_use_for_one():
    """Item 3: none in the first task, none for ER, fine-tuning or offline."""
    assert module_of(task=0).teacher is None
    assert module_of(*ER).teacher is None
    assert module_of("method.memory_size=0").teacher is None
    assert module_of(*ER, "method.distillation=audio").teacher is not None


def test_item_18_hypotheses_are_the_teacher_s_and_are_cached():
    """Item 18: one beam search for every place of the memory; empty places stay padding."""
    cfg = config("method.distillation=sequence")
    shared = Task(cfg)
    torch.manual_seed(0)
    first = shared.module(0).eval()
    memory = torch.arange(8)
    memory[3] = -1
    module = shared.module(1, first, memory).eval()
    with torch.no_grad():
        actual = teacher_hypotheses(shared, module)
        one = shared.train.batch([6], [0], TaskSpeech(shared.train, memory, memory).counter)
        states, mask = module.teacher.network.encode(one["waveforms"], one["lengths"])
        alone = module.teacher.network.generate(states, mask, BeamSearch(2, 0.6, 8))[0]
    assert actual.shape == (8, 9)
    assert not actual[3].any()
    assert actual[6, : len(alone)][alone != 0].tolist()[:3] == alone[alone != 0].tolist()[:3]
    assert ((actual == 3).sum(1) == 1).tolist() == [True, True, True, False, *[True] * 4]


# -- baselines -----------------------------------------------------------------------------------


def test_item_13_without_both_weights_a_step_is_experience_replay():
    """Item 13: loss and gradients are those of plain cross-entropy on new and memory samples."""
    module, data = module_of(*ER), batch()
    module.losses(data)["loss"].backward()
    plain = module_of(*ER)
    states, mask = plain.network.encode(data["waveforms"], data["lengths"])
    logits = plain.network.logits(data["tokens"], states, mask)
    ce = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), data["tokens"][:, 1:].flatten(), ignore_index=0
    )
    ce.backward()
    for (name, a), (_, b) in zip(
        module.network.named_parameters(), plain.network.named_parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert module.network.audio_head is None
    assert module.in_batch_negatives is False


def test_item_13_arms_start_from_the_same_network():
    """Item 13: projections are built last, so encoder and decoder start equal in all arms."""
    with_heads, without = module_of(task=0).network, module_of(*ER, task=0).network
    own = without.state_dict()
    assert all(torch.equal(v, with_heads.state_dict()[k]) for k, v in own.items())


def test_item_13_fine_tuning_and_offline_are_configs():
    """Item 13: no memory; and one stage with all classes."""
    shared = Task(config("method.memory_size=0", *ER))
    assert len(shared.data(1, shared.module(1)).train_set.memory) == 0
    offline = config("method.setting=offline", *ER)
    names = [stage.name for stage in stages(offline)]
    assert names == ["task1"]
    assert len(Task(offline).train_rows(0)) == 72


# -- two processes, resume -----------------------------------------------------------------------


def test_two_processes_negative_twin(two_ranks):
    """The comparison can fail: another weight of the term gives other weights of the network."""
    one = two_steps(["method.mm_weight=0.2"], distributed=False)
    state = two_ranks.run(two_steps, overrides=[], distributed=True)[0]
    weights = [name for name in one if name.startswith("network.")]
    assert weights
    assert any(not torch.allclose(state[n], one[n], rtol=1e-7, atol=1e-9) for n in weights)


@pytest.fixture
def whole(smoke_runs):
    """State after the last task."""
    run = smoke_runs("coconut", "smoke", "method.distillation=sequence")
    return ckpt.load(ckpt.saved_checkpoints(run / "checkpoints/task3")[-1])


def test_item_14_a_checkpoint_has_memory_teacher_hypotheses_and_results(whole):
    names = whole["state_dict"]
    assert any(name.startswith("teacher.") for name in names)
    assert (names["memory"] >= 0).all()
    assert len(names["memory"]) == 16
    assert names["hypotheses"].any()
    assert (names["history.correct"][:2] >= 0).any(1).all()


def test_item_14_a_checkpoint_s_memory_is_what_the_stream_reads():
    """Item 14: the stream takes the memory of the module, also one that was loaded later."""
    shared = Task(config(*FAST))
    torch.manual_seed(0)
    module = shared.module(1, shared.module(0), torch.arange(8))
    data = shared.data(1, module)
    module.load_state_dict({**module.state_dict(), "memory": torch.arange(8, 16)})
    data.train_dataloader()
    assert [row for _, row in data.train_set.memory] == list(range(8, 16))


def test_one_step_reaches_every_trained_parameter():
    for overrides in ([], ["method.mm_weight=0"], ["method.nspt_weight=0"], [*ER]):
        for task in (0, 1):
            module = module_of(*overrides, task=task)
            module.losses(batch(6, 3 if task else 0))["loss"].backward()
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, name


def test_tokenizer_and_samples_are_functions_of_the_training_part():
    cfg = config()
    first, second = build_tokenizer(cfg), build_tokenizer(cfg)
    assert first.to_json() == second.to_json()
    samples = Samples(spoken_part(cfg.data, "test", cfg.seed), first, cfg.data, "target")
    assert samples.text is samples.tokens
    assert isinstance(Task(cfg).module(0), Coconut)
