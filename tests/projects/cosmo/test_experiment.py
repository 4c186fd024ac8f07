"""Runs, evaluation, export, tasks and reports as the commands drive them."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from common.config import UserError
from common.engine.workspace import Workspace
from projects.cosmo import baselines, build, few_shot, tasks
from projects.cosmo.batches import Words
from projects.cosmo.evaluate import (
    Judged,
    judged,
    likelihood_metrics,
    name_losses,
    reciprocal_ranks,
)
from projects.cosmo.few_shot import Item, Prompt
from projects.cosmo.folder import export, load
from projects.cosmo.inference import Cosmo
from projects.cosmo.sources import COLOURS, draw, drawings, requirements
from projects.cosmo.stages import stages
from projects.cosmo.start import begin_with, start_requirement
from projects.cosmo.table import evaluate_sets, markdown, read_items
from tests import cards
from tests.projects.cosmo.conftest import config


@pytest.fixture(scope="module")
def stage():
    """The stage of a smoke config, untrained."""
    torch.manual_seed(0)
    return next(stages(config()))


@pytest.fixture(scope="module")
def folder(stage, tmp_path_factory):
    """An exported folder."""
    place = tmp_path_factory.mktemp("export")
    for block in stage.module.network.language.blocks:
        block.attn_gate.data.fill_(0.3)
    export(config(), stage.module, place)
    cards.exported_by("cosmo", place)
    return place


@pytest.fixture(scope="module")
def model(folder):
    """The exported model in use."""
    return Cosmo(folder)


def test_texts_without_a_picture_are_refused(model):
    with pytest.raises(UserError, match="give one a <visual>"):
        model.write([Prompt("so it is", ())])


def test_smoke_run_leaves_metrics_and_a_gallery(run):
    """Three kinds in turn, both losses logged, pictures with their texts for the report."""
    metrics = json.loads((run / "metrics.json").read_text())
    assert {
        "mrr",
        "token_loss",
        "shuffled_loss",
        "head_mrr",
        "name_f1",
        "gate_attention",
        "learnable_share",
    } <= set(metrics)
    assert metrics["mrr_chance"] == pytest.approx(sum(1 / k for k in range(1, 13)) / 12)
    logged = (run / "metrics.csv").read_text()
    assert "train/contrastive" in logged
    assert "train/lm" in logged
    rows = json.loads((run / "gallery/captions/gallery.json").read_text())
    assert len(rows) == 4
    assert all((run / "gallery/captions" / row["query"]["image"]).is_file() for row in rows)
    assert len(json.loads((run / "items/mrr.json").read_text())) == 12
    # of all parameters with both towers, as in the report of parameters
    assert metrics["learnable_share"] == pytest.approx(
        tasks.count_parameters(config(), "smoke").share
    )


def test_batches_are_functions_of_the_seed(stage):
    """Two streams from one seed are equal; one that begins later reads the rest."""
    stream = stage.data.train_set
    first = list(itertools.islice(stream, 5))
    assert [b["kind"] for b in first] == [
        "image_text",
        "interleaved_image",
        "video_text",
        "image_text",
        "interleaved_image",
    ]
    assert [len(b["ids"]) for b in first] == [8, 4, 4, 8, 4]
    assert first[2]["pixels"].shape[1:3] == (1, 2)
    assert first[1]["pixels"].shape[1:3] == (3, 1)
    stream.start_at(3)
    again = next(iter(stream))
    stream.start_at(0)
    assert torch.equal(again["pixels"], first[3]["pixels"])
    assert torch.equal(again["input_ids"], first[3]["input_ids"])


def test_export_reloads_with_equal_outputs(stage, folder):
    """safetensors by our loader: logits and both vectors; the towers are named, not copied."""
    experiment = build(config())
    before, after = experiment.embed(stage.module), experiment.embed(load(config(), folder))
    assert set(before) == {"logits", "visual", "text"}
    assert all(torch.equal(before[k], after[k]) for k in before)
    size = (folder / "cosmo.safetensors").stat().st_size
    assert size < 4 * sum(p.numel() for p in stage.module.network.parameters()) + 10_000
    with pytest.raises(UserError, match="not an exported COSMO model"):
        Cosmo(folder.parent)


def test_instruction_tuning_begins_with_an_exported_model(stage, folder):
    """Every trained tensor and the rows of new tokens are taken over, all rows are trained from
    there.
    """
    torch.manual_seed(7)  # new tokens are drawn: others than in the export
    words = ["data.kinds=[instruction]", f"model.init_from={folder}", "model.trained_rows=all"]
    second = next(stages(config(*words))).module.network
    first = stage.module.network
    for name, value in first.state_dict().items():
        if name != "language.rows":
            assert torch.equal(value, second.state_dict()[name]), name
    new = first.language.rows
    assert 0 < len(new) < len(second.language.rows)
    assert torch.equal(second.language.rows[-len(new) :], new)
    assert torch.equal(
        second.language.model.get_input_embeddings().weight,
        first.language.model.get_input_embeddings().weight,
    )
    assert second.language.rows.requires_grad
    with pytest.raises(UserError, match=r"model\.immediate, data\.normalise: set the same here"):
        next(stages(config(*words, "model.immediate=false", "data.normalise=tower")))
    with pytest.raises(UserError, match="not an exported COSMO model"):
        next(stages(config(f"model.init_from={folder.parent}")))
    with pytest.raises(UserError, match="not a checkpoint of this CosmoNetwork"):
        next(stages(config(*words, "method.contrastive_weight=0")))


def test_a_second_stage_needs_a_first_one(stage, folder, tmp_path):
    """The paper's second stage is refused without a pre-trained model, and `make check` says so."""
    cfg = config(name="paper_instruction")
    with pytest.raises(UserError, match=r"instruction tuning continues .* set model\.init_from"):
        begin_with(cfg, stage.module)
    assert [r.present for r in start_requirement(cfg)] == [False]
    there = config(f"model.init_from={folder}", name="paper_instruction")
    assert [r.present for r in start_requirement(there)] == [True]
    assert start_requirement(config()) == ()
    # a model whose rows were all trained has more of them than is kept where none are
    settings = json.loads((folder / "cosmo.json").read_text())
    settings["model"]["trained_rows"] = "all"
    (tmp_path / "cosmo.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"model\.trained_rows: set the same here"):
        begin_with(config(f"model.init_from={tmp_path}"), stage.module)


def test_item_14_embeddings_are_visual_then_text(model):
    """Checklist 14: by name and by place, for any selection, the same in any batch, of unit
    length."""
    pictures = [draw("red", "ball"), draw("blue", "bar")]
    both = model.embed(pictures, ["a red ball", "a rather long text about a bar"])
    visual, text = both
    assert visual is both.visual
    assert text is both.text
    assert model.embed(texts=["a red ball"]).visual is None
    torch.testing.assert_close(
        model.embed(texts=["a red ball"]).text, text[:1], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(model.embed(pictures[1:]).visual, visual[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(visual.norm(dim=1), torch.ones(2))
    assert not torch.allclose(visual[0], text[0], atol=1e-2)


def test_captions_of_own_pictures(folder, model, tmp_path, monkeypatch):
    """TASK=caption: own files, with demonstrations and with a question; a gallery; bad files are
    named.
    """
    draw("red", "ball").save(tmp_path / "a.png")
    words = [f"caption.run={folder}", f"caption.inputs=[{tmp_path}/a.png]"]
    texts = tasks.caption(config(*words), Workspace(tmp_path / "w"))
    assert len(texts) == 1
    assert (tmp_path / "w/gallery/captions/0-query.png").is_file()
    draw("red", "ball").resize((900, 300)).save(tmp_path / "wide.png")
    assert tasks._small(str(tmp_path / "wide.png")).width == tasks.SHOWN  # all are held at once
    monkeypatch.setattr(tasks, "Cosmo", lambda run: model)
    shown = f"caption.demonstrations=['{tmp_path}/a.png=a red ball']"
    assert len(tasks.caption(config(*words, shown), Workspace(tmp_path / "v"))) == 1
    assert (
        len(
            tasks.caption(config(*words, "caption.question=what is it?"), Workspace(tmp_path / "u"))
        )
        == 1
    )
    with pytest.raises(UserError, match=r"caption\.run"):
        tasks.caption(config(), Workspace(tmp_path))
    with pytest.raises(UserError, match="there is no picture"):
        tasks.caption(
            config(f"caption.run={folder}", "caption.inputs=[no.png]"), Workspace(tmp_path)
        )


def test_beams_and_lengths_reach_generation(model, tmp_path, monkeypatch):
    """Spec, evaluation: beam 5, length penalty -2, 20 tokens of a caption, 5 of an answer, also
    after demonstrations.
    """
    asked = []

    def generate(ids, mask, media, **options):
        asked.append(options)
        return ids[:, :1]

    network = model.module.network
    monkeypatch.setattr(network.language, "generate", generate)
    paper = config(name="paper").eval
    monkeypatch.setattr(model.module.cfg, "eval", paper)
    picture = str(tmp_path / "a.png")
    draw("red", "ball").save(picture)
    monkeypatch.setattr(tasks, "Cosmo", lambda run: model)
    words = ["caption.run=x", f"caption.inputs=[{picture}]"]
    shown = f"caption.demonstrations=['{picture}=red']"
    question = "caption.question=which?"
    for own in ([], [question], [shown], [shown, question]):
        tasks.caption(config(*words, *own), Workspace(tmp_path / "w"))
    assert [a["max_new_tokens"] for a in asked] == [20, 5, 20, 5]
    assert {(a["num_beams"], a["length_penalty"]) for a in asked} == {(5, -2.0)}
    monkeypatch.setattr(model.module.cfg, "eval", dataclasses.replace(paper, num_beams=1))
    model([draw("red", "ball")])
    assert "length_penalty" not in asked[-1]  # of beams alone


# -- few shots -----------------------------------------------------------------------------------


def test_item_17_prompts_of_the_release():
    """Checklist 17: both forms, without a picture for 0 shots, and demonstrations that depend on
    the query alone.
    """
    items = [Item(i, (f"t{i}",), f"q{i}") for i in range(40)]
    one = few_shot.few_shot_prompt("vqa", items[:2], items[5], 2)
    assert (
        one.text == "<visual>Question:q0 Short answer:t0<|endofchunk|><visual>Question:q1 Short"
        " answer:t1<|endofchunk|><visual>Question:q5 Short answer:"
    )
    assert one.pictures == (0, 1, 5)
    none = few_shot.few_shot_prompt("caption", items[:2], items[5], 0)
    assert none.text == "Output:t0<|endofchunk|>Output:t1<|endofchunk|><visual>Output:"
    assert none.pictures == (5,)
    for shots in (0, 4, 32):
        drawn = few_shot.draw_demonstrations(items, shots, 3, 42)
        assert len(set(drawn)) == len(drawn) == (shots or 2)
        assert drawn == few_shot.draw_demonstrations(items, shots, 3, 42)
        assert drawn != few_shot.draw_demonstrations(items, shots, 4, 42)
    with pytest.raises(UserError, match="2 training examples for 4"):
        few_shot.draw_demonstrations(items[:2], 4, 0, 42)


def test_item_17_shots_are_scored():
    """Checklist 17: every number of shots; a copying writer is right where the answer is shown."""
    items = [Item(i, ("red",) * 4 + ("blue",), "which?") for i in range(6)]
    seen = []

    def copier(prompts):
        seen.extend(p.text.count("<visual>") for p in prompts)
        return ["red"] * len(prompts)

    actual = few_shot.evaluate_few_shot(copier, "vqa", items, items, shots=(0, 4))
    assert actual == {"vqa_score_0_shot": 1.0, "vqa_score_4_shot": 1.0}
    assert seen == [1] * 6 + [5] * 6
    actual = few_shot.evaluate_few_shot(
        lambda p: ["blue"] * len(p), "vqa", items, items, shots=(4,)
    )
    assert actual["vqa_score_4_shot"] == pytest.approx(4 / 15)


def test_item_17_accuracy_of_questions_is_the_official_one():
    """Each annotator left out in turn; texts are normalised where the annotators differ."""
    for count, want in ((0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)):
        answers = ["red"] * count + ["blue"] * (10 - count)
        assert few_shot.vqa_accuracy("red", answers) == pytest.approx(want)
    assert few_shot.vqa_accuracy("Two dogs.", ["2 dogs"] * 5 + ["two"] * 5) == 1
    assert few_shot.vqa_accuracy("Two dogs.", ["2 dogs"] * 10) == 0  # as they are written
    assert few_shot.vqa_accuracy(" 2 dogs", ["2 dogs "] * 10) == 1
    items = [Item(0, ("red",) * 3 + ("blue",) * 7, "which?")]
    assert few_shot.few_shot_items("vqa", ["red"], items)["vqa_score"] == pytest.approx([0.9])


def test_item_17_image_and_video_sets_in_one_table(model, tmp_path):
    """Checklist 17: captions, questions, retrieval and classes of pictures and clips from files, as
    one table.
    """
    for colour in COLOURS:
        draw(colour, "ball").save(tmp_path / f"{colour}.png")
    rows = [
        {
            "image": f"{c}.png",
            "texts": [f"a {c} ball"],
            "label": "dark" if c == "black" else "light",
        }
        for c in COLOURS
    ]
    clips = [{"frames": [f"{c}.png"] * 2, "texts": [f"a {c} ball"]} for c in COLOURS]
    asked = [{**row, "question": "which?", "texts": ["red"] * 10} for row in rows]
    for name, own in (("i", rows), ("v", clips), ("q", asked)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    sets = (
        "[{name: pictures, task: caption, test: i.jsonl, train: i.jsonl}, {name: clips, task:"
        " caption, test: v.jsonl, train: v.jsonl, limit: 2},{name: asked, task: vqa, test: q.jsonl,"
        " train: q.jsonl}, {name: found, task: retrieval, test: i.jsonl},{name: classes, task:"
        " classification, test: i.jsonl}]"
    )
    cfg = config(
        f"eval.sets={sets}",
        "eval.shots=[0, 2]",
        "eval.num_beams=1",
        "eval.max_new_tokens=2",
        f"data.root={tmp_path}",
    )
    actual = evaluate_sets(cfg, model, Workspace(tmp_path / "w"))
    assert {
        "pictures_cider_0_shot",
        "clips_cider_2_shot",
        "asked_vqa_score_2_shot",
        "classes_accuracy",
        "classes_roc_auc",
    } <= set(actual)
    assert "found_text_to_image_recall_at_1" in actual
    table = (tmp_path / "w/few_shot.md").read_text()
    assert table == markdown(cfg.eval.sets, actual)
    assert all(
        f"| {name} |" in table for name in ("pictures", "clips", "asked", "found", "classes")
    )
    assert len(config(name="paper_few_shot").eval.sets) == 15


def writer(fail_at=99, *, contrastive=False):
    """A model that writes "red", until it is asked for the n-th time."""
    calls = []

    def write(prompts, most):
        calls.append(len(prompts))
        if len(calls) > fail_at:
            raise RuntimeError("out of memory")
        return ["red"] * len(prompts)

    network = SimpleNamespace(contrastive=contrastive)
    return SimpleNamespace(write=write, calls=calls, module=SimpleNamespace(network=network))


def shot_sets(folder, *sets, **files):
    """A config of sets, whose files are written."""
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return config(f"eval.sets=[{', '.join(sets)}]", "eval.shots=[2]", f"data.root={folder}")


def test_item_17_class_names_are_put_into_the_published_text(tmp_path):
    """Checklist 17: A photo of a ..., and the class whose text is nearest."""
    asked = []

    def embed(pictures, texts):
        asked.extend(texts)
        return SimpleNamespace(visual=torch.eye(3)[[0, 1, 0]], text=torch.eye(3)[:2])

    actual = SimpleNamespace(
        embed=embed, module=SimpleNamespace(network=SimpleNamespace(contrastive=True))
    )
    rows = [{"image": "a.png", "label": name} for name in ("bus", "cat", "cat")]
    cfg = shot_sets(tmp_path, "{name: c, task: classification, test: i.jsonl}", i=rows)
    scores = evaluate_sets(cfg, actual, None)
    assert asked == ["A photo of a bus", "A photo of a cat"]
    assert scores["c_accuracy"] == pytest.approx(2 / 3)
    assert scores["c_roc_auc"] == pytest.approx(3 / 4)  # a tie counts one half


def test_item_17_a_model_without_heads_has_empty_cells(tmp_path):
    """With lambda = 0 classes and retrieval are left out; scores are on disk after every set."""
    rows = [{"image": "a.png", "texts": ["red"], "label": str(i)} for i in range(3)]
    captions = "{name: NAME, task: caption, test: i.jsonl, train: i.jsonl}"
    sets = [
        captions.replace("NAME", "one"),
        "{name: memes, task: classification, test: i.jsonl}",
        "{name: found, task: retrieval, test: i.jsonl}",
        captions.replace("NAME", "two"),
    ]
    cfg = shot_sets(tmp_path, *sets, i=rows)
    actual = evaluate_sets(cfg, writer(), Workspace(tmp_path / "w"))
    assert set(actual) == {"one_cider_2_shot", "two_cider_2_shot"}
    table = (tmp_path / "w/few_shot.md").read_text()
    assert "| memes |  |" in table
    assert "| found |  |" in table
    assert json.loads((tmp_path / "w/few_shot.json").read_text()) == actual
    assert "memes: left empty" in (tmp_path / "w/notes.txt").read_text()
    with pytest.raises(RuntimeError):
        evaluate_sets(cfg, writer(1), Workspace(tmp_path / "v"))
    assert set(json.loads((tmp_path / "v/few_shot.json").read_text())) == {"one_cider_2_shot"}
    assert "| one | 0" in (tmp_path / "v/few_shot.md").read_text()


@pytest.mark.parametrize(
    ("task", "bad", "said"),
    [
        ("caption", {"texts": []}, "row 2 has no texts"),
        ("caption", {"texts": "red"}, "row 2: texts are a list"),
        ("vqa", {"question": ""}, "row 2 has no question"),
        ("vqa", {"texts": ["red"]}, "at least 4; repeat"),
        ("retrieval", {"texts": []}, "row 2 has no texts"),
        ("classification", {"label": None}, "row 2 has no label"),
    ],
)
def test_item_17_sets_are_read_before_the_first_score(tmp_path, task, bad, said):
    """A row that lacks something is named, and nothing has been scored until then."""
    good = {"image": "a.png", "texts": ["red"] * 10, "question": "which?", "label": "red"}
    sets = [
        "{name: one, task: caption, test: i.jsonl, train: i.jsonl}",
        f"{{name: two, task: {task}, test: bad.jsonl, train: i.jsonl}}",
    ]
    cfg = shot_sets(tmp_path, *sets, i=[good] * 3, bad=[good, {**good, **bad}])
    model = writer(contrastive=True)
    with pytest.raises(UserError, match=said):
        evaluate_sets(cfg, model, None)
    assert not model.calls


def test_item_17_demonstrations_are_read_before_the_first_score(tmp_path):
    """A demonstration without texts, too few of them, none at all."""
    good = {"image": "a.png", "texts": ["red"]}
    one = "{name: one, task: caption, test: i.jsonl, train: TRAIN.jsonl}"
    files = {"i": [good], "bad": [good, {"image": "a.png"}], "two": [good] * 2, "empty": []}
    for train_set, said in (
        ("bad", "row 2 has no texts"),
        ("i", "1 rows for 2"),
        ("empty", "is empty"),
    ):
        cfg = shot_sets(tmp_path, one.replace("TRAIN", train_set), **files)
        with pytest.raises(UserError, match=said):
            evaluate_sets(cfg, writer(), None)
    with pytest.raises(UserError, match="needs train="):
        evaluate_sets(
            shot_sets(tmp_path, one.replace(", train: TRAIN.jsonl", ""), **files), writer(), None
        )
    cfg = shot_sets(tmp_path, one.replace("TRAIN", "two"), **files)
    assert "one_cider_2_shot" in evaluate_sets(cfg, writer(), None)


def test_the_command_s_beams_rule_the_table_and_the_export_s_a_caption(
    model, tmp_path, monkeypatch
):
    """`eval` of the few-shot command against that of the export, which `TASK=caption` goes by."""
    asked = []

    def generate(ids, mask, media, **options):
        asked.append(tuple(options[n] for n in ("num_beams", "length_penalty", "max_new_tokens")))
        return ids[:, :1]

    monkeypatch.setattr(model.module.network.language, "generate", generate)
    monkeypatch.setattr(model.module, "cfg", model.module.cfg)  # other tests get it back
    monkeypatch.setattr(tasks, "Cosmo", lambda run: model)
    rows = [{"image": "a.png", "texts": ["red"] * 4, "question": "which?"}] * 2
    draw("red", "ball").save(tmp_path / "a.png")
    kinds = [f"{{name: {t}, task: {t}, test: i.jsonl, train: i.jsonl}}" for t in ("caption", "vqa")]
    (tmp_path / "i.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [
        "caption.run=x",
        f"caption.inputs=[{tmp_path}/a.png]",
        f"data.root={tmp_path}",
        f"eval.sets=[{','.join(kinds)}]",
        "eval.shots=[2]",
        "eval.num_beams=3",
        "eval.length_penalty=-1.0",
        "eval.max_new_tokens=7",
        "eval.vqa_tokens=4",
    ]
    tasks.caption(config(*words), Workspace(tmp_path / "v"))
    assert asked == [(2, -2.0, 6)]  # of the config that was exported
    tasks.few_shot(config(*words), Workspace(tmp_path / "w"))
    assert asked[1:] == [(3, -1.0, 7), (3, -1.0, 4)]


def test_official_files_become_rows(tmp_path):
    """`TASK=few_shot_rows` writes what the table reads."""
    karpathy = {
        "images": [
            {"split": s, "filepath": "v", "filename": f"{s}.jpg", "sentences": [{"raw": "A dog. "}]}
            for s in ("train", "test")
        ]
    }
    (tmp_path / "k.json").write_text(json.dumps(karpathy))

    def made(**options):
        words = [f"eval.official.{k}={v}" for k, v in options.items()]
        build(config(*words)).tasks["few_shot_rows"](Workspace(tmp_path / "w"))
        return read_items(tmp_path / "set/rows.jsonl")

    output = tmp_path / "set/rows.jsonl"
    actual = made(output=output, karpathy=tmp_path / "k.json", folder="coco")
    assert actual == [(Item([str(tmp_path / "set/coco/v/test.jpg")], ("A dog.",)), "")]
    asked = {"questions": [{"image_id": 3, "question": "q?", "question_id": 1}]}
    given = {"annotations": [{"question_id": 1, "answers": [{"answer": "x"}]}]}
    (tmp_path / "q.json").write_text(json.dumps(asked))
    (tmp_path / "a.json").write_text(json.dumps(given))
    files = {"questions": tmp_path / "q.json", "annotations": tmp_path / "a.json"}
    actual = made(output=output, **files, image="'i/{:04d}.jpg'")
    assert actual == [(Item([str(tmp_path / "set/i/0003.jpg")], ("x",), "q?"), "")]
    (tmp_path / "root").mkdir()  # a relative place is below data.root, where the table reads it
    words = [f"data.root={tmp_path}/root", f"eval.official.karpathy={tmp_path}/k.json"]
    build(config(*words, "eval.official.output=few_shot/coco/test.jsonl")).tasks["few_shot_rows"](
        Workspace(tmp_path / "w")
    )
    assert read_items(tmp_path / "root" / config(name="paper_few_shot").eval.sets[0].test)
    with pytest.raises(UserError, match="not a file of questions"):
        made(output=output, questions=tmp_path / "k.json", annotations=tmp_path / "a.json")
    with pytest.raises(UserError, match=r"no row of eval\.official\.split=val"):
        made(output=output, karpathy=tmp_path / "k.json", split="val")
    for wrong in (
        {"output": output},
        {"output": output, "questions": "q.json"},
        {"karpathy": "k.json"},
    ):
        with pytest.raises(UserError, match=r"set eval\.official\.output"):
            made(**wrong)


# -- parameters, reference, held-out items -------------------------------------------------------


def test_item_18_parameter_report(tmp_path):
    """Checklist 18: learnable, all and share for intervals and compressions, beside the reference
    of the same code.
    """
    rows = {row.name: row for row in tasks.parameters(config(name="mini"), Workspace(tmp_path))}
    reference, own = next(iter(rows.values())), rows["this config"]
    assert (reference.blocks, own.blocks) == (4, 2)
    assert own.learnable < 0.5 * reference.learnable
    for compression in (1, 2, 4):
        sizes = [rows[f"interval {i}, compression {compression}"].learnable for i in (1, 2)]
        assert sizes[0] > sizes[1]
    sizes = [rows[f"interval 1, compression {c}"].learnable for c in (1, 2, 4)]
    assert sizes == sorted(sizes, reverse=True)
    assert own.total - own.learnable == reference.total - reference.learnable
    assert "| this config | 2 |" in (tmp_path / "parameters.md").read_text()
    stage = next(stages(config()))
    counted = tasks.count_parameters(config(), "smoke")
    assert counted.learnable == sum(
        p.numel() for p in stage.module.network.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("installed", [True, False])
def test_check_names_the_decoder_of_videos(installed, monkeypatch):
    monkeypatch.setattr("projects.cosmo.sources.find_spec", lambda name: installed or None)
    (needed,) = [n for n in requirements(config(name="paper")) if n.name == "decoder"]
    assert (needed.location, needed.present) == ("PyAV", installed)
    assert not [n for n in requirements(config(name="paper_18m")) if n.name == "decoder"]


def test_item_18_the_reference_is_a_config():
    """Checklist 18: the reference of the report and the paper's config are the same settings."""
    asked, named = tasks.reference(config(name="paper")), config(name="paper_reference")
    assert dataclasses.replace(asked.model, text_depth=None) == named.model
    assert asked.method == named.method


PAPER = {  # B, lr, epochs, threshold, interval, c, U
    "paper": (96, 5e-4, 5, 0.24, 2, 2, 12),
    "paper_18m": (64, 3e-4, 20, 0.25, 1, 1, 12),
    "paper_340m": (96, 5e-4, 5, 0.24, 1, 2, 12),
    "paper_mixtral": (32, 5e-5, 5, 0.24, 4, 4, 16),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_hold_the_published_recipe(name):
    cfg = config(name=name)
    own, model, method, asked = cfg.data, cfg.model, cfg.method, cfg.eval
    assert PAPER[name] == (
        own.batch_size,
        cfg.optim.lr,
        cfg.trainer.max_epochs,
        own.threshold,
        model.interval,
        model.compression,
        model.unimodal_depth,
    )
    assert (cfg.optim.name, cfg.optim.schedule, cfg.optim.warmup_steps) == ("adamw", "cosine", 500)
    assert (cfg.trainer.gradient_clip_val, cfg.trainer.precision) == (1.0, "16-mixed")
    assert (own.max_caption, own.max_document, own.max_images, own.frames) == (32, 128, 3, 3)
    assert (own.blank_prob, own.speed, own.caption_use) == (0.5, 5, "noisy_only")
    assert (own.augment, own.normalise) == (True, "imagenet")
    assert (model.vision, cfg.seed) == ("open_clip:ViT-L-14-quickgelu/openai", 42)
    assert (method.contrastive_weight, method.logit_scale_init, method.gather) == (
        1.0,
        0.2,
        "local",
    )
    assert (method.duplicates, method.guard, method.apply_weights) == ("keep", False, False)
    assert (model.num_latents, model.resampler_depth, model.latent_dim) == (64, 6, 512)
    for sizes in (model.cross, model.resampler, model.pooling):
        assert (sizes.heads, sizes.dim_head, sizes.ff_mult) == (8, 64, 4)
    assert (model.trained_rows, model.mask_padding, model.immediate) == ("none", False, True)
    assert (asked.num_beams, asked.length_penalty, asked.max_new_tokens, asked.vqa_tokens) == (
        5,
        -2.0,
        20,
        5,
    )
    assert (asked.shots, asked.shot_seed, asked.pool) == ([0, 4, 8, 16, 32], 42, 2048)


def test_the_few_shot_table_has_the_published_sizes_and_the_reference_is_flamingo_s():
    """5,000 test samples of thirteen sets and two retrievals; the reference: all layers, c 1, no
    contrast.
    """
    sets = config(name="paper_few_shot").eval.sets
    assert {own.limit for own in sets} == {5000}
    assert [own.name for own in sets if own.task != "retrieval"] == [
        "coco",
        "flickr",
        "okvqa",
        "textvqa",
        "vizwiz",
        "vqav2",
        "hateful_memes",
        "msvd",
        "msrvtt",
        "tgif",
        "vatex",
        "tvc",
        "youcook2",
    ]
    cfg = config(name="paper_reference")
    assert (cfg.model.unimodal_depth, cfg.model.interval, cfg.model.compression) == (0, 1, 1)
    assert cfg.method.contrastive_weight == 0
    howto = config(name="paper_howto").data
    assert (howto.kinds[-1], howto.clips, howto.frames) == ("interleaved_video", 3, 3)


def test_instruction_tuning_trains_all_rows_of_the_vocabulary():
    """Checklist 7: embeddings are trained in instruction tuning alone; its pictures are not
    augmented.
    """
    cfg = config(name="paper_instruction")
    assert (cfg.model.trained_rows, cfg.data.kinds) == ("all", ["instruction"])
    assert not cfg.data.augment


def test_paper_configs_can_be_checked_without_their_weights():
    """Sizes on the meta device: blocks, and millions of learnable parameters."""
    actual = {}
    for name in ("paper", "paper_340m", "paper_18m", "paper_reference"):
        with torch.device("meta"):
            network = build(config(name=name)).plan().module().network
        assert len(network.resampler.latents) == (64 if name == "paper_reference" else 65)
        learnable = sum(p.numel() for p in network.parameters() if p.requires_grad)
        actual[name] = len(network.language.blocks), round(learnable / 1e6)
    assert actual == {
        "paper": (6, 213),
        "paper_340m": (12, 323),
        "paper_18m": (12, 543),
        "paper_reference": (24, 944),
    }


@pytest.mark.slow
def test_held_out_pictures_and_ranks():
    """The own picture first, one of each class or distinct names beside it; no seed and no arm
    changes the lists.
    """
    cfg = config("eval.items=40", "eval.split=dev", name="mini")
    actual = judged(cfg)
    assert actual.candidates.shape == (40, 10)
    assert actual.candidates[:, 0].tolist() == list(range(40))
    assert all(len({actual.names[i] for i in row}) == 10 for row in actual.candidates.tolist())
    other = judged(
        config(
            "eval.items=40", "eval.split=dev", "seed=9", "method.contrastive_weight=0", name="mini"
        )
    )
    assert torch.equal(other.candidates, actual.candidates)
    assert other.names == actual.names
    actual = judged(config("eval.items=50", "eval.split=dev", name="mini_drawings"))
    assert len(set(actual.names)) == 50
    assert all(len(set(row)) == 32 for row in actual.candidates.tolist())
    assert actual.candidates[:, 0].tolist() == list(range(50))
    parts = {p: {image for image, _ in drawings(None, p)} for p in ("train", "dev", "test")}
    assert not parts["train"] & (parts["dev"] | parts["test"])
    assert not parts["dev"] & parts["test"]
    assert reciprocal_ranks(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, -1.0]])) == pytest.approx(
        [1 / 3, 0.75]
    )


def test_a_name_is_judged_by_its_likelihood_with_each_picture(stage, monkeypatch):
    """-log p of every candidate by itself, without padding; gates are wide open, pictures count."""
    module, names = stage.module, ["a purple drawing of a star", "a ball", "a red box", "a cat"]
    candidates = torch.tensor([[0, 2, 1], [1, 3, 0], [2, 1, 3], [3, 0, 2]])
    actual = Judged([], names, candidates)
    torch.manual_seed(1)
    network, words = module.network.eval(), Words(module.tokenizer, config().data)
    patches = 5 * torch.randn(4, 1, 1, 1, network.visual_head.in_features).expand(4, 1, 1, 5, -1)
    for block in network.language.blocks:
        for gate in (block.attn_gate, block.ff_gate):
            monkeypatch.setattr(gate, "data", torch.full_like(gate, 2.0))
    want, tokens = torch.zeros(4, 3), torch.zeros(4)
    with torch.no_grad():
        for i, row in enumerate(candidates.tolist()):
            ids = torch.tensor([words(f"<visual>{names[i]}<|endofchunk|>")])
            told = ids[0, 1:] != words.ids["visual"]
            tokens[i] = told.sum()
            for j, picture in enumerate(row):
                media = network.media(patches[picture : picture + 1])[0]
                logits = network.language(ids, torch.ones_like(ids), media).logits[0, :-1]
                each = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                want[i, j] = -each[told].sum()
        cfg = config("eval.batch_size=6")  # two names at a time, by length
        losses, number = name_losses(cfg, module, actual, patches)
        metrics = likelihood_metrics(cfg, module, actual, patches, None)
    assert float((want - want[:, :1])[:, 1:].abs().min()) > 1e-3
    torch.testing.assert_close(losses, want, rtol=0, atol=2e-4)
    assert torch.equal(number, tokens)
    own = want[:, 0]
    assert metrics["mrr"] == pytest.approx(sum(reciprocal_ranks(-want)) / 4)
    assert metrics["recall_at_1"] == float((own < want[:, 1:].amin(1)).float().mean())
    assert metrics["token_loss"] == pytest.approx(float(own.sum() / tokens.sum()), rel=1e-4)
    assert metrics["name_loss"] == pytest.approx(float((own / tokens).mean()), rel=1e-4)
    assert metrics["shuffled_loss"] == pytest.approx(
        float(want[:, 1].sum() / tokens.sum()), rel=1e-4
    )


@pytest.mark.slow
def test_baselines(tmp_path):
    """The frozen model alone ranks at chance; the dual encoder is far above it."""
    cfg = config("eval.items=40", "eval.written=10", name="mini")
    names = ("chance", "gates_shut", "dual_encoder")
    actual = {n: getattr(baselines, n)(cfg, Workspace(tmp_path / n)) for n in names}
    assert actual["chance"]["mrr"] == pytest.approx(sum(1 / k for k in range(1, 11)) / 10)
    assert actual["gates_shut"]["mrr"] == pytest.approx(actual["chance"]["mrr"], abs=0.12)
    assert actual["dual_encoder"]["mrr"] > actual["chance"]["mrr"] + 0.2
