"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from tests.distributed.wrapped import sgd_steps
from tests.projects.moe_embeddings.conftest import batch_of, config, module_of

# the second step has no document of the last domain on either rank, the first none on the second
STEPS = ([0, 60, 120, 1, 61, 62, 2, 3], [4, 63, 5, 64, 6, 65, 7, 66])


def two_steps(words: list[str], distributed: bool) -> dict[str, Tensor]:
    """State after two steps of SGD on eight pairs; each of two ranks has four."""
    words = [*words, "model.dropout=0.0", "model.attention_dropout=0.0", "data.swap_prob=0"]
    module, cfg = module_of(*words).double(), config(*words)
    own = slice(4 * rank(), 4 * rank() + 4) if distributed else slice(None)
    batches = [batch_of(module, cfg, places[own]) for places in STEPS]
    return sgd_steps(module, batches, distributed)  # type: ignore[arg-type]
