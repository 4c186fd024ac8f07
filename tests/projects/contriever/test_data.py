"""Chunks, crops, noise, sources and fine-tuning records: checklist items 7, 8, 9, 11, 14, 15."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.mixture import source_probabilities
from common.data.retrieval.passages import NegativeDraw, PassageRecord
from common.engine.workspace import write_json
from common.families.retrieval.dense import build_dense
from common.families.retrieval.finetuning import questions
from projects.contriever.data import (
    joined,
    pretraining_data,
    question_data,
    requirements,
    token_streams,
    two_views,
    vocabulary_of,
)
from projects.contriever.noise import delete_tokens, mask_with, random_span
from projects.contriever.normalize import plain_punctuation
from projects.contriever.stages import recipe_of
from projects.contriever.stream import SHARD_SETTINGS
from tests.projects.contriever.conftest import GOLDEN, PythonDraws, config


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_dense(config().model)


class Numbered:
    """What the views need of a tokenizer whose ids are numbers that say where a token stands."""

    mask_token_id, all_special_ids = 4, [0, 1, 2, 3, 4]

    def __len__(self) -> int:
        return 5000


def plain(inputs):
    """Ids of every row without padding."""
    return [
        ids[mask.bool()].tolist()
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]


@pytest.mark.parametrize("case", GOLDEN["randomcrop"])
def test_item_14_crops_equal_the_golden_values(case):
    """Checklist 14: start and length of two crops, from the numbers that the release drew."""
    draws = PythonDraws(case["python_random_seed"])
    for name in ("first", "second"):
        start, size = random_span(case["length"], draws, case["ratio_min"], case["ratio_max"])
        assert {"start": start, "len": size} == case[name]


@pytest.mark.parametrize("case", GOLDEN["token_augmentation"])
def test_item_14_deletion_and_masking_equal_the_golden_values(case):
    """Checklist 14: which tokens stay, from the numbers that the release drew."""
    rng = np.random.RandomState(case["numpy_seed"])
    if case.get("op") == "mask":
        actual = mask_with(np.arange(20), rng, case["p"], case["mask_id"])
        assert actual.tolist() == case["out"]
    else:
        assert delete_tokens(np.arange(20), rng, case["p"]).tolist() == case["kept"]


@pytest.mark.parametrize("case", GOLDEN["sampling_coefficient"])
def test_items_11_and_14_source_probabilities_equal_the_golden_values(case):
    """Checklist 11, 14: size to the power of the coefficient; 0 is uniform."""
    assert source_probabilities(case["sizes"], case["coeff"]) == pytest.approx(case["prob"])


@pytest.mark.parametrize(("low", "high"), [(0.05, 0.5), (0.1, 0.5), (0.3, 0.3)])
def test_item_7_two_crops_of_one_chunk_are_independent_and_within_their_lengths(low, high):
    """Checklist 7: both lie in the chunk; lengths span the range; starts and sizes do not
    correlate.
    """
    words = ["data.chunk_length=256", f"data.ratio_min={low}", f"data.ratio_max={high}"]
    views = two_views(config(*words, "data.noise.kind=none"), Numbered())
    chunk = np.arange(1000, 1256)
    rows = []
    for seed in range(400):
        for view in (pair := views(chunk, np.random.default_rng(seed))):
            assert view[0] >= 1000
            assert (np.diff(view) == 1).all()
        rows.append([x for view in pair for x in (len(view), (view[0] - 1000) / (257 - len(view)))])
    sizes, starts = np.array(rows)[:, [0, 2]], np.array(rows)[:, [1, 3]]
    assert sizes.min() >= int(256 * low)
    assert sizes.max() <= int(256 * high)
    if low < high:
        assert sizes.max() - sizes.min() > 0.9 * 256 * (high - low)
        assert abs(np.corrcoef(sizes.T)[0, 1]) < 0.15
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.15
    assert starts.max() > 0.97
    assert (sizes != sizes[:, ::-1]).any() or low == high


def test_item_8_each_crop_loses_tokens_by_itself_and_never_its_special_ones(encoder):
    """Checklist 8: [CLS] and [SEP] stand around what is left, also where nearly all is deleted."""
    words = ["data.noise.probability=0.9", "data.ratio_min=0.5", "data.batch_size=8"]
    for words_now, shorter in ((words, True), ([*words, "data.noise.kind=none"], False)):
        train = pretraining_data(config(*words_now), encoder).train_set
        batch = train[[(i, 0) for i in range(8)]]
        cls, sep = encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id
        both = plain(batch["query"]), plain(batch["key"])
        for row in (*both[0], *both[1]):
            assert (row[0], row[-1]) == (cls, sep)
            assert {cls, sep}.isdisjoint(row[1:-1])
            assert (len(row) < 10) == shorter  # crops have 16 tokens
    views = two_views(config("data.noise.probability=0.5", "data.ratio_min=0.5"), Numbered())
    first, second = views(np.arange(100, 132), np.random.default_rng(0))
    common = range(max(first[0], second[0]), min(first[-1], second[-1]) + 1)
    assert {x for x in first if x in common} != {x for x in second if x in common}


@pytest.mark.parametrize("kind", ["delete", "mask", "replace", "shuffle"])
def test_every_noise_changes_the_views(encoder, kind):
    words = ["data.noise.probability=0.5", "data.ratio_min=0.5"]
    changed = pretraining_data(config(*words, f"data.noise.kind={kind}"), encoder).train_set
    as_is = pretraining_data(config(*words, "data.noise.kind=none"), encoder).train_set
    keys = [(i, 0) for i in range(4)]
    assert plain(changed[keys]["query"]) != plain(as_is[keys]["query"])


def test_inverse_cloze_takes_the_span_out_of_its_context(encoder):
    """The ablation: span and rest give the chunk; now and then the span stays."""
    views = two_views(
        config("data.views=inverse_cloze", "data.cloze_keep=0.25", "data.noise.kind=none"),
        Numbered(),
    )
    chunk, kept = np.arange(100, 132), 0
    for seed in range(200):
        span, context = views(chunk, np.random.default_rng(seed))
        whole = len(context) == len(chunk)
        kept += whole
        assert whole or sorted([*span, *context]) == chunk.tolist()
    assert 30 < kept < 70


def test_item_9_the_vector_of_a_text_does_not_see_padding(encoder):
    """Checklist 9: alone, beside a longer text, and with further padding."""
    inputs = encoder.tokenize(["a short text"])
    with torch.no_grad():
        alone = encoder.eval()(**inputs)
        wide = {k: torch.nn.functional.pad(v, (0, 9)) for k, v in inputs.items()}
        torch.testing.assert_close(encoder(**wide), alone)
        states = encoder.tower.model(**inputs).last_hidden_state
        torch.testing.assert_close(alone, states.mean(1))  # special tokens included
    both = encoder.encode(["a short text", "words " * 20], normalize=False)
    torch.testing.assert_close(both[:1], alone)


def test_item_11_batch_elements_draw_their_source_by_the_coefficient(encoder):
    """Checklist 11: uniform over sources of unequal size, or by their size."""
    shares = []
    for coefficient in (0, 1):
        train = pretraining_data(
            config(f"data.sampling_coefficient={coefficient}"), encoder
        ).train_set
        train.streams[1].shards = [train.streams[1].shards[0][:800]]
        small = type(train.streams[1])(train.streams[1].shards, 32)
        streams = {"first": train.streams[0], "second": small}
        again = type(train)(streams, encoder.tokenizer, train.two_views, coefficient=coefficient)
        drawn = [again.place(i, 0)[0] for i in range(400)]
        shares.append(sum(drawn) / 400)
        expected = [s.num_tokens**coefficient for s in again.streams]
        assert shares[-1] == pytest.approx(expected[1] / sum(expected), abs=0.07)
    assert shares[0] > 2 * shares[1]


def test_chunks_are_disjoint_from_an_offset_that_each_epoch_draws(encoder):
    train = pretraining_data(config(), encoder).train_set
    offsets = {train.offset(0, epoch) for epoch in range(30)}
    assert len(offsets) > 10
    assert offsets <= set(range(32))
    stream = train.streams[0]
    flat = np.concatenate([stream.chunk(i, 5) for i in range(len(stream))])
    assert flat.tolist() == stream.shards[0][5 : 5 + len(flat)].tolist()


@pytest.mark.slow
def test_bundled_sources_hold_a_million_pieces_without_titles():
    """What `mini` trains on; the titles are left for the development queries."""
    from common.encoders.text.tower import load_tokenizer

    tokenizer = load_tokenizer("bundled:text-encoder")
    streams = token_streams(config(name="mini"), tokenizer)
    counts = {name: stream.num_tokens for name, stream in streams.items()}
    assert 250_000 < counts["retrieval-cisi"] < 350_000
    assert 650_000 < counts["retrieval-npl"] < 900_000
    head = tokenizer.decode(streams["retrieval-cisi"].shards[0][:6])
    assert head.startswith("the present study")


def test_short_shards_are_joined_and_not_dropped(tmp_path, encoder):
    """A folder of small files: all of their tokens are read."""
    parts = [np.arange(100 * i, 100 * i + n, dtype=np.uint16) for i, n in enumerate([5, 64, 9, 58])]
    actual = joined(parts, 32)
    assert [len(shard) for shard in actual] == [64, 72]
    assert actual[1].tolist() == [*range(5), *range(200, 209), *range(300, 358)]
    about = {"vocabulary": vocabulary_of(encoder.tokenizer), "shards": 1}
    for i in range(9):
        write_json(tmp_path / f"x/{i}/{SHARD_SETTINGS}", about)
        np.save(tmp_path / f"x/{i}/ids-00000.npy", np.full(20, 50 + i))
    words = [f"data.root={tmp_path}", "data.source=files", "data.sources={x: x}"]
    (stream,) = token_streams(config(*words), encoder.tokenizer).values()
    assert stream.num_tokens == 180


def test_a_source_of_the_config_is_left_out_by_an_empty_path():
    """Mappings are merged: a name that the command line does not give stays."""
    cfg = config("data.sources={wikipedia: '', ccnet: '', mine: mine}", name="paper")
    assert cfg.data.sources == {"mine": "mine"}
    words = [
        "data.source=bundled",
        "data.sources={wikipedia: '', ccnet: ''}",
        "eval.groups.cqadupstack=[]",
        "eval.beir=[retrieval-cisi,retrieval-npl]",
        "eval.answers=[]",
    ]
    assert not config(*words, name="paper").data.sources  # the card's line


def test_texts_are_normalised_as_in_the_release(encoder):
    """Its characters and no others: in the search and in the questions."""
    rough = "\u201ca\u201d \u2019\u2033 \u2013 \u2044 b\u00ad\u0007\u2026"
    plain = "\"a\" ''' - / b..."
    kept = "e\u0301 \u3002 \u200c \uff08 \u00ab  \u0010"
    assert plain_punctuation(rough) == plain
    assert plain_punctuation(kept) == kept
    assert plain_punctuation("a . . . b") == "a ... b"
    recipe = recipe_of(config("eval.normalize_text=true", "eval.lower_case=true"))
    for side in (recipe.queries, recipe.documents):
        assert torch.equal(side(encoder, [rough.upper()]), side(encoder, [plain]))
    batches = question_data(config(), encoder).train_set
    assert batches.prepare(rough + kept) == plain + kept


def test_a_file_of_questions_is_present_wherever_training_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").touch()
    needed = requirements(config("finetune.file=q.jsonl", f"data.root={tmp_path}/elsewhere"))
    assert [r.present for r in needed if r.name == "data: questions"] == [True]


def test_check_asks_for_the_queries_of_a_part(tmp_path):
    """MS MARCO's development queries, before a run ends at them."""
    needed = requirements(config(f"data.root={tmp_path}", name="paper"))
    (own,) = [r for r in needed if r.name == "data: queries of beir/msmarco@dev"]
    assert own.location == str(tmp_path / "beir/msmarco/queries.dev.jsonl")
    assert not own.present


# -- fine-tuning ---------------------------------------------------------------------------------

RECORD = PassageRecord(
    "q", ("p",), tuple(f"n{i}" for i in range(9)), tuple(f"h{i}" for i in range(5))
)


@pytest.mark.parametrize(("ratio", "skip"), [(0.0, 0), (0.3, 0), (1.0, 0), (1.0, 2)])
def test_item_15_negatives_are_hard_with_their_probability_beyond_the_skip(ratio, skip):
    """Checklist 15: n negatives, per-draw probability, first hard ones passed over, no
    repetition."""
    draw = NegativeDraw(3, ratio, skip)
    rows = [draw(RECORD, np.random.default_rng(seed)) for seed in range(300)]
    assert all(len(set(row)) == 3 for row in rows)
    hard = [text for row in rows for text in row if text.startswith("h")]
    assert len(hard) / 900 == pytest.approx(ratio, abs=0.06)
    assert set(hard) == ({f"h{i}" for i in range(skip, 5)} if ratio else set())


def test_item_15_missing_hard_and_random_negatives_are_filled_up():
    """Checklist 15: no more hard ones than there are; then random ones, then other passages."""
    rng = np.random.default_rng(0)
    assert NegativeDraw(3, 1.0, 4)(RECORD, rng)[-1] == "h4"
    bare = replace(RECORD, negatives=(), hard_negatives=("h0",))
    actual = NegativeDraw(3, 1.0)(bare, rng, ["p", "other", "third"])
    assert sorted(actual) == ["h0", "other", "third"]


def test_item_15_batches_of_a_file_hold_golds_then_negatives(tmp_path, encoder):
    """Checklist 15 through the config: titles before texts, normalised, json and jsonl."""
    rows = [
        {
            "question": f"question {i}\u2019s",
            "positive_ctxs": [{"title": "t", "text": f"right {i}"}],
            "negative_ctxs": [{"text": f"wrong {i}"}],
            "hard_negative_ctxs": [{"title": "", "text": f"hard {i}"}],
        }
        for i in range(4)
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = [
        f"data.root={tmp_path}",
        "finetune.num_negatives=1",
        "finetune.negative_hard_ratio=1.0",
    ]
    for name in ("a.json", "b.jsonl"):
        cfg = config(*words, f"finetune.file={name}")
        data = question_data(cfg, encoder)
        batch = data.train_set[[(i, 0) for i in (2, 0)]]
        texts = [encoder.tokenizer.decode(row[1:-1]) for row in plain(batch["key"])]
        assert texts == ["t right 2", "t right 0", "hard 2", "hard 0"]
        assert encoder.tokenizer.decode(plain(batch["query"])[0][1:-1]).startswith("question 2 '")
    cfg = config(*words, "finetune.file=a.json", "finetune.normalize_text=false")
    rough = question_data(cfg, encoder)
    asked = plain(rough.train_set[[(0, 0)]]["query"])[0]
    assert encoder.tokenizer.unk_token_id in asked
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(UserError, match="no question with a positive"):
        questions(config(f"data.root={tmp_path}"), "c.json")


def test_questions_held_out_of_the_sets_are_those_that_are_not_asked():
    """The fine-tuned arms see no query of the evaluation."""
    from common.families.retrieval.evaluation import load_set

    cfg = config(name="mini")
    own = {record.question for record in questions(cfg, None)}
    assert len(own) == 40
    for place in cfg.eval.beir:
        data = load_set(cfg, place)
        assert own.isdisjoint(data.queries.values())
        assert len(data.corpus) <= 5000
    assert len(data.queries) == 73
