"""What the parts of the pre-training and the report are given: roles, rates, constants."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.retrieval.passages import PassageBatches, PassageRecord
from common.data.text.options import TokenNoise
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet
from projects.contriever import baselines, exported, tasks
from projects.contriever import data as data_module
from projects.contriever import evaluate as evaluation
from projects.contriever import stages as stages_module
from projects.contriever import stream as stream_module
from projects.contriever.bins import TokenBins
from projects.contriever.data import (
    pretraining_data,
    question_data,
    token_streams,
    two_views,
)
from projects.contriever.noise import token_noise
from projects.contriever.stream import ChunkPairs, TokenStream
from tests.projects.contriever.conftest import batch, config, module_of, tokens
from tests.projects.contriever.test_data import Numbered


def test_the_query_of_inverse_cloze_is_the_span():
    """A tenth of a chunk and what is around it, in this order."""
    cfg = config(
        "data.views=inverse_cloze",
        "data.cloze_keep=0",
        "data.noise.kind=none",
        "data.ratio_min=0.1",
        "data.ratio_max=0.1",
    )
    views = two_views(cfg, Numbered())
    for seed in range(5):
        query, key = views(np.arange(100), np.random.default_rng(seed))
        assert (len(query), len(key)) == (10, 90)


def test_settings_of_the_mixture_and_of_the_questions_reach_the_data(monkeypatch):
    """Sources are drawn by the configured coefficient; questions are prepared as configured."""
    for coefficient in (0.0, 0.7):
        cfg = config(f"data.sampling_coefficient={coefficient}")
        train = pretraining_data(cfg, module_of().encoder).train_set
        sizes = np.array([s.num_tokens for s in train.streams]) ** coefficient
        np.testing.assert_allclose(train.probabilities, sizes / sizes.sum())
    asked = []
    monkeypatch.setattr(data_module, "preparation", lambda on: asked.append(on) or str.strip)
    for word in ("true", "false"):
        cfg = config("finetune.steps=2", f"finetune.normalize_text={word}")
        assert question_data(cfg, module_of().encoder).train_set.prepare is str.strip
    assert asked == [True, False]


def test_fine_tuning_has_rate_warm_up_and_temperature_of_its_own():
    words = ["optim.lr=0.5", "optim.warmup_steps=9", "method.temperature=0.5"]
    words += ["finetune.lr=0.25", "finetune.warmup_steps=3", "finetune.temperature=0.125"]
    before, tuned = module_of(*words), module_of(*words, finetune=True)
    assert (before.optim.lr, before.optim.warmup_steps) == (0.5, 9)
    assert (tuned.optim.lr, tuned.optim.warmup_steps) == (0.25, 3)
    query = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    losses = [
        m.objective(query, query.roll(1, 0)).loss
        for m in (tuned, module_of("method.objective=in_batch", "method.temperature=0.125"))
    ]
    torch.testing.assert_close(*losses)


def test_constants_of_queue_and_spread_by_hand(monkeypatch, tmp_path):
    """m^steps; half of the queue's steps, counted from the newest; spread of unit vectors."""
    words = ["method.momentum=0.5", "trainer.max_steps=3", "method.queue_size=64"]
    words += ["data.batch_size=4", "trainer.accumulate_grad_batches=2"]
    cfg = config(*words, "eval.beir=[]", "finetune.steps=0")
    assert evaluation.evaluate(cfg, module_of()) == {"key_start_share": 0.125, "queue_age": 4.5}
    corpus = {"a": "x", "b": "y"}
    monkeypatch.setattr(evaluation, "first_set", lambda cfg: RetrievalSet(corpus, {}, {}))
    vectors = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    recipe = type("Recipe", (), {"documents": lambda self, encoder, texts: vectors})
    monkeypatch.setattr(evaluation, "recipe_of", lambda cfg: recipe())
    actual = evaluation.evaluate(config(*words), module_of())
    assert actual["document_mean_cosine"] == pytest.approx(0.5)
    assert actual["document_std"] == pytest.approx(float(vectors.std(0).mean()))


@pytest.mark.parametrize("kind", ["crops", "inverse_cloze"])
def test_noise_of_both_views_is_that_of_the_config(kind):
    """Half of the tokens of either view are masked, and none without noise."""
    words = [f"data.views={kind}", "data.ratio_min=0.5", "data.ratio_max=0.5"]
    words += ["data.cloze_keep=0", "data.noise.probability=0.5"]
    for noise, share in (("mask", 0.5), ("none", 0.0)):
        views = two_views(config(*words, f"data.noise.kind={noise}"), Numbered())
        for view in views(np.arange(20, 420), np.random.default_rng(0)):
            assert (view == Numbered.mask_token_id).mean() == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("side", ["query", "document"])
def test_queries_and_documents_have_unit_length_by_a_switch_of_their_own(side):
    objective, x = module_of(f"method.norm_{side}=true").objective, torch.tensor([[3.0, 4.0]])
    lengths = {"query": objective.query(x).norm(), "document": objective.document(x).norm()}
    assert {name for name, length in lengths.items() if length == 1} == {side}


def test_bundled_streams_are_texts_without_their_titles(monkeypatch):
    """Titles are the queries of the development set."""
    encoder = module_of().encoder
    titles, texts = {"a": "men at work"}, {"a": " ".join(["house"] * 60)}
    monkeypatch.setattr(data_module, "load_titles", lambda folder: (titles, texts))
    words = ["data.source=bundled", "data.chunk_length=16"]
    streams = token_streams(config(*words), encoder.tokenizer)
    expected = len(encoder.tokenizer(texts["a"], add_special_tokens=False)["input_ids"])
    assert {stream.num_tokens for stream in streams.values()} == {expected}


def test_spread_is_that_of_documents(monkeypatch):
    read = []
    data = RetrievalSet({"a": "x", "b": "y"}, {"q": "what"}, {})
    monkeypatch.setattr(evaluation, "first_set", lambda cfg: data)
    recipe = type(
        "Recipe",
        (),
        {"documents": lambda self, encoder, texts: read.extend(texts) or torch.eye(2)},
    )
    monkeypatch.setattr(evaluation, "recipe_of", lambda cfg: recipe())
    evaluation.evaluate(config(), module_of())
    assert read == ["x", "y"]


def test_negatives_of_a_question_are_those_behind_its_gold():
    """Rows B + n i to B + n (i + 1) are the negatives of question i; validation enqueues nothing."""
    module, given = module_of("finetune.num_negatives=2", finetune=True), {}
    rows = torch.arange(9.0)[:, None].expand(9, 4)
    objective = module.objective

    class Given(torch.nn.Module):
        def forward(self, inputs):
            return inputs

    class Watched(torch.nn.Module):
        query = document = staticmethod(lambda x: x)

        def forward(self, query, keys, negatives=None):
            given.update(negatives=negatives[..., 0].tolist())
            return objective(query, keys, negatives=negatives)

    module.encoder, module.objective = Given(), Watched()
    module.losses({"query": {"inputs": rows[:3]}, "key": {"inputs": rows}})
    assert given["negatives"] == [[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]


def test_keys_of_a_validation_are_not_enqueued():
    module = module_of()
    batch = {
        name: {
            "input_ids": torch.tensor([[2, 5, 3], [2, 6, 3]]),
            "attention_mask": torch.ones(2, 3, dtype=torch.long),
        }
        for name in ("query", "key")
    }
    module.eval().losses(batch)
    assert module._new_keys == []
    module.train().losses(batch)
    assert len(module._new_keys) == 1


@pytest.mark.parametrize("lower", [True, False])
def test_an_export_prepares_texts_by_its_own_switches(tmp_path, monkeypatch, lower):
    asked = []
    (tmp_path / exported.PREPARATION).write_text(
        json.dumps({"normalize_text": not lower, "lower_case": lower})
    )
    monkeypatch.setattr(exported, "load_sentence_transformers", lambda _: module_of().encoder)
    monkeypatch.setattr(
        exported, "preparation", lambda *switches: asked.append(switches) or str.strip
    )
    exported.load_prepared(tmp_path)
    assert asked == [(not lower, lower)]


def test_a_gradient_cache_changes_nothing_but_memory():
    """The loss, its gradients and the largest pass of the encoder, with chunks and without."""
    batch = {"query": tokens(4, 0), "key": tokens(8, 3)}
    results = []
    for words in ((), ("finetune.chunk_size=3",)):
        module = module_of("model.dropout=0.0", "finetune.num_negatives=1", *words, finetune=True)
        sizes: list[int] = []

        def note(_, inputs, kwargs, sizes=sizes):
            sizes.append(len(kwargs["input_ids"]))

        module.encoder.register_forward_pre_hook(note, with_kwargs=True)
        loss = module.losses(batch)["loss"]
        loss.backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        results.append((loss.detach(), torch.cat([g.flatten() for g in grads]), max(sizes)))
    (plain, expected, whole), (cached, actual, part) = results
    assert (whole, part) == (8, 3)
    torch.testing.assert_close(cached, plain)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-4)


# -- the report ----------------------------------------------------------------------------------


def spread_of(monkeypatch, vectors, corpus, *words):
    """What `evaluate` says of these document vectors; which texts it read, in which mode."""
    read, modes = [], []

    class Recipe:
        def documents(self, encoder, texts):
            read.extend(texts)
            modes.append(encoder.training)
            return vectors

    monkeypatch.setattr(evaluation, "first_set", lambda cfg: RetrievalSet(corpus, {}, {}))
    monkeypatch.setattr(evaluation, "recipe_of", lambda cfg: Recipe())
    return evaluation.evaluate(config(*words), module_of()), read, modes


def test_spread_is_of_each_dimension_over_the_first_documents(monkeypatch):
    corpus = {str(i): f"text {i}" for i in range(300)}
    vectors = torch.tensor([[1.0, 0.0, 0.0], [5.0, 0.0, 2.0]])
    metrics, read, modes = spread_of(monkeypatch, vectors, corpus)
    assert read == list(corpus.values())[:256]
    assert modes == [False]
    assert metrics["document_std"] == pytest.approx(float(vectors.std(0).mean()))


@pytest.mark.parametrize(
    ("words", "age"),
    [
        (["trainer.num_nodes=2"], 2.5),
        (["trainer.devices=[0,1]"], 2.5),
        (["trainer.devices=auto"], None),
        (["method.objective=in_batch"], None),
        (["method.pretrain=false"], None),
    ],
)
def test_the_queue_has_an_age_where_there_is_one_and_devices_are_counted(monkeypatch, words, age):
    """64 keys; a step adds eight of every device on every node."""
    metrics, _, _ = spread_of(monkeypatch, torch.eye(2), {"a": "x", "b": "y"}, *words)
    assert metrics.get("queue_age") == age


def test_search_looks_in_the_documents_of_the_first_set(monkeypatch):
    sets = {name: RetrievalSet({"d": f"text of {name}"}, {"q": "query"}, {}) for name in "ab"}
    monkeypatch.setattr(evaluation, "load_set", lambda cfg, place: sets[place])
    words = ["eval.beir=[a,b]", "eval.held_out_queries=0", "finetune.steps=0"]
    assert evaluation.search_texts(config(*words)) == ["text of a"]


def test_the_whitened_baseline_is_another_than_the_untrained_one(monkeypatch):
    for name in ("untrained", "whitened"):
        monkeypatch.setattr(baselines.family, name, lambda cfg, recipe, place, name=name: name)
    for name in ("untrained", "whitened"):
        assert getattr(baselines, name)(config(), None) == name


# -- training data -------------------------------------------------------------------------------


def test_both_stages_read_by_seed_and_batch_of_their_own():
    words = ["seed=3", "data.batch_size=16", "finetune.batch_size=2", "data.num_workers=5"]
    cfg, encoder = config(*words), module_of().encoder
    for data, size in ((pretraining_data(cfg, encoder), 16), (question_data(cfg, encoder), 2)):
        assert (data.batch_size, data.num_workers) == (size, 5)
        assert data.seed == data.train_set.seed == 3


def test_synthetic_texts_are_those_of_the_seed():
    tokenizer = module_of().encoder.tokenizer

    def ids(seed, name="first"):
        return token_streams(config(f"seed={seed}"), tokenizer)[name].shards[0].tolist()

    assert ids(0) == ids(0) != ids(1)
    assert ids(0) != ids(0, "second")


@pytest.mark.parametrize(
    ("views", "length", "fits"),
    [
        ("crops", 124, True),
        ("crops", 126, False),
        ("inverse_cloze", 62, True),
        ("inverse_cloze", 63, False),
    ],
)
def test_views_have_to_fit_the_model_with_their_special_tokens(views, length, fits):
    """64 positions, two of them special; the context of a cloze may be the whole chunk."""
    cfg = config(f"data.views={views}", f"data.chunk_length={length}", "data.ratio_max=0.5")
    encoder = module_of().encoder
    if fits:
        assert len(pretraining_data(cfg, encoder).train_set)
        return
    with pytest.raises(UserError, match="do not fit a model of 64 positions"):
        pretraining_data(cfg, encoder)


def test_a_source_may_be_named_from_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("shards", "root"):
        (tmp_path / name).mkdir()
    cfg = config("data.source=files", "data.sources={x: shards}", "data.root=root")
    assert data_module.source_folder(cfg, "shards").resolve() == tmp_path / "shards"
    assert data_module.source_folder(cfg, "other").resolve() == tmp_path / "root/other"


def test_equal_tokens_under_other_ids_are_another_vocabulary():
    class Tokenizer:
        def __init__(self, **ids):
            self.ids = ids

        def get_vocab(self):
            return self.ids

    first, same, other = Tokenizer(a=0, b=1), Tokenizer(b=1, a=0), Tokenizer(a=1, b=0)
    assert data_module.vocabulary_of(first) == data_module.vocabulary_of(same)
    assert data_module.vocabulary_of(first) != data_module.vocabulary_of(other)


def test_files_and_weights_are_asked_for_where_they_are_read(tmp_path):
    """Titles come with their set; questions are read only if there is a second stage."""

    def names(*words):
        cfg = config("data.source=bundled", f"data.root={tmp_path}", *words)
        return {need.name for need in data_module.requirements(cfg)}

    weights = "model.pretrained=bundled:text-encoder"
    first = names(weights, "finetune.file=q.jsonl")
    assert "data: questions" in first
    assert sum("retrieval-" in name for name in names()) == 2
    assert any("weights" in name for name in first)
    assert "data: questions" not in names(weights, "finetune.file=q.jsonl", "finetune.steps=0")
    tuned = names(weights, "finetune.file=q.jsonl", "method.pretrain=false")
    assert any("weights" in name for name in tuned)
    words = ["eval.beir=[retrieval-cisi@titles]", "eval.held_out_queries=0", "finetune.steps=0"]
    assert not any("queries" in name for name in names(*words))
    here = ["data.source=files", f"data.root={tmp_path}", "data.sources={x: x, y: y}"]
    (tmp_path / "x").mkdir()
    needs = {need.name: need.present for need in data_module.requirements(config(*here))}
    assert (needs["data: x"], needs["data: y"]) == (True, False)


def test_sources_offsets_and_views_are_drawn_by_seed_and_epoch():
    tokenizer = module_of().encoder.tokenizer
    streams = {
        name: TokenStream([np.arange(start, start + 900)], 30)
        for name, start in (("a", 10), ("b", 1000))
    }

    def views(chunk, rng):
        return chunk[:1], rng.integers(10, 400, 20)

    def drawn(seed, epoch):
        data = ChunkPairs(streams, tokenizer, views, seed=seed)
        places = [data.place(i, epoch) for i in range(40)]
        offsets = [data.offset(source, epoch) for source in (0, 1)]
        return places, offsets, data.views(0, 0, 0, epoch)[1].tolist()

    first, again = drawn(0, 0), drawn(0, 0)
    assert first == again
    for other in (drawn(0, 1), drawn(1, 0)):
        assert all(a != b for a, b in zip(first, other, strict=True))
    assert first[1][0] != first[1][1]  # a source has an offset of its own
    sources = ChunkPairs(streams, tokenizer, views)
    rows = {sources.place(3, epoch)[1] for epoch in range(400)}
    assert rows == {*range(len(streams["a"]))}  # any chunk of the source
    assert {sources.offset(0, epoch) for epoch in range(400)} == {*range(30)}


def test_a_batch_of_several_sources_has_the_views_of_its_places():
    tokenizer = module_of().encoder.tokenizer
    streams = {name: TokenStream([np.arange(10, 200)], 30) for name in "ab"}

    def views(chunk, rng):
        return chunk[:1], rng.integers(10, 400, 20)

    data = ChunkPairs(streams, tokenizer, views)
    keys = [(5, 0), (7, 0), (2, 1)]
    batch = data[keys]
    places = [data.place(*key) for key in keys]
    assert batch["ids"].tolist() == [5, 7, 2]
    assert batch["source"].tolist() == [source for source, _ in places]
    for ids, place, key in zip(batch["key"]["input_ids"], places, keys, strict=True):
        assert ids[1:-1].tolist() == data.views(*place, *key)[1].tolist()


def test_special_tokens_are_no_replacement(monkeypatch):
    """Those at the start of the vocabulary, which is 5,000 ids but for this test."""
    monkeypatch.setattr(Numbered, "__len__", lambda self: 6)
    words = ["data.noise.kind=replace", "data.noise.probability=0.9"]
    for view in two_views(config(*words), Numbered())(np.arange(20, 420), np.random.default_rng(0)):
        assert {*view} - {*range(20, 420)} == {5}
    noise = TokenNoise("replace", 0.9)
    change = token_noise(noise, mask_id=None, vocab_size=9, special=[0, 1, 8])
    assert {*change(np.full(400, 50), np.random.default_rng(0))} == {50, *range(2, 9)}


def test_bins_are_filled_up_with_the_padding_of_the_tokenizer():
    data = TokenBins(
        [[1], [1, 2]], tokens=4, pad_id=9, prepare=lambda ids, *_: {"rows": ids}, seed=0
    )
    assert data[[(0, 0)]]["rows"].tolist() == [[1, 9], [1, 2]]


def test_texts_are_tokenised_once_whatever_the_size_of_a_part(monkeypatch):
    tokenizer, texts = module_of().encoder.tokenizer, ["the world", "of men", "people"]
    expected = stream_module.flat_ids(tokenizer, texts).tolist()
    monkeypatch.setattr(stream_module, "_ROWS", 1)
    assert stream_module.flat_ids(tokenizer, texts).tolist() == expected


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1)])
def test_bins_are_cut_and_changed_by_seed_and_epoch(seed, epoch):
    """Each bin has numbers of its own."""

    def prepare(ids, padding, rng):
        return {"drawn": torch.tensor(rng.random())}

    def drawn(seed, epoch):
        data = TokenBins([[1, 2]] * 9, tokens=6, pad_id=0, prepare=prepare, seed=seed)
        batches = [data[[(i, epoch)]] for i in range(len(data))]
        return [b["ids"].tolist() for b in batches], [float(b["drawn"]) for b in batches]

    first, again, other = drawn(0, 0), drawn(0, 0), drawn(seed, epoch)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert len({*first[1]}) == 3


# -- module and stages ---------------------------------------------------------------------------


def test_fine_tuning_warms_up_by_its_own_steps_alone():
    module = module_of("optim.warmup_steps=0", "optim.warmup_epochs=2", finetune=True)
    assert module.optim.warmup_epochs == 0


def test_keys_of_every_batch_of_a_step_are_enqueued():
    module, keys = module_of("trainer.accumulate_grad_batches=2"), []
    for seed in (0, 1):
        module.losses(batch(seed=seed))
        keys.append(module._new_keys[-1])
    module.after_optimizer_step()
    assert torch.equal(module.queue.features[:8], torch.cat(keys))
    assert int(module.queue.position) == 8


def test_deviations_are_those_of_a_dimension_over_the_rows():
    module = module_of("model.dropout=0", "method.momentum=0.5")
    with torch.no_grad():
        for parameter in module.momentum_encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    terms = module.losses(batch())
    query, key = module.encoder(**batch()["query"]), module._new_keys[0]
    for name, vectors in (("query_std", query), ("key_std", key)):
        expected = ((vectors - vectors.mean(0)) ** 2).mean(0).sqrt().mean()
        torch.testing.assert_close(terms[name], expected)


@pytest.mark.parametrize("words", [(), ("method.objective=in_batch",)])
def test_accuracy_is_the_share_of_hits(monkeypatch, words):
    module, hits = module_of(*words), torch.tensor([True, False, True, True])
    output = SimpleNamespace(loss=torch.ones(()), hits=hits)
    monkeypatch.setattr(module.objective, "forward", lambda *_, **__: output)
    assert float(module.losses(batch())["accuracy"]) == 0.75


def test_the_first_stage_has_no_negatives_and_no_gradient_cache():
    words = ["finetune.num_negatives=2", "finetune.chunk_size=2"]
    before, tuned = module_of(*words), module_of(*words, finetune=True)
    assert (before.num_negatives, before.chunk_size) == (0, None)
    assert (tuned.num_negatives, tuned.chunk_size) == (2, 2)


def test_negatives_are_all_other_golds_and_all_negatives():
    assert module_of("finetune.num_negatives=2", finetune=True).negatives_per_query(4) == 11
    assert module_of("method.objective=in_batch").negatives_per_query(4) == 3


def test_the_loss_has_the_options_of_the_method():
    words = ["method.gather=false", "method.loss_backend=blocked"]
    loss = module_of("method.objective=in_batch", *words).objective.loss
    assert (loss.gather, loss.backend) == (False, "blocked")


def test_the_second_stage_tunes_the_encoder_of_the_first():
    first, second = stages_module.stages(config("finetune.steps=7", "trainer.max_steps=9"))
    assert first.module.encoder is second.module.encoder
    assert (first.module.finetune, second.module.finetune) == (False, True)
    assert second.trainer == {"max_steps": 7, "max_epochs": None}
    assert not first.trainer
    assert isinstance(first.data.train_set, ChunkPairs)
    assert isinstance(second.data.train_set, PassageBatches)
    (alone,) = stages_module.stages(config("method.pretrain=false"))
    assert alone.name == "finetune"


@pytest.mark.parametrize(
    ("words", "rows", "tokens"),
    [
        ([], 3, 18),
        (["method.objective=in_batch"], 6, 18),
        (["finetune.chunk_size=2"], 3, 18),  # of the second stage
        (["method.pretrain=false", "finetune.num_negatives=2"], 12, 48),
        (["method.pretrain=false", "finetune.chunk_size=4"], 4, 48),
    ],
)
def test_the_plan_counts_the_texts_whose_activations_are_kept(words, rows, tokens):
    """Keys of a queue keep none; a question comes with its gold and its negatives."""
    cfg = config(*words)
    plan, seen = stages_module.plan(cfg), []
    module = plan.module()
    module.encoder.tower.model.register_forward_pre_hook(
        lambda _, inputs, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    plan.forward(module, 3)
    assert seen == [(rows, tokens)]
    if cfg.method.pretrain:
        streams = token_streams(cfg, module.encoder.tokenizer)
        assert plan.num_samples == sum(len(stream) for stream in streams.values())
    else:
        assert plan.num_samples == 0  # chunks are not read


@pytest.mark.parametrize("side", ["query", "document"])
def test_the_search_normalises_the_side_that_the_config_names(side):
    words = [f"method.norm_{side}=true"]
    recipe, encoder = stages_module.recipe_of(config(*words)), module_of(*words).encoder
    lengths = {
        "query": recipe.queries(encoder, ["a b"]).norm(),
        "document": recipe.documents(encoder, ["a b"]).norm(),
    }
    unit = {name for name, length in lengths.items() if abs(float(length) - 1) < 1e-5}
    assert unit == {side}


# -- tasks ---------------------------------------------------------------------------------------


class Sized:
    """What a tokenizer tells the task: its size and its ids."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def get_vocab(self):
        return {"a": 0}


@pytest.mark.parametrize(("size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.int32)])
@pytest.mark.parametrize("own", [False, True])
def test_shards_are_written_with_the_tokenizer_of_the_model(
    monkeypatch, tmp_path, size, dtype, own
):
    """Its own if it names one; ids are as wide as its vocabulary needs; texts are prepared."""
    asked, written = [], []
    monkeypatch.setattr(tasks, "load_tokenizer", lambda name: asked.append(name) or Sized(size))
    monkeypatch.setattr(tasks, "plain_ids", lambda tokenizer, texts: [[len(t)] for t in texts])
    monkeypatch.setattr(tasks, "open_shards", lambda folder: [])

    def write(target, digest, count, rows, dtype, lines):
        written.append((list(rows(range(count))), dtype))

    monkeypatch.setattr(tasks, "write_token_files", write)
    (tmp_path / "x.txt").write_text("\nthe \u2026\n\n  men\n", encoding="utf-8")
    words = [f"tokenize.input={tmp_path}/x.txt", f"tokenize.output={tmp_path}/out"]
    words += ["tokenize.normalize_text=true"]
    words += ["model.tokenizer=some/tokenizer"] if own else ["model.pretrained=some/model"]
    tasks.tokenize(config(*words), Workspace(tmp_path / "task"))
    assert asked == ["some/tokenizer" if own else "some/model"]
    assert written == [([[len("the ...")], [len("men")]], dtype)]


def test_mining_reads_the_questions_run_and_number_that_it_is_given(monkeypatch, tmp_path):
    asked, module = {}, module_of()
    records = [PassageRecord(f"q {i}", (f"p {i}",)) for i in range(5)]

    def trained(experiment, workspace, run, runs_dir):
        asked["run"] = run
        return module, None

    def mined(queries, collection, right, count, **options):
        asked.update(count=count, right=right, training=module.encoder.training)
        return SimpleNamespace(texts=lambda collection: [["x"]] * len(queries))

    stands = {
        "trained_module": trained,
        "questions": lambda cfg, file: asked.update(file=file) or records,
        "left_out": lambda cfg, file: None,
        "mine_text_negatives": mined,
    }
    for name, value in stands.items():
        monkeypatch.setattr(tasks, name, value)
    words = ["mine.run=some", "mine.input=mine.jsonl", "finetune.file=tune.jsonl"]
    cfg = config(*words, "mine.num_negatives=2", f"mine.output={tmp_path}/out.jsonl")
    tasks.mine(cfg, Workspace(tmp_path / "task"), None)
    assert asked == {
        "run": "some",
        "file": "mine.jsonl",
        "count": 2,
        "right": [[i] for i in range(5)],
        "training": False,
    }
    many = config(*words, f"mine.output={tmp_path}/many.jsonl")
    tasks.mine(many, Workspace(tmp_path / "task"), None)
    assert asked["count"] == 4  # all passages but the question's own
