"""Frozen towers, cache, export, resume, evaluators, towers to choose from (checklist 5, 10-17)."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import ROOT, UserError
from common.encoders.image_text.bag_of_words import BagOfWords
from common.engine.check import inspect
from common.engine.workspace import Workspace
from common.families.image_text.class_captions import captioned_cifar
from projects.cwcl import build
from projects.cwcl.evaluate import pair_metrics, photographs
from projects.cwcl.exported import load_locked
from projects.cwcl.locked import build_towers
from projects.cwcl.locked_towers import given_part
from projects.cwcl.module import ImageTextCWCL
from projects.cwcl.pictures import training_data
from projects.cwcl.spoken_sets import requirements as spoken_requirements
from projects.cwcl.structure import linear_cka, structure_spearman
from tests.cards import exported_by
from tests.projects.cwcl.conftest import batch_of, config, module_of

TINY_OPEN_CLIP = (
    "model.open_clip={embed_dim: 32, "
    "vision_cfg: {layers: 1, width: 32, head_width: 16, patch_size: 8, image_size: 32}, "
    "text_cfg: {context_length: 16, vocab_size: 49408, width: 32, heads: 2, layers: 1}}"
)
CLIP = [
    "model.locked=false",
    "model.cache=false",
    "model.centred=false",
    "method.weight_mode=binary",
]


def step(module, batch):
    """One SGD step; returns the loss before it."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    loss = module.losses(batch)["loss"]
    loss.backward()
    optimizer.step()
    return loss.item()


def test_item_5_the_frozen_tower_does_not_move_and_stays_in_eval_mode():
    """Checklist 5: no gradient, equal parameters and buffers, eval mode; the text side moves."""
    module = module_of().train()
    tower = given_part(module.encoder)
    assert not any(part.training for part in tower.modules())
    assert module.encoder.text_tower.training
    before = {k: v.clone() for k, v in module.state_dict().items()}
    step(module, batch_of())
    frozen = [name for name in before if name.startswith("encoder.image_tower.")]
    assert len(frozen) > 100
    for name in frozen:
        assert torch.equal(before[name], module.state_dict()[name]), name
    assert all(p.grad is None and not p.requires_grad for p in tower.parameters())
    assert not torch.equal(
        before["encoder.text_proj.weight"], module.state_dict()["encoder.text_proj.weight"]
    )


def test_items_5_and_14_both_baselines_exist():
    """Checklist 14: locked tower with the plain loss (LiT), both towers trained (CLIP)."""
    lit = module_of("method.weight_mode=binary").train()
    assert not any(p.requires_grad for p in given_part(lit.encoder).parameters())
    clip = module_of(*CLIP).train()
    tower = given_part(clip.encoder)
    assert all(part.training for part in tower.modules())
    before = tower.tower.conv1.weight.detach().clone()
    step(clip, batch_of())
    assert not torch.equal(before, tower.tower.conv1.weight)
    assert tower.tower.conv1.weight.grad is not None


@pytest.mark.parametrize("weights", ["embedding", "raw"])
def test_item_10_cached_features_give_the_loss_of_the_images(weights):
    """Checklist 10: the same batch with features from the cache and through the tower."""
    losses = []
    for cache in ("true", "false"):
        words = [f"model.cache={cache}", f"method.weight_features={weights}"]
        module = module_of(*words).train()
        data = training_data(config(*words), module)
        batch = data.train_set[[(i, 0) for i in (3, 1, 40, 22)]]
        assert batch["images"].ndim == (2 if cache == "true" else 4)
        losses.append(module.losses(batch)["loss"].item())
        assert bool(given_part(module.encoder).mean.any())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_item_10_a_cache_on_disk_belongs_to_its_tower_and_data(tmp_path):
    """Checklist 10: read again with equal features; refused for another set."""
    words = [f"model.cache_dir={tmp_path}/features"]
    first = training_data(config(*words), module_of(*words)).train_set.images.features
    again = training_data(config(*words), module_of(*words)).train_set.images.features
    assert torch.equal(first, again)
    other = [*words, "data.num_samples=32"]
    with pytest.raises(UserError, match="made for another samples"):
        training_data(config(*other), module_of(*other))
    with pytest.raises(UserError, match="needs model.cache_dir"):
        build(config()).tasks["cache"](Workspace(tmp_path / "w"))


def test_item_13_towers_can_be_chosen():
    """Checklist 13: image towers of three libraries and two text towers, from the config alone."""
    for words in (
        ["model.vision=resnet18"],
        ["model.vision=timm/resnet10t", "model.projected=true", "model.embed_dim=24"],
        ["model.vision=null", TINY_OPEN_CLIP],
        ["model.vision=cifar_resnet32"],
        ["model.vision=cifar_resnet20/early"],
    ):
        module = module_of(*CLIP, "model.vision_pretrained=random", *words)
        actual = module.losses(batch_of(4))
        assert bool(torch.isfinite(actual["loss"])), words
    assert isinstance(ImageTextCWCL(config(name="mini")).encoder.text_tower, BagOfWords)
    with pytest.raises(UserError, match="6n"):
        module_of(*CLIP, "model.vision_pretrained=random", "model.vision=cifar_resnet21")


def test_exports_reload_with_equal_embeddings_in_both_formats(tmp_path):
    """Our format for a CIFAR ResNet; open_clip's own where it can express the towers."""
    import open_clip

    cfg = config()
    module = module_of().eval()
    module.set_mean(torch.rand(64))
    experiment = build(cfg)
    with torch.inference_mode():
        experiment.export(module, tmp_path / "own")
        again = experiment.load_export(tmp_path / "own").eval()
        before, after = experiment.embed(module), experiment.embed(again)
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
    words = ["model.vision=null", TINY_OPEN_CLIP, *CLIP, "model.vision_pretrained=random"]
    cfg, module = config(*words), module_of(*words).eval()
    experiment = build(cfg)
    with torch.inference_mode():
        experiment.export(module, tmp_path / "open")
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/open")
        images = batch_of(2)["images"]
        assert torch.allclose(
            model.eval().encode_image(images), module.encoder.encode_image(images), atol=1e-5
        )
        again = experiment.load_export(tmp_path / "open").eval()
        before, after = experiment.embed(module)["text"], experiment.embed(again)["text"]
    assert torch.allclose(before, after, atol=1e-5)
    with pytest.raises(UserError, match="not an exported model"):
        load_locked(tmp_path)


def test_a_locked_open_clip_model_keeps_its_image_side(tmp_path):
    """Item 5 with open_clip: weights from an exported folder, only the text side trains."""
    words = ["model.vision=null", TINY_OPEN_CLIP, "model.vision_pretrained=random"]
    build(config(*CLIP, *words)).export(module_of(*CLIP, *words), tmp_path / "open")
    locked = [
        "model.vision=null",
        "model.open_clip=null",
        f"model.pretrained={tmp_path}/open",
        "model.centred=false",
        "model.vision_pretrained=random",
    ]
    with pytest.raises(UserError, match="exactly one of"):
        config(*locked)
    locked = [w for w in locked if not w.startswith("model.open_clip")] + [TINY_OPEN_CLIP]
    module = module_of(*locked).train()
    before = module.encoder.model.visual.conv1.weight.clone()
    step(module, batch_of())
    assert torch.equal(before, module.encoder.model.visual.conv1.weight)
    assert not module.encoder.model.visual.training


def test_the_card_s_snippet_and_the_task_classify_pictures(tmp_path, capsys):
    """Five lines from an exported folder, and ``TASK=classify`` on files of one's own."""
    card = (ROOT / "projects/cwcl/README.md").read_text(encoding="utf-8")
    snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    place, picture = "runs/cwcl/mini/<id>/export", tmp_path / "photo.png"
    assert place in snippet
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(picture)
    build(config()).export(module_of().eval(), tmp_path / "export")
    names: dict[str, torch.Tensor] = {}
    exported_by("cwcl", tmp_path / "export")
    exec(snippet.replace(place, str(tmp_path / "export")).replace("photo.png", str(picture)), names)
    assert names["probabilities"].shape == (1, 2)
    assert float(names["probabilities"].sum()) == pytest.approx(1)
    opened = load_locked(tmp_path / "export")
    for encode, inputs in (
        (opened.encode_images, [picture] * 3),
        (opened.encode_texts, ["a", "b c", "d"]),
    ):
        torch.testing.assert_close(encode(inputs, batch_size=2), encode(inputs))
        assert encode([]).shape == (0, encode(inputs).shape[1])
    with pytest.MonkeyPatch.context() as patch:
        seen, whole = [], opened.encoder.encode_text
        patch.setattr(
            opened.encoder, "encode_text", lambda ids: (seen.append(len(ids)), whole(ids))[1]
        )
        opened.encode_texts(["a", "b c", "d"], batch_size=2)
    assert seen == [2, 1]
    cfg = config(
        f"classify.run={tmp_path}/export",
        f"classify.inputs=[{picture}]",
        "classify.texts=[a cat,a dog]",
        f"classify.output={tmp_path}/new/out.jsonl",
    )
    build(cfg).tasks["classify"](Workspace(tmp_path / "w"))
    (row,) = (json.loads(x) for x in (tmp_path / "new/out.jsonl").read_text().splitlines())
    assert row["text"] in ("a cat", "a dog")
    with pytest.raises(UserError, match="TASK=classify needs"):
        build(config()).tasks["classify"](Workspace(tmp_path / "w"))
    cfg.classify.texts, cfg.classify.output = ["a cat", "a cat"], None
    with pytest.raises(UserError, match="names a text twice"):
        build(cfg).tasks["classify"](Workspace(tmp_path / "w"))
    cfg.classify.texts, cfg.classify.inputs = ["a cat"], [str(tmp_path / "new/out.jsonl")]
    with pytest.raises(UserError, match="not a readable picture"):
        build(cfg).tasks["classify"](Workspace(tmp_path / "w"))


def test_items_11_15_16_evaluation_of_photographs(tmp_path, monkeypatch):
    """Checklist 11, 15, 16: zero-shot by names, sweep, retrieval, structure; labels only judge."""
    from projects.cwcl import evaluate

    few = captioned_cifar

    def small(data, part, seed):
        actual = few(data, part, seed)
        rows = slice(0, 200)
        return actual._replace(
            images=actual.images[rows],
            texts=actual.texts[rows],
            labels=actual.labels[rows],
            named=actual.named[rows],
        )

    monkeypatch.setattr(evaluate, "captioned_cifar", small)
    cfg = config("data.num_samples=100", name="mini")
    torch.manual_seed(0)
    metrics = photographs(cfg, ImageTextCWCL(cfg).eval(), Workspace(tmp_path / "run"))
    assert metrics["zeroshot_top1_chance"] == 0.1
    assert metrics["zeroshot_top1_templates_7"] == pytest.approx(metrics["zeroshot_top1"], abs=0.02)
    assert {"structure_spearman", "structure_cka", "retrieval_recall_at_10"} <= metrics.keys()
    assert (tmp_path / "run/items/zeroshot_top1.json").exists()


def test_items_11_and_16_pairs_are_compared_across_the_modalities():
    """Checklist 11, 16: recalls of a known order by hand; structure of the first pairs."""
    images = torch.eye(12)
    texts = images.clone()
    texts[1, :2] = torch.tensor([0.8, 0.6])  # picture 0 is nearest to it, and it to picture 1
    texts[[2, 3]] = images[[3, 2]]
    cfg = config("eval.structure_pairs=6")
    actual = pair_metrics(cfg, images, texts)
    assert actual["image_to_text_recall_at_1"] == pytest.approx(10 / 12)
    assert actual["text_to_image_recall_at_1"] == pytest.approx(9 / 12)
    assert actual["text_to_image_recall_at_5"] == pytest.approx(10 / 12)
    assert actual["retrieval_recall_at_10"] == pytest.approx(10 / 12)
    assert actual["retrieval_recall_at_10_chance"] == pytest.approx(10 / 12)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(8, 5, generator=generator) for _ in range(2))
    actual = pair_metrics(cfg, u, v)
    want = structure_spearman(u[:6], v[:6])
    assert actual["structure_spearman"] == want != pytest.approx(structure_spearman(u, v))
    assert abs(want) < 0.9
    assert actual["structure_cka"] == linear_cka(u[:6], v[:6]) < 0.9


def test_item_15_captions_hold_the_shares_of_class_words_that_the_config_names():
    """Checklist 15: pairs are what training sees; half right, a tenth wrong, the rest neutral."""
    cfg = config(name="mini")
    part = captioned_cifar(cfg.data, "train", 0)
    right = part.named == part.labels
    assert len(part.texts) == 4000
    assert float(right.double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((part.named < 0).double().mean()) == pytest.approx(0.4, abs=0.03)
    for text, named in zip(part.texts[:500], part.named.tolist(), strict=False):
        told = [
            i for i, name in enumerate(part.class_names) if name in text.split(" ") or name in text
        ]
        assert told == ([named] if named >= 0 else []), text
    other = captioned_cifar(cfg.data, "train", 1)
    assert other.texts[:20] != part.texts[:20]


PAPER = {  # pair, weights, tower locked, pairs a step, lr, epochs
    "paper": ("image_text", "cosine", True, 16000, 1e-3, 70),
    "paper_lit": ("image_text", "binary", True, 16000, 1e-3, 70),
    "paper_clip": ("image_text", "binary", False, 16000, 1e-3, 70),
    "paper_speech": ("speech_text", "cosine", True, 800, 5e-5, 20),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_hold_the_recipe_of_the_sheet(name):
    cfg = config(name=name)
    optim, trainer = cfg.optim, cfg.trainer
    pairs = (
        cfg.data.batch_size * trainer.devices * trainer.num_nodes * trainer.accumulate_grad_batches
    )
    actual = (
        cfg.pair,
        cfg.method.weight_mode,
        cfg.model.locked,
        pairs,
        optim.lr,
        trainer.max_epochs,
    )
    assert actual == PAPER[name]
    assert (optim.name, optim.schedule, trainer.precision) == ("adamw", "cosine", "bf16-mixed")
    assert optim.warmup_epochs > 0
    assert cfg.method.reduction_factor == 1  # the sum of both directions
    assert cfg.model.logit_scale_init == pytest.approx(1 / 0.07)
    assert cfg.model.max_logit_scale == 100
    if cfg.pair == "speech_text":
        assert (cfg.speech.sample_rate, cfg.speech_model.encoder) == (16000, "whisper")
        return
    assert (optim.weight_decay, list(optim.betas)) == (0.2, [0.9, 0.98])
    assert (cfg.data.image_size, cfg.data.num_samples) == (224, 27_000_000)
    assert (cfg.eval.templates, cfg.eval.sweep[0], cfg.eval.sweep[-1]) == ("openai", 1, 80)


@pytest.mark.parametrize("installed", [None, "soundfile"])
def test_check_names_the_decoder_of_recordings(installed, monkeypatch):
    """Common Voice's MP3 and SLURP's FLAC need one; the bundled WAV files do not."""
    monkeypatch.setattr("projects.cwcl.spoken_sets.decoder", lambda: installed)
    (needed,) = [n for n in spoken_requirements(config(name="paper_speech")) if n.name == "decoder"]
    assert needed.present == (installed is not None)
    assert "pip install soundfile" in needed.hint
    assert not [n for n in spoken_requirements(config(name="mini_speech")) if n.name == "decoder"]


@pytest.mark.slow
def test_check_builds_the_paper_s_models_and_names_what_is_missing(tmp_path):
    """Item 17: pretrained towers are loaded; the dry run says what is not here."""
    rows = inspect("cwcl", "paper", [f"data.root={tmp_path}"])
    assert rows["negatives per query"] == "15,999"
    for name in ("paper", "paper_clip"):  # one vector an image, as wide as the texts'
        with torch.device("meta"):
            encoder = build_towers(config(name=name), weights=False).eval()
            image = encoder.encode_image(torch.empty(2, 3, 224, 224))
            text = encoder.encode_text(torch.zeros(2, 77, dtype=torch.long))
        assert image.shape == text.shape == (2, 1024)
    assert any("MISSING" in value for value in rows.values())


def test_held_out_pairs_are_looked_for_before_training(tmp_path):
    """A CSV that the evaluation needs is named by the dry run, and before the first step."""
    words = [f"data.root={tmp_path}", "eval.pairs=coco.csv"]
    assert "MISSING" in inspect("cwcl", "smoke", words)["eval: pairs"]
    with pytest.raises(UserError, match="eval: pairs not found"):
        next(build(config(*words)).stages())


def test_item_5_weights_of_timm_see_the_pixels_that_they_learnt_with(monkeypatch):
    """The paper's ViT learnt with mean and deviation 1/2; images come with those of
    `data.normalize`.
    """
    import timm

    from common.data.image.sources import IMAGENET_MEAN, IMAGENET_STD
    from common.encoders.image.towers import ImageTower
    from projects.cwcl import locked_towers as locked

    half, name = ((0.5,) * 3, (0.5,) * 3), "vit_tiny_patch16_224"

    def released(*_, **__):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=0)
        assert (network.pretrained_cfg["mean"], network.pretrained_cfg["std"]) == half
        return ImageTower(network, network.num_features)

    monkeypatch.setattr(locked, "timm_tower", released)
    monkeypatch.setattr(locked, "image_tower", released)
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = released()((pixels - 0.5) / 0.5)
    given = (pixels - mean) / std
    assert not torch.allclose(released()(given), expected, atol=1e-2)
    trunk = {"timm_model_name": name, "timm_pool": "token", "timm_proj": "none", "image_size": 224}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    whole = {"embed_dim": 192, "vision_cfg": trunk, "text_cfg": text}
    for words in (
        ["model.vision=null", f"model.open_clip={json.dumps(whole)}", "model.centred=false"],
        [f"model.vision=timm/{name}"],
    ):
        module = module_of(*words, f"model.vision_pretrained=timm:{name}").eval()
        with torch.no_grad():
            actual = locked.tower_features(module.encoder, given)
        assert torch.allclose(actual, expected, atol=1e-4), words
    with pytest.raises(UserError, match="cannot take up the difference"):
        locked.fold_normalization(
            torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1)),
            "0",
            half,
            (IMAGENET_MEAN, IMAGENET_STD),
        )


@pytest.mark.slow
def test_smoothing_of_the_comparison_matches_the_entropy_of_the_weights():
    """The control arm's share is that of CWCL's targets on the data of `mini`."""
    import yaml

    from projects.cwcl.evaluate import training_weights

    plan = yaml.safe_load((ROOT / "configs/cwcl/compare.yaml").read_text(encoding="utf-8"))
    share = plan["arms"]["smoothing"]["method.smoothing"]
    cfg = config("data.num_samples=500", name="mini")
    torch.manual_seed(0)
    module = ImageTextCWCL(cfg)
    training_data(cfg, module)
    actual = training_weights(cfg, module)
    assert actual["matching_smoothing"] == pytest.approx(share, abs=0.005)
    assert actual["weight_same_class"] > actual["weight_other_class"] + 0.05
    assert actual["mass_same_class"] > actual["mass_same_class_chance"] + 0.01
