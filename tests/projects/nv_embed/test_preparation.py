"""Teachers of the miner, and overlap with evaluations."""

import json
import shutil

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError, load
from common.data.retrieval.records import EmbeddingRecord
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_transformer
from common.engine.workspace import Workspace
from projects.nv_embed import tasks as own_tasks
from projects.nv_embed.config import Config, ModelConfig
from projects.nv_embed.data.records import EmbeddingTask, read_task, write_task
from projects.nv_embed.encoder.exported import save_instructed
from projects.nv_embed.overlap import overlap, overlapping
from projects.nv_embed.tasks import collection, mine
from projects.nv_embed.teachers import load_teacher
from tests.placed import passes_within_evaluated
from tests.projects.nv_embed.conftest import config, encoder

TINY = {
    "model_type": "mistral",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
MODEL = ModelConfig(max_length=32, attention="eager")


def teacher_folder(folder, pooling, **options):
    """A decoder in the layout of sentence-transformers, as E5-mistral has it."""
    torch.manual_seed(0)
    model = load_transformer("random", config=TINY)
    model.save_pretrained(folder)
    tiny_tokenizer(256).save_pretrained(folder)
    parts = [
        ("0", "", "Transformer"),
        ("1", "1_Pooling", "Pooling"),
        ("2", "2_Normalize", "Normalize"),
    ]
    modules = [
        {"idx": int(i), "name": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, path, kind in parts
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": False, pooling: True} | options
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return model.eval()


@pytest.mark.parametrize("pooling", ["pooling_mode_lasttoken", "pooling_mode_mean_tokens"])
def test_a_decoder_of_sentence_transformers_is_a_teacher(tmp_path, pooling):
    """Mining: E5-mistral's vectors are the causal state of EOS under "Instruct: ...", padding
    aside; documents have no prefix.
    """
    model = teacher_folder(tmp_path, pooling)
    teacher = load_teacher(str(tmp_path), MODEL)
    texts, told = ["a red fox", "no"], "Find it"
    for instruction, prefix in ((told, f"Instruct: {told}\nQuery: "), ("", "")):
        for text, actual in zip(texts, teacher.encode(texts, instruction=instruction), strict=True):
            ids = teacher.tokenizer(prefix + text, return_tensors="pt")["input_ids"]
            assert ids[0, -1] == teacher.tokenizer.convert_tokens_to_ids("[SEP]")  # ends every text
            with torch.no_grad():
                states = model(input_ids=ids).last_hidden_state[0]  # causal, as the file says
            expected = states[-1] if pooling.endswith("lasttoken") else states.mean(dim=0)
            torch.testing.assert_close(actual, F.normalize(expected, dim=0), rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_prompt_is_pooled_only_where_the_folder_says_so(tmp_path):
    """Mining: ``include_prompt: false`` leaves the instruction out of the mean."""
    teacher_folder(tmp_path, "pooling_mode_mean_tokens", include_prompt=False)
    assert load_teacher(str(tmp_path), MODEL).span == "exact"


def test_own_exports_are_teachers(tmp_path):
    """Mining: an export keeps its own pooling and mask."""
    made = encoder()
    save_instructed(made, tmp_path)
    torch.testing.assert_close(
        load_teacher(str(tmp_path), config().model).encode(["a", "b c"], instruction="x"),
        made.encode(["a", "b c"], instruction="x"),
        rtol=1e-5,
        atol=1e-6,
    )


def test_what_is_no_teacher_is_named(tmp_path):
    """Mining: nothing about a vector is guessed."""
    with pytest.raises(UserError, match="nor a folder"):
        load_teacher("random", MODEL)
    teacher_folder(tmp_path, "pooling_mode_cls_token")
    with pytest.raises(UserError, match="pooling_mode_cls_token"):
        load_teacher(str(tmp_path), MODEL)
    modules = json.loads((tmp_path / "modules.json").read_text())
    more = [
        *modules,
        {"idx": 3, "name": "3", "path": "3", "type": "sentence_transformers.models.Dense"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(more))
    with pytest.raises(UserError, match="Dense"):
        load_teacher(str(tmp_path), MODEL)
    (tmp_path / "modules.json").unlink()
    with pytest.raises(UserError, match="does not say how"):
        load_teacher(str(tmp_path), MODEL)


SETS = [
    "data.source=sets",
    "eval.tasks=[]",
    "eval.primary=[]",
    "data.mining.teacher=bm25",
    "data.mining.ratio=null",
]
TESTED = ["I feel wonderful about the new garden today", "she was angry at the late train"]
TRAINED = [
    "i feel  WONDERFUL about the new garden today",  # equal but for case and space
    "I feel wonderful about the new big garden today",  # nearly
    "the train was late",  # some of its words
    "he likes cheese",
]


def test_overlap_is_equal_or_nearly_equal_text():
    """Data: evaluation overlap goes, by equality and by a BM25 similarity."""
    assert overlapping(TRAINED, TESTED, None).tolist() == [True, False, False, False]
    assert overlapping(TRAINED, TESTED, 0.9).tolist() == [True, True, False, False]
    assert overlapping(TRAINED, TESTED, 0.3).tolist() == [True, True, True, False]
    # a short evaluation text within a long training text, beside many long ones that score higher
    # in it
    words = [f"word{i}" for i in range(180)]
    longer = [
        " ".join([*words[i : i + 6], *(f"x{i}y{j}" for j in range(6))]) for i in range(0, 180, 6)
    ]
    trained = [" ".join([*words, "late train"]), " ".join(words)]
    assert overlapping(trained, [*longer, "late train"], 0.9).tolist() == [True, False]


def test_an_example_of_a_symmetric_set_overlaps_by_its_positive_too(tmp_path):
    """Data: both sentences of an STS pair are texts that are compared; a passage of a retrieval set
    is not.
    """
    row = {"task": "sts22", "instruction": "find", "neg": []}
    pairs = [(TESTED[0], "a new text"), ("a new text", TESTED[0]), ("fine", "good")]
    (tmp_path / "test.txt").write_text(TESTED[0])
    for symmetric, left in ((True, ["fine"]), (False, ["a new text", "fine"])):
        (tmp_path / "sts22.jsonl").write_text(
            "\n".join(
                json.dumps({**row, "query": a, "pos": [b], "symmetric": symmetric})
                for a, b in pairs
            )
        )
        words = [
            "data.source=sets",
            "eval.tasks=[stsb]",
            "eval.primary=[stsb]",
            f"data.sets={{sts22: {{path: {tmp_path}/sts22.jsonl, layout: records}}}}",
            f"overlap.texts={{sts22: {tmp_path}/test.txt}}",
        ]
        folder = overlap(config(*words), Workspace(tmp_path / f"run-{symmetric}"))
        lines = (folder / "sts22.jsonl").read_text().splitlines()
        assert [json.loads(line)["query"] for line in lines] == left


def test_negatives_are_mined_from_the_whole_corpus(tmp_path):
    """Mining: a passage that is right for no query is a candidate as well."""
    (tmp_path / "qrels").mkdir()
    passages = {
        "a": "the red fox runs",
        "b": "the red fox sleeps in its red den",
        "c": "a blue whale",
    }
    rows = [{"_id": i, "title": "", "text": text} for i, text in passages.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    queries = [{"_id": "q", "text": "red fox runs"}, {"_id": "r", "text": "whale"}]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\nr\tc\t1\n")
    cfg = config(*SETS, f"data.sets={{msmarco: {{path: {tmp_path}}}}}")
    folder = mine(cfg, Workspace(tmp_path / "run"), None)
    shutil.copy(folder / "msmarco.jsonl", tmp_path)
    words = [
        f"data.sets={{msmarco: {{path: {tmp_path}/msmarco.jsonl, layout: records}}}}",
        f"data.mining.output={tmp_path}",
    ]
    with pytest.raises(UserError, match=r"another folder in data\.mining\.output"):
        mine(config(*SETS, *words), Workspace(tmp_path / "run"), None)
    actual = {r.query: r.negatives for r in read_task(folder / "msmarco.jsonl").records}
    assert actual["red fox runs"][0] == passages["b"]


def test_the_corpus_is_that_of_the_set_that_is_read(tmp_path, monkeypatch):
    """Guards against a set that is read as named, while its corpus is looked for below the data
    root.
    """
    (tmp_path / "beir").mkdir()
    (tmp_path / "beir/corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "here"}\n')
    (tmp_path / "root/beir").mkdir(parents=True)
    (tmp_path / "root/beir/corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "other"}\n')
    monkeypatch.chdir(tmp_path)
    cfg = config(*SETS, "data.sets={msmarco: {path: beir}}", f"data.root={tmp_path}/root")
    task = EmbeddingTask("msmarco", "retrieval", "find", [EmbeddingRecord("q", ("p",))], False)
    assert list(collection(cfg, task)) == ["p", "here"]


def test_overlap_task_writes_the_sets_without_it(tmp_path):
    """Data: labelled sets stay tables of texts and classes, others become records; what is missing
    is named.
    """
    rows = [{"text": text, "label": str(i % 2)} for i, text in enumerate(TRAINED)]
    (tmp_path / "emotion.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = [
        {
            "task": "nq",
            "instruction": "find",
            "symmetric": False,
            "query": text,
            "pos": [f"answer {i}"],
            "neg": [],
        }
        for i, text in enumerate(TRAINED)
    ]
    (tmp_path / "nq.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "test.txt").write_text("\ufeff" + "\n".join(TESTED), "utf-8")

    def run(*overrides):
        sets = (
            f"data.sets={{emotion: {{path: {tmp_path}/emotion.jsonl}}, nq: {{path:"
            f" {tmp_path}/nq.jsonl, layout: records}}}}"
        )
        cfg = load(
            Config,
            "nv_embed",
            "smoke",
            ["data.source=sets", "eval.tasks=[stsb]", "eval.primary=[stsb]", sets, *overrides],
        )
        return overlap(cfg, Workspace(tmp_path / "run"))

    files = f"overlap.texts={{emotion: {tmp_path}/test.txt, nq: {tmp_path}/test.txt}}"
    folder = run(files)
    read = lambda name: [json.loads(line) for line in (folder / name).read_text().splitlines()]  # noqa: E731
    assert read("emotion.jsonl") == rows[2:]
    assert [row["query"] for row in read("nq.jsonl")] == TRAINED[2:]
    (tmp_path / "link").symlink_to(tmp_path)
    for place in (tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match=r"give another folder in overlap\.output"):
            run(files, f"overlap.output={place}")  # the only copy of a set is never overwritten
    assert read(tmp_path / "emotion.jsonl") == rows
    assert read(tmp_path / "nq.jsonl") == pairs
    with pytest.raises(UserError, match=r"overlap\.texts"):
        run()
    with pytest.raises(UserError, match="no set 'imdb'"):
        run("overlap.texts={imdb: x.txt}")
    with pytest.raises(UserError, match=r"absent\.txt"):
        run(f"overlap.texts={{emotion: {tmp_path}/absent.txt}}")


def test_mining_says_where_there_is_nothing_to_mine(tmp_path):
    """Sets without retrieval left no file and no word; one document was a traceback."""
    (tmp_path / "labels.jsonl").write_text(
        '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
    )
    words = [f"data.sets={{banking77: {{path: {tmp_path}/labels.jsonl, layout: labelled}}}}"]
    with pytest.raises(UserError, match="no set of retrieval or STS"):
        mine(config(*SETS, *words), Workspace(tmp_path / "run"), None)
    task = EmbeddingTask("nq", "retrieval", "Find it", [EmbeddingRecord("red fox", ("it runs",))])
    write_task(tmp_path / "nq.jsonl", task)
    words = [f"data.sets={{nq: {{path: {tmp_path}/nq.jsonl, layout: records}}}}"]
    with pytest.raises(UserError, match="none is left to be a negative"):
        mine(config(*SETS, *words), Workspace(tmp_path / "run"), None)


def test_the_teacher_works_where_the_config_says(tmp_path, monkeypatch):
    """It stayed on the CPU beside a GPU, for the collection and for the queries."""
    teacher = encoder()
    monkeypatch.setattr(own_tasks, "load_teacher", lambda *_: teacher)
    seen = passes_within_evaluated(monkeypatch, own_tasks)
    passes = []
    teacher.register_forward_hook(lambda *_: passes.append(1))
    words = ["data.source=synthetic", "data.mining.teacher=encoder", "data.mining.encoder=x"]
    mine(config(*words, "trainer.accelerator=auto"), Workspace(tmp_path / "run"), None)
    assert len(passes) == len(seen) > 1
    assert set(seen) == {(teacher, "auto")}
