"""Slow, obvious versions of the losses: loops over rows, one softmax at a time, float64."""

import torch
from torch import Tensor


def cross_entropy(logits: list[Tensor], target: int) -> Tensor:
    """-log softmax of one entry, spelt out."""
    powers = [logit.exp() for logit in logits]
    return -(powers[target] / torch.stack(powers).sum()).log()


def info_nce(q: Tensor, k: Tensor, scale: float, extra: Tensor | None = None) -> Tensor:
    keys = list(k) if extra is None else [*k, *extra]
    rows = [cross_entropy([scale * (x @ y) for y in keys], i) for i, x in enumerate(q)]
    return torch.stack(rows).mean()


def clip(image: Tensor, text: Tensor, scale: float) -> Tensor:
    return 0.5 * (info_nce(image, text, scale) + info_nce(text, image, scale))


def nt_xent(view_1: Tensor, view_2: Tensor, scale: float) -> Tensor:
    z, n = [*view_1, *view_2], len(view_1)
    losses = []
    for a in range(2 * n):
        others = [b for b in range(2 * n) if b != a]
        logits = [scale * (z[a] @ z[b]) for b in others]
        losses.append(cross_entropy(logits, others.index((a + n) % (2 * n))))
    return torch.stack(losses).mean()


def dcl(view_1: Tensor, view_2: Tensor, scale: float) -> Tensor:
    z, n = [*view_1, *view_2], len(view_1)
    losses = []
    for a in range(2 * n):
        partner = (a + n) % (2 * n)
        negatives = [(scale * (z[a] @ z[b])).exp() for b in range(2 * n) if b not in (a, partner)]
        losses.append(torch.stack(negatives).sum().log() - scale * (z[a] @ z[partner]))
    return 2 * torch.stack(losses).mean()


def debiased(
    view_1: Tensor, view_2: Tensor, scale: float, tau_plus: float, beta: float = 0.0
) -> Tensor:
    z, n = [*view_1, *view_2], len(view_1)
    count, losses = 2 * n - 2, []
    for a in range(2 * n):
        partner = (a + n) % (2 * n)
        cosines = torch.stack([z[a] @ z[b] for b in range(2 * n) if b not in (a, partner)])
        positive, negatives = (scale * (z[a] @ z[partner])).exp(), (scale * cosines).exp()
        importance = (beta * scale * cosines).exp()
        total = (importance * negatives).sum() / importance.mean()
        g = (total - tau_plus * count * positive) / (1 - tau_plus)
        g = g.clamp(min=count * torch.tensor(-scale, dtype=z[0].dtype).exp())
        losses.append(-(positive / (positive + g)).log())
    return torch.stack(losses).mean()


def sup_con(z: Tensor, labels: Tensor, scale: float, mode: str = "out") -> Tensor:
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if not positives:
            continue
        total = torch.stack([(scale * (z[i] @ z[a])).exp() for a in others]).sum()
        shares = torch.stack([(scale * (z[i] @ z[p])).exp() / total for p in positives])
        losses.append(-shares.log().mean() if mode == "out" else -shares.mean().log())
    return torch.stack(losses).mean()


def siglip(image: Tensor, text: Tensor, scale: float, bias: float) -> Tensor:
    total = torch.zeros((), dtype=image.dtype)
    for i, x in enumerate(image):
        for j, y in enumerate(text):
            sign = 1 if i == j else -1
            total = total - torch.sigmoid(sign * (scale * (x @ y) + bias)).log()
    return total / len(image)


def one_to_k(image: Tensor, text: Tensor, scale: float, k: int, compete: bool) -> Tensor:
    terms = []
    for i in range(len(image)):
        for p in range(i * k, (i + 1) * k):
            rivals = [j for j in range(len(text)) if compete or j == p or j // k != i]
            there = [scale * (image[i] @ text[j]) for j in rivals]
            back = [scale * (text[p] @ x) for x in image]
            terms.append(cross_entropy(there, rivals.index(p)) + cross_entropy(back, i) / k)
    return 0.5 * torch.stack(terms).mean()


def hydra(
    z: Tensor, gate: Tensor, y: Tensor, partner: Tensor, scale: float, exclude_self: bool
) -> Tensor:
    terms = []
    for i in range(len(z)):
        logits = [scale * ((gate[i] * z[i]) @ (gate[i] * other)) for other in z]
        negatives = [j for j in range(len(z)) if y[j] not in (y[i], partner[i])]
        for p in range(len(z)):
            if y[p] == partner[i] and not (exclude_self and p == i):
                terms.append(cross_entropy([logits[p]] + [logits[j] for j in negatives], 0))
    return torch.stack(terms).mean()


def cwcl(p: Tensor, q: Tensor, features: Tensor, scale: float) -> Tensor:
    losses = []
    for i in range(len(p)):
        weights = torch.stack([0.5 * (features[i] @ f) + 0.5 for f in features])
        logits = [scale * (p[i] @ y) for y in q]
        ce = torch.stack([cross_entropy(logits, j) for j in range(len(q))])
        losses.append((weights * ce).sum() / weights.sum())
    return torch.stack(losses).mean()


def distillation(
    q: Tensor, k: Tensor, u: Tensor, v: Tensor, scale: float, teacher_scale: float
) -> Tensor:
    target = (teacher_scale * u @ v.T).softmax(1)
    return -(target * (scale * q @ k.T).log_softmax(1)).sum(1).mean()


def cacr(views: Tensor, tau_pos: float, tau_neg: float) -> Tensor:
    pull, push = [], []
    for i in range(views.shape[1]):
        for x in range(len(views)):
            d = torch.stack(
                [(views[x, i] - views[k, i]).square().sum() for k in range(len(views)) if k != x]
            )
            pull.append(((tau_pos * d).softmax(0) * d).sum())
            for y in range(x + 1, len(views)):
                others = [j for j in range(views.shape[1]) if j != i]
                d = torch.stack([(views[x, i] - views[y, j]).square().sum() for j in others])
                push.append(((-tau_neg * d).softmax(0) * d).sum())
    return torch.stack(pull).mean() - torch.stack(push).mean()
