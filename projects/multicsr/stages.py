"""Data, then the one fit: what the experiment is made of."""

from collections.abc import Iterator
from pathlib import Path

from common.config import UserError
from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from common.engine.experiment import Requirement, Stage, bundled_requirement, weights_requirement
from common.export.sentence_encoders import load_sentence_encoder
from common.families.sentences.config import TextModel
from common.families.sentences.data import text_path
from common.families.sentences.experiment import train_stage
from common.families.sentences.module import build_encoder, planned_encoder
from projects.multicsr.config import Config, Stage3Config
from projects.multicsr.data import premises, prepare, triplet_rows, views
from projects.multicsr.evaluate import missing_sets, set_requirements
from projects.multicsr.module import MultiCSR


def stages(cfg: Config) -> Iterator[Stage]:
    """Triplets as stages 1 and 2 leave them, then the student on them.

    Raises:
        UserError: as `build_guide` and `training_set`; a set of the evaluation is missing.
    """
    if missing := missing_sets(cfg):
        raise UserError(f"the evaluation needs what is not here: {', '.join(missing)}")
    judged = cfg.stage2.enabled and cfg.stage2.judge == "file" and cfg.stage2.scores is None
    if cfg.data.generate and judged:  # hours of stage 1 later it would be said anyway
        raise UserError("triplets that are written now have no scores: set stage2.judge=lm")
    module = make_module(cfg, build_encoder(cfg.model))
    yield train_stage(cfg, module, training_set(cfg, module.encoder))


def training_set(cfg: Config, encoder: SentenceEncoder) -> TextViews:
    """Three views of every triplet that stages 1 and 2 leave."""
    return views(cfg, prepare(cfg), encoder.tokenizer)


def make_module(cfg: Config, encoder: SentenceEncoder) -> MultiCSR:
    """The module around an encoder, with the config's mask model."""
    return MultiCSR(cfg, encoder, build_guide(cfg.stage3, encoder))


def build_guide(options: Stage3Config, student: SentenceEncoder) -> SentenceEncoder | None:
    """The mask model of the config; None without stage 3.

    Raises:
        UserError: it reads other token ids than the student.
    """
    if not options.enabled:
        return None
    guide = sentence_encoder(options.mask_model, options.pooling, config=options.config)
    if student.tokenizer.get_vocab() != guide.tokenizer.get_vocab():
        raise UserError(
            "stage3.mask_model has another vocabulary than model.pretrained: both read the same "
            "token ids, so take one of the student's family"
        )
    return guide


def planned_guide(cfg: Config) -> SentenceEncoder | None:
    """The mask model for a dry run: random weights of the same shape where its own are not here."""
    if not cfg.stage3.enabled:
        return None
    guide = cfg.stage3
    model = TextModel(pretrained=guide.mask_model, pooling=guide.pooling, config=guide.config)
    return planned_encoder(model)


def planned_module(cfg: Config, encoder: SentenceEncoder) -> MultiCSR:
    """As `make_module`, for a dry run: what is not on this machine is random."""
    return MultiCSR(cfg, encoder, planned_guide(cfg))


def load_student(cfg: Config, folder: Path) -> MultiCSR:
    """The exported student; inference needs no mask model."""
    return MultiCSR(cfg, load_sentence_encoder(folder))


def requirements(cfg: Config) -> list[Requirement]:
    """Weights of the language model, the judge and the mask model; sets of the evaluation."""
    names = []
    if cfg.data.generate:
        names.append(cfg.stage1.model)
    if cfg.stage2.enabled and cfg.stage2.judge == "lm":
        names.append(cfg.stage2.score_model)
    if cfg.stage3.enabled:
        names.append(cfg.stage3.mask_model)
    needs = [part for name in dict.fromkeys(names) for part in weights_requirement(name)]
    if cfg.stage2.enabled and cfg.stage2.judge == "words":
        needs.append(bundled_requirement("nli", "labelled pairs of NLI"))
    return needs + set_requirements(cfg)


def num_samples(cfg: Config) -> int:
    """Triplets before stage 2, as far as they can be counted without a language model."""
    if cfg.data.source == "file" and not text_path(cfg.data).is_file():
        return 0
    return len(premises(cfg) if cfg.data.generate else triplet_rows(cfg))
