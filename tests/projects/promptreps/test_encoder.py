"""Prompts, states, weighted tokens, answers: checklist items 1 to 6 and 8 to 11."""

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.encoders.text.template import plain_ids
from projects.promptreps.config import PromptConfig
from projects.promptreps.encoder import pooled, variant
from projects.promptreps.lexical.lexical_head import (
    ENGLISH_STOP_WORDS,
    InTextTokens,
    expansion_ids,
    impact_vector,
    log1p_relu,
)
from projects.promptreps.lexical.prompted import (
    ChatPrompt,
    prompt_frame,
    render,
    word_groups,
)
from projects.promptreps.prompt import SYSTEM, chat_prompt
from projects.promptreps.stages import zero_shot_encoder
from tests.projects.promptreps.conftest import GOLDEN, TEXTS, config, encoder_of
from tests.unit.losses.golden import fill

LLAMA = (
    "{{ '<|begin|>' }}{% for m in messages %}<|start|>{{ m.role }}<|header|>\n\n{{ m.content | trim"
    " }}<|eot|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|header|>\n\n{%"
    " endif %}"
)
MISTRAL = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('roles must"
    " alternate') }}{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content"
    " }}</s>{% endif %}{% endfor %}"
)
DROPS = MISTRAL.replace("{{ raise_exception('roles must alternate') }}", "")
PASSAGE = (
    'Passage: "{text}". Use one word to represent the passage in a retrieval task. '
    "Make sure your word is in lowercase."
)


class Templated:
    """A tokenizer with a chat template of its own."""

    def __init__(self, template):
        self.tokenizer = encoder_of().lm.tokenizer
        self.tokenizer.chat_template = template

    def __call__(self, options, role="passage"):
        return render(self.tokenizer, chat_prompt(options, role), chat=options.chat)


# -- prompts -------------------------------------------------------------------------------------


def test_item_1_the_assistants_turn_is_open_and_ends_with_a_quote():
    """Checklist 1: the prompt as the paper has it; no end-of-turn token behind the answer."""
    assert (
        Templated(LLAMA)(PromptConfig())
        == f"<|begin|><|start|>system<|header|>\n\n{SYSTEM}<|eot|><|start|>user<|header|>\n\n{PASSAGE}<|eot|><|start|>assistant<|header|>\n\nThe"
        ' word is: "'
    )
    for template in (MISTRAL, DROPS):  # no system role: the sentence begins the user's turn
        assert (
            Templated(template)(PromptConfig())
            == f'<s>[INST] {SYSTEM} {PASSAGE} [/INST]The word is: "'
        )
    plain = f'{SYSTEM}\n{PASSAGE}\nThe word is: "'
    assert Templated(LLAMA)(PromptConfig(chat=False)) == plain == Templated(None)(PromptConfig())
    with pytest.raises(UserError, match="no chat template"):
        Templated(None)(PromptConfig(chat=True))
    with pytest.raises(UserError, match="does not keep the prompt"):
        Templated("{{ messages[0].content | upper }}")(PromptConfig())
    with pytest.raises(ValueError, match="once"):
        ChatPrompt("no place for a text")


def test_item_1_each_part_of_the_prompt_can_be_left_out():
    """Checklist 1, 16: system sentence, one word, lower case, opening of the answer, three
    words."""
    show = Templated(LLAMA)
    assert show(PromptConfig(prefilled=False)).endswith("<|eot|><|start|>assistant<|header|>\n\n")
    assert SYSTEM not in show(PromptConfig(system=False))
    assert "lowercase" not in show(PromptConfig(lowercase=False))
    assert "word" not in show(PromptConfig(words="free")).replace(SYSTEM, "")
    three = show(PromptConfig(words="three"))
    assert "Use three words to represent the passage" in three
    assert "split them by space" in three
    assert three.endswith('The words are: "')


def test_item_1_literal_line_breaks_are_two_characters():
    tokenizer = Templated(LLAMA).tokenizer
    said = chat_prompt(PromptConfig(), "passage")
    real, literal = (prompt_frame(tokenizer, said, literal=flag) for flag in (False, True))
    backslash = plain_ids(tokenizer, ["\\"])[0][0]
    assert backslash not in real.prefix + real.suffix
    assert literal.prefix.count(backslash) == 4  # two line breaks after each header
    assert literal.suffix.count(backslash) == 2


def test_item_8_queries_have_their_own_wording():
    """Checklist 8."""
    show = Templated(None)
    query, passage = show(PromptConfig(), "query"), show(PromptConfig())
    assert query == passage.replace("Passage", "Query").replace("passage", "query")
    encoder = encoder_of()
    assert encoder.frames["query"] != encoder.frames["passage"]
    first, second = (encoder.encode(TEXTS, role)["dense"] for role in ("query", "passage"))
    assert not torch.allclose(first, second, atol=1e-3)


def test_item_3_long_texts_are_cut_and_prompts_are_not():
    """Checklist 3: the length counts the text alone."""
    encoder = encoder_of("model.representation.passage_length=5")
    frame = encoder.frames["passage"]
    (row,) = encoder.rows(["good house " * 50], "passage")
    assert row[: len(frame.prefix)] == frame.prefix
    assert row[-len(frame.suffix) :] == frame.suffix
    assert len(row) == len(frame.prefix) + 5 + len(frame.suffix)
    text = plain_ids(encoder.lm.tokenizer, ["good house " * 50])[0][:5]
    assert row[len(frame.prefix) :][:5] == text
    with pytest.raises(UserError, match="do not fit a model of 256 positions"):
        encoder.rows(["x"], "passage", 250)
    bare = variant(encoder, PromptConfig(framed=False))
    assert bare.rows(["good house"], "query") == [
        plain_ids(encoder.lm.tokenizer, ["good house"])[0]
    ]


# -- dense ---------------------------------------------------------------------------------------


def test_item_2_the_dense_vector_is_the_state_of_the_last_prompt_token():
    """Checklist 2: after the final norm, whatever the padding on its right."""
    encoder = encoder_of()
    lm = encoder.lm
    actual = encoder.encode(TEXTS, "passage", batch_size=4)
    for text, vector in zip(TEXTS, actual["dense"], strict=True):
        (row,) = encoder.rows([text], "passage")
        with torch.no_grad():
            output = lm.model(torch.tensor([row]), output_hidden_states=True)
        state = F.normalize(output.hidden_states[-1][0, -1], dim=0)
        torch.testing.assert_close(vector, state, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            lm.logits(output.hidden_states[-1][0, -1]), output.logits[0, -1], rtol=1e-4, atol=1e-4
        )
    inputs = lm.pad(encoder.rows(TEXTS, "passage"))
    wider = {k: F.pad(v, (0, 7), value=0) for k, v in inputs.items()}
    with torch.no_grad():
        torch.testing.assert_close(lm(**inputs), lm(**wider), rtol=1e-4, atol=1e-5)
    long = encoder_of("model.representation.normalize=false").encode(TEXTS, "passage")["dense"]
    assert not torch.allclose(long.norm(dim=1), torch.ones(4), atol=0.1)
    torch.testing.assert_close(F.normalize(long, dim=1), actual["dense"], rtol=1e-4, atol=1e-5)


def test_item_9_zero_shot_has_nothing_to_train_and_no_graph():
    """Checklist 9: no trainable parameter, inference mode while texts are encoded."""
    encoder = zero_shot_encoder(config())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.training
    seen = []
    encoder.lm.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    encoder.encode(TEXTS, "query")
    assert seen == [True]


def test_vectors_of_a_16_bit_model_have_unit_length():
    """Lengths are taken in float32: rounded ones would rank documents by chance."""
    half = encoder_of("model.weights=bfloat16", "instruct.steps=0")
    dense = half.encode(TEXTS, "passage")["dense"]
    assert dense.dtype == torch.float32
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)


def test_an_empty_text_without_prompt_has_a_vector():
    """Tokenizers without a beginning token, in a row of the table and in the whitened baseline."""
    for kind in ("first_token", "mean"):
        bare = variant(encoder_of(), PromptConfig(framed=False), kind=kind)
        assert bare.lm.tokenizer.bos_token_id is None
        actual = bare.encode(["", "a good house"], "passage")
        alone = bare.encode(["a good house"], "passage")
        assert bool(actual["dense"].isfinite().all())
        torch.testing.assert_close(actual["dense"][1:], alone["dense"], rtol=1e-4, atol=1e-5)


# -- sparse --------------------------------------------------------------------------------------


def golden_in_text():
    vocabulary = GOLDEN["inputs"]["vocabulary"]
    pieces = GOLDEN["inputs"]["word_to_tokens"]
    return InTextTokens(
        lambda word: [vocabulary.index(token) for token in pieces[word]],
        left_out=set(GOLDEN["inputs"]["stopwords"]),
    )


def golden_values():
    return log1p_relu(fill((15,), 0.25, 3.0).detach())


def named(vector):
    return sorted([GOLDEN["inputs"]["vocabulary"][i], w] for i, w in vector.items())


@pytest.mark.parametrize("case", [0, 1])
def test_items_4_and_6_golden_vectors(case):
    """Checklist 4: round(100 log(1 + max(0, logit))) of the tokens of the text; with expansion."""
    expected = GOLDEN["outputs"]["sparse"][case]
    vocabulary = {token: i for i, token in enumerate(GOLDEN["inputs"]["vocabulary"])}
    allowed = expansion_ids(vocabulary)
    assert allowed == GOLDEN["outputs"]["filtered_ids"]
    own = golden_in_text()("The quick brown fox jumps over the lazy dog.")
    actual = impact_vector(
        golden_values(), own, expansion=expected["expansion_tokens"], allowed=allowed
    )
    assert named(actual) == sorted(expected["vector"])


def test_item_5_golden_fallback():
    """Checklist 5: a text of stop words has the ten best tokens of the vocabulary."""
    own = golden_in_text()("The of, a is the.")
    assert own == []
    assert named(impact_vector(golden_values(), own)) == sorted(
        GOLDEN["outputs"]["sparse"][2]["vector_top10"]
    )
    encoder = encoder_of()
    (vector,) = encoder.encode("it is of the", "query")["sparse"]
    assert len(vector) == 10


def test_item_4_weights_are_those_of_the_logits_at_the_texts_own_tokens():
    """Checklist 4: keys are tokens of its words that are no stop words, each encoded alone."""
    encoder = encoder_of()
    text = "The State of these men, made at WORK"
    (vector,) = encoder.encode(text, "passage")["sparse"]
    words = ["state", "men", "made", "work"]
    assert set(vector) == {i for row in plain_ids(encoder.lm.tokenizer, words) for i in row}
    (row,) = encoder.rows([text], "passage")
    with torch.no_grad():
        logits = encoder.lm.model(torch.tensor([row])).logits[0, -1]
    for token, weight in vector.items():
        assert abs(weight - 100 * float(logits[token].clamp(min=0).log1p())) <= 0.51
    assert 0 in encoder.encode(TEXTS, "passage")["sparse"][0].values() or 0 in vector.values()
    wide = encoder_of("model.representation.expansion=3").encode(text, "passage")["sparse"][0]
    assert len(wide) == len(vector) + 3
    assert wide.items() >= vector.items()
    ones = encoder_of("model.representation.weights=ones").encode(text, "passage")["sparse"][0]
    assert ones == dict.fromkeys(vector, 100)


def test_item_6_at_most_128_tokens_of_the_text():
    """Checklist 6: the ones with the largest weights."""
    values = torch.arange(300.0)
    actual = impact_vector(values, list(range(0, 300, 2)))
    assert sorted(actual) == list(range(44, 300, 2))
    assert len(actual) == 128
    assert (
        len(encoder_of("model.representation.most=2").encode(TEXTS[3], "query")["sparse"][0]) == 2
    )


def test_stop_words_are_the_published_list():
    assert len(ENGLISH_STOP_WORDS) == 179
    assert {"i", "wouldn't", "ma", "because"} <= ENGLISH_STOP_WORDS


# -- answers of several tokens -------------------------------------------------------------------


def test_item_10_each_answer_ends_by_itself():
    """Checklist 10: at a token with a quote; neighbours and the ends of others change nothing."""
    encoder = variant(encoder_of(), PromptConfig(framed=False))  # else all rows end alike
    lm, rows = encoder.lm, encoder.rows(TEXTS, "passage")
    free = lm.answer(rows, 6, "\0")
    assert free.counts.tolist() == [6] * 4
    stop = lm.tokenizer.decode([int(free.tokens[0, 2])])
    together = lm.answer(rows, 6, stop)
    for i, row in enumerate(rows):
        text = [lm.tokenizer.decode([t]) for t in free.tokens[i].tolist()]
        ends = [place for place, piece in enumerate(text) if stop in piece]
        expected = max(ends[0], 1) if ends else 6
        assert int(together.counts[i]) == expected
        alone = lm.answer([row], 6, stop)
        assert alone.tokens[0, :expected].tolist() == together.tokens[i, :expected].tolist()
        torch.testing.assert_close(
            alone.states[0, :expected], together.states[i, :expected], rtol=1e-4, atol=1e-4
        )
        assert not together.states[i, expected:].any()
        # states are those that a pass over prompt and answer has, each before its token
        whole = torch.tensor([row + free.tokens[i, : expected - 1].tolist()])
        with torch.no_grad():
            states = lm.all_states(whole, torch.ones_like(whole))[0, len(row) - 1 :]
        torch.testing.assert_close(states, together.states[i, :expected], rtol=1e-3, atol=1e-3)
    assert len(set(together.counts.tolist())) > 1
    with pytest.raises(UserError, match="shorten the texts"):
        lm.answer(rows, 257, '"')


def test_item_11_words_have_mean_states_and_largest_logits():
    """Checklist 11: a token with a space before it opens a word."""
    assert word_groups(["Ġdeep", "er", "▁sea", "s", " x"]) == [[0, 1], [2, 3], [4]]
    states, logits = (
        torch.tensor([[1.0], [3.0], [7.0]]),
        torch.tensor([[5.0, 0.0], [4.0, 2.0], [1.0, 1.0]]),
    )
    vectors, values = pooled(states, logits, [[0, 1], [2]])
    assert vectors.tolist() == [[2.0], [7.0]]
    assert values.tolist() == [[5.0, 2.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "kind",
    [
        "first_word",
        "multi_token_single",
        "multi_token_multi",
        "multi_word_single",
        "multi_word_multi",
    ],
)
def test_items_10_and_11_alternative_representations(kind, monkeypatch):
    """The variants of the paper's table, worked out from one answer."""
    encoder = encoder_of(
        f"model.representation.kind={kind}",
        "model.representation.max_tokens=4",
        "model.representation.normalize=false",
    )
    lm = encoder.lm
    marks = ["Ġa", "b", "Ġc", "d"]
    monkeypatch.setattr(
        lm.tokenizer, "convert_ids_to_tokens", lambda ids: marks[: len(ids)], raising=False
    )
    monkeypatch.setattr(
        lm, "_ends", lambda tokens, stop: torch.zeros(len(list(tokens)), dtype=torch.bool)
    )
    actual = encoder.encode(TEXTS[:2], "query")
    answers = lm.answer(encoder.rows(TEXTS[:2], "query"), 4, '"')
    states = answers.states[0]
    groups = {
        "first_word": [states[:2].mean(0)],
        "multi_token_single": [states.mean(0)],
        "multi_token_multi": list(states),
        "multi_word_single": [torch.stack([states[:2].mean(0), states[2:].mean(0)]).mean(0)],
        "multi_word_multi": [states[:2].mean(0), states[2:].mean(0)],
    }[kind]
    own = actual["owner"] == 0
    torch.testing.assert_close(actual["dense"][own], torch.stack(groups), rtol=1e-4, atol=1e-4)
    assert actual["owner"].tolist() == sorted([0, 1] * len(groups))
    if kind == "multi_token_single":
        best = log1p_relu(lm.logits(states).amax(0))
        for token, weight in actual["sparse"][0].items():
            assert abs(weight - 100 * float(best[token])) <= 0.51


def test_words_of_several_vectors_are_means_of_unit_vectors(monkeypatch):
    """As released: each token's state gets unit length, the mean of a word keeps its own."""
    encoder = encoder_of(
        "model.representation.kind=multi_word_multi", "model.representation.max_tokens=3"
    )
    lm = encoder.lm
    monkeypatch.setattr(
        lm.tokenizer,
        "convert_ids_to_tokens",
        lambda ids: ["a", "b", " c"][: len(ids)],
        raising=False,
    )
    monkeypatch.setattr(
        lm, "_ends", lambda tokens, stop: torch.zeros(len(list(tokens)), dtype=torch.bool)
    )
    actual = encoder.encode(TEXTS[:1], "query")["dense"]
    states = F.normalize(lm.answer(encoder.rows(TEXTS[:1], "query"), 3, '"').states[0], dim=-1)
    torch.testing.assert_close(
        actual, torch.stack([states[:2].mean(0), states[2]]), rtol=1e-4, atol=1e-5
    )
    assert float(actual[0].norm()) < 0.999
    single = variant(encoder, encoder.prompt, kind="multi_word_single").encode(TEXTS[:1], "query")
    assert float(single["dense"].norm()) == pytest.approx(1.0, abs=1e-5)
