"""Which step moves what, resume, two processes: checklist items 1, 2, 12 to 14."""

import pytest
import torch

from common.engine import checkpoint as ckpt
from common.engine.experiment import Stage
from common.engine.run import train
from common.engine.trainer import build_trainer
from common.engine.workspace import Workspace
from projects.mclrec import build
from projects.mclrec.data import build_data, load_sets
from projects.mclrec.module import MCLRec
from tests.projects.mclrec.conftest import STILL, config, module_of
from tests.projects.mclrec.workers import train_ranks

ARMS = {
    "sasrec": ("method.cl1_weight=0", "method.cl2_weight=0"),
    "cl4srec": ("method.cl1_weight=0.1", "method.cl2_weight=0"),
    "joint": ("method.update=joint",),
    "mclrec": (),
    "no_cl1": ("method.cl1_weight=0",),
    "no_cl2": ("method.cl2=false",),
    "no_regulariser": ("method.reg_weight=0",),
    "shared": ("model.shared_augmenter=true",),
    "two_steps": ("method.steps=2",),
}


def snapshot(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


class Watched(MCLRec):
    """Notes what each step moves, and what the augmenters' step was given."""

    def updates(self, batch):
        self.moved = getattr(self, "moved", [])
        self.seen = getattr(self, "seen", [])
        before = snapshot(self)
        for name, terms in super().updates(batch):
            if name == "augmenters":
                fresh = self.augmenter_terms(batch)["loss"]
                self.seen.append(
                    (batch["ids"], float(terms["loss"]), float(fresh), len(self.moved))
                )
            yield name, terms
            after = snapshot(self)
            moved = {k.split(".")[0] for k in after if not torch.equal(after[k], before[k])}
            still = [k for k in after if torch.equal(after[k], before[k])]
            self.moved.append((name, moved, still))
            before = after


def fit(tmp_path, *overrides):
    """A fit of a watched module; the module and its trainer."""
    cfg = config("trainer.val_every_n_steps=null", "trainer.max_steps=2", *overrides)
    module = module_of(*overrides, kind=Watched)
    stage = Stage("train", module, build_data(cfg, load_sets(cfg)))
    trainer = build_trainer(cfg, stage, 0, Workspace(tmp_path), [])
    trainer.fit(module, stage.data)
    return module, trainer


def test_checklist_1_2_13_three_steps_of_two_optimisers_on_each_batch(tmp_path):
    """Checklist 1, 2, 13: steps 1 and 3 move theta alone, step 2 phi alone, after theta and encoded
    again.
    """
    module, trainer = fit(tmp_path, *STILL)
    assert not module.automatic_optimization
    assert [(name, moved) for name, moved, _ in module.moved] == 2 * [
        ("encoder", {"encoder"}),
        ("augmenters", {"augmenters"}),
        ("encoder", {"encoder"}),
    ]
    for name, _, still in module.moved:  # all of its part moves, both augmenters
        part = "encoder" if name == "encoder" else "augmenters"
        assert not [k for k in still if k.startswith(f"{part}.")], name
    # the loss of step 2 is that of the moved encoder on the same batch (no dropout here)
    (first, given, fresh, after), *_ = module.seen
    assert given == pytest.approx(fresh)
    assert after == 1  # one step had been made
    torch.manual_seed(0)
    begin = module_of(*STILL)
    cfg = config(*STILL)
    rows = build_data(cfg, load_sets(cfg)).train_set[[(int(i), 0) for i in first]]
    stale = float(begin.augmenter_terms(rows)["loss"])
    assert given != pytest.approx(stale, rel=1e-5)  # the twin: views of the encoder before step 1
    # optimisers and counts
    encoder, augmenters = trainer.optimizers
    counts = [{int(s["step"]) for s in o.state.values()} for o in (encoder, augmenters)]
    assert counts == [{4}, {2}]
    assert trainer.global_step == 2  # batches
    owned = [{id(p) for g in o.param_groups for p in g["params"]} for o in (encoder, augmenters)]
    assert owned == [{id(p) for p in part.parameters()} for part in module.parts().values()]


def test_two_steps_are_those_of_algorithm_1_and_the_logged_loss_is_the_encoder_s(tmp_path):
    """Sheet: `steps: 2` leaves the last encoder step out."""
    module, _trainer = fit(tmp_path, "method.steps=2")
    assert [name for name, *_ in module.moved] == 2 * ["encoder", "augmenters"]
    logged = module.logged_terms()
    assert {"loss", "rec", "cl1", "cl2", "regulariser", "augmenter_loss"} <= logged.keys()
    expected = (
        logged["rec"] + 0.01 * logged["cl1"] + 0.05 * (logged["cl2"] + 0.1 * logged["regulariser"])
    )
    torch.testing.assert_close(logged["loss"], expected)


def test_checklist_14_all_arms_train_in_one_evaluator(tmp_path):
    """Checklist 14: one or two optimisers, the terms of each arm, and gradients for all it has."""
    expected = {
        "sasrec": {"rec"},
        "cl4srec": {"rec", "cl1"},
        "joint": {"rec", "cl1", "cl2", "regulariser"},
        "no_cl1": {"rec", "cl2", "regulariser", "augmenter_loss"},
    }
    for name in ("sasrec", "cl4srec", "joint", "no_cl1"):
        torch.manual_seed(0)
        overrides = ("trainer.max_steps=1", "trainer.val_every_n_steps=null", *ARMS[name])
        cfg = config(*overrides)
        module = MCLRec(cfg, load_sets(cfg).log.items).train()
        before = snapshot(module)
        stage = Stage("train", module, build_data(cfg, load_sets(cfg)))
        (tmp_path / name).mkdir()
        trainer = build_trainer(cfg, stage, 0, Workspace(tmp_path / name), [])
        trainer.fit(module, stage.data)
        assert len(trainer.optimizers) == (2 if name == "no_cl1" else 1), name
        assert (module.augmenters is None) == (name in ("sasrec", "cl4srec"))
        assert module.logged_terms().keys() - {"loss"} == expected[name], name
        after = snapshot(module)
        assert not [k for k in after if torch.equal(before[k], after[k])], name


@pytest.mark.parametrize("name", ["no_cl2", "no_regulariser", "shared"])
def test_checklist_14_ablations_change_their_term_alone(name):
    """Checklist 14: without cl2, without R, with a shared augmenter."""
    from tests.projects.mclrec.conftest import batch

    module = module_of(*ARMS[name], *STILL)
    terms = module.losses(batch(*STILL))
    assert (float(terms["cl2"]) == 0) == (name == "no_cl2")
    assert (float(terms["regulariser"]) == 0) == (name == "no_regulariser")
    count = sum(p.numel() for p in module.augmenters.parameters())
    full = sum(p.numel() for p in module_of().augmenters.parameters())
    assert count == (full // 2 if name == "shared" else full)


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_early_stopping_is_the_release_s_also_in_a_run_that_goes_on(tmp_path):
    """Gains below four digits are none, and no validation is lost by a resume."""
    (stop,) = module_of("eval.patience=2", "trainer.val_every_n_steps=1").configure_callbacks()
    assert stop.monitor == next(build(config()).stages()).monitor == "val/mrr_at_10_rounded"
    for value in (0.1, 0.2):  # larger is better
        stop._count(value)
    assert stop.waited == 0
    words = [
        f"runs_dir={tmp_path}",
        "run_id=r",
        "eval.reference=false",
        "eval.patience=3",
        "optim.lr=1.0e-7",
        "trainer.max_steps=7",
        "trainer.val_every_n_steps=1",
        "trainer.checkpoint_every_n_steps=1",
        "trainer.keep_checkpoints=9",
    ]
    folder = train("mclrec", "smoke", words) / "checkpoints/train"
    values = ckpt.validations(folder)
    assert list(values) == [1, 2, 3, 4]  # the first, and three that are no better
    assert all(value == pytest.approx(round(value, 4), abs=1e-8) for value in values.values())
    for step in (3, 4):
        (folder / f"step-0000000{step}.ckpt").unlink()
    (folder / "finished.json").unlink()
    train("mclrec", "smoke", [*words, "resume=r"])
    assert ckpt.newest_intact(folder)[0] == folder / "step-00000004.ckpt"


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize(
    "further",
    [(), ("method.regulariser=batchwise", "method.reg_pairs=1")],
    ids=["release", "paper"],
)
def test_two_processes_train_as_one(two_ranks, tmp_path, further):
    """Equal weights of encoder and augmenters after two batches of three steps, through the
    trainer.
    """
    one = train_ranks(tmp_path / "one", devices=1, batch_size=16, further=further)
    actual = two_ranks.run(
        train_ranks, folder=tmp_path / "two", devices=2, batch_size=8, further=further
    )
    for name, value in one.items():
        for rank in actual:
            torch.testing.assert_close(rank[name], value, rtol=1e-6, atol=1e-8, msg=name)
    if further:
        return
    local = two_ranks.run(
        train_ranks, folder=tmp_path / "local", devices=2, batch_size=8, gather=False
    )
    assert any(not torch.allclose(local[0][n], v, atol=1e-6) for n, v in one.items())  # the twin
