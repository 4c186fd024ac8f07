"""Runs, evaluation, export, tasks and reports as the commands drive them."""

import dataclasses
import itertools
import json

import pytest
import torch

from common.config import UserError
from common.engine.workspace import Workspace
from common.evaluation.image_text import few_shot
from common.evaluation.image_text.few_shot import Item
from projects.cosmo import baselines, build, tasks
from projects.cosmo.evaluate import judged, reciprocal_ranks
from projects.cosmo.folder import export, load
from projects.cosmo.inference import Cosmo
from projects.cosmo.sources import COLOURS, draw, drawings
from projects.cosmo.stages import stages
from projects.cosmo.table import evaluate_sets, karpathy_rows, markdown, vqa_rows
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


def test_the_example_of_the_card(folder, monkeypatch, tmp_path):
    """The card's five lines on an export."""
    monkeypatch.chdir(tmp_path)
    cards.at_hand(tmp_path)
    examples = cards.snippets("cosmo")
    assert examples
    for code in examples:
        cards.run_snippet(code, "cosmo", folder)


def test_item_14_embeddings_are_visual_then_text(folder):
    """Checklist 14: by name and by place, for any selection, the same in any batch, of unit length."""
    model = Cosmo(folder)
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


def test_captions_of_own_pictures(folder, tmp_path):
    """TASK=caption: own files, with demonstrations and with a question; a gallery; bad files are named."""
    draw("red", "ball").save(tmp_path / "a.png")
    words = [f"caption.run={folder}", f"caption.inputs=[{tmp_path}/a.png]"]
    texts = tasks.caption(config(*words), Workspace(tmp_path / "w"))
    assert len(texts) == 1
    assert (tmp_path / "w/gallery/captions/0-query.png").is_file()
    shown = f"caption.demonstrations=['{tmp_path}/a.png=a red ball']"
    assert len(tasks.caption(config(*words, shown), Workspace(tmp_path / "v"))) == 1
    assert (
        len(
            tasks.caption(config(*words, "caption.question=what is it?"), Workspace(tmp_path / "u"))
        )
        == 1
    )
    with pytest.raises(UserError, match="there is no picture"):
        tasks.caption(
            config(f"caption.run={folder}", "caption.inputs=[no.png]"), Workspace(tmp_path)
        )
    with pytest.raises(UserError, match=r"caption\.run"):
        tasks.caption(config(), Workspace(tmp_path))


# -- few shots -----------------------------------------------------------------------------------


def test_item_17_prompts_of_the_release():
    """Checklist 17: both forms, without a picture for 0 shots, and demonstrations that depend on the query alone."""
    items = [Item(i, (f"t{i}",), f"q{i}") for i in range(40)]
    one = few_shot.few_shot_prompt("vqa", items[:2], items[5], 2)
    assert (
        one.text
        == "<visual>Question:q0 Short answer:t0<|endofchunk|><visual>Question:q1 Short answer:t1<|endofchunk|><visual>Question:q5 Short answer:"
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
    items = [Item(i, ("red",) * 3 + ("blue",), "which?") for i in range(6)]
    seen = []

    def copier(prompts):
        seen.extend(p.text.count("<visual>") for p in prompts)
        return ["red"] * len(prompts)

    found = few_shot.evaluate_few_shot(copier, "vqa", items, items, shots=(0, 4))
    assert found == {"vqa_score_0_shot": 1.0, "vqa_score_4_shot": 1.0}
    assert seen == [1] * 6 + [5] * 6
    found = few_shot.evaluate_few_shot(lambda p: ["blue"] * len(p), "vqa", items, items, shots=(4,))
    assert found["vqa_score_4_shot"] == pytest.approx(1 / 3)


def test_item_17_image_and_video_sets_in_one_table(folder, tmp_path):
    """Checklist 17: captions, questions, retrieval and classes of pictures and clips from files, as one table."""
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
        "[{name: pictures, task: caption, test: i.jsonl, train: i.jsonl}, {name: clips, task: caption, test: v.jsonl, train: v.jsonl, limit: 2},"
        "{name: asked, task: vqa, test: q.jsonl, train: q.jsonl}, {name: found, task: retrieval, test: i.jsonl},"
        "{name: classes, task: classification, test: i.jsonl}]"
    )
    cfg = config(
        f"eval.sets={sets}",
        "eval.shots=[0, 2]",
        "eval.num_beams=1",
        "eval.max_new_tokens=2",
        f"data.root={tmp_path}",
    )
    found = evaluate_sets(cfg, Cosmo(folder), Workspace(tmp_path / "w"))
    assert {
        "pictures_cider_0_shot",
        "clips_cider_2_shot",
        "asked_vqa_score_2_shot",
        "classes_accuracy",
        "classes_roc_auc",
    } <= set(found)
    assert "found_text_to_image_recall_at_1" in found
    table = (tmp_path / "w/few_shot.md").read_text()
    assert table == markdown(cfg.eval.sets, found)
    assert all(
        f"| {name} |" in table for name in ("pictures", "clips", "asked", "found", "classes")
    )
    assert len(config(name="paper_few_shot").eval.sets) == 15


def test_official_files_become_rows(tmp_path):
    karpathy = {"images": [{"split": s, "filepath": "v", "filename": f"{s}.jpg", "sentences": [{"raw": "A dog. "}]} for s in ("train", "test")]}  # fmt: skip
    (tmp_path / "k.json").write_text(json.dumps(karpathy))
    assert list(karpathy_rows(tmp_path / "k.json", "test", "coco")) == [
        {"image": "coco/v/test.jpg", "texts": ["A dog."]}
    ]
    (tmp_path / "q.json").write_text(
        json.dumps({"questions": [{"image_id": 3, "question": "q?", "question_id": 1}]})
    )
    (tmp_path / "a.json").write_text(
        json.dumps({"annotations": [{"question_id": 1, "answers": [{"answer": "x"}]}]})
    )
    found = list(vqa_rows(tmp_path / "q.json", tmp_path / "a.json", "i/{:04d}.jpg"))
    assert found == [{"image": "i/0003.jpg", "question": "q?", "texts": ["x"]}]


# -- parameters, reference, held-out items -------------------------------------------------------


def test_item_18_parameter_report(tmp_path):
    """Checklist 18: learnable, all and share for intervals and compressions, beside the reference of the same code."""
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


def test_item_18_the_reference_is_a_config():
    """Checklist 18: the reference of the report and the paper's config are the same settings."""
    asked, named = tasks.reference(config(name="paper")), config(name="paper_reference")
    assert dataclasses.replace(asked.model, text_depth=None) == named.model
    assert asked.method == named.method


def test_paper_configs_can_be_checked_without_their_weights():
    """Sizes on the meta device: blocks, learnable parameters."""
    found = {}
    for name in ("paper", "paper_18m", "paper_reference"):
        with torch.device("meta"):
            network = build(config(name=name)).plan().module().network
        assert len(network.resampler.latents) == (64 if name == "paper_reference" else 65)
        found[name] = len(network.language.blocks)
    assert found == {"paper": 6, "paper_18m": 12, "paper_reference": 24}


def test_held_out_pictures_and_ranks():
    """The own picture first, one of each class or distinct names beside it; no seed and no arm changes the lists."""
    cfg = config("eval.items=40", "eval.split=dev", name="mini")
    found = judged(cfg)
    assert found.candidates.shape == (40, 10)
    assert found.candidates[:, 0].tolist() == list(range(40))
    assert all(len({found.names[i] for i in row}) == 10 for row in found.candidates.tolist())
    other = judged(
        config(
            "eval.items=40", "eval.split=dev", "seed=9", "method.contrastive_weight=0", name="mini"
        )
    )
    assert torch.equal(other.candidates, found.candidates)
    assert other.names == found.names
    found = judged(config("eval.items=50", "eval.split=dev", name="mini_drawings"))
    assert len(set(found.names)) == 50
    assert all(len(set(row)) == 32 for row in found.candidates.tolist())
    assert found.candidates[:, 0].tolist() == list(range(50))
    parts = {p: {image for image, _ in drawings(None, p)} for p in ("train", "dev", "test")}
    assert not parts["train"] & (parts["dev"] | parts["test"])
    assert not parts["dev"] & parts["test"]
    assert reciprocal_ranks(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, -1.0]])) == pytest.approx(
        [1 / 3, 0.75]
    )


def test_baselines(tmp_path):
    """The frozen model alone ranks at chance; the dual encoder is far above it."""
    cfg = config("eval.items=40", "eval.written=10", name="mini")
    names = ("chance", "gates_shut", "dual_encoder")
    found = {n: getattr(baselines, n)(cfg, Workspace(tmp_path / n)) for n in names}
    assert found["chance"]["mrr"] == pytest.approx(sum(1 / k for k in range(1, 11)) / 10)
    assert found["gates_shut"]["mrr"] == pytest.approx(found["chance"]["mrr"], abs=0.12)
    assert found["dual_encoder"]["mrr"] > found["chance"]["mrr"] + 0.2
