"""Progressive separate training: what each round begins with and is trained towards."""

import json
from pathlib import Path

import pytest
import torch

from common.config import UserError
from common.engine import checkpoint as ckpt
from common.engine.run import train
from common.evaluation.features.geometry import mean_cosine
from common.export.sentence_encoders import save_sentence_encoder
from common.families.sentences.module import first_encoder
from projects.defsent_plus import stages as stages_module
from projects.defsent_plus.data import Dictionary, definition_encoder, load_dictionary
from projects.defsent_plus.entries import entry_matrix, independent_entries
from projects.defsent_plus.module import DefSentPlus
from projects.defsent_plus.stages import model_path, round_module, stages
from tests.projects.defsent_plus.conftest import DEFSENT, PLAIN, config, module_of


def state_of(run, stage, step=None):
    """Weights of a stage."""
    folder = run / "checkpoints" / stage
    return ckpt.load(folder / f"step-{step:08d}.ckpt" if step else ckpt.finished(folder))[
        "state_dict"
    ]


def moved(module: DefSentPlus) -> DefSentPlus:
    """As if it had been trained: other weights in encoder and pooler."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return module


def two_rounds(folder, *overrides):
    """Rounds 1 (trained in name) and 2 of a config."""
    cfg = config("entry.ica.enabled=false", f"runs_dir={folder}", "data.limit=40", *overrides)
    dictionary = load_dictionary(cfg)
    first = moved(round_module(cfg, dictionary, None, 1))
    return cfg, dictionary, first, round_module(cfg, dictionary, first, 2)


def test_item_5_every_round_restarts_from_the_first_model(tmp_path):
    """Checklist 5: encoder and pooler of round 2 begin with M_0; going on is the ablation."""
    cfg, dictionary, first, second = two_rounds(tmp_path)
    start = round_module(cfg, dictionary, None, 1)
    for name in ("encoder", "pooler"):
        expected, actual = (getattr(m, name).state_dict() for m in (start, second))
        assert all(torch.equal(actual[k], v) for k, v in expected.items())
        assert not torch.equal(*(next(getattr(m, name).parameters()) for m in (first, second)))
    _, _, before, after = two_rounds(tmp_path, "restart_from_base=false")
    for name in ("encoder", "pooler"):
        expected, actual = (getattr(m, name).state_dict() for m in (before, after))
        assert all(torch.equal(actual[k], v) for k, v in expected.items())
    moved(after)
    assert not torch.equal(*(next(m.encoder.parameters()) for m in (before, after)))


def test_item_6_targets_of_a_round_come_from_the_model_before(tmp_path):
    """Checklist 6: E(2) is of M_1, not of M_0; E(1) of M_0."""
    cfg, dictionary, first, second = two_rounds(tmp_path)
    zero = first_encoder(cfg)
    by = [
        entry_matrix(dictionary.definitions, definition_encoder(cfg, e, "amp").encode)
        for e in (zero, first.encoder)
    ]
    torch.testing.assert_close(first.entries, by[0])
    torch.testing.assert_close(second.entries, by[1])
    assert not torch.allclose(by[0], by[1], atol=1e-2)
    assert second.isotropy.shape == (2, 2)
    assert second.isotropy[:, 0].tolist() == [mean_cosine(e) for e in by]


def test_item_5_in_a_run_the_first_steps_of_a_later_round_start_from_the_first_model(finished):
    """Checklist 5: in the stages as the engine drives them, also with the weights of M_1 there."""
    _, words = finished
    cfg = config(*words)
    generator = stages(cfg)
    first = next(generator)
    begin = {k: v.clone() for k, v in first.module.state_dict().items() if "entries" not in k}
    moved(first.module)
    second = next(generator)
    assert (first.name, second.name) == ("round_1", "round_2")
    for name, value in second.module.state_dict().items():
        if name.startswith(("encoder.", "pooler.")):
            assert torch.equal(value, begin[name]), name


def test_last_round_alone_has_independent_entries(finished):
    """Round 2 of the run: standardised components of the E that M_1 gives."""
    run, words = finished
    cfg = config(*words)
    dictionary = load_dictionary(cfg)
    plain, ica = (state_of(run, f"round_{k}")["entries"] for k in (1, 2))
    module = DefSentPlus(cfg, first_encoder(cfg), 1, dictionary)
    module.load_state_dict(state_of(run, "round_1"))
    own = definition_encoder(cfg, module.encoder, "amp")
    with pytest.warns(UserWarning, match="FastICA"):
        expected = independent_entries(
            entry_matrix(dictionary.definitions, own.encode), cfg.entry.ica
        )
    torch.testing.assert_close(ica.norm(dim=1), expected.norm(dim=1), rtol=1e-3, atol=1e-3)
    assert mean_cosine(plain) > 0.5 > abs(mean_cosine(ica))


def test_item_17_isotropy_is_logged_per_round_and_after_ica(finished):
    """Checklist 17: in the metrics, and in the curves of each round."""
    run, _ = finished
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["round_1_mean_cosine"] > 0.5
    assert metrics["round_2_mean_cosine"] > 0.5
    assert abs(metrics["ica_mean_cosine"]) < 0.1
    curves = (run / "metrics.csv").read_text(encoding="utf-8")
    assert curves.count("train/entry_mean_cosine") == 8
    assert "round_2,4,train/loss" in curves


def test_item_17_transfer_is_part_of_the_evaluation():
    """Checklist 17: the published settings name the seven STS sets and the transfer tasks."""
    cfg = config(name="paper")
    assert len(cfg.eval.sets) == 7
    assert set(cfg.eval.transfer) >= {"MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC"}


def test_sts_scores_are_rounded_before_they_are_averaged(finished):
    """As released: four decimals, then the mean."""
    run, _ = finished
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["sts_average_rounded"] == round(metrics["stsb_test_spearman"], 4)


@pytest.mark.slow
def test_item_16_any_trained_encoder_begins_and_its_own_score_stands_beside(tmp_path):
    """Checklist 16: an exported encoder as M_0, its pooler from the model that it came of."""
    cfg = config()
    encoder = first_encoder(cfg)
    with torch.no_grad():
        encoder.tower.model.embeddings.word_embeddings.weight.mul_(3)
    place = save_sentence_encoder(encoder, tmp_path / "further")
    words = [
        f"runs_dir={tmp_path}",
        "trainer.max_steps=2",
        *PLAIN,
        "data.limit=40",
        f"model.pretrained={place}",
        "model.config=null",
    ]
    with pytest.raises(UserError, match=r"pooler\.source=lm_head"):
        train("defsent_plus", "smoke", words)
    base = tmp_path / "base"
    full(cfg).save_pretrained(base)
    encoder.tokenizer.save_pretrained(base)
    words += ["pooler.source=lm_head", f"pooler.lm_head={base}", "run_id=r"]
    run = train("defsent_plus", "smoke", words)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    gain = metrics["sts_average_spearman"] - metrics["untrained_sts_average_spearman"]
    assert metrics["gain_sts_average_spearman"] == pytest.approx(gain)
    trained = state_of(run, "round_1")["encoder.tower.model.embeddings.word_embeddings.weight"]
    start = encoder.tower.model.embeddings.word_embeddings.weight
    assert float((trained - start).abs().max()) < 0.1
    assert not torch.equal(trained, start)


def full(cfg):
    """A masked language model of the config's architecture."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(**cfg.model.config))


# -- runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_a_run_with_more_rounds_takes_the_first_model_of_an_earlier_one(finished, tmp_path):
    """Bit-identical weights without a fit; the last round is always fitted."""
    run, words = finished
    kept = sorted((run.parents[2] / "defsent_plus/offline").glob("round_*.ckpt"))
    assert [path.name[:8] for path in kept] == ["round_1-"]  # ICA entries are of the last round
    again = train("defsent_plus", "smoke", [words[0], words[2], "run_id=again"])
    taken = sorted(path.name for path in (again / "checkpoints/round_1").iterdir())
    assert taken == ["best.ckpt", "finished.json"]  # no step was made
    assert torch.equal(
        state_of(again, "round_2")["pooler.dense.weight"],
        state_of(run, "round_2")["pooler.dense.weight"],
    )


def test_a_kept_model_belongs_to_what_it_was_trained_with():
    first = Dictionary(["a", "b"], [["x"], ["y"]], [])

    def path_of(*words: str, start: str = "m", dictionary: Dictionary = first) -> Path:
        return model_path(config(*words), 1, start, dictionary)

    paths = [
        path_of(*words)
        for words in (
            [],
            ["seed=1"],
            ["optim.lr=0.5"],
            ["trainer.max_steps=9"],
            ["data.limit=32"],
            ["entry.encoding=ac"],
            ["train.pool=cls"],
            ["train.lr=[0.1,0.2]"],
        )
    ]
    assert len(set(paths)) == len(paths)
    assert path_of("entry.ica.enabled=false", "rounds=1") == paths[0]
    assert path_of("train.lr=[0.1,0.3]") == paths[-1]
    # files that a config names may change between runs
    assert path_of(start="other") != paths[0]
    assert path_of(dictionary=Dictionary(["a", "b"], [["x"], ["z"]], [])) != paths[0]
    assert path_of("eval.dev=stsb-test") == paths[0]
    select = "trainer.val_every_n_steps=2"
    assert path_of(select, "eval.dev=stsb-test") != path_of(select)


def test_a_kept_model_belongs_to_the_weights_that_it_began_with(tmp_path, monkeypatch):
    """An encoder of the same name may have been trained further since: M_0 counts by its
    weights."""
    starts = []
    real = stages_module.model_path
    monkeypatch.setattr(stages_module, "model_path", lambda *a: starts.append(a[2]) or real(*a))
    cfg = config(f"runs_dir={tmp_path}", "data.limit=20")
    encoder, place = first_encoder(cfg), tmp_path / "m"
    save_sentence_encoder(encoder, place)
    full(cfg).save_pretrained(tmp_path / "base")
    encoder.tokenizer.save_pretrained(tmp_path / "base")
    own = config(
        *PLAIN,
        f"runs_dir={tmp_path}",
        "data.limit=20",
        f"model.pretrained={place}",
        "model.config=null",
        "pooler.source=lm_head",
        f"pooler.lm_head={tmp_path}/base",
    )
    for _ in range(2):
        next(stages(own))
    with torch.no_grad():
        encoder.tower.model.embeddings.word_embeddings.weight.add_(1)
    save_sentence_encoder(encoder, place)
    next(stages(own))
    full(cfg).save_pretrained(tmp_path / "base")  # another draw
    next(stages(own))
    assert starts[0] == starts[1]
    assert len(set(starts)) == 3


def test_each_round_has_its_learning_rate():
    cfg = config("train.lr=[0.1,0.2]")
    assert [DefSentPlus(cfg, first_encoder(cfg), k).optim.lr for k in (1, 2)] == [0.1, 0.2]
    assert DefSentPlus(config(), first_encoder(cfg)).optim.lr == 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize(
    "overrides",
    [
        DEFSENT,
        (*PLAIN, "entry.targets=random", "train.pool=cls", "entry.encoding=ac"),
        (
            "restart_from_base=false",
            "entry.ica.enabled=false",
            "train.pool=max",
            "model.pooling=max",
        ),
    ],
    ids=["defsent", "random", "continue"],
)
def test_every_switch_trains(tmp_path, overrides):
    """Checklist 15: DefSent on the same dictionary and evaluator, among the arms."""
    words = [f"runs_dir={tmp_path}", "trainer.max_steps=2", "eval.untrained=false", *overrides]
    run = train("defsent_plus", "smoke", words)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert "stsb_test_spearman" in metrics
    assert (metrics["dropped_entry_share"] > 0.5) == (overrides == DEFSENT)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.pooling=cls"], "the pooler plays no part in inference"),
        (["entry.targets=random"], "set rounds=1"),
        ([*PLAIN, "entry.targets=lm_head"], r"data\.single_piece=true"),
        (["train.lr=[0.1]"], "1 for 2"),
        (["data.parts=[book]"], "no parts"),
        (["data.single_piece=true", "data.held_out=0.999"], "no entry is left"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        load_dictionary(config(*words))


def test_module_is_built_where_the_dictionary_is_not():
    """`make check` without the file: the shape of the entries is not known, and not guessed."""
    cfg = config("data.source=file", "data.file=missing.csv", "data.limit=null")
    module = DefSentPlus(cfg, first_encoder(cfg))
    assert module.entries.shape == (0, 32)
    assert module.negatives_per_query(8) == 0
    with pytest.raises(UserError, match=r"give data\.file"):
        load_dictionary(cfg)
    assert len(module_of().entries) > 0
