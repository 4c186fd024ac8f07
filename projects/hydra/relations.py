"""What the gates say about classes: overlap, similarity in subspaces, and a class hierarchy."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import UserError
from common.data.samplers import sample_rng
from common.losses.functional.gated_pairs import gated_logits
from projects.hydra.gates import OpenGate
from projects.hydra.networks import HydraNet

# Hypernym paths of WordNet 3.0 below "whole"; sense: the depicted object or animal.
_MAMMAL = "organism/animal/chordate/vertebrate/mammal/placental"
_VEHICLE = "artifact/instrumentality/conveyance/vehicle"
_MOTOR = f"{_VEHICLE}/wheeled vehicle/self-propelled vehicle/motor vehicle"
CIFAR10_PATHS = {
    "airplane": f"{_VEHICLE}/craft/aircraft/heavier-than-air craft/airplane",
    "automobile": f"{_MOTOR}/automobile",
    "bird": "organism/animal/chordate/vertebrate/bird",
    "cat": f"{_MAMMAL}/carnivore/feline/cat",
    "deer": f"{_MAMMAL}/ungulate/even-toed ungulate/ruminant/deer",
    "dog": f"{_MAMMAL}/carnivore/canine/dog",
    "frog": "organism/animal/chordate/vertebrate/amphibian/frog",
    "horse": f"{_MAMMAL}/ungulate/odd-toed ungulate/equine/horse",
    "ship": f"{_VEHICLE}/craft/vessel/ship",
    "truck": f"{_MOTOR}/truck",
}


def hierarchy_paths(class_names: Sequence[str], file: str | None) -> list[list[str]] | None:
    """Path of every class from the root of a hierarchy; None if there is no hierarchy.

    Args:
        class_names: names in the order of the labels.
        file: text file with one ``root/.../class`` per line; None takes WordNet's paths of the
            CIFAR-10 classes where the names are theirs.

    Raises:
        UserError: the file lacks a class.
    """
    paths = CIFAR10_PATHS
    if file is not None:
        lines = Path(file).read_text(encoding="utf-8").split("\n")
        paths = {line.rpartition("/")[2].strip(): line.strip() for line in lines if line.strip()}
        missing = [name for name in class_names if name not in paths]
        if missing:
            raise UserError(f"{file} has no line root/.../class for: {', '.join(missing[:5])}")
    elif not set(class_names) <= set(paths):
        return None
    return [paths[name].split("/") for name in class_names]


def path_distances(paths: Sequence[Sequence[str]]) -> Tensor:
    """Edges on the way from class to class through their lowest common ancestor, (C, C).

    >>> path_distances([["a", "b"], ["a", "c", "d"]])[0]
    tensor([0., 3.])
    """
    distances = torch.zeros(len(paths), len(paths))
    for i, first in enumerate(paths):
        for j, second in enumerate(paths):
            pairs = zip(first, second, strict=False)
            common = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
            if common is None:
                common = min(len(first), len(second))
            distances[i, j] = len(first) + len(second) - 2 * common
    return distances


def gate_overlap(net: HydraNet) -> Tensor | None:
    """Overlap <g(a, a), g(b, b)> of the classes' own gates, (C, C); None without a filter."""
    if type(net.gate) is OpenGate:
        return None
    classes = torch.arange(net.num_classes, device=next(net.parameters()).device)
    gates: Tensor = net.gate(classes, classes).float()
    return torch.mm(gates, gates.T).cpu()


def class_similarity(net: HydraNet, z: Tensor, labels: Tensor) -> Tensor:
    """Mean gated similarity of the samples of two classes in the subspace of the pair, (C, C).

    Args:
        net: with its gate; `renormalise` takes cosines inside the subspace.
        z: (N, D) unit projections.
        labels: (N,) int64; similarities to a class without samples are nan.
    """
    num_classes = net.num_classes
    members = [z[labels == c] for c in range(num_classes)]
    means = torch.stack([z_c.mean(dim=0) for z_c in members])
    device = next(net.parameters()).device
    rows = []
    for a in range(num_classes):
        one = torch.full((num_classes,), a, device=device)
        gates = net.gate(one, torch.arange(num_classes, device=device)).float().cpu()
        if net.renormalise:
            members_a = members[a]
            cosines = [
                gated_logits(
                    members_a, other, gate.expand_as(members_a), 1.0, renormalise=True
                ).mean()
                for gate, other in zip(gates, members, strict=True)
            ]
            rows.append(torch.stack(cosines))
        else:
            rows.append((gates.square() * means[a] * means).sum(dim=1))
    return torch.stack(rows)


def class_pairs(num_classes: int, max_pairs: int, seed: int) -> list[tuple[int, int]]:
    """All pairs of different classes, or a seeded draw of that many."""
    pairs = torch.combinations(torch.arange(num_classes), 2)
    if len(pairs) > max_pairs:
        order = sample_rng(seed, 0, 0).permutation(len(pairs))[:max_pairs]
        pairs = pairs[torch.from_numpy(order)]
    return [(int(a), int(b)) for a, b in pairs]


def sampled_pairs(labels: Tensor, max_pairs: int, seed: int) -> list[tuple[int, int]]:
    """`class_pairs` of the classes that have samples."""
    classes = labels.unique().tolist()  # type: ignore[no-untyped-call]
    return [(classes[a], classes[b]) for a, b in class_pairs(len(classes), max_pairs, seed)]


def subspace_precision(
    net: HydraNet,
    z: Tensor,
    labels: Tensor,
    *,
    k: int = 20,
    max_pairs: int = 200,
    seed: int = 0,
    renormalise: bool = False,
) -> dict[str, float]:
    """Retrieval in the subspace of a class pair, with controls.

    Samples of a pair's classes a and b query the others. ``subspace_precision``: among the k most
    similar samples that are not of the query's class, the share of the partner class (the contrast
    that is trained). ``pair_precision``: among the k most similar of all samples, the share of
    both classes (whether the pair is separated from the rest).

    Args:
        net: with its gate.
        z: (N, D) unit projections of held-out samples.
        labels: (N,) int64.
        k: number of retrieved samples.
        max_pairs: pairs looked at, at most.
        seed: of the drawn pairs and of the random gates.
        renormalise: cosine inside the subspace.

    Returns:
        Both with the gate of the pair; ``_random_gate``: its coordinates shuffled (equal
        activation); ``_no_gate`` (the partner's share is then the chance level on average, since
        what is retrieved does not depend on the partner); ``_chance``. Empty if all samples are of
        one class.
    """
    pairs = sampled_pairs(labels, max_pairs, seed)
    device = next(net.parameters()).device
    totals = defaultdict[str, float](float)
    for number, (a, b) in enumerate(pairs):
        one = torch.tensor([a, b], device=device)
        gate = net.gate(one, one.flip(0))[:1].float().cpu()
        order = torch.from_numpy(sample_rng(seed, 1, number).permutation(gate.shape[1]))
        gates = {"": gate, "_random_gate": gate[:, order], "_no_gate": torch.ones_like(gate)}
        for query_class, partner in ((a, b), (b, a)):
            for suffix, used in gates.items():
                precisions = _precision(z, labels, query_class, partner, used, k, renormalise)
                totals[f"subspace_precision{suffix}"] += precisions[0]
                totals[f"pair_precision{suffix}"] += precisions[1]
            share, own_share = ((labels == c).double().mean() for c in (partner, query_class))
            totals["subspace_precision_chance"] += float(share / (1 - own_share))
            totals["pair_precision_chance"] += float(share + own_share)
    return {name: total / (2 * len(pairs)) for name, total in totals.items()}


def _precision(
    z: Tensor,
    labels: Tensor,
    query_class: int,
    partner: int,
    gate: Tensor,
    k: int,
    renormalise: bool,
) -> tuple[float, float]:
    """Share of the partner among others, and of both classes among all, for queries of `own`."""
    mine = (labels == query_class).nonzero()[:, 0]
    gates = gate.expand(len(mine), -1)
    scores = gated_logits(z[mine], z, gates, 1.0, renormalise=renormalise)
    scores[torch.arange(len(mine)), mine] = -torch.inf  # not itself
    all_best = labels[scores.topk(min(k, len(z) - 1)).indices]
    pair = (all_best == query_class) | (all_best == partner)
    scores[:, mine] = -torch.inf
    others = labels[scores.topk(min(k, len(z) - len(mine))).indices]
    return float((others == partner).double().mean()), float(pair.double().mean())


def pair_gallery(
    net: HydraNet,
    z: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    picture: Callable[[int], Any],
    *,
    num_pairs: int = 8,
    num_results: int = 6,
    seed: int = 0,
    renormalise: bool = False,
) -> list[dict[str, Any]]:
    """What a sample retrieves among other classes in the subspace of a pair; right: the partner.

    Args:
        net: with its gate.
        z: (N, D) unit projections.
        labels: (N,) int64.
        class_names: C names.
        picture: PIL image of a sample by index.
        num_pairs: drawn pairs, one query and one row each.
        num_results: retrieved samples in each row.
        seed: of the pairs.
        renormalise: cosine inside the subspace.

    Returns:
        Rows for ``Workspace.gallery``: first the query with the name of its partner class.
    """
    device = next(net.parameters()).device
    rows = []
    for query_class, partner in sampled_pairs(labels, num_pairs, seed):
        one = torch.tensor([query_class, partner], device=device)
        gate = net.gate(one, one.flip(0))[:1].float().cpu()
        query = int((labels == query_class).nonzero()[0, 0])
        scores = gated_logits(z[query][None], z, gate, 1.0, renormalise=renormalise)[0]
        scores[labels == query_class] = -torch.inf
        best = scores.topk(min(num_results, int((labels != query_class).sum())))
        results: list[dict[str, Any]] = [
            {"item": picture(i), "score": score, "correct": bool(labels[i] == partner)}
            for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        heading = {"item": f"wanted: {class_names[partner]}", "score": 1.0, "correct": True}
        rows.append({"query": picture(query), "results": [heading, *results]})
    return rows


def upper_triangle(matrix: Tensor) -> Tensor:
    """Entries above the diagonal."""
    rows, columns = torch.triu_indices(matrix.shape[0], matrix.shape[1], offset=1)
    return matrix[rows, columns]


def unit_projections(z: Tensor) -> Tensor:
    """Projections as the objective compares them."""
    return F.normalize(z.float(), dim=1)
