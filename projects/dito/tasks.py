"""What `make run` does: objects of free names in a user's pictures, and the report of locality."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2 import functional as TF

from common.config import UserError
from common.encoders.modes import evaluation_mode
from common.engine.workspace import Workspace, write_json
from projects.dito.config import Config, ModelConfig
from projects.dito.detection.mask_head import run_lengths
from projects.dito.detector import similarity_maps
from projects.dito.evaluate import cut, locality
from projects.dito.folder import load_network
from projects.dito.inference import Detector, Found
from projects.dito.network import DitoNetwork
from projects.dito.scenes import Scenes, scenes_of, transform_of
from projects.dito.stages import templates_of

SHOWN = 640  # pixels of a picture's longer side in the gallery


def detect(cfg: Config, workspace: Workspace) -> dict[str, list[Found]]:
    """Objects of ``run.names`` in the pictures ``run.inputs``.

    Drawn as PNG, listed as detections.json; masks are there in COCO's run lengths.

    Raises:
        UserError: no model, pictures or names.
    """
    options = cfg.run
    if options.model is None or not options.inputs or not options.names:
        raise UserError(
            "set run.model, a folder written by make export, run.inputs=[photo.png] and"
            " run.names=[a dog,a cat]"
        )
    model, detections = Detector(options.model, cfg.score), {}
    names = list(dict.fromkeys(options.names))  # a name twice would share its score with itself
    rows = []
    paths = [Path(name).expanduser() for name in options.inputs]
    for name, path, stem in zip(options.inputs, paths, own_stems(paths), strict=True):
        boxes = model(path, names, base=options.base or None, threshold=options.threshold)[
            : options.most
        ]
        detections[name] = boxes
        drawn = Detector.draw(path, boxes)
        place = workspace.folder("boxes") / f"{stem}.png"
        drawn.save(place)
        text = (
            ", ".join(f"{f.name} {f.score:.2f}" for f in boxes[:5]) or "nothing above run.threshold"
        )
        workspace.say(f"{name}: {text} -> {place}")
        listed = [{"item": f.name, "score": f.score} for f in boxes] or [
            {"item": "-", "score": 0.0}
        ]
        drawn.thumbnail((SHOWN, SHOWN))  # thousands of photographs would not fit in memory
        rows.append({"query": drawn, "results": listed})
    workspace.gallery("detections", rows)
    plain = {name: [_plain(f) for f in boxes] for name, boxes in detections.items()}
    write_json(workspace.folder(".") / "detections.json", plain)
    return detections


def _plain(found: Found) -> dict[str, Any]:
    row = found._asdict()
    mask = row.pop("mask")
    return row if mask is None else row | {"segmentation": run_lengths(mask)}


def own_stems(paths: Sequence[Path]) -> list[str]:
    """A name for every file: its stem, with a number where an earlier file has that name.

    >>> own_stems([Path("a/dog.png"), Path("b/dog.jpg"), Path("cat.png")])
    ['dog', 'dog_2', 'cat']
    """
    stems: list[str] = []
    for path in paths:
        name, number = path.stem, 1
        while name in stems:
            number += 1
            name = f"{path.stem}_{number}"
        stems.append(name)
    return stems


def report_locality(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Pointing accuracy and similarity maps of the models ``run.models`` on the same scenes.

    A model of image-level pretraining alone has patch maps, one with a trained head region maps
    too. Writes locality.json, a table into the notes and plots/locality.png.

    Raises:
        UserError: no models, or models of different image sizes.
    """
    options = cfg.run
    if not options.models:
        raise UserError(
            "set run.models=[baseline/export,dito/export], folders written by make export "
            "(the baseline: make train PROJECT=dito method.stages=[image,image])"
        )
    report: dict[str, float] = {}
    shown: list[tuple[str, torch.Tensor]] = []
    loaded = [load_network(Path(folder).expanduser()) for folder in options.models]
    sizes = [settings["image_size"] for _, settings in loaded]
    if len(set(sizes)) > 1:  # scenes of another size are other scenes
        raise UserError(
            f"run.models take images of {sizes} pixels: for the same scenes give models that were "
            "trained with the same data.image_size"
        )
    for number, (network, settings) in enumerate(loaded):
        data = replace(cfg.data, image_size=settings["image_size"])
        evaluated = replace(cfg.eval, templates=settings["templates"])
        its = replace(cfg, data=data, eval=evaluated, model=ModelConfig(**settings["model"]))
        scenes = cut(scenes_of(its, its.eval.split), its.eval.limit)
        label = f"{number + 1}_{'_'.join(network.trained)}"
        with evaluation_mode(network):
            report |= {f"{label}_{k}": v for k, v in locality(its, network, scenes).items()}
            shown += _maps(its, network, scenes, label, options.examples)
    for name, value in report.items():
        workspace.say(f"{name}: {value:.4f}")
    write_json(workspace.folder(".") / "locality.json", report)
    workspace.figure("locality", _figure(its, scenes, shown, options.examples))
    return report


def _maps(
    cfg: Config, network: DitoNetwork, scenes: Scenes, label: str, count: int
) -> list[tuple[str, torch.Tensor]]:
    """Similarity of the first scenes with the name of their first object, (count, h, w) a kind."""
    images = transform_of(cfg.data).batch(scenes.images[:count])
    names = [scenes.names[i] for i in scenes.labels[:count, 0].tolist()]
    texts = network.classes(names, templates_of(cfg))[1:, None]
    kinds = ["patch", *(["region"] if {"region", "detect"} & set(network.trained) else [])]
    return [
        (f"{label} {kind}", similarity_maps(network, images, texts, kind)[:, 0]) for kind in kinds
    ]


def _figure(cfg: Config, scenes: Scenes, shown: list[tuple[str, torch.Tensor]], count: int) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    count = min(count, len(scenes.images))
    figure = Figure(figsize=(1.6 * (1 + len(shown)), 1.8 * count))
    grid = figure.subplots(count, 1 + len(shown), squeeze=False)
    size = cfg.data.image_size
    for i in range(count):
        x0, y0, x1, y1 = scenes.boxes[i, 0].tolist()
        picture = TF.to_pil_image(scenes.images[i])
        grid[i][0].set_ylabel(scenes.names[int(scenes.labels[i, 0])])
        for j, ax in enumerate(grid[i]):
            ax.imshow(picture)
            if j:
                title, maps = shown[j - 1]
                ax.imshow(maps[i], extent=(0, size, size, 0), alpha=0.7, cmap="viridis")
                if i == 0:
                    ax.set_title(title, fontsize=7)
            ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="red"))
            ax.set_xticks([])
            ax.set_yticks([])
    return figure
