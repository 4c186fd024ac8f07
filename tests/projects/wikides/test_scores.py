"""How candidates are scored after export, in validation, and by BERTScore."""

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.engine.trained import run_task
from projects.wikides import build, load
from projects.wikides.batches import RankRows, mean_rouge
from projects.wikides.bert_score import BertScore, greedy_match
from projects.wikides.config import MethodConfig
from projects.wikides.inference import rank
from tests.projects.wikides.conftest import PARAGRAPH, ROWS, config, ranker


def test_an_exported_ranker_scores_as_its_run_was_trained(tmp_path):
    """Checklist 10: fusion survives the export, in the tasks and in `rank`; a folder must tell its
    scores.
    """
    words = ["method.use_rouge=true", "method.sim_range=unit"]
    module, folder = ranker(*words).eval(), tmp_path / "export"
    build(config(*words)).export(module, folder)
    given, out = tmp_path / "given.jsonl", tmp_path / "out.jsonl"
    write_jsonl(given, [{"source": r.source, "candidate": list(r.candidates)} for r in ROWS])
    task = [
        f"runs_dir={tmp_path}",
        f"rank.input={given}",
        f"rank.output={out}",
        f"rank.run={folder}",
    ]
    run_task("wikides", "smoke", task, "rank")
    fusion = MethodConfig(use_rouge=True, sim_range="unit")
    expected = [rank(module.encoder, r.source, r.candidates, fusion) for r in ROWS]
    for row, own in zip(read_jsonl(out), expected, strict=True):
        assert row["scores"] == pytest.approx([score for _, score in own], abs=2e-5)
    plain = rank(module.encoder, PARAGRAPH, ROWS[0].candidates)
    assert abs(plain[0][1] - expected[0][0][1]) > 1e-2  # the twin
    encoder, experiment = load(folder), build(config())
    actual = rank(encoder, PARAGRAPH, ROWS[0].candidates)
    assert [score for _, score in actual] == pytest.approx([s for _, s in expected[0]], abs=1e-5)
    assert rank(encoder, PARAGRAPH, ROWS[0].candidates, MethodConfig())[0][1] == pytest.approx(
        plain[0][1], abs=1e-5
    )
    assert experiment.load_export(folder).objective.method == MethodConfig(
        use_rouge=True, sim_range="unit"
    )
    path = folder / "scores.json"
    for text in (
        '{"use_sim": true}',
        "[]",
        "{",
        '{"use_sim": 1, "use_rouge": true, "sim_range": "raw"}',
        '{"use_sim": true, "use_rouge": true, "sim_range": "half"}',
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"scores\.json is not a file of use_sim"):
            experiment.load_export(folder)
    path.unlink()
    assert load(folder).method is None
    with pytest.raises(UserError, match="export the run again, or write scores.json"):
        run_task("wikides", "smoke", task, "rank")


def test_validation_chooses_no_empty_place_where_all_scores_are_negative():
    """Checklist 10: a place without a candidate has score 0, more than any that there is."""
    module = ranker().eval()
    data = RankRows(config(), ROWS[:2], module.encoder.encoder.tokenize, training=False)
    scores = torch.tensor([[-0.9, -0.2, -0.5], [-0.3, -0.6, 0.0]])
    module.scores = lambda _: (scores, torch.zeros(2))
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    module.validation_step(data.collate([0, 1]), 0)
    picked = ["old town", "pet"]
    gold = [mean_rouge(p, r.target) for p, r in zip(picked, ROWS, strict=False)]
    assert gold[1] > 0
    assert logged["val/gold_rouge"] == pytest.approx(sum(gold) / 2, abs=1e-6)
    own = [
        mean_rouge(p, r.source) + mean_rouge(r.target, r.source)
        for p, r in zip(picked, ROWS, strict=False)
    ]
    assert logged["val/selection_loss"] == pytest.approx(1 - sum(own) / 4, abs=1e-6)


def test_bert_score_of_byte_level_pieces_begins_with_a_space(tmp_path):
    """Sheet, evaluation: the default English model is RoBERTa, whose texts the package puts a space
    before.
    """
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    merges = [("o", "l"), ("ol", "d"), ("\u0120", "old")]
    vocab = {piece: i for i, piece in enumerate([*pieces, *("".join(pair) for pair in merges)])}
    tokenizer = RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=32)
    torch.manual_seed(0)
    size = RobertaConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        max_position_embeddings=40,
    )
    model = RobertaModel(size).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def states(text):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        counts = torch.ones(ids.shape[1], dtype=torch.bool)
        counts[[0, -1]] = False
        return model(ids).last_hidden_state[0].detach(), counts

    def match(text, reference):
        (one, counts), (other, others) = states(text), states(reference)
        return greedy_match(one, other, counts, others)

    score = BertScore(str(tmp_path))
    actual, same = score(["old", " old "], ["a cold", "old"])
    assert actual == pytest.approx(match(" old", " a cold"), abs=1e-5)
    assert abs(actual[0] - match("old", "a cold")[0]) > 1e-3  # the twin
    assert same == pytest.approx((1, 1, 1), abs=1e-5)
    assert score([""], ["old"]) == [(0.0, pytest.approx(score([""], ["old"])[0][1]), 0.0)]
