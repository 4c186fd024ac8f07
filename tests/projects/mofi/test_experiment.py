"""What the commands do: report, export, resume, tasks, check (checklist items 10 to 12, 14, 15)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from common.config import UserError
from common.data.image.sources import CLIP_MEAN, CLIP_STD
from common.encoders.modes import untrained
from common.engine import checkpoint as ckpt
from common.engine.workspace import Workspace
from projects.mofi import baselines, build
from projects.mofi.baselines import colour_features, pixel_features
from projects.mofi.class_retrieval import class_retrieval
from projects.mofi.evaluate import evaluate, near_copies, pool_retrieval
from projects.mofi.gpr1200 import (
    gpr1200_metrics,
    gpr1200_scores,
    gpr_files,
    read_image,
    released_resize,
)
from projects.mofi.module import MOFI
from projects.mofi.released import evaluate_released, released_model
from projects.mofi.stages import stages
from projects.mofi.tasks import BATCH, Embedder, annotate, nearest_entities, search
from tests.projects.mofi.conftest import config, module_of


def test_item_10_gpr1200_excludes_the_query_and_divides_by_the_relevant():
    """Checklist 10: by hand; a relevant item that ranks last still counts in the divisor."""
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6], [-1.0, 0.0]])
    y = torch.tensor([0, 1, 1, 1, 0])
    actual = class_retrieval(x, y)
    # query 0: only item 4 is relevant and last of four: 1/4; query 4: likewise item 0
    # query 1: ranks of 2 and 3 are 2 and 1; query 2: 1, 3 -> ranks 1, 2; query 3: 0 first? .8 < .96
    by_hand = (1 / 4 + 1 + 1 + (1 / 1 + 2 / 3) / 2 + 1 / 4) / 5
    assert actual["map"] == pytest.approx(by_hand)


def gpr_folder(folder: Path, classes=(3, 250, 10)) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for label in classes:
        colour = rng.integers(0, 255, 3, dtype=np.uint8)
        for i in range(3):
            pixels = np.broadcast_to(colour, (50, 40 + i, 3)).copy()
            Image.fromarray(pixels).save(folder / f"{label}_{i}.png")
    return folder


def test_item_10_gpr1200_of_a_folder(tmp_path):
    """Checklist 10: numerical order of classes, all domains that are there, both resizes."""
    folder = gpr_folder(tmp_path / "gpr")
    _paths, labels = gpr_files(folder)
    assert labels.tolist() == [3] * 3 + [10] * 3 + [250] * 3
    module = module_of().eval()
    with torch.inference_mode():
        actual = gpr1200_metrics(config(), module, folder, Workspace(tmp_path))
    assert actual["gpr1200_map"] == pytest.approx(1)
    assert {"gpr1200_map_landmarks", "gpr1200_map_nature"} <= actual.keys()
    assert "gpr1200_map_faces" not in actual
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    image.save(tmp_path / "x.png")
    plain, released = (
        read_image(config(f"eval.gpr_resize={kind}"), tmp_path / "x.png")
        for kind in ("pil", "tensor")
    )
    assert plain.shape == released.shape == (3, 32, 32)
    assert not torch.allclose(plain, released)  # antialiased or not
    assert released_resize(image, 32).max() <= 1
    (folder / "cat.png").write_bytes(b"")
    with pytest.raises(UserError, match="starts with its class"):
        gpr_files(folder)
    with pytest.raises(UserError, match="cannot read"):
        read_image(config(), folder / "cat.png")


def test_a_part_of_gpr1200_has_the_domains_that_have_queries(tmp_path):
    """A domain of single images is left out; a folder without two images of a class is refused,
    and before training."""
    folder = gpr_folder(tmp_path / "gpr")
    Image.new("RGB", (40, 40)).save(folder / "1100_0.png")

    def encode(paths):
        return torch.nn.functional.one_hot(gpr_files(folder)[1][: len(paths)] % 7, 8).float()

    actual = gpr1200_scores(encode, folder, 99, Workspace(tmp_path))
    assert actual["gpr1200_map_nature"] == 1
    assert "gpr1200_map_faces" not in actual
    named = [f"data.root={tmp_path}", "eval.gpr1200=gpr"]
    next(stages(config(*named)))
    rows = {r.name: r.present for r in build(config(*named)).plan().requirements}
    assert rows["eval: gpr1200"]
    for path in folder.glob("*_[12].png"):
        path.unlink()
    with pytest.raises(UserError, match="no two of one class"):
        next(stages(config(*named)))


def test_released_checkpoints_are_scored_by_their_own_protocol(tmp_path):
    """A folder that transformers opens; pixels of CLIP's statistics, resized as tensors."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2}
    torch.manual_seed(0)
    settings = CLIPConfig(
        text_config={**sizes, "vocab_size": 32},
        vision_config={**sizes, "image_size": 224, "patch_size": 56},
        projection_dim=8,
    )
    model = CLIPModel(settings).eval()
    model.save_pretrained(tmp_path / "mofi-b16-hf")
    folder, seen = gpr_folder(tmp_path / "gpr"), []
    words = [f"data.root={tmp_path}", "eval.gpr1200=gpr", "released.device=cpu"]
    words += ["released.batch_size=4"]

    def scored(encode, *args):
        seen.append(encode)
        return gpr1200_scores(encode, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("projects.mofi.released.gpr1200_scores", scored)
        cfg = config(*words, f"released.model={tmp_path}/mofi-b16-hf")
        metrics = build(cfg).tasks["released"](Workspace(tmp_path))
    assert metrics["gpr1200_map"] == pytest.approx(1)  # images of a class have one colour
    path = tmp_path / "x.png"
    pixels = np.random.default_rng(0).integers(0, 255, (300, 260, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    image = released_resize(Image.open(path), 224)
    mean, std = (torch.tensor(x)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
    with torch.inference_mode():
        states = model.vision_model(pixel_values=((image - mean) / std)[None]).pooler_output
        expected = F.normalize(model.visual_projection(states), dim=1)
    torch.testing.assert_close(seen[0]([path]), expected, atol=1e-5, rtol=1e-4)
    assert not released_model(tmp_path / "mofi-b16-hf").training
    with pytest.raises(UserError, match=r"set released\.model"):
        evaluate_released(config(*words), Workspace(tmp_path))
    with pytest.raises(UserError, match="apple/ml-mofi"):
        evaluate_released(config(*words, f"released.model={folder}"), Workspace(tmp_path))


@pytest.mark.parametrize("recipe", ["supervised", "contrastive", "multitask"])
def test_item_11_recipes_have_the_same_backbone(recipe):
    """Checklist 11: equal towers from equal seeds; only the supervised one rests its text side."""
    first, module = module_of("method.recipe=multitask"), module_of(f"method.recipe={recipe}")
    for (name, one), other in zip(
        first.encoder.state_dict().items(), module.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert (module.classifier is None) == (recipe == "contrastive")


def test_item_12_export_has_no_class_matrix_and_opens_in_open_clip(tmp_path):
    """Checklist 12: both towers with equal embeddings, nothing of the classes."""
    import open_clip
    from safetensors.torch import load_file

    cfg = config()
    experiment, module = build(cfg), module_of().eval()
    module.logit_scale.log_scale.data.fill_(1.5)
    with torch.inference_mode():
        experiment.export(module, tmp_path)
        again = experiment.load_export(tmp_path).eval()
        before, after = experiment.embed(module), experiment.embed(again)
        assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
        pixels = torch.linspace(-2, 2, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)
        assert torch.allclose(model.eval().encode_image(pixels), before["image"], atol=1e-5)
    assert again.classifier is None
    (weights,) = tmp_path.glob("*.safetensors")
    shapes = [tuple(value.shape) for value in load_file(weights).values()]
    assert not any("class" in name for name in load_file(weights))
    assert (12, 32) not in shapes  # 12 classes
    assert float(again.logit_scale()) == pytest.approx(float(module.logit_scale()))


def test_a_run_has_class_vectors_and_one_report(smoke_runs):
    """Checklist 15: retrieval, zero-shot and probe in one report."""
    run = smoke_runs("mofi")
    state = ckpt.load(ckpt.saved_checkpoints(run / "checkpoints/train")[-1])["state_dict"]
    assert {"classifier.matrix.weight", "classifier.matrix.first"} <= state.keys()
    assert state["classifier.matrix.step"] == 6
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert {"map", "zeroshot_top1", "linear_probe_top1"} <= metrics.keys()


@pytest.mark.slow
def test_items_14_15_one_report_of_the_pool(tmp_path, monkeypatch):
    """Checklist 14, 15: retrieval, zero-shot, kNN and probe of one model; galleries; near
    chance."""
    from projects.mofi import evaluate as module_of_evaluation

    monkeypatch.setattr(module_of_evaluation, "JUDGED_PHOTOS", 200)
    monkeypatch.setattr(module_of_evaluation, "PROBED_PHOTOS", 200)
    asked, read = [], module_of_evaluation.load_cifar10
    monkeypatch.setattr(
        module_of_evaluation,
        "load_cifar10",
        lambda root, split, **more: asked.append(split) or read(root, split, **more),
    )
    cfg = config("eval.split=dev", name="mini")
    module = untrained(lambda: MOFI(cfg, None, 20), 0)
    module.quality.copy_(torch.tensor([0.5, 0.7, 0.6, 0.8]))
    metrics = evaluate(cfg, module, Workspace(tmp_path))
    expected = {
        "cifar_map",
        "drawings_map_macro",
        "drawings_map_head",
        "drawings_map_tail",
        "zeroshot_top1",
        "knn20_top1",
        "linear_probe_top1",
        "label_precision_after",
    }
    assert expected <= metrics.keys()
    assert asked == ["train"]  # kNN and probe learn from no photograph of the test
    assert metrics["cifar_map_chance"] == pytest.approx(0.12, abs=0.01)
    assert metrics["zeroshot_top1"] < 0.25
    assert 0.1 < metrics["cifar_map"] < 0.25
    for name in ("cifar_map", "drawings_map_macro", "zeroshot_top1"):
        items = json.loads((tmp_path / f"items/{name}.json").read_text(encoding="utf-8"))
        assert np.mean(items) == pytest.approx(metrics[name])
    for name in ("photographs to photographs", "drawings to drawings"):
        rows = json.loads((tmp_path / f"gallery/{name}/gallery.json").read_text(encoding="utf-8"))
        assert len(rows) == 6
        assert {"item", "score", "correct"} <= rows[0]["results"][0].keys()


def test_item_14_clip_on_alt_texts_is_an_arm_of_the_comparison():
    """Checklist 14, 6: same model, data and steps; the lambda and the three recipes are arms."""
    from common.engine.comparison.spec import read_comparison

    arms = read_comparison("mofi").arms
    free = {
        "method.recipe",
        "method.cls_weight",
        "method.same_entity",
        "data.text",
        "method.margin",
        "method.margin_on",
        "method.sampled",
        "select.enabled",
        "optim.lr",
    }  # each default arm has the best of one search
    assert all(set(words) <= free for words in arms.values())
    assert arms["clip"]["data.text"] == "alt_text"
    assert arms["clip"]["method.same_entity"] == "negative"
    for words in arms.values():
        config(*(f"{k}={str(v).lower()}" for k, v in words.items()), name="mini")


def test_near_copies_and_trivial_features():
    """Brighter copies and titles that differ in the last word are variants of each other."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 200, (3, 3, 36, 36), generator=g, dtype=torch.uint8)
    images[1] = images[0] + 50
    actual = near_copies(images, ["red lark one", "oak", "red lark two"], 0.9)
    assert actual[0] == [True, True, True]
    assert not actual[1][2]
    assert colour_features(images).shape == (3, 64)
    assert colour_features(images).sum(1).tolist() == [36 * 36] * 3
    assert pixel_features(images).shape == (3, 768)
    assert pool_retrieval.__doc__


def test_annotation_by_class_vectors_and_by_texts(exported, tmp_path, capsys):
    """Inference: nearest entities; pictures of one's own by task."""
    scores, places = nearest_entities(torch.tensor([[2.0, 0.1]]), torch.eye(2), 5)
    assert places.tolist() == [[0, 1]]
    assert scores[0, 0] == pytest.approx(0.9988, abs=1e-3)
    folder = gpr_folder(tmp_path / "pictures")
    table = tmp_path / "entities.tsv"
    table.write_text("id\tname\tdescription\tcount\nQ1\tlark\ta bird\t2\nQ2\toak\t\t2\n")
    picture = str(folder / "3_0.png")
    cfg = config(
        f"annotate.run={exported}", f"annotate.entities={table}", f"annotate.inputs=[{picture}]"
    )
    annotate(cfg, Workspace(tmp_path / "a"))
    assert "lark, a bird" in capsys.readouterr().out
    cfg = config(
        f"search.run={exported}",
        f"search.gallery={folder}",
        f"search.inputs=[{picture}]",
        "search.top=3",
    )
    search(cfg, Workspace(tmp_path / "b"))
    assert "3_0.png 1.000" in capsys.readouterr().out
    for task in (annotate, search):
        with pytest.raises(UserError, match="set "):
            task(config(), Workspace(tmp_path))
    with pytest.raises(UserError, match="as an image"):
        Embedder(exported).encode_image([table])
    assert Embedder(exported).classify([picture], ["a", "b"])[0] in ("a", "b")


def test_a_long_table_of_entities_is_embedded_in_batches(exported, monkeypatch):
    """Guards against one forward pass of a whole table, which no memory holds; the order stays."""
    model = Embedder(exported)
    texts = [f"thing {i}" for i in range(BATCH + 3)]
    whole = model.encoder.encode_text(model.encoder.tokenizer(texts)).detach()
    sizes = []

    def encode_text(tokens, own=model.encoder.encode_text):
        sizes.append(len(tokens))
        return own(tokens)

    monkeypatch.setattr(model.encoder, "encode_text", encode_text)
    actual = model.encode_text(texts)
    assert sizes == [BATCH, 3]
    assert torch.allclose(actual, torch.nn.functional.normalize(whole, dim=1), atol=1e-6)


def test_a_gallery_has_all_pictures_and_a_class_all_prompts(exported, tmp_path, monkeypatch):
    """Whatever the case of a suffix, by name; the stated templates and no other."""
    for name in ("B.PNG", "a.jpg", "notes.txt"):
        Image.new("RGB", (40, 40)).save(tmp_path / name, "png")
    seen, asked = [], []

    def encode_image(self, images, *_):
        seen.append([Path(image).name for image in images])
        return torch.eye(2)[: len(images)]

    def encode_text(self, texts):
        asked.extend(texts)
        return torch.eye(2)[: len(texts)]

    monkeypatch.setattr(Embedder, "encode_image", encode_image)
    monkeypatch.setattr(Embedder, "encode_text", encode_text)
    words = [f"search.run={exported}", f"search.gallery={tmp_path}", "search.inputs=[x.png]"]
    search(config(*words), Workspace(tmp_path / "w"))
    assert seen == [["x.png"], ["B.PNG", "a.jpg"]]
    Embedder(exported).classify(["x.png"], ["cat"])
    Embedder(exported).classify(["x.png"], ["cat"], ["one {}", "the {}"])
    assert asked == ["a photo of a cat.", "one cat", "the cat"]


def test_chance_leaves_nothing_of_the_pixels_in_its_report(tmp_path, monkeypatch):
    def pixels(cfg, workspace):
        workspace.items("cifar_map", [0.5])
        return {"cifar_map": 0.5, "cifar_map_chance": 0.2}

    monkeypatch.setattr(baselines, "raw_pixels", pixels)
    actual = baselines.chance(config(name="mini"), Workspace(tmp_path))
    assert actual == {"cifar_map": 0.2, "zeroshot_top1": 0.1}
    assert not (tmp_path / "items").exists()


@pytest.mark.parametrize("recipe", ["supervised", "multitask"])
def test_a_model_without_a_trained_text_tower_does_not_annotate(recipe, tmp_path):
    """Guards against cosines of an untrained text tower, wherever the export lies."""
    cfg = config(f"method.recipe={recipe}")
    experiment, folder = build(cfg), tmp_path / "moved"
    experiment.export(MOFI(cfg), folder)
    words = [f"annotate.run={folder}", "annotate.entities=none.tsv", "annotate.inputs=[a.png]"]
    told = {"supervised": "text tower is untrained", "multitask": r"none\.tsv"}[recipe]
    with pytest.raises(UserError, match=told):
        annotate(config(*words), Workspace(tmp_path / "a"))
    if recipe == "supervised":
        with pytest.raises(UserError, match="text tower is untrained"):
            Embedder(folder).encode_text(["a lark"])


def test_a_table_without_entities_is_named(exported, tmp_path):
    """It was a traceback: there is nothing to encode."""
    table = tmp_path / "entities.tsv"
    table.write_text("id\tname\tdescription\tcount\n")
    words = [f"annotate.run={exported}", f"annotate.entities={table}", "annotate.inputs=[a.png]"]
    with pytest.raises(UserError, match="no entity below it"):
        annotate(config(*words), Workspace(tmp_path / "a"))


def test_pictures_that_are_asked_about_are_read_before_the_gallery(exported, tmp_path, monkeypatch):
    """A wrong name was told when the whole folder had been encoded."""
    folder, seen = gpr_folder(tmp_path / "pictures"), []
    plain = Embedder.encode_image
    monkeypatch.setattr(
        Embedder,
        "encode_image",
        lambda self, images, *more: seen.append(images) or plain(self, images, *more),
    )
    words = [f"search.run={exported}", f"search.gallery={folder}", "search.inputs=[absent.png]"]
    with pytest.raises(UserError, match="absent"):
        search(config(*words), Workspace(tmp_path / "b"))
    assert seen == [["absent.png"]]


@pytest.mark.slow
def test_check_shows_the_memory_of_two_million_classes(tmp_path):
    """Paper configs: every setting builds; class vectors with their moments, whole and shared
    out."""
    from common.engine.check import inspect

    rows = inspect(
        "mofi", "paper", [f"data.root={tmp_path}", "trainer.num_nodes=1", "trainer.devices=1"]
    )
    assert rows["2,000,000 class vectors of 512"] == "11.44 GiB a device"
    assert rows["negatives per query"] == "524,287"
    assert "MISSING" in rows["data: i2e.jsonl"]
    shared = inspect(
        "mofi", "paper_supervised", [f"data.root={tmp_path}", "method.class_moments=row"]
    )
    assert shared["2,000,000 class vectors of 512"] == "0.01 GiB a device"
