"""A method with data, stages, metrics and needs of its own is made of the family's functions."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
import torch
from torch import Tensor

from common.config import ExperimentConfig, TrainerConfig, UserError
from common.data.text.views import TextViews
from common.engine.experiment import Requirement
from common.engine.workspace import Workspace
from common.families.sentences.config import SearchConfig, SentenceData, StsEval, TextModel
from common.families.sentences.evaluation import (
    before_and_after,
    evaluate_sentences,
    untrained_encoder,
)
from common.families.sentences.experiment import sentence_experiment, train_stage
from common.families.sentences.module import (
    SentenceModule,
    build_encoder,
    first_encoder,
)

ENTRIES = {"cat": ["a small animal that purrs", "a pet"], "hot dog": ["a sausage in a bun"]}
ARCHITECTURE = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@dataclass
class Dictionary(SentenceData):
    """Definitions of entries: a source that the family doesn't know."""

    source: Literal["dictionary", "file"] = "dictionary"  # type: ignore[assignment]


@dataclass
class Config(ExperimentConfig):
    """Two rounds; without STS sets by default."""

    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(max_steps=1, accelerator="cpu")
    )
    data: Dictionary = field(default_factory=Dictionary)
    model: TextModel = field(
        default_factory=lambda: TextModel(pretrained="random", config=ARCHITECTURE, pooling="avg")
    )
    eval: StsEval = field(default_factory=lambda: StsEval(sets=[]))
    search: SearchConfig = field(default_factory=SearchConfig)


class Reverse(SentenceModule):
    """Definitions against a frozen matrix of entries."""

    def __init__(self, cfg, encoder, targets=None):
        super().__init__(cfg.optim, encoder)
        shape = len(ENTRIES), encoder.num_features
        self.register_buffer("targets", torch.eye(*shape) if targets is None else targets)

    def losses(self, batch):
        logits = self.encoder(batch["input_ids"], batch["attention_mask"]) @ self.targets.T
        labels = torch.tensor([0, 0, 1])[batch["ids"]]
        return {"loss": torch.nn.functional.cross_entropy(logits, labels)}


def definitions(cfg, encoder):
    rows = [(text,) for texts in ENTRIES.values() for text in texts]
    return TextViews(rows, encoder.tokenizer, seed=cfg.seed, views=1)


def embedded(encoder) -> Tensor:
    return torch.stack([encoder.encode(texts).mean(0) for texts in ENTRIES.values()])


def rounds(cfg):
    targets = embedded(first_encoder(cfg).eval())
    for number in (1, 2):
        encoder = first_encoder(cfg)  # every round starts from the same weights
        module = Reverse(cfg, encoder, targets)
        yield train_stage(cfg, module, definitions(cfg, encoder), f"round{number}")
        targets = embedded(encoder.eval())  # of the model that was just trained


def own_metrics(cfg, module):
    def spread(encode):
        return {"entry_spread": float(encode([t for ts in ENTRIES.values() for t in ts]).std())}

    return before_and_after(cfg, module, spread)


def experiment(cfg, evaluate=None):
    need = Requirement("data: dictionary", "dictionary.csv", present=False, hint="write one")
    return sentence_experiment(
        cfg,
        Reverse,
        definitions,
        evaluate=evaluate,
        stages=rounds,
        requirements=lambda cfg: [need],
        num_samples=lambda cfg: 3,
        num_views=1,
    )


def test_rounds_begin_with_equal_weights_and_read_the_last_model():
    cfg = Config()
    begun, targets = [], []
    for stage in experiment(cfg).stages():
        encoder = stage.module.encoder
        assert all(part.training for part in encoder.modules())  # dropout is on
        begun.append({k: v.clone() for k, v in encoder.state_dict().items()})
        targets.append(stage.module.targets)
        batch = stage.data.train_set[[(i, 0) for i in range(3)]]
        with torch.no_grad():  # some training
            assert torch.isfinite(stage.module.losses(batch)["loss"])
            next(encoder.parameters()).add_(1.0)
        torch.rand(3)  # whatever is drawn between the rounds
    assert all(torch.equal(v, begun[1][k]) for k, v in begun[0].items())
    assert not torch.allclose(*targets)


def test_first_and_untrained_encoder_leave_the_random_state_alone_and_agree():
    cfg = Config(seed=3)
    state = torch.random.get_rng_state()
    first, plain = first_encoder(cfg), untrained_encoder(cfg)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(3)
    for other in (plain, build_encoder(cfg.model)):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in first.state_dict().items())
    assert first.training
    assert not any(part.training for part in plain.modules())
    different = first_encoder(Config(seed=4)).state_dict()
    assert not all(torch.equal(v, different[k]) for k, v in first.state_dict().items())


def test_metrics_are_those_that_the_method_names(tmp_path):
    """Its own alone, without an STS set; or the shared ones and its own."""
    cfg, workspace = Config(), Workspace(tmp_path, "dictionary", "smoke")
    alone = experiment(cfg, evaluate=lambda cfg, module, _: own_metrics(cfg, module))
    module = Reverse(cfg, first_encoder(cfg)).eval()
    actual = alone.evaluate(module, workspace)
    assert actual.keys() == {"entry_spread", "untrained_entry_spread"}
    assert actual["entry_spread"] == pytest.approx(actual["untrained_entry_spread"])
    with pytest.raises(UserError, match=r"give one in eval\.sets"):
        experiment(cfg).evaluate(module, workspace)  # the shared evaluation needs one
    both = Config(eval=StsEval(sets=["stsb-dev"], untrained=False))

    def evaluate(cfg, module, workspace):
        return evaluate_sentences(cfg, module, workspace) | own_metrics(cfg, module)

    actual = experiment(both, evaluate).evaluate(module, workspace)
    assert {"stsb_dev_spearman", "uniformity", "entry_spread"} <= actual.keys()


def test_check_lists_what_the_method_needs_and_search_what_it_lacks(tmp_path):
    made = experiment(Config())
    plan = made.plan()
    assert [need.name for need in plan.requirements] == ["data: dictionary"]
    assert plan.num_samples == 3
    assert isinstance(plan.module(), Reverse)
    made.export(Reverse(Config(), first_encoder(Config())), tmp_path / "model")
    asked = Config(search=SearchConfig(run=str(tmp_path / "model")))
    with pytest.raises(UserError, match=r"give one in eval\.sets"):
        experiment(asked).tasks["search"](Workspace(tmp_path, "dictionary", "smoke"))
