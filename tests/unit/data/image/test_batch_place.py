"""A view depends on its image and its generator, not on the batch, the chunk or the rank it is made
in.
"""

import ast
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import to_tensor

from common.config import ROOT
from common.data.image import simclr
from common.data.image.multi_view import ViewStack
from common.data.image.pipelines import SeededPipeline, dino_crop, rand_augment
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import EvalTransform, SquareTransform, TrainTransform
from common.data.samplers import SeededBatchSampler, sample_rng
from projects.rtd.pictures import TowerTransform
from projects.sepclr.augment import Distorted, Rescaled

SIZE, NUM = 8, 23
MOMENTS = ((0.5,) * 3, (0.25,) * 3)
COLOUR = SimCLRTransform(SIZE, solarise_prob=0.3)
TRANSFORMS = {
    "crop": TrainTransform(SIZE, flip_prob=0.5),
    "eval": EvalTransform(SIZE),
    "square": SquareTransform(SIZE),
    "simclr": COLOUR,
    "views": ViewStack((COLOUR, COLOUR, TrainTransform(SIZE), COLOUR)),
    "rand_augment": rand_augment(SIZE, (0.5, 1.0), 0.5, *MOMENTS),
    "dino": dino_crop(SIZE, (0.5, 1.0), 1, *MOMENTS),
    "tower": TowerTransform(SIZE, lambda image: to_tensor(image.resize((SIZE, SIZE)))),
    "distorted": Rescaled(Distorted(COLOUR, rotation=20.0, vertical_flip_prob=0.5, noise=0.1)),
}
# batched by the transform that it holds, or takes no batch
WRAPPERS = {"_Prepared", "ImageTransform"}
IMAGES = torch.from_numpy(
    np.random.default_rng(0).integers(0, 256, (NUM, 3, 12, 12), dtype=np.uint8)
)


def views(transform, rows):
    return transform.batch(IMAGES[list(rows)], [sample_rng(7, 1, row, 0) for row in rows])


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    """So that a batch of the test is cut as one of thousands is."""
    before, simclr._CHUNK_PIXELS = simclr._CHUNK_PIXELS, 5 * SIZE**2
    yield
    simclr._CHUNK_PIXELS = before


@pytest.fixture(scope="module")
def alone():
    return {
        name: torch.cat([views(transform, [row]) for row in range(NUM)])
        for name, transform in TRANSFORMS.items()
    }


batches = st.permutations(range(NUM)).flatmap(
    lambda order: st.lists(st.integers(1, NUM - 1), max_size=4, unique=True).map(
        lambda cuts: [order[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), NUM])]
    )
)


@pytest.mark.parametrize("name", TRANSFORMS)
@settings(max_examples=6, deadline=None)
@given(parts=batches)
def test_a_view_is_the_same_in_every_batch(name, alone, parts):
    for rows in parts:
        torch.testing.assert_close(
            views(TRANSFORMS[name], rows), alone[name][list(rows)], rtol=1e-4, atol=1e-4
        )


def test_one_generator_for_all_views_would_depend_on_the_batch():
    """The mistake that this file is about, made on purpose: it is seen."""

    def shared(rows):
        rngs = [sample_rng(7, 1, row, 0) for row in rows]
        return torch.cat([COLOUR.batch(IMAGES[[row]], [rngs[0]]) for row in rows])

    whole, part = shared(range(4)), shared([1, 2, 3])
    assert not torch.allclose(whole[1:], part, atol=1e-2)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_divide_the_keys_of_a_global_batch(world_size):
    def keys(rank, ranks, size):
        return list(SeededBatchSampler(NUM, size, 5, rank=rank, world_size=ranks, num_batches=4))

    whole = keys(0, 1, 2 * world_size)
    parts = [keys(rank, world_size, 2) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert sorted(k for part in parts for k in part[step]) == sorted(batch)


def test_every_transform_of_batches_is_tried():
    classes = {type(t).__name__ for t in TRANSFORMS.values()} | {"Distorted"}
    assert SeededPipeline.__name__ in classes
    actual = set()
    for path in [*(ROOT / "common").rglob("*.py"), *(ROOT / "projects").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body if "rngs" in text else ():
            if isinstance(node, ast.ClassDef):
                methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
                taken = [a.arg for a in methods["batch"].args.args] if "batch" in methods else []
                actual |= {node.name} if "rngs" in taken else set()
    assert actual - WRAPPERS == classes
