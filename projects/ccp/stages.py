"""Pre-training, then fine-tuning if asked for; what `make check` builds."""

from collections.abc import Iterator

from torch import Tensor, nn

from common.config import UserError
from common.encoders.text.mlm_head import masked_lm_head
from common.engine.experiment import Plan, Stage
from common.engine.module import ContrastiveModule
from common.families.retrieval.experiment import text_plan
from projects.ccp.bitext import read_bitext
from projects.ccp.config import Config
from projects.ccp.data import (
    bitext_prefix,
    evaluation_files,
    pretraining_data,
    requirements,
    training_documents,
    tuning_data,
)
from projects.ccp.finetune import DPR
from projects.ccp.module import CCP
from projects.ccp.towers import Towers, recipe_of


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "pretrain", unless the config goes without, and "finetune" if it has steps.

    Raises:
        UserError: files of the evaluation are missing or cannot be used.
    """
    check_files(cfg)
    towers, options = recipe_of(cfg).build(), cfg.finetune
    if cfg.method.pretrain:
        module = CCP(cfg, towers, prediction_head(cfg, towers, cfg.model.pretrained))
        yield Stage("pretrain", module, pretraining_data(cfg, towers))
    if options.steps:
        steps = {"max_steps": options.steps, "max_epochs": None, "val_every_n_steps": None}
        if options.dev_file is not None:
            steps["val_every_n_steps"] = options.dev_every_n_steps
        yield Stage(
            "finetune",
            DPR(cfg, towers),
            tuning_data(cfg, towers),
            steps,
            monitor="val/nll" if options.dev_file is not None else None,
            monitor_mode="min",
        )


def check_files(cfg: Config) -> None:
    """Refuse what the evaluation after all stages could not read.

    Raises:
        UserError: files of bitext, calibration or XOR-Retrieve that are missing, or unequal sides.
    """
    for need in evaluation_files(cfg):
        if not need.present:
            raise UserError(f"{need.name}: there is no file {need.location}; {need.hint}")
    for place in cfg.eval.bitext.values():
        read_bitext(bitext_prefix(cfg, place))


def prediction_head(cfg: Config, towers: Towers, pretrained: str) -> nn.Module | None:
    """Head of the masked language model, tied to the encoder's word embeddings; None without one.

    Args:
        cfg: the experiment's config.
        towers: the encoder.
        pretrained: where its weights come from; "random" makes a head of the same architecture.

    Raises:
        UserError: the checkpoint has no weights for it.
    """
    if not cfg.method.mlm_weight:
        return None
    model = towers.passage.tower.model
    config = None
    if pretrained == "random":
        settings = model.config.to_dict()
        config = {
            k: settings[k]
            for k in (
                "model_type",
                "hidden_size",
                "num_attention_heads",
                "vocab_size",
                "pad_token_id",
            )
        }
        config |= {"num_hidden_layers": 1, "intermediate_size": settings["hidden_size"]}
    return masked_lm_head(pretrained, model, config=config)


def loaded_module(cfg: Config, towers: Towers) -> ContrastiveModule:
    """Module around an exported encoder: to be evaluated, with no part that an export lacks."""
    return DPR(cfg, towers) if cfg.finetune.steps else CCP(cfg, towers, pretraining=False)


def plan(cfg: Config) -> Plan[ContrastiveModule]:
    """What `make check` reports on."""
    needed, tuned = requirements(cfg), cfg.finetune.steps > 0
    samples = 0
    if cfg.method.pretrain and all(r.present for r in needed):
        samples = sum(len(texts) for texts in training_documents(cfg).values())
    if cfg.method.pretrain:
        longest, passes = cfg.data.max_length, 2
    else:
        longest, passes = cfg.finetune.max_length, 2 + cfg.finetune.num_negatives

    def module(towers: Towers) -> ContrastiveModule:
        return (
            DPR(cfg, towers) if tuned else CCP(cfg, towers, prediction_head(cfg, towers, "random"))
        )

    def run(towers: Towers, ids: Tensor) -> Tensor:
        output: Tensor = towers.passage.tower.model(input_ids=ids).last_hidden_state
        return output.sum()

    return text_plan(
        cfg,
        recipe_of(cfg),
        module,
        passes=lambda size: [(passes * size, longest)],
        run=run,
        num_samples=samples,
        requirements=needed,
    )
