"""Stage 1: decoding against the opposite instruction, prompts, records."""

import json
import shutil
import warnings

import pytest
import torch

from common.config import UserError
from common.data.lookup import bundled
from common.data.row_map.options import RowMapConfig
from common.data.samplers import sample_rng
from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from projects.multicsr import judges
from projects.multicsr.config import Stage1Config, Stage2Config
from projects.multicsr.contrast import OppositeInstruction, contrastive_answers, opposite_logits
from projects.multicsr.generation import load_model, write_records, written
from projects.multicsr.prompts import (
    EXAMPLES,
    OPPOSITE,
    TASKS,
    generation_prompt,
    parse_sentence,
    similarity_prompt,
)
from tests.projects.multicsr.conftest import TEXTS, answering, config

KINDS = ["causal", "encoder-decoder"]
WANTED = [f"say the same: {text}" for text in TEXTS]
AGAINST = [f"deny what is said here, all of it: {text}" for text in TEXTS]
GREEDY = Policy("greedy")


def step_by_step(model, wanted, opposite, omega, plausibility, count):
    """The loop of the sheet without cache, batch or padding: one row, one token at a time."""
    causal = isinstance(model, LanguageModel)
    chosen = []
    for _ in range(count):
        logits = []
        for prompt in (wanted, opposite):
            if causal:
                ids = torch.tensor([model.token_ids(prompt, special=True) + chosen])
                logits.append(model.model(input_ids=ids).logits[:, -1])
            else:
                decoder = torch.tensor([[0, *chosen]])
                logits.append(
                    model.model(**model.inputs([prompt]), decoder_input_ids=decoder).logits[:, -1]
                )
        token = int(opposite_logits(*logits, omega, plausibility).argmax())
        chosen.append(token)
        if token == model.tokenizer.eos_token_id:
            break
    return chosen


def test_logits_are_a_difference_with_a_plausibility_guard():
    """Checklist 2: l - omega l^; a token far below the likeliest one is never chosen."""
    expected = torch.tensor([[2.0, 1.9, -5.0]])
    opposite = torch.tensor([[4.0, 1.0, -60.0]])
    assert torch.equal(opposite_logits(expected, opposite, 0.0), expected)
    torch.testing.assert_close(
        opposite_logits(expected, opposite, 0.5), torch.tensor([[0.0, 1.4, 25.0]])
    )
    guarded = opposite_logits(expected, opposite, 0.5, 0.1)
    assert guarded.argmax() == 1
    assert guarded[0, 2] == -torch.inf


@pytest.mark.parametrize("kind", KINDS)
def test_without_weight_it_is_greedy_decoding_token_by_token(models, kind):
    """Checklist 2: omega = 0, with and without the guard, in a batch of unequal prompts."""
    model = models[kind]
    rngs = [sample_rng(0, 0, i) for i in range(len(WANTED))]
    plain = model.continuations(WANTED, GREEDY, rngs, 8)
    for guard in (0.0, 0.1):
        actual = contrastive_answers(
            model, WANTED, AGAINST, omega=0.0, plausibility=guard, max_new_tokens=8, batch_size=3
        )
        assert [c.num_tokens for c in actual] == [c.num_tokens for c in plain]
        assert [c.text for c in actual] == [c.text for c in plain]
    against = contrastive_answers(model, WANTED, AGAINST, omega=0.9, max_new_tokens=8)
    assert [c.text for c in against] != [c.text for c in actual]


@pytest.mark.parametrize("kind", KINDS)
def test_penalties_that_a_model_brings_along_choose_no_token(
    kind, model_folders, tmp_path, monkeypatch
):
    """Checklist 2: greedy is the logits' best token, whatever generation_config.json says."""
    source = bundled("models/stories260k") if kind == "causal" else model_folders[kind]
    folder = shutil.copytree(source, tmp_path / "model")
    path = folder / "generation_config.json"
    brought = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "num_beams": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | brought))

    def answers(model):
        actual = contrastive_answers(model, WANTED, AGAINST, omega=0.0, max_new_tokens=12)
        return [c.text for c in actual]

    plain = answers(load_model(str(source)))
    assert answers(load_model(str(folder))) == plain
    # the twin: they would choose
    monkeypatch.setattr("common.decoding.policies._NEUTRAL", {"do_sample": False})
    assert answers(load_model(str(folder))) != plain


@pytest.mark.parametrize("kind", KINDS)
def test_both_branches_have_the_same_prefix(models, kind):
    """Checklist 2: cached batches choose what a loop over single rows chooses, token by token."""
    model = models[kind]
    with torch.no_grad():
        expected = [
            step_by_step(model, a, b, 0.7, 0.1, 8) for a, b in zip(WANTED, AGAINST, strict=True)
        ]
    actual = contrastive_answers(
        model, WANTED, AGAINST, omega=0.7, plausibility=0.1, max_new_tokens=8, batch_size=4
    )
    if kind == "causal":
        prompts = [model.token_ids(text, special=True) for text in WANTED]
        texts = [model.finished(a, b).text for a, b in zip(prompts, expected, strict=True)]
    else:
        texts = [model.tokenizer.decode(row, skip_special_tokens=True) for row in expected]
    assert [c.text for c in actual] == texts
    assert [c.num_tokens for c in actual] == [len(row) for row in expected]


def test_more_weight_chooses_tokens_that_the_opposite_branch_likes_less():
    """Sheet, small check: the opposite logit of the chosen token falls as omega grows."""
    generator = torch.Generator().manual_seed(0)
    expected, opposite = torch.randn(2, 64, 50, generator=generator)
    means = []
    for omega in (0.0, 0.3, 1.0, 3.0):
        token = opposite_logits(expected, opposite, omega).argmax(1, keepdim=True)
        means.append(float(opposite.gather(1, token).mean()))
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 1


def test_draws_at_temperature_one_follow_the_rows_own_stream(models):
    """A row's draw does not depend on its neighbours."""

    def draw(rows, seed):
        rngs = [sample_rng(seed, 0, i) for i in rows]
        actual = contrastive_answers(
            models["causal"],
            [WANTED[i] for i in rows],
            [AGAINST[i] for i in rows],
            omega=0.3,
            max_new_tokens=6,
            rngs=rngs,
        )
        return [c.text for c in actual]

    assert draw([0, 1, 2], 0) == [draw([i], 0)[0] for i in (0, 1, 2)]
    assert draw([0, 1, 2], 0) != draw([0, 1, 2], 1)


def test_the_opposite_of_entailment_is_contradiction_and_vice_versa(models, monkeypatch, tmp_path):
    """Checklist 3: which prompts stage 1 decodes, and against which."""
    assert OPPOSITE == {"entailment": "contradiction", "contradiction": "entailment"}
    seen = []

    def answers(model, wanted, opposite, **options):
        seen.append((wanted[0], opposite[0], options["omega"]))
        return contrastive_answers(model, wanted, opposite, **{**options, "max_new_tokens": 1})

    monkeypatch.setattr("projects.multicsr.generation.contrastive_answers", answers)
    monkeypatch.setattr(
        "projects.multicsr.generation.load_model", lambda name: models["encoder-decoder"]
    )
    write_records(Stage1Config(enabled=True, model="any", omega=0.3), ["it rains"], tmp_path / "on")
    positive, negative = (generation_prompt("it rains", k) for k in ("entailment", "contradiction"))
    assert seen == [(positive, negative, 0.3), (negative, positive, 0.3)]
    seen.clear()
    write_records(Stage1Config(enabled=False, model="any"), ["it rains"], tmp_path / "off")
    assert [omega for *_, omega in seen] == [0.0, 0.0]  # stage 1 off: plain generation


def test_prompts_have_a_task_two_examples_and_an_open_slot():
    for instruction, tasks in TASKS.items():
        for kind, task in tasks.items():
            prompt = generation_prompt("It\n  rains.", kind, instruction)
            assert prompt.startswith(task)
            assert prompt.endswith("Sentence: It rains.\nAnswer:")
            assert prompt.count("Answer:") == 3
            assert all(answer in prompt for _, answer in EXAMPLES[kind])
    assert similarity_prompt("a b", "c").endswith("(a) a b\n(b) c\nSimilarity:")
    assert parse_sentence('\n "He said no." \nmore') == "He said no."
    assert parse_sentence("  \n") == ""


def test_prompts_of_the_config_take_the_place_of_ours(models, tmp_path, monkeypatch):
    """Both branches of stage 1; the kept records are of these prompts alone."""
    seen = []

    def answers(model, wanted, opposite, **options):
        seen.append((wanted[0], opposite[0]))
        return contrastive_answers(model, wanted, opposite, **{**options, "max_new_tokens": 1})

    monkeypatch.setattr("projects.multicsr.generation.contrastive_answers", answers)
    monkeypatch.setattr(
        "projects.multicsr.generation.load_model", lambda name: models["encoder-decoder"]
    )
    words = {"entailment": "{premise} So:", "contradiction": "{premise} But:"}
    options = Stage1Config(enabled=True, model="any", prompts=words)
    write_records(options, ["it {x}\n rains"], tmp_path)
    positive, negative = "it {x} rains So:", "it {x} rains But:"
    assert seen == [(positive, negative), (negative, positive)]
    with pytest.raises(UserError):
        write_records(Stage1Config(enabled=True, model="any"), ["it {x}\n rains"], tmp_path)
    for wrong in ({"entailment": "{premise}"}, {"entailment": "a", "contradiction": "b"}):
        with pytest.raises(ValueError, match=r"stage1\.prompts"):
            Stage1Config(prompts=wrong)


def test_stage_2_asks_with_the_prompt_of_the_config(models, monkeypatch):
    asked = []
    model = models["encoder-decoder"]
    monkeypatch.setattr(judges, "load_model", lambda name: model)
    monkeypatch.setattr(
        model, "continuations", lambda prompts, *args, **options: asked.extend(prompts) or []
    )
    judge = judges.build_lm_judge(Stage2Config(judge="lm", prompt="{first} / {second}?"))
    judge([("it {second} rains", "it\n is wet")], [])
    assert asked == ["it {second} rains / it is wet?"]
    with pytest.raises(ValueError, match=r"stage2\.prompt"):
        Stage2Config(judge="lm", prompt="{first}?")
    with pytest.raises(ValueError, match=r"stage2\.prompt"):
        Stage2Config(judge="words", prompt="{first} {second}")


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ('He said "no."', 'He said "no."'),
        ('"Yes" and "no"', '"Yes" and "no"'),
        ("the dogs'", "the dogs'"),
        ("'It's late.'", "It's late."),
        ("\u201cIt rains.\u201d", "It rains."),
        ('"It rains.', "It rains."),
        ('`"It rains."`', "It rains."),
    ],
)
def test_quotation_marks_around_the_whole_answer_are_left_out(answer, wanted):
    """Those of a part of the sentence are the sentence's own."""
    assert parse_sentence(answer) == wanted


def test_worked_examples_are_in_no_evaluation_set():
    """Sheet, pitfalls: few-shot sentences are not among the evaluation data."""
    from common.data.text.sets import load_nli_triplets, load_sts

    shown = {text for pairs in EXAMPLES.values() for pair in pairs for text in pair}
    sets = [load_sts(None, name) for name in ("stsb-test", "stsb-dev", "sts12", "sts13", "sts14")]
    known = {text for data in sets for text in (*data.first, *data.second)}
    assert not shown & (known | {text for row in load_nli_triplets(None, "test") for text in row})


@pytest.mark.parametrize("kind", KINDS)
def test_generation_from_a_local_folder_goes_on_after_a_stop(model_folders, kind, tmp_path):
    """Checklist 13 and 15: records of index ranges, continued; any local model, no network."""
    options = Stage1Config(
        enabled=True,
        model=model_folders[kind],
        omega=0.3,
        max_new_tokens=5,
        batch_size=2,
        compare_plain=True,
    )
    part = write_records(options, TEXTS, tmp_path / "a", options=RowMapConfig("0/2", chunk_size=1))
    assert not part.complete
    assert part.computed == 2
    whole = write_records(options, TEXTS, tmp_path / "a", options=RowMapConfig(chunk_size=1))
    assert whole.computed == 2
    records = list(whole.rows())
    at_once = write_records(options, TEXTS, tmp_path / "b", options=RowMapConfig(chunk_size=4))
    assert [json.dumps(r) for r in at_once.rows()] == [json.dumps(r) for r in records]
    for record in records:
        for part in record.values():
            assert part["omega"] == 0.3
            assert part["model"] == model_folders[kind]
            assert 0 < part["tokens"] <= 5
            assert isinstance(part["differs"], bool)
    with pytest.raises(UserError, match="another omega"):
        write_records(
            Stage1Config(
                enabled=True,
                model=model_folders[kind],
                omega=0.5,
                max_new_tokens=5,
                batch_size=2,
                compare_plain=True,
            ),
            TEXTS,
            tmp_path / "a",
            options=RowMapConfig(chunk_size=1),
        )


def test_triplets_without_an_answer_are_left_out_with_a_count():
    """Training has fewer triplets than premises, and says by how many."""
    record = {"entailment": {"text": "b"}, "contradiction": {"text": "c"}}
    empty = {**record, "contradiction": {"text": ""}}
    with pytest.warns(UserWarning, match="1 of 2 premises are left out"):
        assert [t.texts for t in written(["a", "x"], [record, empty])] == [("a", "b", "c")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(written(["a", "x"], [record, record])) == 2
    with pytest.raises(UserError, match=r"another stage1\.model"):
        written(["x"], [empty])


def test_a_chat_model_may_open_with_a_line_break(models, monkeypatch, tmp_path):
    """It ends its turn itself; a model that only continues with a text is cut at the line's end."""
    model = models["causal"]
    monkeypatch.setattr("projects.multicsr.generation.load_model", lambda name: model)
    monkeypatch.setattr(model, "continuations", answering("\n\nIt is wet.\nAnything else?"))
    for template, expected in (("{{ messages[0].content }}", "It is wet."), (None, "")):
        monkeypatch.setattr(model.tokenizer, "chat_template", template)
        folder = tmp_path / str(template is None)
        (record,) = write_records(Stage1Config(model="any"), ["it rains"], folder).rows()
        assert {part["text"] for part in record.values()} == {expected}


def test_the_cache_of_the_opposite_branch_reads_each_token_once(models, monkeypatch):
    """The prompt is read at the first step, then one token at a time."""
    lengths = []

    class Counted(OppositeInstruction):
        def _causal(self, new):
            lengths.append(new.shape[1])
            return super()._causal(new)

    monkeypatch.setattr("projects.multicsr.contrast.OppositeInstruction", Counted)
    contrastive_answers(models["causal"], WANTED[:1], AGAINST[:1], omega=0.3, max_new_tokens=5)
    assert lengths[0] == 0
    assert set(lengths[1:]) == {1}


def test_stage_1_needs_generated_triplets():
    """Checklist 1: triplets made elsewhere have no stage 1."""
    with pytest.raises(UserError, match=r"data\.generate=true"):
        config("stage1.enabled=true")
