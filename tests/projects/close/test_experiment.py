"""Runs, data, evaluation, export and tasks as the commands drive them."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from common.config import UserError
from common.data.samplers import sample_rng
from common.encoders.image_text.frozen_clip import FrozenClip
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.engine import checkpoint as ckpt
from common.engine.workspace import Workspace
from projects.close import baselines, build, bundled, evaluate, generate, official, tasks
from projects.close.batches import Example
from projects.close.data import image_opener, load_examples
from projects.close.evaluate import named_class, score
from projects.close.folder import load
from projects.close.inference import Captioner
from projects.close.modality_gap import gap_statistics, read_gap_statistics
from projects.close.pairs import own_pairs
from projects.close.prompts import INSTRUCTIONS
from projects.close.stages import make_inputs, rows_of, stages
from projects.close.texts import read_texts
from tests.projects.close.conftest import GPT2, config, module_of

OPENED: list[str] = []
WATCHING = [False]


def _hook(event, args):
    if event == "open" and WATCHING[0]:
        OPENED.append(str(args[0]))


sys.addaudithook(_hook)


def opened_in_training(cfg, count: int = 4) -> list[str]:
    """Names of all files that building a stage and two steps of it open."""
    OPENED.clear()
    WATCHING[0] = True
    try:
        stage = next(stages(cfg))
        rows = stage.data.train_set
        for step in range(2):
            stage.module.losses(rows[[(i, step) for i in range(count)]])["loss"].backward()
    finally:
        WATCHING[0] = False
    return list(OPENED)


def is_image(path: str) -> bool:
    return path.endswith((".jpg", ".png", "images.npz")) or "cifar10" in path


TINY = [
    "model.tokenizer=bundled:dual-encoder",
    "model.config={model_type: t5, d_model: 16, d_kv: 8, d_ff: 16, num_layers: 1, num_heads: 1}",
]


@pytest.mark.parametrize("cache", ["true", "false"])
def test_item_1_training_on_text_opens_no_image(cache, monkeypatch):
    """Checklist 1: no file handle on an image, with cached vectors and without; images are the
    counter-proof.
    """
    pairs = bundled.examples
    monkeypatch.setattr(bundled, "examples", lambda *args: pairs(*args)[::500])
    words = [*TINY, f"model.cache={cache}", "data.batch_size=4"]
    actual = opened_in_training(config("data.source=bundled", *words))
    assert any("train.csv" in path for path in actual)
    assert not [path for path in actual if is_image(path)]
    actual = opened_in_training(config("data.source=bundled", "data.inputs=image", *words))
    assert [path for path in actual if is_image(path)]


def coco(tmp_path: Path) -> Path:
    """Karpathy's file with an image of every split, its pictures, and questions about them."""
    rows = []
    for i, split in enumerate(("train", "restval", "val", "test")):
        name = f"COCO_val2014_{i:012d}.jpg"
        path = tmp_path / "coco/val2014" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 50), (40 * i, 0, 0)).save(path)
        texts = [f"A {split} dog.", f"the {split} Cat", f"A {split} dog."]
        rows.append(
            {
                "split": split,
                "filepath": "val2014",
                "filename": name,
                "cocoid": i,
                "sentences": [{"raw": t} for t in texts],
            }
        )
    (tmp_path / "coco/dataset_coco.json").write_text(json.dumps({"images": rows}))
    return tmp_path


def official_config(root, *overrides):
    return config("data.source=official", f"data.root={root}", *TINY, *overrides)


def test_items_7_and_11_official_captions(tmp_path):
    """Checklist 7 and 11: the input is never among its targets, restval is left out unless it is
    asked for.
    """
    root = coco(tmp_path)
    single = load_examples(official_config(root), "train")
    assert (single[0].texts, single[0].targets) == (("A train dog.",), ("a train dog.",))
    assert all("restval" not in e.texts[0] for e in single)
    both = load_examples(official_config(root, "data.splits=[train,restval]"), "train")
    assert len(both) == 2 * len(single) == 6
    multi = load_examples(official_config(root, "data.task=m_cap"), "train")
    assert [e.targets for e in multi] == [
        ("the train cat",),
        ("a train dog.", "a train dog."),
        ("the train cat",),
    ]
    for example in multi:
        assert example.texts[0].lower() not in example.targets
    test = load_examples(official_config(root), "test")
    assert len(test) == 1
    assert len(test[0].targets) == 3
    for task in ("s_cap", "m_cap"):  # as released: an image once, with all its captions
        images = load_examples(
            official_config(root, f"data.task={task}", "data.inputs=image"), "train"
        )
        assert [e.targets for e in images] == [("a train dog.", "the train cat", "a train dog.")]


def test_items_1_and_12_official_training_opens_images_only_if_it_is_trained_on_them(tmp_path):
    """Checklist 1 and 12 on files of the public layout."""
    words = [
        "data.batch_size=2",
        "model.tokenizer=bundled:dual-encoder",
        "data.splits=[train,restval]",
    ]
    root = coco(tmp_path)
    assert not [p for p in opened_in_training(official_config(root, *words), 2) if is_image(p)]
    assert [
        p
        for p in opened_in_training(official_config(root, *words, "data.inputs=image"), 2)
        if is_image(p)
    ]


def test_item_6_official_questions_and_explanations(tmp_path):
    """Checklist 6: all captions of the image, the question as context, targets by the annotators'
    votes.
    """
    root = coco(tmp_path)
    answers = [{"answer": a} for a in ["Red"] * 6 + ["dark"] * 3 + ["no"]]
    (root / "vqa2").mkdir()
    for year in ("train2014", "val2014"):
        asked = [{"image_id": 1, "question": "what?", "question_id": 7}]
        (root / f"vqa2/v2_OpenEnded_mscoco_{year}_questions.json").write_text(
            json.dumps({"questions": asked})
        )
        given = [{"question_id": 7, "answers": answers}]
        (root / f"vqa2/v2_mscoco_{year}_annotations.json").write_text(
            json.dumps({"annotations": given})
        )
    example = load_examples(official_config(root, "data.task=vqa"), "train")[0]
    assert len(example.texts) == 3
    assert example.context == "what?"
    assert example.targets == ("red", "dark")
    (root / "vqa_e").mkdir()
    row = {
        "img_id": 1,
        "question": "what?",
        "answers": ["Red"] * 10,
        "explanation": ["It is red.", 0.9],
    }
    (root / "vqa_e/VQA-E_val_set.json").write_text(json.dumps([row]))
    example = load_examples(official_config(root, "data.task=evqa"), "test")[0]
    assert (example.texts, example.targets) == (("It is red.",), ("red",))
    assert example.image == "coco/val2014/COCO_val2014_000000000001.jpg"
    (root / "snli_ve").mkdir()
    lines = [
        {"sentence1": "a man", "sentence2": "he sits", "gold_label": g, "Flickr30K_ID": "12"}
        for g in ("neutral", "-")
    ]
    (root / "snli_ve/snli_ve_train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    actual = load_examples(official_config(root, "data.task=ve"), "train")
    assert [(e.texts, e.context, e.targets, e.image) for e in actual] == [
        (("a man",), "he sits", ("neutral",), "flickr30k-images/12.jpg")
    ]


def visual_news(tmp_path: Path) -> Path:
    """Visual News as it is packed: a whole row, one without its picture, one without its
    article."""
    folder = tmp_path / "visual_news/origin"
    rows = [
        {
            "id": i,
            "caption": f"The Mayor {i}",
            "topic": "law_crime",
            "source": "bbc",
            "image_path": f"./bbc/images/0013/60{i}.jpg",
            "article_path": f"./bbc/articles/{i}.txt",
        }
        for i in range(3)
    ]
    for part in ("articles", "images/0013"):
        (folder / "bbc" / part).mkdir(parents=True)
    for i in (0, 1):
        (folder / f"bbc/articles/{i}.txt").write_text("\nFirst line.\nSecond.")
    for i in (0, 2):
        Image.new("RGB", (30, 20)).save(folder / f"bbc/images/0013/60{i}.jpg")
    for part in ("train", "val", "test"):
        (folder / f"{part}_data.json").write_text(json.dumps(rows))
    return tmp_path


def test_news_lie_below_origin_and_rows_without_files_are_counted(tmp_path):
    """Training on text needs no picture; images and the other parts do."""
    root = visual_news(tmp_path)
    news = official_config(root, "data.task=news")
    assert all(need.present for need in official.requirements(news))
    with pytest.warns(UserWarning, match="1 of 3 rows lack their article and"):
        actual = load_examples(news, "train")
    assert [e.targets for e in actual] == [("the mayor 0",), ("the mayor 1",)]
    assert actual[0].context == "First line."
    assert image_opener(news)(actual[0].image).size == (30, 20)
    images = official_config(root, "data.task=news", "data.inputs=image")
    for cfg, part in ((news, "dev"), (news, "test"), (images, "train")):
        with pytest.warns(UserWarning, match="2 of 3 rows lack their article or picture"):
            assert load_examples(cfg, part) == actual[:1]


@pytest.mark.parametrize("task", ["vqa", "evqa"])
def test_the_test_questions_are_no_development_part(task, tmp_path, monkeypatch):
    """Tuning on "dev" read the part that is reported; refused before anything is trained or
    read."""
    monkeypatch.setattr(official, "requirements", lambda data: pytest.fail("read too early"))
    with pytest.raises(UserError, match=r"no development part.*s_cap"):
        load_examples(official_config(tmp_path, f"data.task={task}"), "dev")
    for word in ("eval.split=dev", "trainer.val_every_n_steps=5"):
        cfg = official_config(tmp_path, f"data.task={task}", word)
        with pytest.raises(UserError, match="no development part"):
            next(stages(cfg))
        with pytest.raises(UserError, match="no development part"):
            build(cfg).plan()
    for name in ("s_cap", "m_cap", "ve", "news"):
        official.check_part(name, "dev")


def test_files_that_are_missing_or_of_another_form_are_named(tmp_path):
    with pytest.raises(UserError, match="cs.stanford.edu"):
        load_examples(official_config(tmp_path), "train")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/dataset_coco.json").write_text('{"images": [{}]}')
    with pytest.raises(UserError, match="another form"):
        load_examples(official_config(tmp_path), "train")
    with pytest.raises(UserError, match="belong together"):
        config("data.source=text")
    with pytest.raises(UserError, match=r"method\.statistics"):
        config("method.adapter=linear")
    with pytest.raises(UserError, match="needs weights"):
        next(stages(config("model.clip=random")))


@pytest.mark.parametrize(
    ("task", "inputs"),
    [
        ("s_cap", "text"),
        ("m_cap", "text"),
        ("ve", "text"),
        ("vqa", "text"),
        ("evqa", "image"),
        ("news", "text"),
        ("ve", "image"),
    ],
)
def test_item_18_all_tasks_share_one_module(task, inputs, tmp_path):
    """Checklist 18: text-trained, without noise and image-trained, each to its metrics."""
    expected = {"ve": "accuracy", "vqa": "vqa_score", "evqa": "vqa_score"}.get(task, "cider")
    cfg = config(
        f"data.task={task}",
        f"data.inputs={inputs}",
        "method.noise=0.0",
        "eval.limit=6",
        "eval.num_beams=1",
        *TINY,
    )
    stage = next(stages(cfg))
    loss = stage.module.losses(stage.data.train_set[[(0, 0), (1, 0)]])["loss"]
    loss.backward()
    actual = build(cfg).evaluate(stage.module, Workspace(tmp_path))
    assert 0 <= actual[expected] <= 1000
    assert (tmp_path / f"items/{expected}.json").exists()
    assert (tmp_path / "gallery/texts/gallery.json").exists()


def test_texts_in_evaluation_pass_the_adapter_without_noise(clip, tmp_path, monkeypatch):
    """With eval.inputs=text the shift was left out: the module wrote for vectors it never reads."""
    cfg = config("eval.inputs=text", "eval.limit=4", "method.adapter=random_shift", *TINY)
    module, seen = module_of(cfg, clip), []

    def record(cfg, module, vectors, examples):
        seen.append(vectors)
        return [""] * len(examples)

    monkeypatch.setattr(evaluate, "written", record)
    evaluate.evaluate(cfg, module, Workspace(tmp_path))
    assert module.adapter.training  # as it was before
    examples = evaluate.judged(cfg)
    inputs = make_inputs(cfg, clip, examples, "text")
    rows = rows_of(cfg, module, inputs, examples, training=False)
    with torch.no_grad():
        expected = module.eval().vectors(rows[[(i, 0) for i in range(4)]])
    torch.testing.assert_close(seen, [expected])
    assert not torch.allclose(evaluate.unit_vectors(inputs, examples), expected, atol=0.1)


def test_scores_by_hand():
    """Accuracy of the word, annotators' votes, CIDEr of equal captions, class words and names."""
    ve = config("data.task=ve")
    examples = [Example(("a",), "", (w,), "h") for w in ("neutral", "entailment")]
    assert score(ve, examples, ["neutral", "neutral"]) == {"accuracy": 0.5}
    vqa = config("data.task=vqa")
    asked = [Example(("a",), "", ("2",), "how many?", ("two", "two", "three"))]
    assert score(vqa, asked, ["2"])["vqa_score"] == pytest.approx(2 / 3)
    caps = [Example((t,), "", (t,)) for t in ("a red bus on a road", "two cats on a wall")]
    good = score(config(), caps, [e.texts[0] for e in caps])
    assert good["cider"] == pytest.approx(1000)
    assert good["bleu_4"] == 1.0
    bad = score(config(), caps, [e.texts[0] for e in caps[::-1]])
    assert bad["cider"] < 300
    own = config("data.source=bundled")
    judged = [
        Example(("",), "photo-test/0/1", ("",), label="cat"),
        Example(("",), "clipart/1.jpg", ("",), label="red cat"),
    ]
    assert score(own, judged, ["a cat not a dog", "the cat"]) == {
        "class_word": 1.0,
        "name_f1": pytest.approx(2 / 3),
    }
    assert named_class("no such thing") == ""


# -- runs ----------------------------------------------------------------------------------------


def test_a_run_has_metrics_and_a_gallery(run):
    """The smoke run, evaluated."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert {"cider", "bleu_4", "rouge_l", "meteor"} <= metrics.keys()
    assert list(run.glob("**/gallery.json"))


@pytest.mark.parametrize(
    "overrides",
    [["method.adapter=covariance", "method.statistics=pairs"], ["model.num_constants=1", GPT2]],
)
def test_an_export_reloads_with_equal_outputs(overrides, clip, tmp_path):
    """Logits and decoded texts of the folder equal those of the module; its tensors are
    safetensors.
    """
    cfg = config(*overrides)
    module = module_of(cfg, clip).eval()
    experiment = build(cfg)
    experiment.export(module, tmp_path)
    again = load(config(), tmp_path)
    assert torch.equal(experiment.embed(module)["logits"], experiment.embed(again)["logits"])
    assert again.adapter.kind == module.adapter.kind
    picture = Image.new("RGB", (40, 70), (200, 10, 10))
    vectors = torch.nn.functional.normalize(clip.encode_images([picture]), dim=1)
    model = Captioner(tmp_path)
    assert model([picture]) == module.write(vectors)
    assert model([picture], "a question") == module.write(
        vectors, *model.words.batch(["a question"])
    )
    assert len(model.from_texts(["a red ball", "a box"])) == 2
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".ckpt")]
    with pytest.raises(UserError, match="not an exported CLOSE model"):
        Captioner(tmp_path / "absent")


def test_task_caption_writes_for_a_user_s_picture(run, tmp_path):
    """`make run TASK=caption` on files and sentences; the report's gallery holds the pictures."""
    Image.new("RGB", (90, 60), (10, 200, 10)).save(tmp_path / "mine.png")
    exported = tmp_path / "export"
    module = load_run(run)
    build(config()).export(module, exported)
    cfg = config(
        f"caption.run={exported}",
        f"caption.inputs=[{tmp_path}/mine.png]",
        "caption.texts=[a red ball]",
    )
    actual = tasks.caption(cfg, Workspace(tmp_path / "work"))
    assert len(actual) == 2
    assert "mine.png" in (tmp_path / "work/notes.txt").read_text()
    assert (tmp_path / "work/gallery/texts/gallery.json").exists()
    with pytest.raises(UserError, match=r"caption\.run"):
        tasks.caption(config(), Workspace(tmp_path))
    (tmp_path / "no.png").write_text("text")
    with pytest.raises(UserError, match="as an image"):
        tasks.caption(
            replace(cfg, caption=replace(cfg.caption, inputs=[str(tmp_path / "no.png")])),
            Workspace(tmp_path),
        )


def test_task_caption_holds_few_pictures_at_a_time(tmp_path, monkeypatch):
    """All pictures of a call were open at once, and written for in one batch."""

    class Counting:
        def __init__(self, folder):
            self.sizes = []
            models.append(self)

        def __call__(self, images, context):
            self.sizes.append(len(images))
            return [Path(name).stem for name in images]

        def from_texts(self, texts, context):
            return [str(text) for text in texts]

    models: list[Counting] = []
    for i in range(5):
        Image.new("RGB", (900, 60)).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(tasks, "AT_ONCE", 2)
    monkeypatch.setattr(tasks, "Captioner", Counting)
    names = ",".join(str(tmp_path / f"{i}.png") for i in range(5))
    cfg = config("caption.run=x", f"caption.inputs=[{names}]", "caption.texts=[a,b,c]")
    assert tasks.caption(cfg, Workspace(tmp_path / "work")) == [*"01234", *"abc"]
    assert models[0].sizes == [2, 2, 1]
    assert Image.open(tmp_path / "work/gallery/texts/0-query.png").width == tasks.SHOWN


def load_run(run):
    stage = next(stages(config()))
    state = ckpt.load(run / "checkpoints/train/step-00000006.ckpt")["state_dict"]
    stage.module.load_state_dict(state)
    return stage.module.eval()


def test_item_17_gap_report_and_sensitivity_curve(run, tmp_path):
    """Checklist 17: cosines, norm of the mean offset, and the metric over noise and offset."""
    exported = tmp_path / "export"
    build(config()).export(load_run(run), exported)
    words = ["eval.items=8", "eval.num_beams=1", "eval.noises=[0.0,0.2]", "eval.offsets=[0.0,1.0]"]
    actual = tasks.gap(config(*words, f"caption.run={exported}"), Workspace(tmp_path))
    assert set(actual) == {
        "paired",
        "unpaired",
        "text_text",
        "image_image",
        "offset",
        "noise_0",
        "noise_0.2",
        "offset_0",
        "offset_1",
    }
    assert actual["noise_0"] == actual["offset_0"]
    assert (tmp_path / "plots/sensitivity.png").exists()
    assert json.loads((tmp_path / "gap.json").read_text()) == actual


def test_gap_refuses_a_model_of_another_dual_encoder_and_a_single_pair(tmp_path):
    """Vectors of the config's dual encoder were given to a model of another one."""
    (tmp_path / "close.json").write_text('{"clip": "other", "dim": 512}')
    with pytest.raises(UserError, match=r"set model\.clip=other"):
        tasks.gap(config(f"caption.run={tmp_path}"), Workspace(tmp_path / "w"))
    with pytest.raises(UserError, match="two or more pairs"):
        tasks.gap(config("eval.limit=1"), Workspace(tmp_path / "w"))


def test_statistics_are_written_and_read(clip, tmp_path):
    """TASK=statistics -> method.statistics=<file>."""
    path = tasks.write_statistics(config(), Workspace(tmp_path))
    actual = [
        module_of(
            config("method.adapter=linear", f"method.statistics={where}"), clip
        ).adapter.weight
        for where in ("pairs", path)
    ]
    assert torch.equal(*actual)


def test_statistics_of_a_csv_of_own_pairs(tmp_path):
    """Adapters from other pairs than COCO's: a CSV; unquoted commas and unreadable pictures are
    refused.
    """
    colours = ["red", "blue", "green"]
    for colour in colours:
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{colour}.png")
    table = tmp_path / "pairs.csv"
    # as spreadsheets write it, with a byte order mark
    table.write_text("".join(f'{c}.png,"something, {c}"\n' for c in colours), "utf-8-sig")
    cfg = config("data.source=text", f"data.text_file={table}")
    path = tasks.write_statistics(cfg, Workspace(tmp_path / "w"))
    assert "3 pairs of" in (tmp_path / "w/notes.txt").read_text()
    clip = FrozenClip(cfg.model.clip, half=cfg.model.half)
    images = clip.encode_images([Image.new("RGB", (32, 32), c) for c in colours])
    expected = gap_statistics(clip.encode_texts([f"something, {c}" for c in colours]), images)
    assert torch.allclose(read_gap_statistics(path).shift, expected.shift, atol=1e-6)
    table.write_text("red.png,red\n")
    with pytest.raises(UserError, match="two or more"):
        tasks.write_statistics(cfg, Workspace(tmp_path / "w"))
    table.write_bytes(b"red.png,caf\xe9\n")
    with pytest.raises(UserError, match="byte 0xe9 is not UTF-8"):
        tasks.write_statistics(cfg, Workspace(tmp_path / "w"))
    table.write_text("red.png,something, red\n")
    with pytest.raises(UserError, match='line 1: 3 cells.*"quotes"'):
        own_pairs(table)
    table.write_text("none.png,nothing\n" * 2)
    with pytest.raises(UserError, match=r"none\.png"):
        tasks.write_statistics(cfg, Workspace(tmp_path / "w"))


def test_statistics_turn_photographs_as_their_camera_says(tmp_path):
    """They were of pictures lying on their side, which TASK=caption turns upright."""
    lying = Image.linear_gradient("L").convert("RGB").resize((64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    lying.save(tmp_path / "camera.png", exif=exif)
    lying.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    shifts = []
    for name in ("camera", "upright"):
        (tmp_path / "pairs.csv").write_text(f"{name}.png,a gradient\nred.png,red\n")
        cfg = config("data.source=text", f"data.text_file={tmp_path}/pairs.csv")
        path = tasks.write_statistics(cfg, Workspace(tmp_path / name))
        shifts.append(read_gap_statistics(path).shift)
    torch.testing.assert_close(*shifts)


# -- text as the only training data --------------------------------------------------------------


def test_item_16_a_plain_text_file_is_a_training_set(tmp_path):
    """Checklist 16: one switch; length filter, names replaced, no image and no other caption."""
    path = tmp_path / "book.txt"
    path.write_text(
        "It was Anna who walked by the sea\nShort\n"
        + "\n".join(f"the ship number {i} went home" for i in range(9))
    )
    cfg = config(
        "data.source=text",
        f"data.root={tmp_path}",
        "data.text_file=book.txt",
        "data.replace={Anna: somebody}",
        "data.batch_size=4",
    )
    with pytest.warns(UserWarning, match="lines have fewer than 3 or more than 30 words") as said:
        examples = load_examples(cfg, "train")
    assert len(examples) == 10
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert f"{len(lines) - 10} of {len(lines)} lines" in str(said[0].message)
    assert examples[0] == Example(
        ("It was somebody who walked by the sea",), "", ("it was somebody who walked by the sea",)
    )
    actual = opened_in_training(cfg)
    assert not [p for p in actual if is_image(p) or "drawings" in p]
    with pytest.raises(UserError, match="no line of 30 to 40 words"):
        read_texts(path, 30, 40, {})


def tiny_lm(tmp_path) -> str:
    """Folder of a random causal model."""
    torch.manual_seed(1)
    tokenizer = tiny_tokenizer(400)
    tokenizer.eos_token = "[SEP]"
    settings = AutoConfig.for_model(
        "gpt2",
        vocab_size=400,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=256,
        initializer_range=0.4,
    )
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return str(tmp_path / "lm")


def test_item_15_a_language_model_writes_a_training_set(tmp_path):
    """Checklist 15: any causal model; what is written is what `data.source=text` reads, and can be
    continued.
    """
    own = [
        "generate.count=6",
        "generate.num_demonstrations=2",
        "generate.max_new_tokens=8",
        "generate.best_of=2",
    ]
    cfg = config(f"generate.model={tiny_lm(tmp_path)}", *own)
    path = generate.write_texts(cfg, Workspace(tmp_path / "work"))
    assert path is not None
    texts = json.loads(path.read_text())
    assert 0 < len(texts) <= 6
    assert all(t and t == t.strip() and "\n" not in t for t in texts)
    again = generate.write_texts(cfg, Workspace(tmp_path / "work"))
    assert json.loads(again.read_text()) == texts
    assert read_texts(path, 1, 99, {})
    with pytest.raises(UserError, match=r"generate\.model"):
        generate.write_texts(config(), Workspace(tmp_path))


def test_item_15_demonstrations_are_left_out_whole_and_counted(tmp_path, monkeypatch):
    """Guards against a prompt that is cut on its left: the instruction stays, what is left out is
    said.
    """
    from common.decoding.language_model import LanguageModel

    seen = []

    def continuations(self, prompts, *args, own=LanguageModel.continuations, **options):
        seen.extend(prompts)
        return own(self, prompts, *args, **options)

    monkeypatch.setattr(LanguageModel, "continuations", continuations)
    model = f"generate.model={tiny_lm(tmp_path)}"
    own = [
        "generate.count=2",
        "generate.num_demonstrations=50",
        "generate.max_new_tokens=8",
        "generate.best_of=1",
    ]
    generate.write_texts(config(model, *own), Workspace(tmp_path / "work"))
    told = (tmp_path / "work/notes.txt").read_text()
    assert "instead of generate.num_demonstrations=50: there are 20" in told
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    for prompt in seen:
        assert prompt.startswith(INSTRUCTIONS["captions"] + "\n\n")
        assert 0 < prompt.count(":\n") - 1 < 20
        assert len(tokenizer(prompt)["input_ids"]) + 8 <= 256
    long = ["generate.count=1", "generate.max_new_tokens=8", f"generate.instruction={'x ' * 300}"]
    with pytest.raises(UserError, match="even without demonstrations"):
        generate.write_texts(config(model, *long), Workspace(tmp_path / "other"))


def test_item_15_an_output_of_somebody_else_is_not_replaced(tmp_path):
    """An absolute generate.output that is there stays as it is."""
    (tmp_path / "mine.json").write_text("mine")
    cfg = config("generate.model=bundled:causal-lm", f"generate.output={tmp_path}/mine.json")
    with pytest.raises(UserError, match="exists already"):
        generate.write_texts(cfg, Workspace(tmp_path / "work"))
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_item_15_prompts_of_all_kinds(tmp_path):
    """Checklist 15: demonstrations before the new keywords; rewriting keeps no copy; characters by
    name.
    """
    rows = generate.prompts(config("generate.count=3", "generate.num_demonstrations=4").generate, 0)
    assert len({row["prompt"] for row in rows}) == 3
    assert all(row["prompt"].endswith(":\n") and row["prompt"].count(":\n") == 5 for row in rows)
    (tmp_path / "caps.txt").write_text("A man runs.\nA dog sits.\n")
    ego = [f"generate.sources={tmp_path}/caps.txt", "generate.count=2"]
    rows = generate.prompts(config("generate.kind=egocentric", *ego).generate, 0)
    assert [row["copy"] for row in rows] == ["A man runs.", "A dog sits."]
    assert rows[0]["prompt"].count("->") == 9
    named = config("generate.kind=character", "generate.characters=[Ada]", *ego).generate
    assert "about Ada" in generate.prompts(named, 0)[0]["prompt"]
    with pytest.raises(UserError, match=r"generate\.characters"):
        generate.prompts(config("generate.kind=character", *ego).generate, 0)
    with pytest.raises(UserError, match=r"generate\.sources"):
        generate.prompts(config("generate.kind=egocentric").generate, 0)


def test_item_15_keywords_follow_the_frequencies_or_do_not(tmp_path):
    """Checklist 15: uniform draws against unigram frequencies."""
    counts = Counter({"dog": 98, "cat": 1, "elk": 1})
    share = {}
    for draw in ("uniform", "unigram"):
        words = [generate.draw_keywords(counts, draw, sample_rng(0, 0, i)) for i in range(200)]
        assert all(len(set(pair)) == 2 for pair in words)
        share[draw] = sum(pair[0] == "dog" for pair in words) / 200
    assert share["uniform"] < 0.5 < 0.9 < share["unigram"]
    (tmp_path / "k.txt").write_text("a dog\na cat\n")
    assert generate.keyword_counts(str(tmp_path / "k.txt")) == {"a": 2, "dog": 1, "cat": 1}


def test_item_15_frequent_n_grams_are_thinned_out():
    """Checklist 15: a 4-gram that 400 texts share drops half of them; rare ones stay."""
    same = [f"a b c d {i}" for i in range(400)]
    kept = generate.ngram_filter([*same, "one two three four five"], sample_rng(0, 0, 0))
    assert "one two three four five" in kept
    assert 150 < len(kept) < 250


# -- the contract --------------------------------------------------------------------------------


def test_paper_configs_can_be_checked_without_their_weights():
    """Sizes on the meta device, and what is missing."""
    for name in ("paper", "paper_news"):
        cfg = config(name=name)
        with torch.device("meta"):
            module = build(cfg).plan().module()
        assert 2.2e8 < sum(p.numel() for p in module.parameters()) < 2.3e8


@pytest.mark.slow
def test_baselines_run_on_held_out_pictures(monkeypatch, tmp_path):
    """Chance, retrieval, zero-shot and untrained, on the same pictures."""
    pairs = bundled.examples
    monkeypatch.setattr(
        bundled,
        "examples",
        lambda data, part, seed: pairs(data, part, seed)[:: 120 if part == "test" else 60],
    )
    cfg = config("data.source=bundled", "eval.num_beams=1", *TINY)
    actual = {
        name: getattr(baselines, name)(cfg, Workspace(tmp_path / name))
        for name in (
            "random_caption",
            "majority",
            "nearest_caption",
            "nearest_caption_centred",
            "zero_shot",
            "untrained",
        )
    }
    assert all(set(m) == {"class_word", "name_f1"} for m in actual.values())
    assert actual["zero_shot"]["class_word"] > 0.3
    assert actual["nearest_caption"]["class_word"] > actual["majority"]["class_word"]
    with pytest.raises(UserError, match=r"data\.source=bundled"):
        baselines.majority(config(), Workspace(tmp_path))


def test_bundled_parts_are_disjoint():
    """Photographs of train, dev and pairs; captions name the class of their picture."""
    data = config("data.source=bundled").data
    parts = {p: bundled.examples(data, p, 3) for p in ("train", "dev", "pairs", "test")}
    images = {p: {e.image for e in own} for p, own in parts.items()}
    assert not images["train"] & images["dev"]
    assert not images["train"] & images["pairs"]
    assert not images["test"] & (images["train"] | images["dev"] | images["pairs"])
    photos = [e for e in parts["train"] if bundled.is_photo(e)]
    assert len(photos) == 6000
    assert all(named_class(e.texts[0]) == e.label for e in photos[::50])
    picture = bundled.Pictures(None)
    assert picture("photo-test/3/7").size == (32, 32)
    assert picture("clipart/5.jpg").size == (64, 64)


def test_multi_caption_leaves_out_images_with_one_caption():
    assert official.multi_caption(["a", "A"], "x") == []


def test_an_own_validation_set_is_of_the_training_kind():
    """With validation steps no image is read in text mode either."""
    cfg = config("trainer.val_every_n_steps=3")
    stage = next(stages(cfg))
    batch = stage.data.val_sets["dev"].collate([0, 1])
    assert batch["is_text"]
    rows = rows_of(
        cfg,
        stage.module,
        stage.data.train_set.inputs,
        stage.data.train_set.examples,
        training=False,
    )
    assert rows.num_draws == 0
