"""Phase II as an experiment: stage, evaluation, export, embeddings, plan."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common.config import UserError
from common.data.module import ContrastiveData
from common.encoders.modes import evaluated, untrained
from common.engine.experiment import Plan, Stage, weights_requirement
from common.engine.workspace import Workspace
from projects.wikides.batches import RankRows
from projects.wikides.config import Config
from projects.wikides.data import first_seed, load_rows, requirements
from projects.wikides.encoder import (
    SCORES,
    SCORES_FILE,
    RankerEncoder,
    build_encoder,
    load_encoder,
    planned_encoder,
    save_encoder,
)
from projects.wikides.evaluate import GIVEN, evaluate_encoder, gains, given_rows, grid, table
from projects.wikides.module import Ranker
from projects.wikides.selectors import SELECTORS

PROBES = ["A small cat sleeps.", "Two men are repairing the roof of an old house."]
_MONITORS = {"source": "val/selection_loss", "gold": "val/gold_rouge"}


def ranking_data(cfg: Config, encoder: RankerEncoder) -> ContrastiveData:
    """Training rows, and the development rows where the config validates."""
    tokenize = encoder.encoder.tokenize
    val = {}
    if cfg.trainer.val_every_n_steps is not None:
        val = {"dev": RankRows(cfg, load_rows(cfg, "dev"), tokenize, training=False)}
    return ContrastiveData(
        RankRows(cfg, load_rows(cfg, "train"), tokenize, training=True),
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "rank", whose best checkpoint by `eval.monitor` is kept if it validates."""
    encoder = build_encoder(cfg.model)
    watched = cfg.trainer.val_every_n_steps is not None
    yield Stage(
        "rank",
        Ranker(cfg, encoder),
        ranking_data(cfg, encoder),
        monitor=_MONITORS[cfg.eval.monitor] if watched else None,
        monitor_mode="min" if cfg.eval.monitor == "source" else "max",
    )


def evaluate(cfg: Config, module: Ranker, workspace: Workspace) -> dict[str, float]:
    """The method's row, ``sim_*``, ``fusion_*``, ``untrained_*``, selectors, given texts, gains.

    Metrics are ``gold_<measure>`` against the description and ``source_<measure>`` against the
    paragraph. A candidate's score is that of the module's training, whatever the command says.
    """
    cfg = replace(cfg, method=module.objective.method)
    rows = load_rows(cfg, cfg.eval.part)
    names = ["", "sim", "fusion"]
    with evaluated(module.encoder, cfg.trainer.accelerator):
        metrics = evaluate_encoder(cfg, module.encoder, rows, workspace)
    if cfg.eval.untrained:
        raw = untrained(lambda: build_encoder(cfg.model), first_seed(cfg), like=module.encoder)
        with evaluated(raw, cfg.trainer.accelerator):
            before = evaluate_encoder(cfg, raw, rows, None)
        metrics |= {f"untrained_{name}": value for name, value in before.items()}
        names.append("untrained")
    if cfg.eval.grid:
        metrics |= grid(rows) | given_rows(cfg, rows)
        metrics |= gains(metrics)
        names += [*SELECTORS, *GIVEN]
    workspace.say(table(metrics, names))
    return metrics


def export(cfg: Config, module: Ranker, folder: Path) -> None:
    """A folder for transformers and sentence-transformers, with the settings of the scores."""
    save_encoder(module.encoder, module.objective.method, folder)


def load_export(cfg: Config, folder: Path) -> Ranker:
    """The ranker of such a folder, which scores candidates as the run that it is of.

    Raises:
        UserError: another kind of folder, or one that doesn't tell how candidates are scored.
    """
    encoder = load_encoder(folder)
    if encoder.method is None:
        raise UserError(
            f"{folder} does not record how its ranker scores candidates: export the run again, or"
            " write "
            f'{SCORES_FILE} there, such as {{"use_sim": true, "use_rouge": false, "sim_range":'
            ' "clamp"}'
        )
    stored = {name: getattr(encoder.method, name) for name in SCORES}
    return Ranker(replace(cfg, method=replace(cfg.method, **stored)), encoder).eval()


def embed(cfg: Config, module: Ranker) -> dict[str, Tensor]:
    """Vectors of two fixed texts, compared after export and reload."""
    return {"texts": module.encoder.encode(PROBES)}


def plan(cfg: Config) -> Plan[Ranker]:
    """What `make check` reports on."""
    needed = requirements(cfg)
    here = all(r.present for r in needed)

    def forward(module: Ranker, batch_size: int) -> Tensor:
        texts = batch_size * (2 + cfg.data.num_candidates)
        ids = torch.ones(texts, cfg.model.max_length, dtype=torch.long)
        output: Tensor = module.encoder.encoder.tower.model(input_ids=ids).last_hidden_state
        return torch.sum(output)

    return Plan(
        lambda: Ranker(cfg, planned_encoder(cfg.model)),
        len(load_rows(cfg, "train")) if here else 0,
        forward,
        (*weights_requirement(cfg.model.pretrained), *needed),
    )
