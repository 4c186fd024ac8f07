"""What learns and what does not, the hosts, stages, resume, export, tasks on own files."""

import json
import math
import shutil
from functools import partial
from operator import attrgetter

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image

from common.config import UserError, load
from common.data.image.sources import EvalTransform
from common.data.samplers import sample_rng
from common.engine.check import inspect
from common.engine.workspace import Workspace
from projects.rtd import build
from projects.rtd.composer import ClipText, Composer, load_phi, new_phi, prepare_as_trained
from projects.rtd.config import Config
from projects.rtd.data import Inverted, host_images, synthetic_set, text_noise
from projects.rtd.export import embed, export, load_composer, load_export
from projects.rtd.hosts import LinCIR, Pic2Word, Searle, phrase_loss
from projects.rtd.inference import ComposedSearch
from projects.rtd.inversion import build_phi
from projects.rtd.module import RTD
from projects.rtd.oti import Phrases, invert, nearest_concepts
from projects.rtd.pictures import tower_transform
from projects.rtd.pseudo_tokens import placeholder_id
from projects.rtd.stages import composer_of, host_data
from projects.rtd.table import before_after
from projects.rtd.tasks import search, table
from tests.projects.rtd.conftest import batch_of, config, module_of


def steps(module, batch, count=3):
    """SGD steps; returns the state before."""
    before = {k: v.clone() for k, v in module.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    for _ in range(count):
        optimizer.zero_grad()
        module.losses(batch)["loss"].backward()
        optimizer.step()
    return before


def test_item_1_only_the_student_moves_and_all_of_it_does():
    """Checklist 1, 2: CLIP and phi bitwise the same after training, without dropout."""
    module = module_of().train()
    assert not any(part.training for part in module.composer.phi.modules())
    assert not any(part.training for part in module.composer.encoder.modules())
    assert module.composer.student.training
    before = steps(module, batch_of(module))
    for name, value in module.state_dict().items():
        moved = not torch.equal(before[name], value)
        assert moved == name.startswith("composer.student."), name
    group = module.parameter_groups()
    assert [g["weight_decay"] for g in group] == [0.01]
    assert len(group[0]["params"]) == len(list(module.composer.student.parameters()))


def test_item_2_phi_gives_the_same_pseudo_word_twice_during_rtd_but_not_during_its_host():
    """Checklist 2: dropout is off in RTD and on in the host's own stage."""
    cfg = config()
    torch.manual_seed(0)
    composer = composer_of(cfg)
    vectors = torch.randn(4, 32)
    LinCIR(cfg, composer).train()
    assert not torch.equal(composer.pseudo_words(vectors), composer.pseudo_words(vectors))
    RTD(cfg, composer).train()
    assert torch.equal(composer.pseudo_words(vectors), composer.pseudo_words(vectors))


def test_item_3_noise_is_one_uniform_number_times_a_gaussian_vector():
    """Checklist 3: variance 1/3 an entry, one scale a sample, equal for equal keys."""
    rows = np.stack([text_noise(sample_rng(0, 0, i), 128) for i in range(2000)])
    assert rows.var() == pytest.approx(1 / 3, abs=0.03)
    scales = rows.std(axis=1)
    assert scales.min() < 0.1 < 0.9 < scales.max()
    assert np.abs(np.quantile(scales, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.1
    again = text_noise(sample_rng(0, 0, 7), 128)
    assert (again == rows[7]).all()


def test_item_8_at_step_zero_the_student_is_the_anchor():
    """Checklist 8: equal weights to the bit, with and without a pseudo word, so before = after.

    Outputs of two copies are equal but for the rounding of products, which depends on where weights
    lie.
    """
    composer = module_of().composer.eval()
    anchor = ClipText(composer.encoder.model).state_dict()
    student = composer.student.state_dict()
    assert anchor.keys() == student.keys()
    assert all(torch.equal(student[name], anchor[name]) for name in anchor)
    ids = composer.tokens(["a photo of $ that is red", "two birds"])
    pseudo = torch.randn(2, composer.student.width)
    close = partial(torch.allclose, rtol=0, atol=1e-5)
    assert close(composer.query(ids), composer.anchor(ids))
    assert close(composer.query(ids, pseudo), composer.anchor(ids, pseudo))
    images = torch.randn(2, 32)
    texts = ["is red", "costs $5"]
    same = composer.compose(images, texts, anchor=True)
    assert close(composer.compose(images, texts), same)
    assert close(composer.compose(images, ["is red", "costs 5"]), same)  # no second $


def test_item_11_hosts_train_phi_alone_with_either_network(tmp_path):
    """Checklist 11, 14: LinCIR, SEARLE and Pic2Word move phi and nothing else; checkpoints load."""
    for host, kind in (("lincir", LinCIR), ("pic2word", Pic2Word), ("searle", Searle)):
        cfg = config(f"phi.host={host}")
        torch.manual_seed(0)
        composer = composer_of(cfg)
        module = kind(cfg, composer)
        data = host_data(cfg, module)
        data.setup("fit")
        batch = data.train_set[[(i, 0) for i in range(6)]]
        before = steps(module, batch)
        for name, value in module.state_dict().items():
            assert (not torch.equal(before[name], value)) == name.startswith("composer.phi."), name
        path = tmp_path / f"{host}.pt"
        torch.save(
            {
                "Phi": None,
                "state_dict": {f"module.{k}": v for k, v in composer.phi.state_dict().items()},
            },
            path,
        )
        fresh = new_phi(config(f"phi.host={host}", f"phi.weights={path}").phi, composer.encoder, 32)
        for name, value in composer.phi.state_dict().items():
            assert torch.equal(value, fresh.state_dict()[name])
        RTD(cfg, composer).losses(batch_of(module))["loss"].backward()
    with pytest.raises(UserError, match="pic2word"):
        load_phi(fresh, "relu" if False else "gelu", tmp_path / "pic2word.pt")


@pytest.mark.parametrize("kind", ["gelu", "relu"])
def test_released_checkpoints_load_as_they_were_saved(tmp_path, kind):
    """LinCIR and SEARLE save {"Phi": phi}, Pic2Word phi beside the whole of CLIP, both behind
    "module.".
    """
    source, path = build_phi(kind, 8, 16), tmp_path / "released.pt"
    state = source.state_dict()
    if kind == "gelu":
        torch.save({"epoch": 3, "Phi": state}, path)
    else:
        clip = {
            "module.visual.conv1.weight": torch.zeros(2),
            "module.layers.0.weight": torch.ones(3),
        }
        phi = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, "name": "x", "state_dict": clip, "state_dict_img2text": phi}, path)
    fresh = build_phi(kind, 8, 16)
    load_phi(fresh, kind, path)
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in state.items())


def test_item_14_the_losses_of_the_hosts_are_what_their_papers_say():
    """Checklist 14: MSE of LinCIR, InfoNCE at CLIP's scale of Pic2Word, distillation of SEARLE."""
    cfg = config("phi.dropout=0.0")
    torch.manual_seed(0)
    composer = composer_of(cfg)
    batch = host_data(cfg, LinCIR(cfg, composer)).train_set[[(i, 0) for i in range(4)]]
    whole = composer.anchor(batch["caption"])
    hidden = composer.anchor(batch["hidden"], composer.phi(whole + batch["noise"]))
    actual = LinCIR(cfg, composer).losses(batch)["loss"]
    torch.testing.assert_close(actual, (hidden - whole).square().mean())
    pictures = {"images": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    image = F.normalize(composer.encoder.encode_image(pictures["images"]), dim=1)
    raw = composer.encoder.encode_image(pictures["images"])
    text = composer.anchor(composer.tokens(["a photo of $"] * 4), composer.phi(raw))
    scores = math.exp(composer.encoder.log_scale) * image @ F.normalize(text, dim=1).T
    want = (
        F.cross_entropy(scores, torch.arange(4)) + F.cross_entropy(scores.T, torch.arange(4))
    ) / 2
    torch.testing.assert_close(Pic2Word(cfg, composer).losses(pictures)["loss"], want)
    near = torch.tensor([[0], [1], [0], [1]])
    phrases = Phrases(["cat", "dog"], {"cat": ["a cat on a mat"]})
    own = Inverted(raw.detach(), torch.randn(4, 32), near, phrases, composer.tokens, 0)
    drawn = own[[(i, 0) for i in range(4)]]
    terms = Searle(cfg, composer).losses(drawn)
    torch.testing.assert_close(terms["loss"], terms["distil"] + 0.75 * terms["regular"])
    again = composer.anchor(drawn["hidden"], composer.phi(raw))
    torch.testing.assert_close(
        terms["regular"], phrase_loss(composer.anchor(drawn["phrase"]), again)
    )
    place = placeholder_id(composer.encoder.tokenizer)
    assert bool((drawn["hidden"] == place).any(1).all())
    assert not bool((drawn["phrase"] == place).any())


def test_item_14_inversion_brings_the_sentences_near_the_image_and_stays_a_word():
    """Checklist 14: SEARLE's optimised token is nearer to the image than its start."""
    cfg = config("phi.host=searle", "phi.searle.steps=25", "phi.searle.ema_decay=0.5")
    torch.manual_seed(0)
    composer = composer_of(cfg)
    composer.freeze(phi=False, student=False)
    images = torch.randn(3, 32)
    phrases = Phrases(["cat", "dog"])
    near = nearest_concepts(composer, images, phrases, 1)
    ids = composer.tokens(["a photo of $"] * 3)
    tokens = invert(composer, images, near, phrases, cfg.phi.searle, 0)
    one = config("phi.host=searle", "phi.searle.steps=1", "phi.searle.lr=1e-9").phi.searle
    start = invert(composer, images, near, phrases, one, 0)
    gain = [
        F.cosine_similarity(composer.anchor(ids, t), images).mean().item() for t in (start, tokens)
    ]
    assert gain[1] > gain[0] + 0.02


def test_a_run_has_both_stages_and_its_figures(run_folder):
    """Checklist 14, 16: before and after, parameters, steps and seconds of host and RTD."""
    metrics = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["cost_rtd_parameters"] > metrics["cost_host_parameters"] > 0
    assert metrics["cost_rtd_seconds"] > 0
    assert metrics["cost_host_seconds"] > 0
    assert {
        "recall_at_1",
        "before_recall_at_1",
        "reference_first",
        "name_recall_at_10",
    } <= metrics.keys()
    assert "val/recall_at_1" in (run_folder / "metrics.csv").read_text(encoding="utf-8")
    gallery = json.loads((run_folder / "gallery/composed queries/gallery.json").read_text())
    assert gallery[0]["results"][0]["item"]["text"].startswith("a photo of $ that shows")
    cfg = config(f"table.runs=[{run_folder}]")
    text: list[str] = []
    workspace = Workspace(run_folder)
    workspace.say = text.append  # type: ignore[method-assign]
    table(cfg, workspace)
    assert "| lincir | random | recall_at_1 |" in text[0]
    assert "| rtd | 1,595,616 | 4 |" in text[0]
    with pytest.raises(UserError, match="finished run"):
        table(config("table.runs=[nowhere]"), workspace)


@pytest.mark.parametrize(
    ("changed", "host", "rtd"),
    [({"phi": {"weights": "phi.pt"}}, "-", "4"), ({"rtd": {"enabled": False}}, "3", "-")],
)
def test_the_table_shows_no_steps_that_a_run_did_not_take(tmp_path, run_folder, changed, host, rtd):
    """Checklist 16: a host that another run trained, a run of the host alone."""
    content = yaml.safe_load((run_folder / "config.yaml").read_text(encoding="utf-8"))
    assert (content["phi"]["steps"], content["trainer"]["max_steps"]) == (3, 4)
    for part, values in changed.items():
        content[part] |= values
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    shutil.copy(run_folder / "metrics.json", tmp_path)
    text = before_after([tmp_path])
    steps = {
        row.split(" | ")[2]: row.split(" | ")[4]
        for row in text.splitlines()
        if " | host | " in row or " | rtd | " in row
    }
    assert steps == {"host": host, "rtd": rtd}


PAPER = {
    "paper": {
        "rtd.tau": 0.07,
        "rtd.noise_scale": 0.5,
        "rtd.frozen_target": True,
        "rtd.refined_batch": True,
        "rtd.refined_concat": True,
        "rtd.gather_negatives": False,
        "optim.lr": 1e-5,
        "optim.weight_decay": 0.01,
        "optim.schedule": "constant",
        "trainer.max_steps": 2000,
        "trainer.devices": 4,
        "data.batch_size": 128,
        "trainer.val_every_n_steps": 100,
        "seed": 12345,
        "phi.host": "lincir",
        "phi.dropout": 0.5,
        "phi.steps": 20000,
        "phi.noise_scale": 1.0,
        "phi.optim.lr": 1e-4,
        "phi.optim.weight_decay": 0.01,
    },
    "paper_searle": {
        "phi.host": "searle",
        "phi.searle.steps": 350,
        "phi.searle.lr": 0.02,
        "phi.searle.image_weight": 1.0,
        "phi.searle.phrase_weight": 0.5,
        "phi.searle.distil_weight": 1.0,
        "phi.searle.regular_weight": 0.75,
        "phi.searle.temperature": 0.25,
        "phi.searle.concepts": 15,
        "optim.lr": 1e-5,
        "rtd.tau": 0.07,
    },
    "paper_pic2word": {
        "phi.host": "pic2word",
        "phi.hidden_dim": 512,
        "phi.dropout": 0.1,
        "phi.optim.lr": 1e-4,
        "phi.optim.weight_decay": 0.1,
        "phi.optim.warmup_steps": 10000,
        "trainer.max_steps": 2000,
    },
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_hold_the_published_recipe(name):
    """Sheet, training recipe and hosts."""
    cfg = load(Config, "rtd", name)
    assert {key: attrgetter(key)(cfg) for key in PAPER[name]} == PAPER[name]


def test_the_export_opens_in_open_clip_with_equal_texts_and_the_old_images(tmp_path):
    """Checklist 13 and export: text tower replaced, image tower CLIP's own, gallery unchanged."""
    module = module_of()
    cfg, composer = config(), module.composer
    pixels = torch.randn(2, 3, 32, 32)
    gallery = composer.encoder.encode_image(pixels)
    steps(module, batch_of(module))
    assert torch.equal(composer.encoder.encode_image(pixels), gallery)  # item 13
    export(cfg, module, tmp_path)
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=True).eval()
    ids = composer.tokens(["two birds", "a photo of a tree"])
    torch.testing.assert_close(model.encode_text(ids), composer.query(ids), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model.encode_text(ids), composer.anchor(ids), atol=1e-3)
    torch.testing.assert_close(model.encode_image(pixels), gallery, rtol=1e-5, atol=1e-6)
    again = load_export(cfg, tmp_path).composer
    before, after = embed(cfg, module), embed(cfg, load_export(cfg, tmp_path))
    for name in ("image", "text", "composed"):
        torch.testing.assert_close(after[name], before[name])
    images = torch.randn(2, 32)
    torch.testing.assert_close(
        again.compose(images, ["is red", "flies"]), composer.compose(images, ["is red", "flies"])
    )
    (tmp_path / "phi.json").unlink()
    with pytest.raises(UserError, match="make export"):
        load_export(cfg, tmp_path)


def test_a_run_that_is_opened_again_reads_pictures_and_phi_as_it_was_trained(tmp_path):
    """The module that takes a run's weights had CLIP's defaults in place of the config's and the
    tag's.
    """
    trained = composer_of(config("rtd.l2_normalize=true"))
    composer = build(config("rtd.l2_normalize=true")).plan().module().composer
    assert composer.l2_normalize is trained.l2_normalize is True
    encoder, names = trained.encoder, ("image_mean", "image_std", "interpolation", "resize_mode")
    encoder.interpolation, encoder.resize_mode = "bilinear", "squash"
    export(config(), RTD(config(), trained), tmp_path)
    again = load_export(config(), tmp_path).composer
    assert [getattr(again.encoder, n) for n in names] == [getattr(encoder, n) for n in names]
    assert again.l2_normalize
    prepare_as_trained(encoder, "open_clip:ViT-SO400M-14-SigLIP-384/webli")
    own = open_clip.get_pretrained_cfg("ViT-SO400M-14-SigLIP-384", "webli")
    assert [getattr(encoder, n) for n in names] == [own[n.removeprefix("image_")] for n in names]


def test_search_on_own_files(tmp_path):
    """Reference and sentence over a folder; the reference itself is no answer; a PNG is written."""
    module, cfg = module_of(), config()
    export(cfg, module, tmp_path / "export")
    (tmp_path / "pictures").mkdir()
    for name in ("red", "blue", "green"):
        Image.new("RGB", (40, 30), name).save(tmp_path / "pictures" / f"{name}.png")
    words = [
        f"search.run={tmp_path}/export",
        f"search.gallery={tmp_path}/pictures",
        f"search.reference={tmp_path}/pictures/red.png",
        "search.text=is blue",
        f"search.output={tmp_path}/found.png",
    ]
    said: list[str] = []
    workspace = Workspace(tmp_path / "task")
    workspace.say = said.append  # type: ignore[method-assign]
    search(config(*words), workspace)
    assert sorted(line.split()[0] for line in said[:-1]) == ["blue.png", "green.png"]
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.width > picture.height
    with pytest.raises(UserError, match="has no picture"):
        search(config(*words, f"search.gallery={tmp_path}/export"), workspace)
    with pytest.raises(UserError, match=r"search\.run"):
        search(config(), workspace)
    model = ComposedSearch(tmp_path / "export")
    index = model.index([Image.new("RGB", (32, 32), c) for c in ("red", "blue")])
    best = model.search(model.compose(Image.new("RGB", (32, 32), "red"), "is blue"), index, top=5)
    assert sorted(f.place for f in best) == [0, 1]
    assert best[0].score >= best[1].score


def test_what_a_search_cannot_write_is_told_before_it(tmp_path):
    """No kind of picture was a traceback after the search; a picture that is searched was written
    over.
    """
    export(config(), module_of(), tmp_path / "export")
    pictures = [tmp_path / f"p/{name}.png" for name in ("red", "blue")]
    pictures[0].parent.mkdir()
    for path in pictures:
        Image.new("RGB", (40, 30), path.stem).save(path)
    before = pictures[1].read_bytes()
    words = [
        f"search.run={tmp_path}/export",
        f"search.gallery={tmp_path}/p",
        f"search.reference={pictures[0]}",
    ]
    asked, workspace = "search.text=from $5# to $6", Workspace(tmp_path / "w")
    for output, told in (
        ("f.doc", "not a picture: end it in"),
        ("f", "not a picture"),
        ("p/blue.png", "written over"),
    ):
        with pytest.raises(UserError, match=told):
            search(config(*words, asked, f"search.output={tmp_path}/{output}"), workspace)
    assert pictures[1].read_bytes() == before
    search(config(*words, asked), workspace)  # dollars of a text are no formula
    assert (tmp_path / "w/plots/search.png").is_file()
    pictures[1].unlink()
    with pytest.raises(UserError, match="no picture but the reference"):
        search(config(*words, asked), workspace)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rtd.template=a photo"], "one \\$"),
        (["data.source=files"], "data.triplets"),
        (["data.source=files", "data.triplets=x.json"], "data.captions"),
        (["data.source=files", "data.triplets=x.json", "phi.host=searle"], "data.images"),
        (["model.open_clip=null"], "model.pretrained"),
        (["rtd.enabled=false", "phi.weights=x.pt"], "trains nothing"),
        (
            ["data.source=files", "data.triplets=x.json", "phi.weights=x.pt", "eval.validate=true"],
            "eval.cirr",
        ),
    ],
)
def test_contradicting_options_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        config(*words)


def test_wrong_models_and_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="make them equal"):
        composer_of(config("data.image_size=64"))
    cut = config()
    cut.model.open_clip["text_cfg"]["context_length"] = 3
    with pytest.raises(UserError, match="longer context"):
        composer_of(cut)
    (tmp_path / "phi.pt").write_bytes(b"nothing")
    with pytest.raises(UserError):
        composer_of(config(f"phi.weights={tmp_path}/phi.pt"))


def test_check_reports_parameters_and_what_is_missing(tmp_path):
    """`make check` builds the paper's model without weights and names absent files."""
    rows = inspect("rtd", "paper_b32", [f"data.root={tmp_path}"])
    assert "63.43 M trained" in rows["parameters"]
    assert rows["negatives per query"] == f"{4 * 128 - 2:,}"  # of one device: nothing is gathered
    assert any(name == "eval: cirr" and "MISSING" in value for name, value in rows.items())
    assert set(build(config()).tasks) == {"search", "triplets", "phrases", "table"}
    assert isinstance(Composer, type)


@pytest.mark.parametrize("source", ["files", "synthetic"])
def test_images_are_prepared_as_the_export_records(tmp_path, source):
    """Training, evaluation and an exported folder resize alike, whatever the size of the image."""
    noise = np.random.default_rng(0).integers(0, 256, (75, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    words = ["data.source=files", f"data.root={tmp_path}", "data.images=.", "data.triplets=t.jsonl"]
    cfg = config("phi.host=pic2word", *(words if source == "files" else []))
    module = RTD(cfg, composer_of(cfg))
    export(cfg, module, tmp_path / "export")
    recorded = load_composer(tmp_path / "export").encoder
    assert recorded.interpolation == "bicubic"
    prepare = recorded.preprocess()
    images, _ = host_images(cfg, module.composer.encoder)
    (first,), _ = images.load([0], [sample_rng(0, 0, 0)])
    if source == "files":
        picture = Image.open(tmp_path / "a.png")
    else:
        picture = to_pil_image(synthetic_set(cfg).images[0])
    torch.testing.assert_close(first, prepare(picture))
    size = cfg.data.image_size
    bilinear = EvalTransform(size, recorded.image_mean, recorded.image_std).one(picture)
    assert torch.allclose(first, bilinear) == (picture.size == (size, size))
    pixels = torch.from_numpy(noise).permute(2, 0, 1)
    batch = tower_transform(module.composer.encoder).batch(pixels[None])
    torch.testing.assert_close(batch[0], prepare(Image.fromarray(noise)))
