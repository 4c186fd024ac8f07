"""What stands alongside the sets: how far the key encoder has come, how the vectors spread."""

import torch

from common.encoders.modes import evaluated
from common.evaluation.retrieval.beir import RetrievalSet
from common.families.retrieval.evaluation import load_set
from projects.contriever.config import Config
from projects.contriever.module import Contriever
from projects.contriever.stages import recipe_of

SAMPLE = 256  # documents whose vectors are looked at


def evaluate(cfg: Config, module: Contriever) -> dict[str, float]:
    """Spread of document vectors, and constants of the queue; the sets are the family's part.

    ``key_start_share`` is the share of the initial weights in the key encoder after the last step
    (m to the power of steps), ``queue_age`` the mean age of a key in steps.
    """
    metrics: dict[str, float] = {}
    method, steps = cfg.method, cfg.trainer.max_steps
    if method.pretrain and method.objective == "moco" and steps is not None:
        metrics["key_start_share"] = method.momentum**steps
        devices = cfg.trainer.devices
        count = len(devices) if isinstance(devices, list) else devices
        if isinstance(count, int):
            batch = cfg.data.batch_size * count * cfg.trainer.num_nodes
            step = batch * cfg.trainer.accumulate_grad_batches  # keys of an optimiser step
            metrics["queue_age"] = (method.queue_size / step + 1) / 2
    if cfg.eval.beir:
        documents = list(first_set(cfg).corpus.values())[:SAMPLE]
        with evaluated(module.encoder, cfg.trainer.accelerator):
            vectors = recipe_of(cfg).documents(module.encoder, documents)
        unit = torch.nn.functional.normalize(vectors, dim=1)
        metrics["document_std"] = float(vectors.std(0).mean())
        metrics["document_mean_cosine"] = float(unit.mean(0).square().sum())
    return metrics


def first_set(cfg: Config) -> RetrievalSet:
    """The first set of the evaluation."""
    return load_set(cfg, cfg.eval.beir[0])


def search_texts(cfg: Config) -> list[str]:
    """What the task "search" looks in when the config names no file."""
    from common.config import UserError

    if not cfg.eval.beir:
        raise UserError("give a text file or folder in search.file: the config has no set")
    return list(first_set(cfg).corpus.values())
