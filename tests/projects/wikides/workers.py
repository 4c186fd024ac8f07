"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from projects.wikides.batches import DescribeRows, RankRows
from projects.wikides.data import synthetic_rows
from tests.distributed.wrapped import sgd_steps
from tests.projects.wikides.conftest import config, describer, ranker


def two_steps(phase: str, distributed: bool) -> dict[str, Tensor]:
    """State after two steps of SGD on eight paragraphs; each of two ranks has four."""
    rows = synthetic_rows("train", 0)[:16]
    if phase == "rank":
        module = ranker("model.dropout=0.0", "method.margin=0.2", "method.use_rouge=true").double()
        data = RankRows(config(), rows, module.encoder.encoder.tokenize, training=True)
    else:
        module = describer("generator.dropout=0.0").double()
        start = module.model.config.decoder_start_token_id
        data = DescribeRows(config(name="smoke_describe"), rows, module.tokenizer, start)
    first = 4 * rank() if distributed else 0
    count = 4 if distributed else 8
    batches = [data[[(step * 8 + first + i, 0) for i in range(count)]] for step in range(2)]
    return sgd_steps(module, batches, distributed)
