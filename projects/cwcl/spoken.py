"""The speech-text experiment: data, evaluation, export, plan and tasks."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.layouts import Layout
from common.data.module import ContrastiveData
from common.data.speech.manifests import load_manifest, readable_recordings
from common.data.speech.spoken import SpokenSet
from common.data.speech.waveforms import pad_waveforms
from common.encoders.modes import evaluated, untrained
from common.encoders.pretrained import stand_in
from common.encoders.text.sentence import sentence_encoder
from common.engine.experiment import Experiment, Plan, Stage, experiment_of, weights_requirement
from common.engine.workspace import Workspace
from common.evaluation.encoding import encode
from common.evaluation.gallery import class_extremes
from common.evaluation.retrieval.cross_modal import image_text_retrieval
from projects.cwcl import spoken_sets
from projects.cwcl.classify import classify
from projects.cwcl.config import Config
from projects.cwcl.speech.embedder import speech_embedder
from projects.cwcl.speech.exported import load_spoken_text, save_spoken_text
from projects.cwcl.speech.transcribed import TranscribedSpeech
from projects.cwcl.speech.zero_shot import class_phrase, prompt_embeddings, spoken_zeroshot
from projects.cwcl.spoken_module import SpeechTextCWCL
from projects.cwcl.spoken_sets import sample_rate
from projects.cwcl.spoken_towers import (
    ARCHITECTURES,
    architecture,
    build_module,
    build_text,
    tower_sizes,
)
from projects.cwcl.structure import linear_cka, structure_spearman


def speech_text(cfg: Config) -> Experiment[SpeechTextCWCL]:
    """A frozen text encoder and a speech tower."""
    experiment = experiment_of(
        cfg,
        stages,
        evaluate,
        export,
        load_export,
        embed,
        plan,
        {"classify": lambda cfg, workspace: classify(cfg.classify, load_spoken_text, workspace)},
    )
    return replace(experiment, judges={Layout.RECORDINGS: partial(judge_recordings, cfg)})


# -- training --------------------------------------------------------------------------------------


def training_data(cfg: Config, module: SpeechTextCWCL) -> ContrastiveData:
    """Pairs for training; with `model.cache` every different transcript is embedded once, here."""
    spoken = spoken_sets.training_set(cfg)
    train = TranscribedSpeech(spoken, tokenize=module.text.tokenize)
    if cfg.model.cache or cfg.model.centred:
        with evaluated(module, cfg.trainer.accelerator):
            features = module.text.encode(train.texts, cfg.eval.batch_size, normalize=False)
        if cfg.model.centred:
            module.mean.copy_(features.mean(0))
        if cfg.model.cache:
            train = TranscribedSpeech(spoken, features=features)
    return ContrastiveData(
        train, batch_size=cfg.data.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )


def stages(cfg: Config) -> Iterator[Stage]:
    """One fit; what its evaluation needs is looked for before it."""
    spoken_sets.require_sets(cfg)
    module = build_module(cfg)
    yield Stage("train", module, training_data(cfg, module))


# -- evaluation ----------------------------------------------------------------------------------


def encode_speech(
    cfg: Config, module: SpeechTextCWCL, spoken: SpokenSet
) -> tuple[Tensor, SpokenSet]:
    """Unit embeddings (K, D) of the K <= N recordings that can be read, on the CPU, and these.

    Raises:
        UserError: more than one in twenty cannot be read.
    """
    device = module.mean.device
    counter = CorruptCounter("recordings of the evaluation")
    kept: list[int] = []

    def run(rows: list[int]) -> Tensor:
        embedded, good, waveforms = torch.zeros(len(rows), module.speech.embed_dim), [], []
        for place, row in enumerate(rows):
            try:
                waveforms.append(spoken.waveforms[row])
            except OSError as error:
                counter.bad(spoken.keys[row], error)
                continue
            counter.good()
            good.append(place)
            kept.append(row)
        if good:
            padded, lengths = pad_waveforms(waveforms)
            embedded[good] = module.speech(padded.to(device), lengths.to(device)).float().cpu()
        return embedded

    embedded = encode(run, range(len(spoken)), batch_size=cfg.eval.batch_size)
    counter.finish()
    return F.normalize(embedded[kept], dim=1), spoken.subset(kept)


def evaluate(cfg: Config, module: SpeechTextCWCL, workspace: Workspace) -> dict[str, float]:
    """Intents, keywords, retrieval and structure on held-out sets; the untrained model next to it.

    The transcript's own embedding among the class texts is the text model's ceiling (``*_text``).
    """
    metrics = {"logit_scale": float(module.logit_scale().detach())}
    with evaluated(module, cfg.trainer.accelerator):
        for prefix, held_out in spoken_sets.held_out_sets(cfg):
            scores = before_and_after(cfg, module, held_out, workspace, prefix)
            metrics |= {f"{prefix}{name}": value for name, value in scores.items()}
        if cfg.eval.keywords is not None:
            speech, spoken = encode_speech(cfg, module, spoken_sets.command_set(cfg))
            scores = keywords(module, speech, spoken, workspace, "commands_")
            metrics |= {f"commands_{name}": value for name, value in scores.items()}
    return metrics


def before_and_after(
    cfg: Config,
    module: SpeechTextCWCL,
    held_out: SpokenSet,
    workspace: Workspace,
    prefix: str = "",
) -> dict[str, float]:
    """`zero_shot` of a module in evaluation mode, and ``untrained_*`` of it before training."""
    fresh = untrained(lambda: build_module(cfg), cfg.seed, module)
    fresh.mean.copy_(module.mean)
    scores, raw = (
        zero_shot(cfg, module, held_out, workspace, prefix),
        zero_shot(cfg, fresh, held_out),
    )
    kept = ("intent_top1", "keyword_top1", "structure_spearman")
    return scores | {f"untrained_{name}": raw[name] for name in kept if name in raw}


def judge_recordings(
    cfg: Config, module: SpeechTextCWCL, workspace: Workspace, path: Path
) -> dict[str, float]:
    """A user's manifest: intents by name (without "intent" the transcripts), retrieval, structure.

    Raises:
        UserError: see `load_manifest`, or too many recordings can't be read.
    """
    whole = load_manifest(path, sample_rate(cfg))
    spoken = readable_recordings(whole, workspace.say)
    with evaluated(module, cfg.trainer.accelerator):
        scores = before_and_after(cfg, module, spoken, workspace)
    counts = {
        "num_recordings": len(spoken),
        "num_skipped": len(whole) - len(spoken),
        "num_classes": len({target.intent for target in spoken.targets}),
    }
    return {**{name: float(count) for name, count in counts.items()}, **scores}


def zero_shot(
    cfg: Config,
    module: SpeechTextCWCL,
    spoken: SpokenSet,
    workspace: Workspace | None = None,
    prefix: str = "",
) -> dict[str, float]:
    """Intents by name, keywords where every utterance is one word, retrieval, structure."""
    speech, spoken = encode_speech(cfg, module, spoken)
    text = module.encode_texts([t.transcript for t in spoken.targets])
    names = sorted({t.intent for t in spoken.targets})
    labels = torch.tensor([names.index(t.intent) for t in spoken.targets])
    classes = prompt_embeddings(module.encode_texts, class_texts(cfg, names))
    metrics, items = spoken_zeroshot(speech, labels, classes, name="intent_top1")
    metrics["intent_top1_text"] = spoken_zeroshot(text, labels, classes)[0]["top1"]
    if workspace is not None:
        workspace.items(f"{prefix}intent_top1", items)
        show_recordings(workspace, spoken, speech @ classes.T, labels, names, prefix)
    if all(len(t.transcript.split()) == 1 for t in spoken.targets):
        metrics |= keywords(module, speech, spoken, workspace, prefix)
    rows = _one_of_each_text(spoken)
    retrieval = image_text_retrieval(speech[rows], text[rows], torch.arange(len(rows)))
    for key, value in retrieval.items():
        if "recall_at" in key:
            metrics[key.replace("image", "speech")] = value
    u, v = text[: cfg.eval.structure_pairs], speech[: cfg.eval.structure_pairs]
    if len(u) < len(text):
        metrics["structure_num_pairs"] = float(len(u))
    metrics["structure_spearman"] = structure_spearman(u, v)
    metrics["structure_cka"] = linear_cka(u, v)
    return metrics


def show_recordings(
    workspace: Workspace,
    spoken: SpokenSet,
    scores: Tensor,
    labels: Tensor,
    names: list[str],
    prefix: str,
) -> None:
    """Galleries of the recordings whose own intent is furthest ahead of the others, and behind."""

    def title(row: int) -> str:
        return f"{spoken.keys[row]}: {spoken.targets[row].transcript} ({names[int(labels[row])]})"

    best, worst = class_extremes(scores, labels, names, title)
    for kind, rows in (("best", best), ("worst", worst)):
        workspace.gallery(f"{kind} recordings {prefix.rstrip('_')}".strip(), rows)


def class_texts(cfg: Config, names: list[str]) -> list[list[str]]:
    """Texts of each intent: example utterances if there are any, else its name in prompts.

    Raises:
        UserError: an intent without an example.
    """
    texts_of_intents = spoken_sets.intent_texts(cfg)
    missing = [name for name in names if name not in texts_of_intents] if texts_of_intents else []
    if missing:
        raise UserError(f"{cfg.eval.intent_texts} has no utterance of: {', '.join(missing)}")
    if texts_of_intents:
        return [texts_of_intents[name] for name in names]
    return [[p.replace("{}", class_phrase(n)) for p in cfg.eval.intent_prompts] for n in names]


def keywords(
    module: SpeechTextCWCL,
    speech: Tensor,
    spoken: SpokenSet,
    workspace: Workspace | None,
    prefix: str = "",
) -> dict[str, float]:
    """Accuracy over the words of a set in which every utterance is one word."""
    words = sorted({t.transcript for t in spoken.targets})
    labels = torch.tensor([words.index(t.transcript) for t in spoken.targets])
    classes = prompt_embeddings(module.encode_texts, [[word] for word in words])
    metrics, items = spoken_zeroshot(speech, labels, classes, name="keyword_top1")
    if workspace is not None:
        workspace.items(f"{prefix}keyword_top1", items)
    return metrics


def _one_of_each_text(spoken: SpokenSet) -> Tensor:
    """Row of the first recording of every different transcript."""
    first: dict[str, int] = {}
    for row, target in enumerate(spoken.targets):
        first.setdefault(target.transcript, row)
    return torch.tensor(list(first.values()))


# -- export, plan, tasks -------------------------------------------------------------------------


def export(cfg: Config, module: SpeechTextCWCL, folder: Path) -> None:
    """The speech side with its options, the text encoder as sentence-transformers writes it."""
    options = architecture(cfg, module.speech.embed_dim)
    inner = getattr(module.speech.tower, "model", None)
    if inner is not None:  # of transformers: its config says what `sizes` left to the defaults
        options["sizes"] = inner.config.to_dict()
    scale = module.logit_scale.log_scale.detach()
    save_spoken_text(
        module.speech, module.text, folder, options, mean=module.mean.cpu(), log_scale=scale
    )


def load_export(cfg: Config, folder: Path) -> SpeechTextCWCL:
    """A module around exported towers."""
    loaded = load_spoken_text(folder)
    module = SpeechTextCWCL(cfg, loaded.text, loaded.speech)
    module.mean.copy_(loaded.mean)
    module.logit_scale.log_scale.data.fill_(loaded.log_scale)
    return module


def embed(cfg: Config, module: SpeechTextCWCL) -> dict[str, Tensor]:
    """Embeddings of made-up sounds and of texts."""
    device = module.mean.device
    time = torch.arange(sample_rate(cfg), device=device) / 40
    waveforms = torch.stack([time.sin(), (2 * time).sin()])
    lengths = torch.tensor([len(time), len(time) // 2], device=device)
    speech = module.speech(waveforms, lengths).float().cpu()
    return {"speech": speech, "text": module.encode_texts(["zero", "set an alarm"])}


def plan(cfg: Config) -> Plan[SpeechTextCWCL]:
    """What `make check` reports on; towers whose weights are not here have their known sizes."""

    def bare() -> SpeechTextCWCL:
        shape = stand_in(cfg.speech_model.text, ARCHITECTURES)
        pooling = cfg.speech_model.text_pooling
        text = sentence_encoder("random", pooling, config=shape) if shape else build_text(cfg)
        options = architecture(cfg, text.num_features) | {"sizes": tower_sizes(cfg.speech_model)}
        return SpeechTextCWCL(cfg, text, speech_embedder(**options))

    def forward(module: SpeechTextCWCL, batch_size: int) -> Tensor:
        length = 3 * sample_rate(cfg)
        states, _ = module.speech.tower(
            torch.zeros(batch_size, length), torch.full((batch_size,), length)
        )
        projected: Tensor = module.speech.proj(states.mean(1))
        return projected

    model = cfg.speech_model
    weights = (*weights_requirement(model.text), *weights_requirement(model.pretrained))
    needed = (*weights, *spoken_sets.requirements(cfg))
    return Plan(bare, spoken_sets.num_recordings(cfg), forward, needed)
