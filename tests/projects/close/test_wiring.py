"""What a config reads, and what reaches the decoding: items 17 and the files of `make check`."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from common.data.samplers import sample_rng
from projects.close import build, evaluate, tasks
from projects.close.batches import Example, Words
from tests.projects.close.conftest import config, module_of, sines


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", {"dataset_coco.json", "val2014"}),
        ("eval.inputs=text", {"dataset_coco.json"}),
        ("data.inputs=image eval.inputs=text", {"dataset_coco.json", "train2014"}),
        (
            "data.splits=[restval] data.inputs=image eval.inputs=text",
            {"dataset_coco.json", "val2014"},
        ),
        (
            "data.task=ve eval.split=dev",
            {"snli_ve_train.jsonl", "snli_ve_dev.jsonl", "flickr30k-images"},
        ),
        (
            "data.task=ve eval.inputs=text trainer.val_every_n_steps=5",
            {"snli_ve_train.jsonl", "snli_ve_dev.jsonl", "snli_ve_test.jsonl"},
        ),
        (
            "data.task=vqa",
            {"dataset_coco.json", "val2014"}
            | {
                f"v2_{name}.json"
                for year in ("train2014", "val2014")
                for name in (f"OpenEnded_mscoco_{year}_questions", f"mscoco_{year}_annotations")
            },
        ),
        (
            "data.task=evqa data.inputs=image",
            {"VQA-E_train_set.json", "VQA-E_val_set.json", "train2014", "val2014"},
        ),
        ("data.task=news eval.split=dev", {"train_data.json", "val_data.json"}),
        (
            "method.adapter=linear method.statistics=gap.safetensors",
            {"dataset_coco.json", "val2014", "gap.safetensors"},
        ),
    ],
)
def test_check_names_all_files_that_a_config_reads(words, wanted, tmp_path):
    """Pictures, annotations, parts and statistics were left out: a run stopped after its
    training."""
    cfg = config("data.source=official", f"data.root={tmp_path}", *words.split())
    missing = [need for need in build(cfg).plan().requirements if not need.present]
    assert {Path(need.location).name for need in missing} == wanted
    assert all(need.hint for need in missing)


def test_what_is_written_answers_the_question_of_its_example(clip, monkeypatch):
    """Contexts reach the decoding, each with its own vector, batch by batch."""
    cfg = config("data.task=vqa", "eval.batch_size=2")
    module, seen = module_of(cfg, clip), []

    def write(vectors, ids=None, mask=None):
        seen.append((vectors, ids, mask))
        return [str(row) for row in ids.tolist()]

    monkeypatch.setattr(module, "write", write)
    examples = [
        Example(("",), "", ("",), text) for text in ("what is it?", "", "how many of them are red?")
    ]
    vectors, words = sines(3, 128), Words(module.tokenizer, cfg.data.max_context)
    actual = evaluate.written(cfg, module, vectors, examples)
    assert len(actual) == 3
    for part, (own, ids, mask) in zip((slice(0, 2), slice(2, 3)), seen, strict=True):
        expected = words.batch([e.context for e in examples[part]])
        torch.testing.assert_close((own, ids, mask), (vectors[part], *expected))
        assert bool(mask.any())


def test_item_17_the_curve_is_of_image_vectors_with_noise_or_along_the_offset(monkeypatch):
    """Checklist 17: a metric of all points at once would be flat whatever the vectors are."""
    seen = []
    monkeypatch.setattr(tasks, "load", lambda cfg, path: None)
    monkeypatch.setattr(
        tasks, "written", lambda cfg, module, vectors, examples: seen.append(vectors) or ["a"] * 3
    )
    cfg = config("caption.run=x", "eval.noises=[0.0,0.5]", "eval.offsets=[0.0,2.0]")
    images, offset = normalize(sines(3, 8)), 0.1 * torch.arange(8.0)
    examples = [Example(("a",), "x", ("a",))] * 3
    actual = tasks.sensitivity(cfg, images, offset, examples)
    assert list(actual) == ["noise_0", "noise_0.5", "offset_0", "offset_2"]
    torch.testing.assert_close(seen[0], images)
    torch.testing.assert_close(seen[2], images)
    torch.testing.assert_close(seen[3], normalize(images + 2 * offset))
    drawn = sample_rng(cfg.seed, 0, 0, tasks.CURVE_STREAM).standard_normal((3, 8)).astype("float32")
    torch.testing.assert_close(seen[1], normalize(images + 0.5 * torch.from_numpy(drawn)))
    assert not torch.allclose(seen[1], images, atol=0.1)
