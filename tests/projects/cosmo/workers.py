"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from tests.distributed.wrapped import own_share, rows_of, sgd_steps
from tests.projects.cosmo.conftest import batch_of, module_of


def three_steps(distributed: bool, gather: str) -> dict[str, Tensor]:
    """Weights after captions, documents and captions again; labels are unevenly many on the two
    ranks.
    """
    module = module_of(f"method.gather={gather}", "method.logit_scale_init=1.0")
    module.network.train()
    own = own_share(distributed)
    batches = []
    for kind in ("image_text", "interleaved_image", "video_text"):
        batch = batch_of(kind, rows=8)
        batch["labels"][5:, 3:] = -100
        named = batch.pop("kind")
        batches.append({**rows_of(batch, own), "kind": named})
    return sgd_steps(module, batches, distributed, 0.05)
