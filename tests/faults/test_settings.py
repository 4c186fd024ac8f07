"""Values that cannot be: exit code 2, one sentence that names the field, no run folder."""

import pytest
import torch

SAID = {
    "trainer.max_steps=-5": "trainer.max_steps must be >= 1",
    "trainer.max_steps=0": "trainer.max_steps must be >= 1",
    "trainer.max_epochs=-1": "trainer.max_epochs must be > 0",
    "trainer.max_epochs=0": "trainer.max_epochs must be > 0",
    "trainer.num_threads=-1": "trainer.num_threads must be >= 1",
    "trainer.num_nodes=0": "trainer.num_nodes must be >= 1",
    "trainer.ema_decay=2": "trainer.ema_decay must be in [0, 1)",
    "trainer.keep_checkpoints=-4": "trainer.keep_checkpoints must be >= 1",
    "trainer.val_every_n_steps=0": "trainer.val_every_n_steps must be >= 1",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val must be > 0",
    "trainer.accelerator=tpuu": "expected one of ['auto', 'cpu', 'gpu', 'mps']",
    "trainer.strategy=dpp": "expected one of ['auto', 'ddp', 'fsdp']",
    "trainer.devices=[7,0]": "give the number of processes",
    "trainer.devices=-1": "give the number of processes",
    "seed=-1": "seed must be in [0, 4294967295]",
    "optim.betas=[2,3]": "optim.betas must be in [0, 1)",
    "optim.lr=nan": "optim.lr must be > 0, not nan",
    "optim.lr=${foo}": "optim.lr: Interpolation key 'foo' not found",
    "optim.lr=${optim.lr}": "optim.lr: Recursive interpolation",
    "data.num_samples=-3": "data.num_samples must be >= 1",
    "data.num_samples=0": "data.num_samples must be >= 1",
    "data.image_size=-1": "data.image_size must be >= 1",
    "data.image_size=7": "takes images of 32 pixels",
    "data.crop_scale=[2,3]": "data.crop_scale must be in (0, 1]",
    "data.train_fraction=0": "data.train_fraction must be in (0, 1]",
    "eval.batch_size=0": "eval.batch_size must be >= 1",
    "model.embed_dim=0": "model.embed_dim must be >= 1",
    "run_id=latest": "run_id 'latest'",
    "run_id=../../../../evil": "run_id '../../../../evil'",
}


@pytest.mark.parametrize("word", SAID)
def test_it_is_refused_before_a_folder_exists(command, word):
    code, said, folder = command("train", "laclip", "smoke", word)
    assert (code, folder) == (2, False)
    assert SAID[word] in said
    assert said.startswith("error: ")
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["gpu", "mps"])
def test_a_device_that_is_not_there_is_refused(command, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    code, said, folder = command("train", "laclip", "smoke", f"trainer.accelerator={name}")
    assert (code, folder) == (2, False)
    assert f"trainer.accelerator={name}" in said
    assert "has 0 of them" in said


def test_more_devices_than_there_are_are_refused(command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in ("3", "[0,2]"):
        words = ["trainer.accelerator=gpu", f"trainer.devices={devices}"]
        assert "has 2 of them" in command("train", "laclip", "smoke", *words)[1]


def test_runs_in_a_file_are_refused(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, said, _ = command("train", "laclip", "smoke", f"runs_dir={tmp_path}/file/runs")
    assert code == 2
    assert f"{tmp_path}/file is a file; set another runs_dir" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "laclip", "smoke", "trainer.max_steps=-5"], "max_steps must be >= 1"),
        (["show", "laclip", "../simcse/smoke"], "no config '../simcse/smoke'"),
        (["show", "../laclip", "smoke"], "no project '../laclip'"),
        (["compare", "laclip", "--seeds", "0"], "SEEDS=0"),
        (["compare", "laclip", "--jobs", "0"], "JOBS=0"),
        (
            ["run", "laclip", "smoke"],
            "give a task: make run PROJECT=laclip TASK=pool_texts|rewrite",
        ),
        (["train", "laclip", "config=smoke"], "'config=smoke' is not a setting"),
        (["train", "laclip", "smoke", "SEED=3"], "unknown key 'SEED'; did you mean 'seed'?"),
        (["train", "laclip", "smoke", "zzzz=3"], "valid: data, eval, generator, method"),
        # what would be typed in vain
        (["train", "laclip", "--seeds", "3"], "train takes no --seeds"),
        (["eval", "laclip", "--run", "a", "--ckpt", "b"], "give --run or --ckpt"),
        (["compare", "laclip", "paper"], "compare takes one project and no config"),
        (["sweep", "laclip", "paper"], "sweep takes one project and no config"),
        (["compare", "wikides", "--plan", "seed=7"], "'seed=7' would change nothing"),
        (["compare-all", "a.b=1"], "takes no settings"),
        (["report", "laclop"], "no project 'laclop'; did you mean 'laclip'"),
        (["report", "laclip", "optim.lr=1"], "no setting but runs_dir"),
        (["report", "laclip", "paper"], "no project 'paper'"),
        (["smoke", "laclip", "seed=1"], "smoke takes no settings"),
        (["prune", "laclip", "--run", "a"], "prune takes no --run"),
        (["runs", "lacip"], "no project 'lacip'; did you mean 'laclip'?"),
        (["runs", "--where", "state=stoppd"], "no state 'stoppd'; did you mean 'stopped'?"),
        (["train", "simcse", "--arm", "unsop"], "simcse has no arm 'unsop'; did you mean 'unsup'?"),
        (["train", "simcse", "smoke", "--arm", "unsup"], "leave CONFIG out"),
        (
            ["train", "simcse", "--arm", "unsup", "model.mlp_only_train=false"],
            "'model.mlp_only_train=false' makes another arm",
        ),
    ],
)
def test_other_verbs_refuse_as_well(command, words, said):
    code, error, _ = command(*words)
    assert code == 2
    assert said in error
