"""Dictionaries and the matrix of their entries."""

import math

import pytest
import torch
from torch import Tensor

from common.config import UserError
from common.data.text.lexical import words
from common.data.text.sets import load_sts
from common.encoders.modes import evaluation_mode
from common.engine.workspace import Workspace
from common.evaluation.features.geometry import mean_cosine
from common.families.sentences.baselines import FIT_TEXTS
from common.families.sentences.module import build_encoder
from projects.defsent_plus import baselines
from projects.defsent_plus import entries as entries_module
from projects.defsent_plus.baselines import definitions
from projects.defsent_plus.config import IcaConfig
from projects.defsent_plus.data import (
    _WORDS,
    Dictionary,
    definition_encoder,
    definition_views,
    load_dictionary,
    read_dictionary,
)
from projects.defsent_plus.entries import (
    cached_entries,
    entry_matrix,
    independent_entries,
    random_entries,
)
from projects.defsent_plus.evaluate import reverse_metrics
from tests.projects.defsent_plus.conftest import DEFSENT, PLAIN, TEMPLATE, config, module_of
from tests.unit.losses.golden import load

LINES = (
    "ice cream\tfrozen dessert<|list_more_def|>sweet food made of milk\n"
    "zorbifex qq\tan unknown thing\n"
    "\n"
    "work\teffort <|list_more_def|> what is done \n"
)


def dictionary_file(tmp_path, text=LINES, encoding="utf-16", *options):
    path = tmp_path / "glossary.csv"
    path.write_text(text, encoding=encoding)
    own = [f"data.file={path}", "data.source=file", "data.limit=null", "data.held_out=0"]
    return config(*PLAIN, *own, "data.encoding=utf-16", f"runs_dir={tmp_path}", *options)


# -- reader --------------------------------------------------------------------------------------


def test_item_14_reader_takes_several_definitions_and_the_encoding(tmp_path):
    """Checklist 14: lines of the release, in UTF-16; row i is entry i."""
    actual = load_dictionary(dictionary_file(tmp_path))
    assert actual.entries == ["ice cream", "zorbifex qq", "work"]
    assert actual.definitions[0] == ["frozen dessert", "sweet food made of milk"]
    assert actual.definitions[2] == ["effort", "what is done"]
    assert actual.pairs()[1] == ("sweet food made of milk", 0)
    assert actual.num_definitions == 5
    with pytest.raises(UserError, match=r"set data\.encoding"):
        load_dictionary(dictionary_file(tmp_path, encoding="latin-1"))


@pytest.mark.parametrize("line", ["no tab here", "\tno entry", "no definition\t", ""])
def test_item_14_malformed_lines_are_named(line):
    """Checklist 14: the place and what belongs there."""
    with pytest.raises(UserError, match="line 2: write an entry|has no entries"):
        read_dictionary(["a\tb", line] if line else [line], "glossary.csv")


def test_item_14_byte_order_mark_further_columns_and_repeated_entries(tmp_path):
    """Checklist 14: nothing of a user's file is lost in silence."""
    text = "ice\tfrozen water\n\nwork\teffort\tnoun\nwork\twhat is done\t \n"
    cfg = dictionary_file(tmp_path, text, "utf-8-sig", "data.encoding=utf-8")
    with (
        pytest.warns(UserWarning, match="1 lines repeat an entry"),
        pytest.warns(UserWarning, match="1 lines have more than two columns"),
    ):
        actual = load_dictionary(cfg)
    assert actual.entries == ["ice", "work", "work"]
    assert actual.definitions == [["frozen water"], ["effort"], ["what is done"]]
    cfg.data.file = str(tmp_path)
    with pytest.raises(UserError, match="give a file"):
        load_dictionary(cfg)


def test_item_2_entries_of_several_and_of_unknown_words(tmp_path):
    """Checklist 2: n is the number of entries, whatever the vocabulary."""
    cfg = dictionary_file(tmp_path)
    actual = load_dictionary(cfg)
    matrix = cached_entries(cfg, actual, build_encoder(cfg.model))
    assert matrix.shape == (3, 32)
    assert torch.isfinite(matrix).all()
    views = definition_views(cfg, build_encoder(cfg.model), actual)
    batch = views[[(i, 0) for i in range(5)]]
    assert batch["labels"].tolist() == [0, 0, 1, 2, 2]
    assert len(module_of("data.limit=300").entries) > 256  # pieces of the tokenizer


def test_item_12_long_definitions_are_refused_or_cut(tmp_path):
    """Checklist 12: named with the length to set; cut only if asked for."""
    long = "entry\t" + "word " * 30 + "\nother\tshort\n"
    cfg = dictionary_file(tmp_path, long, "utf-16", "data.max_length=16")
    encoder = build_encoder(cfg.model)
    with pytest.raises(UserError, match=r"set data\.max_length=122, or data\.long=truncate"):
        definition_views(cfg, encoder)
    with pytest.raises(UserError, match=r"set data\.max_length=122, or data\.long=truncate"):
        cached_entries(cfg, load_dictionary(cfg), encoder)  # before anything is encoded
    cfg.data.long = "truncate"
    batch = definition_views(cfg, encoder)[[(0, 0), (1, 0)]]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 16)
    assert batch["input_ids"][0, -1] == encoder.tokenizer.sep_token_id
    cfg.data.max_length, cfg.data.long = 150, "refuse"
    with pytest.raises(UserError, match="reads at most 64"):
        definition_views(cfg, encoder)


def test_held_out_definitions_are_trained_on_for_no_entry():
    """A synonym with the same text would give the answer away; any entry of the text is gold."""
    actual = load_dictionary(config())
    trained = {text for text, _ in actual.pairs()}
    assert actual.held_out
    assert not trained & {text for text, _ in actual.held_out}
    everything = load_dictionary(config("data.held_out=0"))
    assert everything.num_definitions > actual.num_definitions
    owners = {
        text: {
            e
            for e, texts in zip(everything.entries, everything.definitions, strict=True)
            if text in texts
        }
        for text, _ in actual.held_out
    }
    for text, gold in actual.held_out:
        assert {actual.entries[row] for row in gold} == owners[text] & set(actual.entries)


@pytest.mark.slow
def test_bundled_wordnet_has_entries_of_several_words_and_shared_definitions():
    """Sizes of the row in the plan: lemmas in lower case; synonyms share their definition."""
    actual = load_dictionary(config("data.held_out=0", "data.exclude_sets=[]", name="mini"))
    sizes = actual.statistics()
    assert len(actual.entries) == 20811
    assert round(sizes["multi_word_share"] * 20811) == 6232
    assert sum(len(texts) > 1 for texts in actual.definitions) > 5000
    assert sizes["shared_definition_share"] > 0.5
    held = load_dictionary(config("data.exclude_sets=[]", name="mini")).held_out
    assert 800 < len(held) < 1300
    assert len({text for text, _ in held}) == len(held)


@pytest.mark.slow
def test_no_definition_of_the_mini_experiment_is_a_text_of_the_evaluation():
    """SemEval's OnWN and FNWN pairs hold WordNet's own definitions, with a full stop or without."""
    cfg = config(name="mini")
    assert {*cfg.eval.sets, cfg.eval.dev} <= set(cfg.data.exclude_sets)
    actual = load_dictionary(cfg)
    known = {" ".join(words(t)) for t in [*definitions(cfg), *(t for t, _ in actual.held_out)]}
    for name in (*cfg.eval.sets, cfg.eval.dev):
        sts = load_sts(None, name)
        assert not known & {" ".join(words(t)) for t in [*sts.first, *sts.second]}, name
    assert actual.statistics()["num_excluded_definitions"] > 500
    assert len(actual.held_out) > 700
    assert len(actual.entries) > 19000


@pytest.mark.slow
def test_baselines_are_fitted_on_a_draw_of_the_definitions():
    """At most 5,000 are used, and those of the file's beginning are nouns of the most general
    kind."""
    cfg = config("data.exclude_sets=[]", name="mini")
    in_order = list(dict.fromkeys(text for text, _ in load_dictionary(cfg).pairs()))
    actual = definitions(cfg)
    assert len(set(actual)) == len(actual) == FIT_TEXTS
    assert set(actual) <= set(in_order)
    share = len(set(actual) & set(in_order[:FIT_TEXTS])) / FIT_TEXTS
    assert share == pytest.approx(FIT_TEXTS / len(in_order), abs=0.05)


def test_tfidf_finds_the_entry_whose_nearest_definition_is_nearest(tmp_path, monkeypatch):
    """Two entries by hand: one of three definitions is close, all of the other are half close."""
    definitions = [
        ["clear frozen water", "a hard coin", "loud music"],
        ["clear water of the sea", "frozen clear salt", "salt and water"],
    ]
    held_out = [
        ("water that is frozen and clear", (0,)),
        ("music that is loud", (0,)),
        ("the salt of a sea", (1,)),
        ("frozen coin", (1,)),  # nearest to the other entry
    ]
    actual = Dictionary(["ice", "brine"], definitions, held_out)
    monkeypatch.setattr(baselines, "load_dictionary", lambda _: actual)
    monkeypatch.setattr(baselines.family, "tfidf", lambda *_: {"sts": 0.5})
    metrics = baselines.tfidf(config(), Workspace(tmp_path))
    assert metrics == {
        "sts": 0.5,
        "reverse_top1": 0.75,
        "reverse_top1_chance": 0.5,
        "reverse_top10": 1.0,
        "reverse_top10_chance": 1.0,
    }
    actual.held_out.clear()
    assert baselines.tfidf(config(), Workspace(tmp_path)) == {"sts": 0.5}


def test_pitfall_entries_that_share_a_definition_are_counted():
    """Contradictory labels: three of the four pairs have a text of two entries."""
    actual = Dictionary(["a", "b", "c d"], [["x"], ["x", "y"], ["z"]], [], num_dropped=1)
    assert actual.statistics()["shared_definition_share"] == 0.5
    assert actual.statistics()["dropped_entry_share"] == 0.25
    assert actual.statistics()["multi_word_share"] == pytest.approx(1 / 3)


def test_item_15_only_entries_of_one_piece_remain_and_the_rest_is_counted():
    """Checklist 15: the share that DefSent must drop."""
    actual = load_dictionary(config(*DEFSENT))
    assert set(actual.entries) <= set(_WORDS)
    assert len(actual.pieces) == len(actual.entries) > 3
    share = actual.statistics()["dropped_entry_share"]
    assert share == pytest.approx(1 - len(actual.entries) / 96)
    tokenizer = build_encoder(config().model).tokenizer
    assert tokenizer.convert_ids_to_tokens(list(actual.pieces)) == actual.entries
    views = definition_views(config(*DEFSENT), build_encoder(config().model))
    assert set(views.labels.tolist()) == set(actual.pieces)


# -- matrix --------------------------------------------------------------------------------------


def test_item_3_mean_over_definitions_in_evaluation_mode_whatever_the_padding():
    """Checklist 3: each definition weighs the same; a mean over all tokens would be another."""
    cfg = config(*PLAIN)
    encoder = build_encoder(cfg.model).train()
    own = definition_encoder(cfg, encoder, "amp")
    texts = [["a b c d e f g h"], ["x", "one two three four five six seven"]]
    actual = entry_matrix(texts, own.encode)
    assert own.encode(texts[0]).equal(own.encode(texts[0]))  # no dropout
    single = torch.stack([own.encode([t])[0] for t in texts[1]])
    torch.testing.assert_close(actual[1], single.mean(0), rtol=1e-5, atol=1e-5)
    with evaluation_mode(own):
        ids = own.tokenize(texts[1])
        states = own.tower.model(**ids).last_hidden_state
        over_tokens = states[ids["attention_mask"].bool()].mean(0)
    assert not torch.allclose(actual[1], over_tokens, atol=1e-3)
    first = definition_encoder(cfg, encoder, "ac")
    with evaluation_mode(first):
        cls = first.tower.model(**first.tokenize(texts[0])).last_hidden_state[:, 0]
    torch.testing.assert_close(entry_matrix(texts[:1], first.encode), cls, rtol=1e-5, atol=1e-5)


def test_item_4_one_definition_alone_or_among_many():
    """Checklist 4: the same vector up to 1e-5, in any company and order."""
    own = definition_encoder(config(), build_encoder(config().model), "amp")
    alone = entry_matrix([["a small thing"]], own.encode)[0]
    many = [["first", "second text of some length " * 3], ["a small thing"], ["a small thing", "x"]]
    actual = entry_matrix(many, own.encode)
    torch.testing.assert_close(actual[1], alone, rtol=0, atol=1e-5)
    turned = entry_matrix([texts[::-1] for texts in many[::-1]], own.encode)
    torch.testing.assert_close(turned.flip(0), actual, rtol=0, atol=1e-5)
    assert not torch.allclose(actual[2], alone, atol=1e-3)


def test_entries_are_kept_and_belong_to_weights_definitions_and_encoding(tmp_path, monkeypatch):
    cfg = config(*PLAIN, f"runs_dir={tmp_path}", "data.limit=20")
    dictionary, encoder = load_dictionary(cfg), build_encoder(cfg.model)
    first = cached_entries(cfg, dictionary, encoder)
    assert torch.equal(cached_entries(cfg, dictionary, encoder), first)
    monkeypatch.setattr(entries_module, "entry_matrix", lambda *_: torch.zeros(1, 1))
    assert torch.equal(cached_entries(cfg, dictionary, encoder), first)  # read, not computed
    other = config(*PLAIN, f"runs_dir={tmp_path}", "data.limit=20", "entry.encoding=ac")
    assert cached_entries(other, dictionary, encoder).shape == (1, 1)
    with torch.no_grad():
        encoder.tower.model.embeddings.word_embeddings.weight.add_(1)
    assert cached_entries(cfg, dictionary, encoder).shape == (1, 1)


def golden_matrix(n: int, d: int) -> Tensor:
    i, k = torch.arange(1, n + 1).double()[:, None], torch.arange(1, d + 1).double()
    u = ((i * 12.9898 + k * 78.233).sin() * 43758.5453).abs().frac() - 0.5
    sources = -u.sign() * torch.log(1 - 2 * u.abs() + 1e-9)
    return (sources @ (torch.cos(k[:, None] * (k - 0.5)) + torch.eye(d)) + 3).float()


@pytest.mark.parametrize("case", load("defsent_plus")["ica_cases"], ids=lambda c: f"d{c['d']}")
def test_item_10_independent_entries_match_the_recorded_ones(case):
    """Checklist 10: mean 0, population deviation 100, uncorrelated, isotropic; recorded norms."""
    x, expected = golden_matrix(case["n"], case["d"]), case["outputs"]
    y = independent_entries(
        x, IcaConfig(enabled=True, max_iter=case["max_iter"], seed=case["seed"])
    )
    assert float(y.mean(0).abs().max()) < 1e-3
    spread = torch.tensor(expected["column_std_population"])
    torch.testing.assert_close(y.std(0, correction=0), spread, rtol=1e-4, atol=0)
    correlation = torch.corrcoef(y.T.double()) - torch.eye(case["d"]).double()
    assert float(correlation.abs().max()) < 1e-5
    assert mean_cosine(x) == pytest.approx(expected["mean_cosine_before"], rel=1e-5)
    assert mean_cosine(y) == pytest.approx(expected["mean_cosine_after"], rel=1e-3)
    norms = torch.tensor(expected["row_norms_first3"])
    torch.testing.assert_close(y[:3].norm(dim=1), norms, rtol=1e-4, atol=0)
    row = torch.tensor(expected["abs_row0_sorted"])
    torch.testing.assert_close(y[0].abs().sort().values[: len(row)], row, rtol=1e-3, atol=0)


def test_item_10_a_fit_that_has_not_converged_is_said():
    """Checklist 10: FastICA may stop at max_iter; the message names the setting."""
    with pytest.warns(UserWarning, match=r"entry\.ica\.max_iter=1"):
        independent_entries(golden_matrix(300, 4), IcaConfig(max_iter=1))


def test_random_entries_have_the_size_and_nothing_else():
    x = golden_matrix(1000, 8)
    noise = random_entries(x, 0)
    assert float(noise.square().mean()) == pytest.approx(float(x.square().mean()), rel=0.05)
    assert abs(mean_cosine(noise)) < 0.01 < mean_cosine(x)
    assert torch.equal(noise, random_entries(x, 0))
    assert not torch.equal(noise, random_entries(x, 1))


# -- definitions beside a prompt -----------------------------------------------------------------


def test_item_13_prompt_pooling_finds_one_mask_and_definitions_meet_no_prompt():
    """Checklist 13: also in an empty text and one that holds the mask string."""
    cfg = config(*PLAIN, "model.pooling=mask", f"model.template={TEMPLATE}")
    encoder = build_encoder(cfg.model)
    mask = encoder.tokenizer.mask_token_id
    texts = ["a cat", "", "she wrote [MASK] and [MASK] here", "x " * 90]
    ids = encoder.tokenize(texts)["input_ids"]
    assert ids.eq(mask).sum(1).tolist() == [1] * 4
    actual = encoder.encode(texts)
    assert torch.isfinite(actual).all()
    unknown = texts[2].replace("[MASK]", "\u2603")
    torch.testing.assert_close(encoder.encode([unknown])[0], actual[2])
    own = definition_encoder(cfg, encoder, "mean")
    plain = build_encoder(config().model)
    assert own.tokenize(["a cat"])["input_ids"].equal(plain.tokenize(["a cat"])["input_ids"])
    assert encoder.tokenize(["a cat"])["input_ids"].eq(mask).any()  # its own is left as it was
    views = definition_views(cfg, encoder)
    assert not views[[(0, 0)]]["input_ids"].eq(mask).any()


# -- reverse dictionary --------------------------------------------------------------------------


def test_reverse_dictionary_counts_any_entry_of_the_definition():
    scores = torch.tensor([[0.0, 3, 2, 1] + [0.5] * 16, [4.0, 3, 2, 1] + [0.5] * 16])
    actual = reverse_metrics(scores, [(2, 1), (3,)])
    assert (actual["reverse_top1"], actual["reverse_top10"]) == (0.5, 1.0)
    assert actual["reverse_top1_chance"] == pytest.approx((2 + 1) / 2 / 20)
    both = 1 - math.comb(18, 10) / math.comb(20, 10)
    assert actual["reverse_top10_chance"] == pytest.approx((both + 0.5) / 2)
