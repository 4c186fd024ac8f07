"""SimCSE's evaluation beside STS: transfer tasks."""

from common.engine.sentences import SentenceModule, encoding
from common.evaluation.transfer import evaluate_transfer, load_transfer
from projects.simcse.config import Config


def transfer(cfg: Config, module: SentenceModule) -> dict[str, float]:
    """Accuracy of logistic regression on the frozen embeddings, for `eval.transfer`."""
    if not cfg.eval.transfer:
        return {}
    tasks = {name: load_transfer(cfg.data.root, name) for name in cfg.eval.transfer}
    with encoding(cfg, module.encoder) as encode:
        return evaluate_transfer(encode, tasks)
