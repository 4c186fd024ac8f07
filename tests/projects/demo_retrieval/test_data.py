"""Template, files, bank and mixtures: items 4, 5, 7, 8, 12 to 19, 22."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch

from common.config import UserError
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.demo_retrieval.bank import Bank, Demonstrations, read_bank, write_bank
from projects.demo_retrieval.batches import EvalRows, InfillRows, infilled
from projects.demo_retrieval.config import DenoiseConfig
from projects.demo_retrieval.questions import BUNDLED, about
from projects.demo_retrieval.retriever import TfidfSvd
from projects.demo_retrieval.sources import read_task
from projects.demo_retrieval.stages import (
    build_module,
    demonstrations_of,
    fills,
    make_bank,
    read_tasks,
    rows_of,
)
from projects.demo_retrieval.template import (
    Encoder,
    Example,
    demonstration_text,
    input_text,
    parse_unifiedqa,
    target_text,
    text_key,
    unifiedqa_line,
)
from tests.projects.demo_retrieval.conftest import config, module_of

WHO = Example("t", "who came?", ("Ann",), "Ann came at noon.", ("Ann", "Bob"), "7")


def encoder_of(**sizes) -> Encoder:
    tokenizer = tiny_tokenizer(700)
    lengths = {"max_source": 200, "max_demo": 80, "max_target": 60, **sizes}
    return Encoder(tokenizer, tokenizer.cls_token_id, **lengths)


def test_item_7_texts_follow_the_template():
    """Checklist 7: order of the parts, one mask, the target repeats the question; ids are those of
    the whole text.
    """
    assert (
        input_text(WHO, "[MASK]")
        == "question: who came? \n answer: [MASK] \n context: (a) Ann (b) Bob \n Ann came at"
        " noon. \n"
    )
    assert target_text(WHO, "Ann") == "question: who came? \n answer: Ann"
    own = encoder_of()
    ids, tokenizer = own.source(WHO, WHO), own.tokenizer
    assert ids.count(own.mask_id) == 1
    text = f"{demonstration_text(WHO)} \n {input_text(WHO, '[MASK]')}"
    assert ids == tokenizer(text)["input_ids"]
    assert own.target(WHO, "Ann") == [*tokenizer(target_text(WHO, "Ann"))["input_ids"][1:]]
    assert own.target(WHO, "Ann")[: len(own.target_head(WHO))] == own.target_head(WHO)


def test_item_8_only_contexts_and_demonstrations_are_cut():
    """Checklist 8: question, mask and template's words stay, whatever is too long."""
    long = WHO._replace(context="noon " * 300, options=())
    own = encoder_of(max_source=70, max_demo=20)
    for demonstration in (None, long):
        ids = own.source(long, demonstration)
        assert len(ids) == 70
        text = own.tokenizer.decode(ids)
        assert ids.count(own.mask_id) == 1
        for part in ("question : who came?", "answer : [MASK]", "context : noon"):
            assert part in text
    with_demo, alone = own.source(WHO, long), own.source(WHO, None)
    assert (
        with_demo[-len(alone) + 1 :] == alone[1:]
    )  # a long demonstration takes nothing of a short input
    assert own.source(WHO, WHO)[1:21] == own.demonstration(WHO)[:20]
    with pytest.raises(UserError, match=r"data\.max_source"):
        own.source(WHO._replace(question="who " * 80), None)
    with pytest.raises(UserError, match=r"data\.max_target"):
        encoder_of(max_target=8).target(WHO, "Ann")
    short = encoder_of(max_target=len(own.target_head(WHO)) + 3).target(WHO, "a very long answer")
    assert short[-1] == own.end
    assert short[:-3] == own.target_head(WHO)


def test_item_18_a_demonstration_keeps_its_answer_whatever_is_cut():
    """Checklist 18, 8: the context is cut first, then the question, by its own limit or by the room
    that an input leaves.
    """
    own = encoder_of(max_source=70, max_demo=20)
    for long in (
        WHO._replace(context="noon " * 99),
        WHO._replace(question="who came? " * 30),
        WHO._replace(question="who? " * 30, context="noon " * 99),
    ):
        text = own.tokenizer.decode(own.demonstration(long))
        assert "answer : ann" in text
        assert text.startswith("question : who")
        assert len(own.demonstration(long)) == 20
    busy = WHO._replace(context="noon " * 99, options=())
    room = own.tokenizer.decode(own.source(busy, WHO._replace(question="who came? " * 30)))
    assert "answer : ann" in room.partition("[MASK]")[0]
    assert len(own.demonstration(WHO, 3)) == 3
    longest = own.demonstration(WHO._replace(answers=("noon " * 99,)))
    assert own.tokenizer.decode(longest).startswith("question : answer : noon")


def test_demonstrations_of_many_candidates_do_not_list_them():
    """`data.max_options` is that of inputs and demonstrations; there are letters for 26."""
    many = WHO._replace(options=("Ann", "Bob", "Eve"))
    for own, shown in ((encoder_of(max_options=3), True), (encoder_of(max_options=2), False)):
        assert ("bob" in own.tokenizer.decode(own.demonstration(many))) == shown
        assert ("bob" in own.tokenizer.decode(own.source(many, None))) == shown


def test_item_7_texts_hold_no_special_tokens():
    """Checklist 7: a text that names the mask or the end is plain text; infilling still masks."""
    own = encoder_of()
    odd = Example("t", "what is [MASK]?", ("[SEP]",), "a [MASK] and a [SEP].", (), "0")
    ids = own.source(odd, odd)
    assert ids.count(own.mask_id) == 1
    assert ids.count(own.end) == 1
    assert own.target(odd, "[SEP]").count(own.end) == 1
    assert own.masked("a [MASK] b") == [*own.ids("a"), own.mask_id, *own.ids("b")]
    assert own.masked("[MASK]") == [own.mask_id]
    rows = InfillRows(["a cat sat on the mat " * 3], own, DenoiseConfig(), 0)
    batch = rows[[(0, 0)]]
    assert own.mask_id in batch["input_ids"]
    assert own.mask_id not in batch["labels"]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("(a) h2o (s) (b) f(x) = 2 (c) iron", ("h2o (s)", "f(x) = 2", "iron")),
        ("(a) f(b) (b) x", ("f(b)", "x")),
        ("(a) (c) (b) y", ("(c)", "y")),
        ("(a) x", ("x",)),
    ],
)
def test_item_12_only_the_next_letter_begins_an_option(text, want):
    """Checklist 12: brackets inside options don't tear them."""
    actual = parse_unifiedqa(f"which? \\n {text}\t{want[0]}", "t")
    assert actual.options == want
    assert unifiedqa_line(actual).partition("\t")[0] == f"which? \\n {text}"


def test_item_12_unifiedqa_lines_round_trip():
    """Checklist 12: literal separators, options, missing context, several contexts."""
    lines = [
        "who came? \\n (a) ann (b) bob lee \\n ann came.\tann",
        "who came? \\n ann came.\tann",
        "who came?\tann",
        "which? \\n (a) x (b) y\tx",
        "who? \\n first. \\n second.\tann",
    ]
    actual = [parse_unifiedqa(line, "unifiedqa/x", i) for i, line in enumerate(lines)]
    assert [unifiedqa_line(e) for e in actual] == lines
    assert actual[0][1:5] == ("who came?", ("ann",), "ann came.", ("ann", "bob lee"))
    assert actual[1].options == () and actual[1].context == "ann came."  # noqa: PT018
    assert (actual[2].context, actual[3].context) == ("", "")
    assert actual[4].context == "first. \n second."
    assert "\\n" not in input_text(actual[0], "_")
    assert parse_unifiedqa("'who?' \\n x\t'ann'", "t").answers == ("ann",)
    with pytest.raises(UserError, match="line 4"):
        parse_unifiedqa("no tab", "t", 3)


def test_item_12_unifiedqa_lines_are_lower_cased_and_hold_several_answers():
    """Checklist 12: the released files are cased; answers joined by slashes are all accepted, the
    first is trained on.
    """
    cased = parse_unifiedqa("Who? \\n (A) Ann (B) Bob \\n Ann came.\tAnn", "t")
    assert cased[1:5] == ("who?", ("ann",), "ann came.", ("ann", "bob"))
    # quoref's contrast sets have two columns, the aggregated natural questions name the first
    # answer again
    for line in (
        "who?\\nAnn came.\tAnn Lee///ANN LEE///Ann///",
        "who?\\nAnn came.\tAnn Lee///Ann\tAnn Lee",
    ):
        several = parse_unifiedqa(line, "t")
        assert several.answers == ("ann lee", "ann")
        assert target_text(several, several.answers[0]) == "question: who? \n answer: ann lee"
        assert unifiedqa_line(several) == "who? \\n ann came.\tann lee///ann"
    assert parse_unifiedqa("who?\t ", "t").answers == ("",)


# -- the bank ------------------------------------------------------------------------------------


def small_bank(count=12, key="full", **options) -> Bank:
    words = ["cat", "dog", "sun", "rain", "coin", "bank"]
    rows = [
        Example(
            f"task{i % 3}", "what is it?", (words[i % 6],), f"{words[i % 6]} number {i}", (), str(i)
        )
        for i in range(count)
    ]
    texts = [demonstration_text(e) for e in rows]
    return Bank(rows, TfidfSvd.fit(texts, 8), key, **options)


def test_item_4_an_input_is_never_its_own_demonstration():
    """Checklist 4: by id and by text, in every selection; K items always."""
    bank = small_bank()
    same_id, same_text = bank.examples[0], bank.examples[5]._replace(id="", task="other")
    inputs = [same_id, same_text, *bank.examples]
    hits = bank.nearest(inputs, 9)
    assert hits.positions.shape == (14, 9)
    for example, row in zip(inputs, hits.positions, strict=True):
        assert len(set(row)) == 9
        assert all(text_key(bank.examples[i]) != text_key(example) for i in row)
    assert bank.nearest([same_text._replace(context="new")], 1).positions.shape == (1, 1)
    rng = np.random.default_rng(0)
    for same_task, k in ((True, 3), (False, 11)):
        for _ in range(20):
            drawn = bank.at_random(bank.examples[3], k, rng, same_task=same_task)
            assert len(set(drawn)) == k
            assert 3 not in drawn
            if same_task:
                assert {bank.examples[i].task for i in drawn} == {"task0"}
    with pytest.raises(UserError, match=r"method\.k=12"):
        bank.nearest(bank.examples, 12)
    with pytest.raises(UserError, match=r"method\.k=4"):
        bank.at_random(bank.examples[3], 4, rng, same_task=True)


def test_what_a_query_reads_and_how_its_scores_are_scaled():
    """Checklist 4: the answer is not a part of the query; copies are found by id alone, too; scores
    are scaled.
    """
    bank, asked = small_bank(), []

    class Spy(TfidfSvd):
        def questions(self, texts):
            asked.extend(texts)
            return super().questions(texts)

    bank.retriever = Spy(bank.retriever.terms, bank.retriever.idf, bank.retriever.components)
    query = Example("task0", "what is it?", ("dog",), "number 99", ("cat", "dog"), "q")
    plain, scaled = bank.nearest([query], 4), bank.nearest([query], 4, 3.0)
    assert asked == ["what is it? number 99"] * 2
    assert plain.scores.abs().max() > 0
    torch.testing.assert_close(scaled.scores, 3 * plain.scores)
    same_id = bank.examples[4]._replace(question="another?", context="other words")
    assert bank.own(same_id) == [4]
    assert 4 not in bank.nearest([same_id], 11).positions
    assert bank.own(same_id._replace(task="other")) == []


def test_training_inputs_are_searched_once(tmp_path):
    """The cache keeps what they found under bank, inputs, K and scale; a second start encodes
    nothing.
    """
    plain, calls = small_bank(cache=str(tmp_path)), []

    class Counting(TfidfSvd):
        def questions(self, texts):
            calls.append(len(texts))
            return super().questions(texts)

    own = Counting(plain.retriever.terms, plain.retriever.idf, plain.retriever.components)
    bank = Bank(plain.examples, own, "full", str(tmp_path))
    shown = Demonstrations(bank, "retrieved", 2, 1.0)
    first, again = (shown.fixed(bank.examples[:5], kept=True) for _ in range(2))
    assert calls == [5]
    want = plain.nearest(bank.examples[:5], 2)
    for actual in (first, again):
        assert np.array_equal(actual.positions, want.positions)
        assert torch.equal(actual.scores, want.scores)
    bank.nearest_kept([e._replace(id="") for e in bank.examples[:5]], 2)
    bank.nearest_kept(bank.examples[:5], 3)
    bank.nearest_kept(bank.examples[:5], 2, 2.0)
    assert len(calls) == 4
    for other in ({"options": ("a",)}, {"task": "other"}):  # both say what else is a copy
        bank.nearest_kept([e._replace(id="", **other) for e in bank.examples[:5]], 2)
    assert len(calls) == 6


def test_items_14_and_18_the_index_is_built_once_and_hashed(tmp_path):
    """Checklist 14, 18: cached under encoder, texts and key; each change makes another; the key has
    the answer or not.
    """
    calls = []

    class Counting(TfidfSvd):
        def demonstrations(self, texts):
            calls.append(list(texts))
            return super().demonstrations(texts)

    plain = small_bank()
    own = Counting(plain.retriever.terms, plain.retriever.idf, plain.retriever.components)
    banks = [Bank(plain.examples, own, "full", str(tmp_path)) for _ in range(2)]
    assert len(calls) == 1
    assert torch.equal(banks[0].vectors, banks[1].vectors)
    torch.testing.assert_close(banks[0].vectors, plain.vectors)
    assert "answer: cat" in calls[0][0]
    other = Counting(own.terms, own.idf, 2 * own.components)
    Bank(plain.examples, other, "full", str(tmp_path))
    Bank(plain.examples[1:], own, "full", str(tmp_path))
    Bank(plain.examples, own, "question_context", str(tmp_path))
    assert len(calls) == 4
    assert "answer" not in calls[-1][0]
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_item_18_demonstrations_are_labelled():
    """Checklist 18: question, answer and context; without the answer by a switch."""
    assert (
        demonstration_text(WHO, options=False)
        == "question: who came? \n answer: Ann \n context: Ann came at noon."
    )
    assert "Ann \n" not in demonstration_text(
        WHO._replace(context="x"), answer=False, options=False
    )
    texts = {}
    for shown in ("true", "false"):
        module, tasks = module_of(f"data.demo_answers={shown}")
        rows = rows_of(module.cfg, module, tasks.meta, 4)
        _, demos, _ = rows.chosen(0, 0)
        texts[shown] = module.tokenizer.decode(module.encoder.demonstration(demos[0]))
        assert ("answer" in texts[shown]) == (shown == "true")


def test_item_16_one_index_holds_many_tasks_and_hits_cross_them():
    """Checklist 16: nearest of all tasks; the share of other tasks is that of the hits."""
    bank = small_bank()
    assert len(bank.by_task) == 3
    query = Example("task0", "what is it?", (), "dog number 99", (), "q")
    shown = [bank.examples[i] for i in bank.nearest([query], 2).positions[0]]
    assert {e.answers[0] for e in shown} == {"dog"}
    assert all(e.task == "task1" for e in shown)


def test_a_bank_file_round_trips_and_says_what_is_wrong(tmp_path):
    path = tmp_path / "bank.jsonl"
    write_bank(path, [WHO, WHO._replace(id="8", options=())])
    assert read_bank(path)[0] == WHO
    path.write_text(
        '{"question": "x", "answer": 3, "context": null, "options": null, "task": null}\n'
    )
    assert read_bank(path) == [Example("bank", "x", ("3",), "", (), "0")]
    for row, said in (
        ({"question": "x"}, "has no answer"),
        ({"answer": "x"}, "expected question"),
        ({"question": "x", "answer": None}, "has no answer"),
        ({"question": "x", "answers": "yes"}, "answers must be a list"),
        ({"question": "x", "answer": "y", "options": "yes"}, "row 1: options must be a list"),
        ({"question": "x", "answers": [None]}, "answers must be a list"),
        ({"question": "x", "answer": True}, "answer must be a text"),
        ({"question": {}, "answer": "y"}, "question must be a text"),
    ):
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(UserError, match=said):
            read_bank(path)


# -- tasks ---------------------------------------------------------------------------------------


def official(root):
    """Tiny files in the official formats of UnifiedQA, CrossFit and MRQA, with copies of each
    other's rows.
    """

    def write(name, lines):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")

    squad = [
        "who sat 1? \\n (Cats) the cat 1 sat.\tcat 1",
        "who sat 50? \\n (Cats (animals)) the cat 50 sat.\tcat 50",
    ]
    write("unifiedqa/squad1_1/train.tsv", squad)
    write("unifiedqa/contrast_sets_boolq/train.tsv", ["is it? \\n (Cats) it is.\tyes"])
    write(
        "crossfit/tweet_qa/tweet_qa_2_42_train.tsv",
        [
            "question: What 3? (A) x (B) y context: Text 3.\tx",
            "question: Who sat 52? context: The cat 52 sat.\tcat 52",
        ],
    )
    write(
        "unifiedqa/race/train.tsv",
        [f"What {i}? \\n (A) x (B) y \\n Text {i}.\tx" for i in range(6)]
        + ["who sat 51? \\n the cat 51 sat.\tcat 51"],
    )
    for task, labels in (
        ("glue-qnli", ("entailment", "not_entailment")),
        ("trec", ("NUM", "LOC")),
        ("ag_news", ("World", "Sports")),
    ):
        for part, start in (("train", 0), ("dev", 10), ("test", 20)):
            rows = [f"text {task} {start + i}\t{labels[i % 2]}" for i in range(4)]
            write(f"crossfit/{task}/{task}_2_42_{part}.tsv", rows)

    def mrqa(numbers):
        rows = [
            {
                "context": f"the cat {i} sat.",
                "qas": [
                    {"qid": f"q{i}", "question": f"who sat {i}?", "answers": [f"cat {i}", "cat"]}
                ],
            }
            for i in numbers
        ]
        return ['{"header": {}}', *(json.dumps(r) for r in rows)]

    write("mrqa/squad/squad-train-seed-42-num-examples-4.jsonl", mrqa(range(1, 5)))
    write("mrqa/squad/squad-train-seed-42-num-examples-1024.jsonl", mrqa(range(3, 12)))
    write("mrqa/squad/dev.jsonl", mrqa(range(50, 54)))
    return root


OFFICIAL = [
    "data.targets=[mrqa/squad,crossfit/glue-qnli,crossfit/trec]",
    "data.meta=[unifiedqa/*,crossfit/*]",
    "data.bank=[unifiedqa/*]",
    "data.shots=2",
    "data.qa_shots=4",
    "data.split_seed=42",
    "denoise.max_steps=0",
    "data.bank_targets=false",
]


def test_items_5_and_22_the_manifest_of_official_files(tmp_path):
    """Checklist 5, 22: meta = UnifiedQA + CrossFit, bank = UnifiedQA; evaluated texts are removed,
    their data sets too unless asked.
    """
    words = [f"data.root={official(tmp_path)}", *OFFICIAL]
    strict = read_tasks(config(*words)).manifest()
    assert strict["meta"] == {"unifiedqa/race": 6, "crossfit/ag_news": 4, "crossfit/tweet_qa": 1}
    assert strict["bank"] == {"unifiedqa/race": 6}
    assert strict["left_out"] == ["unifiedqa/squad1_1"]
    assert strict["removed"] == 2  # "who sat 51?" and "Who sat 52?" are test questions
    kept = read_tasks(config(*words, "data.exclude_eval_tasks=false"))
    assert set(kept.manifest()["bank"]) == {"unifiedqa/race", "unifiedqa/squad1_1"}
    assert kept.manifest()["bank"]["unifiedqa/squad1_1"] == 1
    evaluated = {text_key(e) for t in kept.targets for e in (*t.dev, *t.test)}
    trained = {text_key(e) for e in kept.bank} | {text_key(e) for t in kept.meta for e in t.train}
    assert evaluated
    assert not evaluated & trained
    assert all(
        name.partition("/")[0] in ("unifiedqa", "crossfit") for name in kept.manifest()["meta"]
    )
    own = read_tasks(config(*words, "data.bank_targets=true")).manifest()
    assert {"mrqa/squad", "crossfit/trec"} <= set(own["bank"])


@pytest.mark.parametrize("name", ["paper", "paper_trec"])
def test_item_22_the_paper_s_configs_read_both_collections_and_keep_one_in_the_bank(name, tmp_path):
    """Checklist 22: UnifiedQA + CrossFit, bank of UnifiedQA alone, no set of the target."""
    sizes = ("data.shots=2", "data.dev_shots=2", "data.qa_shots=4")
    actual = read_tasks(config(f"data.root={official(tmp_path)}", *sizes, name=name)).manifest()
    others = {"unifiedqa/race", "unifiedqa/squad1_1", "crossfit/ag_news", "crossfit/tweet_qa"}
    others |= {"crossfit/glue-qnli", "crossfit/trec"}
    barred = {"unifiedqa/squad1_1"} if name == "paper" else {"crossfit/trec"}
    assert actual["meta"].keys() == others - barred
    assert actual["bank"].keys() == {n for n in others - barred if n.startswith("unifiedqa/")}


def test_item_5_evaluated_texts_leave_every_training_part(tmp_path):
    """Checklist 5: test and development texts are taken out of the target's own official training
    part and of the bank, and counted.
    """
    root = official(tmp_path)
    trec = root / "crossfit/trec/trec_2_42_train.tsv"
    trec.write_text(trec.read_text() + "text trec 20\tNUM\nText TREC 10!\tLOC\n")
    race = root / "unifiedqa/race/train.tsv"
    cfg = config(f"data.root={root}", *OFFICIAL)
    asked = read_task("mrqa/squad", cfg.data, 0, target=True).dev[0]
    race.write_text(
        race.read_text() + f"{asked.question} \\n {asked.context}\t{asked.answers[0]}\n"
    )
    tasks = read_tasks(cfg)
    assert [len(t.train) for t in tasks.targets] == [4, 4, 4]
    assert tasks.removed == 5
    assert tasks.manifest()["bank"] == {"unifiedqa/race": 6}
    trec.write_text("text trec 20\tNUM\ntext trec 21\tLOC\n")
    with pytest.raises(UserError, match="crossfit/trec are evaluated"):
        read_tasks(cfg)


def test_item_22_a_data_set_has_one_name_in_all_collections():
    """Checklist 22: what data.exclude_eval_tasks leaves out, whatever the collection calls it."""
    for same in (
        ("mrqa/hotpotqa", "crossfit/hotpot_qa", "crossfit/kilt_hotpotqa"),
        ("mrqa/searchqa", "crossfit/search_qa", "crossfit/jeopardy"),
        (
            "mrqa/naturalquestions",
            "crossfit/kilt_nq",
            "unifiedqa/natural_questions_with_dpr_para",
            "unifiedqa/ambigqa",
        ),
        (
            "mrqa/squad",
            "mrqa/SQuAD",
            "unifiedqa/squad2",
            "crossfit/squad-no_context",
            "crossfit/lama-squad",
        ),
        ("mrqa/triviaqa", "crossfit/freebase_qa"),
        ("mrqa/newsqa", "unifiedqa/newsqa"),
        ("crossfit/glue-rte", "crossfit/superglue-rte"),
        ("crossfit/glue-mnli", "crossfit/glue-mnli-mismatched"),
        ("crossfit/boolq", "unifiedqa/boolq", "unifiedqa/contrast_sets_boolq"),
        ("choices", "crossfit/openbookqa", "unifiedqa/openbookqa_with_ir"),
        ("crossfit/qasc", "unifiedqa/qasc_with_ir"),
        ("crossfit/race-high", "unifiedqa/race_string"),
        ("crossfit/ai2_arc", "unifiedqa/arc_hard"),
        ("crossfit/piqa", "unifiedqa/physical_iqa"),
        ("crossfit/trec", "crossfit/trec-finegrained"),
        ("qnli", "crossfit/glue-qnli"),
    ):
        assert len({about(name)["same"] for name in same}) == 1, same
    others = (
        "crossfit/hellaswag",
        "crossfit/swag",
        "crossfit/glue-mrpc",
        "crossfit/glue-qqp",
        "crossfit/paws",
        "mrqa/bioasq",
        "snips",
    )
    assert len({about(name)["same"] for name in others}) == len(others)


def test_a_split_of_another_size_keeps_its_seed(tmp_path):
    """Checklist 15: CrossFit's tasks without classes have 32 examples; the seed of the draw goes
    before the size.
    """
    folder = tmp_path / "crossfit/piqa"
    folder.mkdir(parents=True)
    for seed in (100, 13, 42):
        (folder / f"piqa_32_{seed}_train.tsv").write_text(f"text {seed}\tyes\n")
    cfg = config(f"data.root={tmp_path}")
    assert read_task("crossfit/piqa", cfg.data, 42).train[0].context == "text 42"
    assert read_task("crossfit/piqa", cfg.data, 43).train[0].context == "text 100"
    (folder / "piqa_4_13_train.tsv").write_text("text 4\tyes\n")
    assert (
        read_task("crossfit/piqa", cfg.data, 43).train[0].context == "text 4"
    )  # of as many examples


def test_the_mismatched_genres_of_mnli(tmp_path):
    """CrossFit's training part with GLUE's own development file of the other genres, in CrossFit's
    words.
    """
    labels = ("entailment", "neutral", "contradiction")
    folder = tmp_path / "crossfit/glue-mnli"
    folder.mkdir(parents=True)
    for part, start in (("train", 0), ("dev", 10), ("test", 20)):
        rows = [
            f"premise: text {start + i} [SEP] hypothesis: it\t{label}"
            for i, label in enumerate(labels)
        ]
        (folder / f"glue-mnli_1_42_{part}.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "MNLI").mkdir()
    (tmp_path / "MNLI/dev_mismatched.tsv").write_text(
        "index\tsentence1\tsentence2\tgold_label\n0\tA  cat.\tAn animal.\tentailment\n1\tx\ty\t-\n"
    )
    cfg = config(f"data.root={tmp_path}", "data.shots=1", "data.split_seed=42")
    plain, other = (
        read_task(f"crossfit/glue-mnli{m}", cfg.data, 0, target=True) for m in ("", "-mismatched")
    )
    assert [e.context for e in other.train] == [e.context for e in plain.train]
    assert [e.answers for e in other.dev] == [("yes",), ("maybe",), ("no",)]
    assert [(e.context, e.answers) for e in other.test] == [
        ("premise: A cat. [SEP] hypothesis: An animal.", ("yes",))
    ]
    assert plain.test[0].context == "premise: text 20 [SEP] hypothesis: it"
    assert other.labels == ("maybe", "no", "yes") == other.test[0].options


def test_item_19_official_files_of_three_families(tmp_path):
    """Checklist 19: SQuAD, QNLI and TREC through one template; labels as words; development part
    without training examples.
    """
    cfg = config(f"data.root={official(tmp_path)}", *OFFICIAL)
    squad, qnli, trec = read_tasks(cfg).targets
    assert [t.family for t in (squad, qnli, trec)] == ["qa", "nli", "classification"]
    assert squad.test[0].answers == ("cat 50", "cat")
    assert (len(squad.train), len(squad.dev), len(squad.test)) == (4, 4, 4)
    assert not {e.question for e in squad.train} & {e.question for e in squad.dev}
    assert qnli.labels == ("no", "yes")
    assert qnli.train[0].question == "does the sentence answer the question?"
    assert trec.labels == ("LOC", "NUM")
    module = build_module(cfg, make_bank(cfg, read_tasks(cfg)))
    for task in (squad, qnli, trec):
        rows = EvalRows(task.test, module.encoder, demonstrations_of(cfg, module.bank), 0)
        batch = rows.collate([0, 1])
        for ids in batch["input_ids"]:
            assert int((ids == module.encoder.mask_id).sum()) == 1
    with pytest.raises(UserError, match="does not exist"):
        read_tasks(config(f"data.root={tmp_path}", *OFFICIAL, "data.split_seed=7"))
    with pytest.raises(UserError, match="nearest|unknown task|did you mean"):
        read_tasks(config("data.targets=[snip]"))


def test_bundled_tasks_have_their_parts_and_none_overlap():
    """Every bundled task reads; training, development and test part share no text (item 5)."""
    cfg = config(name="mini")
    sizes = {}
    for name in BUNDLED:
        task = read_task(name, cfg.data, 0)
        sizes[name] = len(task.train)
        assert task.family == about(name)["family"]
        assert bool(task.labels) == (task.family != "qa")
    assert min(sizes.values()) >= 300
    for name, classes, count in (("snips", 7, 700), ("banking20", 20, 800)):
        task = read_task(name, cfg.data, 3, target=True)
        assert (len(task.labels), len(task.train), len(task.test)) == (classes, 16 * classes, count)
        assert set(Counter(e.answers[0] for e in task.train).values()) == {16}
        parts = [{text_key(e) for e in p} for p in (task.train, task.dev, task.test)]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        again = read_task(name, cfg.data, 4, target=True)
        assert {text_key(e) for e in again.train} != parts[0]


def test_item_13_the_mixture_has_the_proportions_of_the_config():
    """Checklist 13: min(n, cap), or uniform; an epoch covers every task, and says so."""
    words = [
        "data.targets=[made_up_qa]",
        "data.meta=[made_up_nli,made_up_topic,made_up_other]",
        "data.bank=[made_up_other]",
    ]
    for more, want in (([], [120, 120, 120]), (["data.task_cap=50"], [50, 50, 50])):
        module, tasks = module_of(*words, *more)
        rows = rows_of(module.cfg, module, tasks.meta, 4)
        assert list(rows.counts().values()) == want
        seen = Counter(rows.chosen(i, 1)[0].task for i in range(len(rows)))
        assert dict(seen) == rows.counts()
    module, tasks = module_of("data.mixing=uniform", "data.qa_shots=12", *words[:1])
    task = tasks.meta[0]
    from dataclasses import replace

    uneven = [task, replace(task, name="small", train=task.train[:20])]
    rows = rows_of(module.cfg, module, uneven, 4)
    assert list(rows.counts().values()) == [70, 70]
    module.cfg.data.mixing = "proportional"
    assert list(rows_of(module.cfg, module, uneven, 4).counts().values()) == [120, 20]


def test_a_batch_is_that_of_all_processes_of_the_config():
    """Stages are built before the trainer forms the group of processes, where there is one
    alone."""
    module, tasks = module_of("trainer.devices=2")
    assert rows_of(module.cfg, module, tasks.targets, 4).mixture.global_batch_size == 8
    fills(module.cfg, 8, 4, "data.batch_size")
    with pytest.raises(
        UserError, match=r"7 examples .* of 4 on 2 process.*: lower data\.batch_size"
    ):
        fills(module.cfg, 7, 4, "data.batch_size")
    module.cfg.trainer.devices = 1
    fills(module.cfg, 7, 4, "data.batch_size")


@pytest.mark.parametrize(
    ("selection", "k"), [("retrieved", 2), ("random_task", 2), ("random_bank", 2), ("none", 1)]
)
def test_item_17_arms_differ_in_their_demonstrations_alone(selection, k):
    """Checklist 17: the same inputs, targets and code; random ones are drawn anew at every access,
    with equal weights.
    """
    from dataclasses import replace

    module, tasks = module_of(f"method.selection={selection}")
    plain, _ = module_of()
    rows, base = (rows_of(m.cfg, m, tasks.targets, 4) for m in (module, plain))
    for epoch in (0, 1):
        example, shown, scores = rows.chosen(3, epoch)
        assert example == base.chosen(3, epoch)[0]
        assert len(shown) == len(scores) == k
        if selection == "none":
            assert shown == [None]
        if selection == "random_task":
            assert {d.task for d in shown} == {example.task}
        if selection.startswith("random"):
            assert scores.tolist() == [0.0, 0.0]
    # one example again and again, over the epochs and over the places of one
    single, several = (
        replace(t, train=t.train[:n]) for t, n in zip(tasks.targets, (1, 9), strict=False)
    )
    module.cfg.data.mixing = "uniform"
    alone, mixed = (rows_of(module.cfg, module, part, 4) for part in ([single], [single, several]))
    keys = [[(0, epoch) for epoch in range(6)], [(i, 0) for i in range(len(mixed))]]
    for own, accesses in zip((alone, mixed), keys, strict=True):
        seen = [
            shown for e, shown, _ in (own.chosen(*key) for key in accesses) if e == single.train[0]
        ]
        assert len(seen) >= 4
        assert (len({tuple(shown) for shown in seen}) > 1) == selection.startswith("random")
    batch = rows[[(i, 0) for i in range(4)]]
    assert batch["input_ids"].shape[0] == 4 * k
    assert torch.equal(batch["labels"], base[[(i, 0) for i in range(4)]]["labels"])
    assert torch.isfinite(module.losses(batch)["loss"])


def test_item_17_passages_stand_in_for_demonstrations(tmp_path):
    """Checklist 17: the RAG baseline; a passage has no question and no answer."""
    (tmp_path / "passages.txt").write_text("cats sleep all day\nrain falls\nthe bank holds coins\n")
    module, tasks = module_of("method.selection=passages", f"data.passages={tmp_path}/passages.txt")
    _, shown, _ = rows_of(module.cfg, module, tasks.targets, 4).chosen(0, 0)
    text = module.tokenizer.decode(module.encoder.demonstration(shown[0]))
    assert text.startswith("context : ")
    assert "question" not in text and "answer" not in text  # noqa: PT018
    with pytest.raises(UserError, match=r"data\.passages"):
        config("method.selection=passages")


def test_evaluation_draws_the_same_random_demonstrations_every_time():
    module, tasks = module_of("method.selection=random_task")
    own = Demonstrations(module.bank, "random_task", 2, 1.0)
    first, second = (EvalRows(tasks.targets[0].test[:5], module.encoder, own, 3) for _ in range(2))
    assert first.places == second.places
    assert first.places != EvalRows(tasks.targets[0].test[:5], module.encoder, own, 4).places


def test_questions_that_do_not_fit_are_left_out_and_counted():
    """One long question among the tasks' examples; the rest trains, and nothing is cut."""
    from dataclasses import replace

    module, tasks = module_of()
    task = tasks.meta[0]
    long = task.train[0]._replace(question="what is it? " * 20)
    rows = rows_of(module.cfg, module, [replace(task, train=(long, *task.train[1:]))], 4)
    assert rows.too_long == {task.name: 1}
    assert rows.counts() == {task.name: 119}
    assert not any(rows.chosen(i, 0)[0] == long for i in range(len(rows)))
    assert module.encoder.fits(task.train[0])
    head = len(module.encoder.target_head(task.train[0]))
    for length, fits in ((head + 2, True), (head + 1, False)):
        assert encoder_of(max_target=length).fits(task.train[0]) == fits
    with pytest.raises(UserError, match="no question fits"):
        rows_of(module.cfg, module, [replace(task, train=(long,))], 4)


def test_infilling_takes_a_share_of_the_words():
    """A mask for each span, never two side by side; words keep their order."""
    words = [str(i) for i in range(40)]
    for seed in range(10):
        left = infilled(words, "_", 0.3, 3.0, np.random.default_rng(seed)).split()
        kept = [w for w in left if w != "_"]
        assert 28 <= len(kept) <= 40
        assert kept == sorted(kept, key=int)
        assert "_" in left
        assert all(not (a == b == "_") for a, b in itertools.pairwise(left))
