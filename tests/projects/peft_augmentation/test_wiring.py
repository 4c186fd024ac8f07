"""What the config says reaches mixtures, copies, the contrast and the table of tunings."""

import numpy as np
import pytest
import torch

from common.data.text.labelled.readers import LabelledSet
from common.engine.workspace import Workspace
from projects.peft_augmentation import build, copies, module, stages, tasks
from projects.peft_augmentation.config import ContrastConfig, CopiesConfig
from projects.peft_augmentation.copies import accepted, write_copies
from projects.peft_augmentation.objective import Objective, margin_contrast
from projects.peft_augmentation.stages import copies_of_training, labelled_parts, training_data
from tests.projects.peft_augmentation.conftest import PLAIN, STILL, TEXTS, config, module_of

PAIRS = LabelledSet(
    [("a hypothesis", "its premise"), ("another one", "and its own")],
    np.array([0, 1]),
    ("entailment", "not"),
)


@pytest.mark.parametrize("each", [True, False])
def test_passes_and_shares_of_mixtures_are_those_of_the_config(monkeypatch, each):
    words = ["augment.kind=mixup", "augment.concentration=0.7", f"augment.each={str(each).lower()}"]
    words += ["contrast.weight=0", "model.length_groups=3", *STILL]
    cfg, own, asked = config(*words), module_of(*words), {}
    mixture, grouped = module.mixture, module.in_length_groups
    monkeypatch.setattr(
        module, "mixture", lambda *args: (asked.update(mixture=args[:3]), mixture(*args))[1]
    )
    monkeypatch.setattr(
        module,
        "in_length_groups",
        lambda run, groups, **inputs: (asked.update(groups=groups), grouped(run, groups, **inputs))[
            1
        ],
    )
    batch = training_data(cfg, own).train_set[[(i, 0) for i in range(4)]]
    own.losses(batch)
    assert asked == {"mixture": (4, 0.7, each), "groups": 3}


def test_the_loss_depends_on_the_batch_only_with_a_contrast():
    assert module_of("contrast.weight=0.5").in_batch_negatives
    assert not module_of("contrast.weight=0").in_batch_negatives


def test_the_margin_is_that_of_the_config():
    torch.manual_seed(0)
    vectors, labels = torch.randn(8, 4), torch.tensor([0, 1, 0, 1] * 2)
    terms = Objective(ContrastConfig(weight=1.0, form="margin", margin=0.6))(
        torch.zeros(8, 2), labels, vectors
    )
    torch.testing.assert_close(terms["contrast"], margin_contrast(vectors, labels, 0.6))
    assert terms["contrast"] != margin_contrast(vectors, labels, 0.0)


def test_copies_have_share_number_and_synonyms_of_the_config(monkeypatch):
    asked = {}

    def synonyms(folder, root, **options):
        return asked.update(options, folder=folder) or {}

    def altered(train, words, reworded, **options):
        return asked.update(options, reworded=reworded) or []

    monkeypatch.setattr(stages, "wordnet_synonyms", synonyms)
    monkeypatch.setattr(stages, "eda_copies", altered)
    words = ["augment.kind=eda", "augment.copies=3", "augment.alpha=0.3", "seed=5"]
    cfg = config(*words)
    copies_of_training(cfg, labelled_parts(cfg.data, 0)[0])
    assert asked == {
        "folder": None,
        "hyphens": False,  # EDA writes them as spaces
        "alpha": 0.3,
        "copies": 3,
        "seed": 5,
        "reworded": cfg.data.labelled_task.reworded,
    }


@pytest.mark.parametrize(("steps", "monitor"), [("2", "val/score"), ("null", None)])
def test_a_run_that_validates_keeps_its_best_step(steps, monitor):
    (stage,) = stages.stages(config(*PLAIN, f"trainer.val_every_n_steps={steps}"))
    assert stage.monitor == monitor


def test_a_paraphrase_keeps_the_content_of_its_source():
    cfg = CopiesConfig(method="paraphrase", kept_words=0.5)
    source = "A large dog sleeps under green trees"
    assert accepted(source, "Under green trees a large dog is sleeping", cfg)
    assert not accepted(source, "Nobody could say what had happened there", cfg)


def test_only_texts_that_may_change_are_reworded(monkeypatch, tmp_path):
    rows = []

    class Done:
        summary, complete = "", False

    monkeypatch.setattr(copies, "labelled_parts", lambda *_: (PAIRS, None))
    monkeypatch.setattr(copies, "map_rows", lambda step, given, *_: rows.extend(given) or Done())
    cfg = config("copies.method=word_dropout")
    task = type(cfg.data.labelled_task)
    monkeypatch.setattr(
        type(cfg.data),
        "labelled_task",
        property(lambda self: task("pairs", 2, reworded=(1,))),
    )
    write_copies(cfg, Workspace(tmp_path))
    assert [row["text"] for row in rows] == ["its premise", "and its own"]
    assert {row["field"] for row in rows} == {1}


def test_runs_are_mapped_on_the_strongest_alteration(monkeypatch, tmp_path):
    own, altered = module_of(*PLAIN), []
    texts = LabelledSet(TEXTS, np.arange(4) % len(own.classifier.classes), own.classifier.classes)
    monkeypatch.setattr(tasks, "scored_part", lambda cfg: texts)
    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (own, None))
    monkeypatch.setattr(tasks, "evaluate_classifier", lambda *_, **__: {})
    monkeypatch.setattr(tasks, "embedded", lambda *_: torch.zeros(4, 2))
    monkeypatch.setattr(
        tasks, "copies_of", lambda data, task, shares: altered.append(shares) or {"": TEXTS}
    )
    cfg = config(
        *PLAIN, "eval.alterations=[0.1,0.5,0.3]", "analyse.runs=[x]", "analyse.figure=false"
    )
    tasks.analyse(cfg, Workspace(tmp_path), build(cfg))
    assert altered == [[0.5]]
