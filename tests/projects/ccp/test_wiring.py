"""Neighbours, bitext, calibration and banks: what the config says reaches them."""

from types import SimpleNamespace

import pytest
import torch

from common.config import UserError
from projects.ccp import baselines, data
from projects.ccp import evaluate as evaluation
from projects.ccp import stages as stages_module
from projects.ccp.bitext import BitextHits
from projects.ccp.data import calibration_sentences, dpr_record, pretraining_data, tuning_data
from projects.ccp.evaluate import bitext, bitext_pairs, head_metrics, neighbours
from projects.ccp.module import CCP
from projects.ccp.stages import stages
from projects.ccp.towers import recipe_of
from tests.projects.ccp.conftest import PRETRAIN, config, module_of, tuned_module

DOCUMENTS = [[f"s{d}{i}" for i in range(4)] for d in range(2)]


def test_neighbours_are_within_the_window_and_no_sentence_is_its_own(monkeypatch):
    """Eight sentences on a line: the nearest two of each are those beside it."""
    asked = {}
    monkeypatch.setattr(evaluation, "heldout_documents", lambda cfg: DOCUMENTS)
    monkeypatch.setattr(
        evaluation,
        "calibration_sentences",
        lambda cfg, language, without: asked.update(without=without) or ["x", "y"],
    )
    monkeypatch.setattr(
        evaluation, "encode_language", lambda t, texts, *_: torch.eye(8)[: len(texts)]
    )

    def search(rows, collection, k, *, metric, exclude):
        asked.update(exclude=exclude.tolist(), k=k)
        return SimpleNamespace(indices=(exclude[:, None] + 2) % 8)

    monkeypatch.setattr(evaluation, "search", search)
    fits = {"hits": lambda fitted: lambda vectors: vectors}
    shares = [
        neighbours(
            config(f"eval.neighbour_window={w}", "eval.neighbour_queries=8"), None, None, fits
        )["hits"]
        for w in (1, 2)
    ]
    assert asked["exclude"] == list(range(8))
    assert asked["without"] == [s for document in DOCUMENTS for s in document]
    assert shares == [0.0, 0.5]  # two places on, of four sentences a document


def test_each_side_is_calibrated_by_text_of_its_language_with_the_steps_of_the_config(monkeypatch):
    asked = {}
    monkeypatch.setattr(evaluation, "bitext_pairs", lambda cfg: {"en-fr": (["a"], ["b"])})
    monkeypatch.setattr(
        evaluation, "calibration_sentences", lambda cfg, language, without: [language] * 3
    )
    monkeypatch.setattr(
        evaluation,
        "encode_language",
        lambda towers, texts, language, options: torch.full(
            (len(texts), 2), float(language == "fr")
        ),
    )
    raw = BitextHits(torch.tensor([True]), torch.tensor([False]))
    scaled = BitextHits(torch.tensor([True]), torch.tensor([True]))

    def calibrated(x, y, first, second, rotation, *, seed):
        asked.update(first=first[0, 0].item(), second=second[0, 0].item(), steps=rotation.steps)
        return {"raw": raw, "scaled": scaled}

    monkeypatch.setattr(evaluation, "calibrated_hits", calibrated)
    metrics = bitext(config("eval.rotation_steps=7"), None, None)
    assert asked == {"first": 0.0, "second": 1.0, "steps": 7}
    assert metrics["bitext_en-fr_gain"] == 0.5


def test_a_sentence_is_asked_for_once_in_the_simulated_language(monkeypatch):
    monkeypatch.setattr(evaluation, "heldout_documents", lambda cfg: [["a", "b"], ["a", "c"]])
    ((first, second),) = bitext_pairs(config("eval.pseudo_bitext=9")).values()
    assert first == second == ["a", "b", "c"]
    monkeypatch.setattr(evaluation, "heldout_documents", lambda cfg: [list("abcdefg")])
    ((first, _),) = bitext_pairs(config("eval.pseudo_bitext=3")).values()
    assert first == ["a", "c", "e"]  # spread over all


def test_the_head_sees_states_and_the_encoder_is_left_as_it_was(monkeypatch):
    seen = []
    module = module_of()
    module.encoder.passage.normalize = True
    monkeypatch.setattr(evaluation, "heldout_documents", lambda cfg: DOCUMENTS)

    def encode(towers, texts, *_):
        seen.append((towers.passage.normalize, texts))
        return torch.randn(len(texts), 32)

    monkeypatch.setattr(evaluation, "encode_language", encode)
    monkeypatch.setattr(evaluation, "leakage", lambda head, center, context, size: {"size": size})
    sides = ["s00", "s02", "s10", "s12"], ["s01", "s03", "s11", "s13"]  # no sentence twice
    words = *PRETRAIN, "method.mlm_weight=0"
    sizes = [head_metrics(config(*words, f"data.batch_size={n}"), module) for n in (3, 9)]
    assert seen == [(False, side) for side in sides] * 2
    assert sizes == [{"size": 3}, {"size": 4}]  # batches as in training, or all there are
    assert module.encoder.passage.normalize


def test_calibration_leaves_out_what_is_scored_however_it_is_written(monkeypatch):
    documents = {"en": [["Same text", "another one", "a third"]]}
    monkeypatch.setattr(data, "training_documents", lambda cfg: documents)
    cfg = config("eval.lower_case=true")
    assert sorted(calibration_sentences(cfg, "en", ["same TEXT"])) == ["a third", "another one"]


@pytest.mark.parametrize("part", ["dev", "test"])
def test_held_out_books_are_those_of_the_part(monkeypatch, part):
    asked = []
    monkeypatch.setattr(data, "load_books", lambda root, part: asked.append(part) or [])
    data.heldout_documents(config("data.source=bundled", f"eval.part={part}"))
    assert asked == [part]


def test_masks_and_languages_are_drawn_as_the_config_says(monkeypatch):
    asked = {}
    mixture = data.language_mixture
    monkeypatch.setattr(
        data,
        "language_mixture",
        lambda sizes, exponent, *rest: (
            asked.update(exponent=exponent) or mixture(sizes, exponent, *rest)
        ),
    )
    masking = data.Masking
    monkeypatch.setattr(
        data,
        "Masking",
        lambda every, share, *rest: (
            asked.update(every=every, share=share) or masking(every, share, *rest)
        ),
    )
    words = ["method.mlm_every=5", "method.mlm_probability=0.3", "data.sampling_exponent=0.2"]
    cfg = config(*PRETRAIN, *words)
    pretraining_data(cfg, recipe_of(cfg).build())
    assert asked == {"exponent": 0.2, "every": 5, "share": 0.3}


def test_made_up_documents_of_two_languages_are_different_ones():
    parts = data.training_documents(config())
    first, second = ({s for d in documents for s in d} for documents in parts.values())
    assert first
    assert not first & second


def test_questions_are_read_as_released_and_validated_in_their_own_batches(monkeypatch):
    record = data.PassageRecord("who is it?", ("a", "b"))
    read = dpr_record(record)
    assert (read.question, len(read.positives)) == ("who is it", 1)
    monkeypatch.setattr(data, "finetuning_data", lambda *_: SimpleNamespace())
    monkeypatch.setattr(data, "questions", lambda cfg, file: [])
    monkeypatch.setattr(data, "passage_batches", lambda *_: [])
    finetune = SimpleNamespace(file="a", dev_file="b", dev_batch_size=3)
    cfg = SimpleNamespace(finetune=finetune, seed=0)
    assert tuning_data(cfg, SimpleNamespace(passage=None)).eval_batch_size == 3


def test_negatives_of_a_bank_for_all_languages_have_any_language(monkeypatch):
    asked = []
    for word in ("true", "false"):
        module = module_of(f"method.language_bank={word}")
        monkeypatch.setattr(
            module.bank, "valid", lambda **labels: asked.append("language" in labels)
        )
        module.negatives(0)
    half = len(asked) // 2
    assert asked == [True] * half + [False] * half


def test_weights_and_starts_of_the_config_reach_the_module(monkeypatch):
    made = {}
    head, bank = CCP.__init__.__globals__["PairHead"], CCP.__init__.__globals__["SharedBank"]
    monkeypatch.setattr(
        "projects.ccp.module.PairHead", lambda w, **rest: made.update(rest) or head(w, **rest)
    )
    monkeypatch.setattr(
        "projects.ccp.module.SharedBank",
        lambda *args, **rest: made.update(rest) or bank(*args, **rest),
    )
    module_of("method.norm_momentum=0.3", "method.bank_initial=random")
    assert (made["momentum"], made["initial"]) == (0.3, "random")


def bitext_of(folder, *sides):
    """Files of a pair, with so many lines each."""
    for language, count in zip(("deu", "eng"), sides, strict=True):
        (folder / f"tatoeba.deu-eng.{language}").write_text("one text\n" * count)


def test_files_of_the_evaluation_are_read_before_the_training(tmp_path):
    """They failed it after all stages."""
    (tmp_path / "de.jsonl").write_text('{"sentences": ["a", "b"]}\n')
    words = [f"data.root={tmp_path}", "eval.bitext={de-en: deu-eng}"]
    cfg = config(*words, "eval.monolingual={de: de.jsonl}")
    with pytest.raises(UserError, match=r"de-en deu \(evaluation\): .*tatoeba\.deu-eng\.deu"):
        next(stages(cfg))
    bitext_of(tmp_path, 3, 2)
    with pytest.raises(UserError, match="equally many lines"):
        next(stages(cfg))
    bitext_of(tmp_path, 2, 2)
    assert next(stages(cfg)).name == "pretrain"
    with pytest.raises(UserError, match="calibration de"):
        next(stages(config(*words, "eval.monolingual={de: other.jsonl}")))


def test_calibration_takes_some_documents_of_the_seed_and_a_file_before_the_training(
    monkeypatch, tmp_path
):
    documents = {"en": [[f"{i}a", f"{i}b"] for i in range(9)]}
    monkeypatch.setattr(data, "training_documents", lambda cfg: documents)
    words = ["eval.calibration_texts=3"]
    drawn = [calibration_sentences(config(*words, f"seed={s}"), "en", []) for s in range(4)]
    assert {len(texts) for texts in drawn} == {3}
    assert len({tuple(texts) for texts in drawn}) > 1
    (tmp_path / "en.jsonl").write_text('{"sentences": ["x", "y"]}\n')
    cfg = config(*words, f"data.root={tmp_path}", "eval.monolingual={en: en.jsonl}")
    assert calibration_sentences(cfg, "en", []) == ["x", "y"]


def test_validation_has_one_pair_of_documents_spread_over_all(monkeypatch):
    """Within the window, of the seed; books in blocks as those of the training."""
    books = [[f"{i}" for i in range(5)], [f"{i}" for i in range(90, 97)]]
    monkeypatch.setattr(data, "heldout_documents", lambda cfg: books)
    cfg = config("data.source=bundled", "data.block=3")
    blocks = [["0", "1", "2"], ["3", "4"], ["90", "91", "92"], ["93", "94", "95", "96"]]
    assert data.validation_documents(cfg) == {"en": blocks, "permuted": blocks}
    documents = [[f"{i} {k}" for k in range(40)] for i in range(10)]
    assert data._whole_batches(documents, 4, "en") == [
        documents[i] for i in (0, 1, 2, 3, 5, 6, 7, 8)
    ]
    made = [data.HeldoutPairs(documents, None, 2, seed).pairs for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    places = [[int(text.split()[1]) for text in pair] for pair in made[0]]
    assert {abs(a - b) for a, b in places} == {1, 2}
    assert len({center for center, _ in places}) > 4  # each draws its own


def test_training_books_are_cut_to_sentences_of_usual_length(monkeypatch):
    lines = ["a b c d", "a b c d e", "x " * 40, "x " * 41, "f g h i j"]
    chapters = [SimpleNamespace(sentences=lines), SimpleNamespace(sentences=lines[::-1])]
    monkeypatch.setattr(data, "load_books", lambda root, part: (root, part, chapters))
    monkeypatch.setattr(data, "halves", lambda books: (books[2][:1], books[2][1:]))
    actual = data.training_documents(config("data.source=bundled", "data.block=2"))
    kept = [lines[1], lines[2], lines[4]]
    assert actual == {"en": [kept], "permuted": [kept[::-1]]}


def test_questions_of_the_validation_are_other_ones_in_batches_of_their_size(monkeypatch):
    asked = {}
    monkeypatch.setattr(data, "finetuning_data", lambda *_: SimpleNamespace())
    monkeypatch.setattr(
        data, "questions", lambda cfg, file: [data.PassageRecord(f"{file}?", ("a", "b"))]
    )
    monkeypatch.setattr(
        data,
        "passage_batches",
        lambda records, options, encoder, seed: asked.update(records=records, seed=seed) or [0, 1],
    )
    finetune = SimpleNamespace(file="a", dev_file="b", dev_batch_size=3)
    made = tuning_data(SimpleNamespace(finetune=finetune, seed=4), SimpleNamespace(passage=None))
    assert (asked["seed"], [r.question for r in asked["records"]]) == (4, ["b"])
    assert len(made.val_sets["dev"]) == 2
    options = config("finetune.dev_file=b", "finetune.steps=5", "finetune.dev_every_n_steps=2")
    monkeypatch.setattr(stages_module, "tuning_data", lambda *_: None)
    *_, last = stages(options)
    assert (last.monitor, last.monitor_mode) == ("val/nll", "min")
    assert last.trainer["val_every_n_steps"] == 2
    *_, last = stages(config())
    assert last.trainer == {"max_steps": 2, "max_epochs": None, "val_every_n_steps": None}
    assert last.monitor is None


def test_fine_tuning_has_its_own_rate_and_counts_all_passages():
    module = tuned_module("finetune.lr=0.25", "finetune.warmup_steps=3", "finetune.num_negatives=2")
    assert (module.optim.lr, module.optim.warmup_steps) == (0.25, 3)
    assert module.negatives_per_query(4) == 11
    logged, batches = [], [torch.tensor([1.0, 2.0]), torch.tensor([6.0])]
    module._vectors = lambda batch: (batch, batch)
    module.objective.forward = lambda x, y, gather: (
        logged.append(gather) or SimpleNamespace(per_sample=x)
    )
    module.log = lambda name, value: logged.append((name, float(value)))
    for part in (batches, batches[1:]):  # questions count alike, and none of an earlier validation
        for i, batch in enumerate(part):
            module.validation_step(batch, i)
        module.on_validation_epoch_end()
    assert logged == [False, False, ("val/nll", 3), False, ("val/nll", 6)]


def test_all_parts_of_the_evaluation_are_measured_and_the_bank_is_told_by_language(monkeypatch):
    module, cfg = module_of(), config(*PRETRAIN)
    label = torch.tensor([0, 1])
    module.bank.enqueue(torch.ones(2, 32), language=label, side=1 - label)
    for name in ("neighbours", "bitext", "xor_retrieve"):
        monkeypatch.setattr(evaluation, name, lambda cfg, some, out, n=name: {n: 1.0})
    monkeypatch.setattr(
        evaluation,
        "before_and_after",
        lambda cfg, recipe, towers, measure, out: measure(towers, out),
    )
    monkeypatch.setattr(evaluation, "head_metrics", lambda *_: {"head": 1.0})
    seen = []
    monkeypatch.setattr(
        evaluation, "separation", lambda rows, labels: seen.append((rows, labels)) or {"x": 2}
    )
    actual = evaluation.evaluate(cfg, module, None)
    parts = ("neighbours", "bitext", "xor_retrieve", "head")
    assert actual == dict.fromkeys(parts, 1.0) | {"bank_x": 2.0}
    assert seen[0][0] is module.bank.features
    assert torch.equal(seen[0][1], module.bank.label("language"))


def test_languages_are_held_against_each_other_in_equal_numbers(monkeypatch):
    sizes, asked = {"en": 5, "fr": 3}, {}
    monkeypatch.setattr(evaluation, "bitext_pairs", lambda cfg: {"en-fr": (["a"], ["b"])})
    monkeypatch.setattr(
        evaluation, "calibration_sentences", lambda cfg, language, _: ["x"] * sizes[language]
    )
    monkeypatch.setattr(
        evaluation,
        "encode_language",
        lambda towers, texts, language, options: torch.full(
            (len(texts), 2), float(language == "fr")
        ),
    )
    monkeypatch.setattr(evaluation, "calibrated_hits", lambda *_, **__: {})
    monkeypatch.setattr(evaluation, "_bitext_metrics", lambda *_: {})
    monkeypatch.setattr(
        evaluation, "separation", lambda rows, labels: asked.update(rows=rows, labels=labels) or {}
    )
    monkeypatch.setattr(
        evaluation, "other_language_share", lambda vectors, k: asked.update(v=vectors, k=k) or 0.5
    )
    assert bitext(config(), None, None) == {"other_language_share": 0.5}
    assert [len(rows) for rows in asked["v"]] == [3, 3]
    assert (asked["k"], asked["labels"].tolist()) == (3, [0] * 3 + [1] * 3)
    assert asked["rows"][:, 0].tolist() == [0] * 3 + [1] * 3


def test_passages_are_encoded_with_their_titles(monkeypatch, tmp_path):
    corpus = []

    def run(cfg, recipe, towers, made):
        corpus.append(made.corpus)
        return {q: ["d"] for q in made.queries}

    monkeypatch.setattr(evaluation, "encoder_run", run)
    (tmp_path / "xor").mkdir()
    (tmp_path / "xor/corpus.jsonl").write_text('{"_id": "d", "title": "Moon", "text": "rock"}\n')
    rows = '{"question": "what", "answers": ["rock"]}\n'
    (tmp_path / "xor/questions.jsonl").write_text(rows)
    cfg = config(f"data.root={tmp_path}", "eval.xor=[xor]")
    assert evaluation.xor_retrieve(cfg, None, None)["xor_r_at_2kt"] == 1
    assert corpus == [{"d": "Moon rock"}]


def test_training_texts_are_cut_where_the_config_and_the_encoder_say():
    encoder = SimpleNamespace(max_length=20)
    assert [data._limit(config(f"data.max_length={n}"), encoder) for n in (12, 30)] == [12, 20]


def test_the_whitened_baseline_begins_with_the_seed_of_the_config(monkeypatch):
    seeds = []
    monkeypatch.setattr(
        baselines,
        "as_training_begins",
        lambda build, seed: seeds.append(seed) or torch.nn.Linear(1, 1),
    )
    for name in ("neighbours", "bitext"):
        monkeypatch.setattr(baselines, name, lambda *_: {})
    for baseline in (baselines.untrained, baselines.whitened):
        baseline(config("seed=5"), None)
    assert seeds == [5, 5]
