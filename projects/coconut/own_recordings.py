"""``eval.own``: a user's manifest of recordings with intents that the model knows."""

from collections import Counter
from pathlib import Path

from common.config import UserError
from common.data.speech.manifests import load_manifest, readable_recordings
from common.data.speech.sources import SAMPLE_RATES
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from projects.coconut.baselines import nearest_intents
from projects.coconut.config import Config
from projects.coconut.data import build_tokenizer
from projects.coconut.module import Coconut
from projects.coconut.network import build_network
from projects.coconut.speech.error_rates import word_error_rate
from projects.coconut.speech.options import BeamSearch
from projects.coconut.speech.recognizer import Recognizer
from projects.coconut.stages import Task

SHOWN = 12  # recordings of the gallery


def judge_recordings(
    cfg: Config, module: Coconut, workspace: Workspace, path: Path
) -> dict[str, float]:
    """Intent accuracy and word error rate of transcripts on a user's recordings.

    Recordings of intents that training did not have are left out and counted.

    Args:
        cfg: with the data settings of the training.
        module: trained.
        workspace: takes items, a gallery and a note.
        path: see `load_manifest`; every row needs its intent.

    Returns:
        ``num_recordings``, ``num_skipped``, ``num_classes``; ``accuracy`` with ``_chance``,
        ``majority_accuracy`` (the most frequent of the recordings' classes),
        ``nearest_mean_accuracy`` (`nearest_intents`; for small training sets, of spoken digits),
        ``transcript_wer``, and ``untrained_*``.

    Raises:
        UserError: no recording has a known intent, or too many can't be read.
    """
    train = Task(cfg).train.spoken
    known = {target.intent for target in train.targets}
    manifest = load_manifest(path, SAMPLE_RATES[cfg.data.source], intents=True)
    whole = readable_recordings(manifest, workspace.say)
    rows = [row for row, target in enumerate(whole.targets) if target.intent in known]
    if not rows:
        raise UserError(
            f"{path}: none of its intents is one of the {len(known)} that this model was trained"
            f" on: {', '.join(sorted(known))}"
        )
    if len(rows) < len(whole):
        unknown = sorted({target.intent for target in whole.targets} - known)
        workspace.say(
            f"{path.name}: {len(whole) - len(rows)} recordings of intents that training did not"
            f" have are left out: {', '.join(unknown)}"
        )
    spoken = whole.subset(rows)
    meant = [target.intent for target in spoken.targets]
    waveforms = [spoken.waveforms[row] for row in range(len(spoken))]
    search = BeamSearch(cfg.eval.beam_size, cfg.eval.length_power, cfg.eval.max_length)
    tokenizer = module.tokenizer or build_tokenizer(cfg)

    def measured(network: Recognizer) -> tuple[dict[str, float], list[float], list[str]]:
        said = network(waveforms, search, cfg.eval.batch_size)
        right = [float(target.intent == intent) for target, intent in zip(said, meant, strict=True)]
        transcripts = [target.transcript for target in spoken.targets]
        error = word_error_rate([target.transcript for target in said], transcripts)
        figures = {"accuracy": sum(right) / len(right), "transcript_wer": error}
        return figures, right, [target.intent for target in said]

    counts = Counter(meant)
    metrics = {
        "num_recordings": float(len(spoken)),
        "num_skipped": float(len(manifest) - len(spoken)),
        "num_classes": float(len(counts)),
    }
    with evaluated(module.network, cfg.trainer.accelerator):
        figures, right, said = measured(Recognizer(module.network, tokenizer))
    raw = untrained(lambda: build_network(cfg, len(tokenizer)), cfg.seed, module)
    with evaluated(raw, cfg.trainer.accelerator):
        before = measured(Recognizer(raw, tokenizer))[0]
    metrics |= figures | {f"untrained_{name}": value for name, value in before.items()}
    metrics["accuracy_chance"] = 1 / len(known)
    metrics["majority_accuracy"] = max(counts.values()) / len(meant)
    if cfg.data.source in ("digits", "synthetic"):
        nearest = zip(nearest_intents(train, spoken), meant, strict=True)
        metrics["nearest_mean_accuracy"] = sum(a == b for a, b in nearest) / len(meant)
    workspace.items("accuracy", right)
    order = sorted(range(len(meant)), key=lambda row: right[row])[:SHOWN]
    workspace.gallery(
        "recordings, wrong ones first",
        [
            {
                "query": f"{spoken.keys[row]}: {spoken.targets[row].transcript}",
                "results": [{"item": said[row], "score": 0.0, "correct": bool(right[row])}],
            }
            for row in order
        ],
    )
    return metrics
