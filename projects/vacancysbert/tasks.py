"""Tasks: normalise adverts, write the benchmark, score embeddings of any model on it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.encoders.modes import evaluated
from common.encoders.state_dict import read_state_dict
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace, read_json
from common.evaluation.search import search
from common.export.files import output_file
from projects.vacancysbert.config import Config
from projects.vacancysbert.data import load_data
from projects.vacancysbert.extract import extract
from projects.vacancysbert.module import VacancySBERT
from projects.vacancysbert.normalisation import (
    read_candidates,
    score_embeddings,
    strings,
    title_key,
    write_benchmark,
)

SHOWN = 10  # test rows that are normalised where no file is named


def normalise(cfg: Config, workspace: Workspace, experiment: Experiment[VacancySBERT]) -> Path:
    """Write the nearest standard titles of adverts; any list of candidates serves, untrained for.

    Returns:
        A JSON-lines file of ``title``, ``candidates`` and ``scores``.

    Raises:
        UserError: no trained run, missing files, or adverts whose skills are not extracted.
    """
    options = cfg.normalise
    _check_query(cfg)
    read = [options.input, options.candidates]
    output = output_file(options.output, workspace.folder("."), "normalised.jsonl", read)
    module, run = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    if options.input is not None:
        rows = read_jsonl(Path(options.input).expanduser(), ("title",))
        ads = []
        for number, row in enumerate(rows, 1):
            place = f"{options.input}, row {number}"
            if row.get("skills") is None and row.get("description"):
                raise UserError(
                    f"{place}: a description without skills; extract them first with `make run "
                    "PROJECT=vacancysbert TASK=extract`, or leave the description out"
                )
            (title,) = strings([row["title"]], place)
            ads.append((title, strings(row.get("skills") or [], place)))
        if not ads:
            raise UserError(
                f'{options.input} has no advert: write one per line, such as {{"title": "..."}}'
            )
    else:
        ads = [(r.title, r.skills) for r in load_data(cfg).benchmark(cfg.eval.part).rows[:SHOWN]]
    if options.candidates is not None:
        listed = read_candidates(Path(options.candidates).expanduser())
        names: dict[str, str] = {}  # a title that is there twice would take two of the k places
        for title in listed:
            names.setdefault(title_key(title), title)
        candidates = list(names.values())
        if len(candidates) < len(listed):
            workspace.say(
                f"{len(listed) - len(candidates)} of {len(listed)} candidates are others again, and"
                " left out"
            )
    else:
        candidates = load_data(cfg).benchmark(cfg.eval.part).candidates
    titles, skills = zip(*ads, strict=True)
    beta = _beta(cfg, workspace, run)
    encoder, size = module.encoder, cfg.eval.batch_size
    with evaluated(encoder, cfg.trainer.accelerator):
        queries = encoder.encode_ads(titles, skills, beta, size)
        gallery = encoder.encode_titles(candidates, size)
    result = search(queries, gallery, min(options.k, len(candidates)))
    hits = zip(titles, result.indices.tolist(), result.scores.tolist(), strict=True)
    write_jsonl(
        output,
        [
            {"title": title, "candidates": [candidates[i] for i in best], "scores": scores}
            for title, best, scores in hits
        ],
    )
    for row in read_jsonl(output)[:SHOWN]:
        workspace.say(f"{row['title']} -> {', '.join(row['candidates'])}")
    return output


def benchmark(cfg: Config, workspace: Workspace) -> Path:
    """Write the test rows and the candidates of the config as files of their own."""
    folder = write_benchmark(workspace.folder("benchmark"), load_data(cfg).benchmark(cfg.eval.part))
    workspace.say(f"{folder}: test.jsonl and candidates.txt")
    return folder


def score(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Score a file of embeddings on the benchmark, without any model of ours.

    Raises:
        UserError: no file, or one without the tensors or of another number of rows.
    """
    _check_query(cfg)
    if cfg.score.embeddings is None:
        raise UserError("give a safetensors file with titles and candidates in score.embeddings")
    tensors = read_state_dict(Path(cfg.score.embeddings).expanduser())
    if not {"titles", "candidates"} <= tensors.keys():
        raise UserError(f"{cfg.score.embeddings} needs the tensors titles and candidates")
    data = load_data(cfg).benchmark(cfg.eval.part)
    beta = _beta(cfg, workspace)
    try:
        metrics = score_embeddings(
            data, tensors["titles"], tensors["candidates"], tensors.get("skills"), beta
        )
    except ValueError as error:
        raise UserError(f"{cfg.score.embeddings}: {error}") from error
    for name, value in metrics.items():
        workspace.say(f"{name:40}{value:.4f}")
    return metrics


def _check_query(cfg: Config) -> None:
    if cfg.eval.query != "mean":
        raise UserError(
            "this task mixes the vectors of title and skills by eval.beta: leave eval.query=mean"
        )


def _beta(cfg: Config, workspace: Workspace, run: Path | None = None) -> float:
    """``eval.beta``, else that of the run's evaluation, else a half; prints which it is."""
    if cfg.eval.beta is not None:
        return cfg.eval.beta
    metrics = None if run is None else run / "metrics.json"
    tuned = read_json(metrics).get("beta") if metrics is not None and metrics.is_file() else None
    beta = 0.5 if tuned is None else float(tuned)
    source = "not tuned; eval.beta sets it" if tuned is None else f"of {metrics}"
    workspace.say(f"share of the title next to skills: {beta:g} ({source})")
    return beta


TASKS: Mapping[str, Callable[[Config, Workspace], object]] = {
    "extract": extract,
    "benchmark": benchmark,
    "score": score,
}
