"""Tasks: texts for a user's pictures, the gap and its sensitivity, statistics of pairs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.damage import reading
from common.data.image.upright import upright
from common.data.lookup import data_root
from common.data.samplers import sample_rng
from common.encoders.image_text.frozen_clip import FrozenClip
from common.engine.workspace import Workspace, write_json
from common.export.files import write_tensors
from projects.close.batches import Example, ImageInputs
from projects.close.config import Config
from projects.close.evaluate import judged, score, unit_vectors, written
from projects.close.folder import load, read_settings
from projects.close.gap_metrics import gap_report
from projects.close.generate import write_texts
from projects.close.inference import Captioner
from projects.close.modality_gap import gap_statistics
from projects.close.pairs import own_pairs
from projects.close.stages import make_inputs, pair_statistics

CURVE_STREAM = 71
AT_ONCE = 64  # pictures or texts that are held and written for at a time
SHOWN = 640  # pixels of a picture's longer side in the gallery


def caption(cfg: Config, workspace: Workspace) -> list[str]:
    """Texts for ``caption.inputs`` (pictures) and ``caption.texts`` by the folder ``caption.run``.

    Raises:
        UserError: no folder or no input.
    """
    options = cfg.caption
    if options.run is None or not (options.inputs or options.texts):
        raise UserError(
            "set caption.run, a folder written by make export, and caption.inputs=[picture.png] (or"
            " caption.texts)"
        )
    model, context = Captioner(options.run), options.context or ""
    captions, said = list[str](), list[str]()
    parts = _parts(options.inputs)
    for part in workspace.progress(parts, "pictures", len(parts)):
        captions += model(part, context)
    for part in _parts(options.texts):
        said += model.from_texts(part, context)
    for name, text in zip([*options.inputs, *options.texts], [*captions, *said], strict=True):
        workspace.say(f"{name}: {text}")
    workspace.gallery(
        "texts",
        [
            {
                "query": _small(name),
                "results": [{"item": text or "-", "score": 0.0, "name": Path(name).name}],
            }
            for name, text in zip(options.inputs, captions, strict=True)
        ],
    )
    return [*captions, *said]


def _parts(names: Sequence[str]) -> list[list[str]]:
    return [list(names[i : i + AT_ONCE]) for i in range(0, len(names), AT_ONCE)]


def _small(name: str) -> Image.Image:
    """A picture as the gallery shows it: thousands of photographs would not fit in memory."""
    picture = upright(name)
    picture.thumbnail((SHOWN, SHOWN))
    return picture


def gap(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The gap on held-out pairs, and an export's metric (``caption.run``) over noise and offset.

    Writes gap.json and plots/sensitivity.png. Without a model the cosines alone.

    Raises:
        UserError: fewer than two pairs, or a model of another dual encoder than ``model.clip``.
    """
    if cfg.caption.run is not None:
        export_clip = read_settings(Path(cfg.caption.run))["clip"]
        if export_clip != cfg.model.clip:
            raise UserError(
                f"{cfg.caption.run} reads vectors of {export_clip}, not of"
                f" model.clip={cfg.model.clip}: set model.clip={export_clip}"
            )
    examples = [e for e in judged(cfg) if e.image]
    if len(examples) < 2:
        raise UserError("the gap needs two or more pairs with a picture: raise eval.limit")
    clip = FrozenClip(cfg.model.clip, half=cfg.model.half)
    examples = examples[:: max(1, len(examples) // cfg.eval.items)]
    images = unit_vectors(make_inputs(cfg, clip, examples, "image"), examples)
    texts = unit_vectors(make_inputs(cfg, clip, examples, "text"), examples)
    report = gap_report(texts, images)
    if cfg.caption.run is not None:
        curve = sensitivity(cfg, images, images.mean(0) - texts.mean(0), examples)
        report |= curve
        workspace.figure("sensitivity", _plot(cfg, curve))
    write_json(workspace.folder(".") / "gap.json", report)
    for name, value in report.items():
        workspace.say(f"{name}: {value:.4f}")
    return report


def sensitivity(
    cfg: Config, images: Tensor, offset: Tensor, examples: Sequence[Example]
) -> dict[str, float]:
    """The task's first metric on image vectors with noise, or moved along the mean offset.

    Args:
        cfg: the experiment's config; ``caption.run`` is the model.
        images: (N, D) unit rows.
        offset: (D,) mean of images minus mean of texts.
        examples: N of them.

    Returns:
        ``noise_<w>`` and ``offset_<a>``: the value at |v + w e| and at |v + a (mean offset)|.
    """
    module = load(cfg, Path(str(cfg.caption.run)))
    rng = sample_rng(cfg.seed, 0, 0, CURVE_STREAM)
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape)).astype("float32"))
    moved = {f"noise_{w:g}": images + w * noise for w in cfg.eval.noises}
    moved |= {f"offset_{a:g}": images + a * offset for a in cfg.eval.offsets}
    scores = {}
    for name, vectors in moved.items():
        texts = written(cfg, module, F.normalize(vectors, dim=1), examples)
        scores[name] = next(iter(score(cfg, examples, texts).values()))
    return scores


def write_statistics(cfg: Config, workspace: Workspace) -> Path:
    """Statistics of pairs for the adapters shift, linear and covariance, as ``gap.safetensors``.

    Held-back pairs of the source, or with ``data.source=text`` those of a CSV as
    ``data.text_file``.

    Raises:
        UserError: a CSV that is missing, no UTF-8, or of fewer than two pairs, or an unreadable
            picture.
    """
    file = cfg.data.text_file
    csv_file = data_root(cfg.data.root) / file if file and file.lower().endswith(".csv") else None
    pairs = None
    if csv_file is not None:
        with reading(csv_file, "CSV of path,caption in UTF-8"):
            pairs = own_pairs(csv_file)
        if len(pairs) < 2:
            raise UserError(f"{csv_file} has one pair: statistics need two or more")
    clip = FrozenClip(cfg.model.clip, half=cfg.model.half)
    path = workspace.folder(".") / "gap.safetensors"
    if pairs is None:
        statistics = pair_statistics(cfg, clip)
    else:
        # turned as its camera says, as TASK=caption reads it
        images = ImageInputs(clip, [e.image for e in pairs], upright)
        texts = clip.encode_texts([e.texts[0] for e in pairs])
        statistics = gap_statistics(texts, images(pairs)["features"])
        workspace.say(f"{len(pairs)} pairs of {csv_file}")
    write_tensors(path, statistics._asdict())
    workspace.say(f"{path}: use it with method.statistics={path.resolve()}")
    return path


def _plot(cfg: Config, curve: dict[str, float]) -> object:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3))
    axes = figure.subplots(1, 2)
    for ax, (kind, xs) in zip(
        axes, (("noise", cfg.eval.noises), ("offset", cfg.eval.offsets)), strict=True
    ):
        ax.plot(xs, [curve[f"{kind}_{x:g}"] for x in xs], marker="o")
        ax.set_xlabel(f"{kind} added to image vectors")
    return figure


TASKS: Mapping[str, Callable[[Config, Workspace], object]] = {
    "caption": caption,
    "gap": gap,
    "statistics": write_statistics,
    "generate": write_texts,
}
