"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from tests.distributed.wrapped import sgd_steps
from tests.projects.vacancysbert.conftest import batch, module_of


def two_steps(objective: str, distributed: bool) -> dict[str, Tensor]:
    """State after two steps of SGD on eight adverts; each of two ranks has four."""
    module = module_of(
        "model.dropout=0.0",
        f"method.objective={objective}",
        "method.skill_buckets=40",
        "method.temperature=0.5",
    ).double()
    own = slice(4 * rank(), 4 * rank() + 4) if distributed else slice(None)
    batches = []
    for seed in range(2):
        whole = batch(seed=seed)
        batches.append(
            {
                name: {k: v[own] for k, v in value.items()}
                if isinstance(value, dict)
                else value[own]
                for name, value in whole.items()
            }
        )
    for rows in batches:
        rows.pop("skills" if objective == "skills" else "skill_ids")
    return sgd_steps(module, batches, distributed)
