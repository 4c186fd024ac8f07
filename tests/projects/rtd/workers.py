"""What two processes compute."""

from unittest.mock import patch

import torch
from torch import Tensor

from projects.rtd import oti
from projects.rtd.stages import composer_of
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.rtd.conftest import batch_of, config, module_of


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps on six triplets, with the negatives of all ranks."""
    module = module_of("rtd.gather_negatives=true")
    module.double()
    whole = batch_of(module)
    own = {k: v.double() if k == "noise" else v for k, v in whole.items()}
    share = own_share(distributed, 3)
    return sgd_steps(module, [{k: v[share] for k, v in own.items()}] * 3, distributed)


def inverted_rows(rows: int) -> tuple[Tensor, int]:
    """Tokens of images in blocks of two, and how many blocks this process inverted."""
    torch.manual_seed(0)
    cfg = config("phi.searle.steps=1", "phi.searle.batch_size=2")
    composer = composer_of(cfg)
    composer.freeze(phi=False, student=False)
    images, near = torch.randn(rows, 32), torch.zeros(rows, 1).long()
    with patch.object(oti.torch.optim, "AdamW", wraps=torch.optim.AdamW) as made:
        tokens = oti.invert(composer, images, near, oti.Phrases(["cat"]), cfg.phi.searle, 0)
    return tokens, made.call_count
