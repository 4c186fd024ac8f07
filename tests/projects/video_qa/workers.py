"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from projects.video_qa.module import VideoQA
from tests.distributed.wrapped import rows_of, sgd_steps
from tests.projects.video_qa.conftest import batch_of, config, network_of


def two_steps(distributed: bool, phase: str = "main") -> dict[str, Tensor]:
    """Weights after two steps on eight questions in double precision, two of which have no span."""
    cfg = config("model.hidden=4", "method.head_lr=null")
    module = VideoQA(cfg, network_of(cfg), phase).double()  # type: ignore[arg-type]
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch_of(cfg, 8).items()}  # type: ignore[attr-defined]
    own = slice(4 * rank(), 4 * rank() + 4) if distributed else slice(None)
    return sgd_steps(module, [rows_of(batch, own)] * 2, distributed)
