"""Linear evaluation as the field does it: a classifier that learns on the frozen encoder.

`common.evaluation.features.linear_probe` finds the optimum for features of un-augmented images;
here the classifier is trained by SGD (or LARS, AdamW) on augmented ones, on any number of devices.

# N images, B images of a batch, S pixels, F features, C classes
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from common.config import OptimConfig, UserError
from common.data.deferred import finished
from common.data.image.parts import NUM_CLASSES, NUM_IMAGES, EvalImages, ImagePart, Part
from common.data.image.sources import ImageTransform, TrainTransform
from common.data.module import ContrastiveData
from common.data.samplers import Key, sample_rng
from common.distributed.collectives import all_gather_no_grad
from common.encoders.heads import ProjectedEncoder
from common.encoders.modes import evaluated
from common.engine.experiment import Experiment, Plan, Requirement, Stage
from common.engine.module import ContrastiveModule
from common.engine.optim import milestone_schedule
from common.engine.workspace import Workspace
from common.evaluation.features.accuracy import mean_per_class_accuracy
from common.evaluation.features.frozen import source_outputs
from common.export.safetensors import load_safetensors, save_safetensors
from common.families.images.config import LinearOptions, ProjectedModel, WatchedEval
from common.families.images.data import ImageConfig, eval_transform, moments
from common.families.images.networks import build_network

_STREAM = 34
SHAPE = ("backbone", "widths", "cifar_stem", "image_size")  # of an export, as the config has them


class LinearConfig(ImageConfig, Protocol):
    """The sections that this module reads."""

    @property
    def optim(self) -> OptimConfig:
        """How the classifier is trained."""

    @property
    def model(self) -> ProjectedModel:
        """Whose encoder is judged."""

    @property
    def eval(self) -> WatchedEval:
        """Protocol."""

    @property
    def linear(self) -> LinearOptions:
        """What is trained."""


class LabelledBatch(TypedDict):
    """Augmented images with their classes."""

    images: Tensor  # (B, 3, S, S) float32
    labels: Tensor  # (B,) int64
    ids: Tensor  # (B,) int64 sample indices
    skipped: int  # corrupt samples that this batch left out


class LabelledViews(Dataset[LabelledBatch]):
    """Training set of one augmented view of every labelled image.

    Args:
        part: labelled images.
        transform: training transform.
        seed: the experiment's.
    """

    def __init__(self, part: ImagePart, transform: ImageTransform, *, seed: int) -> None:
        self.images, self.labels, self.seed = part.source(transform), part.labels, seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keys: Sequence[Key]) -> LabelledBatch:
        """Batch of the given ``(index, epoch)`` keys, without images that cannot be read."""
        return finished(self.deferred(keys))  # type: ignore[no-any-return]

    def deferred(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The same, its images unfinished where their transform allows."""
        rngs = [sample_rng(self.seed, epoch, index, _STREAM) for index, epoch in keys]
        looks = [(self.images.transform, rngs)]
        (images,), kept = self.images.views([index for index, _ in keys], looks)
        ids = torch.tensor([keys[position][0] for position in kept])
        skipped = len(keys) - len(kept)
        return {"images": images, "labels": self.labels[ids], "ids": ids, "skipped": skipped}


class LinearNetwork(nn.Module):
    """A frozen encoder and a linear classifier of its features.

    Args:
        encoder: images (B, 3, S, S) -> (B, F), with ``num_features``.
        num_classes: C.
        init_std: of the classifier's weights; its bias begins at zero.
    """

    def __init__(self, encoder: nn.Module, num_classes: int, init_std: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.classifier = nn.Linear(int(encoder.num_features), num_classes)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, std=init_std)
        nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> "LinearNetwork":
        """Training mode of the classifier alone: statistics of batch norm stay as they are."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> logits (B, C), in the classifier's precision under autocast."""
        with torch.no_grad():
            features = self.encoder(images)
        with nullcontext() if images.is_meta else torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.classifier(features.to(self.classifier.weight.dtype))
        return logits


class LinearClassification(ContrastiveModule):
    """Cross entropy of the classifier; ``val/top1`` if the config validates.

    Source: Chen et al. 2020, "SimCLR", appendix B.6, arXiv 2002.05709; He et al. 2020, "MoCo",
    section
    4.1 (SGD at a rate of 30, divided by ten at 60 % and 80 %), arXiv 1911.05722.

    Args:
        cfg: the experiment's config.
        network: encoder and classifier.
    """

    in_batch_negatives = False

    def __init__(self, cfg: LinearConfig, network: LinearNetwork) -> None:
        super().__init__(cfg.optim)
        self.network = network
        self.milestones = cfg.linear.milestones or getattr(cfg.optim, "milestones", [])
        self._right: list[Tensor] = []

    def losses(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Cross entropy and accuracy of a batch."""
        logits = self.network(batch["images"])
        right = (logits.detach().argmax(1) == batch["labels"]).float().mean()
        return {"loss": F.cross_entropy(logits, batch["labels"]), "top1": right}

    def configure_optimizers(self) -> Any:
        """The common optimiser and schedule; with milestones a division by ten at each."""
        optimizers = super().configure_optimizers()
        if self.milestones:
            optimizers["lr_scheduler"]["scheduler"] = milestone_schedule(
                optimizers["optimizer"], self.milestones, self.trainer.max_steps
            )
        return optimizers

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Collect which images are right."""
        self._right.append(self.network(batch["images"]).argmax(1) == batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Accuracy over the images of all ranks."""
        right, self._right = torch.cat(self._right), []
        self.log("val/top1", float(all_gather_no_grad(right.double()).mean()))


def linear_experiment(
    cfg: LinearConfig,
    build: Callable[..., nn.Module],
    options: dict[str, Any],
    labelled: Callable[[Any, Part], ImagePart],
    views: Callable[[Any], ImageTransform],
    requirements: Sequence[Requirement],
) -> Experiment[LinearClassification]:
    """Experiment that trains a classifier on the encoder of an export or of given weights.

    Args:
        cfg: the project's config.
        build: rebuilds the network of an export, whose ``encoder`` is judged.
        options: arguments of `build` by this config.
        labelled: config, part -> bank (what the classifier learns from) or test images.
        views: data section -> the method's own training transform, for ``linear.augment=views``.
        requirements: of the method.

    Raises:
        UserError: milestones with another schedule than a constant one or with a warm-up, or
            Nesterov's momentum with another optimiser than SGD.
    """
    options_of_linear, data, pretrained = cfg.linear, cfg.data, cfg.model.pretrained
    if options_of_linear.milestones and cfg.optim.schedule != "constant":
        raise UserError("linear.milestones need optim.schedule=constant")
    if options_of_linear.milestones and (cfg.optim.warmup_steps or cfg.optim.warmup_epochs):
        raise UserError(
            "linear.milestones have no warm-up: set optim.warmup_steps=0 and optim.warmup_epochs=0"
        )
    source = data.source if data.source in NUM_CLASSES else "imagenet"  # a folder's judge

    def network(num_classes: int, init_std: float = 0.0, **shape: Any) -> LinearNetwork:
        encoder: Any = build(**shape)
        return LinearNetwork(encoder.encoder, num_classes, init_std)

    def judged() -> nn.Module:
        if options_of_linear.encoder is None and pretrained == "random":
            raise UserError(
                "linear.train=true needs linear.encoder, the exported folder of a trained run"
                " (`make export` names it), or the weights of model.pretrained"
            )
        if options_of_linear.encoder is None:
            pretrained_network: Any = build(**options, pretrained=pretrained)
            return cast(nn.Module, pretrained_network.encoder)
        folder = Path(options_of_linear.encoder).expanduser()
        encoder: Any = load_safetensors(folder, build)
        trained_with = json.loads((folder / "config.json").read_text("utf-8"))
        other = [k for k in SHAPE if k in trained_with and trained_with[k] != options[k]]
        if other and (other != ["widths"] or options["backbone"] == "convnet"):
            name = other[0]
            raise UserError(
                f"{folder} was trained with {name}={trained_with[name]}, not {options[name]}"
            )
        return cast(nn.Module, encoder.encoder)

    def stages() -> Iterator[Stage]:
        encoder, bank = judged(), labelled(cfg, "bank")
        module = LinearClassification(
            cfg, LinearNetwork(encoder, len(bank.class_names), options_of_linear.init_std)
        )
        yield Stage("linear", module, linear_data(cfg, bank, labelled, views))

    def evaluate(module: LinearClassification, workspace: Workspace) -> dict[str, float]:
        with evaluated(module, cfg.trainer.accelerator):
            return evaluate_linear(cfg, module, labelled(cfg, "test"), workspace)

    def export(module: LinearClassification, folder: Path) -> None:
        classes = module.network.classifier.out_features
        save_safetensors(module.network, folder, options | {"num_classes": classes})

    def embed(module: LinearClassification) -> dict[str, Tensor]:
        shape = (2, 3, data.image_size, data.image_size)
        images = torch.linspace(-2, 2, torch.Size(shape).numel()).sin().reshape(shape)
        device = module.network.classifier.weight.device
        return {"logits": module.network(images.to(device)).cpu()}

    def plan() -> Plan[LinearClassification]:
        def bare() -> LinearClassification:
            return LinearClassification(
                cfg, network(NUM_CLASSES[source], options_of_linear.init_std, **options)
            )

        def forward(module: LinearClassification, batch_size: int) -> Tensor:
            shape = (batch_size, 3, data.image_size, data.image_size)
            logits: Tensor = module.network(torch.zeros(shape))
            return logits.sum()

        needs = [*requirements]
        if options_of_linear.encoder is not None or pretrained == "random":
            place = Path(options_of_linear.encoder or "").expanduser()
            needs = [need for need in needs if not need.name.startswith("weights")]
            hint = "the exported folder of a trained run, written by `make export`"
            there = options_of_linear.encoder is not None and place.is_dir()
            needs.append(
                Requirement("encoder", options_of_linear.encoder or "linear.encoder", there, hint)
            )
        here = source in ("bundled", "synthetic")
        size = len(labelled(cfg, "bank").labels) if here else data.limit or _num_images(source)
        return Plan(bare, size, forward, tuple(needs))

    return Experiment(
        stages,
        evaluate,
        export,
        lambda folder: LinearClassification(cfg, load_safetensors(folder, network)),
        embed,
        plan,
    )


def load_network(folder: str | Path) -> ProjectedEncoder | LinearNetwork:
    """Encoder of an exported folder, with its projector or a linear evaluation's classifier.

    Raises:
        UserError: see `load_safetensors`.
    """

    def built(num_classes: int | None = None, **options: Any) -> ProjectedEncoder | LinearNetwork:
        network = build_network(**options)
        return network if num_classes is None else LinearNetwork(network.encoder, num_classes)

    return load_safetensors(folder, built)


def _num_images(source: str) -> int:
    """Labelled training images of a set; most of STL-10's have no labels."""
    return 5000 if source == "stl10" else NUM_IMAGES[source]


def linear_data(
    cfg: LinearConfig,
    bank: ImagePart,
    labelled: Callable[[Any, Part], ImagePart],
    views: Callable[[Any], ImageTransform],
) -> ContrastiveData:
    """Augmented labelled images; the test images for validation if the config asks."""
    data, linear = cfg.data, cfg.linear
    mean, std = moments(data)
    low, high = linear.crop_scale
    crop = TrainTransform(data.image_size, (low, high), flip_prob=0.5, mean=mean, std=std)
    transform = views(data) if linear.augment == "views" else crop
    watched = cfg.trainer.val_every_n_steps is not None
    test = {"test": EvalImages(labelled(cfg, "test"), eval_transform(data))} if watched else {}
    return ContrastiveData(
        LabelledViews(bank, transform, seed=cfg.seed),
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        val=test,
        eval_batch_size=cfg.eval.batch_size,
    )


def evaluate_linear(
    cfg: LinearConfig, module: LinearClassification, test: ImagePart, workspace: Workspace
) -> dict[str, float]:
    """Accuracy of the last weights.

    Returns:
        ``linear_top1``, ``linear_mean_per_class`` and ``linear_top5`` (of more than five classes),
        with ``..._chance`` (uniform guessing).
    """
    network = module.network
    (logits,), rows = source_outputs(
        lambda images: (network(images),),
        test.source(eval_transform(cfg.data)),
        network.classifier.weight.device,
        batch_size=cfg.eval.batch_size,
        num_workers=cfg.data.num_workers,
        progress=workspace.progress,
        name="test images",
    )
    labels, classes = test.labels[rows], logits.shape[1]
    # images whose own logit is below fewer than k others; of equal ones the first class counts
    true_logit = logits.gather(1, labels[:, None])
    before = torch.arange(classes) < labels[:, None]
    rank = ((logits > true_logit) | ((logits == true_logit) & before)).sum(1)
    # nothing is above a NaN, and all are equal to an infinity: a network that diverged is never
    # right
    rank = rank.masked_fill(~logits.isfinite().all(1), classes)
    metrics = {"linear_top1": float((rank < 1).double().mean())}
    if classes > 5:
        metrics["linear_top5"] = float((rank < 5).double().mean())
        metrics["linear_top5_chance"] = 5 / classes
    workspace.items("linear_top1", (rank < 1).double().tolist())
    metrics["linear_mean_per_class"] = mean_per_class_accuracy(rank < 1, labels)
    return metrics | {"linear_top1_chance": 1 / classes}
