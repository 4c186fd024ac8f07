"""The speech-text experiment: data, evaluation, export, plan and tasks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.speech.pairs import load_manifest, load_speech_commands
from common.data.speech.sources import FOLDERS, SAMPLE_RATES, num_train, spoken_part
from common.data.speech.spoken import FSC_HINT, SLURP_HINT, SpokenPart, SpokenSet
from common.data.speech.transcribed import TranscribedSpeech
from common.data.speech.waveforms import pad_waveforms
from common.encoders.modes import evaluated, untrained
from common.encoders.pretrained import stand_in
from common.encoders.speech.embedder import speech_embedder
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from common.engine.experiment import (
    Experiment,
    Plan,
    Requirement,
    Stage,
    bundled_requirement,
    experiment_of,
    weights_requirement,
)
from common.engine.workspace import Workspace
from common.evaluation.encoding import encode
from common.evaluation.features.structure import linear_cka, structure_spearman
from common.evaluation.retrieval.cross_modal import image_text_retrieval
from common.evaluation.speech.zero_shot import class_phrase, prompt_embeddings, spoken_zeroshot
from common.export.spoken_text import load_spoken_text, save_spoken_text
from projects.cwcl.classify import classify
from projects.cwcl.config import Config
from projects.cwcl.spoken_module import SpeechTextCWCL

ARCHITECTURES = {  # of the encoder that paper_speech names, for a dry run without its weights
    "FacebookAI/roberta-base": {
        "model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514,
        "type_vocab_size": 1, "pad_token_id": 1,
    },
}  # fmt: skip
NUM_MANIFEST = 1_000_000  # recordings of a manifest that is not on disk, for `make check`


def speech_text(cfg: Config) -> Experiment[SpeechTextCWCL]:
    """A frozen text encoder and a speech tower."""
    return experiment_of(
        cfg, stages, evaluate, export, load_export, embed, plan,
        {"classify": lambda cfg, workspace: classify(cfg.classify, load_spoken_text, workspace)},
    )  # fmt: skip


# -- towers and data -----------------------------------------------------------------------------


def sample_rate(cfg: Config) -> int:
    """Of all recordings, in Hz."""
    by_source: dict[str, int] = dict(SAMPLE_RATES)
    return cfg.speech.sample_rate if cfg.speech.manifest else by_source[cfg.speech.source]


def architecture(cfg: Config, embed_dim: int) -> dict[str, Any]:
    """Arguments of `speech_embedder`, without the place of weights."""
    model = cfg.speech_model
    return {
        "encoder": model.encoder, "embed_dim": embed_dim, "sample_rate": sample_rate(cfg),
        "sizes": dict(model.sizes),
    }  # fmt: skip


def build_text(cfg: Config) -> SentenceEncoder:
    """The text encoder of the config.

    Raises:
        UserError: a locked encoder without weights.
    """
    model = cfg.speech_model
    if model.text == "random" and cfg.model.locked:
        raise UserError("speech_model.text=random can't be locked: name an encoder with weights")
    return sentence_encoder(model.text, model.text_pooling)


def build_module(cfg: Config) -> SpeechTextCWCL:
    """Both towers of the config under the objective."""
    text = build_text(cfg)
    speech = speech_embedder(
        **architecture(cfg, text.num_features), pretrained=cfg.speech_model.pretrained
    )
    return SpeechTextCWCL(cfg, text, speech)


def recordings(cfg: Config, part: SpokenPart) -> SpokenSet:
    """Utterances of a part; a manifest is the training part, ``eval.intents`` the other ones."""
    if cfg.speech.manifest is None:
        return spoken_part(cfg.speech, part, cfg.seed)
    name = cfg.speech.manifest if part == "train" else cfg.eval.intents
    return load_manifest(data_root(cfg.data.root) / str(name), cfg.speech.sample_rate)


def training_data(cfg: Config, module: SpeechTextCWCL) -> ContrastiveData:
    """Pairs for training; with `model.cache` every different transcript is embedded once, here."""
    spoken = recordings(cfg, "train")
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
    """One fit."""
    module = build_module(cfg)
    yield Stage("train", module, training_data(cfg, module))


# -- evaluation ----------------------------------------------------------------------------------


def encode_speech(cfg: Config, module: SpeechTextCWCL, spoken: SpokenSet) -> Tensor:
    """Unit embeddings (N, D) of all recordings, on the CPU."""
    device = module.mean.device

    def run(rows: list[int]) -> Tensor:
        waveforms, lengths = pad_waveforms([spoken.waveforms[i] for i in rows])
        found: Tensor = module.speech(waveforms.to(device), lengths.to(device))
        return found.float()

    return F.normalize(encode(run, range(len(spoken)), batch_size=cfg.eval.batch_size), dim=1)


def evaluate(cfg: Config, module: SpeechTextCWCL, workspace: Workspace) -> dict[str, float]:
    """Intents, keywords, retrieval and structure on the held-out part; the untrained model beside it.

    The transcript's own embedding among the class texts is the text model's ceiling (``*_text``).
    """
    metrics = {"logit_scale": float(module.logit_scale())}
    with evaluated(module, cfg.trainer.accelerator):
        if cfg.speech.manifest is None or cfg.eval.intents is not None:
            held_out = recordings(cfg, cfg.eval.split)
            metrics |= zero_shot(cfg, module, held_out, workspace)
            fresh = untrained(lambda: build_module(cfg), cfg.seed, module)
            fresh.mean.copy_(module.mean)
            raw = zero_shot(cfg, fresh, held_out, None)
            kept = ("intent_top1", "keyword_top1", "structure_spearman")
            metrics |= {f"untrained_{name}": raw[name] for name in kept if name in raw}
        if cfg.eval.keywords is not None:
            folder = data_root(cfg.data.root) / cfg.eval.keywords
            found = keywords(cfg, module, load_speech_commands(folder, cfg.eval.split), workspace)
            metrics |= {f"commands_{name}": value for name, value in found.items()}
    return metrics


def zero_shot(
    cfg: Config, module: SpeechTextCWCL, spoken: SpokenSet, workspace: Workspace | None
) -> dict[str, float]:
    """Intents by name, keywords where every utterance is one word, retrieval, structure."""
    speech = encode_speech(cfg, module, spoken)
    text = module.encode_texts([t.transcript or t.intent for t in spoken.targets])
    names = sorted({t.intent for t in spoken.targets})
    labels = torch.tensor([names.index(t.intent) for t in spoken.targets])
    phrases = [[p.replace("{}", class_phrase(n)) for p in cfg.eval.intent_prompts] for n in names]
    classes = prompt_embeddings(module.encode_texts, phrases)
    metrics, items = spoken_zeroshot(speech, labels, classes, name="intent_top1")
    metrics["intent_top1_text"] = spoken_zeroshot(text, labels, classes)[0]["top1"]
    if workspace is not None:
        workspace.items("intent_top1", items)
    if all(" " not in t.transcript for t in spoken.targets):
        metrics |= keywords(cfg, module, spoken, workspace, speech)
    rows = _one_of_each_text(spoken)
    found = image_text_retrieval(speech[rows], text[rows], torch.arange(len(rows)))
    for key, value in found.items():
        if "recall_at" in key:
            metrics[key.replace("image", "speech")] = value
    u, v = text[: cfg.eval.structure_pairs], speech[: cfg.eval.structure_pairs]
    metrics["structure_spearman"] = structure_spearman(u, v)
    metrics["structure_cka"] = linear_cka(u, v)
    return metrics


def keywords(
    cfg: Config, module: SpeechTextCWCL, spoken: SpokenSet, workspace: Workspace | None,
    speech: Tensor | None = None,
) -> dict[str, float]:  # fmt: skip
    """Accuracy over the words of a set in which every utterance is one word."""
    words = sorted({t.transcript for t in spoken.targets})
    labels = torch.tensor([words.index(t.transcript) for t in spoken.targets])
    speech = encode_speech(cfg, module, spoken) if speech is None else speech
    classes = prompt_embeddings(module.encode_texts, [[word] for word in words])
    metrics, items = spoken_zeroshot(speech, labels, classes, name="keyword_top1")
    if workspace is not None:
        workspace.items("keyword_top1", items)
    return metrics


def _one_of_each_text(spoken: SpokenSet) -> Tensor:
    """Row of the first recording of every different transcript."""
    first: dict[str, int] = {}
    for row, target in enumerate(spoken.targets):
        first.setdefault(target.transcript or target.intent, row)
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
    """What `make check` reports on; a speech tower without weights has the sizes of the config."""

    def bare() -> SpeechTextCWCL:
        shape = stand_in(cfg.speech_model.text, ARCHITECTURES)
        pooling = cfg.speech_model.text_pooling
        text = sentence_encoder("random", pooling, config=shape) if shape else build_text(cfg)
        return SpeechTextCWCL(cfg, text, speech_embedder(**architecture(cfg, text.num_features)))

    def forward(module: SpeechTextCWCL, batch_size: int) -> Tensor:
        length = 3 * sample_rate(cfg)
        states, _ = module.speech.tower(
            torch.zeros(batch_size, length), torch.full((batch_size,), length)
        )
        found: Tensor = module.speech.proj(states.mean(1))
        return found

    model = cfg.speech_model
    needed = [*weights_requirement(model.text), *weights_requirement(model.pretrained)]
    root = Path(cfg.data.root or "data")
    if cfg.speech.manifest is not None:
        path = root / cfg.speech.manifest
        hint = "JSON lines {audio, text}: https://commonvoice.mozilla.org"
        needed.append(Requirement("data: speech manifest", str(path), path.exists(), hint))
    elif cfg.speech.source == "digits":
        needed.append(bundled_requirement("spoken-digits"))
    elif cfg.speech.source in FOLDERS:
        hints = FSC_HINT if cfg.speech.source == "fsc" else SLURP_HINT
        folder = root / FOLDERS[cfg.speech.source]
        text = f"{hints['source']} ({hints['size']}), layout {hints['layout']}"
        needed.append(Requirement(f"data: {cfg.speech.source}", str(folder), folder.exists(), text))
    count = NUM_MANIFEST if cfg.speech.manifest is not None else num_train(cfg.speech)
    return Plan(bare, count, forward, tuple(needed))
