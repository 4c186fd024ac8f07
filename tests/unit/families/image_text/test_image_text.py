"""The image-text family as another project uses it: languages, views, own loss and stages."""

import pickle
from dataclasses import dataclass, field

import pytest
import torch

from common.config import ExperimentConfig, TrainerConfig, UserError, load
from common.data.image_text.captions import CaptionLists
from common.engine.callbacks import step_seed
from common.engine.workspace import Workspace
from common.families.image_text import own_tokenizer
from common.families.image_text.config import ImageTextData, ImageTextEval, TwoTowers
from common.families.image_text.data import (
    files_of,
    image_text_data,
    num_samples,
    requirements,
    train_transform,
)
from common.families.image_text.experiment import image_text_experiment
from common.families.image_text.module import ImageTextModule, build_tokenizer
from common.losses.image_text import ClipLoss
from common.registry import config_class
from projects.cwcl.locked import locked_data

TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@dataclass
class Config(ExperimentConfig):
    """A project with three languages an image."""

    data: ImageTextData = field(
        default_factory=lambda: ImageTextData(
            source="synthetic",
            texts=["original", "de", "zh"],
            image_size=16,
            num_samples=24,
            batch_size=8,
        )
    )
    model: TwoTowers = field(default_factory=lambda: TwoTowers(open_clip=TOWERS))
    eval: ImageTextEval = field(default_factory=ImageTextEval)
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(max_steps=2, accelerator="cpu")
    )


class OneDirection(ImageTextModule):
    """Another loss than CLIP's."""

    def losses(self, batch):
        loss = ClipLoss(gather=False)
        image = self.encoder.encode_image(batch["images"])
        text = self.encoder.encode_text(batch["tokens"][:, 0])
        return {"loss": loss(image, text, self.logit_scale()).loss}


def experiment(cfg, **options):
    return image_text_experiment(
        cfg,
        lambda encoder=None: OneDirection(cfg, encoder),
        lambda tokenizer: image_text_data(cfg, tokenizer, text_policy="multi", num_texts=3),
        num_texts=3,
        **options,
    )


def test_stage_holds_every_language_and_the_project_s_loss():
    (stage,) = experiment(Config()).stages()
    batch = stage.data.train_set[[(i, 0) for i in range(8)]]
    assert batch["tokens"].shape == (8, 3, 12)
    assert isinstance(stage.data.train_set.captions, CaptionLists)
    loss = stage.module.losses(batch)["loss"]
    loss.backward()
    lost = {n for n, p in stage.module.named_parameters() if p.grad is None}
    assert lost <= {
        "encoder.model.logit_scale"
    }  # open_clip's own, in place of which ours is trained
    assert stage.monitor is None


def test_a_transform_of_several_views_is_taken():
    cfg = Config()
    plain = train_transform(cfg.data)

    class Views:
        def __call__(self, image, rng):
            return torch.stack([plain(image, rng) for _ in range(2)])

        def batch(self, images, rngs):
            return torch.stack([plain.batch(images, rngs) for _ in range(2)], dim=1)

    data = image_text_data(cfg, build_tokenizer(cfg.model), transform=Views())
    images = data.train_set[[(0, 0), (1, 0)]]["images"]
    assert images.shape == (2, 2, 3, 16, 16)
    assert not torch.equal(images[:, 0], images[:, 1])


def test_metrics_export_and_tasks_come_with_the_family(tmp_path):
    cfg = Config()
    ran = []
    built = experiment(
        cfg,
        evaluate_more=lambda module, workspace: {"mean_rank_variance": 1.5},
        tasks={"translate": lambda workspace: ran.append("translate")},
    )
    torch.manual_seed(0)
    module = OneDirection(cfg).eval()
    metrics = built.evaluate(module, Workspace(tmp_path / "run"))
    assert {"zeroshot_top1", "zeroshot_top1_chance", "logit_scale", "mean_rank_variance"} <= set(
        metrics
    )
    assert set(built.tasks) == {"pool_texts", "translate"}
    module.logit_scale.log_scale.data.fill_(2.5)
    with torch.inference_mode():
        built.export(module, tmp_path / "export")
        again = built.load_export(tmp_path / "export").eval()
        before, after = built.embed(module), built.embed(again)
    assert isinstance(again, OneDirection)
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
    assert float(again.logit_scale.log_scale) == pytest.approx(2.5)


def test_the_plan_counts_every_text_and_names_the_files(tmp_path):
    cfg = Config()
    plan = experiment(cfg, num_images=2).plan()
    with torch.device("meta"):
        module = plan.module()
        assert plan.forward(module, 4).requires_grad
    assert plan.num_samples == 24
    assert num_samples(ImageTextData(source="cifar10")) == 9000
    assert num_samples(ImageTextData(source="cifar10", num_samples=64)) == 64
    data = ImageTextData(captions="cc3m/train.csv", texts=["original", "de"], root=str(tmp_path))
    assert [path.name for path in files_of(data)] == ["train.csv", "train_de.txt"]
    official = Config(data=data, eval=ImageTextEval(datasets=["cifar10"]))
    captions, german, judged = requirements(official, "write them with TASK=translate")
    assert "ConceptualCaptions" in captions.hint
    assert german.hint == "write them with TASK=translate"
    assert (judged.name, judged.present) == ("eval: cifar10", False)


def test_validation_takes_the_batches_of_the_evaluation():
    cfg = Config(eval=ImageTextEval(batch_size=5))
    assert image_text_data(cfg, build_tokenizer(cfg.model)).eval_batch_size == 5
    words = ["eval.batch_size=5", "model.cache=false", "model.centred=false"]
    locked = load(config_class("cwcl"), "cwcl", "smoke", words)
    assert locked_data(locked, None, build_tokenizer(locked.model), {}).eval_batch_size == 5


def test_untrained_metrics_are_of_a_draw_of_the_seed_s_own(tmp_path, monkeypatch):
    """On the pool: drawn anew from ``cfg.seed`` itself, which published rows depend on.

    Training draws after another seed, so it is not the very module that training begins with.
    """
    from common.families.image_text import drawings_evaluation, evaluation

    seen = []

    def metrics(cfg, module, rows, pixels, workspace=None):
        seen.append(float(sum(p.double().sum() for p in module.parameters())))
        return {"retrieval_recall_at_10": 0.5, "zeroshot_top1": 0.25}

    monkeypatch.setattr(drawings_evaluation, "pool_metrics", metrics)
    monkeypatch.setattr(
        drawings_evaluation, "read_held_out", lambda cfg: [{"image": "a", "name": "b"}]
    )
    monkeypatch.setattr(
        drawings_evaluation, "pool_images", lambda names, data: torch.zeros(1, 3, 16, 16).byte()
    )
    monkeypatch.setattr(
        drawings_evaluation,
        "read_train_names",
        lambda data, count: (torch.zeros(1, 3, 16, 16).byte(), ["b"]),
    )
    cfg = Config()
    sums = {}
    for name, seed in (("own", cfg.seed), ("training", step_seed(cfg.seed, 0, 0, 0))):
        torch.manual_seed(seed)
        sums[name] = float(sum(p.double().sum() for p in OneDirection(cfg).parameters()))
    cfg.data.source = "pool"
    trained = OneDirection(cfg)
    before = torch.get_rng_state()
    actual = evaluation.evaluate_image_text(
        cfg, trained, Workspace(tmp_path), lambda: OneDirection(cfg)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert seen == [sums["own"], float(sum(p.double().sum() for p in trained.parameters()))]
    assert len({*seen, sums["training"]}) == 3
    assert actual["untrained_retrieval_recall_at_10"] == 0.5
    assert actual["pair_loss_train"] == 0.0  # fewer than a batch


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageTextData(texts=["de"]), "begin with 'original'"),
        (lambda: ImageTextData(texts=["original", "de", "de"]), "each source once"),
        (lambda: ImageTextData().check_source(), r"needs data\.captions"),
        (lambda: ImageTextData(source="webdataset").check_source(), r"needs data\.shards"),
        (lambda: TwoTowers().check_towers(), "exactly one of"),
        (lambda: TwoTowers(vision="a", open_clip="b").check_towers(), "exactly one of"),
    ],
)
def test_wrong_sections_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class Pieces:
    """A tokenizer as open_clip makes them for models that have their own."""

    context_length = 64

    def __call__(self, texts):
        return torch.full((len(texts), self.context_length), len(texts[0]))


def test_an_open_clip_model_with_its_own_tokenizer_is_fed_by_it(monkeypatch):
    """It was fed CLIP's ids, without a word; a third of open_clip's models are such."""
    monkeypatch.setattr(own_tokenizer.open_clip, "get_tokenizer", lambda _: Pieces())
    tokenizer = build_tokenizer(TwoTowers(open_clip="ViT-B-16-SigLIP"))
    assert tokenizer.context_length == 64
    assert torch.equal(tokenizer("four"), torch.full((1, 64), 4))
    again = pickle.loads(pickle.dumps(tokenizer))  # workers take it along
    assert torch.equal(again(["abc"]), torch.full((1, 64), 3))
    assert isinstance(build_tokenizer(TwoTowers(open_clip="ViT-B-32"))(["a"]), torch.Tensor)


def test_its_own_tokenizer_has_to_be_at_hand(monkeypatch):
    def missing(_):
        raise OSError("no such repository")

    monkeypatch.setattr(own_tokenizer.open_clip, "get_tokenizer", missing)
    with pytest.raises(UserError, match="timm/ViT-B-16-SigLIP"):
        build_tokenizer(TwoTowers(open_clip="ViT-B-16-SigLIP"))
    with pytest.raises(UserError, match="is taken by its name alone"):
        build_tokenizer(TwoTowers(open_clip={"text_cfg": {"hf_tokenizer_name": "x"}}))
