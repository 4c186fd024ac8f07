"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from common.encoders.image_text.frozen_clip import FrozenClip
from projects.close.data import load_examples
from projects.close.stages import make_inputs, rows_of
from tests.distributed.wrapped import sgd_steps
from tests.projects.close.conftest import config, module_of


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps on six examples with several targets; the first of two ranks has
    four.
    """
    clip, cfg = FrozenClip("bundled:dual-encoder"), config("data.task=m_cap", "method.noise=0.3")
    module = module_of(cfg, clip)
    examples = load_examples(cfg, "train")
    rows = rows_of(cfg, module, make_inputs(cfg, clip, examples, "text"), examples, training=True)
    own = (slice(0, 4) if rank() == 0 else slice(4, 6)) if distributed else slice(0, 6)
    batches = [rows[[(i, step) for i in range(6 * step, 6 * step + 6)][own]] for step in range(3)]
    return sgd_steps(module, batches, distributed)
