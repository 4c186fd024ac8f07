"""The module as its training begins with it: of the config, or around an export (fine-tuning)."""

from typing import TypeVar

from common.config import UserError
from projects.one_to_k.config import Config
from projects.one_to_k.export import load_export
from projects.one_to_k.module import OneToK
from projects.one_to_k.network import resize_images

M = TypeVar("M", bound=OneToK)


def starting_module(cfg: Config, kind: type[M]) -> M:
    """What is trained, and what the untrained rows are measured with.

    Args:
        cfg: with `model.init`, network and temperature are those of that export.
        kind: class of the module.

    Raises:
        UserError: no export there, or one without a matching head that is to be trained.
    """
    init = cfg.model.init
    if init is None:
        return kind(cfg)
    network, reading = load_export(init)
    if cfg.method.itm_weight > 0 and network.matching is None:
        raise UserError(f"{init} has no matching head: set method.itm_weight=0 and eval.k_test=0")
    if cfg.model.window is not None:
        resize_images(network, cfg.data.image_size, cfg.model.window)
    module = kind(cfg, network.train())
    module.temperature.temperature.data.fill_(reading["temperature"])  # it was learnt
    return module
