"""Pre-training: its two phases, what the encoder is worth afterwards, export, dry run."""

import copy
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.config import UserError
from common.damage import reading
from common.data.lines import LineFile
from common.data.lookup import own_file
from common.data.module import ContrastiveData
from common.data.offline import content_digest
from common.data.samplers import sample_rng
from common.data.text.sets import StsSet, load_sentences, load_sts
from common.data.text.synthetic import synthetic_sentence_pairs, synthetic_sentences
from common.data.text.token_files import TokenTexts, write_token_files
from common.encoders.modes import evaluated
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.template import plain_ids
from common.encoders.text.tower import TextTower
from common.engine.experiment import (
    Plan,
    Requirement,
    Stage,
    bundled_requirement,
    weights_requirement,
)
from common.engine.module import ContrastiveModule
from common.engine.trainer import world_size
from common.engine.workspace import Workspace
from common.evaluation.text.sts_protocol import evaluate_sts
from common.export.sentence_encoders import load_sentence_encoder, save_sentence_encoder
from common.families.sentences.evaluation import save_sts_items, sentence_geometry
from projects.vega.config import Config
from projects.vega.corruption import ReplacedTokenRows
from projects.vega.network import (
    build_pretraining,
    first_pretraining,
    is_dry,
    reader_is_absent,
    tokenizer_of,
)
from projects.vega.phases import Pretrain

SYNTHETIC, STS_PAIRS = 96, 48
ON_DISK_FROM_BYTES = 1 << 28  # of a text file whose ids are written to files, not held in memory
# bytes of memory for a byte of a text: itself, and lists of its ids (some 56 bytes for each)
IN_MEMORY = 15
_DRAW_STREAM = 2**31 + 75


class Kept(ContrastiveModule):
    """What an export keeps: an encoder that is evaluated and not trained.

    Args:
        cfg: the experiment's config.
        encoder: of an exported folder.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim)
        self.encoder = encoder


def stages(cfg: Config) -> Iterator[Stage]:
    """Phase 1, then phase 2 on the same generator and discriminator.

    One of them may have no steps.
    """
    settings, model, tokenizer = cfg.pretrain, first_pretraining(cfg), tokenizer_of(cfg.model)
    if settings.phase2_steps and settings.cl_gamma and not _has_dropout(model.discriminator):
        raise UserError(
            "the contrast compares two dropout passes, and this encoder has no dropout: set"
            " model.dropout=0.1, or pretrain.cl_gamma=0"
        )
    if settings.phase1_steps or settings.phase1_weights:
        weights = None if settings.phase1_weights is None else Path(settings.phase1_weights)
        if weights is not None and not weights.is_file():
            raise UserError(f"pretrain.phase1_weights: there is no checkpoint {weights}")
        steps = {"max_steps": max(1, settings.phase1_steps), "max_epochs": None}
        module = Pretrain(cfg, model, tokenizer, 1)
        yield Stage("rtd", module, training_data(cfg, module), steps, weights=weights)
    if settings.phase2_steps:
        steps = {"max_steps": settings.phase2_steps, "max_epochs": None}
        module = Pretrain(cfg, model, tokenizer, 2)
        yield Stage("rtd_cl", module, training_data(cfg, module), steps)


def _has_dropout(model: nn.Module) -> bool:
    return any(part.p > 0 for part in model.modules() if isinstance(part, nn.Dropout))


def training_data(cfg: Config, module: Pretrain) -> ContrastiveData:
    """Rows of a phase; sentences alongside them where it has a contrast."""
    texts = tokens_on_disk(cfg, module.tokenizer) or training_texts(cfg)
    data = rows(cfg, module, texts, sentences=module.cl_head is not None)
    size = cfg.data.batch_size
    if module.phase == 2 and cfg.pretrain.phase2_batch_size is not None:
        size = cfg.pretrain.phase2_batch_size
    return ContrastiveData(data, batch_size=size, seed=cfg.seed, num_workers=cfg.data.num_workers)


def rows(
    cfg: Config, module: Pretrain, texts: list[str] | TokenTexts, sentences: bool
) -> ReplacedTokenRows:
    """The data set of texts."""
    settings = cfg.pretrain
    return ReplacedTokenRows(
        texts,
        module.tokenizer,
        max_length=settings.max_length,
        mask_share=settings.mask_share,
        mask_limit=settings.mask_limit,
        packed=settings.packed,
        seed=cfg.seed,
        sentence_length=settings.sentence_length if sentences else None,
    )


def tokens_on_disk(cfg: Config, tokenizer: Any) -> TokenTexts | None:
    """Ids of the whole file of texts behind the held-out ones; None if it is small or sampled.

    They are below ``<runs_dir>/vega/tokens``, once for each file and tokenizer.

    Raises:
        UserError: no such file, or no more texts than are held out.
    """
    settings = cfg.pretrain
    if settings.texts != "file" or settings.limit is not None:
        return None
    path = own_file(str(settings.file), cfg.data.root, "texts")
    about = path.stat()
    if about.st_size < ON_DISK_FROM_BYTES:
        return None
    vocabulary = sorted(tokenizer.get_vocab().items())
    owner = content_digest(
        [f"{path.resolve()} {about.st_size} {about.st_mtime_ns}", str(vocabulary)]
    )
    folder = Path(cfg.runs_dir) / "vega" / "tokens" / owner[:24]
    lines = LineFile(path)

    def tokenise(part: range) -> list[list[int]]:
        rows = [line for i in part if (line := lines[i]).strip()]
        return [ids for ids in plain_ids(tokenizer, rows) if ids]

    kind = np.uint16 if len(tokenizer) <= 2**16 else np.int32
    paths = write_token_files(folder, owner, len(lines), tokenise, kind)
    texts = TokenTexts(paths, cfg.eval.held_out)
    if not len(texts):
        raise UserError(
            f"pretrain.file={settings.file} has no text next to the eval.held_out="
            f"{cfg.eval.held_out} first ones, which are not trained on: lower eval.held_out"
        )
    return texts


def training_texts(cfg: Config) -> list[str]:
    """Texts of the config; of a file those behind the ones that are held out.

    Raises:
        UserError: no such file, fewer texts than are held out or than the limit, or more than
            memory holds.
    """
    settings = cfg.pretrain
    if settings.texts == "synthetic":
        return synthetic_sentences(settings.limit or SYNTHETIC, seed=cfg.seed)
    if settings.texts == "sentences":
        return load_sentences(cfg.data.root, limit=settings.limit, seed=cfg.seed)
    count = sum(1 for _ in _texts_of_file(cfg))
    left = count - cfg.eval.held_out
    if left < 1:
        raise UserError(
            f"pretrain.file={settings.file} has {count} texts, and the first"
            f" eval.held_out={cfg.eval.held_out} are not trained on: lower eval.held_out, or give a"
            " longer file"
        )
    if (settings.limit or 0) > left:
        raise UserError(
            f"pretrain.limit={settings.limit}, but {settings.file} has {left} texts next to the"
            f" eval.held_out={cfg.eval.held_out} first ones: lower pretrain.limit"
        )
    _check_memory(cfg, left)
    texts = islice(_texts_of_file(cfg), cfg.eval.held_out, None)
    if settings.limit is None:
        return list(texts)
    order = sample_rng(cfg.seed, 0, 0, _DRAW_STREAM).permutation(left)
    drawn = set(order[: settings.limit].tolist())
    return [text for i, text in enumerate(texts) if i in drawn]


def _check_memory(cfg: Config, count: int) -> None:
    """Refuse more texts of the file than this machine has memory for.

    Args:
        cfg: the experiment's config.
        count: texts of the file.
    """
    settings, processes = cfg.pretrain, world_size(cfg.trainer) // cfg.trainer.num_nodes
    size = own_file(str(settings.file), cfg.data.root, "texts").stat().st_size
    each = max(1.0, IN_MEMORY * size / count) * processes  # bytes of memory for a text
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if each * (settings.limit or count) > memory:
        raise UserError(
            f"pretrain.file={settings.file}: {settings.limit or count} texts and their ids need about"
            f" {each * (settings.limit or count) / 1e9:.0f} GB in {processes} processes of this machine,"
            f" which has {memory / 1e9:.0f} GB: set pretrain.limit={int(memory / each)} or less"
        )


def held_out(cfg: Config) -> list[str]:
    """Texts that are not trained on; of a file its first ones."""
    count = cfg.eval.held_out
    if cfg.pretrain.texts == "synthetic":
        return synthetic_sentences(min(count, SYNTHETIC), seed=cfg.seed + 1)
    if cfg.pretrain.texts == "sentences":
        return load_sentences(cfg.data.root, split="test", limit=count, seed=0)
    return list(islice(_texts_of_file(cfg), count))


def _texts_of_file(cfg: Config) -> Iterator[str]:
    """Lines that hold something, one by one; a text may hold other separators than line breaks."""
    path = own_file(str(cfg.pretrain.file), cfg.data.root, "texts")
    with reading(path, "text file in UTF-8"), path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\r\n")


def sts_set(cfg: Config, name: str) -> StsSet:
    """An STS set; synthetic where the training texts are."""
    if cfg.pretrain.texts == "synthetic":
        return StsSet(name, *synthetic_sentence_pairs(STS_PAIRS, seed=len(name)))
    return load_sts(cfg.data.root, name)


def sentence_encoder(module: Pretrain | Kept) -> SentenceEncoder:
    """The discriminator alone with its sentence vector, see ``pretrain.pooling``; a copy."""
    if isinstance(module, Kept):
        return module.encoder
    tower = TextTower(
        module.model.encoder(), "cls_before_pooler" if module.pooling == "cls" else "avg"
    )
    return SentenceEncoder(tower, copy.deepcopy(module.tokenizer)).eval()


def evaluate(cfg: Config, module: Pretrain | Kept, workspace: Workspace) -> dict[str, float]:
    """Spearman of cosines on STS sets, geometry, and how well replaced tokens are detected."""
    sets = {name: sts_set(cfg, name) for name in cfg.eval.sets}
    encoder = sentence_encoder(module)
    with evaluated(encoder, cfg.trainer.accelerator):
        metrics, cosines = evaluate_sts(
            lambda texts: encoder.encode(texts, cfg.eval.batch_size), sets
        )
        metrics |= sentence_geometry(
            lambda texts: encoder.encode(texts, cfg.eval.batch_size), next(iter(sets.values()))
        )
    save_sts_items(workspace, sets, cosines)
    return metrics if isinstance(module, Kept) else {**metrics, **detection(cfg, module)}


def detection(cfg: Config, module: Pretrain) -> dict[str, float]:
    """Accuracy and ROC AUC of detection, accuracy of the generator, on held-out texts.

    ``replaced_share`` of the tokens is replaced: 1 - it is the accuracy of a detector that never
    says so.
    """
    from sklearn.metrics import roc_auc_score

    data = rows(cfg, module, held_out(cfg), sentences=False)
    scores, gold, hits, size = [], [], [], cfg.eval.batch_size
    with evaluated(module, cfg.trainer.accelerator):
        device = next(module.parameters()).device
        for start in range(0, len(data), size):
            keys = [(i, 0) for i in range(start, min(start + size, len(data)))]
            part = {k: v.to(device) for k, v in data[keys]["rows"].items()}  # type: ignore[attr-defined]
            made = module.model.generate(
                part["masked"],
                part["attention_mask"],
                part["labels"],
                part["input_ids"],
                part["uniform"],
            )
            logits = module.model.detect(made.ids, part["attention_mask"])
            scores.append(logits[part["counted"]].float().cpu())
            gold.append(made.replaced[part["counted"]].cpu())
            hits.append(made.logits.argmax(1).eq(part["input_ids"][part["labels"] >= 0]).cpu())
    detected, replaced = torch.cat(scores), torch.cat(gold)
    share = float(replaced.float().mean())
    metrics = {
        "rtd_accuracy": float(detected.gt(0).eq(replaced).float().mean()),
        "replaced_share": share,
        "mlm_accuracy": float(torch.cat(hits).float().mean()),
    }
    if 0 < share < 1:
        metrics["rtd_auc"] = float(roc_auc_score(replaced.numpy(), detected.numpy()))
    return metrics


def export(cfg: Config, module: Pretrain | Kept, folder: Path) -> None:
    """The discriminator as a sentence encoder: no generator, no heads."""
    save_sentence_encoder(sentence_encoder(module), folder)


def load(cfg: Config, folder: Path) -> Kept:
    """The encoder of an exported folder."""
    return Kept(cfg, load_sentence_encoder(folder))


def embed(cfg: Config, module: Pretrain | Kept) -> dict[str, Tensor]:
    """Vectors of two sentences, compared after export and reload."""
    return {
        "vectors": sentence_encoder(module).encode(["a small cat sleeps", "two men repair a roof"])
    }


def plan(cfg: Config) -> Plan[Any]:
    """What `make check` reports on."""
    phase = 2 if cfg.pretrain.phase2_steps else 1

    def forward(module: Pretrain, batch_size: int) -> Tensor:
        ids = torch.ones(batch_size, cfg.pretrain.max_length, dtype=torch.long)
        mask = torch.ones_like(ids)
        guessed: Tensor = module.model.generator.base_model(
            input_ids=ids, attention_mask=mask
        ).last_hidden_state
        return module.model.states(ids, mask).sum() + guessed.sum()

    return Plan(
        lambda: Pretrain(cfg, build_pretraining(cfg, planned=is_dry()), _reader(cfg), phase),
        _count(cfg),
        forward,
        requirements(cfg),
    )


def _reader(cfg: Config) -> Any:
    """The tokenizer; None for a dry run where it is not on this machine."""
    return None if is_dry() and reader_is_absent(cfg.model) else tokenizer_of(cfg.model)


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Weights, tokenizer and texts."""
    needs = [*weights_requirement(cfg.model.pretrained)]
    if cfg.model.tokenizer is not None:
        needs += weights_requirement(cfg.model.tokenizer)
    if cfg.pretrain.texts == "sentences":
        needs.append(bundled_requirement("sentences-en"))
    elif cfg.pretrain.texts == "file":
        needs.append(
            Requirement(
                "data: texts", str(cfg.pretrain.file), bool(_count(cfg)), "one text per line"
            )
        )
    return tuple(needs)


def _count(cfg: Config) -> int:
    try:
        return len(training_texts(cfg))
    except UserError:
        return 0
