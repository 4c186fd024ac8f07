"""Where the pooler's first weights come from."""

import torch

from common.config import UserError
from common.encoders.text.mlm_head import word_prediction
from common.encoders.text.tower import load_transformer
from projects.defsent_plus.config import Config
from projects.defsent_plus.module import DefSentPlus
from projects.defsent_plus.pooler import pooler_source


def fill_pooler(cfg: Config, module: "DefSentPlus") -> None:
    """Give the pooler the weights of M_0; of DefSent the frozen word-prediction layer, whole.

    Raises:
        UserError: the checkpoint has no such weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(cfg.seed)  # pretrained=random: the same weights in every round
        if module.to_words or pooler_source(cfg, module.encoder) == "lm_head":
            _fill_from_lm_head(cfg, module)
        else:
            _fill_from_pooler(cfg, module)


def _fill_from_lm_head(cfg: Config, module: "DefSentPlus") -> None:
    place = cfg.pooler.lm_head or cfg.model.pretrained
    try:
        head = word_prediction(place, config=cfg.model.config if place == "random" else None)
    except UserError as error:
        raise UserError(
            f"{error}. Give the model that it was trained from, with its language-model head, in "
            "pooler.lm_head"
        ) from error
    module.pooler.dense.load_state_dict(head.dense.state_dict())
    if module.pooler.norm is not None:
        module.pooler.norm.load_state_dict(head.norm.state_dict())
        module.set_entries(torch.cat([head.weight, head.bias[:, None]], dim=1))


def _fill_from_pooler(cfg: Config, module: "DefSentPlus") -> None:
    model = cfg.model
    try:
        pretrained = load_transformer(model.pretrained, config=model.config, pooler=True).pooler
    except (UserError, AttributeError) as error:
        raise UserError(
            f"{model.pretrained} has no trained pooler ({error}): set pooler.source=lm_head for the"
            " dense layer of its language-model head"
        ) from error
    module.pooler.dense.load_state_dict(pretrained.dense.state_dict())
