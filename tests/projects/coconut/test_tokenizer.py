"""Target strings: encode, decode, malformed outputs, both vocabularies."""

import pytest

from common.config import UserError
from common.data.speech.transcripts import SpokenTarget, normalize_transcript
from projects.coconut.speech.special_tokens import EOS, SEP, SOS
from projects.coconut.speech.tokenizer import TranscriptTokenizer, full_text

TARGETS = [
    SpokenTarget("calendar_set", (("date", "next monday"),), "set a meeting on next monday"),
    SpokenTarget("music_play", (), "play the song again"),
    SpokenTarget("alarm_set", (("time", "five"), ("date", "monday")), "wake me at five monday"),
]
TEXTS = [t for x in TARGETS for t in (x.intent, x.transcript, *(k for k, _ in x.slots))]


@pytest.mark.parametrize(("kind", "size"), [("word", 100), ("bpe", 60)])
@pytest.mark.parametrize("slots", [False, True])
def test_targets_come_back(kind, size, slots):
    tokenizer = TranscriptTokenizer.train(TEXTS, kind, size)
    again = TranscriptTokenizer(tokenizer.to_json())
    assert len(tokenizer) <= size
    for target in TARGETS:
        ids = tokenizer.encode_target(target, slots=slots)
        assert (ids[0], ids[-1]) == (SOS, EOS)
        assert again.encode_target(target, slots=slots) == ids
        actual = tokenizer.decode_target([*ids, 0, 0, 9])
        assert actual == (target if slots else target._replace(slots=()))


def test_malformed_outputs_become_empty_parts():
    tokenizer = TranscriptTokenizer.train(TEXTS, "word")
    a, b = tokenizer.encode("play again")
    assert tokenizer.decode_target([SOS, a, b]) == SpokenTarget("play again", (), "")
    assert tokenizer.decode_target([SOS, EOS, a]) == SpokenTarget("", (), "")
    actual = tokenizer.decode_target([SOS, a, SEP, b, SEP, a, EOS])  # a segment without filler
    assert actual == SpokenTarget("play", (), "play")


def test_unknown_words_get_the_unknown_id_and_vanish_when_decoded():
    tokenizer = TranscriptTokenizer.train(TEXTS, "word")
    ids = tokenizer.encode("play zebra")
    assert ids[1] == 1
    assert tokenizer.decode(ids) == "play"


def test_errors():
    with pytest.raises(UserError, match="do not fit into vocab_size=8"):
        TranscriptTokenizer.train(TEXTS, "word", 8)
    with pytest.raises(UserError, match="not a tokenizer"):
        TranscriptTokenizer("[]")


def test_text_of_a_target():
    assert normalize_transcript("  Don't, stop!  NOW ") == "dont stop now"
    assert normalize_transcript("Don\u2019t \u201cstop\u201d \u2018now\u2019") == "dont stop now"
    assert full_text(TARGETS[0]) == "calendar_set set a meeting on next monday"
    assert full_text(TARGETS[0], slots=True).startswith("calendar_set date next monday set a")
