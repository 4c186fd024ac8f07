"""What every sentence-embedding experiment shares: data, module, STS evaluation, export, search.

A project adds a loss: it subclasses `SentenceModule` and calls `sentence_experiment`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from common import evaluation as ev
from common.config import OptimConfig, TrainerConfig, UserError
from common.data.lookup import BUNDLED, data_root
from common.data.module import ContrastiveData
from common.data.samplers import sample_rng
from common.data.synthetic import synthetic_sentence_pairs, synthetic_sentences
from common.data.text_sets import (
    StsSet,
    load_nli_triplets,
    load_sentences,
    load_sts,
    load_text_rows,
)
from common.data.text_views import TextViews
from common.distributed import all_gather_no_grad
from common.encoders.modes import evaluated
from common.encoders.pretrained import resolve_pretrained
from common.encoders.sentence import SentenceEncoder, sentence_encoder
from common.engine import workspace as ws
from common.engine.experiment import Experiment, Plan, Requirement, Stage
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from common.evaluation.figures import score_figure
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.sts import pair_cosine, spearman
from common.evaluation.sts_protocol import evaluate_sts, metric_prefix
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
)
from common.sentence_config import SearchConfig, SentenceData, StsEval, TextModel

PARAPHRASE = 0.8  # share of the gold scale from which a pair counts as positive (4 of 5)
PROBES = ["A small cat sleeps.", "Two men are repairing the roof of an old house."]
GALLERY_QUERIES = 6
SYNTHETIC = 256  # sentences, and pairs, of data.source=synthetic
# what `make check` builds for weights that are not on this machine
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {"model_type": "bert"},
    "bert-large-uncased": {"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24,
                           "num_attention_heads": 16, "intermediate_size": 4096},
    "roberta-base": {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514},
    "roberta-large": {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514,
                      "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                      "intermediate_size": 4096},
}  # fmt: skip


class SentenceExperimentConfig(Protocol):
    """The sections that this module reads; a project's config has them among its own."""

    seed: int
    trainer: TrainerConfig

    @property
    def data(self) -> SentenceData:
        """Texts."""

    @property
    def model(self) -> TextModel:
        """Encoder."""

    @property
    def eval(self) -> StsEval:
        """Protocol."""

    @property
    def search(self) -> SearchConfig:
        """Options of the search task."""


class SentenceModule(ContrastiveModule):
    """A sentence encoder with the loss of a project.

    Attributes:
        encoder: what is trained, evaluated and exported.

    Args:
        optim: optimiser section of the config.
        encoder: transformer, pooler and tokenizer.
    """

    def __init__(self, optim: OptimConfig, encoder: SentenceEncoder) -> None:
        super().__init__(optim)
        self.encoder = encoder
        self._seen: list[tuple[Tensor, Tensor]] = []

    def views(self, batch: Mapping[str, Tensor], count: int) -> tuple[Tensor, ...]:
        """Embeddings of the views, each (B, D), from one pass over the (count * B, L) rows."""
        z = self.encoder(batch["input_ids"], batch["attention_mask"])
        return torch.chunk(z, count)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Cosine of pairs."""
        first, second, scores = batch
        both = self.encoder.encode(first + second, batch_size=2 * len(first))
        cosine = pair_cosine(both[: len(first)], both[len(first) :])
        self._seen.append((cosine.to(self.device, torch.float32), scores.to(self.device)))

    def on_validation_epoch_end(self) -> None:
        """Log the Spearman correlation over the pairs of all ranks, as ``val/sts_spearman``."""
        cosine, gold = (
            all_gather_no_grad(torch.cat(part)).cpu().numpy()
            for part in zip(*self._seen, strict=True)
        )
        self._seen = []
        self.log("val/sts_spearman", spearman(cosine, gold))


class StsPairs(Dataset[tuple[str, str, float]]):
    """Pairs of one STS set for validation."""

    def __init__(self, sts: StsSet) -> None:
        self.sts = sts

    def __len__(self) -> int:
        return len(self.sts)

    def __getitem__(self, index: int) -> tuple[str, str, float]:
        return self.sts.first[index], self.sts.second[index], self.sts.scores[index]

    @staticmethod
    def collate(rows: Sequence[tuple[str, str, float]]) -> tuple[list[str], list[str], Tensor]:
        """First sentences, second sentences and scores (B,) float32."""
        first, second, scores = zip(*rows, strict=True)
        return list(first), list(second), torch.tensor(scores, dtype=torch.float32)


# -- data ----------------------------------------------------------------------------------------


def text_rows(data: SentenceData, seed: int) -> list[tuple[str, ...]]:
    """Training rows of one to three columns.

    Raises:
        UserError: files that are missing or of the wrong shape, or fewer rows than `limit`.
    """
    rows: Sequence[tuple[str, ...]]
    if data.source == "synthetic":
        return [(text,) for text in synthetic_sentences(data.limit or SYNTHETIC, seed=seed)]
    if data.source == "sentences":
        parts = data.parts or None
        found = load_sentences(data.root, sources=parts, limit=data.limit, seed=seed)
        return [(text,) for text in found]
    if data.source == "nli":
        rows = load_nli_triplets(data.root)
    else:
        path = Path(str(data.file))
        rows = load_text_rows(path if path.is_file() else data_root(data.root) / path)
    if data.limit is None:
        return list(rows)
    if data.limit > len(rows):
        raise UserError(f"data.limit={data.limit}, but there are {len(rows)} rows")
    order = sample_rng(seed, 0, 0, 2**31 + 2).permutation(len(rows))
    return [rows[i] for i in sorted(order[: data.limit])]


def sts_set(cfg: SentenceExperimentConfig, name: str) -> StsSet:
    """An STS set of the config; synthetic where the training data is."""
    if cfg.data.source == "synthetic":
        return StsSet(name, *synthetic_sentence_pairs(SYNTHETIC // 4, seed=len(name)))
    return load_sts(cfg.data.root, name)


def sentence_data(cfg: SentenceExperimentConfig, train: TextViews) -> ContrastiveData:
    """Data module of a training set, with the STS development set if the config validates."""
    val: dict[str, Dataset[Any]] = {}
    if cfg.trainer.val_every_n_steps is not None:
        val["dev"] = StsPairs(sts_set(cfg, cfg.eval.dev))
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
        lengths=None if cfg.data.bucket_batches is None else train.lengths,
        bucket_batches=cfg.data.bucket_batches,
    )


def text_requirements(cfg: SentenceExperimentConfig) -> tuple[Requirement, ...]:
    """Weights and data that the config needs."""
    found = []
    if cfg.model.pretrained != "random":
        ref = resolve_pretrained(cfg.model.pretrained, require=False)
        hint = "download it once with network access, or give a local folder"
        found.append(
            Requirement(f"weights: {ref.spec}", str(ref.path or ref.name), ref.present, hint)
        )
    if cfg.data.source in ("sentences", "nli"):
        folder = "sentences-en" if cfg.data.source == "sentences" else "nli"
        found.append(
            Requirement(f"data: {folder} (bundled)", f"data/{folder}", (BUNDLED / folder).exists())
        )
    elif cfg.data.source == "file":
        path = data_root(cfg.data.root) / str(cfg.data.file)
        found.append(
            Requirement("data: training texts", str(path), path.exists(), "see the card, Data")
        )
    if any(name.startswith("senteval:") for name in cfg.eval.sets):
        path = data_root(cfg.data.root) / "SentEval" / "data" / "downstream"
        hint = "the download script of facebookresearch/SentEval"
        found.append(Requirement("data: SentEval", str(path), path.exists(), hint))
    return tuple(found)


# -- model ---------------------------------------------------------------------------------------


def build_encoder(model: TextModel) -> SentenceEncoder:
    """Encoder of the config, before training."""
    encoder = sentence_encoder(
        model.pretrained,
        model.pooling,
        config=model.config,
        dropout=model.dropout,
        mlp_only_train=model.mlp_only_train,
        attention=model.attention,
        max_length=model.max_length,
    )
    if model.random_init:
        network = encoder.tower.model
        encoder.tower.model = type(network)(network.config)
        encoder.tower.model.pooler = None  # type: ignore[assignment]
    return encoder


def planned_encoder(model: TextModel) -> SentenceEncoder:
    """As `build_encoder`, but random weights of the same shape where the weights are not here."""
    if model.pretrained == "random" or resolve_pretrained(model.pretrained, require=False).present:
        return build_encoder(model)
    if model.pretrained not in ARCHITECTURES:
        raise UserError(
            f"pretrained={model.pretrained!r} is not on this machine and its size is not known; "
            f"known: {', '.join(ARCHITECTURES)}"
        )
    return sentence_encoder(
        "random",
        model.pooling,
        config=ARCHITECTURES[model.pretrained],
        mlp_only_train=model.mlp_only_train,
    )


# -- evaluation ----------------------------------------------------------------------------------


def evaluate_sentences(
    cfg: SentenceExperimentConfig, module: SentenceModule, workspace: Workspace
) -> dict[str, float]:
    """STS scores of the encoder, the untrained encoder beside them, and the geometry.

    Cosines and gold scores of the first set are saved for `make compare`.
    """
    sets = {name: sts_set(cfg, name) for name in cfg.eval.sets}
    primary = sets[cfg.eval.sets[0]]
    with encoding(cfg, module.encoder) as encode:
        metrics, cosines = evaluate_sts(encode, sets)
        metrics |= sentence_geometry(encode, primary)
        rows = sentence_gallery(encode, primary)
    if cfg.eval.untrained:
        with torch.random.fork_rng():
            torch.manual_seed(cfg.seed)
            raw = build_encoder(cfg.model)
        raw.to(next(module.parameters()).device)
        with encoding(cfg, raw) as encode:
            before, _ = evaluate_sts(encode, sets)
            before |= sentence_geometry(encode, primary)
        metrics |= {f"untrained_{name}": value for name, value in before.items()}
    key, cosine = f"{metric_prefix(primary.name)}_spearman", cosines[primary.name]
    workspace.rank_items(key, cosine, primary.scores)
    workspace.gallery("nearest sentences", rows)
    title = f"{primary.name}: Spearman {metrics[key]:.3f}"
    workspace.figure("sts", score_figure(cosine, primary.scores, title))
    return metrics


class encoding:
    """Context in which an encoder's `encode` runs, on the GPU if allowed.

    Several measures ask for the same sentences; each distinct one is encoded once per context.
    """

    def __init__(self, cfg: SentenceExperimentConfig, encoder: SentenceEncoder) -> None:
        self.encoder, self.batch_size = encoder, cfg.eval.batch_size
        self.context = evaluated(encoder, cfg.trainer.accelerator)
        self.rows: dict[str, Tensor] = {}

    def __enter__(self) -> Callable[[list[str]], Tensor]:
        self.context.__enter__()
        return self.encode

    def __exit__(self, *error: Any) -> None:
        self.rows = {}
        self.context.__exit__(*error)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, D) on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self.rows]
        if new:
            found = self.encoder.encode(new, batch_size=self.batch_size)
            self.rows |= dict(zip(new, found, strict=True))
        return torch.stack([self.rows[text] for text in texts])


def sentence_geometry(encode: Callable[[list[str]], Tensor], sts: StsSet) -> dict[str, float]:
    """Alignment of pairs with at least 4/5 of the top score; uniformity and mean cosine of all.

    Source: Wang & Isola 2020, arXiv 2005.10242; Gao et al. 2021, section 6, arXiv 2104.08821.
    """
    first, second = encode(sts.first), encode(sts.second)
    gold = torch.tensor(sts.scores)
    close = gold >= PARAPHRASE * gold.max()
    everything = torch.cat([first, second])
    return {
        "alignment": ev.alignment(first[close], second[close]),
        "uniformity": ev.uniformity(everything),
        "mean_cosine": ev.mean_cosine(everything),
    }


def sentence_gallery(encode: Callable[[list[str]], Tensor], sts: StsSet) -> list[dict[str, Any]]:
    """Nearest second sentences of the best-scored pairs."""
    order = sorted(range(len(sts)), key=lambda i: -sts.scores[i])[: 4 * GALLERY_QUERIES]
    texts = list(dict.fromkeys(sts.second))
    queries = [sts.first[i] for i in order]
    scores = (
        nn.functional.normalize(encode(queries), dim=1)
        @ nn.functional.normalize(encode(texts), dim=1).T
    )
    right = [texts.index(sts.second[i]) for i in order]
    return retrieval_gallery(scores, queries, texts, right, num_queries=GALLERY_QUERIES)


# -- the experiment ------------------------------------------------------------------------------


def sentence_experiment(
    cfg: SentenceExperimentConfig,
    make_module: Callable[[SentenceEncoder], SentenceModule],
    make_train: Callable[[SentenceEncoder], TextViews],
    *,
    evaluate_more: Callable[[SentenceModule, Workspace], dict[str, float]] | None = None,
    stages: Callable[[], Iterator[Stage]] | None = None,
    tasks: Mapping[str, Callable[[Workspace], None]] | None = None,
    num_samples: Callable[[], int] | None = None,
    num_views: int = 2,
) -> Experiment:
    """Experiment of a sentence encoder.

    Args:
        cfg: the project's config.
        make_module: module around an encoder.
        make_train: training set, given the encoder (for its tokenizer).
        evaluate_more: metrics beside STS.
        stages: replaces the single stage "train".
        tasks: beside "search".
        num_samples: training rows for `make check`; None counts the rows that are on disk.
        num_views: rows that the encoder sees per sample, for the memory estimate.
    """

    def one_stage() -> Iterator[Stage]:
        encoder = build_encoder(cfg.model)
        yield train_stage(cfg, make_module(encoder), make_train(encoder))

    def evaluate(module: ContrastiveModule, workspace: Workspace) -> dict[str, float]:
        module = _sentence(module)
        metrics = evaluate_sentences(cfg, module, workspace)
        return metrics | (evaluate_more(module, workspace) if evaluate_more else {})

    def export(module: ContrastiveModule, folder: Path) -> None:
        save_sentence_transformers(_sentence(module).encoder, folder)

    def embed(module: ContrastiveModule) -> dict[str, Tensor]:
        return {"embeddings": _sentence(module).encoder.encode(PROBES)}

    def forward(module: nn.Module, batch_size: int) -> Tensor:
        ids = torch.ones(num_views * batch_size, cfg.data.max_length, dtype=torch.long)
        # without a mask: transformers looks at its values, and meta tensors have none
        output: Tensor = _sentence(module).encoder.tower.model(input_ids=ids).last_hidden_state
        return output.sum()

    def plan() -> Plan:
        needed = text_requirements(cfg)
        here = all(r.present for r in needed if r.name.startswith("data"))
        rows = num_samples() if num_samples else (len(text_rows(cfg.data, cfg.seed)) if here else 0)
        return Plan(lambda: make_module(planned_encoder(cfg.model)), rows, forward, needed)

    def search(workspace: Workspace) -> None:
        search_texts(cfg, workspace, experiment)

    experiment = Experiment(
        stages or one_stage,
        evaluate,
        export,
        lambda folder: make_module(load_sentence_transformers(folder)),
        embed,
        plan,
        {"search": search, **(tasks or {})},
    )
    return experiment


def train_stage(
    cfg: SentenceExperimentConfig,
    module: SentenceModule,
    train: TextViews,
    name: str = "train",
    trainer: Mapping[str, Any] | None = None,
) -> Stage:
    """Stage whose best checkpoint on the STS development set is kept, if the config validates."""
    monitor = None if cfg.trainer.val_every_n_steps is None else "val/sts_spearman"
    return Stage(name, module, sentence_data(cfg, train), trainer or {}, monitor)


def search_texts(
    cfg: SentenceExperimentConfig, workspace: Workspace, experiment: Experiment
) -> None:
    """Index a text file with a trained encoder and print the nearest sentences of queries.

    Raises:
        UserError: no trained run, or a file that is missing or empty.
    """
    from common.engine.run import load_module, module_of_run
    from common.evaluation.text_index import TextIndex

    options, place = cfg.search, Path(cfg.search.run)
    if place.is_dir() and not (place / "meta.json").exists():
        module = load_module(experiment, place)
    else:
        run = ws.find_run(cfg, workspace.project, workspace.config, options.run)  # type: ignore[arg-type]
        module = module_of_run(experiment, run)
    texts = _lines(options.file) if options.file else sts_set(cfg, cfg.eval.sets[0]).first
    index = TextIndex(_sentence(module).encoder, texts)
    print(f"{len(texts)} texts indexed")  # noqa: T201
    for query in _lines(options.queries) if options.queries else _asked():
        print(f"\n{query}")  # noqa: T201
        (hits,) = index.search([query], options.k, options.threshold)
        for hit in hits:
            print(f"  {hit.score:6.3f}  {hit.text}")  # noqa: T201


def _asked() -> Iterator[str]:
    while True:
        try:
            query = input("\nquery (empty line to end): ").strip()
        except EOFError:
            return
        if not query:
            return
        yield query


def _lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise UserError(f"text file {path} does not exist")
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise UserError(f"{path} holds no text")
    return found


def _sentence(module: nn.Module) -> SentenceModule:
    assert isinstance(module, SentenceModule)
    return module
