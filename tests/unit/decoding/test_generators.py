"""Local generators: stop characters, prompt budget, chat templates, encoder-decoder models."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from common.config import UserError
from common.data.samplers import sample_rng
from common.decoding.generators import LocalGenerator, framed, text_generator
from common.decoding.options import Policy, ServerConfig
from common.decoding.prompts import Prompt
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.encoders.text.tiny_tokenizer import tiny_tokenizer

NUCLEUS = Policy("nucleus", temperature=0.9, top_p=0.95)
PROMPTS = ["Once upon a time", "The dog saw a big red ball and", "Tom"]


def streams(count, seed=0):
    return [sample_rng(seed, 0, i) for i in range(count)]


def stories(**options):
    options = {"batch_size": 8, "device": "cpu", **options}
    return text_generator("bundled:stories260k", NUCLEUS, ServerConfig(), **options)


def test_rows_of_a_batch_do_not_influence_each_other():
    """Also where one row stops early and the others go on."""
    generate = stories(stop="\n")
    prompts = [Prompt(text) for text in PROMPTS * 4]
    joint = generate(prompts, streams(12), 40)
    alone = [generate([p], [rng], 40)[0] for p, rng in zip(prompts, streams(12), strict=True)]
    assert joint == alone
    assert joint != generate(prompts, streams(12, seed=7), 40)


def test_a_stop_character_ends_a_row_and_is_left_out():
    free, stopped = (
        stories(stop=stop)([Prompt(t) for t in PROMPTS], streams(3), 60) for stop in (None, ".")
    )
    assert all("." in text for text in free)
    assert stopped == [text.partition(".")[0] for text in free]


def test_over_long_prompts_are_cut_and_end_in_the_suffix():
    generate = stories(prompt_budget=50, cut_suffix=" =>")
    assert generate.fit(Prompt("a small cat =>")) == "a small cat =>"
    cut = generate.fit(Prompt("once upon a time there was a cat " * 30 + "=>"))
    assert cut.endswith(" =>")
    assert len(generate.model.tokenizer(cut)["input_ids"]) <= 50
    with pytest.raises(UserError, match="context of 512"):
        generate([Prompt("a")], streams(1), 477)


def test_a_turn_that_is_cut_keeps_its_frame():
    long = "once upon a time there was a cat " * 30
    generate = stories(prompt_budget=60)
    for prompt in (Prompt(long, " She", turn=True), Prompt(long, " She")):
        cut = generate.fit(prompt)
        assert cut.startswith("once upon a time")
        assert cut.endswith("\n\nAnswer:\n She" if prompt.turn else " She")
        assert 40 < len(generate.model.tokenizer(cut)["input_ids"]) <= 60
    with pytest.raises(UserError, match="raise it to"):
        stories(prompt_budget=10).fit(Prompt(long))
    with pytest.raises(UserError, match="raise it to"):
        stories(prompt_budget=20).fit(Prompt(long, "She had a dog and a cat and", turn=True))


def test_what_is_begun_is_part_of_the_answer():
    class Model:
        tokenizer, context = SimpleNamespace(chat_template=None), 99

        def continuations(self, texts, *_, **options):
            self.texts, self.options = texts, options
            return [SimpleNamespace(text=" b]")] * len(texts)

    model = Model()
    prompts = [Prompt("list", "[a,", turn=True), Prompt("go on")]
    assert LocalGenerator(model, NUCLEUS, 5, stop=".")(prompts, streams(2), 9) == ["[a, b]", " b]"]
    assert model.texts == ["list\n\nAnswer:\n[a,", "go on"]
    assert model.options == {"batch_size": 5, "stop": "."}


def test_chat_models_get_their_template():
    class Chat:
        chat_template, bos_token, bos_token_id = "x", "<s>", 1

        def __init__(self, added):
            self.added = added

        def __call__(self, text):
            return {"input_ids": [*self.added, 7]}

        def apply_chat_template(self, turns, **_):
            return f"<s>[INST] {turns[0]['content']} [/INST]"

    chat = Chat([1])
    assert framed(chat, Prompt("do it", "{", turn=True)) == "[INST] do it [/INST]{"
    assert framed(chat, Prompt("do it")) == "do it"  # a text to continue with
    # nothing else would put it there: tokenizers whose start token opens every turn
    assert framed(Chat([]), Prompt("do it", "{", turn=True)) == "<s>[INST] do it [/INST]{"


def sequence_models():
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "d_model": 16, "decoder_start_token_id": 0, "pad_token_id": 0}
    t5 = T5Config(d_kv=8, d_ff=32, num_layers=1, num_heads=2, eos_token_id=3, **sizes)
    bart = BartConfig(
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=0.5,
        eos_token_id=3,
        bos_token_id=2,
        forced_eos_token_id=None,
        **sizes,
    )
    return [T5ForConditionalGeneration(t5), BartForConditionalGeneration(bart)]


@pytest.mark.parametrize("which", [0, 1])
def test_encoder_decoders_answer_row_by_row(which):
    tokenizer = tiny_tokenizer(300)
    model = SequenceToSequence(sequence_models()[which], tokenizer, "cpu")
    policy = Policy("nucleus", temperature=3.0)
    joint = model.continuations(PROMPTS, policy, streams(3), [4, 9, 6])
    assert [c.num_tokens <= n for c, n in zip(joint, [4, 9, 6], strict=True)] == [True] * 3
    alone = [
        model.continuations([p], policy, [rng], n)[0]
        for p, rng, n in zip(PROMPTS, streams(3), [4, 9, 6], strict=True)
    ]
    assert joint == alone
    assert joint != model.continuations(PROMPTS, policy, streams(3, seed=1), [4, 9, 6])
    long = model.continuations(["the state of " * 200], policy, streams(1), 3)
    assert long[0].num_tokens <= 3
    with pytest.raises(UserError, match="needs a causal model"):
        model.continuations(PROMPTS, Policy("contrastive_search"), streams(3), 4)


@pytest.mark.parametrize("which", [0, 1])
def test_settings_of_an_encoder_decoder_do_not_change_a_policy(which):
    own = {
        "repetition_penalty": 50.0,
        "no_repeat_ngram_size": 1,
        "encoder_no_repeat_ngram_size": 1,
        "num_beams": 3,
    }
    actual = []
    for settings in ({}, own):
        model = SequenceToSequence(sequence_models()[which], tiny_tokenizer(300), "cpu")
        model.model.generation_config.update(**settings)
        actual.append(model.continuations(PROMPTS, Policy("greedy"), streams(3), 9))
    assert actual[0] == actual[1]
    model.model.generation_config.eos_token_id = [
        3,
        *range(4, 300),
    ]  # whatever it writes ends a text
    assert all(c.ended for c in model.continuations(PROMPTS, NUCLEUS, streams(3), 9))


def test_the_factory_knows_encoder_decoders(tmp_path):
    sequence_models()[0].save_pretrained(tmp_path)
    tiny_tokenizer(300).save_pretrained(tmp_path)
    generate = text_generator(str(tmp_path), NUCLEUS, ServerConfig(), device="cpu", batch_size=2)
    assert isinstance(generate.model, SequenceToSequence)
    assert len(generate([Prompt(text) for text in PROMPTS], streams(3), 5)) == 3


def test_the_prompt_of_an_encoder_decoder_does_not_share_its_context():
    model = SequenceToSequence(sequence_models()[1], tiny_tokenizer(300), "cpu")
    long = Prompt("the state of the people " * 30)
    (answer,) = LocalGenerator(model, NUCLEUS, 2, prompt_budget=60)([long], streams(1), 9)
    assert isinstance(answer, str)
    with pytest.raises(UserError, match="^prompt_budget 65 exceed the model's context of 64"):
        LocalGenerator(model, NUCLEUS, 2, prompt_budget=65)([long], streams(1), 9)


def test_stop_tokens_are_looked_for_once():
    tokenizer = tiny_tokenizer(300)
    model, read = SequenceToSequence(sequence_models()[0], tokenizer, "cpu"), []
    decode = tokenizer.decode
    tokenizer.decode = lambda ids, **options: read.append(ids) or decode(ids, **options)
    policy = Policy("greedy")
    first = model.continuations(PROMPTS, policy, streams(3), 2, batch_size=1, stop="e")
    assert 300 <= len(read) < 330
    assert model.continuations(PROMPTS, policy, streams(3), 2, stop="e") == first
    assert len(read) < 330


def test_absent_models_are_user_errors(tmp_path):
    for place in (str(tmp_path / "nothing"), str(tmp_path)):
        with pytest.raises(UserError):
            text_generator(place, NUCLEUS, ServerConfig())
