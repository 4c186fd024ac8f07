"""Training pairs: queries with a relevant document each."""

from common.data.module import ContrastiveData
from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Requirement, weights_requirement
from common.families.retrieval.sets import SYNTHETIC, read_set, set_folder
from projects.new_project.config import Config


def pairs(cfg: Config) -> list[tuple[str, str]]:
    """Every query of the training sets with its first relevant document.

    Raises:
        UserError: a set that is missing or broken.
    """
    sets = [read_set(place, root=cfg.data.root, seed=cfg.seed) for place in cfg.data.sets]
    return [
        (text, data.corpus[document])
        for data in sets
        for query, text in data.queries.items()
        for document in data.relevant(query)[:1]
    ]


def build_data(cfg: Config, encoder: SentenceEncoder) -> ContrastiveData:
    """Loader of the pairs; rows [0, B) of a batch are queries, rows [B, 2 B) documents."""
    views = TextViews(pairs(cfg), encoder.tokenizer, max_length=cfg.data.max_length, seed=cfg.seed)
    return ContrastiveData(
        views,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
    )


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk, without the sets of the evaluation."""
    folders = [set_folder(place, cfg.data.root) for place in cfg.data.sets if place != SYNTHETIC]
    sets = [
        Requirement(f"data: {path.name}", str(path), path.is_dir(), "a folder in the BEIR layout")
        for path in folders
    ]
    return (*weights_requirement(cfg.model.pretrained), *sets)
