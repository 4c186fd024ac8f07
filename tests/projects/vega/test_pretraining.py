"""Replaced tokens, shared embeddings, disentangled attention, the two phases."""

import copy
import pickle

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from common.config import UserError
from common.data.text import token_files
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer
from common.engine import checkpoint as ckpt
from common.engine.trained import export
from projects.vega import pretraining
from projects.vega.corruption import ReplacedTokenRows
from projects.vega.encoders.disentangled import disentangled_from_bert, shallow
from projects.vega.encoders.replaced_token_detection import put_in, sample_tokens
from projects.vega.network import build_pretraining, random_config, tokenizer_of
from projects.vega.phases import Pretrain, PretrainObjective
from projects.vega.pretraining import (
    held_out,
    sentence_encoder,
    stages,
    training_data,
    training_texts,
)
from projects.vega.replaced_token_loss import replaced_token_loss
from tests.projects.vega.conftest import (
    GOLDEN,
    STILL,
    config,
    pretrain_of,
    run_of,
    weights_of,
)


def wave(phase, b, d):
    return torch.arange(b * d, dtype=torch.float64).mul(0.33).add(phase).sin().view(b, d)


def test_a_sampled_original_is_original():
    """Checklist 1: labels come after sampling; the mask is what the generator reads."""
    ids, labels = torch.tensor([[2, 7, 8, 9, 3]]), torch.tensor([[-100, 7, -100, 9, -100]])
    corrupted, replaced = put_in(ids, labels, torch.tensor([7, 5]))
    assert corrupted.tolist() == [[2, 7, 8, 5, 3]]
    assert replaced.tolist() == [[False, False, False, True, False]]
    module, batch = pretrain_of()
    rows = batch["rows"]
    chosen = rows["labels"] >= 0
    assert (rows["masked"][chosen] == module.tokenizer.mask_token_id).all()
    assert torch.equal(rows["labels"][chosen], rows["input_ids"][chosen])
    made = module.model.generate(
        rows["masked"], rows["attention_mask"], rows["labels"], rows["input_ids"], rows["uniform"]
    )
    assert torch.equal(made.replaced, made.ids != rows["input_ids"])
    assert not (made.replaced & ~chosen).any()
    assert made.replaced.any()


def test_samples_have_the_softmax_s_shares():
    """Data: the inverse of the distribution; the temperature sharpens it."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(20000, 1)
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 0.5):
        actual = sample_tokens(logits, uniform, temperature).bincount(minlength=4) / 20000
        torch.testing.assert_close(actual, (logits[0] / temperature).softmax(0), atol=0.01, rtol=0)


def test_a_seventh_of_the_tokens_is_masked():
    """Data: single tokens, never special ones; at most a fifth, at least one."""
    _, batch = pretrain_of()
    rows = batch["rows"]
    for i in range(8):
        length = int(rows["counted"][i].sum())
        assert int((rows["labels"][i] >= 0).sum()) == max(1, min(round(0.15 * length), length // 5))
    assert not ((rows["labels"] >= 0) & ~rows["counted"]).any()
    special = rows["attention_mask"].bool() & ~rows["counted"]
    assert special.sum() == 16  # [CLS] and [SEP] of each


def test_the_discriminator_does_not_train_the_generator():
    """Checklist 2: with gradient-disentangled sharing the shared table is the generator's alone;
    with
    full sharing both train it."""
    for sharing in ("gdes", "es", "none"):
        module, batch = pretrain_of(f"pretrain.embedding_sharing={sharing}")
        terms = module.losses(batch)
        (50 * terms["rtd"] + terms["contrast"]).backward()
        own = dict(module.model.generator.named_parameters())
        table = own.pop("deberta.embeddings.word_embeddings.weight")
        assert all(p.grad is None or not p.grad.any() for p in own.values()), sharing
        reached = table.grad is not None and bool(table.grad.any())
        assert reached == (sharing == "es")
        if sharing == "gdes":
            delta = module.model.discriminator.get_input_embeddings().delta
            assert delta.grad.any()
        module.zero_grad()
        module.losses(batch)["mlm"].backward()
        assert table.grad.any()
        reader = [
            p.grad for n, p in module.model.discriminator.named_parameters() if p is not table
        ]
        assert all(g is None or not g.any() for g in reader)


def test_shared_tables_begin_equal_and_the_delta_is_added():
    """Checklist 2: E_D = sg(E_G) + delta."""
    module, _ = pretrain_of()
    own = module.model.generator.get_input_embeddings().weight
    table = module.model.discriminator.get_input_embeddings()
    assert torch.equal(table.weight, own)
    table.delta.data.add_(0.5)
    ids = torch.tensor([[4, 9]])
    torch.testing.assert_close(table(ids), own[ids] + 0.5)


def test_pads_and_special_tokens_do_not_count():
    """Checklist 3: the value is a mean over the other tokens; lambda is 50 by default."""
    logits = torch.tensor([[9.0, 0.0, 0.0, -9.0]])
    counted = torch.tensor([[False, True, True, False]])
    replaced = torch.tensor([[False, True, False, True]])
    loss = replaced_token_loss(logits, replaced, counted)
    assert float(loss) == pytest.approx(0.693147, abs=1e-5)
    assert PretrainObjective().rtd_lambda == config().pretrain.rtd_lambda == 50
    terms = {"mlm": torch.tensor(2.0), "rtd": torch.tensor(0.5)}
    assert float(PretrainObjective(10.0)(terms)) == 7.0
    module, batch = pretrain_of(*STILL, phase=1)
    before = module.losses(batch)
    rows = batch["rows"]
    wide = {k: torch.nn.functional.pad(v, (0, 3)) for k, v in rows.items()}
    wide["labels"][:, -3:] = -100
    after = module.losses({**batch, "rows": wide})
    for name in ("mlm", "rtd"):
        torch.testing.assert_close(before[name], after[name], atol=1e-5, rtol=1e-4)


def test_attention_without_positions_is_the_usual_one_and_only_distances_count():
    """Checklist 4: no position terms: softmax(Q K / sqrt d) V; else the same wherever a text
    begins.
    """
    cfg = config("model.config.pos_att_type=[]", "model.config.relative_attention=false", *STILL)
    fields = random_config(cfg.model)
    torch.manual_seed(0)
    from transformers import AutoConfig

    plain = (
        AutoModel.from_config(AutoConfig.for_model(**fields)).eval().encoder.layer[0].attention.self
    )
    x = torch.randn(2, 5, 32)
    actual, _ = plain(x, torch.ones(2, 1, 5, 5))
    q, k, v = (
        part(x).view(2, 5, 2, 16).transpose(1, 2)
        for part in (plain.query_proj, plain.key_proj, plain.value_proj)
    )
    expected = ((q @ k.transpose(2, 3) / 4).softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 32)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    model = build_pretraining(config(*STILL, name="smoke_pretrain")).discriminator.eval()
    ids, moved = torch.tensor([[2, 9, 10, 11, 3]]), torch.tensor([[0, 0, 2, 9, 10, 11, 3]])
    states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    later = model(input_ids=moved, attention_mask=moved.ne(0).long()).last_hidden_state[:, 2:]
    torch.testing.assert_close(states, later, atol=1e-5, rtol=1e-4)
    swapped = ids[:, [0, 2, 1, 3, 4]]
    other = model(input_ids=swapped, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert (other[:, [0, 2, 1, 3, 4]] - states).abs().max() > 1e-3  # the order does count


def test_content_weights_of_a_bert_attend_as_before():
    """mini: with a table of zeros the network is that BERT without positions."""
    new = disentangled_from_bert("bundled:text-encoder", position_buckets=16).eval()
    bert = load_transformer("bundled:text-encoder", auto_class=AutoModelForMaskedLM).eval()
    bert.bert.embeddings.position_embeddings.weight.data.zero_()
    tokenizer = load_tokenizer("bundled:text-encoder")
    inputs = tokenizer(["the old house by the river", "rain"], padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        mine, theirs = (m(**inputs).logits.log_softmax(-1) for m in (new, bert))
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(mine[kept], theirs[kept], atol=2e-3, rtol=2e-3)
    new.deberta.encoder.rel_embeddings.weight.data.normal_()
    with torch.no_grad():
        assert (new(**inputs).logits.log_softmax(-1) - theirs)[kept].abs().max() > 0.1
    half = shallow(new, 2)
    assert len(half.deberta.encoder.layer) == half.config.num_hidden_layers == 2


def test_phase_2_begins_where_phase_1_ended(pretrained_run):
    """Checklist 5: discriminator and generator; both losses are logged in every step of phase 2."""
    first, second = (weights_of(pretrained_run, stage) for stage in ("rtd", "rtd_cl"))
    shared = [k for k in second if k.startswith("model.")]
    assert set(shared) == {k for k in first if k.startswith("model.")}
    text = (pretrained_run / "metrics.csv").read_text()
    for name in ("train/mlm", "train/rtd", "train/contrast"):
        assert text.count(f"{name},") == (6 if name != "train/contrast" else 3), name
    cfg = config(name="smoke_pretrain")
    generator = stages(cfg)
    one = next(generator).module
    one.model.generator.get_input_embeddings().weight.data.add_(1.0)
    one.model.head.out.bias.data.fill_(3.0)
    two = next(generator).module
    assert two.model is one.model
    assert two.phase == 2


@pytest.mark.slow
def test_phase_2_begins_with_the_weights_of_another_run_s_phase_1(
    pretrained_run, tmp_path, monkeypatch
):
    """`pretrain.phase1_weights`: phase 1 is not trained, its checkpoint is what phase 2 begins
    with.
    """
    phases, begun = [], {}

    def first_step(self, batch):
        phases.append(self.phase)
        begun.update({k: v.clone() for k, v in self.state_dict().items() if k.startswith("model.")})
        raise KeyError("enough")

    monkeypatch.setattr(Pretrain, "losses", first_step)
    given = ckpt.newest_intact(pretrained_run / "checkpoints/rtd")[0]
    words = [f"pretrain.phase1_weights={given}", "pretrain.phase1_steps=0", "run_id=second"]
    with pytest.raises(KeyError, match="enough"):
        run_of(tmp_path, *words, name="smoke_pretrain")
    assert phases == [2]
    expected = {
        k: v for k, v in weights_of(pretrained_run, "rtd").items() if k.startswith("model.")
    }
    assert {k.split(".")[1] for k in expected} == {"generator", "discriminator", "head"}
    assert begun.keys() == expected.keys()
    assert all(torch.equal(begun[k], expected[k]) for k in expected)
    with pytest.raises(UserError, match="no checkpoint"):
        next(stages(config("pretrain.phase1_weights=no.ckpt", name="smoke_pretrain")))


@pytest.mark.parametrize("case", GOLDEN["outputs"]["simcse_cases"])
def test_contrast_reproduces_the_golden_values(case):
    """Checklist 6: cosine, tau, positive in the denominator, one direction."""
    b, d = case["B"], case["D"]
    z1 = wave(1.0, b, d).requires_grad_()
    i = torch.arange(b * d, dtype=torch.float64)
    z2 = (1.2 + 0.33 * i + 0.1 * (i).cos()).sin().view(b, d).requires_grad_()
    loss = PretrainObjective(cl_tau=case["T"]).contrast(z1, z2)
    assert float(loss) == pytest.approx(case["loss"], rel=1e-6)
    loss.backward()
    assert float(z1.grad.norm()) == pytest.approx(case["grad_norm_z1"], rel=1e-6)
    assert float(z2.grad.norm()) == pytest.approx(case["grad_norm_z2"], rel=1e-6)


def test_the_two_views_are_clean_sentences_that_differ_by_dropout():
    """Checklist 6: the same ids twice; without dropout there is nothing to tell apart."""
    module, batch = pretrain_of()
    seen = []
    module.model.discriminator.register_forward_pre_hook(
        lambda m, a, kw: seen.append(kw["input_ids"]), with_kwargs=True
    )
    views = []
    module.cl_head.register_forward_hook(lambda m, a, out: views.append(out))
    module.losses(batch)
    assert torch.equal(seen[1], seen[2])
    assert torch.equal(seen[1], batch["rows"]["input_ids"])
    assert not torch.allclose(views[0], views[1])


def test_the_sentence_vector_is_bounded_by_its_tanh():
    """Checklist 6: first token, dense layer, tanh."""
    module, _ = pretrain_of()
    states = 100 * torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    dense = module.cl_head[0]
    torch.testing.assert_close(
        module.cl_head(states), (states @ dense.weight.T + dense.bias).tanh()
    )


def test_phase_2_has_a_rate_a_warm_up_and_a_batch_of_its_own():
    """Recipe: 1e-5 to 3e-5 and 1,000 steps in phase 2; unset they are those of phase 1."""
    own = [
        "pretrain.phase2_lr=3e-5",
        "pretrain.phase2_warmup=7",
        "pretrain.phase2_batch_size=4",
        "optim.warmup_steps=2",
    ]
    for words, phase, expected in (
        (own, 2, (3e-5, 7, 4)),
        (own, 1, (1e-2, 2, 8)),
        (own[3:], 2, (1e-2, 2, 8)),
    ):
        module, _ = pretrain_of(*words, phase=phase)
        size = training_data(config(*words, name="smoke_pretrain"), module).batch_size
        assert (module.optim.lr, module.optim.warmup_steps, size) == expected


def test_a_contrast_without_dropout_is_refused():
    """Pitfall: two passes that are equal teach nothing; without the contrast there is no need."""
    with pytest.raises(UserError, match=r"model\.dropout=0\.1"):
        next(stages(config("model.dropout=0", name="smoke_pretrain")))
    assert next(stages(config("model.dropout=0", "pretrain.cl_gamma=0", name="smoke_pretrain")))


@pytest.mark.parametrize(("texts", "words"), [(60, 4), (3, 90)], ids=["sentences", "documents"])
def test_no_packed_row_draws_the_sentence_of_another(texts, words):
    """Checklist 6: a sentence that is twice in a batch would be its own negative."""
    tokenizer = tiny_tokenizer(300)
    # every text has words of its own, so that equal pieces are the same piece
    corpus = [
        " ".join(f"{chr(97 + t % 26)}{chr(97 + t // 26)}{w}" for w in range(words))
        for t in range(texts)
    ]
    data = ReplacedTokenRows(corpus, tokenizer, max_length=16, packed=True, sentence_length=16)
    assert (len(data) > texts) == (words > 16)
    drawn, pieces = [], []
    for epoch in (0, 1):
        drawn.append(data[[(i, epoch) for i in range(len(data))]]["sentences"]["ids"].tolist())
        pieces.append([data.pieces[i] for i in data._drawn[1][: len(data)]])
    assert len(set(map(tuple, drawn[0]))) == len(set(pieces[0])) == len(data)
    assert pieces[0] != pieces[1]
    alone = data[[(2, 0)]]["sentences"]["ids"][0].tolist()  # whatever stands beside it
    assert alone == drawn[0][2][: len(alone)]


def test_without_gamma_a_step_is_one_of_phase_1():
    """Checklist 15: the same batch, the same gradient; with gamma the replaced tokens stay."""
    actual = []
    for words, phase in ((["pretrain.cl_gamma=0"], 2), ([], 1), ([], 2)):
        module, batch = pretrain_of(*words, phase=phase)
        torch.manual_seed(1)
        terms = module.losses(batch)
        terms["loss"].backward()
        actual.append(
            (terms, {n: p.grad for n, p in module.named_parameters() if p.grad is not None})
        )
    (zero, one), first, full = actual[0], actual[1], actual[2]
    assert torch.equal(zero["loss"], first[0]["loss"])
    assert one.keys() == first[1].keys()
    assert all(torch.equal(one[name], first[1][name]) for name in one)
    assert torch.equal(full[0]["rtd"], first[0]["rtd"])
    added = full[0]["loss"] - first[0]["loss"]
    torch.testing.assert_close(added, 0.1 * full[0]["contrast"], atol=1e-4, rtol=1e-3)


def test_decoupled_steps(monkeypatch):
    """Recipe: a step of the generator, then of the discriminator, on what was sampled before the
    step.
    """
    module, batch = pretrain_of("pretrain.decoupled=true")
    assert not module.automatic_optimization
    names, losses, made, read = [], [], [], []
    generate, detect = module.model.generate, module.model.detect

    def sampled(*inputs):
        made.append(generate(*inputs))
        return made[-1]

    def detected(ids, mask):
        read.append(ids)
        return detect(ids, mask)

    monkeypatch.setattr(module.model, "generate", sampled)
    monkeypatch.setattr(module.model, "detect", detected)
    before = copy.deepcopy(module.model.generator.state_dict())
    for name, terms in module.updates(batch):
        names.append(name)
        losses.append({term: float(value) for term, value in terms.items()})
        part = dict(module.parts())[name]
        owned = [p for p in part.parameters() if p.requires_grad]
        grads = torch.autograd.grad(terms["loss"], owned)
        assert all(torch.isfinite(g).all() for g in grads)
        for p in part.parameters():
            p.data.add_(0.01)
    assert names == ["generator", "discriminator"]
    own = config(name="smoke_pretrain").pretrain
    assert (own.rtd_lambda, own.cl_gamma) == (50, 0.1)
    first, second = losses
    assert set(first) == {"loss", "mlm"}
    assert first["loss"] == first["mlm"] > 0
    expected = own.rtd_lambda * second["rtd"] + own.cl_gamma * second["contrast"]
    assert second["loss"] == pytest.approx(expected, rel=1e-6)
    assert min(second["rtd"], second["contrast"]) > 0
    assert "mlm" not in second
    assert len(made) == len(read) == 1
    assert read[0] is made[0].ids
    assert before.keys() == module.model.generator.state_dict().keys()
    with pytest.raises(Exception, match="decoupled=false"):
        config("pretrain.decoupled=true", "pretrain.embedding_sharing=es", name="smoke_pretrain")


def test_the_export_is_the_discriminator_alone(pretrained_run):
    """Checklist 16: no generator, no heads; transformers opens it with equal states."""
    folder = export(
        "vega", "smoke_pretrain", [f"runs_dir={pretrained_run.parents[2]}"], "pre", None
    )
    opened = AutoModel.from_pretrained(folder).eval()
    names = set(opened.state_dict())
    assert not [
        n for n in names if "cl_head" in n or "generator" in n or "cls." in n or "delta" in n
    ]
    from safetensors import safe_open

    with safe_open(next(folder.rglob("*.safetensors")), "pt") as file:
        assert set(file.keys()) <= names | {f"deberta.{n}" for n in names}
    from common.models import load

    encoder = load(folder)
    texts = ["a small cat", "two men repair a roof"]
    inputs = encoder.tokenize(texts)
    with torch.no_grad():
        states = opened(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    torch.testing.assert_close(
        encoder.encode(texts), (states * mask).sum(1) / mask.sum(1), atol=1e-5, rtol=1e-4
    )
    assert encoder.similarity(texts, texts).shape == (2, 2)


def test_an_encoder_is_taken_out_without_change():
    """Checklist 16: table and delta become one table; training continues with the two."""
    module, batch = pretrain_of()
    table = module.model.discriminator.get_input_embeddings()
    table.delta.data.normal_()
    module.eval()
    ids = batch["rows"]["input_ids"]
    mask = batch["rows"]["attention_mask"]
    kept = sentence_encoder(module)
    torch.testing.assert_close(
        kept.tower.model(input_ids=ids, attention_mask=mask).last_hidden_state,
        module.model.states(ids, mask),
    )
    assert module.model.discriminator.get_input_embeddings() is table


def test_the_vector_that_is_scored_is_the_one_that_the_config_names():
    """Model: the first token, which the contrast trains, without its dense layer; or the mean."""
    texts = ["a small cat", "two men repair a roof"]
    for pooling in ("cls", "avg"):
        module, _ = pretrain_of(f"pretrain.pooling={pooling}")
        encoder = sentence_encoder(module)
        inputs = encoder.tokenize(texts)
        with torch.no_grad():
            states = module.eval().model.states(inputs["input_ids"], inputs["attention_mask"])
        mask = inputs["attention_mask"][..., None]
        expected = states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(encoder.encode(texts), expected, atol=1e-5, rtol=1e-4)
    assert config(name="paper_pretrain").pretrain.pooling == "cls"


def test_detection_is_measured_on_texts_of_the_file_that_are_not_trained_on(tmp_path):
    """Evaluation: the first eval.held_out rows; a file that has no others is refused."""
    texts = [f"text number {i}" for i in range(10)]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts))
    words = ["pretrain.texts=file", f"pretrain.file={file}", "eval.held_out=3"]
    cfg = config(*words, name="smoke_pretrain")
    assert (held_out(cfg), training_texts(cfg)) == (texts[:3], texts[3:])
    few = training_texts(config(*words, "pretrain.limit=6", name="smoke_pretrain"))
    assert len(few) == 6
    assert set(few) < set(texts[3:])
    for more, message in (
        ("eval.held_out=10", r"lower eval\.held_out"),
        ("pretrain.limit=8", "has 7 texts"),
    ):
        with pytest.raises(UserError, match=message):
            training_texts(config(*words, more, name="smoke_pretrain"))


def test_a_file_of_texts_is_read_by_lines_and_refused_where_it_does_not_fit(tmp_path, monkeypatch):
    """The whole file and two copies of its ids once went into memory until the kernel ended the
    run.
    """
    texts = [f"text\u2028number {i}" for i in range(10)]
    file = tmp_path / "texts.txt"
    file.write_bytes(("\ufeff" + "\r\n\r\n".join(texts)).encode())
    words = ["pretrain.texts=file", f"pretrain.file={file}", "eval.held_out=3"]
    cfg = config(*words, name="smoke_pretrain")
    assert (held_out(cfg), training_texts(cfg)) == (texts[:3], texts[3:])
    monkeypatch.setattr(pretraining, "IN_MEMORY", 1e13)
    with pytest.raises(UserError, match=r"texts and their ids need about .* set pretrain\.limit="):
        training_texts(cfg)
    file.write_bytes("caf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        training_texts(cfg)


@pytest.mark.parametrize("packed", [True, False])
def test_a_large_file_is_read_from_disk_as_from_memory(tmp_path, monkeypatch, packed):
    """Batches, sentences too, are equal; the files are written once; a loader process maps them."""
    monkeypatch.setattr(token_files, "ROWS", 7)
    texts = [" ".join(f"word{j % 5}" for j in range(3 + i % 9)) for i in range(60)]
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(texts))
    words = ["pretrain.texts=file", f"pretrain.file={file}", "eval.held_out=9"]
    words += [f"pretrain.packed={packed}", f"runs_dir={tmp_path}/runs"]
    cfg = config(*words, name="smoke_pretrain")
    tokenizer = tokenizer_of(cfg.model)
    assert pretraining.tokens_on_disk(cfg, tokenizer) is None
    monkeypatch.setattr(pretraining, "ON_DISK_FROM_BYTES", 0)
    tokens = pretraining.tokens_on_disk(cfg, tokenizer)
    options = {"max_length": 12, "packed": packed, "sentence_length": 6, "seed": 3}
    memory, disk = (
        ReplacedTokenRows(source, tokenizer, **options)
        for source in (training_texts(cfg), pickle.loads(pickle.dumps(tokens)))
    )
    assert len(memory) == len(disk) > 10
    keys = [(i, epoch) for i in range(len(memory)) for epoch in (0, 1)]
    torch.testing.assert_close(memory[keys], disk[keys], rtol=0, atol=0)
    monkeypatch.setattr(pretraining, "plain_ids", None)
    assert len(pretraining.tokens_on_disk(cfg, tokenizer)) == 51


def test_vega_has_1_3_billion_parameters():
    """Checklist 16: within 5 %, on the meta device."""
    from projects.vega import build

    cfg = config("data.root=null", name="paper_pretrain")
    with torch.device("meta"):
        module = build(cfg).plan().module()
    count = sum(p.numel() for p in module.model.encoder().parameters())
    assert abs(count / 1.3e9 - 1) < 0.05
    assert module.model.discriminator.config.num_hidden_layers == 24
    assert module.model.generator.config.num_hidden_layers == 12
