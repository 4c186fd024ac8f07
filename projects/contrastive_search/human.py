"""Human evaluation: a blind form of all methods alongside the human text, and what raters gave."""

from collections.abc import Sequence
from pathlib import Path

from common.config import UserError
from common.engine import workspace as ws
from common.engine.workspace import Workspace
from common.evaluation.tables import markdown_table
from projects.contrastive_search.config import Config
from projects.contrastive_search.data import Passage, passages
from projects.contrastive_search.evaluate import decode, policies
from projects.contrastive_search.ratings import (
    HUMAN,
    RatingItem,
    rating_metrics,
    read_ratings,
    write_rating_form,
)
from projects.contrastive_search.stages import build_module

KEY = "rating_key.json"  # of all forms of a config


def rating_form(cfg: Config, workspace: Workspace) -> Path:
    """Write the form, and the key that tells which text is whose (``TASK=rating_form``).

    The form is named after `eval.language`. The key holds the texts of all forms that were written;
    a form of other texts that has the same name is renamed.

    Raises:
        UserError: a set without human continuations.
    """
    lm = build_module(cfg).language_model()
    texts = _some(passages(cfg, lm), cfg.human.num_items)
    if not all(passage.reference for passage in texts):
        raise UserError("a rating form needs human continuations: evaluate on a set of whole texts")
    decoded = decode(cfg, lm, [p.prefix for p in texts], policies(cfg), workspace)

    def shown(passage: Passage, new: list[int]) -> str:
        return " ".join(lm.finished(passage.prefix, new).text.split())

    items = [
        RatingItem(
            cfg.eval.language,
            lm.tokenizer.decode(p.prefix, skip_special_tokens=True),
            {
                HUMAN: shown(p, p.reference),
                **{name: shown(p, draws[0][i]) for name, draws in decoded.items()},
            },
        )
        for i, p in enumerate(texts)
    ]
    folder = workspace.folder(".")
    form = folder / f"rating_form-{cfg.eval.language}.csv"
    count = write_rating_form(form, folder / KEY, items, cfg.seed)
    workspace.say(
        f"{count} texts: give {form} to raters (1 to 5 for each criterion), keep {folder / KEY}"
    )
    return form


def ratings(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Scores by language and method, and paired differences to the human text (``TASK=ratings``).

    Raises:
        UserError: no filled form, or one that does not fit its key.
    """
    if cfg.human.form is None:
        raise UserError("set human.form: the CSV of TASK=rating_form as raters filled it in")
    named = Path(cfg.human.form)
    forms = sorted(named.glob("*.csv")) if named.is_dir() else [named]
    if not forms:
        raise UserError(f"human.form={named} has no .csv: put the filled forms there")
    key = cfg.human.key
    beside = workspace.path.parent / "task-rating_form" / KEY
    rated = read_ratings(forms, Path(key) if key else beside)
    metrics = rating_metrics(rated)
    ws.write_json(workspace.folder(".") / "ratings.json", metrics)
    workspace.say(f"{len(rated)} texts are rated in {', '.join(form.name for form in forms)}")
    workspace.say(markdown_table(metrics))
    return metrics


def _some(texts: Sequence[Passage], count: int) -> list[Passage]:
    count = min(count, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]
