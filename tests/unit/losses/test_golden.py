"""Every loss case recorded from an official implementation, in one process and float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels.specs.weights import Valid
from common.losses.auxiliary.prototypes import prototype_softmax
from common.losses.cacr import CACRLoss
from common.losses.functional.cacr import cacr_momentum
from common.losses.functional.geometry import alignment, joint_entropy, uniformity
from common.losses.functional.margin import candidate_ranking, margin_ranking
from common.losses.functional.multi_positive import sup_con
from common.losses.functional.soft import cwcl, symmetric_kl, weighted_info_nce
from common.losses.functional.two_view import von_mises_fisher_weight
from common.losses.image_text import ClipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.multi_positive import HydraLoss, OneToKLoss
from common.losses.output import LossOutput
from common.losses.soft import CWCLLoss
from common.losses.two_view import DCLLoss, NTXentLoss, TargetAnchoredLoss
from tests.unit.losses.golden import (
    assert_close,
    fill,
    flat,
    grad_norm,
    load,
    sentence_head,
    sentences,
    wave,
)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("case", load("laclip")["outputs"]["clip_loss"]["world_size_1"])
def test_clip(case):
    image, text = (wave(case["local_N"], case["d"], phase) for phase in (1, 2))
    scale = scalar(case["logit_scale"])
    out = ClipLoss()(image, text, scale)
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(out.hits.double().mean() * 100, case["clip_acc"])
    assert_close(grad_norm(image), case["grad_norm_image"])
    assert_close(grad_norm(text), case["grad_norm_text"])
    assert_close(image.grad, case["grad_image_first5"])
    assert_close(scale.grad, case["grad_logit_scale"])


CL2L = [c for c in load("clip_baselines")["outputs"]["losses"] if c["class"] == "CL2LLoss"]


@pytest.mark.parametrize("case", CL2L)
def test_clip_with_label_smoothing_on_local_pairs(case):
    n, d, smoothing = case["N"], case["d"], case["label_smoothing"]
    image, text = wave(n, d, 1), wave(n, d, 2)
    images, texts = [wave(n, d, p) for p in (3, 4)], [wave(n, d, p) for p in (5, 6)]
    scale, local_scale = scalar(1 / 0.07), scalar(10.0)
    clean = ClipLoss()(image, text, scale).loss
    smooth = ClipLoss(label_smoothing=smoothing)
    local = torch.stack([smooth(a, b, local_scale).loss for a in images for b in texts]).mean()
    total = (clean + 2 * local) / 3 * (2 if case["loss_avg_or_sum"] == "sum" else 1)
    total.backward()
    assert_close(total, case["values"]["loss"])
    leaves = {"z_image_global": image, "z_text_global": text, "logit_scale": scale}
    leaves |= {"h_logit_scale": local_scale}
    leaves |= {f"h_image_local[{i}]": x for i, x in enumerate(images)}
    leaves |= {f"h_text_local[{i}]": x for i, x in enumerate(texts)}
    for name, expected in case["grads"].items():
        assert_close(grad_norm(leaves[name]), expected["norm"])
        assert_close(leaves[name].grad, expected["first3"])


@pytest.mark.parametrize("case", load("simcse")["cases"])
def test_info_nce_with_hard_negatives(case):
    h = sentences(case["B"], case["S"], case["d"])
    z = sentence_head(case["d"])(h) if case["mlp"] else h
    hard = z[:, 2] if case["S"] == 3 else None
    loss = InfoNCELoss(hard_logit=case["hard_negative_logit_weight"])
    out = loss(z[:, 0], z[:, 1], 1 / case["temperature"], hard_negatives=hard)
    out.loss.backward()
    check_sentences(h, out, case["outputs"])


def check_sentences(h: Tensor, out: LossOutput, wanted: dict) -> None:
    assert_close(out.loss, wanted["loss"])
    assert_close(h.grad[:, 0].norm(), wanted["grad_norm_anchor"])
    assert_close(h.grad[:, 1].norm(), wanted["grad_norm_positive"])
    assert_close(h.grad[0, 0], wanted["grad_anchor_row0_first5"])
    assert_close(h.grad[1, 1], wanted["grad_positive_row1_first5"])
    if "grad_norm_hard_negative" in wanted:
        assert_close(h.grad[:, 2].norm(), wanted["grad_norm_hard_negative"])


@pytest.mark.parametrize("case", load("esimcse")["loss_cases"])
def test_info_nce_with_queue(case):
    h = sentences(case["B"], 2, case["d"])
    q, j = torch.arange(case["queue_size"]).double()[:, None], torch.arange(case["d"]).double()
    queue = torch.cos(0.7 * q + 1.3 * j).requires_grad_() if case["queue_size"] else None
    out = InfoNCELoss()(h[:, 0], h[:, 1], 1 / case["temperature"], queue=queue)
    out.loss.backward()
    check_sentences(h, out, case["outputs"])
    assert queue is None or queue.grad is None


@pytest.mark.parametrize("case", load("mirror_bert")["loss_cases"])
def test_nt_xent(case):
    h, expected = sentences(case["B"], 2, case["d"]), case["outputs"]
    out = NTXentLoss()(h[:, 0], h[:, 1], 1 / case["temperature"])
    out.loss.backward()
    assert_close(out.loss, expected["loss"])
    for view, row in ((0, 0), (1, 1)):
        assert_close(h.grad[:, view].norm(), expected[f"grad_norm_view{view}"])
        assert_close(h.grad[row, view], expected[f"grad_view{view}_row{row}_first5"])


@pytest.mark.parametrize("case", load("mclrec")["outputs"])
def test_nt_xent_of_dot_products(case):
    shape = (case["B"], case["D"])
    h1, h2 = flat(shape, "sin", 1, 0.29), flat(shape, "cos", 0.2, 0.31)
    out = NTXentLoss(normalize=False)(h1, h2, 1.0)
    assert_close(out.loss, case["L_con_h1_h2"])


@pytest.mark.parametrize("case", load("dcl")["cases"])
@pytest.mark.parametrize("name", ["DCL", "DCLW"])
def test_dcl(case, name):
    n, d, expected = case["N"], case["d"], case["outputs"][name]
    x1, x2 = wave(n, d, 1.0), wave(n, d, 1.3)
    z1, z2 = unit(x1), unit(x2)
    z1.retain_grad()
    loss = DCLLoss(weighted=name == "DCLW", sigma=case["sigma"])
    out = loss(z1, z2, 1 / case["temperature"])
    out.loss.backward()
    assert_close(out.loss, expected["sum"])
    assert_close(grad_norm(x1), expected["grad_norm_x1"])
    assert_close(x2.grad, expected["grad_x2_first4"])
    if name == "DCLW":
        weight = von_mises_fisher_weight((z1 * z2).sum(-1), case["sigma"])
        assert_close(weight, expected["weights_12_first4"])
        assert_close(weight.mean(), expected["weights_mean"])


@pytest.mark.parametrize("case", load("dcl")["cases"])
def test_dcl_formulas(case):
    n, d, scale, expected = case["N"], case["d"], 1 / case["temperature"], case["outputs"]
    x1, x2, queue = wave(n, d, 1.0), wave(n, d, 1.3), wave(3 * n, d, 0.5)
    assert_close(DCLLoss()(x1, x2, scale).loss, expected["formula_exact_mask_DCL_sum"])
    nt_xent = NTXentLoss()(x1, x2, scale).loss
    assert_close(nt_xent, expected["formula_simclr_ntxent_mean_over_2N"])
    for decoupled, key in ((True, "formula_moco_dcl_mean"), (False, "formula_moco_infonce_mean")):
        loss = InfoNCELoss(in_batch=False, decoupled=decoupled)
        assert_close(loss(x1, x2, scale, queue=queue).loss, expected[key])


@pytest.mark.parametrize("case", load("rtd")["cases"])
def test_target_anchored(case):
    n, d, scale, expected = case["N"], case["d"], 1 / case["temperature"], case["outputs"]
    if case["variant"] == "refined batch":
        target, reference = wave(n, d, 1.0), wave(n, d, 2.0)
        composed, special = wave(n, d, 1.2), wave(n, d, 2.2)
        loss = TargetAnchoredLoss()
        out = loss(torch.cat([target, reference]), torch.cat([composed, special]), scale)
        out.loss.backward()
        assert_close(out.loss, expected["loss"])
        assert_close(loss(target, composed, scale).loss, expected["loss_without_refinement"])
        assert_close(grad_norm(composed), expected["grad_norm_rc"])
        assert_close(grad_norm(special), expected["grad_norm_special"])
        assert target.grad is None
        assert reference.grad is None
        return
    target, composed = wave(n, d, 1.0), wave(n, d, 1.4)
    out = NTXentLoss()(target, composed, scale)
    out.loss.backward()
    assert_close(out.loss, expected["loss"])
    assert_close(grad_norm(target), expected["grad_norm_target"])
    assert_close(composed.grad, expected["grad_composed_first4"])
    composed.grad = None
    TargetAnchoredLoss()(target.detach(), composed, scale).loss.backward()
    assert_close(composed.grad, expected["grad_composed_first4"])


@pytest.mark.parametrize("case", load("cwcl")["outputs"]["closed_form"])
def test_cwcl(case):
    frozen, trained = wave(case["N"], case["d"], 1), wave(case["N"], case["d"], 2)
    features, scale = wave(case["N"], case["d_w"], 3), case["logit_scale"]
    out = CWCLLoss()(frozen, trained, scale, features)
    out.loss.backward()
    assert_close(out.loss, case["total"])
    assert_close(grad_norm(frozen), case["grad_norm_anchor_unnormalised"])
    assert_close(grad_norm(trained), case["grad_norm_other_unnormalised"])
    assert features.grad is None
    guide = unit(features)
    one_way = cwcl(unit(frozen), unit(trained), guide, guide, scale).loss
    assert_close(one_way, case["weighted_direction"])
    own = CWCLLoss()(frozen, trained, scale).loss
    assert_close(own, case["weights_from_anchor_embeddings_total"])


@pytest.mark.parametrize("case", load("cwcl")["outputs"]["third_party_C1"])
def test_cwcl_third_party(case):
    n, d = case["N"], case["d"]
    frozen = unit(wave(n, d, 1)).detach().requires_grad_()
    trained = unit(wave(n, d, 2)).detach().requires_grad_()
    loss = CWCLLoss(normalize=False)
    out = loss(frozen, trained, case["logit_scale"], wave(n, case["d_w"], 3))
    out.loss.backward()
    # that code adds 1e-8 to norms and sums
    assert_close(out.loss, case["loss"], rel=1e-7)
    assert_close(grad_norm(trained), case["grad_norm_other"])
    assert_close(trained.grad, case["grad_other_first4"])


ONE_TO_K = load("one_to_k")["outputs"]["world_size_1"]


@pytest.mark.parametrize("case", [c for c in ONE_TO_K if "need_divm" in c])
def test_one_to_k(case):
    b, k = case["b"], case["K"]
    image, text, temperature = (
        wave(b, case["d"], 1),
        wave(b * k, case["d"], 2),
        scalar(case["temp"]),
    )
    out = one_to_k_loss(case)(image, text, 1 / temperature)
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(grad_norm(image), case["grad_norm_image"])
    assert_close(grad_norm(text), case["grad_norm_text"])
    assert_close(image.grad, case["grad_image_first4"])
    assert_close(temperature.grad, case["grad_temp"])


def one_to_k_loss(case: dict) -> OneToKLoss:
    """The official sum of the two directions is divided by K, by a number, or not at all."""
    k, divide = case["K"], case["need_divm"]
    divisor = {0: k}.get(divide, divide if divide > 0 else 1)
    return OneToKLoss(k, image_weight=k / divisor, text_weight=1 / divisor)


@pytest.mark.parametrize("case", [c for c in ONE_TO_K if "idx" in c])
def test_targets_shared_by_equal_ids(case):
    b, scale = case["b"], 1 / case["temp"]
    x, y = wave(b, case["d"], 1), wave(b, case["d"], 2)
    ids = torch.tensor(case["idx"] or list(range(b)))
    forth = sup_con(unit(x), unit(y), ids, ids, scale).loss
    back = sup_con(unit(y), unit(x), ids, ids, scale).loss
    loss = 0.5 * (forth + back)
    loss.backward()
    assert_close(loss, case["loss"])
    assert_close(grad_norm(x), case["grad_norm_image"])
    assert_close(grad_norm(y), case["grad_norm_text"])


@pytest.mark.parametrize("case", load("hydra")["cases"])
def test_hydra(case):
    n, d, classes, expected = case["N"], case["d"], case["classes"], case["outputs"]
    x, index = wave(n, d, 1), torch.arange(n)
    y1, y2 = (2 * index) % classes, (3 * index + 1) % classes
    y2 = y1 if case["kind"] == "identical" else y2
    table = torch.sin(torch.arange(classes * d).double()).view(classes, d)
    gate = torch.sigmoid(1.5 * (table[y1] + table[y2]))
    gate = torch.ones_like(gate) if case["kind"] == "open" else gate
    gate.requires_grad_()
    loss = HydraLoss(exclude_self=False)
    out = loss(x, gate, y1, y2, 1 / case["temperature"])
    out.loss.backward()
    assert_close(out.loss, expected["loss"])
    assert_close(grad_norm(x), expected["grad_norm_x"])
    assert_close(grad_norm(gate), expected["grad_norm_gate"])
    assert_close(x.grad, expected["grad_x_first4"])
    assert_close(gate.grad, expected["grad_gate_first4"])


MULTI_VIEW = [c for c in load("cacr")["cases"] if "views_total_K_plus_1" in c]


@pytest.mark.parametrize("case", MULTI_VIEW)
def test_cacr(case):
    num_views, n, d = case["views_total_K_plus_1"], case["N"], case["d"]
    views = [unit(wave(n, d, 1 + 0.3 * v)).detach().requires_grad_() for v in range(num_views)]
    loss = CACRLoss(
        case["tau_pos"],
        case["tau_neg"],
        case["alpha"],
        case["beta"],
        case["choice"],
        tau_plus=case["tau_plus"] if case["with_debiased"] else 0.0,
        normalize=False,
    )
    terms, expected = loss.terms(torch.stack(views)), case["outputs"]
    out = loss(torch.stack(views))
    out.loss.backward()
    assert_close(terms.attraction.mean(), expected["loss_attraction"])
    assert_close(terms.repulsion.mean(), expected["loss_repulsion"])
    assert_close(out.loss, expected["total"])
    assert_close(grad_norm(views[0]), expected["grad_norm_z0"])
    assert_close(grad_norm(views[-1]), expected["grad_norm_zlast"])
    assert_close(views[0].grad, expected["grad_z0_first4"])


@pytest.mark.parametrize("case", [c for c in load("cacr")["cases"] if "n_query_views" in c])
def test_cacr_momentum(case):
    n, d, expected = case["N"], case["d"], case["outputs"]
    queries = [wave(n, d, 1 + 0.3 * v) for v in range(case["n_query_views"])]
    key = wave(n, d, 2.5)
    views = torch.stack([unit(q) for q in queries])
    out = cacr_momentum(views, unit(key), case["T"])
    out.loss.backward()
    assert_close(out.loss, expected["loss"])
    assert_close(grad_norm(queries[0]), expected["grad_norm_q0"])
    assert_close(queries[0].grad, expected["grad_q0_first4"])
    assert key.grad is None


@pytest.mark.parametrize("case", load("sepclr")["cases"])
def test_common_and_salient_terms(case):
    n, dc, ds, tau = case["N"], case["d_common"], case["d_salient"], case["tau"]
    c = [wave(n, dc, 1), wave(n, dc, 1.3)]
    s = [wave(n, ds, 0.2), wave(n, ds, 0.6)]
    target = torch.arange(n) % 2 == 1
    codes = [unit(x) for x in c]
    masked = [torch.where(target[:, None], x, 0.0) for x in s]
    zero = torch.zeros_like(s[0][~target])
    terms = {
        "common_align": alignment(codes[0], codes[1], tau),
        "common_uniform": torch.stack([uniformity(x, tau) for x in codes]).mean(),
        "salient_align": alignment(s[0][target], s[1][target], tau),
        "salient_uniform": torch.stack([uniformity(x, tau) for x in masked]).mean(),
        "salient_reg": torch.stack([alignment(zero, x[~target], tau) for x in s]).mean(),
        "k_jem": torch.stack(
            [joint_entropy(a, b, tau) for a, b in zip(codes, masked, strict=True)]
        ).mean(),
    }
    expected = case["outputs"]
    for name, value in terms.items():
        assert_close(value, expected[name])
    total = terms["common_align"] + 2 * terms["common_uniform"]
    total += case["salient_term_beta"] * (terms["salient_align"] + 2 * terms["salient_uniform"])
    total += case["salient_reg_beta"] * terms["salient_reg"] + case["jem_lambda"] * terms["k_jem"]
    total.backward()
    assert_close(total, expected["total"])
    assert_close(grad_norm(c[0]), expected["grad_norm_c1"])
    assert_close(grad_norm(s[0]), expected["grad_norm_s1"])
    assert_close(c[0].grad, expected["grad_c1_first4"])
    assert_close(s[0].grad[0], expected["grad_s1_row0_background"])
    assert_close(s[0].grad[1], expected["grad_s1_row1_target"])


@pytest.mark.parametrize("case", load("space2")["outputs"]["supcon_cases"])
def test_soft_sup_con(case):
    b, d = case["B"], case["D"]
    f = flat((b, 2, d), "sin", 1, 0.23)
    i = torch.arange(b).double()
    masks = {
        "none": torch.eye(b, dtype=torch.float64),
        "soft": 1 / (1 + (i[:, None] - i).abs()),
        "hard": (i[:, None] % 2 == i % 2).double(),
    }
    z = unit(f).transpose(0, 1).flatten(0, 1)
    weights = masks[case["mask"]].repeat(2, 2)
    out = weighted_info_nce(z, z, 1 / case["T"], weights, exclude_self=True)
    loss = out.loss * case["T"] / 0.07  # the official code multiplies by T over a base of 0.07
    loss.backward()
    assert_close(loss, case["loss"], rel=2e-6)
    assert_close(grad_norm(f), case["grad_norm_f"], rel=2e-6)
    assert_close(f.grad[0, 0], case["grad_f_0_0_first4"], rel=2e-6, absolute=1e-6)


@pytest.mark.parametrize("case", load("space2")["outputs"]["rdrop_cases"])
def test_symmetric_kl(case):
    shape = (case["B"], case["C"])
    actual = symmetric_kl(flat(shape, "sin", 0, 1.0), flat(shape, "cos", 0, 0.7))
    assert_close(actual, case["symmetric_kl"])


@pytest.mark.parametrize("case", load("mofi")["cases"])
def test_prototypes_with_margin(case):
    b, c, d, expected = case["B"], case["C"], case["D"], case["outputs"]
    f, w = wave(b, d, 1), flat((c, d), "sin", 0.3, 0.7)
    chosen = torch.tensor(case["class_set"])
    labels = torch.searchsorted(chosen, (3 * torch.arange(b) + 1) % c)
    out = prototype_softmax(unit(f), unit(w)[chosen], labels, case["scale"], margin=case["margin"])
    out.loss.backward()
    assert_close(out.loss, expected["loss"])
    assert_close(grad_norm(f), expected["grad_norm_features"])
    assert_close(grad_norm(w), expected["grad_norm_class_matrix"])
    assert_close(f.grad, expected["grad_features_first4"])


@pytest.mark.parametrize("case", load("ccp")["outputs"]["dpr_loss"])
def test_passages_of_all_questions(case):
    b, d, hard = case["B"], case["d"], case["hard_negatives_per_question"]
    q, contexts = fill((b, d), 0.2), fill((b * (1 + hard), d), 1.2)
    groups = contexts.view(b, 1 + hard, d)
    out = InfoNCELoss(normalize=False)(q, groups[:, 0], 1.0, hard_negatives=groups[:, 1:])
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(grad_norm(q), case["grad_norm_q"])
    assert_close(grad_norm(contexts), case["grad_norm_ctx"])
    assert out.hits.sum() == case["correct"]


@pytest.mark.parametrize("case", load("ccp")["outputs"]["family_loss"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_bank_of_one_language(case, symmetric):
    x, y, bank = fill((3, 4), 1.7), fill((3, 4), 0.7), fill((6, 4), 2.5)
    language = torch.tensor(case["bank_language_ids"])
    keep = (language == 0) | (language == -1)
    mask = Valid(key=torch.cat([torch.ones(3, dtype=torch.bool), keep]))
    loss = InfoNCELoss(in_batch=symmetric, query_negatives=symmetric)
    outputs = [loss(x, y, 1 / case["tau"], queue=bank, mask=mask)]
    if symmetric:
        outputs.append(loss(y, x, 1 / case["tau"], queue=bank, mask=mask))
    total = sum(out.per_sample.sum() for out in outputs)
    total.backward()
    expected = case["symmetric" if symmetric else "one_direction_bank_only"]
    assert_close(total, expected["loss_sum"], rel=1e-5)  # recorded in float32
    assert_close(grad_norm(x), expected["grad_norm_query"], rel=1e-5)
    assert_close(grad_norm(y), expected["grad_norm_key"], rel=1e-5)


@pytest.mark.parametrize("case", load("contriever")["outputs"]["inbatch"])
def test_golds_and_negatives(case):
    table = fill((11, 6), 0.3)

    def encode(batch: int, shift: int) -> Tensor:
        i, j = torch.arange(batch)[:, None], torch.arange(3)
        keep = (j < 3 - i % 2).double()[..., None]
        mean = (table[(3 * i + 2 * j + shift) % 11] * keep).sum(1) / keep.sum(1)
        return unit(mean) if case["norm"] else mean

    query, keys = encode(case["n_queries"], 1), encode(case["n_keys"], 5)
    loss = InfoNCELoss(normalize=False, label_smoothing=case["label_smoothing"])
    golds, negatives = keys[: len(query)], keys[len(query) :]
    out = loss(query, golds, 1 / case["temperature"], hard_negatives=negatives)
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(grad_norm(table), case["grad_norm_E"])
    assert_close(table.grad, case["grad_first4"])


@pytest.mark.parametrize("case", load("nv_embed")["outputs"]["losses"])
def test_two_stages_of_hard_negatives(case):
    scale = 1 / case["temperature"]
    for own, name in ((False, "stage1_inbatch_plus_all_hard"), (True, "stage2_own_hard")):
        q, p, n = fill((3, 5), 0.2), fill((3, 5), 1.2), fill((3, 2, 5), 2.2)
        z = unit(q).detach().requires_grad_()
        loss = InfoNCELoss(in_batch=not own, own_hard_only=own, normalize=False)
        out = loss(z, unit(p), scale, hard_negatives=unit(n))
        out.loss.backward()
        assert_close(out.loss, next(v for k, v in case.items() if k.startswith(name)))
        assert_close(grad_norm(z), case[f"{name[:6]}_grad_norm_q"])


@pytest.mark.parametrize("case", load("promptreps")["outputs"]["training"])
def test_groups_of_passages(case):
    q, p = fill((2, 6), 0.2), fill((6, 6), 1.2)
    groups = unit(p).view(2, 3, 6)
    loss = InfoNCELoss()
    out = loss(q, groups[:, 0], 1 / case["dense_temperature"], hard_negatives=groups[:, 1:])
    assert_close(out.loss, case["loss_dense"])


@pytest.mark.parametrize("case", load("rankgen")["outputs"]["loss_cases"])
def test_generated_negatives(case):
    shape = (case["B"], case["D"])
    p, c, g = (
        flat(shape, "sin", 1, 0.41),
        flat(shape, "cos", 0.5, 0.37),
        flat(shape, "sin", 2, 0.53),
    )
    hard = g if case["with_generative"] else None
    out = InfoNCELoss(normalize=False)(p, c, 1.0, hard_negatives=hard)
    out.per_sample.sum().backward()
    assert_close(out.loss, case["loss_mean"])
    assert_close(grad_norm(p), case["grad_norm_P"])
    assert_close(grad_norm(c), case["grad_norm_C"])
    assert_close(p.grad, case["grad_P_row0_first4"])
    if case["with_generative"]:
        assert_close(grad_norm(g), case["grad_norm_G"])


MNR = [c for c in load("moe_embeddings")["outputs"]["losses"] if c["loss_name"].startswith("mnr")]


@pytest.mark.parametrize("case", [c for c in MNR if "plus" not in c["loss_name"]])
def test_multiple_negatives_ranking(case):
    shape = (case["B"], case["d"])
    a, b = fill(shape, 0.2, case["scale"]), fill(shape, 1.7, case["scale"])
    loss = InfoNCELoss(normalize="normalised" in case["loss_name"])
    out = loss(a, b, 1.0)
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(grad_norm(a), case["grad_norm_a"])
    assert_close(grad_norm(b), case["grad_norm_b"])
    assert_close(a.grad, case["grad_a_first4"])


@pytest.mark.parametrize("case", load("cosmo")["outputs"]["contrastive"])
def test_clip_after_projections(case):
    n, dv, dt, latent = case["B"], case["dv"], case["dt"], case["latent"]
    vision, text = flat((n, dv), "sin", 1, 1.0), flat((n, dt), "sin", 2, 1.0)
    project_v, project_t = (0.1 * flat((latent, d), "sin", 1, 1.0) for d in (dv, dt))
    raw = scalar(case["temperature_param"])
    out = ClipLoss()(vision @ project_v.T, text @ project_t.T, raw.exp())
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(grad_norm(vision), case["grad_norm_vision"])
    assert_close(grad_norm(text), case["grad_norm_text"])
    assert_close(raw.grad, case["grad_temperature"])


@pytest.mark.parametrize("case", load("vega")["outputs"]["simcse_cases"])
def test_one_direction(case):
    shape = (case["B"], case["D"])
    k = torch.arange(shape[0] * shape[1]).double().view(shape)
    z1 = torch.sin(1 + 0.33 * k).requires_grad_()
    z2 = torch.sin(1.2 + 0.33 * k + 0.1 * torch.cos(k)).requires_grad_()
    out = InfoNCELoss()(z1, z2, 1 / case["T"])
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(grad_norm(z1), case["grad_norm_z1"])
    assert_close(grad_norm(z2), case["grad_norm_z2"])


@pytest.mark.parametrize("case", load("wikides")["outputs"])
@pytest.mark.parametrize("name", ["wikides", "simcls"])
def test_candidate_ranking(case, name):
    candidates = flat((case["B"], case["n"]), "sin", 0.4, 0.9)
    target = flat((case["B"],), "cos", 0.3, 0.8)
    out = candidate_ranking(
        candidates,
        target,
        case["can_margin"],
        case["gold_margin"],
        target_on_top=name == "simcls",
    )
    out.loss.backward()
    assert_close(out.loss, case[f"{name}_loss"])
    assert_close(candidates.grad, case[f"{name}_grad_can"])
    assert_close(target.grad, case[f"{name}_grad_target"])


@pytest.mark.parametrize("case", load("b_prop")["outputs"]["rop_loss"])
@pytest.mark.parametrize("softmax", [True, False])
def test_margin_ranking_of_pairs(case, softmax):
    scores = fill((8,), 0.4, case["scale"])
    pairs = scores.view(4, 2)
    pairs = pairs.softmax(-1) if softmax else pairs
    out = margin_ranking(pairs[:, 0], pairs[:, 1])
    out.loss.backward()
    assert_close(out.loss, case["loss_softmax_hinge_code" if softmax else "loss_raw_hinge_paper"])
    assert_close(scores.grad, case["grad_code" if softmax else "grad_raw"])
