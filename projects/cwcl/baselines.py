"""What CWCL has to beat without training: prototypes of noisy captions, the tower's own head."""

import torch
from torch.nn import functional as F

from common.encoders.image.cifar_resnet import cifar_resnet
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.evaluation.image_text.zeroshot import zeroshot_accuracy
from common.families.image_text.class_captions import captioned_cifar
from common.families.image_text.data import eval_transform
from projects.cwcl.config import Config
from projects.cwcl.evaluate import image_features, photographs
from projects.cwcl.module import ImageTextCWCL
from projects.cwcl.pictures import training_data


def _prepared(cfg: Config) -> ImageTextCWCL:
    torch.manual_seed(cfg.seed)
    module = ImageTextCWCL(cfg)
    training_data(cfg, module)
    return module


def noisy_prototype(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Nearest mean feature of the training images whose captions name the class, right or wrong."""
    module = _prepared(cfg)
    train = captioned_cifar(cfg.data, "train", cfg.seed)
    test = captioned_cifar(cfg.data, cfg.eval.split, cfg.seed)
    with evaluated(module, cfg.trainer.accelerator):
        features = image_features(cfg, module, train.images)
        queries = image_features(cfg, module, test.images)
    mean = features.mean(0)
    rows, judged = F.normalize(features - mean, dim=1), F.normalize(queries - mean, dim=1)
    classes = torch.stack([rows[train.named == c].mean(0) for c in range(len(train.class_names))])
    return {"zeroshot_top1": zeroshot_accuracy(judged, test.labels, classes, ks=(1,))["top1"]}


def own_head(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The classifier that the whole network was trained with, on 50,000 labels: a ceiling."""
    tower = cifar_resnet(20, cfg.model.vision_pretrained).eval()
    test = captioned_cifar(cfg.data, cfg.eval.split, cfg.seed)
    with torch.inference_mode():
        predicted = tower.logits(eval_transform(cfg.data).batch(test.images)).argmax(1)
    return {"zeroshot_top1": float((predicted == test.labels).double().mean())}


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The text tower before training."""
    module = _prepared(cfg)
    with evaluated(module, cfg.trainer.accelerator):
        metrics = photographs(cfg, module, None)
    kept = ("zeroshot_top1", "structure_spearman", "structure_cka", "retrieval_recall_at_10")
    return {name: metrics[name] for name in kept}


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A class drawn evenly."""
    names = captioned_cifar(cfg.data, cfg.eval.split, cfg.seed).class_names
    return {"zeroshot_top1": 1 / len(names)}
